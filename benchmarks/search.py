"""Compares searches: random, ecgexp's TPE with and without pruning, and Ray Tune with HyperOpt and ASHA.

All search the same space and train the same net on the same generated ECGs, one trial at a time on one thread, with
the same budget of epochs. They are compared by the best value so far (AUROC at the best validation loss) over the
epochs trained. The budget is 40 whole trials: TPE draws the first 10 at random, and models the space for the other 30.
Needs the extra 'bench'.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import bench
from benchmarks.bench import Figure, figure, finish, median, package, parse, parser, positive, seconds, stoppable
from benchmarks.commands import open_store_of, python

METRIC, LOSS = "val/auroc_macro", "val/loss"
SPACE = [
    "lr=tag(log, interval(1e-4, 1e-1))",
    "optimizer=adam,sgd",
    "batch_size=choice(16,32,64)",
    "model.dropout=interval(0, 0.5)",
]
ASHA = ["hydra/sweeper/pruner=asha", "monitor=val/auroc_macro"]


@dataclass(frozen=True)
class Searched:
    """The result of a search.

    Attributes
    ----------
    curve : float array, (epochs,)
        Best value so far after each epoch that any trial trained.
    trials : int
        Number of trials.
    overhead : float
        Seconds per trial beside its epochs.
    """

    curve: NDArray[np.float64]
    trials: int
    overhead: float


def main() -> None:
    """Measure, print, write."""
    found = parser(__doc__, runs=3)
    found.add_argument("--epochs", type=positive, default=160, help="that each search may train in all")
    found.add_argument("--max-epochs", type=positive, default=4, help="of a trial")
    found.add_argument("--records", type=positive, default=400)
    found.add_argument("--width", type=positive, default=8, help="of the net")
    arguments = parse(found)
    if missing := [name for name in ("ray", "hyperopt") if find_spec(name) is None]:
        sys.exit(f"The peer {' and '.join(missing)} is not installed: run pip install 'ecgexp[bench]'.")
    common = [
        f"dataset.records={arguments.records}", "model=ribeiro", f"model.width={arguments.width}", "trainer=cpu",
        "trainer.threads=1", f"max_epochs={arguments.max_epochs}", "early_stopping.patience=null",
        "tracking.log_model=none", "tracking.system_metrics=false", f"objective=best/{METRIC}",
    ]  # fmt: skip
    whole, pruned = arguments.epochs // arguments.max_epochs, arguments.epochs * 5 // 9  # of 1.8 epochs on average
    contestants: dict[str, Callable[[Path, int], Searched]] = {
        "random": lambda folder, seed: ours(folder, common, seed, whole, ["hydra/sweeper/sampler=random"]),
        "TPE": lambda folder, seed: ours(folder, common, seed, whole, []),
        "TPE with ASHA": lambda folder, seed: ours(folder, common, seed, pruned, ASHA),
        "Ray Tune": lambda folder, seed: ray_tune(folder, common, seed, pruned, arguments.max_epochs),
    }
    results: dict[str, list[Searched]] = {name: [] for name in contestants}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        python(folder, "-m", "ecgexp", *common, "max_epochs=1")  # makes the records
        for seed in range(arguments.runs):
            for name, search in contestants.items():
                results[name].append(search(folder, seed))
                print(f"{name}, seed {seed}: {results[name][-1].trials} trials", flush=True)
    draw(results, arguments.epochs, bench.RESULTS / "search.png")
    finish(compare(results, arguments.epochs))


def ours(folder: Path, common: Sequence[str], seed: int, trials: int, further: Sequence[str]) -> Searched:
    """Search with ecgexp's command line."""
    name = f"{len(list((folder / 'mlruns').glob('sweeps/*')))}"
    sweep = [
        *SPACE,
        *further,
        f"hydra.sweeper.seed={seed}",
        f"hydra.sweeper.n_trials={trials}",
        f"sweep.name=s{name}",
        "resume=false",
    ]
    python(folder, "-m", "ecgexp", "-m", "hydra/sweeper=optuna", *common, *sweep)
    store = open_store_of(folder)
    (parent,) = store.search(f"tags.sweep = 's{name}'")
    runs = store.search(f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    histories = [
        [
            {key: point.value for key, point in zip((METRIC, LOSS), points, strict=True)}
            for points in zip(
                *(store.client.get_metric_history(run.info.run_id, key) for key in (METRIC, LOSS)), strict=True
            )
        ]
        for run in sorted(runs, key=lambda run: run.info.start_time)
    ]
    wall = (max(run.info.end_time for run in runs) - min(run.info.start_time for run in runs)) / 1e3
    trained = sum(run.data.metrics["train_seconds"] for run in runs)
    return Searched(curve(histories), len(runs), (wall - trained) / len(runs))


def ray_tune(folder: Path, common: Sequence[str], seed: int, trials: int, max_epochs: int) -> Searched:
    """Search with Ray Tune, HyperOpt and ASHA, as Giraldi 2025 did."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.hyperopt import HyperOptSearch

    configs = {name: compose(folder, [*common, f"optimizer={name}"]) for name in ("adam", "sgd")}

    def trainable(chosen: dict[str, Any]) -> None:
        train(configs[chosen["optimizer"]], chosen, tune.report)

    space = {
        "lr": tune.loguniform(1e-4, 1e-1),
        "optimizer": tune.choice(["adam", "sgd"]),
        "batch_size": tune.choice([16, 32, 64]),
        "model.dropout": tune.uniform(0, 0.5),
    }
    if not ray.is_initialized():
        ray.init(num_cpus=1, include_dashboard=False, object_store_memory=2**27, log_to_driver=False)
    tuner = tune.Tuner(
        trainable,
        param_space=space,
        tune_config=tune.TuneConfig(
            metric=METRIC, mode="max", search_alg=HyperOptSearch(random_state_seed=seed), num_samples=trials,
            scheduler=ASHAScheduler(max_t=max_epochs, grace_period=1, reduction_factor=3), max_concurrent_trials=1,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(storage_path=str(folder / "ray"), verbose=0),
    )  # fmt: skip
    found: list[Any] = []
    wall = seconds(lambda: found.extend(tuner.fit()))
    frames = sorted((result.metrics_dataframe for result in found), key=lambda frame: frame["timestamp"].iloc[0])
    histories = [frame[[METRIC, LOSS]].to_dict("records") for frame in frames]
    trained = sum(frame["epoch_seconds"].sum() for frame in frames)
    return Searched(curve(histories), len(frames), (wall - trained) / len(frames))


def compose(folder: Path, overrides: Sequence[str]) -> str:
    """The configuration of a trial, as YAML."""
    data = (f"cache_dir={folder}/data/cache", f"dataset.root={folder}/data/synthetic")
    return python(folder, "-m", "ecgexp", *overrides, *data, "--cfg", "job")


def train(config: str, chosen: Mapping[str, Any], report: Callable[[dict[str, float]], None]) -> None:
    """Train a trial in Ray's process, as ecgexp does, but without our tracking."""
    import torch
    from omegaconf import OmegaConf

    from ecgexp.config.build import build
    from ecgexp.config.resolvers import register_resolvers
    from ecgexp.training.fit import fit, load

    register_resolvers()
    torch.set_num_threads(1)
    cfg = OmegaConf.create(config)
    for key, value in chosen.items():
        if key != "optimizer":
            OmegaConf.update(cfg, key, value)
    reported = 0

    def log(epochs: list[dict[str, float]]) -> None:
        nonlocal reported
        for epoch in epochs[reported:]:
            report({key: epoch[key] for key in (METRIC, LOSS, "epoch_seconds")})
        reported = len(epochs)

    parts = build(cfg)
    fit(cfg, parts, load(cfg, parts), log=log)


def curve(histories: Sequence[Sequence[Mapping[str, float]]]) -> NDArray[np.float64]:
    """Best value so far after each epoch, trial after trial."""
    best, found = 0.0, []
    for history in histories:
        lowest = np.inf
        for epoch in history:
            if epoch[LOSS] < lowest:
                lowest, value = epoch[LOSS], epoch[METRIC]
                best = max(best, value)
            found.append(best)
    return np.array(found)


def compare(results: Mapping[str, Sequence[Searched]], epochs: int) -> list[Figure]:
    """Best values at parts of the budget, and the time of a trial beside its epochs."""
    peer = f"Ray Tune, {package('ray')}, {package('hyperopt')}"
    figures = []
    for name in [name for name in results if name != "Ray Tune"]:
        for part in (epochs // 4, epochs // 2, epochs):
            mine, theirs = (median([_at(s.curve, part) for s in results[who]]) for who in (name, "Ray Tune"))
            label = f"best AUROC of {name} after {part} epochs"
            figures.append(figure("search", label, mine, theirs, peer, higher_is_better=True))
        cost = [median([s.overhead for s in results[who]]) for who in (name, "Ray Tune")]
        figures.append(figure("search", f"{name}: a trial beside its epochs", *cost, peer, "s"))
    return figures


def draw(results: Mapping[str, Sequence[Searched]], epochs: int, path: Path) -> None:
    """Draw the best value over the epochs trained: the median of the seeds, and their range."""
    from matplotlib.figure import Figure as Drawing

    drawing = Drawing(figsize=(7, 4), layout="constrained")
    axes = drawing.add_subplot()
    steps = np.arange(1, epochs + 1)
    for name, searches in results.items():
        curves = np.array([[_at(search.curve, step) for step in steps] for search in searches])
        (line,) = axes.plot(steps, np.median(curves, axis=0), label=name)
        axes.fill_between(steps, curves.min(axis=0), curves.max(axis=0), color=line.get_color(), alpha=0.12)
    axes.set_xlabel("epochs trained, all trials together")
    axes.set_ylabel("best AUROC in validation so far")
    axes.set_ylim(bottom=0.5)
    axes.grid(alpha=0.3)
    axes.legend()
    path.parent.mkdir(exist_ok=True)
    drawing.savefig(path, dpi=150)


def _at(found: NDArray[np.float64], epoch: int) -> float:
    """Value after so many epochs, or at the end of a search that trained fewer."""
    return float(found[min(epoch, len(found)) - 1])


if __name__ == "__main__":
    stoppable(main)
