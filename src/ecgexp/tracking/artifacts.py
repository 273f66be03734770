"""The files of a run: their place, and reading them without running code from them."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from mlflow.entities import Run as MlflowRun
from mlflow.exceptions import MlflowException
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from ecgexp.config.schema import plain
from ecgexp.config.upgrade import upgrade
from ecgexp.errors import UserError, summarised
from ecgexp.saved import check_sum, load_tensors
from ecgexp.tracking.names import File
from ecgexp.tracking.store import Store, is_own, place_inside


@contextmanager
def run_folder(store: Store, run_id: str) -> Iterator[Path]:
    """Folder with the config, weights and data description of a run: the original, or a temporary copy.

    Raises
    ------
    UserError
        If the artifacts are not in the place that the store names.
    """
    local = artifact_folder(store, store.client.get_run(run_id))
    if local is not None:
        yield local
        return
    with tempfile.TemporaryDirectory() as folder:
        try:
            present = {entry.path for entry in store.client.list_artifacts(run_id)}
            for name in (File.CHECKSUMS, File.CONFIG, File.WEIGHTS, File.DATA, File.TRAINED_ON):
                if name in present:
                    store.client.download_artifacts(run_id, name, folder)
        except (MlflowException, OSError) as error:
            raise UserError(f"The artifacts of run {run_id} cannot be read: {summarised(error)}") from error
        yield Path(folder)


def artifact_folder(store: Store, run: MlflowRun) -> Path | None:
    """Folder of a run's artifacts on this machine; None if a server keeps them.

    It is searched first in the ``mlruns/`` of the store, which may have been copied or moved, then in the place that
    the store names. A store in a file may come from a stranger, so a place outside its folder is not used.

    Raises
    ------
    UserError
        If it is in neither place.
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
    """Copy the files of a folder to the artifacts of a run; earlier files of the same name are replaced.

    Parameters
    ----------
    store : Store
        Store of the run.
    run : MlflowRun
        The run.
    source : Path
        Folder of the files.
    place : str
        Folder among the artifacts.

    Returns
    -------
    str
        Their new place, for messages.

    Raises
    ------
    UserError
        If a link would lead a file out of the run's folder.
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


@dataclass(frozen=True)
class RunFiles:
    """Files of runs: in the store's folder, or copies in a scratch folder.

    Attributes
    ----------
    store : Store
    runs : mapping of str to MlflowRun
        Runs that are loaded already. Others are read from the store, which takes 10 ms each.
    scratch : Path
    """

    store: Store
    runs: Mapping[str, MlflowRun]
    scratch: Path

    def find(self, run_id: str, name: str) -> Path | None:
        """Path of a file of a run; None where there is none. Raises UserError where it is damaged."""
        try:
            local = artifact_folder(self.store, self.runs.get(run_id) or self.store.client.get_run(run_id))
            if local is None:
                local = self.scratch / run_id
                for wanted in (File.CHECKSUMS, name) if not local.is_dir() else (name,):
                    local.mkdir(exist_ok=True)
                    with suppress(MlflowException, OSError):  # earlier runs have no sums
                        self.store.client.download_artifacts(run_id, wanted, str(local))
        except (MlflowException, OSError, UserError):
            return None
        check_sum(local / name)
        return local / name if (local / name).is_file() else None


def read_config(path: Path) -> DictConfig:
    """A logged configuration, in today's form; nothing in it is evaluated.

    Raises
    ------
    UserError
        If it is missing, or is not the configuration of a trial.
    """
    if not path.is_file():
        raise UserError(f"There is no {path}: the run did not finish or not all of it was copied.")
    check_sum(path)
    try:
        cfg = OmegaConf.load(path)
        text = OmegaConf.to_yaml(cfg, resolve=False)  # in one form: YAML has several ways to write the same text
    except Exception as error:  # OmegaConf may raise any error for unusual YAML
        raise UserError(f"{path} cannot be read: {summarised(error)}.") from error
    if "${" in text:  # a run logs its configuration resolved
        raise UserError(f"{path} contains an interpolation '${{...}}', which no run writes: the file was changed.")
    if not isinstance(cfg, DictConfig) or not isinstance(cfg.get("model"), DictConfig):
        raise UserError(f"{path} is not the configuration of a trial: it names no model.")
    if not isinstance(cfg.get("target"), DictConfig) and not isinstance(cfg.get("threshold"), float | int):
        raise UserError(f"{path} is not the configuration of a trial: it has no target.")
    try:
        return OmegaConf.create(upgrade(plain(cfg)))
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not the configuration of a trial: {summarised(error)}.") from error


def read_json(path: Path) -> dict[str, Any]:
    """Content of a JSON file of a run; UserError if it is missing or damaged."""
    if not path.is_file():
        raise UserError(f"There is no {path}: the run did not finish or not all of it was copied.")
    check_sum(path)
    try:
        data = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: {error}.") from error
    if not isinstance(data, dict):
        raise UserError(f"{path} is damaged: it contains no object.")
    return data


def read_weights(path: Path) -> dict[str, Tensor]:
    """Weights of a net by name; UserError if the file is missing or damaged, or contains other things than tensors."""
    if not path.is_file():
        raise UserError(f"There is no {path}: the run did not finish or not all of it was copied.")
    check_sum(path)
    state = load_tensors(path)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} contains something other than weights.")
    return state


def _local_folders(store: Store, run: MlflowRun) -> list[Path] | None:
    """Folders in which the artifacts of a run may be, the most likely first; None if a server keeps them."""
    moved = store.root / "artifacts" / run.info.run_id / "artifacts"
    if not is_own(store):  # a server, or a database that the user named
        location = urlparse(run.info.artifact_uri)
        return [Path(unquote(location.path)), moved] if location.scheme in ("", "file") else None
    named = [place_inside(store, place) for place in (moved.as_uri(), run.info.artifact_uri)]
    folders = [folder for folder in named if folder is not None]
    if not folders:
        raise UserError(f"The artifacts of run {run.info.run_id} lie outside of {store.root}: copy them there.")
    return folders
