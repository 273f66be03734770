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

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml  # type: ignore[import-untyped]
from mlflow.exceptions import MlflowException
from omegaconf import DictConfig, OmegaConf
from torch import nn

from ecgexp.config.build import build_net
from ecgexp.config.components import make_target
from ecgexp.config.upgrade import upgrade_description
from ecgexp.errors import UserError, said
from ecgexp.targets import Target
from ecgexp.tracking.artifacts import read_config, read_json, read_weights, run_folder
from ecgexp.tracking.names import File
from ecgexp.tracking.runs import find_run
from ecgexp.tracking.store import Store, find_store
from ecgexp.tracking.trust import check_trusted
from ecgexp.training.inference import run_net
from ecgexp.training.network import Network, restored

EXPORTED = "pt2"


@dataclass(frozen=True)
class Trained:
    """A trained net and what has to be known to use it.

    Attributes
    ----------
    name : str
        Where it comes from, for people.
    net : nn.Module
        (batch, leads, samples) to probabilities (batch, classes); in evaluation mode.
    target : Target
        What is predicted.
    lead_names : tuple of str
        The leads, in order.
    sampling_rate : float
        In Hz.
    samples : int
        Length of a record.
    unit : str
        Of the signals.
    """

    name: str
    net: nn.Module
    target: Target
    lead_names: tuple[str, ...]
    sampling_rate: float
    samples: int
    unit: str


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
    cfg = read_config(folder / File.CONFIG)
    state = read_weights(folder / File.WEIGHTS)
    check_trusted("model", cfg.get("model"), trust)
    net = build_net(cfg)
    try:
        network = restored(net, state)
    except RuntimeError as error:
        raise UserError(f"{folder / File.WEIGHTS} does not fit the net that {File.CONFIG} beside it names.") from error
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
        raise UserError(f"The model run={source} is no folder: give a run's id, a folder, or models:/NAME/VERSION.")
    store, run = find_run(source, root, uri)
    with run_folder(store, run.info.run_id) as folder:
        return _from_config(folder, f"run {source}", trust)


def _load_registered(uri: str, store: Store, trust: Collection[str]) -> Trained:
    found = re.fullmatch(r"models:/([^/@]+)(?:/(\d+)|@([^/@]+))", uri)
    if found is None:
        raise UserError(f"The model run={uri} is no registered one: write models:/NAME/VERSION or models:/NAME@ALIAS.")
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
        if (place / File.CONFIG).is_file():
            return _from_config(place, name, trust)
        if (place / "MLmodel").is_file():
            return _from_exported(place, name, trust)
    raise UserError(f"The folder {folder} holds neither {File.CONFIG} and {File.WEIGHTS} nor an MLflow model.")


def _from_config(folder: Path, name: str, trust: Collection[str]) -> Trained:
    cfg, network = load_folder(folder, trust)
    told = {**read_json(folder / File.DATA), "target": OmegaConf.to_container(cfg.target)}
    described = _description(told, folder / File.DATA, trust)
    net = nn.Sequential(network, described["target"].activation()).eval()
    _check_fit(net, described, folder)
    return Trained(name, net, **described)


def _check_fit(net: nn.Module, described: dict[str, Any], folder: Path) -> None:
    """Refuse a net that gives other numbers than one for each label of such records."""
    wanted = (1, len(described["target"].names))
    try:
        zeros = torch.zeros(1, len(described["lead_names"]), described["samples"])
        found = tuple(next(run_net(net, [zeros], zeros.device)).shape)
    except (UserError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{folder / File.DATA} does not fit the net of {File.CONFIG} beside it: {said(error)}"
        ) from error
    if found != wanted:
        raise UserError(
            f"{folder / File.DATA} names {wanted[1]} labels, and the net of {File.CONFIG} beside it gives {found[-1]}."
        )


def _description(data: dict[str, Any], path: Path, trust: Collection[str]) -> dict[str, Any]:
    """What the records were that the net was trained on, and what it predicts."""
    try:
        component = dict(data["target"])
        check_trusted("target", component, trust)
        return {
            "target": make_target(component, tuple(map(str, data["labels"]))),
            "lead_names": tuple(map(str, data["leads"])),
            "sampling_rate": float(data["sampling_rate"]),
            "samples": int(data["samples"]),
            "unit": str(data.get("unit", "mV")),  # earlier runs do not say it
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} does not say which labels, leads, sampling_rate and samples the net has.") from error


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
        described = upgrade_description(described)
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder / 'MLmodel'} does not say which labels and leads the net has.") from error
    try:
        net = torch.export.load(path).module()
    except Exception as error:  # a damaged archive raises whatever its parsing happens to raise
        raise UserError(f"{path} is damaged ({type(error).__name__}).") from error
    return Trained(name, net, **_description(described, folder / "MLmodel", trust))
