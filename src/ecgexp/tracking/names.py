"""The names of all tags, metrics and files of a run.

One part of the program writes them and another one reads them, perhaps years later. So each name is defined here, and
only here. Renaming one makes earlier stores unreadable. This module imports nothing of the package, so that every
other module can import it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime


class Kind:
    """What a run is: the values of `Tag.KIND`."""

    SWEEP = "sweep"
    TRIAL = "trial"


class Status:
    """Status of a run: MLflow's values, and one of our own."""

    RUNNING = "RUNNING"
    FINISHED = "FINISHED"
    FAILED = "FAILED"  # an error ended it; `Tag.ERROR` has the error
    KILLED = "KILLED"  # it was interrupted, and can be resumed
    DAMAGED = "DAMAGED"  # our own, in tables: finished, but its metrics differ from those that were recorded


class Tag:
    """Keys of a run's tags."""

    # Kind and origin of the run
    KIND = "kind"  # see `Kind`
    JOB = "job"  # of a trial: number of its job in the sweep
    OVERRIDES = "overrides"  # of a trial: JSON list of its overrides
    PARENT = "mlflow.parentRunId"  # MLflow's own; of a trial: id of its sweep's run
    NOTE = "mlflow.note.content"  # MLflow's own: the description that its UI shows
    # of a sweep
    SWEEP = "sweep"  # its name
    OBJECTIVE = "objective"  # the metric that ranks its trials
    OBJECTIVES = "objectives"  # of a search: JSON list of all its objectives
    SEARCH = "search"  # 'true' of a search
    BEST_RUN = "best_run_id"  # id of the run that trained its best trial
    BEST_TRIAL = "best_trial"  # description of its best trial

    # Identity of a trial: when are two trials the same?
    FORM = "config_form"  # of a trial: version of the form of its configuration
    CONFIG_HASH = "config_hash"  # of the whole configuration
    CELL = "cell"  # hash of the settings that define the trial
    SLOT = "slot"  # identifies the trial within its sweep
    CLAIM = "claim"  # number of the run's claim to its slot; the run with the highest number stands for the slot
    IDENTITY = "identity"  # hash of everything that the result depends on
    DATASET = "dataset_fingerprint"
    VALIDATION = "validation_fingerprint"  # hash of the validation records and their labels
    CODE = "code"  # hash of the user's own code
    INIT_WEIGHTS = "init_weights"  # hash of the weights that the net started from, if it was given any
    DEVICE = "device"  # 'cpu', or the name of the GPU
    THREADS = "threads"  # of torch
    PRECISION = "precision"
    SEED = "seed"
    REUSED_FROM = "reused_from"  # of a reused trial: id of the run that was trained and has the files
    REUSED_FROM_COMMIT = "reused_from_commit"  # of a reused trial: git commit of its training, if it is another one
    SUPERSEDED = "superseded"  # hides a run in stores of earlier versions

    # Provenance of the result
    GIT_COMMIT = "git_commit"
    GIT_DIRTY = "git_dirty"  # 'true' if there were uncommitted changes
    PACKAGE = "package"  # version of ecgexp, and a hash of its source
    TORCH = "torch"  # version of torch
    INIT_RUN = "init_run"  # run that trained the weights that the net started from
    INIT_NOTE = "init_note"  # what was loaded of them, what was not, and what is frozen, in words
    CONVERTED_FROM = "converted_from"  # of a run that was not trained here: file of its weights, and SHA-256
    WARNING = "warning"  # a warning that belongs to all results on these data

    # Result of the run
    ATTEMPTS = "attempts"  # how often the trial was begun
    RESTARTED = "restarted"  # why training started from the beginning
    ERROR = "error"  # of a failed run: the error in one sentence
    DIVERGED = "diverged"  # 'true' if the loss stopped being finite
    PRUNED = "pruned"  # 'true' if a search stopped the trial early
    BEST_EPOCH = "best_epoch"  # epoch of the best weights, from 0; 'None' if there are none
    METRICS = "target_metrics"  # JSON: which metrics tables show, and whether higher is better
    METRICS_SUM = "metrics_sum"  # hash of the metrics of the best weights; the database has no checksum of its own

    # Test-set access; earlier versions chose this key, and their stores stay readable
    TEST_ACCESSES = "looks/test"  # number of accesses

    # The process that writes the run
    HOST = "host"
    PID = "pid"
    BOOT = "boot"  # identifies this start of the machine
    PROCESS_STARTED = "process_started"  # seconds after the machine's start
    HEARTBEAT = "heartbeat"  # Unix time of the last heartbeat of the process


# Metrics that belong to no split; `split_metric` and `best_metric` name those of a split.
EPOCHS = "epochs"  # number of trained epochs
TRAIN_SECONDS = "train_seconds"  # of all epochs
EPOCH_SECONDS = "epoch_seconds"  # of each epoch; it is logged as the last metric of the epoch
LEARNING_RATE = "lr"  # of each epoch
TRAINED_PARAMETERS = "trained_parameters"  # of a net that started from trained weights: those that are not frozen


class File:
    """Files among a run's artifacts."""

    CHECKSUMS = "checksums.txt"  # SHA-256 of the other files
    TRACEBACK = "traceback.txt"  # of a failed run

    # of a trial
    CONFIG = "config.yaml"  # its configuration, resolved
    OVERRIDES = "overrides.yaml"
    ENVIRONMENT = "environment.txt"  # installed packages
    INIT = "init.json"  # what a net that starts from trained weights has of them
    DATA = "data.json"  # the contract of the net, and counts of the records
    WEIGHTS = "weights.pt"  # best weights
    TRAINED_ON = "trained_on.npz"  # keyed hashes of the records and patients of its training
    CURVES = "learning_curves.png"

    # of a sweep, and of a report
    RESULTS = "results.csv"  # a row per trial
    TABLE = "table.txt"
    HEAT_MAP = "heat_map.png"
    STUDY = "study.json"  # of a search: a copy of its study
    STAGES = "stages.json"  # of a search by stages: the choice of each stage
    STATISTICS = "statistics.json"  # results of the user's own statistics

    # of a report
    REPORT = "report.html"
    CELLS = "cells.csv"  # a row per cell
    CELLS_TABLE = "table.csv"  # cells in rows and columns
    CELLS_MARKDOWN = "table.md"
    LISTED = "files.txt"  # names of its files, one per line; a later report removes them

    # of an evaluation
    METRICS = "metrics.json"
    LABELS = "labels.csv"  # a row per label
    LABELS_TUNED = "labels_tuned.csv"
    CALIBRATION = "calibration.csv"
    RELIABILITY = "reliability.png"
    SUBGROUPS = "subgroups.csv"
    ERRORS = "errors.csv"  # wrong decisions
    ERRORS_PAGE = "errors.html"  # the same, with pictures of the records


class Attribute:
    """User attributes of a search's study and of its trials; docs/search explains each."""

    # of the study
    FIXED = "fixed"  # overrides that all trials have
    STREAMS = "streams"  # how trials are seeded

    # of a trial
    PROCESS = "process"  # the process that runs it: tags of `process_tags`
    HEARTBEAT = Tag.HEARTBEAT
    RETRY_OF = "retry_of"  # number of the trial that it retries
    ATTEMPT = "attempt"
    SURPLUS = "surplus"  # 'true' if it exceeds the number of trials, and is not run
    ERROR = Tag.ERROR
    RUN = "run_id"
    REPORTED = "reported"  # the metric that it reports
    PRUNED_AFTER = "pruned_after"  # epochs
    JOB = Tag.JOB  # in the copy of the study that the sweep keeps


_BEST = "best/"
_SYSTEM = "system/"
_TUNED = "tuned/"
_LABELS_LEFT_OUT = "labels_left_out/"
_TEST_ACCESS = "look/test/"


def split_metric(split: str, metric: str) -> str:
    """A metric of a split, such as 'val/loss', of each epoch or of an evaluation."""
    return f"{split}/{metric}"


def best_metric(split: str, metric: str) -> str:
    """A metric of a split with the best weights, such as 'best/val/loss'."""
    return f"{_BEST}{split}/{metric}"


def tuned_metric(metric: str) -> str:
    """A metric that an evaluation measured with tuned thresholds."""
    return f"{_TUNED}{metric}"


def is_best(name: str) -> bool:
    """Whether a metric belongs to the best weights."""
    return name.startswith(_BEST)


def is_system(name: str) -> bool:
    """Whether a metric describes the machine; MLflow measures it."""
    return name.startswith(_SYSTEM)


def short(name: str) -> str:
    """A metric's name as tables and pictures show it: 'val/loss' of 'best/val/loss'."""
    return name.removeprefix(_BEST)


def split_of(name: str) -> str:
    """The split of a metric: 'val' of 'best/val/f1/NORM' and of 'val/loss'."""
    return short(name).partition("/")[0]


def metric_of(name: str) -> str:
    """A metric without its split: 'f1/NORM' of 'best/val/f1/NORM' and of 'val/f1/NORM'; empty if there is none."""
    return short(name).partition("/")[2]


def labels_left_out(metric: str) -> str:
    """Tag: labels that are left out of an averaged metric."""
    return f"{_LABELS_LEFT_OUT}{metric}"


def is_of_best_labels(tag: str) -> bool:
    """Whether a tag names the labels that are left out of a metric of the best weights."""
    return tag.startswith(labels_left_out(_BEST))


def access_tag(when: datetime) -> str:
    """Tag: JSON of one test-set access."""
    return f"{_TEST_ACCESS}{when:%Y%m%dT%H%M%S.%f}"


def is_access(tag: str) -> bool:
    """Whether a tag records a test-set access."""
    return tag.startswith(_TEST_ACCESS)


def param_file(key: str) -> str:
    """File of a parameter that is too long for MLflow."""
    return f"params/{key}.txt"


def predictions_file(split: str) -> str:
    """File of the predictions of the best weights on a split."""
    return f"predictions_{split}.parquet"


def evaluation_folder(place: str) -> str:
    """Folder of an evaluation's files."""
    return f"evaluation/{place}"


def report_folder(name: str) -> str:
    """Folder of a report's files."""
    return f"reports/{name}"


def where(tags: Mapping[str, str], status: str | None = None) -> str:
    """MLflow's filter for runs that have all of these tags, and a status if one is given."""
    parts = [f"tags.`{key}` = '{value}'" for key, value in tags.items()]
    return " and ".join(parts if status is None else [*parts, f"attributes.status = '{status}'"])


def has_tag(key: str) -> str:
    """MLflow's filter for runs that have a tag, with any value."""
    return f"tags.`{key}` LIKE '%'"
