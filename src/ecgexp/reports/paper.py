"""The results of Leandro et al. 2023, and whether those of a sweep can be compared with them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files

import pandas as pd
from mlflow.entities import Run as MlflowRun

from ecgexp.tracking.names import best_metric, split_metric
from ecgexp.tracking.runs import overridden, setting

KEYS = ("model", "batch_size", "optimizer", "lr")
METRIC_NAME = "mlcm_f1_macro"
METRIC = best_metric("val", METRIC_NAME)
SOURCE = "Leandro et al. 2023, Table 1 (macro F1 on validation fold 9)"
# All records in folds 1 to 8 of PTB-XL 1.0.3. Training leaves out those without a superclass.
RECORDS = 17_418
_PROTOCOL = {
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
}
_OF_THE_CELL = ("model", "optimizer")

CellKey = tuple[str, int, str, float]


@cache
def published() -> Mapping[CellKey, float]:
    """Macro F1 of each of the paper's 90 cells, by net, batch size, optimizer and learning rate."""
    with (files("ecgexp.reports") / "leandro2023.csv").open() as file:
        table = pd.read_csv(file, comment="#")
    return {
        (str(model), int(batch), str(optimizer), float(lr)): float(f1)
        for model, batch, optimizer, lr, f1 in table[[*KEYS, "f1"]].itertuples(index=False)
    }


def published_value(values: Mapping[str, object]) -> float | None:
    """The paper's value of a cell; None where the paper has no such cell.

    Parameters
    ----------
    values : mapping
        ``model``, ``batch_size``, ``optimizer`` and ``lr``, also as texts.
    """
    try:
        cell = (
            str(values["model"]),
            int(str(values["batch_size"])),
            str(values["optimizer"]),
            float(str(values["lr"])),
        )
    except (KeyError, ValueError):
        return None
    return published().get(cell)


def is_the_papers_grid(results: pd.DataFrame, keys: Collection[str]) -> bool:
    """Whether the cells of a sweep are cells of the paper's table.

    Parameters
    ----------
    results : DataFrame
        From `results_table`.
    keys : collection of str
        Swept keys that make cells, without those that repeat them.
    """
    if not set(keys) <= set(KEYS) or not set(KEYS) <= set(results.attrs["overridden"]):
        return False
    nets = {model for model, *_ in published()}
    cells = results[list(KEYS)].itertuples(index=False)
    return set(results["model"]) <= nets and any(
        published_value(dict(zip(KEYS, cell, strict=True))) is not None for cell in cells
    )


def departures(runs: Iterable[MlflowRun], training_records: Sequence[int]) -> list[str]:
    """Differences from the paper's protocol, a phrase for each; empty where results can be compared.

    Parameters
    ----------
    runs : iterable of MlflowRun
        Trials that were trained.
    training_records : sequence of int
        Number of training records of each data set.
    """
    found: dict[str, set[str]] = {}
    for run in runs:
        for key, expected in _PROTOCOL.items():
            value = setting(run, key)
            if value is not None and value != expected:
                found.setdefault(key, set()).add(value)
        for key, value in overridden(run).items():
            if key.partition(".")[0] in _OF_THE_CELL and "." in key:
                found.setdefault(key, set()).add(value)
    if "dataset" in found:  # with another dataset its keys need no phrase
        found = {key: values for key, values in found.items() if not key.startswith("dataset.")}
    phrases = [
        f"{key} is {' or '.join(sorted(values))}" + (f", not {_PROTOCOL[key]}" if key in _PROTOCOL else "")
        for key, values in found.items()
    ]
    few = sorted({count for count in training_records if count < RECORDS / 2})
    if few:
        phrases.append(f"{' or '.join(map(str, few))} training records instead of about {RECORDS:,}")
    return phrases
