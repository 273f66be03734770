"""Samples per second of training and of evaluation, compared with Keras, plain PyTorch and the limit of the machine.

Each contestant has a process of its own. They take turns, an epoch each, on the same records.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.bench import (
    Figure,
    figure,
    finish,
    median,
    package,
    parse,
    parser,
    positive,
    processor,
    program,
    stoppable,
)
from benchmarks.racer import CHANNELS, CLASSES, IMAGE_NETS, LABELS, SIDE, build_net

SIGNAL_NETS = ("ribeiro", "rajpurkar")
NETS = (*SIGNAL_NETS, *IMAGE_NETS)
BATCH_SIZES = {net: [32, 256] if net in IMAGE_NETS else [16, 64, 256] for net in NETS}
# so that an epoch takes about a second
RECORDS = {"mlp": 8192, "cnn": 2048, "densenet_small": 512, "alexnet": 256, "resnet18": 256}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
TARGETS = {("fp32", 16): "1.0", ("fp32", 64): "1.0", ("fp32", 256): "0.9"}
TARGETS |= {("bf16", 16): "1.4", ("bf16", 64): "1.4", ("bf16", 256): "1.3"}


IMAGE_TARGETS = {("fp32", 32): "1.0", ("fp32", 256): "1.0"}


def main() -> None:
    """Measure, print, write."""
    found = parser(__doc__, runs=3)
    found.add_argument("--nets", nargs="+", default=list(NETS), choices=NETS)
    found.add_argument("--batch-sizes", nargs="+", type=positive, help="default: those of each net")
    found.add_argument("--precisions", nargs="+", default=list(DTYPES), choices=DTYPES)
    help_ = "different records in an epoch; at least two batches are used (default: about a second of training)"
    found.add_argument("--records", type=positive, help=help_)
    found.add_argument(
        "--keras",
        default="tensorflow",
        choices=["tensorflow", "jax", "torch"],
        help="backend of Keras (default tensorflow)",
    )
    found.add_argument("--keras-python", type=program, default=sys.executable, help="Python that has Keras")
    found.add_argument("--xla", action="store_true", help="compile the peer's step with XLA")
    arguments = parse(found)
    print("Measuring matrix products on this machine ...", flush=True)
    rates = {name: matrix_rate(DTYPES[name], arguments.threads) for name in arguments.precisions}
    with tempfile.TemporaryDirectory() as folder:
        for net in arguments.nets:
            sizes = arguments.batch_sizes or BATCH_SIZES[net]
            records = arguments.records or RECORDS.get(net, 256)
            write_records(Path(folder), max(records, 2 * max(sizes)), net in IMAGE_NETS)
            for precision in arguments.precisions:
                for size in sizes:
                    settings = {"folder": folder, "net": net, "batch_size": size, "precision": precision}
                    settings |= {"threads": arguments.threads, "compile": arguments.xla}
                    settings |= {"records": max(records, 2 * size)}
                    finish(race(settings, arguments, rates[precision]))


def race(settings: dict[str, Any], arguments: Any, rate: float) -> list[Figure]:
    """Figures of one net at one batch size and precision."""
    keras = (arguments.keras_python, {"KERAS_BACKEND": arguments.keras})
    here: tuple[str, dict[str, str]] = (sys.executable, {})
    peers = {"ours": here, "keras": keras, "keras again": keras, "plain": here, "reference": here}
    names = {"keras": f"{package('keras')} on {package(arguments.keras)}", "plain": package("torch")}
    names["reference"] = "fast=false"
    print(f"{settings['net']} {settings['precision']} batch {settings['batch_size']} ...", flush=True)
    times = take_turns(settings, peers, arguments.runs)
    # some processes of TensorFlow train at a third of the usual speed from start to end, so the faster of two counts
    times["keras"] = max(times["keras"], times.pop("keras again"), key=lambda found: _rate(found, "train"))
    records, key = settings["records"], f"{settings['net']} {settings['precision']} batch {settings['batch_size']}"
    device, speed = processor(), speeds(times, records)
    figures = []
    for peer, name in names.items():
        for what in ("train", "evaluate"):
            theirs = speed.get(peer, {}).get(what)
            target = (IMAGE_TARGETS if settings["net"] in IMAGE_NETS else TARGETS).get(
                (settings["precision"], settings["batch_size"]), ""
            )
            target = target if (peer, what) == ("keras", "train") and not torch.cuda.is_available() else ""
            figures.append(
                figure("train", f"{key}, {what}", speed["ours"][what], theirs, name, "samples/s", True, target, device)
            )
        if peer not in speed:
            print(f"{name} could not run: BENCH_VERBOSE=1 in the environment shows why.", flush=True)
        else:
            memory = [max(t["gigabytes"] for t in times[who]) for who in ("ours", peer)]
            figures.append(figure("train", f"{key}, memory", *memory, name, "GB", device=device))
    floor = rate / flops(settings["net"])
    figures.append(
        figure("train", f"{key}, of the limit", speed["ours"]["train"], floor, "matrix rate", "samples/s", True)
    )
    return figures


def speeds(times: dict[str, list[dict[str, float]]], records: int) -> dict[str, dict[str, float]]:
    """Samples per second of training and of evaluation, for each contestant that finished an epoch."""
    return {
        peer: {what: records * _rate(found, what) for what in ("train", "evaluate")}
        for peer, found in times.items()
        if found
    }


def _rate(found: list[dict[str, float]], what: str) -> float:
    """Epochs per second; 0 where no epoch was finished."""
    return 1 / median([times[what] for times in found]) if found else 0.0


def take_turns(
    settings: dict[str, Any], peers: dict[str, tuple[str, dict[str, str]]], runs: int, warm_up: int = 1
) -> dict[str, list[dict[str, float]]]:
    """Times of each contestant's epochs, without warm-up epochs. A contestant that fails has none."""
    times: dict[str, list[dict[str, float]]] = {peer: [] for peer in peers}
    with ExitStack() as stack:
        epochs = {
            peer: stack.enter_context(contestant({**settings, "peer": peer.split()[0]}, *where))
            for peer, where in peers.items()
        }
        for run in range(warm_up + runs):
            turn = list(epochs.items())
            for peer, epoch in turn if run % 2 else reversed(turn):  # so that none always follows the same one
                found = epoch()
                if found is not None and run >= warm_up:
                    times[peer].append(found)
    return times


@contextmanager
def contestant(
    settings: dict[str, Any], python: str, environment: dict[str, str]
) -> Iterator[Callable[[], dict[str, float] | None]]:
    """A process that trains an epoch at each call, and returns its times; None after it has failed."""
    threads = {"OMP_NUM_THREADS": str(settings["threads"])}
    process = subprocess.Popen(
        [python, "-m", "benchmarks.racer", json.dumps(settings)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=None if "BENCH_VERBOSE" in os.environ else subprocess.DEVNULL,
        text=True,
        cwd=Path(__file__).parents[1],
        env={**os.environ, **threads, **environment},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    def epoch() -> dict[str, float] | None:
        # each line written starts an epoch; the times of an epoch come when the next one could start
        if process.poll() is not None:
            return None
        try:
            stdin.write("\n")
            stdin.flush()
        except BrokenPipeError:
            return None
        line = stdout.readline()
        return json.loads(line) if line else None

    try:
        yield epoch
    finally:
        process.kill()
        process.wait()


def write_records(folder: Path, records: int, images: bool = False) -> None:
    """Write noise with a signal for one label. The time of a step depends only on the number of records."""
    rng = np.random.default_rng(0)
    if images:
        classes = np.arange(records) % CLASSES
        pixels = rng.random((records, SIDE, SIDE, CHANNELS), np.float32)
        np.save(folder / "images.npy", pixels + classes[:, None, None, None].astype(np.float32) / CLASSES)
        np.save(folder / "classes.npy", np.eye(CLASSES, dtype=np.float32)[classes])
        return
    targets = (rng.random((records, LABELS)) < 0.3).astype(np.float32)
    signals = rng.normal(0, 0.3, (records, 1000, 12)).astype(np.float32)
    np.save(folder / "signals.npy", signals + targets[:, None, :1])
    np.save(folder / "targets.npy", targets)


def flops(net: str) -> float:
    """Floating-point operations of a training step, per sample."""
    model = build_net(net)
    record = torch.zeros(1, CHANNELS, SIDE, SIDE) if net in IMAGE_NETS else torch.zeros(1, 12, 1000)
    with FlopCounterMode(display=False) as counter:
        model.eval()(record).sum().backward()
    return float(counter.get_total_flops())


def matrix_rate(dtype: torch.dtype, threads: int) -> float:
    """Operations per second of the fastest matrix product of several libraries."""
    torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = 8192 if device == "cuda" else 2048
    a = torch.rand(size, size, device=device, dtype=dtype)
    rates = [2 * size**3 / _least(lambda: a @ a)]
    if device == "cpu":
        # PyTorch's convolutions are those of oneDNN, which may use another library for matrix products
        image, filters = torch.rand(4, 512, 1, 1024, dtype=dtype), torch.rand(512, 512, 1, 3, dtype=dtype)
        image, filters = (t.contiguous(memory_format=torch.channels_last) for t in (image, filters))
        rates.append(2 * 4 * 1022 * 512 * 512 * 3 / _least(lambda: torch.conv2d(image, filters)))
        rates.append(_rate_of_tensorflow(str(dtype).removeprefix("torch."), size, threads))
    if dtype == torch.float32 and device == "cpu":
        plain = a.numpy()
        rates.append(2 * size**3 / _least(lambda: plain @ plain))
    return max(rates)


def _rate_of_tensorflow(dtype: str, size: int, threads: int) -> float:
    code = (
        "import time, tensorflow as tf\n"
        f"tf.config.threading.set_intra_op_parallelism_threads({threads})\n"
        f"a, times = tf.cast(tf.random.uniform([{size}, {size}]), '{dtype}'), []\n"
        "for _ in range(6):\n"
        "    begun = time.perf_counter(); (a @ a).numpy(); times.append(time.perf_counter() - begun)\n"
        f"print({2 * size**3} / min(times[1:]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return 0.0 if done.returncode else float(done.stdout)


def _least(function: Callable[[], Any], runs: int = 5) -> float:
    times = []
    for _ in range(runs + 1):
        begun = time.perf_counter()
        function()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begun)
    return min(times[1:])


if __name__ == "__main__":
    stoppable(main)
