"""Predictions of a net for labelled records, and their file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ecgexp.errors import UserError, summarised
from ecgexp.targets import Target

_TRUE, _PROBABILITY = "true/", "probability/"


@dataclass(frozen=True)
class Predictions:
    """Predictions of a net for labelled records.

    Attributes
    ----------
    ids : str array, (records,)
    targets : array, (records, names)
        In the stored type, uint8 for labels.
    probabilities : float32 array, (records, names)
    target : Target
        The target of the predictions.
    patients : str array, (records,), or None
        None if the file has no patients.
    logits : float32 array, (records, outputs), or None
        None if the predictions were read from a file, which has no logits.
    """

    ids: NDArray[np.str_]
    targets: NDArray[Any]
    probabilities: NDArray[np.float32]
    target: Target
    patients: NDArray[np.str_] | None
    logits: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def groups(self) -> NDArray[np.str_]:
        """Group of each record, (records,): the patient, or the record itself if patients are not known."""
        return self.ids if self.patients is None else self.patients


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Write a parquet table: `id`, `patient` if known, `true/<name>` and `probability/<name>` for each name."""
    table = {"id": predictions.ids.astype(str)}
    if predictions.patients is not None:
        table["patient"] = predictions.patients.astype(str)
    names = predictions.target.names
    table |= {f"{_TRUE}{name}": predictions.targets[:, i] for i, name in enumerate(names)}
    table |= {f"{_PROBABILITY}{name}": predictions.probabilities[:, i] for i, name in enumerate(names)}
    pd.DataFrame(table).to_parquet(path, index=False)


def read_predictions(path: Path, build: Callable[[Sequence[str]], Target]) -> Predictions:
    """Read the file of `write_predictions`; `build` makes the trial's target from the names of its columns.

    Raises
    ------
    UserError
        If the file is not such a table.
    """
    try:
        table = pd.read_parquet(path)
        names = tuple(name.removeprefix(_TRUE) for name in table.columns if name.startswith(_TRUE))
        targets = table[[f"{_TRUE}{name}" for name in names]].to_numpy(copy=True)
        if targets.dtype.kind not in "buif":
            raise ValueError(f"targets of the type {targets.dtype}")
        ids = table["id"].to_numpy(dtype=str)
        # copies, since torch warns of arrays that are read-only
        probabilities = table[[f"{_PROBABILITY}{name}" for name in names]].to_numpy(dtype=np.float32, copy=True)
        patients = table["patient"].to_numpy(dtype=str) if "patient" in table else None
    except Exception as error:  # a damaged parquet file may raise anything
        raise UserError(f"{path} is damaged or holds no predictions: {summarised(error)}.") from error
    return Predictions(ids, targets, probabilities, build(names), patients)
