"""The benchmarks of trials, metrics and preparation in miniature: each part runs and gives each figure."""

from __future__ import annotations

from functools import partial

import pytest

trial = pytest.importorskip("benchmarks.trial", reason="an installed package comes without the benchmarks")
from benchmarks import metrics, prepare  # noqa: E402

pytestmark = pytest.mark.slow
PARTS = {
    "start": (partial(trial.start, runs=1), 4),
    "shares": (partial(trial.shares, runs=1, threads=1, records=16), 13),
    "side by side": (partial(trial.side_by_side, runs=1, records=20, precisions=["32"]), 3),
    "jobs": (partial(trial.jobs, trials=8, numbers=[2]), 2),
    "datasets": (partial(trial.datasets, runs=1, sizes=[60]), 4),
    "memory": (partial(trial.memory, runs=1, records=20), 2),
    "sweep": (partial(trial.sweep, size=5), 8),
    "metrics": (lambda _: [*metrics.matrices(1), metrics.metrics(1), *metrics.intervals()], 6),
    "prepare": (partial(prepare.measure, records=60, runs=1), 4),
}


# Each of these starts processes that train.
LONG = ("start", "shares", "side by side", "jobs", "memory")


@pytest.mark.parametrize("part", [pytest.param(part, marks=[pytest.mark.full] * (part in LONG)) for part in PARTS])
def test_a_part_has_its_figures(tmp_path, part):
    measure, number = PARTS[part]
    figures = measure(tmp_path)
    assert len({one.figure + one.peer_name for one in figures}) == number
    # the difference to a bare loop may be negative for such a short epoch
    assert all(one.ours > 0 for one in figures if one.unit not in ("%", "ms"))
