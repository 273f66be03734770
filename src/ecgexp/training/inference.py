"""Runs a net over records, without training."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import repeat
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ecgexp.datasets.base import Split
from ecgexp.targets import Target
from ecgexp.training.batches import Batches, Inputs, Records, evaluation_batch, moved
from ecgexp.training.network import measure
from ecgexp.training.predictions import Predictions

if TYPE_CHECKING:
    from ecgexp.metrics.evaluation import Evaluation

Context = Callable[[], AbstractContextManager[Any]]
"""Returns the context of the computation of a batch, such as another precision."""


def run_net(
    net: Callable[[Inputs], Tensor], batches: Iterable[Inputs], device: torch.device, context: Context = nullcontext
) -> Iterator[Tensor]:
    """Outputs of a net for batches of records, one after another.

    Parameters
    ----------
    net : callable
        The net, in evaluation mode, on `device`.
    batches : iterable of Tensor, or of dict of str to Tensor
        Inputs of records; several inputs by name.
    device : torch.device
        Device of the computation.
    context : callable
        Returns the context of the computation of a batch.

    Yields
    ------
    float32 Tensor, (batch, outputs)
        On `device`, without gradients.
    """
    for inputs in batches:
        with torch.no_grad(), context():
            outputs = net(moved(inputs, device)).float()
        yield outputs


def logits_of(network: nn.Module, records: Records, device: torch.device, context: Context = nullcontext) -> Tensor:
    """Logits of all records in order, (records, outputs), on the CPU; leaves the network in evaluation mode."""
    batches = (inputs for inputs, _, _ in Batches(records, evaluation_batch(device)))
    return torch.cat([*run_net(network.to(device).eval(), batches, device, context)]).cpu()


def predictions_of(split: Split, logits: Tensor, target: Target) -> Predictions:
    """Predictions for a split from logits, (records, outputs)."""
    with torch.no_grad():
        probabilities = target.activation()(logits)
    return Predictions(split.ids, split.targets, probabilities.numpy(), target, split.patients, logits.numpy())


def measure_predictions(
    predictions: Predictions, loss: Callable[[Tensor, Tensor], Tensor], target: Target | None = None
) -> Evaluation:
    """Loss and metrics of predictions that have logits, by their target or by another one of the same kind."""
    assert predictions.logits is not None
    targets = torch.from_numpy(predictions.targets.astype(np.float32))
    return measure(torch.from_numpy(predictions.logits), targets, loss, target or predictions.target)


def latency(network: nn.Module, record: Inputs, device: torch.device, context: Context = nullcontext) -> float:
    """Milliseconds that a network takes for one record: the median of ten passes, after one that is not counted.

    Parameters
    ----------
    network : nn.Module
        The network; afterwards it is in evaluation mode.
    record : Tensor, or dict of str to Tensor
        Inputs of one record.
    device : torch.device
        Device of the computation.
    context : callable
        Returns the context of the computation.
    """
    passes = run_net(network.to(device).eval(), repeat(moved(record, device)), device, context)
    times = []
    for _ in range(11):
        start = time.perf_counter()
        next(passes).cpu()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times[1:])
