"""The files that a trial leaves beside its metrics."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ecgexp.reports.figures import confusion_figure, learning_curves, save_figure
from ecgexp.training.predictions import Predictions

DPI = 110


def validation_fingerprint(ids: NDArray[np.str_], targets: NDArray[np.uint8], label_names: Sequence[str]) -> str:
    """Hash of validation records and their labels: scores of trials with the same hash are comparable."""
    digest = hashlib.sha256(repr(tuple(label_names)).encode())
    digest.update("\n".join(ids.tolist()).encode())
    digest.update(np.ascontiguousarray(targets, dtype=np.uint8).tobytes())
    return digest.hexdigest()[:16]


def write_confusion(folder: Path, split: str, predictions: Predictions) -> None:
    """Write the confusion matrix of a split, if the target has one: counts as CSV, rows in % as a picture."""
    targets = torch.from_numpy(predictions.targets.astype(np.float32))
    table = predictions.target.confusion(torch.from_numpy(predictions.probabilities), targets)
    if table is None:
        return
    stem, what = predictions.target.confusion_name
    table.to_csv(folder / f"{stem}_{split}.csv", index_label="true")
    title = f"{what}, {split} split, {len(targets)} records"
    save_figure(confusion_figure(table, title), folder / f"{stem}_{split}.png", DPI)


def write_curves(path: Path, history: Sequence[dict[str, float]], metric: str, best_epoch: int | None) -> None:
    """Draw loss and `metric` over the epochs."""
    save_figure(learning_curves(history, metric, best_epoch), path, DPI)
