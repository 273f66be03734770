"""The splits of a dataset, in the form that Lightning's trainer needs."""

from __future__ import annotations

import pytorch_lightning as pl
import torch

from ecgexp.datasets.base import Dataset, Split, SplitName
from ecgexp.training.batches import GIGABYTE, Batches, Records, evaluation_batch


class TrainingData(pl.LightningDataModule):
    """Training and validation batches ``(inputs, targets, index)`` of a dataset.

    Inputs are those of `Records.select`: a signal is (batch, leads, samples), a view of (batch, samples, leads) in
    memory. Targets are float32 (batch, names). The index is the position of each record in its split.

    Parameters
    ----------
    dataset : Dataset
        Its training and validation splits are read here.
    batch_size, seed : int
        Batch size and seed of the training.
    memory_budget : float
        GB of inputs of a split to hold in memory.
    """

    def __init__(self, dataset: Dataset, batch_size: int, seed: int, memory_budget: float) -> None:
        super().__init__()
        self.splits: dict[SplitName, Split] = {"train": dataset.load("train"), "val": dataset.load("val")}
        self.inputs = dataset.inputs
        self.batch_size, self.seed, self.memory_budget = batch_size, seed, memory_budget * GIGABYTE
        self._records: dict[SplitName, Records] = {}

    def records(self, split: SplitName, device: torch.device) -> Records:
        """Records of a split on a device, loaded once."""
        if split not in self._records:
            self._records[split] = Records(self.splits[split], self.inputs, self.memory_budget, device)
        return self._records[split]

    def train_dataloader(self) -> Batches:
        """Shuffled batches of the training split."""
        trainer = self.trainer
        assert trainer is not None
        return Batches(
            self.records("train", trainer.strategy.root_device),
            self.batch_size,
            seed=self.seed,
            epoch=lambda: trainer.current_epoch,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
        )

    def val_dataloader(self) -> Batches:
        """Batches of the validation split, in order."""
        trainer = self.trainer
        assert trainer is not None
        device = trainer.strategy.root_device
        size = evaluation_batch(device) * trainer.world_size
        records = self.records("val", device)
        return Batches(records, size, rank=trainer.global_rank, world_size=trainer.world_size)
