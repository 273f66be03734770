"""Every name under which something of a run is kept: tags, metrics and files.

What one part of the program writes another one reads, perhaps years later, so each name stands here once and nowhere
else as a text of its own. Renaming one makes earlier stores unreadable. This module imports nothing of the package,
so that any other may import it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime


class Kind:
    """What a run is: the values of `Tag.KIND`."""

    SWEEP = "sweep"
    TRIAL = "trial"


class Status:
    """How a run stands: MLflow's own words, and one of ours."""

    RUNNING = "RUNNING"
    FINISHED = "FINISHED"
    FAILED = "FAILED"  # an error ended it, which `Tag.ERROR` says
    KILLED = "KILLED"  # it was interrupted, and can be resumed
    DAMAGED = "DAMAGED"  # ours, in tables: finished, but its metrics are not those that were recorded


class Tag:
    """Keys of a run's tags."""

    # What the run is
    KIND = "kind"  # see `Kind`
    JOB = "job"  # of a trial: number of its job in the sweep
    OVERRIDES = "overrides"  # of a trial: JSON list of its overrides
    PARENT = "mlflow.parentRunId"  # MLflow's own: the run of the sweep that a trial is of
    NOTE = "mlflow.note.content"  # MLflow's own: the description that its UI shows
    # of a sweep
    SWEEP = "sweep"  # its name
    OBJECTIVE = "objective"  # the metric that ranks its trials
    OBJECTIVES = "objectives"  # of a search: JSON list of all its objectives
    SEARCH = "search"  # 'true' of a search
    BEST_RUN = "best_run_id"  # run that trained its best trial
    BEST_TRIAL = "best_trial"  # the best trial in words

    # When two trials are the same one
    FORM = "config_form"  # of a trial: number of the form of its configuration
    CONFIG_HASH = "config_hash"  # of the whole configuration
    CELL = "cell"  # hash of what the configuration says of the trial
    SLOT = "slot"  # what the trial is within its sweep
    CLAIM = "claim"  # number of the run's claim to its slot; the highest stands for it
    IDENTITY = "identity"  # hash of everything that the result depends on
    DATASET = "dataset_fingerprint"
    VALIDATION = "validation_fingerprint"  # hash of the validation records and of their labels
    CODE = "code"  # hash of the user's own code
    DEVICE = "device"  # 'cpu', or the name of the GPU
    THREADS = "threads"  # of torch
    PRECISION = "precision"
    SEED = "seed"
    REUSED_FROM = "reused_from"  # run that was trained, and has the files, of a trial that a sweep reuses
    REUSED_FROM_COMMIT = "reused_from_commit"  # git commit that it was trained at, where that is another one
    SUPERSEDED = "superseded"  # by which stores of earlier versions hid a run

    # Where the result comes from
    GIT_COMMIT = "git_commit"
    GIT_DIRTY = "git_dirty"  # 'true' where there were changes beside the commit
    PACKAGE = "package"  # version of ecgexp, and a sum of its source
    TORCH = "torch"  # version of torch
    WARNING = "warning"  # what has to be said beside results on these data

    # What became of it
    ATTEMPTS = "attempts"  # how often the trial was begun
    RESTARTED = "restarted"  # why training began anew
    ERROR = "error"  # of a failed run, one sentence
    DIVERGED = "diverged"  # 'true' where the loss stopped being finite
    PRUNED = "pruned"  # 'true' where a search stopped the trial early
    BEST_EPOCH = "best_epoch"  # that the kept weights are of, from 0; 'None' where there are none
    METRICS = "target_metrics"  # JSON: which metrics tables show, and which way is better
    METRICS_SUM = "metrics_sum"  # hash of the metrics of the kept weights, which a database keeps without one

    # Test-set access; the keys are of earlier versions, whose stores stay readable
    TEST_ACCESSES = "looks/test"  # how many there were

    # The process that has the run
    HOST = "host"
    PID = "pid"
    BOOT = "boot"  # tells this start of the machine from others
    PROCESS_STARTED = "process_started"  # seconds after the machine's start
    HEARTBEAT = "heartbeat"  # time of the day at which the process was last known to live


# Metrics that are of no split; what a split has is named by `split_metric` and `best_metric`.
EPOCHS = "epochs"  # that were trained
TRAIN_SECONDS = "train_seconds"  # of all epochs
EPOCH_SECONDS = "epoch_seconds"  # of each epoch, and the last of its metrics to be logged
LEARNING_RATE = "lr"  # of each epoch


class File:
    """Files among a run's artifacts."""

    CHECKSUMS = "checksums.txt"  # SHA-256 of the others, beside them
    TRACEBACK = "traceback.txt"  # of a failed run

    # of a trial
    CONFIG = "config.yaml"  # its configuration, resolved
    OVERRIDES = "overrides.yaml"
    ENVIRONMENT = "environment.txt"  # installed packages
    DATA = "data.json"  # what the records are, and how many
    WEIGHTS = "weights.pt"  # best weights
    TRAINED_ON = "trained_on.npz"  # keyed hashes of the records and patients that it has seen
    CURVES = "learning_curves.png"

    # of a sweep, and of a report
    RESULTS = "results.csv"  # a row per trial
    TABLE = "table.txt"
    HEAT_MAP = "heat_map.png"
    STUDY = "study.json"  # of a search: its study
    STATISTICS = "statistics.json"  # what the user's own statistics found

    # of a report
    REPORT = "report.html"
    CELLS = "cells.csv"  # a row per cell
    CELLS_TABLE = "table.csv"  # cells in rows and columns
    CELLS_MARKDOWN = "table.md"
    LISTED = "files.txt"  # its files, a name each line, so that a later report can remove them

    # of an evaluation
    METRICS = "metrics.json"
    LABELS = "labels.csv"  # a row per label
    LABELS_TUNED = "labels_tuned.csv"
    CALIBRATION = "calibration.csv"
    RELIABILITY = "reliability.png"
    SUBGROUPS = "subgroups.csv"


class Attribute:
    """User attributes of a search's study and of its trials; docs/search says what each means."""

    # of the study
    FIXED = "fixed"  # overrides that all trials have
    STREAMS = "streams"  # how trials are seeded

    # of a trial
    PROCESS = "process"  # that runs it: tags of `process_tags`
    HEARTBEAT = Tag.HEARTBEAT
    RETRY_OF = "retry_of"  # number of the trial that it tries again
    ATTEMPT = "attempt"
    SURPLUS = "surplus"  # asked for beyond the number of trials, and not run
    ERROR = Tag.ERROR
    RUN = "run_id"
    REPORTED = "reported"  # the metric that it reports
    PRUNED_AFTER = "pruned_after"  # epochs
    JOB = Tag.JOB  # as kept with the sweep


_BEST = "best/"
_SYSTEM = "system/"
_TUNED = "tuned/"
_LABELS_LEFT_OUT = "labels_left_out/"
_TEST_ACCESS = "look/test/"


def split_metric(split: str, metric: str) -> str:
    """A metric of a split, as 'val/loss': of each epoch, or of an evaluation."""
    return f"{split}/{metric}"


def best_metric(split: str, metric: str) -> str:
    """A metric of a split with the best weights, as 'best/val/loss'."""
    return f"{_BEST}{split}/{metric}"


def tuned_metric(metric: str) -> str:
    """A metric that an evaluation measured with tuned thresholds."""
    return f"{_TUNED}{metric}"


def is_best(name: str) -> bool:
    """Whether a metric is of the best weights."""
    return name.startswith(_BEST)


def is_system(name: str) -> bool:
    """Whether MLflow measured it of the machine."""
    return name.startswith(_SYSTEM)


def short(name: str) -> str:
    """A metric's name as tables and pictures show it: 'val/loss' of 'best/val/loss'."""
    return name.removeprefix(_BEST)


def split_of(name: str) -> str:
    """The split of a metric: 'val' of 'best/val/f1/NORM' and of 'val/loss'."""
    return short(name).partition("/")[0]


def metric_of(name: str) -> str:
    """A metric without its split: 'f1/NORM' of 'best/val/f1/NORM' and of 'val/f1/NORM'; empty where it has none."""
    return short(name).partition("/")[2]


def labels_left_out(metric: str) -> str:
    """Tag: labels that could not enter an average."""
    return f"{_LABELS_LEFT_OUT}{metric}"


def is_of_best_labels(tag: str) -> bool:
    """Whether a tag tells of labels that could not enter an average of the best weights."""
    return tag.startswith(labels_left_out(_BEST))


def access_tag(when: datetime) -> str:
    """Tag: JSON of one test-set access."""
    return f"{_TEST_ACCESS}{when:%Y%m%dT%H%M%S.%f}"


def is_access(tag: str) -> bool:
    """Whether a tag is of a test-set access."""
    return tag.startswith(_TEST_ACCESS)


def param_file(key: str) -> str:
    """File of a parameter that is longer than MLflow keeps."""
    return f"params/{key}.txt"


def predictions_file(split: str) -> str:
    """File of what the best weights predict on a split."""
    return f"predictions_{split}.parquet"


def evaluation_folder(place: str) -> str:
    """Folder of an evaluation's files."""
    return f"evaluation/{place}"


def report_folder(name: str) -> str:
    """Folder of a report's files."""
    return f"reports/{name}"


def where(tags: Mapping[str, str], status: str | None = None) -> str:
    """MLflow's filter for runs that have all of these tags, and a status."""
    parts = [f"tags.`{key}` = '{value}'" for key, value in tags.items()]
    return " and ".join(parts if status is None else [*parts, f"attributes.status = '{status}'"])


def has_tag(key: str) -> str:
    """MLflow's filter for runs with a tag, whatever its value."""
    return f"tags.`{key}` LIKE '%'"
