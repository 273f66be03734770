"""The time of a trial beside its training: start-up, tracking and Lightning, and how it grows.

Trials run through the real command line, on a net that trains in almost no time.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean

from benchmarks.bench import Figure, alternate, figure, finish, median, parse, parser, positive, seconds, stoppable
from benchmarks.commands import (
    Sweep,
    command,
    composition,
    imports,
    listings,
    measured,
    report,
    sweep_of,
    together,
    trial,
)
from benchmarks.train import take_turns, write_records
from ecgexp.datasets import Synthetic

PTBXL = 17_418  # records in folds 1 to 8 of PTB-XL
TINY = ["model=linear", "max_epochs=1", "dataset.records=200", "trainer=cpu", "trainer.threads=1"]


def main() -> None:
    """Measure, print, write."""
    found = parser(__doc__, runs=3)
    found.add_argument(
        "--trials", nargs="+", type=positive, default=[10, 90, 1000], help="sizes of sweeps of tiny trials"
    )
    found.add_argument("--records", nargs="+", type=positive, default=[1000, 5000, 21_799], help="sizes of datasets")
    help_ = "records of the epoch whose shares are measured (default 2,048)"
    found.add_argument("--epoch", type=positive, default=2048, help=help_)
    arguments = parse(found)
    parts: list[Callable[[Path], list[Figure]]] = [
        partial(start, runs=arguments.runs),
        partial(shares, runs=arguments.runs, threads=arguments.threads, records=arguments.epoch),
        partial(side_by_side, runs=arguments.runs),
        jobs,
        partial(datasets, runs=arguments.runs, sizes=arguments.records),
        partial(memory, runs=arguments.runs),
        lambda folder: [figure("trial", "Hydra's composition of one configuration", composition(folder), unit="s")],
        *(partial(sweep, size=size) for size in arguments.trials),
    ]
    with tempfile.TemporaryDirectory() as folder:
        for part in parts:
            finish(part(Path(folder)))


def start(folder: Path, runs: int) -> list[Figure]:
    """Seconds of whole commands: the help, a configuration and one tiny trial."""
    command(folder, *TINY)  # makes the records
    help_, config, bare = alternate(
        runs,
        lambda: command(folder, "--help"),
        lambda: command(folder, "--cfg", "job"),
        lambda: imports(folder),
    )
    trials = [trial(folder, *TINY) for _ in range(runs)]
    whole, step = (median([getattr(one, name) for one in trials]) for name in ("whole", "until_first_step"))
    name = "import of torch, Lightning and MLflow"
    return [
        figure("trial", "--help", median(help_), unit="s", target="1.5 s"),
        figure("trial", "--cfg job", median(config), unit="s"),
        figure("trial", "one tiny trial, all of it", whole, median(bare), name, "s"),
        figure("trial", "one tiny trial, until its first step", step, median(bare), name, "s"),
    ]


def shares(folder: Path, runs: int, threads: int, records: int) -> list[Figure]:
    """Time that Lightning and metrics, and then checkpoints and MLflow, add to an epoch of a bare loop over a net."""
    figures = []
    write_records(folder, records)
    for net, size, target in (
        ("ribeiro", 16, "6 %"),
        ("ribeiro", 256, "3 %"),
        ("rajpurkar", 16, "6 %"),
        ("rajpurkar", 256, "3 %"),
        ("linear", 16, ""),
    ):
        settings = {"folder": str(folder), "net": net, "batch_size": size, "precision": "fp32"}
        # PTB-XL has one validation record for eight training records
        settings |= {"threads": threads, "compile": False, "validation": max(1, records // 8)}
        times = take_turns(settings, {"tracked": (sys.executable, {})}, runs)["tracked"]
        if net == "linear":
            steps, name = records / size, "Lightning, metrics and tracking, per step of a tiny net"
            extra = median([(t["whole"] - t["bare"]) / steps for t in times])
            figures.append(figure("trial", name, 1e3 * extra, unit="ms", target="2 ms"))
            continue
        step = median([100 * ((t["train"] + t["evaluate"]) / t["bare"] - 1) for t in times])
        whole = median([100 * (t["whole"] / t["bare"] - 1) for t in times])
        for name, share, aim in (
            (f"Lightning and metrics, {records:,} records", step, ""),
            (f"Lightning, metrics, checkpoints and tracking, {records:,} records", whole, target),
            # the work at the end of an epoch does not grow with the epoch
            (f"the same, {PTBXL:,} records, computed", step + (whole - step) * records / PTBXL, target),
        ):
            figures.append(
                figure("trial", f"share of an epoch, {net} batch {size}: {name}", share, unit="%", target=aim)
            )
    return figures


def side_by_side(
    folder: Path, runs: int, records: int = 400, precisions: Sequence[str] = ("32", "bf16-mixed")
) -> list[Figure]:
    """Four trials: two processes with one thread each, compared with one process with two threads."""
    four, common = "lr=0.001,0.002,0.003,0.004", ["model=ribeiro", "max_epochs=2", "trainer=cpu"]
    ways = {
        "two": [four, "trainer.threads=1", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
        "one": [four, "trainer.threads=2"],
        "alone": ["lr=0.001,0.002", "trainer.threads=1"],  # each of two processes, if neither slowed the other
    }
    command(folder, *TINY, f"dataset.records={records}")

    def swept(precision: str, way: list[str]) -> Sweep:
        store = Path(tempfile.mkdtemp(dir=folder))  # always a new one, as MLflow keeps a deleted database open
        where = [f"dataset.records={records}", f"tracking.root={store}"]
        command(folder, "-m", *common, f"precision={precision}", *way, *where)
        found = sweep_of(store)
        shutil.rmtree(store)
        return found

    figures = []
    for precision in precisions:
        found = alternate(runs, *(partial(swept, precision, way) for way in ways.values()))
        trained = {name: median([s.trained for s in sweeps]) for name, sweeps in zip(ways, found, strict=True)}
        whole = {name: median([s.whole for s in sweeps]) for name, sweeps in zip(ways, found, strict=True)}
        name, peer = f"4 Ribeiro trials in {precision}, 2 at once", "1 at once, 2 threads"
        for what, ours, theirs, target in (
            ("training", trained["two"] / 2, trained["one"], "1.1"),
            ("training, if neither disturbed the other", trained["alone"], trained["one"], ""),
            ("all of it", whole["two"], whole["one"], ""),
        ):
            figures.append(figure("trial", f"{name}, {what}", ours, theirs, peer, "s", target=target))
    return figures


def jobs(folder: Path, trials: int = 40, numbers: Sequence[int] = (1, 2, 4)) -> list[Figure]:
    """The time of a tiny trial, and the memory of all processes, where several run at the same time."""
    figures = []
    command(folder, *TINY)  # makes the records
    for number in numbers:
        store = folder / f"jobs{number}"
        at_once = ["hydra/launcher=joblib", f"hydra.launcher.n_jobs={number}"] if number > 1 else []
        gigabytes = together(folder, "-m", *TINY, rates(trials), f"tracking.root={store}", *at_once)
        # without the first two of each process, which include its imports
        step, name = fmean(sweep_of(store).steps[2 * number :]), f"{trials} tiny trials, {number} at once"
        figures += [
            figure("trial", f"{name}: per trial", step, unit="s"),
            figure("trial", f"{name}: memory of all processes", gigabytes, unit="GB"),
        ]
    return figures


def datasets(folder: Path, runs: int, sizes: list[int]) -> list[Figure]:
    """Loading a cached dataset, the time of a command beside its one epoch, and memory, by size of the dataset."""
    figures = []
    for size in sizes:
        overrides, name = [*TINY, f"dataset.records={size}"], f"{size:,} cached records"
        command(folder, *overrides)
        loaded, trials = alternate(
            runs, partial(seconds, partial(_load, folder, size)), lambda w=overrides: trial(folder, *w)
        )
        figures += [
            figure("trial", f"{name}: loaded", median(loaded), unit="s", target="1 s"),
            figure(
                "trial",
                f"{name}: a command beside its one epoch",
                median([t.whole - t.epoch for t in trials]),
                unit="s",
            ),
            figure("trial", f"{name}: until the first step", median([t.until_first_step for t in trials]), unit="s"),
            figure("trial", f"{name}: memory of a tiny trial", median([t.gigabytes for t in trials]), unit="GB"),
        ]
    return figures


def _load(folder: Path, size: int) -> None:
    Synthetic(folder / "data/synthetic", cache_dir=folder / "data/cache", records=size).load("train")


def memory(folder: Path, runs: int, records: int = 1000) -> list[Figure]:
    """Memory of a whole trial through the command line."""
    overrides = ["batch_size=64", "max_epochs=1", f"dataset.records={records}", "trainer=cpu"]
    figures = []
    for net, target in (("ribeiro", "1.5 GB"), ("rajpurkar", "2.2 GB")):
        largest = median([trial(folder, f"model={net}", *overrides).gigabytes for _ in range(runs)])
        figures.append(figure("trial", f"memory of a trial of {net}, batch 64", largest, unit="GB", target=target))
    return figures


def sweep(folder: Path, size: int) -> list[Figure]:
    """Seconds per trial of a sweep, its memory, and the time of listing and reporting its trials."""
    place = folder / f"sweep{size}"
    place.mkdir()
    command(place, *TINY, "lr=0.5")  # records and imports
    whole, gigabytes = measured(place, "-m", *TINY, rates(size), f"sweep.name=n{size}")
    found = sweep_of(place)
    half = len(found.steps) // 2
    drift = median(found.steps[half:]) / median(found.steps[:half])
    page, everything = listings(place, 100, 2 * size)
    name = f"sweep of {size:,}"
    figures = [
        figure("trial", f"{name} tiny trials, per trial", median(found.steps), unit="s", target="0.5 s + Hydra"),
        figure("trial", f"{name}: second half over first half", drift, unit="times", target="1"),
        figure("trial", f"{name}: until the first trial began", found.before, unit="s"),
        figure("trial", f"{name}: all of it", whole, unit="s"),
        figure("trial", f"{name}: memory of the largest process", gigabytes, unit="GB"),
        figure("trial", f"{name}: a page of the UI's list, 100 runs", page, unit="s", target="seconds"),
        figure("trial", f"{name}: all runs in one list", everything, unit="s"),
        figure("trial", f"{name}: report", report(place), unit="s", target="seconds"),
    ]
    shutil.rmtree(place)
    return figures


def rates(number: int) -> str:
    """An override with so many learning rates."""
    return "lr=" + ",".join(str(round(1e-5 * (i + 1), 6)) for i in range(number))


if __name__ == "__main__":
    stoppable(main)
