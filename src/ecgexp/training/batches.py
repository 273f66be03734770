"""Batches as index selections of whole tensors: no per-record Python, no copies through a worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ecgexp.datasets.base import Input, Split

GIGABYTE = 10**9

Inputs = Tensor | dict[str, Tensor]
"""Inputs of a net: a tensor (batch, ...), or several by name."""

Batch = tuple[Inputs, Tensor, Tensor]


def evaluation_batch(device: torch.device) -> int:
    """Records to evaluate at once: independent of the batch size of the training, so that metrics are, too."""
    return 512 if device.type == "cuda" else 64  # small batches stall a GPU, large ones a CPU


class Records:
    """The records of a split, ready for selection by index.

    Parameters
    ----------
    split : Split
        The records.
    inputs : sequence of Input
        The inputs of its dataset.
    memory_budget : float
        Bytes of inputs to hold in memory, the smallest inputs first. Others are read from their memory map batch by
        batch.
    device : torch.device
        Device that holds the inputs, in their stored type, if all of them fit there.

    Attributes
    ----------
    device : torch.device
        Device of the batches.
    targets : float32 Tensor, (records, ...)
        Targets of all records, on that device.
    """

    def __init__(self, split: Split, inputs: Sequence[Input], memory_budget: float, device: torch.device) -> None:
        self._rows = split.rows
        self._orders = {one.name: one.order for one in inputs}
        arrays = {one.name: split.inputs[one.name] for one in inputs}
        sizes = {name: len(split) * array[:1].nbytes for name, array in arrays.items()}
        held, total = set(), 0
        for name in sorted(sizes, key=sizes.__getitem__):
            total += sizes[name]
            if total <= memory_budget:
                held.add(name)
        self._mapped = {name: array for name, array in arrays.items() if name not in held}
        if self._mapped or (device.type == "cuda" and total > torch.cuda.mem_get_info(device)[0] / 2):
            device = torch.device("cpu")
        self.device = device
        self._held = {name: torch.from_numpy(arrays[name][split.rows]).to(device) for name in arrays if name in held}
        self.targets = torch.from_numpy(split.targets.astype(np.float32)).to(device)

    def __len__(self) -> int:
        return len(self._rows)

    def select(self, index: Tensor) -> Batch:
        """Batch of the records at `index` (on `device`): inputs, targets, index.

        Inputs are (batch, ...) with the axes of their `Input`: a view of the stored data, in the stored type. They
        are one tensor, or a dictionary by name if the dataset has several.
        """
        selected = {name: tensor.index_select(0, index) for name, tensor in self._held.items()}
        if self._mapped:
            rows = self._rows[index.numpy()]
            selected |= {name: torch.from_numpy(array[rows]) for name, array in self._mapped.items()}
        inputs = {name: selected[name].permute(order) for name, order in self._orders.items()}
        only = len(inputs) == 1
        return next(iter(inputs.values())) if only else inputs, self.targets.index_select(0, index), index


def tensors(arrays: NDArray[Any] | Mapping[str, NDArray[Any]]) -> Inputs:
    """Inputs from arrays."""
    if isinstance(arrays, Mapping):
        return {name: torch.from_numpy(array) for name, array in arrays.items()}
    return torch.from_numpy(arrays)


def moved(inputs: Inputs, device: torch.device) -> Inputs:
    """Inputs on a device."""
    if isinstance(inputs, Tensor):
        return inputs.to(device)
    return {name: one.to(device) for name, one in inputs.items()}


def batch_size(inputs: Inputs) -> int:
    """Records of a batch."""
    return len(inputs if isinstance(inputs, Tensor) else next(iter(inputs.values())))


class Batches:
    """Batches of records, in order, or newly shuffled in each epoch.

    The order depends only on seed and epoch, so a resumed training sees the same batches. With several processes
    each takes its share of every batch. Records are repeated until all shares are equal.

    Parameters
    ----------
    records : Records
        The records to select from.
    batch_size : int
        Records of a batch, over all processes; a multiple of `world_size`.
    seed : int, optional
        Seed of the shuffling; None keeps the order.
    epoch : callable
        Returns the current epoch.
    rank, world_size : int
        Rank of this process, and number of processes.
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
        # copied once: a copy in each step would stall a GPU
        for index in self._order().to(self.records.device).split(self.batch_size):
            yield self.records.select(index)

    def _order(self) -> Tensor:
        order = np.arange(len(self.records))
        if self.seed is not None:
            order = np.random.default_rng((self.seed, self.epoch())).permutation(order)
        share = -(-len(order) // self.world_size)
        return torch.from_numpy(np.resize(order, share * self.world_size)[self.rank :: self.world_size].copy())
