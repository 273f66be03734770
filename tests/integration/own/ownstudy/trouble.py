"""A net that can bring its process into any trouble that a real one can."""

from __future__ import annotations

import os
import signal
import sys
from typing import Literal

import torch
from torch import Tensor, nn


class Trouble(nn.Module):
    def __init__(
        self,
        leads: int,
        samples: int,
        outputs: int,
        manner: Literal["none", "raises", "killed", "crashes", "leaves", "exits", "allocates", "diverges"] = "none",
    ) -> None:
        super().__init__()
        self.manner = manner
        self.layer = nn.Linear(leads, outputs)
        self.steps = 0

    def forward(self, signals: Tensor) -> Tensor:
        if self.training:
            self.steps += 1
            if self.manner == "raises":
                raise ValueError("this net raises")
            if self.manner == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.manner == "crashes":
                os.kill(os.getpid(), signal.SIGSEGV)
            if self.manner == "leaves":
                os._exit(3)
            if self.manner == "exits":
                sys.exit(0)
            if self.manner == "allocates":
                torch.empty(10**15)
        logits = self.layer(signals.std(dim=2))
        return logits * torch.inf if self.training and self.manner == "diverges" else logits
