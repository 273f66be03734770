"""A loss of grades in order."""

from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits


class Cumulative(nn.Module):
    """Binary cross-entropy of 'the grade is at least k', for each k but the lowest."""

    fits = ("ordinal",)

    def __init__(self, smoothing: float = 0.0) -> None:
        super().__init__()
        self.smoothing = smoothing

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """A scalar from (batch, grades - 1) and one-hot (batch, grades)."""
        at_least = targets.flip(1).cumsum(1).flip(1)[:, 1:]
        smoothed = at_least * (1 - self.smoothing) + self.smoothing / 2
        return binary_cross_entropy_with_logits(logits, smoothed)
