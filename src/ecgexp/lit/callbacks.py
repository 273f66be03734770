"""What happens around an epoch."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, TQDMProgressBar


class History(Callback):
    """Keeps each epoch's metrics and hands them on.

    Parameters
    ----------
    log : callable
        Called once per epoch with the metrics and the epoch's number, from 0.
    """

    def __init__(self, log: Callable[[dict[str, float], int], None]) -> None:
        self.epochs: list[dict[str, float]] = []
        self._log = log
        self._started = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._started = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Collect, one call for all metrics of the epoch."""
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        metrics["epoch_seconds"] = time.perf_counter() - self._started
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups[:1]:  # none where the net has nothing to train
                metrics["lr"] = group["lr"]
        self.epochs.append(metrics)
        self._log(metrics, trainer.current_epoch)


def progress(shown: tuple[str, ...]) -> Callback:
    """Progress display: a bar in a terminal, a line per epoch elsewhere, with the `shown` metrics."""
    return _Bar(shown) if sys.stderr.isatty() else _Lines(shown)


class _Bar(TQDMProgressBar):
    def __init__(self, shown: tuple[str, ...]) -> None:
        super().__init__(refresh_rate=1)
        self._shown = shown

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        return _select(trainer, self._shown)


class _Lines(Callback):
    def __init__(self, shown: tuple[str, ...]) -> None:
        self._shown = shown

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        values = "  ".join(f"{name} {value}" for name, value in _select(trainer, self._shown).items())
        print(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  {values}", file=sys.stderr, flush=True)


def _select(trainer: pl.Trainer, shown: tuple[str, ...]) -> dict[str, str]:
    metrics = trainer.callback_metrics
    return {name: f"{float(metrics[name]):.3f}" for name in shown if name in metrics}
