"""The multi-label confusion matrix, compared with the public package, and the bootstrap of a whole study."""

from __future__ import annotations

from collections.abc import Callable
from timeit import Timer

import numpy as np
import torch

from benchmarks.bench import Figure, alternate, figure, finish, median, package, parse, parser, seconds, stoppable
from ecgexp.metrics import classification_metrics, mlcm, weighted
from ecgexp.statistics import Scorer, bootstrap, score_in_blocks


def main() -> None:
    """Measure, print, write."""
    arguments = parse(parser(__doc__, runs=5))
    torch.set_num_threads(arguments.threads)
    finish([*matrices(arguments.runs), metrics(arguments.runs), *intervals()])


def matrices(runs: int) -> list[Figure]:
    """One matrix of many records."""
    # the public package needs names that NumPy has removed
    np.int, np.float = int, float  # type: ignore[attr-defined]  # noqa: NPY001
    from mlcm import mlcm as published

    figures = []
    for records, labels in ((2_000, 5), (20_000, 5), (20_000, 71)):
        probabilities, targets = _outputs(records, labels)
        predicted, true = (probabilities > 0.5).numpy().astype(int), targets.numpy().astype(int)
        ours, theirs = alternate(
            runs if labels == 5 else 1,
            lambda p=probabilities, t=targets, n=labels: per_call(lambda: mlcm(p, t, n)),
            lambda p=predicted, t=true: per_call(lambda: published.cm(t, p, False)),
        )
        name = f"MLCM of {records:,} x {labels}"
        target = "300" if (records, labels) == (20_000, 5) else ""
        peer = package("mlcm")
        figures.append(figure("metrics", name, 1e3 * median(ours), 1e3 * median(theirs), peer, "ms", target=target))
    return figures


def metrics(runs: int) -> Figure:
    """All metrics of an epoch with as many records as PTB-XL."""
    probabilities, targets = _outputs(17_000, 5)
    names = tuple("abcde")
    (ours,) = alternate(runs, lambda: per_call(lambda: classification_metrics(probabilities, targets, names, 0.5)))
    return figure("metrics", "all metrics of an epoch, 17,000 x 5", 1e3 * median(ours), unit="ms")


def intervals() -> list[Figure]:
    """Intervals and simultaneous comparison of trials, 1,000 resamples of the patients of 2,000 records."""
    figures = []
    for trials in (10, 90):
        targets, patients = _outputs(2_000, 5)[1].numpy() == 1, np.arange(2_000) // 1.1
        scorers = [_scorer(_outputs(2_000, 5, seed)[0].numpy(), targets) for seed in range(trials)]
        required = np.column_stack([targets, ~targets.any(axis=1)])
        took = seconds(lambda s=scorers, r=required, p=patients: bootstrap(s, r, p, ["mlcm_f1_macro", "auroc_macro"]))
        figures.append(figure("metrics", f"bootstrap of {trials} trials x 2,000 records", took, unit="s"))
    return figures


def _scorer(probabilities: np.ndarray, targets: np.ndarray) -> Scorer:
    functions = weighted.mlcm_f1_macro, weighted.auroc_macro
    return lambda weights: score_in_blocks([function(probabilities, targets) for function in functions], weights)


def per_call(function: Callable[[], object]) -> float:
    """Seconds of one call: the mean over calls that take at least 0.2 s together."""
    calls, took = Timer(function).autorange()
    return took / calls


def _outputs(records: int, labels: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Targets, and probabilities that are correlated with them."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.rand(records, labels, generator=generator) < (0.3 if labels < 10 else 0.04)
    noise = torch.randn(records, labels, generator=torch.Generator().manual_seed(seed + 1))
    return (2 * targets - 1 + noise).sigmoid(), targets.to(torch.uint8)


if __name__ == "__main__":
    stoppable(main)
