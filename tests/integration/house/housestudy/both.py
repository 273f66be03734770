"""A net that takes two inputs by their names."""

import torch
from torch import Tensor, nn


class Both(nn.Module):
    """A small convolution over the signal, beside the table."""

    def __init__(self, leads: int, samples: int, features: int, outputs: int, width: int = 8) -> None:
        super().__init__()
        self.signal = nn.Sequential(nn.Conv1d(leads, width, 9, stride=4), nn.ReLU(), nn.Flatten())
        self.head = nn.Linear(width * ((samples - 9) // 4 + 1) + features, outputs)

    def forward(self, signal: Tensor, tabular: Tensor) -> Tensor:
        """Logits (batch, outputs) from (batch, leads, samples) and (batch, features)."""
        return self.head(torch.cat([self.signal(signal), tabular], dim=1))
