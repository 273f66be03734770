"""The files that a trial leaves beside its metrics."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from ecgexp.metrics import mlcm
from ecgexp.reports.figures import learning_curves, mlcm_figure

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


def write_confusion(
    folder: Path,
    split: str,
    probabilities: Tensor,
    targets: Tensor,
    label_names: Sequence[str],
    threshold: float,
) -> None:
    """Write the multi-label confusion matrix of a split: counts as CSV, row-normalised as a picture."""
    matrix = mlcm(probabilities, targets.int(), len(label_names), threshold).numpy()
    frame = pd.DataFrame(matrix, index=[*label_names, "NTL"], columns=[*label_names, "NPL"])
    frame.to_csv(folder / f"mlcm_{split}.csv", index_label="true")
    title = f"MLCM, {split} split, {len(targets)} records"
    mlcm_figure(matrix, label_names, title).savefig(folder / f"mlcm_{split}.png", dpi=DPI)


def write_curves(path: Path, history: Sequence[dict[str, float]], metric: str, best_epoch: int | None) -> None:
    """Draw loss and `metric` over the epochs."""
    learning_curves(history, metric, best_epoch).savefig(path, dpi=DPI)
