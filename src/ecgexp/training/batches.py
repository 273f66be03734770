"""Batches as index selections of one tensor: no per-sample Python, no copies through a worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from ecgexp.datasets.base import Split

GIGABYTE = 10**9

Batch = tuple[Tensor, Tensor, Tensor]


def evaluation_batch(device: torch.device) -> int:
    """Records to evaluate at once: the same numbers whatever the batch size that is trained with."""
    return 512 if device.type == "cuda" else 64  # a GPU would wait for the next kernel, a CPU for memory


class Records:
    """The records of a split, ready for selection by index.

    Parameters
    ----------
    split : Split
        The records.
    memory_budget : float
        Bytes of signals to hold in memory; a larger split is read from its memory map batch by batch.
    device : torch.device
        Where the signals are held if they fit there.

    Attributes
    ----------
    device : torch.device
        Where batches come from.
    """

    def __init__(self, split: Split, memory_budget: float, device: torch.device) -> None:
        self.device = torch.device("cpu")
        self.targets = torch.from_numpy(split.targets.astype(np.float32))
        self._split = split
        self._signals: Tensor | None = None
        size = len(split) * split.signals[:1].nbytes
        if size > memory_budget:
            return
        if device.type == "cuda" and size > torch.cuda.mem_get_info(device)[0] / 2:
            device = torch.device("cpu")
        self.device = device
        self._signals = torch.from_numpy(split.signals[split.rows]).to(device)
        self.targets = self.targets.to(device)

    def __len__(self) -> int:
        return len(self._split)

    def select(self, index: Tensor) -> Batch:
        """Batch of the records at `index` (on `device`): signals (batch, leads, samples), targets, index."""
        if self._signals is not None:
            signals = self._signals.index_select(0, index)
        else:
            signals = torch.from_numpy(self._split.signals[self._split.rows[index.numpy()]])
        return signals.transpose(1, 2), self.targets.index_select(0, index), index


class Batches:
    """Batches of records, in order or shuffled anew in each epoch.

    An epoch's order depends on seed and epoch alone, so that a training resumed at an epoch sees what it
    would have seen. With several processes each takes its share of every batch; the records are padded by
    repetition to a multiple of their number.

    Parameters
    ----------
    records : Records
        What to select from.
    batch_size : int
        Records of a batch, over all processes; a multiple of `world_size`.
    seed : int, optional
        Shuffles; None keeps the order.
    epoch : callable
        Says which epoch it is.
    rank, world_size : int
        Of this process.
    """

    def __init__(
        self,
        records: Records,
        batch_size: int,
        *,
        seed: int | None = None,
        epoch: Callable[[], int] = lambda: 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.records, self.batch_size = records, batch_size // world_size
        self.seed, self.epoch = seed, epoch
        self.rank, self.world_size = rank, world_size

    def __len__(self) -> int:
        share = -(-len(self.records) // self.world_size)
        return -(-share // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        # copied once: a copy in each step would make a GPU wait for it
        for index in self._order().to(self.records.device).split(self.batch_size):
            yield self.records.select(index)

    def _order(self) -> Tensor:
        order = np.arange(len(self.records))
        if self.seed is not None:
            order = np.random.default_rng((self.seed, self.epoch())).permutation(order)
        share = -(-len(order) // self.world_size)
        return torch.from_numpy(np.resize(order, share * self.world_size)[self.rank :: self.world_size].copy())
