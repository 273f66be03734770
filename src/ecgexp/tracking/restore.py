"""A trained net from what its run left behind, without running what stands in there.

A run's folder may come from a stranger. Its ``config.yaml`` builds nothing but classes of this package, or of
packages that the caller names in `trust`; its ``weights.pt`` is read by torch as plain tensors
(``weights_only=True``), which refuses every pickle that would call something.

An exported graph (``model.pt2``) is another matter: ``torch.export.load`` unpickles parts of the archive, evaluates
expressions in it as text, and turns the graph into Python code. Torch itself says never to load one from an untrusted
source. It is loaded only where `trust` contains 'pt2'; and a registered model, whose run is known, is loaded from
that run's config and weights instead.
"""

from __future__ import annotations

import copy
import json
import logging
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import FunctionType
from typing import Any
from urllib.parse import unquote, urlparse

import torch
import yaml  # type: ignore[import-untyped]
from mlflow.entities import Run as MlflowRun
from mlflow.exceptions import MlflowException
from omegaconf import DictConfig, OmegaConf
from sqlalchemy.exc import SQLAlchemyError
from torch import Tensor, nn

from ecgexp import CONF
from ecgexp.config.build import instantiate_group
from ecgexp.config.schema import locate, plain
from ecgexp.datasets import Synthetic
from ecgexp.datasets.base import Dataset
from ecgexp.errors import UserError, said
from ecgexp.paths import database_file
from ecgexp.saved import SUMS, check_sum, load_tensors
from ecgexp.tracking.code import targets
from ecgexp.tracking.database import check_database, settle
from ecgexp.tracking.overlap import TRAINED_ON
from ecgexp.tracking.runs import REUSED_FROM
from ecgexp.tracking.store import PatientClient, Store, database_uri, is_own, place_inside
from ecgexp.training.network import Network, output_layer

logger = logging.getLogger(__name__)

CONFIG, WEIGHTS, DATA = "config.yaml", "weights.pt", "data.json"
EXPORTED = "pt2"
# What a config group may build without being trusted: classes of one kind, defined in one package.
_OWN: dict[str, tuple[str, type]] = {
    "model": ("ecgexp.models", nn.Module),
    "loss": ("ecgexp.losses", nn.Module),
    "dataset": ("ecgexp.datasets", Dataset),
}


@dataclass(frozen=True)
class Trained:
    """A trained net and what has to be known to use it.

    Attributes
    ----------
    name : str
        Where it comes from, for people.
    net : nn.Module
        (batch, leads, samples) to probabilities (batch, classes); in evaluation mode.
    label_names : tuple of str
        The classes.
    lead_names : tuple of str
        The leads, in order.
    sampling_rate : float
        In Hz.
    samples : int
        Length of a record.
    unit : str
        Of the signals.
    threshold : float
        A label is predicted where its probability is above this.
    multiclass : bool
        Each record has exactly one label: the most probable one is predicted, whatever the threshold.
    """

    name: str
    net: nn.Module
    label_names: tuple[str, ...]
    lead_names: tuple[str, ...]
    sampling_rate: float
    samples: int
    unit: str
    threshold: float
    multiclass: bool


def load_run(store: Store, run_id: str, trust: Collection[str] = ()) -> tuple[DictConfig, Network]:
    """Configuration and net, with its kept weights, of a finished trial.

    Parameters
    ----------
    store : Store
        Where the run is kept.
    run_id : str
        Its id.
    trust : collection of str
        Packages whose classes the run's config may build, beside this project's own.

    Raises
    ------
    UserError
        Where a file is missing or damaged, or names what is not trusted.
    """
    with run_folder(store, run_id) as folder:
        return load_folder(folder, trust)


def load_folder(folder: Path, trust: Collection[str] = ()) -> tuple[DictConfig, Network]:
    """Configuration and net from a folder with ``config.yaml`` and ``weights.pt``; see `load_run`."""
    cfg = read_config(folder / CONFIG)
    state = _read_weights(folder / WEIGHTS)
    check_trusted("model", cfg.get("model"), trust)
    statistics = (state["mean"][:, 0].numpy(), state["std"][:, 0].numpy()) if "mean" in state else None
    network = Network(instantiate_group("model", cfg.model), statistics)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(f"{folder / WEIGHTS} does not fit the net that {CONFIG} beside it names.") from error
    return cfg, network.eval()


def load_trained(source: str, root: str | Path = ".", uri: str | None = None, trust: Collection[str] = ()) -> Trained:
    """A trained net, wherever it is kept.

    Parameters
    ----------
    source : str
        Id of a run; ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``; or a folder with ``config.yaml``,
        ``weights.pt`` and ``data.json`` (what a run's artifacts are) or with an MLflow model.
    root, uri
        Where runs and registered models are looked for, as ``tracking.root`` and ``tracking.uri``.
    trust : collection of str
        Packages whose classes a config may build, beside this project's own; 'pt2': exported graphs, too.

    Raises
    ------
    UserError
        Where there is nothing, or it is damaged or not trusted.
    """
    if source.startswith("models:/"):
        return _load_registered(source, find_store(root, uri), trust)
    if Path(source).is_dir():
        return _load_from_folder(Path(source), source, trust)
    if "/" in source or "." in source:
        raise UserError(f"run={source} is no folder: give a run's id, a folder, or models:/NAME/VERSION.")
    store, run = find_run(source, root, uri)
    with run_folder(store, run.info.run_id) as folder:
        return _from_config(folder, f"run {source}", trust)


def find_store(root: str | Path, uri: str | None) -> Store:
    """The store that is there; unlike `open_store` this makes none.

    Raises
    ------
    UserError
        Where there is none.
    """
    if uri is not None:
        try:
            return Store(PatientClient(uri), uri, "", database_file(root).parent)
        except (MlflowException, SQLAlchemyError, OSError) as error:
            raise UserError(
                f"The MLflow store {uri} (tracking.uri) cannot be used: {said(error).rstrip('.')}."
            ) from error
    database = database_file(root)
    if not database.is_file():
        inside = Path(root).expanduser().resolve() / database.name
        if not inside.is_file():  # tracking.root may also name mlruns itself
            raise UserError(f"There is no {database}: set tracking.root to the folder that holds mlruns.")
        database = inside
    check_database(database)
    settle(database)
    uri = database_uri(database)
    return Store(PatientClient(uri), uri, "", database.parent)


def find_run(run_id: str, root: str | Path, uri: str | None) -> tuple[Store, MlflowRun]:
    """A run that has trained weights, and the store that it is in.

    A trial that a sweep took over from another one has its files there: that one is returned.

    Raises
    ------
    UserError
        Where the store cannot be used, or the run is not there, is a sweep, or did not come that far.
    """
    store = find_store(root, uri)
    try:
        run = store.client.get_run(run_id)
        run = store.client.get_run(run.data.tags.get(REUSED_FROM, run_id))
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            raise UserError(
                f"There is no run {run_id} in {store.uri}: take an id from results.csv or the UI."
            ) from error
        raise UserError(f"The MLflow store {store.uri} cannot be used: {said(error)}") from error
    tags = run.data.tags
    if tags.get("kind") == "sweep":
        best = tags.get("best_run_id")
        advice = f"its best is run={best}" if best else "its results.csv lists them"
        raise UserError(f"Run {run_id} is a sweep: choose one of its trials ({advice}).")
    if run.info.status != "FINISHED":
        raise UserError(f"Run {run_id} is {run.info.status.lower()}, not finished: it has no weights to use.")
    if tags.get("best_epoch") == "None":
        raise UserError(f"Run {run_id} kept no weights, since its loss was never finite: choose another.")
    return Store(store.client, store.uri, run.info.experiment_id, store.root), run


@contextmanager
def run_folder(store: Store, run_id: str) -> Iterator[Path]:
    """Folder with the config, weights and data description of a run: where they lie, or a copy for the time.

    Raises
    ------
    UserError
        Where the artifacts are not where the store says.
    """
    local = artifact_folder(store, store.client.get_run(run_id))
    if local is not None:
        yield local
        return
    with tempfile.TemporaryDirectory() as folder:
        try:
            there = {entry.path for entry in store.client.list_artifacts(run_id)}
            for name in (SUMS, CONFIG, WEIGHTS, DATA, TRAINED_ON):
                if name in there:
                    store.client.download_artifacts(run_id, name, folder)
        except (MlflowException, OSError) as error:
            raise UserError(f"The artifacts of run {run_id} cannot be read: {said(error)}") from error
        yield Path(folder)


def artifact_folder(store: Store, run: MlflowRun) -> Path | None:
    """Where the artifacts of a run lie on this machine; None where a server keeps them.

    They are looked for in the ``mlruns/`` that the store was found in, which may have been copied or moved, and
    then where the store says. A store that is a file may come from a stranger: what it says of places outside of its
    folder is not followed.

    Raises
    ------
    UserError
        Where it is in neither place.
    """
    folders = _local_folders(store, run)
    if folders is None:
        return None
    for folder in folders:
        if folder.is_dir():
            return folder
    run_id, places = run.info.run_id, " nor in ".join(dict.fromkeys(map(str, folders)))
    raise UserError(f"The artifacts of run {run_id} are not in {places}: copy mlruns/artifacts as well as mlflow.db.")


def keep_files(store: Store, run: MlflowRun, source: Path, place: str) -> str:
    """Put the files of a folder among the artifacts of a run, over earlier ones of the same name.

    Parameters
    ----------
    store : Store
        Where the run is kept.
    run : MlflowRun
        The run.
    source : Path
        Folder of the files.
    place : str
        Folder among the artifacts.

    Returns
    -------
    str
        Where they are, for people.

    Raises
    ------
    UserError
        Where a link would lead a file out of the run's folder.
    """
    folders = _local_folders(store, run)
    if folders is None:
        store.client.log_artifacts(run.info.run_id, str(source), place)
        return f"{place} among the artifacts of run {run.info.run_id}"
    folder = next((folder for folder in folders if folder.is_dir()), folders[0])
    for path in sorted(path for path in source.rglob("*") if path.is_file()):
        target = folder / place / path.relative_to(source)
        if not target.parent.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"{target.parent} is a link that leads out of the run's folder: remove it.")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)  # it may be a link
        shutil.copyfile(path, target)
    return str(folder / place)


def _local_folders(store: Store, run: MlflowRun) -> list[Path] | None:
    """Folders that may hold the artifacts of a run, the likeliest first; None where a server keeps them."""
    moved = store.root / "artifacts" / run.info.run_id / "artifacts"
    if not is_own(store):  # a server or a database that the user named
        location = urlparse(run.info.artifact_uri)
        return [Path(unquote(location.path)), moved] if location.scheme in ("", "file") else None
    named = [place_inside(store, place) for place in (moved.as_uri(), run.info.artifact_uri)]
    folders = [folder for folder in named if folder is not None]
    if not folders:
        raise UserError(f"The artifacts of run {run.info.run_id} lie outside of {store.root}: copy them there.")
    return folders


def own_folders(cfg: DictConfig, given: Collection[str] = ()) -> DictConfig:
    """A run's configuration whose dataset writes to no folder outside of the current one, unless the user names it.

    What a run says of folders was true on the machine that trained, and may be a stranger's word. Where it names one
    elsewhere that the dataset writes to, the default is taken, and told.

    Parameters
    ----------
    cfg : DictConfig
        Of a run, whose dataset is trusted.
    given : collection of str
        Keys that the user has set, such as 'dataset.cache_dir'.
    """
    cfg = copy.deepcopy(cfg)
    written = {"cache_dir": OmegaConf.load(CONF / "config.yaml").cache_dir}
    target = locate("dataset", plain(cfg.dataset))
    if isinstance(target, type) and issubclass(target, Synthetic):  # which makes its records where there are none
        written["root"] = OmegaConf.load(CONF / "dataset" / "synthetic.yaml").root
    for key, default in written.items():
        named = str(cfg.dataset.get(key) or default)
        if f"dataset.{key}" in given:
            continue
        if not Path(named).expanduser().resolve().is_relative_to(Path.cwd().resolve()):
            OmegaConf.update(cfg, f"dataset.{key}", default)
            logger.warning(
                "The run names %s as dataset.%s, outside of this folder: %s is used (dataset.%s=FOLDER for another).",
                *(named, key, default, key),
            )
    return cfg


def read_config(path: Path) -> DictConfig:
    """A logged configuration; nothing in it is evaluated.

    Raises
    ------
    UserError
        Where it is missing or no configuration of a trial.
    """
    if not path.is_file():
        raise UserError(f"There is no {path}: it is no finished run or not all of it was copied.")
    check_sum(path)
    try:
        cfg = OmegaConf.load(path)
        text = OmegaConf.to_yaml(cfg, resolve=False)  # as loaded: YAML has other ways to write the same
    except Exception as error:  # OmegaConf meets odd YAML with whatever it happens to raise
        raise UserError(f"{path} cannot be read: {said(error)}.") from error
    if "${" in text:  # a run logs its configuration resolved
        raise UserError(f"{path} holds an interpolation '${{...}}', which no run writes: it was tampered with.")
    if not isinstance(cfg, DictConfig) or not isinstance(cfg.get("model"), DictConfig):
        raise UserError(f"{path} is not the configuration of a trial: it names no model.")
    if not isinstance(cfg.get("threshold"), float | int):
        raise UserError(f"{path} is not the configuration of a trial: it has no threshold.")
    return cfg


def check_trusted(group: str, component: Any, trust: Collection[str] = ()) -> None:
    """Refuse a component of a config that would build, at any depth, what is neither ours nor trusted.

    Nothing outside of this package and of `trust` is imported.

    Parameters
    ----------
    group : {'model', 'loss', 'dataset'}
        Of the config.
    component : mapping
        With its ``_target_``.
    trust : collection of str
        Packages that may define what is built, too.

    Raises
    ------
    UserError
        For the first ``_target_`` that is not allowed.
    """
    if OmegaConf.is_config(component):
        component = OmegaConf.to_container(component, resolve=False)
    named = list(targets(component))
    if not named:
        raise UserError(f"The run's config key '{group}' names no class.")
    for target in named:
        if not isinstance(target, str) or not _allowed(group, target, trust):
            raise UserError(
                f"The run's config builds its {group} with '{target}', which is no {group} of ecgexp: "
                "add trust=PACKAGE if you know the package that defines it and trust it."
            )


def named_packages(cfg: DictConfig) -> set[str]:
    """Packages that a configuration builds from: what to trust where the user has just composed it."""
    component = OmegaConf.to_container(cfg, resolve=False)
    return {target.partition(".")[0] for target in targets(component) if isinstance(target, str)}


def _allowed(group: str, target: str, trust: Collection[str]) -> bool:
    own, kind = _OWN[group]
    module, _, name = target.rpartition(".")
    if not any(_within(module, package) for package in (own, *trust)):
        return False
    try:
        found = getattr(import_module(module), name)
    except Exception as error:  # whatever importing a user's module may raise
        raise UserError(f"The run's config names '{target}', which cannot be imported: {error}.") from error
    # What a module has merely imported, such as os, is not its own.
    if not isinstance(found, type | FunctionType):
        return False
    if _within(found.__module__, own):
        return isinstance(found, type) and issubclass(found, kind)
    return any(_within(found.__module__, package) for package in trust)


def _within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(f"There is no {path}: the run did not finish or not all of it was copied.")
    check_sum(path)
    state = load_tensors(path)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} holds something other than weights.")
    return state


def _load_registered(uri: str, store: Store, trust: Collection[str]) -> Trained:
    found = re.fullmatch(r"models:/([^/@]+)(?:/(\d+)|@([^/@]+))", uri)
    if found is None:
        raise UserError(f"run={uri} names no registered model: write models:/NAME/VERSION or models:/NAME@ALIAS.")
    name, version, alias = found.groups()
    try:
        if alias:
            version = store.client.get_model_version_by_alias(name, alias).version
        run_id = store.client.get_model_version(name, version).run_id
    except MlflowException as error:
        raise UserError(f"There is no {uri} in {store.uri}: check name and version in the UI.") from error
    if not run_id:
        raise UserError(f"{uri} was registered without the run that trained it: give the model's folder instead.")
    with run_folder(store, run_id) as folder:
        return _from_config(folder, uri, trust)


def _load_from_folder(folder: Path, name: str, trust: Collection[str]) -> Trained:
    for place in (folder, folder / "artifacts"):
        if (place / CONFIG).is_file():
            return _from_config(place, name, trust)
        if (place / "MLmodel").is_file():
            return _from_exported(place, name, trust)
    raise UserError(f"The folder {folder} holds neither {CONFIG} and {WEIGHTS} nor an MLflow model.")


def _from_config(folder: Path, name: str, trust: Collection[str]) -> Trained:
    cfg, network = load_folder(folder, trust)
    described = _description(read_json(folder / DATA), folder / DATA)
    net = nn.Sequential(network, output_layer(described["multiclass"])).eval()
    _check_fit(net, described, folder)
    return Trained(name, net, **described, threshold=float(cfg.threshold))


def _check_fit(net: nn.Module, described: dict[str, Any], folder: Path) -> None:
    """Refuse a net that gives other numbers than one for each label of such records."""
    wanted = (1, len(described["label_names"]))
    try:
        with torch.no_grad():
            found = tuple(net(torch.zeros(1, len(described["lead_names"]), described["samples"])).shape)
    except (UserError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{folder / DATA} does not fit the net of {CONFIG} beside it: {said(error)}") from error
    if found != wanted:
        raise UserError(
            f"{folder / DATA} names {wanted[1]} labels, and the net of {CONFIG} beside it gives {found[-1]}."
        )


def _description(data: dict[str, Any], path: Path) -> dict[str, Any]:
    """What the records were that the net was trained on."""
    try:
        return {
            "label_names": tuple(map(str, data["labels"])),
            "lead_names": tuple(map(str, data["leads"])),
            "sampling_rate": float(data["sampling_rate"]),
            "samples": int(data["samples"]),
            "unit": str(data.get("unit", "mV")),
            "multiclass": data.get("multiclass", False) is True,  # earlier runs say neither this nor the unit
        }
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} does not say which labels, leads, sampling_rate and samples the net has.") from error


def read_json(path: Path) -> dict[str, Any]:
    """What a run has noted in a file; UserError where it is missing or damaged."""
    if not path.is_file():
        raise UserError(f"There is no {path}: the run did not finish or not all of it was copied.")
    check_sum(path)
    try:
        data = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: {error}.") from error
    if not isinstance(data, dict):
        raise UserError(f"{path} is damaged: it holds no object.")
    return data


def _from_exported(folder: Path, name: str, trust: Collection[str]) -> Trained:
    path = folder / "data" / "model.pt2"
    if not path.is_file():
        raise UserError(f"The MLflow model in {folder} has no data/model.pt2: only models logged as pt2 can be used.")
    if EXPORTED not in trust:
        raise UserError(
            f"{path} is an exported graph, which can run code when it is loaded: "
            f"name the run itself, or add trust={EXPORTED} if you know where the file comes from."
        )
    try:
        described = yaml.safe_load((folder / "MLmodel").read_text())["metadata"]["ecgexp"]
        threshold = float(described["threshold"])
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder / 'MLmodel'} does not say which labels and leads the net has.") from error
    try:
        net = torch.export.load(path).module()
    except Exception as error:  # a damaged archive raises whatever its parsing happens to raise
        raise UserError(f"{path} is damaged ({type(error).__name__}).") from error
    return Trained(name, net, **_description(described, folder / "MLmodel"), threshold=threshold)
