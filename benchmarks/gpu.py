"""Training on a GPU: compared with plain PyTorch and Keras on JAX, as whole trials, and projected to the 90 trials.

There are three steps, which write their figures to benchmarks/results. The first may be split by net, precision and
batch size into calls of less than ten minutes, the second by net and by number of trials at the same time. The last
only computes from the figures of the others:

    python -m benchmarks.gpu train --nets ribeiro --precisions bf16
    python -m benchmarks.gpu trials --nets ribeiro
    python -m benchmarks.gpu project

Keras runs on JAX: pip install keras 'jax[cuda13]'. On a machine without network, benchmarks/gpu.sh installs the
packages from wheels, and runs all steps in calls of less than ten minutes. To try it out where there is no GPU:

    python -m benchmarks.gpu train --device cpu --records 64 --batch-sizes 16 --runs 1
    python -m benchmarks.gpu trials --device cpu --records 64 --batch-sizes 16 --at-once 1 --epochs 1

The 90 trials themselves, on generated records; after an interruption the same command resumes:

    python -m ecgexp -m experiment=leandro2023 dataset=synthetic dataset.records=21799 precision=bf16-mixed \
        trainer=gpu hydra/launcher=joblib hydra.launcher.n_jobs=4 sweep.name=gpu
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import bench
from benchmarks.bench import Figure, figure, finish, median, package, positive, processor, program, stoppable
from benchmarks.commands import command, open_store_of
from benchmarks.train import DTYPES, SIGNAL_NETS, flops, matrix_rate, speeds, take_turns, write_records

STEPS = 256  # of a timed epoch; fewer where there are not enough records
PRECISIONS = {"fp32": "32", "bf16": "bf16-mixed"}
SIZES, TRIALS_OF_EACH = (16, 32, 64, 128, 256), 9  # of leandro2023, for each net
FULL = 21_799  # records of PTB-XL


def main(given: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    arguments = parse(given)
    arguments.run(arguments)


def parse(given: Sequence[str] | None) -> argparse.Namespace:
    """The arguments; `run` is the function of the step."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = found.add_subparsers(required=True)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--nets", nargs="+", default=list(SIGNAL_NETS), choices=SIGNAL_NETS)
    shared.add_argument("--batch-sizes", nargs="+", type=positive, default=[16, 64, 256])
    shared.add_argument("--device", default="cuda", choices=["cuda", "cpu"])

    step = steps.add_parser("train", parents=[shared], help="samples per second")
    step.add_argument("--precisions", nargs="+", default=list(DTYPES), choices=DTYPES)
    step.add_argument("--records", type=positive, default=16_384, help="different records (default 16384)")
    step.add_argument("--runs", type=positive, default=3, help="epochs of which the median counts (default 3)")
    step.add_argument("--keras-python", type=program, default=sys.executable, help="Python that has Keras and JAX")
    step.set_defaults(run=train)

    step = steps.add_parser("trials", parents=[shared], help="whole trials through the command line")
    step.add_argument("--precision", default="bf16", choices=PRECISIONS)
    step.add_argument("--records", type=positive, default=FULL, help=f"to generate (default {FULL}, PTB-XL's number)")
    step.add_argument("--epochs", type=positive, default=3, help="of each trial (default 3)")
    step.add_argument("--at-once", nargs="+", type=positive, default=[1, 2, 4], help="trials that share the GPU")
    step.set_defaults(run=trials)

    step = steps.add_parser("project", help="the 90 trials of leandro2023, computed from measured trials")
    step.add_argument("--precision", default="bf16", choices=PRECISIONS)
    step.add_argument("--records", type=positive, default=FULL, help=f"of the measured trials (default {FULL})")
    step.add_argument("--epochs", type=positive, default=40, help="that a trial is assumed to take (default 40)")
    step.set_defaults(run=project)

    return found.parse_args(given)


def train(arguments: Any) -> None:
    """Samples per second of training and evaluation. The contestants take turns, an epoch each."""
    device = _use(arguments.device)
    torch.backends.cuda.matmul.allow_tf32 = True  # for the limit in fp32: convolutions may use it, ours and the peers'
    threads = torch.get_num_threads()
    rates = {precision: matrix_rate(DTYPES[precision], threads) for precision in arguments.precisions}
    with tempfile.TemporaryDirectory() as folder:
        write_records(Path(folder), arguments.records)
        for net, precision, size in product(arguments.nets, arguments.precisions, arguments.batch_sizes):
            settings = {"folder": folder, "net": net, "batch_size": size, "precision": precision, "compile": True}
            settings |= {"threads": threads, "records": min(arguments.records, STEPS * size)}
            # written after each, so that an interrupted call keeps its finished figures
            finish(race(settings, arguments, rates[precision], device))


def race(settings: dict[str, Any], arguments: Any, rate: float, device: str) -> list[Figure]:
    """Figures of one net at one batch size and precision."""
    # by default JAX reserves three quarters of the GPU's memory
    jax = {"KERAS_BACKEND": "jax", "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.3"}
    here: tuple[str, dict[str, str]] = (sys.executable, {})
    peers = {"ours": here, "plain": here, "keras": (arguments.keras_python, jax), "uncompiled": here}
    times = take_turns(settings, peers, 1 + arguments.runs, warm_up=0)
    if len(times["ours"]) < 2:
        raise SystemExit("Training failed: BENCH_VERBOSE=1 in the environment shows why.")
    records, size, precision = settings["records"], settings["batch_size"], settings["precision"]
    speed = speeds({peer: epochs[1:] for peer, epochs in times.items()}, records)
    key = f"{settings['net']} {precision} batch {size}"

    def rated(what: str, theirs: float | None, peer: str, target: str = "") -> Figure:
        name = f"{key}, {what}"
        return figure("gpu", name, speed["ours"][what], theirs, peer, "samples/s", True, target, device)

    names = {"plain": package("torch"), "keras": keras_of(arguments.keras_python), "uncompiled": "uncompiled"}
    targets = {"plain": "8" if size == 16 else "", "keras": "1.5", "uncompiled": ""}
    figures = []
    for peer, name in names.items():
        found = speed.get(peer, {})
        figures += [
            rated("train", found.get("train"), name, targets[peer]),
            rated("evaluate", found.get("evaluate"), name),
        ]
    share = "0.3" if (size, precision) == (256, "bf16") else ""
    limit = rate / flops(settings["net"])
    compiling = times["ours"][0]["train"] - records / speed["ours"]["train"]
    return [
        *figures,
        rated("train", limit, f"matrix-rate {rate / 1e12:.3g} TFLOP/s", share),
        figure("gpu", f"{key}, first epoch beyond another", compiling, unit="s", device=device),
    ]


def keras_of(python: str) -> str:
    """Names and versions of Keras and JAX in a Python."""
    code = "from importlib.metadata import version; print('keras', version('keras'), 'on jax', version('jax'))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True).stdout.strip() or "keras"


def trials(arguments: Any) -> None:
    """Trials through the command line, alone and several at the same time, and the times of their epochs."""
    device = _use(arguments.device)
    overrides = [f"dataset.records={arguments.records}"]
    sizes = sorted(arguments.batch_sizes)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        command(folder, *overrides, "model=constant", "max_epochs=1", "trainer=cpu")  # generates and caches the records
        overrides += [f"precision={PRECISIONS[arguments.precision]}", f"max_epochs={arguments.epochs}"]
        overrides += [f"trainer={'gpu' if arguments.device == 'cuda' else 'cpu'}", "compile=true"]
        overrides += [f"batch_size={','.join(map(str, sizes))}"]
        for net, together in product(arguments.nets, arguments.at_once):
            root = folder / f"{net}-{together}"
            rates = ",".join(f"{0.001 + 1e-5 * number:.5f}" for number in range(together))
            more = [f"model={net}", f"lr={rates}", f"tracking.root={root}"]
            if together > 1:
                more += ["hydra/launcher=joblib", f"hydra.launcher.n_jobs={together}"]
            command(folder, "-m", *overrides, *more)
            figures = []
            for size in sizes:
                for what, seconds in costs(root, size).items():
                    name = cost(what, net, arguments.precision, size, together, arguments.records)
                    figures.append(figure("gpu", name, seconds, unit="s", device=device))
            finish(figures)


EPOCH, FIRST, REST = "an epoch", "first epoch beyond another", "beside its epochs"


def costs(root: Path, size: int) -> dict[str, float]:
    """Seconds of an epoch, further seconds of the first epoch, and seconds of a trial beside its epochs; medians."""
    store = open_store_of(root)
    epochs, firsts, rests = [], [], []
    for run in store.client.search_runs([store.experiment_id], f"tags.kind = 'trial' and params.batch_size = '{size}'"):
        history = store.client.get_metric_history(run.info.run_id, "epoch_seconds")
        first, *others = [metric.value for metric in sorted(history, key=lambda metric: metric.step)]
        epochs += others or [first]
        firsts.append(first - median(others or [first]))
        rests.append((run.info.end_time - run.info.start_time) / 1e3 - first - sum(others))
    return {EPOCH: median(epochs), FIRST: median(firsts), REST: median(rests)}


def cost(what: str, net: str, precision: str, size: int, together: int, records: int) -> str:
    """Name of a figure, by which `project` finds it."""
    return f"trial of {net} {precision} batch {size} on {records:,} records, {together} at once, {what}"


def project(arguments: Any) -> None:
    """The time of the 90 trials of Leandro et al. 2023, computed from the trials measured on the latest device."""
    paths = sorted(bench.RESULTS.glob("*.json"), key=lambda path: path.stat().st_mtime)
    trials = [
        found
        for path in paths
        for found in json.loads(path.read_text())
        if found["bench"] == "gpu" and found["figure"].startswith("trial of")
    ]
    device = trials[-1]["device"] if trials else ""
    known = {found["figure"]: found["ours"] for found in trials if found["device"] == device}

    def measured(what: str, net: str, together: int) -> dict[int, float]:
        names = {size: cost(what, net, arguments.precision, size, together, arguments.records) for size in SIZES}
        return {size: known[name] for size, name in names.items() if name in known}

    figures = []
    for together in range(1, 65):
        if not all(measured(EPOCH, net, together) for net in SIGNAL_NETS):
            continue
        seconds = 0.0
        for net in SIGNAL_NETS:
            epoch, first, rest = (measured(what, net, together) for what in (EPOCH, FIRST, REST))
            seconds += projected(epoch, first, rest, arguments.epochs, together)
        trial = f"{arguments.epochs} epochs on {arguments.records:,} records in {arguments.precision}"
        name = f"projected: 90 trials of {trial}, {together} at once"
        figures.append(figure("gpu", name, seconds / 60, unit="min", target="30", device=device))
    if not figures:
        where = f" on {device}" if device else ""
        raise SystemExit(f"No trials of both nets are measured{where} yet: run python -m benchmarks.gpu trials.")
    print(FORMULA.format(trials=TRIALS_OF_EACH, sizes=", ".join(map(str, SIZES)), epochs=arguments.epochs))
    finish(figures)


FORMULA = """\
Projected, not measured. Each of the {trials} trials of each net at each batch size ({sizes}) takes
    the time of a trial beside its epochs + the further time of its first epoch + {epochs} (assumed) epochs.
The sum is divided by the number of trials at the same time. Each net adds once the further time of a process's very
first epoch, in which the net is compiled. Batch sizes that were not measured are interpolated by the number of steps
of an epoch. The start of the sweep is not included.
"""


def projected(
    epoch: dict[int, float], first: dict[int, float], rest: dict[int, float], epochs: int, together: int
) -> float:
    """Seconds of all trials of a net; the first three arguments are by batch size."""
    smallest, *others = sorted(first)  # the sweep begins with the smallest, where a process compiles
    warm_up = median([first[size] for size in others]) if others else 0.0

    def at(size: int, seconds: dict[int, float]) -> float:
        known = sorted(seconds, reverse=True)
        return float(np.interp(1 / size, [1 / other for other in known], [seconds[other] for other in known]))

    each = sum(at(size, rest) + warm_up + epochs * at(size, epoch) for size in SIZES)
    return first[smallest] + TRIALS_OF_EACH * each / together


def _use(device: str) -> str:
    """Name of the device. This process and those that it starts see no other one."""
    if device == "cpu":
        bench.try_out()
        os.environ |= {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
        return processor()
    if not torch.cuda.is_available():
        raise SystemExit("torch sees no GPU here. To try the benchmark out, use --device cpu.")
    return torch.cuda.get_device_name()


if __name__ == "__main__":
    stoppable(main)
