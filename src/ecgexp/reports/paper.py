"""The results of published studies, and whether those of a sweep can be compared with them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files

import pandas as pd
from mlflow.entities import Run as MlflowRun

from ecgexp.tracking.names import best_metric, split_metric
from ecgexp.tracking.runs import overridden, setting


@dataclass(frozen=True)
class Study:
    """A published study whose cells a sweep may train.

    Attributes
    ----------
    file : str
        CSV in this folder with a column for each key, and ``value``.
    source : str
        Where the values are published, and what they are.
    metric_name : str
        The metric that they are of, without split; in validation.
    metric_words : str
        The metric in words.
    keys : mapping of str to callable
        The type of each key.
    chosen : collection of str
        Keys that a sweep must set, so that its cells can be those of the study.
    records : int
        About as many records train.
    protocol : mapping of str to str
        Settings of the study, as runs record them.
    of_the_cell : collection of str
        Config groups whose further settings the study leaves at their defaults.
    note : str
        What always stands between the values of the study and ours; a sentence, or empty.
    digits : int
        Digits of a value.
    """

    file: str
    source: str
    metric_name: str
    metric_words: str
    keys: Mapping[str, Callable[[str], object]]
    chosen: Collection[str]
    records: int
    protocol: Mapping[str, str]
    of_the_cell: Collection[str]
    note: str = ""
    digits: int = 2

    @property
    def metric(self) -> str:
        """The metric as trials record it."""
        return best_metric("val", self.metric_name)

    @cached_property
    def published(self) -> Mapping[tuple[object, ...], float]:
        """Values by the values of `keys`."""
        with (files("ecgexp.reports") / self.file).open() as file:
            table = pd.read_csv(file, comment="#", dtype=dict.fromkeys(self.keys, str))
        return {
            tuple(kind(text) for kind, text in zip(self.keys.values(), cell, strict=True)): float(value)
            for *cell, value in table[[*self.keys, "value"]].itertuples(index=False)
        }

    def published_value(self, values: Mapping[str, object]) -> float | None:
        """The value of a cell; None where the study has no such cell.

        Parameters
        ----------
        values : mapping
            Values of `keys`, also as texts.
        """
        try:
            cell = tuple(kind(str(values[key])) for key, kind in self.keys.items())
        except (KeyError, ValueError):
            return None
        return self.published.get(cell)

    def has_cells_of(self, results: pd.DataFrame, keys: Collection[str]) -> bool:
        """Whether the cells of a sweep are some of the study's.

        Parameters
        ----------
        results : DataFrame
            From `results_table`.
        keys : collection of str
            Swept keys without those of repetitions.
        """
        known = set(self.keys)
        if not set(keys) <= known or not set(self.chosen) <= set(results.attrs["overridden"]):
            return False
        if not known <= set(results.columns) or self.metric not in results:
            return False
        nets = {cell[0] for cell in self.published}
        cells = results[list(self.keys)].itertuples(index=False)
        return set(results["model"]) <= nets and any(
            self.published_value(dict(zip(self.keys, cell, strict=True))) is not None for cell in cells
        )

    def departures(self, runs: Iterable[MlflowRun], training_records: Sequence[int]) -> list[str]:
        """Differences from the protocol of the study, one phrase each; empty where the results can be compared.

        Parameters
        ----------
        runs : iterable of MlflowRun
            Trials that were trained.
        training_records : sequence of int
            Number of training records of each data set.
        """
        found: dict[str, set[str]] = {}
        for run in runs:
            for key, expected in self.protocol.items():
                value = setting(run, key)
                if value is not None and value != expected:
                    found.setdefault(key, set()).add(value)
            for key, value in overridden(run).items():
                if key.partition(".")[0] in self.of_the_cell and "." in key and key not in self.keys:
                    found.setdefault(key, set()).add(value)
        if "dataset" in found:  # with another dataset its keys need no phrase
            found = {key: values for key, values in found.items() if not key.startswith("dataset.")}
        phrases = [
            f"{key} is {' or '.join(sorted(values))}" + (f", not {self.protocol[key]}" if key in self.protocol else "")
            for key, values in found.items()
        ]
        few = sorted({count for count in training_records if count < self.records / 2})
        if few:
            phrases.append(f"{' or '.join(map(str, few))} training records instead of about {self.records:,}")
        return phrases


LEANDRO2023 = Study(
    file="leandro2023.csv",
    source="Leandro et al. 2023, Table 1 (macro F1 on validation fold 9)",
    metric_name="mlcm_f1_macro",
    metric_words="Macro F1",
    keys={"model": str, "batch_size": int, "optimizer": str, "lr": float},
    chosen=("model", "batch_size", "optimizer", "lr"),
    records=17_418,  # in folds 1 to 8 of PTB-XL 1.0.3; training leaves out those without a superclass
    protocol={
        "dataset": "ptbxl",
        "dataset.labels": "superclass",
        "dataset.min_likelihood": "50",
        "dataset.sampling_rate": "100",
        "dataset.normalize": "none",
        "dataset.val_fold": "9",
        "loss": "bce",
        "loss.pos_weight": "none",
        "scheduler": "plateau",
        "scheduler.schedule.factor": "0.5",
        "scheduler.schedule.patience": "10",
        "max_epochs": "100",
        "early_stopping.patience": "15",
        "early_stopping.min_delta": "0.0",
        "monitor": split_metric("val", "loss"),
        "target.threshold": "0.5",
        "precision": "32",
    },
    of_the_cell=("model", "optimizer"),
)
TOFFANETTO2024 = Study(
    file="toffanetto2024.csv",
    source="Toffanetto 2024 (accuracy in validation, the highest of any epoch)",
    metric_name="accuracy",
    metric_words="Accuracy",
    keys={"model": str, "model.filters": int, "model.kernel": int},
    chosen=("model.filters", "model.kernel"),
    records=8_371,
    protocol={
        "dataset": "medmnist",
        "dataset.name": "bloodmnist",
        "dataset.size": "28",
        "dataset.file": "None",
        "dataset.split": "toffanetto2024",
        "dataset.normalize": "unit",
        "loss": "cross_entropy",
        "optimizer": "sgd",
        "lr": "0.01",
        "batch_size": "32",
        "scheduler": "none",
        "max_epochs": "100",
        "early_stopping.patience": "None",
        "monitor": split_metric("val", "loss"),
        "precision": "32",
    },
    of_the_cell=("model", "optimizer"),
    note=(
        "The paper's values are the highest of any epoch. Ours are those of the weights with the lowest validation "
        "loss: they are lower for the same training."
    ),
    digits=3,
)
STUDIES = (LEANDRO2023, TOFFANETTO2024)


def study_of(results: pd.DataFrame, keys: Collection[str]) -> Study | None:
    """The published study that the cells of a sweep are of; see `Study.has_cells_of`."""
    return next((study for study in STUDIES if study.has_cells_of(results, keys)), None)
