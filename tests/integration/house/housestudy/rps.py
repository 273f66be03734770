"""A metric of which a smaller value is the better one."""

from collections.abc import Callable

import numpy as np
import torch


class RankedProbabilityScore:
    """Mean squared difference of cumulative probabilities and grades, from 0 (best) to 1."""

    higher_is_better = False

    def __call__(self, probabilities: torch.Tensor, targets: torch.Tensor) -> float:
        """The score of a split, from (records, grades) each."""
        return float(self._of_records(probabilities, targets).mean())

    def resampled(self, probabilities: np.ndarray, targets: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        """What gives it an interval: weights (resamples, records) to scores (resamples,)."""
        each = self._of_records(torch.as_tensor(probabilities), torch.as_tensor(targets)).numpy()
        return lambda weights: weights @ each / weights.sum(axis=1)

    def _of_records(self, probabilities: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        difference = (probabilities.double() - targets.double()).cumsum(dim=1)[:, :-1]
        return difference.square().mean(dim=1).nan_to_num(nan=1.0)  # of a net that diverged
