"""Lightning callbacks: history, checkpoints, pruning, early stopping and progress."""

from __future__ import annotations

import logging
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, Checkpoint, EarlyStopping, TQDMProgressBar
from pytorch_lightning.plugins import TorchCheckpointIO
from torch import Tensor

from ecgexp.errors import UserError, summarised
from ecgexp.fast.training import declare_contiguous, keep_freed_memory
from ecgexp.saved import load_tensors
from ecgexp.tracking.names import EPOCH_SECONDS, LEARNING_RATE

logger = logging.getLogger(__name__)

LAST = "last.ckpt"


class History(Callback):
    """Collects the metrics of each epoch, including those before an interruption.

    Parameters
    ----------
    log : callable
        Called once per epoch, and before the first one of a resumed training, with all epochs so far.
    """

    def __init__(self, log: Callable[[list[dict[str, float]]], None]) -> None:
        self.epochs: list[dict[str, float]] = []
        self._log = log
        self._started = 0.0
        self._rate: dict[str, float] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the earlier epochs again, since an interruption may have prevented that."""
        self._log(self.epochs)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock, and store the learning rate before the schedule steps."""
        self._started = time.perf_counter()
        groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
        # a net without parameters has no optimizer
        self._rate = {LEARNING_RATE: float(groups[0]["lr"])} if groups else {}

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Collect all metrics of the epoch, and log them together."""
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        seconds = time.perf_counter() - self._started
        self.epochs.append({**metrics, **self._rate, EPOCH_SECONDS: seconds})
        self._log(self.epochs)

    def state_dict(self) -> dict[str, Any]:
        """The epochs so far."""
        return {"epochs": self.epochs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the epochs of an interrupted training."""
        self.epochs = state_dict["epochs"]


class Faster(Callback):
    """Makes each step faster on a CPU, see `ecgexp.fast.training`."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Prepare this process."""
        keep_freed_memory()

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Avoid a copy of each gradient in a fused update on a CPU."""
        if pl_module.device.type == "cpu" and optimizer.defaults.get("fused"):
            declare_contiguous(parameter for group in optimizer.param_groups for parameter in group["params"])


class Checkpoints(Checkpoint):
    """Saves the best weights, and the whole state of training after each epoch, safe against a kill.

    Lightning's own callback overwrites the best weights before it writes the state that refers to them. Here each
    file is written under a temporary name, flushed to the disk, and renamed. The state contains the weights of its
    epoch. If an earlier epoch was better, its weights are written first, then the state that names them. Only then
    are older weights removed.

    Parameters
    ----------
    folder : Path, optional
        Folder of the files; None in processes that write nothing.
    monitor : str
        Metric that decides which epoch is best.
    mode : {'min', 'max'}
        Which values of `monitor` are better.
    share : float
        Largest share of the time that writing may take, above 0 and at most 1. If epochs are too short, some are not
        written. With 1, each epoch is written.
    """

    def __init__(self, folder: Path | None, monitor: str, mode: str, share: float = 1.0) -> None:
        self.folder, self.monitor, self.sign = folder, monitor, 1 if mode == "max" else -1
        self.best_epoch: int | None = None
        self.best_value = math.nan
        self._best: dict[str, Tensor] = {}
        self._written: int | None = None
        self._wait, self._next = 1 / share - 1, 0.0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write the state in the same safe way as the weights, unless the trainer has its own checkpoint IO."""
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = _Durable()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save; called after all other callbacks and the learning-rate schedule."""
        value = float(trainer.callback_metrics[self.monitor])
        if self.best_epoch is None or self.sign * value > self.sign * self.best_value:
            self.best_epoch, self.best_value = trainer.current_epoch, value
            if self.folder is not None:
                self._best = {name: tensor.clone() for name, tensor in pl_module.state_dict().items()}
        begun = time.perf_counter()
        # saving needs all ranks
        if trainer.strategy.broadcast(begun >= self._next):
            self._save(trainer)
            ended = time.perf_counter()
            self._next = ended + self._wait * (ended - begun)

    def best_weights(self) -> dict[str, Tensor]:
        """State of the module after the best epoch."""
        return self._best or load_tensors(self._best_path)

    @property
    def _best_path(self) -> Path:
        assert self.folder is not None
        return _best_path(self.folder, self.best_epoch)

    def _save(self, trainer: pl.Trainer) -> None:
        if self.folder is None:
            if trainer.world_size > 1:  # all ranks take part, but this one writes nothing
                with tempfile.TemporaryDirectory() as temporary:
                    trainer.save_checkpoint(Path(temporary) / LAST)
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.best_epoch not in (trainer.current_epoch, self._written):
            _write(self._best, self._best_path)
            self._written = self.best_epoch
        trainer.save_checkpoint(self.folder / LAST)
        for path in self.folder.glob("best-*.pt"):
            if path != self._best_path:
                path.unlink()

    def state_dict(self) -> dict[str, Any]:
        """The best epoch and its value."""
        return {"best_epoch": self.best_epoch, "best_value": self.best_value}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Restore the best weights if the state contains them."""
        if checkpoint["callbacks"][self.state_key]["best_epoch"] == checkpoint["epoch"]:
            self._best = checkpoint["state_dict"]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best epoch and its value."""
        self.best_epoch, self.best_value = state_dict["best_epoch"], state_dict["best_value"]
        self._written = None if self._best else self.best_epoch


def find_checkpoint(folder: Path) -> tuple[Path | None, bool]:
    """Find the checkpoint of an interrupted training, with its best weights.

    Parameters
    ----------
    folder : Path
        The folder of `Checkpoints`.

    Returns
    -------
    checkpoint : Path or None
        Its path; None if there is none, or if it is damaged.
    damaged : bool
        Whether it was damaged. It is then renamed, and the training starts from the beginning.
    """
    path = folder / LAST
    if not path.exists():
        return None, False
    try:
        state = load_tensors(path)
        best = state["callbacks"][Checkpoints.__qualname__]["best_epoch"]
        if best not in (None, state["epoch"]):
            load_tensors(_best_path(folder, best))
    except (UserError, KeyError, TypeError) as error:
        renamed = path.replace(folder / f"{LAST}.damaged")
        logger.warning("The training starts again, since its checkpoint is damaged: it is now %s. %s", renamed, error)
        return None, True
    return path, False


class Pruning(Callback):
    """Stops the training of a trial that is pruned.

    Parameters
    ----------
    history : History
        The epochs so far; it must come before this callback.
    should_prune : callable
        Called after each epoch with all epochs so far; returns whether to stop. Rank 0 decides for all.

    Attributes
    ----------
    pruned : bool
        Whether the training was stopped.
    """

    def __init__(self, history: History, should_prune: Callable[[list[dict[str, float]]], bool]) -> None:
        self.pruned = False
        self._history, self._should_prune = history, should_prune

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Call `should_prune`; stop, unless this was the last epoch anyway."""
        stop = trainer.strategy.broadcast(self._should_prune(self._history.epochs))
        if stop and not trainer.should_stop and trainer.current_epoch + 1 != trainer.max_epochs:
            self.pruned = trainer.should_stop = True


class Patience(EarlyStopping):
    """Early stopping that also stops a resumed training whose patience was already used up."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop before a further epoch if patience is used up."""
        if self.wait_count >= self.patience:
            trainer.should_stop = True


def progress(shown: tuple[str, ...]) -> Callback:
    """Progress display with the `shown` metrics: a bar in a terminal, else a line per epoch."""
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


def _best_path(folder: Path, epoch: int | None) -> Path:
    return folder / f"best-{epoch}.pt"


class _Durable(TorchCheckpointIO):
    # Lightning builds the whole file in memory first, which takes longer than writing it.
    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        _write(checkpoint, Path(path))


def _write(content: dict[str, Any], path: Path) -> None:
    temporary = path.with_name(path.name + ".part")
    try:
        with temporary.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        # torch's own error hides the cause of a failed write
        cause = error.__context__ if isinstance(error, RuntimeError) else error
        if isinstance(cause, OSError):
            raise UserError(f"{path} cannot be written: {summarised(cause)}.") from error
        if isinstance(cause, (SystemExit, KeyboardInterrupt)):
            raise cause from None
        raise
    temporary.replace(path)
