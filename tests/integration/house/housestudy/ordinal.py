"""A kind of target: one grade of several in order for each record."""

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ecgexp.metrics import Evaluation, Metric
from ecgexp.targets import Target


class FromCumulative(nn.Module):
    """Logits of 'at least grade k' (batch, grades - 1) to probabilities (batch, grades)."""

    def forward(self, logits: Tensor) -> Tensor:
        """What is at least grade 2 is at least grade 1: the probabilities do not rise from grade to grade."""
        at_least = torch.sigmoid(logits).cummin(dim=1).values
        ends = torch.ones_like(at_least[:, :1])
        return torch.cat([ends, at_least], dim=1) - torch.cat([at_least, 0 * ends], dim=1)


def grade_error(probabilities: np.ndarray, targets: np.ndarray):
    """Mean absolute difference of predicted and true grade, under weights (resamples, records)."""
    predicted, true = _grades(probabilities, targets)
    each = np.abs(predicted - true)
    return lambda weights: weights @ each / weights.sum(axis=1)


def quadratic_kappa(probabilities: np.ndarray, targets: np.ndarray):
    """Cohen's kappa with quadratic weights, under weights (resamples, records)."""
    predicted, true = _grades(probabilities, targets)

    def score(weights: np.ndarray) -> np.ndarray:
        def mean(values: np.ndarray) -> np.ndarray:
            return weights @ values / weights.sum(axis=1)

        by_chance = mean(predicted**2) + mean(true**2) - 2 * mean(predicted) * mean(true)
        return 1 - mean((predicted - true) ** 2) / by_chance

    return score


class Ordinal(Target):
    """One grade of several in order holds for a record; the median of the probabilities is predicted.

    Targets have a column of 0 and 1 for each grade, from the lowest on.
    """

    kind = "ordinal"
    records = "records with one grade each"
    metrics = (
        Metric("grade_error", higher_is_better=False, resampled=grade_error),
        Metric("quadratic_kappa", resampled=quadratic_kappa),
    )
    main_metric = "grade_error"
    shown = ("loss", "grade_error", "quadratic_kappa")
    table_metrics = ("grade_error", "quadratic_kappa", "loss")
    default_loss = "cumulative"
    rule = "the median grade"

    @property
    def outputs(self) -> int:
        """One fewer than there are grades."""
        return len(self.names) - 1

    def activation(self) -> nn.Module:
        """Logits (batch, grades - 1) to probabilities (batch, grades)."""
        return FromCumulative()

    def decide(self, probabilities: Tensor) -> Tensor:
        """The median grade, none where a probability is NaN: bool, (records, grades)."""
        median = (probabilities.double().cumsum(dim=1) < 0.5).sum(dim=1, keepdim=True)
        grades = torch.arange(len(self.names), device=probabilities.device)
        return (grades == median) & ~probabilities.isnan().any(dim=1, keepdim=True)

    def problems(self, targets: np.ndarray) -> dict[int, str]:
        """Records without a grade, or with several."""
        counts = targets.sum(axis=1, dtype=int)
        return {row: f"it has {counts[row]} grades, not one" for row in np.flatnonzero(counts != 1).tolist()}

    def prior(self, targets: Tensor) -> Tensor:
        """Logits of the share of the records that have at least each grade: (grades - 1,)."""
        return torch.logit(targets.double().mean(dim=0).flip(0).cumsum(0).flip(0)[1:], eps=1e-6)

    def measure_own(self, probabilities: Tensor, targets: Tensor) -> Evaluation:
        """Both metrics, each record counted once."""
        arrays, once = (probabilities.cpu().numpy(), targets.cpu().numpy()), np.ones((1, len(targets)))
        return Evaluation({one.name: float(one.resampled(*arrays)(once)[0]) for one in self.metrics}, {})

    def required(self, targets: np.ndarray) -> tuple[np.ndarray, list[str]]:
        """Each grade that occurs."""
        true = np.asarray(targets) == 1
        occurs = true.any(axis=0)
        return true[:, occurs], [name for name, here in zip(self.names, occurs, strict=True) if here]

    def confusion(self, probabilities: Tensor, targets: Tensor) -> pd.DataFrame:
        """Records by true grade (rows) and predicted one."""
        counts = targets.double().T @ self.decide(probabilities).double()
        return pd.DataFrame(counts.int().numpy(), index=list(self.names), columns=list(self.names))


def _grades(probabilities: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and true grades; a record without a prediction, of a net that diverged, is as wrong as can be."""
    true, highest = np.asarray(targets).argmax(axis=1), targets.shape[1] - 1
    median = (np.cumsum(probabilities, axis=1, dtype=np.float64) < 0.5).sum(axis=1)
    farthest = np.where(true > highest / 2, 0, highest)
    return np.where(np.isnan(probabilities).any(axis=1), farthest, median), true
