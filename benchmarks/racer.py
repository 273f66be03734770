"""One contestant of `benchmarks.train`, in a process of its own. Each line on its standard input starts an epoch.

After each epoch it prints a line of JSON: seconds of training, of evaluation, and of everything until the next epoch.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = tuple[NDArray[np.float32], NDArray[np.float32]]
LABELS = 5
IMAGE_NETS = ("mlp", "cnn", "densenet_small", "alexnet", "resnet18")
"""Nets that are raced on images of 28 x 28 x 3 in 8 classes; others are raced on signals with 5 labels."""
SIDE, CHANNELS, CLASSES = 28, 3, 8


def main() -> None:
    """Load the records, and train."""
    settings = json.loads(sys.argv[1])
    folder = Path(settings["folder"])
    inputs, known = ("images", "classes") if settings["net"] in IMAGE_NETS else ("signals", "targets")
    arrays = (np.load(folder / f"{inputs}.npy"), np.load(folder / f"{known}.npy"))
    records, targets = (array[: settings.get("records")] for array in arrays)
    # output of a library must not mix with the lines of JSON
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    with contextlib.suppress(EOFError):
        CONTESTANTS[settings["peer"]](settings, (records, targets), partial(_gate, out))


def _gate(out: Any, times: dict[str, float] | None) -> None:
    """Print the times of the last epoch, and wait until the next one may begin."""
    if times is not None:
        print(json.dumps({**times, "gigabytes": gigabytes(resource.RUSAGE_SELF)}), file=out, flush=True)
    if not sys.stdin.readline():
        raise EOFError


def gigabytes(whose: int) -> float:
    """Largest resident size so far of this process, or of its ended child processes, in GB."""
    return resource.getrusage(whose).ru_maxrss * 1024 / 1e9  # Linux counts in KiB


def ours(
    settings: dict[str, Any],
    arrays: Arrays,
    gate: Callable[[dict[str, float] | None], None],
    log: Callable[[list[dict[str, float]]], None] = lambda epochs: None,
    callbacks: Sequence[Any] = (),
    logged: Callable[[], object] = lambda: None,
) -> None:
    """An epoch of a trial of ecgexp; checkpoints and tracking only where they are given.

    `logged` waits until an epoch has been logged by the thread that does so.
    """
    import pytorch_lightning as pl
    import torch

    from ecgexp.datasets.base import Dataset, Input, Split, SplitName
    from ecgexp.fast import speed_up
    from ecgexp.fast.training import fused
    from ecgexp.targets import MultiClass, MultiLabel
    from ecgexp.training.callbacks import Faster, History
    from ecgexp.training.data import TrainingData
    from ecgexp.training.module import TrainingModule
    from ecgexp.training.network import Network

    torch.set_num_threads(settings["threads"])

    axes = ("channel", *("row", "column")[: arrays[0].ndim - 2])

    class Given(Dataset):
        label_names = tuple(map(str, range(arrays[1].shape[1])))
        inputs = (Input("record", axes, (arrays[0].shape[-1], *arrays[0].shape[1:-1]), stored=(*axes[1:], axes[0])),)

        def load(self, split: SplitName) -> Split:
            records, targets = arrays if split == "train" else _validation(settings, arrays)
            rows, ids = np.arange(len(records)), np.arange(len(records)).astype(str)
            return Split({"record": records}, rows, targets.astype(np.uint8), ids, ids)

    class Clock(pl.Callback):
        begun = trained = 0.0
        times: dict[str, float]

        def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
            if trainer.current_epoch:
                logged()
            whole = {"whole": time.perf_counter() - self.begun} if trainer.current_epoch else {}
            gate({**self.times, **whole} if whole else None)
            _wait(trainer)
            self.begun = time.perf_counter()

        def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
            _wait(trainer)
            self.trained = time.perf_counter()

        def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
            _wait(trainer)
            self.times = {"train": self.trained - self.begun, "evaluate": time.perf_counter() - self.trained}

    def _wait(trainer: pl.Trainer) -> None:
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()

    dataset, net = Given(), build_net(settings["net"])
    optimizer: Any = partial(torch.optim.Adam, lr=1e-3)
    faster = []
    if settings.get("fast", True):
        speed_up(net)
        optimizer = fused(optimizer, "cuda" if torch.cuda.is_available() else "cpu")
        faster = [Faster()]
    module = TrainingModule(
        Network(net),
        _loss(settings),
        optimizer,
        None,
        "epoch",
        "val/loss",
        (MultiClass if settings["net"] in IMAGE_NETS else MultiLabel)(dataset.label_names),
        compile_for=settings["batch_size"] if settings["compile"] and torch.cuda.is_available() else None,
    )
    trainer = pl.Trainer(
        max_epochs=-1,
        precision={"fp32": "32-true", "bf16": "bf16-mixed"}[settings["precision"]],
        callbacks=[History(log), *faster, *callbacks, Clock()],
        logger=False,
        enable_checkpointing=bool(callbacks),
        enable_model_summary=False,
        enable_progress_bar=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    trainer.fit(module, TrainingData(dataset, settings["batch_size"], seed=0, memory_budget=200.0))


def tracked(settings: dict[str, Any], arrays: Arrays, gate: Callable[[dict[str, float] | None], None]) -> None:
    """A whole epoch of a trial of ecgexp, with checkpoints, MLflow and system metrics.

    An epoch of the bare loop runs before each, in the same process: two processes of one program differ by up to 6 %.
    """
    from benchmarks.commands import open_store_of
    from ecgexp.tracking.run import EpochLog, Run
    from ecgexp.training.callbacks import Checkpoints

    epochs = threading.Semaphore(0)
    bare, loop = 0.0, _bare(settings, arrays)

    def beside(times: dict[str, float] | None) -> None:
        nonlocal bare
        gate(None if times is None else {**times, "bare": bare})
        bare = next(loop)

    class Watched(Run):
        def log_entries(self, entries: Sequence[Any]) -> None:
            super().log_entries(entries)
            if any(entry.key == "epoch_seconds" for entry in entries):  # system metrics come in between
                epochs.release()

    with (
        Watched(open_store_of(Path(settings["folder"])), "race", {"kind": "trial"}) as run,
        EpochLog(run, system_metrics=True) as log,
    ):
        ours(settings, arrays, beside, log, [Checkpoints(run.scratch, "val/loss", "min")], epochs.acquire)


def _bare(settings: dict[str, Any], arrays: Arrays) -> Iterator[float]:
    """Seconds of each epoch, training and evaluation, of a bare loop over one of our nets."""
    import torch

    from ecgexp.fast import speed_up
    from ecgexp.fast.training import declare_contiguous, keep_freed_memory

    keep_freed_memory()
    torch.set_num_threads(settings["threads"])
    signals, targets = (torch.from_numpy(np.ascontiguousarray(array)) for array in arrays)
    net, size = speed_up(build_net(settings["net"])), settings["batch_size"]
    optimizer, lossf = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True), torch.nn.BCEWithLogitsLoss()
    while True:
        begun = time.perf_counter()
        net.train()
        for rows in torch.randperm(len(signals)).split(size):
            optimizer.zero_grad()
            lossf(net(signals[rows].transpose(1, 2)), targets[rows]).backward()
            declare_contiguous(net.parameters())
            optimizer.step()
        net.eval()
        with torch.no_grad():
            for rows in torch.arange(len(_validation(settings, arrays)[0])).split(64):
                net(signals[rows].transpose(1, 2))
        yield time.perf_counter() - begun


def plain(settings: dict[str, Any], arrays: Arrays, gate: Callable[[dict[str, float] | None], None]) -> None:
    """A hand-written loop over a DataLoader."""
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    from benchmarks.plain import plain as plainly

    torch.set_num_threads(settings["threads"])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    stored, targets = (torch.from_numpy(np.ascontiguousarray(array)) for array in arrays)
    records = TensorDataset(stored.movedim(-1, 1).contiguous(), targets)
    net = plainly(build_net(settings["net"]), images=stored.dim() == 4).to(device)
    optimizer, lossf = torch.optim.Adam(net.parameters(), lr=1e-3), _loss(settings)
    training = DataLoader(records, settings["batch_size"], shuffle=True)
    evaluation = DataLoader(records, settings["batch_size"])
    autocast = partial(torch.autocast, device.type, torch.bfloat16, enabled=settings["precision"] == "bf16")
    times = None
    while True:
        gate(times)
        begun = time.perf_counter()
        net.train()
        for x, y in training:
            optimizer.zero_grad()
            with autocast():
                loss = lossf(net(x.to(device)), y.to(device))
            loss.backward()
            optimizer.step()
        trained = time.perf_counter()
        net.eval()
        with torch.no_grad(), autocast():
            for x, _ in evaluation:
                net(x.to(device)).sigmoid().float().cpu()
        times = {"train": trained - begun, "evaluate": time.perf_counter() - trained}


def keras(settings: dict[str, Any], arrays: Arrays, gate: Callable[[dict[str, float] | None], None]) -> None:
    """Keras on the backend that KERAS_BACKEND names: `model.fit`, with `tf.data` on TensorFlow."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras

    from benchmarks import keras_nets

    if settings["precision"] == "bf16":
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
    records, targets = (np.ascontiguousarray(array) for array in arrays)
    size = settings["batch_size"]
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(settings["threads"])
        data = tf.data.Dataset.from_tensor_slices((records, targets))
        training = data.shuffle(len(records)).batch(size).prefetch(tf.data.AUTOTUNE)
        arguments: dict[str, Any] = {"x": training}
        evaluation: dict[str, Any] = {"x": data.batch(size).prefetch(tf.data.AUTOTUNE)}
    else:
        arguments = {"x": records, "y": targets, "batch_size": size, "shuffle": True}
        evaluation = {"x": records, "batch_size": size}
    build = getattr(keras_nets, settings["net"])
    model = build(records.shape[-1], *records.shape[1:-1], targets.shape[1])
    loss = "categorical_crossentropy" if settings["net"] in IMAGE_NETS else "binary_crossentropy"
    model.compile(keras.optimizers.Adam(1e-3), loss, jit_compile=settings["compile"])

    class Clock(keras.callbacks.Callback):  # type: ignore[misc]
        times: dict[str, float] | None = None

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            gate(self.times)
            self.begun = time.perf_counter()

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            trained = time.perf_counter()
            model.predict(**evaluation, verbose=0)
            self.times = {"train": trained - self.begun, "evaluate": time.perf_counter() - trained}

    model.fit(**arguments, epochs=10**6, verbose=0, callbacks=[Clock()])


def _validation(settings: dict[str, Any], arrays: Arrays) -> Arrays:
    signals, targets = arrays
    return signals[: settings.get("validation")], targets[: settings.get("validation")]


def build_net(name: str) -> Any:
    """A net of ours for the records of the race."""
    from ecgexp import models

    image = {"channels": CHANNELS, "height": SIDE, "width": SIDE, "outputs": CLASSES}
    nets: dict[str, Callable[[], Any]] = {
        "ribeiro": models.Ribeiro,
        "rajpurkar": models.Rajpurkar,
        "linear": models.Linear,
        "mlp": partial(models.MLP, CHANNELS * SIDE * SIDE, CLASSES),
        "cnn": partial(models.CNN, **image),
        "densenet_small": partial(models.DenseNetSmall, **image),
        "alexnet": partial(models.AlexNet, **image),
        "resnet18": partial(models.ResNet18, **image),
    }
    return nets[name]()


def _loss(settings: dict[str, Any]) -> Any:
    from ecgexp.losses import BinaryCrossEntropy, CrossEntropy

    return CrossEntropy() if settings["net"] in IMAGE_NETS else BinaryCrossEntropy()


def uncompiled(settings: dict[str, Any], arrays: Arrays, gate: Callable[[dict[str, float] | None], None]) -> None:
    """Ours, without compiling: Python starts each kernel."""
    ours({**settings, "compile": False}, arrays, gate)


def reference(settings: dict[str, Any], arrays: Arrays, gate: Callable[[dict[str, float] | None], None]) -> None:
    """Ours with fast=false."""
    ours({**settings, "fast": False}, arrays, gate)


CONTESTANTS = {
    "ours": ours,
    "reference": reference,
    "uncompiled": uncompiled,
    "tracked": tracked,
    "plain": plain,
    "keras": keras,
}

if __name__ == "__main__":
    main()
