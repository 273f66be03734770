"""Restores a trained net from the files of its run, without running code from them.

The folder of a run may come from a stranger. Its ``config.yaml`` can build only classes of this package, or of
packages that the caller names in `trust`. Torch reads its ``weights.pt`` as plain tensors (``weights_only=True``), and
refuses every pickle that would call a function.

An exported graph (``model.pt2``) is different: ``torch.export.load`` unpickles parts of the archive, evaluates
expressions from it, and turns the graph into Python code. The documentation of torch warns against graphs from an
untrusted source. So a graph is loaded only if `trust` contains 'pt2'. A registered model is loaded from the config and
weights of its run instead.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml  # type: ignore[import-untyped]
from mlflow.exceptions import MlflowException
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from ecgexp.config.build import build_net
from ecgexp.config.components import make_target
from ecgexp.config.schema import plain
from ecgexp.config.upgrade import upgrade_description
from ecgexp.errors import UserError, first_line, summarised
from ecgexp.targets import Target
from ecgexp.tracking.artifacts import read_config, read_json, read_weights, run_folder
from ecgexp.tracking.contract import BUFFER, Contract
from ecgexp.tracking.names import File
from ecgexp.tracking.runs import find_run
from ecgexp.tracking.store import Store, find_store
from ecgexp.tracking.trust import check_trusted
from ecgexp.training.inference import run_net
from ecgexp.training.network import Network, restored

EXPORTED = "pt2"
_MLMODEL = "MLmodel"  # file of an MLflow model
_NET = "net."  # before each name of a net's weights in a network
# The same buffer in an exported graph, whose first part is the network.
_EXPORTED_BUFFER = f"0.{BUFFER}"
_CHANGED = (
    "{path} does not describe the net: its contract has another digest than {weights}, so one of them was changed. "
    "Restore the files of the run."
)


@dataclass(frozen=True)
class Trained:
    """A trained net that is ready to use.

    Attributes
    ----------
    name : str
        Its source, for messages.
    net : nn.Module
        Maps the inputs of a batch to probabilities (batch, names); in evaluation mode.
    contract : Contract
        Its inputs, labels and target.
    target : Target
        The target that it predicts.
    prepared : mapping of str to value
        Keys ``crop`` and ``resize`` of the dataset that it was trained on, where that has them.
    """

    name: str
    net: nn.Module
    contract: Contract
    target: Target
    prepared: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Restored:
    """A net as restored from the folder of its run.

    Attributes
    ----------
    cfg : DictConfig
        Configuration of the run.
    network : Network
        The net with its best weights, in evaluation mode.
    contract : Contract
        Its inputs, labels and target.
    """

    cfg: DictConfig
    network: Network
    contract: Contract


@dataclass(frozen=True)
class Place:
    """The files of a trained net.

    Attributes
    ----------
    name : str
        Source of the files, for people.
    folder : Path
        With the files.
    run_id : str, optional
        The run that trained it; None of a folder that the user named.
    """

    name: str
    folder: Path
    run_id: str | None


@dataclass(frozen=True)
class Source:
    """Weights that another net may start from.

    Attributes
    ----------
    weights : dict of str to Tensor
        Of the net, by their names in it; without the normalisation of its data.
    contract : Contract, optional
        What the net took and said; None if the folder has nothing but weights.
    dataset : str, optional
        Its data set, see `dataset_kind`.
    """

    weights: dict[str, Tensor]
    contract: Contract | None
    dataset: str | None


def load_run(store: Store, run_id: str, trust: Collection[str] = ()) -> Restored:
    """The net of a finished trial with its best weights.

    Parameters
    ----------
    store : Store
        Store of the run.
    run_id : str
        Id of the run.
    trust : collection of str
        Packages whose classes the run's config may build, in addition to this package.

    Raises
    ------
    UserError
        If a file is missing or damaged, does not fit the others, or names a class that is not trusted.
    """
    with run_folder(store, run_id) as folder:
        return load_folder(folder, trust)


def load_folder(folder: Path, trust: Collection[str] = ()) -> Restored:
    """The net from a folder with ``config.yaml``, ``weights.pt`` and ``data.json``; see `load_run`."""
    cfg = read_config(folder / File.CONFIG)
    state = read_weights(folder / File.WEIGHTS)
    contract = _contract(cfg, state.get(BUFFER), folder / File.DATA)
    check_trusted("model", cfg.get("model"), trust)
    net = build_net(cfg)
    try:
        network = restored(net, state)
    except RuntimeError as error:
        raise UserError(f"{folder / File.WEIGHTS} does not fit the net that {File.CONFIG} beside it names.") from error
    return Restored(cfg, network.eval(), contract)


def load_trained(source: str, root: str | Path = ".", uri: str | None = None, trust: Collection[str] = ()) -> Trained:
    """A trained net from a run, a registered model or a folder.

    Parameters
    ----------
    source : str
        Id of a run; ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``; or a folder with ``config.yaml``,
        ``weights.pt`` and ``data.json``, such as the artifacts of a run, or with an MLflow model.
    root, uri
        Store of the runs and registered models, as ``tracking.root`` and ``tracking.uri``.
    trust : collection of str
        Packages whose classes a config may build, in addition to this package; 'pt2' allows exported graphs.

    Raises
    ------
    UserError
        If there is no such net, or it is damaged or not trusted.
    """
    with opened(source, root, uri) as place:
        if (place.folder / _MLMODEL).is_file() and not (place.folder / File.CONFIG).is_file():
            return _from_exported(place.folder, place.name, trust)
        return _from_config(place.folder, place.name, trust)


@contextmanager
def opened(source: str, root: str | Path = ".", uri: str | None = None) -> Iterator[Place]:
    """The files of a trained net while the body runs; arguments and errors as of `load_trained`."""
    if source.startswith("models:/"):
        store = find_store(root, uri)
        run_id = _registered(source, store)
        with run_folder(store, run_id) as folder:
            yield Place(source, folder, run_id)
    elif Path(source).is_dir():
        yield Place(source, _inner_folder(Path(source)), None)
    elif "/" in source or "." in source:
        raise UserError(f"The model run={source} is not a folder: give a run's id, a folder, or models:/NAME/VERSION.")
    else:
        store, run = find_run(source, root, uri)
        with run_folder(store, run.info.run_id) as folder:
            yield Place(f"run {source}", folder, run.info.run_id)


def read_source(folder: Path) -> Source:
    """The weights in a folder, and what they were trained for if the folder says so; nothing of it is built.

    Raises
    ------
    UserError
        If there are none, or files are damaged or do not fit each other.
    """
    if (folder / _MLMODEL).is_file() and not (folder / File.WEIGHTS).is_file():
        raise UserError(f"{folder} holds an exported graph, and no {File.WEIGHTS}: name the run itself.")
    state = read_weights(folder / File.WEIGHTS)
    inside = {name.removeprefix(_NET): value for name, value in state.items() if name.startswith(_NET)}
    if not (folder / File.CONFIG).is_file():
        return Source(inside or state, None, None)
    cfg = read_config(folder / File.CONFIG)
    contract = _contract(cfg, state.get(BUFFER), folder / File.DATA)
    return Source(inside, contract, dataset_kind(cfg))


def dataset_kind(cfg: DictConfig) -> str:
    """Data set of a configuration: its class, and its name if it is one of several. Records of others are others."""
    return " ".join(str(value) for key in ("_target_", "name") if (value := OmegaConf.select(cfg, f"dataset.{key}")))


def _registered(uri: str, store: Store) -> str:
    """Run that trained a registered model."""
    found = re.fullmatch(r"models:/([^/@]+)(?:/(\d+)|@([^/@]+))", uri)
    if found is None:
        raise UserError(
            f"The model run={uri} does not name a registered model: write models:/NAME/VERSION or models:/NAME@ALIAS."
        )
    name, version, alias = found.groups()
    try:
        if alias:
            version = store.client.get_model_version_by_alias(name, alias).version
        run_id = store.client.get_model_version(name, version).run_id
    except MlflowException as error:
        raise UserError(f"There is no {uri} in {store.uri}: check name and version in the UI.") from error
    if not run_id:
        raise UserError(f"{uri} was registered without the run that trained it: give the model's folder instead.")
    return str(run_id)


def _inner_folder(folder: Path) -> Path:
    for names in ((File.CONFIG, _MLMODEL), (File.WEIGHTS,)):
        for place in (folder, folder / "artifacts"):
            if any((place / name).is_file() for name in names):
                return place
    raise UserError(f"The folder {folder} contains neither {File.CONFIG} and {File.WEIGHTS} nor an MLflow model.")


def _from_config(folder: Path, name: str, trust: Collection[str]) -> Trained:
    found = load_folder(folder, trust)
    target = _target(found.contract, trust)
    net = nn.Sequential(found.network, target.activation()).eval()
    _check_fit(net, found.contract, folder)
    prepared = {key: found.cfg.dataset[key] for key in ("crop", "resize") if key in found.cfg.dataset}
    return Trained(name, net, found.contract, target, prepared)


def _contract(cfg: DictConfig, digest: Tensor | None, path: Path) -> Contract:
    """The contract in `path`, checked against the configuration and against the digest in the weights."""
    data, target = read_json(path), plain(cfg.target)
    if "inputs" not in data:
        with _refuse_incomplete(path):
            contract = Contract.from_earlier(data, target, str(cfg.dataset.get("normalize", "none")))
        is_bound = digest is None  # earlier versions had no digest
    else:
        with _refuse_incomplete(path):
            contract = Contract.from_json(data)
        is_bound = contract.is_bound(digest)
    if not is_bound:
        raise UserError(_CHANGED.format(path=path, weights=f"{File.WEIGHTS} beside it"))
    if contract.target != target:
        raise UserError(f"{path} and {File.CONFIG} beside it name different targets: restore the files of the run.")
    return contract


def _target(contract: Contract, trust: Collection[str]) -> Target:
    check_trusted("target", contract.target, trust)
    return make_target(contract.target, contract.labels)


def _check_fit(net: nn.Module, contract: Contract, folder: Path) -> None:
    """Refuse a net that cannot take the inputs, or does not give one output for each label."""
    wanted = (1, len(contract.labels))
    zeros = {one.name: torch.zeros(1, *one.shape) for one in contract.inputs}
    inputs = zeros if len(zeros) > 1 else next(iter(zeros.values()))
    try:
        found = tuple(next(run_net(net, [inputs], torch.device("cpu"))).shape)
    except (UserError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{folder / File.DATA} does not fit the net of {File.CONFIG} beside it: {summarised(error)}"
        ) from error
    if found != wanted:
        raise UserError(
            f"{folder / File.DATA} names {wanted[1]} labels, and the net of {File.CONFIG} beside it gives {found[-1]}."
        )


@contextmanager
def _refuse_incomplete(path: Path) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise UserError(f"{path} does not say which inputs, labels and target the net has.") from error


def _from_exported(folder: Path, name: str, trust: Collection[str]) -> Trained:
    path = folder / "data" / "model.pt2"
    if not path.is_file():
        raise UserError(f"The MLflow model in {folder} has no data/model.pt2: only models logged as pt2 can be used.")
    if EXPORTED not in trust:
        raise UserError(
            f"{path} is an exported graph, which can run code when it is loaded: "
            f"name the run itself, or add trust={EXPORTED} if you know where the file comes from."
        )
    described = folder / "MLmodel"
    with _refuse_incomplete(described):
        try:
            data = yaml.safe_load(described.read_text())["metadata"]["ecgexp"]
        except yaml.YAMLError as error:
            raise UserError(f"{described} is damaged: {first_line(error)}.") from error
        is_earlier = "inputs" not in data
        data = upgrade_description(data)
        contract = Contract.from_earlier(data, data["target"]) if is_earlier else Contract.from_json(data)
    try:
        net = torch.export.load(path).module()
    except Exception as error:  # parsing a damaged archive may raise any error
        raise UserError(f"{path} is damaged ({type(error).__name__}).") from error
    digest = net.state_dict().get(_EXPORTED_BUFFER)
    if not (digest is None if is_earlier else contract.is_bound(digest)):
        raise UserError(_CHANGED.format(path=described, weights=path))
    return Trained(name, net, contract, _target(contract, trust))
