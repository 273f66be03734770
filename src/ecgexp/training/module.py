"""The training step and the metrics of an epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from ecgexp.targets import Target
from ecgexp.tracking.names import split_metric
from ecgexp.training import compiled
from ecgexp.training.batches import Batch, Inputs, batch_size
from ecgexp.training.network import measure


class Diverged(Exception):
    """The loss is no longer finite: a result of the trial, not a failure."""


class TrainingModule(pl.LightningModule):
    """Trains a net on labelled records and measures each epoch.

    Parameters
    ----------
    net : nn.Module
        Maps the stored inputs of a batch to logits (batch, outputs); see `Network`.
    loss : callable
        Maps ``(logits, targets)`` to a scalar mean.
    optimizer : callable
        Maps parameters to an optimizer.
    schedule : callable, optional
        Maps an optimizer to a learning-rate schedule; with ``interval='step'`` also called with ``total_steps``.
    interval : {'epoch', 'step'}
        When the schedule steps.
    monitor : str
        Metric that a plateau schedule watches.
    target : Target
        The target that the net predicts; it measures the predictions.
    compile_for : int, optional
        Size of the training batches for which the net is compiled. Other batches, such as the last of an epoch, run
        without compilation. None: nothing is compiled.
    still : sequence of nn.Module
        Layers of the net that stay in evaluation mode, since their statistics are frozen.
    """

    def __init__(
        self,
        net: nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor],
        optimizer: Callable[[Iterable[Tensor]], torch.optim.Optimizer],
        schedule: Callable[..., Any] | None,
        interval: str,
        monitor: str,
        target: Target,
        compile_for: int | None = None,
        still: Sequence[nn.Module] = (),
    ) -> None:
        super().__init__()
        self.net, self.loss, self.compile_for = net, loss, compile_for
        self.optimizer, self.schedule, self.interval, self.monitor = optimizer, schedule, interval, monitor
        self.target = target
        self._seen: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {"train": [], "val": []}
        self._scheduler: Any = None
        self._restored: dict[str, Any] = {}
        self._still = tuple(still)
        self._keep_still()

    def train(self, mode: bool = True) -> TrainingModule:
        """Go into training mode, but for frozen statistics."""
        super().train(mode)
        self._keep_still()
        return self

    def forward(self, inputs: Inputs) -> Tensor:
        """Logits, (batch, outputs)."""
        # evaluation is not compiled: its batches are large enough to keep a GPU busy
        if self.training and batch_size(inputs) == self.compile_for:
            return compiled.forward(self.net, inputs)
        return self.net(inputs)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        """Loss of a batch; None if the net has nothing to train."""
        loss = self._step("train", batch)
        # Reading the loss in each step would stall a GPU; there only the loss of the epoch is checked.
        if loss.device.type == "cpu" and self._any_rank(not torch.isfinite(loss)):
            raise Diverged
        return loss if loss.requires_grad else None

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Store the logits for the metrics of the epoch."""
        self._step("val", batch)

    def on_train_start(self) -> None:
        """Restore the schedule and random state of an interrupted training; the optimizers exist only now."""
        if not self._restored:
            return
        if self._scheduler is not None:
            self._scheduler.load_state_dict(self._restored["schedule"])
        torch.set_rng_state(self._restored["rng"].cpu())
        if self.device.type == "cuda" and "cuda_rng" in self._restored:
            torch.cuda.set_rng_state(self._restored["cuda_rng"].cpu(), self.device)
        self._restored = {}

    def on_train_epoch_start(self) -> None:
        """Discard the logits of an interrupted epoch."""
        for seen in self._seen.values():
            seen.clear()

    def on_validation_epoch_end(self) -> None:
        """Measure both splits: Lightning validates before the training epoch ends."""
        for split in ("train", "val"):
            if self._seen[split]:
                metrics = self._measure(split)
                # Tensors stay on the CPU; Lightning would copy numbers to the GPU, and read them back one by one.
                self.log_dict({split_metric(split, name): torch.tensor(value) for name, value in metrics.items()})

    def configure_optimizers(self) -> torch.optim.Optimizer | None:
        """Optimizer; None if the net has nothing to train."""
        parameters = [p for p in self.parameters() if p.requires_grad]
        if not parameters:
            return None
        optimizer = self.optimizer(parameters)
        if self.schedule is not None and self.interval == "step":
            self._scheduler = self.schedule(optimizer, total_steps=int(self.trainer.estimated_stepping_batches))
        elif self.schedule is not None:
            self._scheduler = self.schedule(optimizer)
        return optimizer

    # Lightning steps the schedule after it writes the epoch's checkpoint, so a resumed training would lack that step.
    # Hence the schedule is stepped here.

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Step a schedule that counts steps."""
        if self._scheduler is not None and self.interval == "step":
            self._scheduler.step()

    def on_train_epoch_end(self) -> None:
        """Step a schedule that counts epochs."""
        if self._scheduler is None or self.interval == "step":
            return
        if isinstance(self._scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            self._scheduler.step(float(self.trainer.callback_metrics[self.monitor]))
        else:
            self._scheduler.step()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the schedule and the random state (for dropout) to the checkpoint."""
        state: dict[str, Any] = {"rng": torch.get_rng_state()}
        if self._scheduler is not None:
            state["schedule"] = self._scheduler.state_dict()
        if self.device.type == "cuda":
            state["cuda_rng"] = torch.cuda.get_rng_state(self.device)
        checkpoint["ecgexp"] = state

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Read what `on_save_checkpoint` added."""
        self._restored = checkpoint["ecgexp"]

    def _keep_still(self) -> None:
        for layer in self._still:
            layer.eval()

    def _any_rank(self, here: bool) -> bool:
        """Whether `here` is true in any process: if one stopped alone, the others would wait for it."""
        if self.trainer.world_size == 1:
            return here
        return bool(self.trainer.strategy.reduce_boolean_decision(here, all=False))

    def _step(self, split: str, batch: Batch) -> Tensor:
        inputs, targets, index = batch
        logits = self(inputs)
        # a copy: a compiled net writes its next logits to the same place
        self._seen[split].append((index, logits.detach().to(torch.float32, copy=True), targets))
        return self.loss(logits, targets)

    def _measure(self, split: str) -> dict[str, float]:
        index, logits, targets = (torch.cat(parts) for parts in zip(*self._seen[split], strict=True))
        self._seen[split].clear()
        if self.trainer.world_size > 1:
            index, logits, targets = (
                torch.as_tensor(self.all_gather(part)).flatten(0, 1) for part in (index, logits, targets)
            )
        index, first = _unique(index)
        metrics, _ = measure(logits[first], targets[first], self.loss, self.target)
        if not np.isfinite(metrics["loss"]):
            raise Diverged
        return metrics


def _unique(index: Tensor) -> tuple[Tensor, Tensor]:
    """Sorted unique values and the position of each: undoes shuffling, and removes repeated records."""
    order = torch.argsort(index, stable=True)
    ordered = index[order]
    keep = torch.ones_like(ordered, dtype=torch.bool)
    keep[1:] = ordered[1:] != ordered[:-1]
    return ordered[keep], order[keep]
