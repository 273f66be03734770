"""The table of a sweep and its heat map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import compress
from pathlib import Path

import pandas as pd
from mlflow.entities import Run as MlflowRun

from ecgexp.config.schema import REPETITIONS
from ecgexp.metrics.names import PARAMETERS
from ecgexp.paths import PLACES
from ecgexp.reports.figures import heat_map, save_figure
from ecgexp.text import shortened
from ecgexp.tracking import code
from ecgexp.tracking.names import EPOCHS, TRAIN_SECONDS, File, Status, Tag, best_metric, metric_of, short
from ecgexp.tracking.runs import (
    children,
    is_diverged,
    is_pruned,
    is_reused,
    job_of,
    left_out,
    measured,
    overridden,
    setting,
    source_of,
    standing,
    status_of,
)
from ecgexp.tracking.store import Store
from ecgexp.tracking.target import note_of

DPI = 110
# At most so many validation sets are described one by one.
MOST_SETS = 12
NOT_RANKED = (
    "The trials have {} validation sets (column validation_set). They are ranked only within each set, and * marks the "
    "best trial of each."
)
_STARTS = 5  # notes on weights to start from that are shown
# Columns in which trials may differ although the command line does not say so: their names in sentences, and the config
# groups that may explain the difference.
_HIDDEN_DIFFERENCES = {
    Tag.DATASET: ("data", ("dataset", "experiment")),
    Tag.CODE: ("code of your own classes", ("model", "dataset", "loss", "optimizer", "scheduler", "experiment")),
    Tag.INIT_WEIGHTS: ("weights to start from", ("init", "experiment")),
    Tag.DEVICE: ("device", ("trainer",)),
    Tag.THREADS: ("number of threads", ("trainer",)),
}
# Columns for the origin of a trial, named like the tags.
_PROVENANCE = (Tag.DEVICE, Tag.THREADS, Tag.DATASET, Tag.CODE, Tag.INIT_WEIGHTS, Tag.PACKAGE)
# Columns of the results that are not swept keys.
FIXED = (
    "trial", "run_id", "status", "diverged", "pruned", "error", "reused", "reused_from_commit", "source_run_id",
    *_PROVENANCE, "warning", "validation_set",
)  # fmt: skip


def sweep_results(store: Store, parent: str) -> pd.DataFrame:
    """One row per trial of a sweep, in the order of its jobs: `results_table` of the run that represents each trial."""
    runs = children(store, parent)
    return results_table(standing(runs), left_out(runs))


def results_table(runs: Sequence[MlflowRun], remarks: Sequence[str] = ()) -> pd.DataFrame:
    """One row per trial.

    Parameters
    ----------
    runs : sequence of MlflowRun
        The trials.
    remarks : sequence of str
        Further remarks on the table. ``attrs["remarks"]`` holds them, and adds remarks on trials that share one
        training, and on differences between trials that no swept key explains.

    Returns
    -------
    DataFrame
        Columns ``trial``, ``run_id``, ``status``, ``diverged``, ``pruned``, ``error``, ``reused``,
        ``reused_from_commit`` (where it is not the sweep's own), ``source_run_id`` (the run that holds the files:
        the reused one's), ``device``, ``threads``, ``dataset_fingerprint``, ``code`` (of the user's own classes),
        ``init_weights`` (hash of the weights that it starts from), ``package`` (version and code of ecgexp),
        ``warning`` (of the data), ``validation_set`` (see
        `validation_sets`), then each overridden key (also listed in
        ``attrs["overridden"]``; for a trial that does not override it, the value it was trained with), then all
        metrics. ``attrs["metrics"]``: metrics that tables show; ``attrs["lower_is_better"]``: metrics of which a
        smaller value is better.
    """
    rows: list[dict[str, object]] = []
    keys = dict.fromkeys(key for run in runs for key in overridden(run))
    jobs = [job_of(run, number) for number, run in enumerate(runs)]
    # The number of a job is the name of its folder. Jobs of several sweeps may have the same number.
    numbers = jobs if len(set(jobs)) == len(jobs) else range(len(runs))
    for number, run, validation_set in zip(numbers, runs, validation_sets(runs), strict=True):
        tags = run.data.tags
        own = overridden(run)
        rows.append(
            {
                "trial": number,
                "run_id": run.info.run_id,
                "status": status_of(run),
                "diverged": is_diverged(run),
                "pruned": is_pruned(run),
                "error": _error_of(run),
                "reused": is_reused(run),
                "reused_from_commit": tags.get(Tag.REUSED_FROM_COMMIT, ""),
                "source_run_id": source_of(run),
                **{name: tags.get(name, "") for name in _PROVENANCE},
                "warning": tags.get(Tag.WARNING, ""),
                "validation_set": validation_set,
                **{key: own.get(key, setting(run, key)) for key in keys},
                # An overridden key that changes during training, as `lr` does, is also a metric.
                **{key: value for key, value in sorted(measured(run).items()) if key not in keys},
            }
        )
    results = pd.DataFrame(rows, columns=None if rows else list(FIXED))
    notes = [note_of(run) for run in runs]
    results.attrs["overridden"] = list(keys)
    results.attrs["metrics"] = list(dict.fromkeys(name for note in notes for name in note.table))
    results.attrs["lower_is_better"] = list(dict.fromkeys(name for note in notes for name in note.lower_is_better))
    results.attrs["remarks"] = [*remarks, *_starts(runs, numbers), *_same_trainings(results), *_differences(results)]
    return results


def _starts(runs: Sequence[MlflowRun], numbers: Sequence[int]) -> list[str]:
    """What has to be said of trials that start from trained weights: each note once, with its trials."""
    trials: dict[str, list[int]] = {}
    for number, run in zip(numbers, runs, strict=True):
        if (note := run.data.tags.get(Tag.INIT_NOTE)) is not None:
            trials.setdefault(note, []).append(number)
    sentences = [f"{_counted(found).capitalize()}: {note}" for note, found in trials.items()]
    more = len(sentences) - _STARTS
    return [*sentences[:_STARTS], *[f"{more} more ways to start: {File.INIT} of each run tells them."] * (more > 0)]


def _error_of(run: MlflowRun) -> str:
    if status_of(run) == Status.DAMAGED:
        return "its metrics in the store are not those that were recorded: the same command trains it again"
    return run.data.tags.get(Tag.ERROR, "") if run.info.status == Status.FAILED else ""


def _same_trainings(results: pd.DataFrame) -> list[str]:
    """A remark on rows that share one training."""
    finished = results[results["status"] == Status.FINISHED]
    same = [numbers for numbers in finished.groupby("source_run_id", sort=False)["trial"].agg(list) if len(numbers) > 1]
    if not same:
        return []
    more = f"; and {len(same) - 5} more" if len(same) > 5 else ""
    which = "; ".join(map(_counted, same[:5]))
    return [f"Each of these groups of trials is one training, so its results are equal: {which}{more}."]


def _differences(results: pd.DataFrame) -> list[str]:
    """Remarks on finished trials that differ in something that the command line does not say."""
    finished = results[results["status"] == Status.FINISHED]
    remarks = []
    for column, (what, groups) in _HIDDEN_DIFFERENCES.items():
        trials = finished.groupby(column, sort=False)["trial"].agg(list)
        keys = [key for key in results.attrs["overridden"] if key.partition(".")[0] in groups]
        if len(trials) > 1 and not any(_explains(finished, key, column) for key in keys):
            parts = ", ".join(f"{value or 'unknown'}: {_counted(numbers)}" for value, numbers in trials.items())
            remarks.append(f"The trials differ in {what}, which no swept key explains ({parts}).")
    now = code.package()
    older = finished[(finished[Tag.PACKAGE] != "") & (finished[Tag.PACKAGE] != now)]
    if len(older):
        versions = ", ".join(older[Tag.PACKAGE].unique())
        remarks.append(
            f"The code of ecgexp has changed since {_counted(older['trial'].tolist())} "
            f"{'was' if len(older) == 1 else 'were'} trained (by {versions}, now {now})."
        )
    return remarks


def _explains(results: pd.DataFrame, key: str, column: str) -> bool:
    """Whether a swept key alone explains the difference in a column."""
    return results[key].nunique() > 1 and bool((results.groupby(key, dropna=False)[column].nunique() == 1).all())


def _counted(trials: Sequence[int]) -> str:
    more = f" and {len(trials) - 5} more" if len(trials) > 5 else ""
    return f"trial{'s' * (len(trials) > 1)} {', '.join(map(str, trials[:5]))}{more}"


def validation_sets(runs: Sequence[MlflowRun], validated: Mapping[str, str] | None = None) -> list[int]:
    """Number, from 1, of the validation set of each trial: only trials with equal numbers can be ranked.

    A validation set is the same records with the same labels, whichever signals of these the trials read. Where trials
    with the same dataset settings saw different data, the data changed in between, and each version is its own set.

    Parameters
    ----------
    runs : sequence of MlflowRun
        The trials.
    validated : mapping of str to str, optional
        Hashes of their validation records by run, like `Tag.VALIDATION`, for runs that may lack this tag.
    """
    data = [run.data.tags.get(Tag.DATASET, "") for run in runs]
    hashes = [(validated or {}).get(run.info.run_id) or run.data.tags.get(Tag.VALIDATION) for run in runs]
    # A run of an older version does not say which records it was validated on, but others of the same data may.
    same_data = {found: known for found, known in zip(data, hashes, strict=True) if found and known}
    records = [known or same_data.get(found, found) for known, found in zip(hashes, data, strict=True)]
    finished = [run.info.status == Status.FINISHED for run in runs]
    versions: dict[tuple[object, ...], set[str]] = {}
    for run, known, found in compress(zip(runs, records, data, strict=True), finished):
        versions.setdefault((known, *_dataset_settings(run)), set()).add(found)
    changed = {known for (known, *_), found in versions.items() if len(found) > 1}
    keys = [(known, found if known in changed else "") for known, found in zip(records, data, strict=True)]
    numbers = {key: number for number, key in enumerate(dict.fromkeys([*compress(keys, finished), *keys]), start=1)}
    return [numbers[key] for key in keys]


def _dataset_settings(run: MlflowRun) -> list[object]:
    """The name of a dataset and its settings, without those that say where its files are."""
    places = {f"dataset.{key}" for key in PLACES}
    given = sorted(run.data.params.items())
    return [setting(run, "dataset"), *(one for one in given if one[0].startswith("dataset.") and one[0] not in places)]


def set_name(results: pd.DataFrame, number: int) -> str:
    """A validation set, as sentences name it: its number, and the dataset settings that no other set has, if any."""
    finished = results[results["status"] == Status.FINISHED]
    here = finished["validation_set"] == number
    keys = [key for key in swept_keys(results) if key.partition(".")[0] == "dataset"]
    own = [
        f"{key}={shortened(values[0])}"
        for key in keys
        if len(values := finished.loc[here, key].unique()) == 1 and not finished.loc[~here, key].isin(values).any()
    ]
    return " ".join([f"validation set {number}", *([f"({' '.join(own)})"] if own else [])])


def swept_keys(results: pd.DataFrame) -> list[str]:
    """Overridden keys that differ between trials, in the order of the command line.

    ``code`` comes last, where trials that are otherwise repetitions were trained with different code of the user.
    These are different nets, and they have no common mean.
    """
    keys = [key for key in results.attrs["overridden"] if results[key].nunique(dropna=False) > 1]
    same = [results[key].astype(str) for key in keys if key not in REPETITIONS]
    code = results[Tag.CODE].replace("", None) if Tag.CODE in results else pd.Series(dtype=object)
    mixed = (code.groupby(same).nunique() > 1).any() if same and len(code) else code.nunique() > 1
    return [*keys, Tag.CODE] if mixed else keys


def ranked(results: pd.DataFrame, objective: str) -> list[pd.DataFrame]:
    """Trials that have a result, the best first: a table for each validation set, since sets cannot be compared."""
    if objective not in results:
        return []
    finished = results[(results["status"] == Status.FINISHED) & results[objective].notna()]
    ordered = finished.sort_values(objective, ascending=not maximizes(results, objective), kind="stable")
    return [trials for _, trials in ordered.groupby("validation_set")]


def best_trials(results: pd.DataFrame, objective: str) -> list[pd.Series]:
    """Row of the best trial of each validation set on which a trial has a result."""
    return [trials.iloc[0] for trials in ranked(results, objective)]


def best_trial(results: pd.DataFrame, objective: str) -> pd.Series | None:
    """Row of the best trial; None where no trial has finished, or where there are several validation sets."""
    best = best_trials(results, objective)
    return best[0] if len(best) == 1 else None


def maximizes(results: pd.DataFrame, objective: str) -> bool:
    """Whether larger values of a metric such as 'best/val/mlcm_f1_macro' are better, as the trials say."""
    return metric_of(objective).partition("/")[0] not in results.attrs.get("lower_is_better", ["loss"])


def described(trial: pd.Series, keys: list[str]) -> str:
    """A trial, as sentences name it: its number and its values of the swept keys."""
    return " ".join([f"trial {trial['trial']}", *(f"{key}={shortened(trial[key])}" for key in keys)])


def failures(results: pd.DataFrame, keys: list[str]) -> list[str]:
    """A line for each trial that did not finish, with its error."""
    unfinished = results[results["status"] != Status.FINISHED].iterrows()
    named = keys or results.attrs["overridden"]
    lines = (f"{row['status'].capitalize()}: {described(row, named)}  {row['error']}" for _, row in unfinished)
    return [line.rstrip() for line in lines]


def warnings_of(results: pd.DataFrame) -> list[str]:
    """Warnings and remarks that must be shown beside results, each once."""
    return [
        *(warning for warning in results["warning"].unique().tolist() if warning),
        *results.attrs.get("remarks", []),
    ]


def sweep_table(results: pd.DataFrame, keys: list[str], objectives: list[str]) -> str:
    """Table for a terminal: a line per trial, the best one marked; below it the warnings of the data."""
    wanted = [*objectives, *(best_metric("val", name) for name in results.attrs.get("metrics", []))]
    metrics = [name for name in dict.fromkeys(wanted) if name in results]
    best = best_trials(results, objectives[0])
    sets = ["validation_set"] if len(best) > 1 else []
    extra = [name for name in (EPOCHS, TRAIN_SECONDS) if name in results]
    stage = ["stage"] if "stage" in results else []
    table = results[["trial", *stage, *sets, *keys, "status", *metrics, *extra]].copy()
    table["status"] = table["status"].where(~results["reused"], "reused").str.lower()
    for state in ("diverged", "pruned"):
        table["status"] = table["status"].where(~results[state], state)
    for key in keys:
        table[key] = table[key].map(shortened, na_action="ignore")
    if stage:
        table[stage[0]] = table[stage[0]].map(str, na_action="ignore")
    for name in metrics:
        table[name] = table[name].map(("{:.0f}" if name == PARAMETERS else "{:.4f}").format, na_action="ignore")
    for name in extra:
        table[name] = table[name].map("{:.0f}".format, na_action="ignore")
    marked = {trial["run_id"] for trial in best}
    table.insert(0, "", ["*" if run in marked else "" for run in results["run_id"]])
    table = table.rename(columns={name: short(name) for name in metrics})
    not_ranked = [NOT_RANKED.format(len(best))] if sets else []
    return "\n".join([table.fillna("-").to_string(index=False), *not_ranked, *warnings_of(results)])


def objective_grid(results: pd.DataFrame, keys: list[str], objective: str) -> pd.DataFrame:
    """Objective over the swept keys: the first half of them as rows, the others as columns; repetitions averaged."""
    split = max(1, len(keys) // 2)
    rows, columns = keys[:split], keys[split:]
    # Values keep the order of the command line, which a pivot would sort as text.
    # A trial whose net does not have a key has no value for it.
    named = results[keys].fillna("-")
    ordered = results.assign(**{key: pd.Categorical(named[key], named[key].unique()) for key in keys})
    if not columns:
        return ordered.groupby(rows, observed=True)[[objective]].mean()
    return ordered.pivot_table(objective, rows, columns, aggfunc="mean", observed=True)


def write_sweep_report(
    folder: Path, results: pd.DataFrame, keys: list[str], objectives: list[str], grid: bool = True
) -> None:
    """Write ``results.csv``, ``table.txt`` and, for a grid with a result, ``heat_map.png``.

    The heat map has a panel for each validation set.
    """
    results.to_csv(folder / File.RESULTS, index=False)
    (folder / File.TABLE).write_text(sweep_table(results, keys, objectives) + "\n")
    objective = objectives[0]
    measured = ranked(results, objective)
    if grid and keys and measured:
        titles = [objective]
        if len(measured) > 1:
            numbers = [int(trials["validation_set"].iloc[0]) for trials in measured]
            titles = [f"{objective}, {set_name(results, number)}" for number in numbers]
        # Sorted as on the command line, not by rank.
        grids = [objective_grid(trials.sort_index(), keys, objective) for trials in measured]
        save_figure(heat_map(*zip(grids, titles, strict=True)), folder / File.HEAT_MAP, DPI)
