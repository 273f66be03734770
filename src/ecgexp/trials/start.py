"""The trained weights that a trial starts from: found, compared with its net and data, and told."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from mlflow.entities import Run as MlflowRun
from mlflow.exceptions import MlflowException
from omegaconf import DictConfig

from ecgexp.config.build import Parts, build_net
from ecgexp.config.schema import plain
from ecgexp.errors import UserError
from ecgexp.tracking.contract import Contract
from ecgexp.tracking.names import TRAINED_PARAMETERS, File, Status, Tag, where
from ecgexp.tracking.overlap import Seen, overlap_of, read_trained_on
from ecgexp.tracking.provenance import config_hash
from ecgexp.tracking.restore import Source, dataset_kind, opened, read_source
from ecgexp.tracking.store import Store, find_store
from ecgexp.training.transfer import Fit, fit_weights, weights_hash
from ecgexp.trials.identity import cell

_NAMED = 12  # layers that are named in a sentence; the run has all of them in a file


@dataclass(frozen=True)
class Transfer:
    """What a trial takes from trained weights.

    Attributes
    ----------
    name : str
        Source of the weights, for people.
    run_id : str, optional
        Run that trained them; None of a folder.
    weights : str
        Their hash.
    fit : Fit
        What of them fits the net.
    remarks : tuple of str
        Sentences on how the data differ from those of the source.
    seen : mapping of str to array, optional
        Hashes of the records that the source has seen, if both are trained on the same kind of data set.
    """

    name: str
    run_id: str | None
    weights: str
    fit: Fit
    remarks: tuple[str, ...] = ()
    seen: Seen | None = None

    @property
    def tags(self) -> dict[str, Any]:
        """Tags of the run."""
        known = {Tag.INIT_WEIGHTS: self.weights, Tag.INIT_NOTE: self.note}
        return known if self.run_id is None else {**known, Tag.INIT_RUN: self.run_id}

    @property
    def note(self) -> str:
        """What was loaded, what was not, what is frozen, and how the data differ, in sentences."""
        fit = self.fit
        layers = len(fit.loaded) + len(fit.anew)
        anew = [f"{layer} ({reason})" for layer, reason in fit.anew.items()]
        sentences = [
            f"Starts from {self.name} (weights {self.weights}): {len(fit.loaded)} of {layers} layers are loaded.",
            f"Anew: {_named(anew)}." if anew else "",
            f"Not used of the source: {_named(fit.unused)}." if fit.unused else "",
            f"Frozen: {_named(fit.frozen_layers)}." if fit.frozen else "",
            f"{fit.trained:,} of {fit.parameters:,} weights are trained.",
            *self.remarks,
        ]
        return " ".join(filter(None, sentences))

    def to_json(self) -> dict[str, Any]:
        """All of it, as plain values."""
        fit = self.fit
        return {
            "source": self.name,
            "run": self.run_id,
            "weights": self.weights,
            "loaded": fit.loaded,
            "anew": fit.anew,
            "unused": fit.unused,
            "frozen": fit.frozen,
            TRAINED_PARAMETERS: fit.trained,
            "remarks": self.remarks,
        }


def check_starts(configurations: Sequence[DictConfig]) -> None:
    """Refuse weights to start from that are not there or fit nothing, and patterns that match nothing; reads no data.

    Raises
    ------
    UserError
        As `find_transfer`, without looking at the data.
    """
    known = set()
    for cfg in configurations:
        what = config_hash({key: plain(cfg)[key] for key in ("init", "model")})
        if cfg.init.run is not None and what not in known:
            known.add(what)
            _read(cfg, build_net(cfg))


def find_transfer(cfg: DictConfig, parts: Parts, store: Store) -> Transfer | None:
    """What a trial takes from trained weights; None if its net starts anew.

    Parameters
    ----------
    cfg : DictConfig
        The composed configuration.
    parts : Parts
        Built from it; its dataset is prepared, and its net is not changed.
    store : Store
        Store of the run.

    Raises
    ------
    UserError
        If the weights cannot be read, nothing of them fits, a pattern matches nothing, nothing would be trained,
        or the data have other leads in the place of those that the weights were trained with.
    """
    if cfg.init.run is None:
        return None
    transfer, source, seen = _read(cfg, parts.net, store)
    remarks = []
    if source.contract is None:
        remarks.append("The folder does not say which records the weights were trained on, so nothing is compared.")
    else:
        differences = source.contract.differences(Contract.of(parts.dataset, plain(cfg.target)))
        if differences:
            remarks.append(f"The data differ from those of the source: {'; '.join(differences)}.")
    if source.dataset != dataset_kind(cfg):
        return replace(transfer, remarks=tuple(remarks))  # equal names of records say nothing there
    if isinstance(seen, str):
        remarks.append(f"Whether the source was trained on these validation records cannot be told: {seen}.")
        return replace(transfer, remarks=tuple(remarks))
    known = overlap_of(seen, store, parts.dataset.load("val"))["train"]
    if known.records or known.patients:
        remarks.append(
            f"The source was trained on {known.records} of the {known.of_records} validation records and on "
            f"{known.patients} of their {known.of_patients} patients, so that scores in validation are too high."
        )
    return replace(transfer, remarks=tuple(remarks), seen=seen)


def changed_source(store: Store, tags: dict[str, Any], parent: str | None) -> MlflowRun | None:
    """The last run of this trial that began from other weights under the same name, and did not finish."""
    own = {Tag.PARENT: parent} if parent is not None else {}
    runs = store.search(where({Tag.CELL: str(tags[Tag.CELL]), **own}))
    others = [
        run
        for run in runs
        if run.info.status not in (Status.FINISHED, Status.RUNNING)
        and run.data.tags.get(Tag.INIT_WEIGHTS, tags[Tag.INIT_WEIGHTS]) != tags[Tag.INIT_WEIGHTS]
        and (parent is not None or Tag.PARENT not in run.data.tags)
    ]
    return others[-1] if others else None


def _read(cfg: DictConfig, net: Any, store: Store | None = None) -> tuple[Transfer, Source, Seen | str]:
    """What fits of the source, the source, and what it has seen, which is read only if a store is given."""
    try:
        with opened(cfg.init.run, cfg.tracking.root, cfg.tracking.uri) as place:
            source = read_source(place.folder)
            seen = read_trained_on(place.folder / File.TRAINED_ON, store) if store is not None else ""
    except UserError as error:
        begun = _unfinished(cfg)
        resumed = f" Run {begun.info.run_id}, which began from it, cannot be resumed without it." if begun else ""
        raise UserError(
            f"Config key 'init.run' is '{cfg.init.run}', which gives no weights: {error}{resumed}"
        ) from error
    fit = fit_weights(net, source.weights, list(cfg.init.freeze), list(cfg.init.reset))
    return Transfer(place.name, place.run_id, weights_hash(source.weights), fit), source, seen


def _unfinished(cfg: DictConfig) -> MlflowRun | None:
    """The last run of this trial, if it did not finish."""
    with suppress(UserError, MlflowException):
        store = find_store(cfg.tracking.root, cfg.tracking.uri)
        experiment = store.client.get_experiment_by_name(cfg.tracking.experiment)
        if experiment is not None:
            same = where({Tag.CELL: cell(plain(cfg))})
            runs = replace(store, experiment_id=experiment.experiment_id).search(same)
            if runs and runs[-1].info.status != Status.FINISHED and Tag.INIT_WEIGHTS in runs[-1].data.tags:
                return runs[-1]
    return None


def _named(names: Collection[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join([*names][:_NAMED]) + more
