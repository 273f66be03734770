"""Odd command lines, by chance that a seed decides."""

from __future__ import annotations

from random import Random

from ecgexp import CONF

GROUPS = ("dataset", "model", "loss", "optimizer", "scheduler", "trainer", "tracking", "experiment")
LAUNCHING = ("hydra/sweeper", "hydra/launcher", "hydra/sweeper/sampler", "hydra/sweeper/pruner")
KEYS = (
    *("lr", "batch_size", "max_epochs", "seed", "target.threshold", "precision", "compile", "monitor", "objective"),
    *("memory_budget", "cache_dir", "resume", "early_stopping", "early_stopping.patience", "early_stopping.min_delta"),
    *(
        "dataset.records",
        "dataset.root",
        "dataset.label_names",
        "dataset.val_fold",
        "dataset.labels",
        "dataset.normalize",
    ),
    *("dataset.samples", "model.outputs", "dataset.leads", "target._target_", "dataset._target_", "dataset.nope"),
    *("model.width", "model._target_", "model", "optimizer.momentum", "optimizer._target_", "optimizer.weight_decay"),
    *("scheduler.interval", "scheduler.schedule", "scheduler.schedule.factor", "trainer.devices", "trainer.threads"),
    *("trainer.accelerator", "trainer.strategy", "tracking.root", "tracking.uri", "tracking.experiment", "sweep.name"),
    *("sweep.max_retries", "sweep.jobs_per_gpu", "hydra.sweeper.n_trials", "hydra.sweeper.params", "hydra.sweeper"),
    *("hydra.launcher.n_jobs", "hydra.mode", "hydra.run.dir", "hydra.sweep.dir", "hydra.sweeper.sampler", "hydra"),
    *("hydra.sweeper.direction", "hydra.sweeper.storage", "hydra.job.chdir", "hydra.output_subdir", "nope", "a.b.c"),
)
VALUES = (
    *("", "null", "nan", "inf", "-inf", "0", "-1", "1", "0.1", "1e400", "1e-400", "9" * 40, "true", "off", "~", "???"),
    *("[]", "{}", "[[[]]]", "{a:{b:[1,{c:2}]}}", "[1,2", "{a:", "{a}", "'unclosed", '"unclosed', "'", "\\", "a\\,b"),
    *("é", "µ💓", "\u202e", "\ufeff", "٣", "a b", "a:b", "a=b", "=", "==", "${lr}", "${nope}", "${oc.env:HOME}"),
    *("${dataset}", "$", "%s", "@", "#", "*", "../x", "/", "~/x", "file:///x", "sqlite:///x.db", "x" * 3000, "auto"),
    *(
        "cpu",
        "gpu",
        "linear",
        "ribeiro",
        "ptbxl",
        "synthetic",
        "wfdb",
        "adam",
        "best/val/loss",
        "val/loss",
        "test/loss",
    ),
    *("best/val/mlcm_f1_macro", "[best/val/loss,latency]", "ecgexp.models.Linear", "os.system", "builtins.dict"),
    *(
        "32",
        "test/loss",
        "16-mixed",
        "bf16-mixed",
        "true,false",
        "1,2",
        "0.1,0.01",
        "1,1",
        "1,",
        ",1",
        ",",
        "1,,2",
        "a,b,a",
    ),
    *("range(1,4)", "range(0,1,0)", "range(1,4,-1)", "range(4,1)", "range(0,1,0.3)", "range(1,1)", "range(nan,1)"),
    *("range(0,1e9)", "range(a,b)", "range(1)", "range()", "interval(0,1)", "interval(1,0)", "interval(0,inf)"),
    *("interval(nan,1)", "interval(1,1)", "int(interval(1,9))", "float(1,2)", "interval(a,b)", "interval(-1,1)"),
    *("tag(log,interval(0,1))", "tag(log,interval(1e-4,1))", "tag(nope,1,2)", "tag(1,2)", "tag(log,log,1,2)"),
    *("choice(a,b)", "choice()", "choice(1,[2,3],{a:1})", "choice(null,1)", "choice(choice(1))", "shuffle(1,2)"),
    *("glob(*)", "glob([a*,b*],exclude=*)", "glob()", "sort(3,1,2)", "sort(a,1)", "cast(1)", "int(x)", "str([1,2],3)"),
    ",".join(map(str, range(150))),
)
FLAGS = (
    *(["-m"], ["-m"], ["-m"], ["-m", "hydra/sweeper=optuna"], ["-m", "hydra/sweeper=optuna"], [], [], []),
    *(
        ["--config-name", "nope"],
        ["--config-dir", "nope"],
        ["-cn", ""],
        ["--config-dir", "/"],
        ["-m", "hydra.mode=RUN"],
    ),
)
DOORS = {
    "report": ("sweep", "out", "tracking", "tracking.root", "tracking.uri", "nope", ""),
    "evaluate": (
        *("run", "split", "thresholds", "trust", "privacy.patients", "dataset.root", "dataset.", "tracking.uri"),
        *("tracking.root", "nope"),
    ),
    "predict": ("run", "record", "format", "plot", "trust", "uncalibrated", "tracking.root", "tracking.uri", "x.y"),
    "datasets.download": ("--dataset", "--sampling-rate", "--root", "--url", "--nope", "ptbxl"),
}


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def training(rng: Random) -> list[str]:
    """Of a training, a sweep or a search."""
    found = [_override(rng) for _ in range(rng.randint(1, 3))]
    if rng.random() < 0.1:
        found.append(rng.choice(found))
    return [*rng.choice(FLAGS), *found]


def _override(rng: Random) -> str:
    kind = rng.random()
    if kind < 0.25:
        group = rng.choice((*GROUPS, *LAUNCHING))
        choices = options(group) or ["basic", "joblib"]
        named = [*rng.sample(choices, min(2, len(choices))), "null", "nope", "", "glob(*)", "[a]", rng.choice(VALUES)]
        return (
            f"{rng.choice(('', '', '', '+', '~', '++'))}{group}={rng.choice((named[0], ','.join(named[:2]), *named))}"
        )
    key = rng.choice(KEYS)
    if kind < 0.3:
        return rng.choice((key, f"~{key}", f"{key}=", f"={key}", f"+{key}@x=1", f"{key}@:=1", "-", "--", "é=1", ""))
    return f"{rng.choice(('', '', '', '', '+', '++', '~'))}{key}={rng.choice(VALUES)}"


def door(door: str, rng: Random) -> list[str]:
    """Of another door: none of them names what could be fetched or trained."""
    found = []
    for _ in range(rng.randint(1, 4)):
        key, value = rng.choice(DOORS[door]), rng.choice(("test", "val", "json", "x.png", "models:/a/1", *VALUES))
        if door == "datasets.download":
            found += [key, value] if rng.random() < 0.8 else [f"{key}={value}"]
        else:
            found.append(f"{key}={value}" if rng.random() < 0.9 else rng.choice((key, value, f"--{key}")))
    return found
