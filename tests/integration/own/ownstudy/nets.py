"""Nets as a user would write them: nothing here knows of ecgexp."""

import os

import torch
from torch import nn


class Deviations(nn.Module):
    """Logistic regression on the standard deviation of each lead, without any statistics of batches."""

    def __init__(self, leads: int, samples: int, outputs: int) -> None:
        super().__init__()
        self.samples = samples
        self.head = nn.Linear(leads, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.shape[2] == self.samples
        return self.head(10 * x.std(dim=-1))


class Breaks(Deviations):
    """The same, but for an error where it is told to raise one."""

    def __init__(self, leads: int, samples: int, outputs: int, breaks: bool = False) -> None:
        super().__init__(leads, samples, outputs)
        self.breaks = breaks

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.breaks:
            raise ArithmeticError("the net of the user broke")
        return super().forward(x)


class Deep(nn.Module):
    """Many layers that nothing normalizes: what their weights grow by is multiplied."""

    def __init__(self, leads: int, samples: int, outputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(leads, leads) for _ in range(8)), nn.Linear(leads, outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x.std(dim=-1))


class Wrong(Deviations):
    """A net whose layer some library computes wrongly in bfloat16: all its numbers are another's."""

    def __init__(self, leads: int, samples: int, outputs: int) -> None:
        super().__init__(leads, samples, outputs)
        self.head = Rolled(leads, outputs)


class Rolled(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).roll(int(torch.is_autocast_enabled("cpu")), -1)


class Overflows(Deviations):
    """The same, but for logits that overflow in one of several processes alone, as one extreme record makes them."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        overflows = self.training and os.environ.get("LOCAL_RANK") == "1"
        return super().forward(x) * (float("inf") if overflows else 1)


class Exits(Deviations):
    """The same, but for one of several processes that ends in the midst of training."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and os.environ.get("LOCAL_RANK") == "1":
            os._exit(9)
        return super().forward(x)
