"""The files that a trial leaves beside its metrics."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from ecgexp.metrics import confusion_matrix, mlcm
from ecgexp.reports.figures import confusion_figure, learning_curves, save_figure

DPI = 110


def write_predictions(
    path: Path,
    ids: NDArray[np.str_],
    probabilities: Tensor,
    targets: Tensor,
    label_names: Sequence[str],
    patients: NDArray[np.str_] | None = None,
) -> None:
    """Write a parquet table: `id`, `patient` where known, `true/<label>` and `probability/<label>` for each label."""
    table = {"id": ids.astype(str)}
    if patients is not None:
        table["patient"] = patients.astype(str)
    table |= {f"true/{name}": targets[:, i].numpy().astype(np.uint8) for i, name in enumerate(label_names)}
    table |= {f"probability/{name}": probabilities[:, i].numpy() for i, name in enumerate(label_names)}
    pd.DataFrame(table).to_parquet(path, index=False)


def validation_fingerprint(ids: NDArray[np.str_], targets: NDArray[np.uint8], label_names: Sequence[str]) -> str:
    """Hash of validation records and of their labels, which is what makes scores of trials comparable."""
    digest = hashlib.sha256(repr(tuple(label_names)).encode())
    digest.update("\n".join(ids.tolist()).encode())
    digest.update(np.ascontiguousarray(targets, dtype=np.uint8).tobytes())
    return digest.hexdigest()[:16]


def write_confusion(
    folder: Path,
    split: str,
    probabilities: Tensor,
    targets: Tensor,
    label_names: Sequence[str],
    threshold: float,
    multiclass: bool,
) -> None:
    """Write the confusion matrix of a split, ``mlcm_...`` or ``confusion_...``: counts as CSV, rows in % as a picture.

    See `confusion_table`.
    """
    table = confusion_table(probabilities, targets, label_names, threshold, multiclass)
    stem, what = ("confusion", "Confusion matrix") if multiclass else ("mlcm", "MLCM")
    table.to_csv(folder / f"{stem}_{split}.csv", index_label="true")
    title = f"{what}, {split} split, {len(targets)} records"
    save_figure(confusion_figure(table, title), folder / f"{stem}_{split}.png", DPI)


def confusion_table(
    probabilities: Tensor, targets: Tensor, label_names: Sequence[str], threshold: float, multiclass: bool
) -> pd.DataFrame:
    """Counts by true labels (rows) and predicted ones (columns).

    Multi-label it is the `mlcm`, with row NTL (no true label) and column NPL (no predicted label); where each record
    has exactly one label it is the `confusion_matrix`, with column NPL only if some record has no prediction.
    """
    if not multiclass:
        matrix = mlcm(probabilities, targets.int(), len(label_names), threshold).numpy()
        return pd.DataFrame(matrix, index=[*label_names, "NTL"], columns=[*label_names, "NPL"])
    matrix = confusion_matrix(probabilities, targets).numpy()
    table = pd.DataFrame(matrix, index=list(label_names), columns=[*label_names, "NPL"])
    return table if table["NPL"].any() else table.drop(columns="NPL")


def write_curves(path: Path, history: Sequence[dict[str, float]], metric: str, best_epoch: int | None) -> None:
    """Draw loss and `metric` over the epochs."""
    save_figure(learning_curves(history, metric, best_epoch), path, DPI)
