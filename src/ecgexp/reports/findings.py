"""The content of a report, and its findings in sentences."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import optuna
import pandas as pd
from mlflow.entities import Run as MlflowRun
from optuna.trial import FrozenTrial, TrialState

from ecgexp.reports import paper
from ecgexp.reports.cells import Table, TableCell, arrange, cell_keys, collect_cells, comparable, repetition_keys
from ecgexp.reports.comparison import Group, uncertainty_columns
from ecgexp.reports.gallery import Errors
from ecgexp.reports.search import epochs_saved, pareto_front
from ecgexp.reports.stages import StagedPath, about_choice, about_path, about_shares, stage_draws, stage_shares
from ecgexp.reports.statistics import Statistics
from ecgexp.reports.tables import (
    MOST_SETS,
    best_trials,
    described,
    maximizes,
    ranked,
    results_table,
    set_name,
    swept_keys,
    warnings_of,
)
from ecgexp.statistics import VarianceComponents, variance_components
from ecgexp.targets import Target
from ecgexp.tracking.names import EPOCHS, Attribute, File, Status, Tag, best_metric, metric_of, split_of
from ecgexp.tracking.runs import setting
from ecgexp.tracking.target import note_of
from ecgexp.training.predictions import Predictions

# A page has room for so many columns of the table of cells.
_MOST_COLUMNS = 12
COVERAGE = (
    "Intervals are 95 % bootstrap intervals over the {}validation records, for the nets as they were "
    "trained. They cover the choice of the records, but not of the seed: another seed trains another net."
)


def merge(
    by_sweep: Mapping[str, Sequence[MlflowRun]], remarks: Sequence[str] = ()
) -> tuple[list[MlflowRun], pd.DataFrame]:
    """Trials of several sweeps in one table. A trial that belongs to more than one sweep is there once.

    Parameters
    ----------
    by_sweep : mapping of str to sequence of MlflowRun
        Trials by the name of their sweep.
    remarks : sequence of str
        See `results_table`.

    Returns
    -------
    runs : list of MlflowRun
    results : DataFrame
        From `results_table`, in the order of `runs`; with a column ``sweep`` where there are several sweeps, and
        always with a column ``model``.
    """
    names = {run.info.run_id: name for name, runs in by_sweep.items() for run in runs}
    runs = [run for group in by_sweep.values() for run in group]
    if len(by_sweep) > 1:
        chosen: dict[str, MlflowRun] = {}
        for run in sorted(runs, key=lambda run: run.info.status != Status.FINISHED):
            chosen.setdefault(run.data.tags.get(Tag.IDENTITY, run.info.run_id), run)
        chosen_ids = {run.info.run_id for run in chosen.values()}
        runs = [run for run in runs if run.info.run_id in chosen_ids]
    results = results_table(runs, remarks)
    if len(by_sweep) > 1:
        results.insert(1, "sweep", [names[run.info.run_id] for run in runs])
    if "model" not in results:
        results.insert(list(results.columns).index(Tag.DEVICE) + 1, "model", [setting(run, "model") for run in runs])
    return runs, results


@dataclass
class Report:
    """One sweep, or several in one table.

    Attributes
    ----------
    parents, runs : list of MlflowRun
        The sweeps and their trials.
    results : DataFrame
        See `merge`; a row per run.
    groups : list of Group
        Trials that can be compared.
    predictions : dict of str to Predictions
        By the run that trained.
    missing : list of int
        Finished trials whose predictions are missing or damaged.
    data : list of dict
        The content of data.json, for each data set.
    accesses : list of dict
        Test-set accesses, each with the run's ``metrics`` and the labels ``left_out`` of its macro F1, as a text.
    histories : dict of str to list of dict
        Epochs of the trials in `drawn`, by run.
    search : optuna.Study, optional
        Where the sweep is a search by Optuna.
    staged : StagedPath, optional
        Where the sweep is a search by stages.
    statistics : dict of str to Statistics
        Results of the user's own statistics, by the name of the sweep that computed them.
    errors : Errors or str
        Errors of the best trial in validation; a sentence where they are not drawn, "" where the target has none.
    """

    parents: list[MlflowRun]
    runs: list[MlflowRun]
    results: pd.DataFrame
    groups: list[Group]
    predictions: dict[str, Predictions]
    missing: list[int]
    data: list[dict[str, Any]]
    accesses: list[dict[str, Any]]
    histories: dict[str, list[dict[str, float]]]
    search: optuna.Study | None = None
    staged: StagedPath | None = None
    statistics: dict[str, Statistics] = field(default_factory=dict)
    errors: Errors | str = ""

    @cached_property
    def name(self) -> str:
        """Name of the sweep, or of all sweeps together."""
        return "+".join(parent.data.tags[Tag.SWEEP] for parent in self.parents)[:120]

    @cached_property
    def warnings(self) -> list[str]:
        """Warnings and remarks that must be shown beside the results."""
        return warnings_of(self.results)

    @cached_property
    def objective(self) -> str:
        """The objective of the (first) sweep."""
        return str(self.parents[0].data.tags.get(Tag.OBJECTIVE, paper.LEANDRO2023.metric))

    @cached_property
    def objectives(self) -> list[str]:
        """All objectives of a search, the first of which ranks its trials."""
        return list(json.loads(self.parents[0].data.tags.get(Tag.OBJECTIVES, f'["{self.objective}"]')))

    @cached_property
    def monitor(self) -> str:
        """The metric that the trials of a search reported after each epoch; with a minus sign where it was negated."""
        name = next((found for run in self.runs if (found := setting(run, "monitor"))), "")
        same = not name or maximizes(self.results, name) == maximizes(self.results, self.objective)
        return name if same else f"\N{MINUS SIGN}{name}"

    @cached_property
    def front(self) -> list[dict[str, Any]]:
        """Trials of a search with several objectives that no other one beats in all of them."""
        if self.search is None or len(self.objectives) < 2:
            return []
        return [{"row": row, "values": trial.values} for trial, row in self._rows_of(pareto_front(self.search))]

    @cached_property
    def pruned(self) -> list[dict[str, Any]]:
        """Trials that a search stopped early, each with its epochs and the best value that it reported."""
        if self.search is None:
            return []
        largest = maximizes(self.results, self.objective)
        found = [
            {
                "row": row,
                "epochs": trial.last_step,
                "reported": (max if largest else min)(trial.intermediate_values.values(), default=math.nan),
            }
            for trial, row in self._rows_of(self.search.trials)
            if trial.state == TrialState.PRUNED
        ]
        return sorted(found, key=lambda line: line["reported"], reverse=largest)

    def _rows_of(self, trials: Iterable[FrozenTrial]) -> Iterator[tuple[FrozenTrial, pd.Series]]:
        """Trials of a study that the report shows, each with its row."""
        by_job = {run.data.tags.get(Tag.JOB): run.info.run_id for run in self.runs}
        rows = {row["run_id"]: row for _, row in self.results.iterrows()}
        for trial in trials:
            row = rows.get(by_job.get(str(trial.user_attrs[Attribute.JOB]), ""))
            if row is not None:
                yield trial, row

    @cached_property
    def target(self) -> Target | None:
        """What the trials predict; None where no trial has left predictions."""
        return next((group.example.target for group in self.groups), None)

    @cached_property
    def main_metric(self) -> str:
        """The metric by which trials of this target are compared by default."""
        names = [note_of(run).main for run in self.runs]
        return next((name for name in names if best_metric("val", name) in self.results), paper.LEANDRO2023.metric_name)

    @cached_property
    def patients_known(self) -> bool:
        """Whether some of the data say which patient a record is from."""
        return any(found.get("patients_known", True) for found in self._counts) or not self._counts

    @property
    def _counts(self) -> list[dict[str, Any]]:
        """What the data sets say of themselves; see `Dataset.summary`."""
        return [counts for found in self.data if isinstance(counts := found.get("counts"), dict)]

    @cached_property
    def metric(self) -> str:
        """The objective without split. Where this is the loss, which is shown anyway, the main metric."""
        name = metric_of(self.objective)
        return self.main_metric if name == "loss" else name

    @cached_property
    def score(self) -> str:
        """The score whose intervals are shown first: the objective, or the score that replaces it."""
        name = metric_of(self.objective)
        return self.main_metric if self.target is None else self.target.score_of(name)

    @cached_property
    def other_scores(self) -> list[str]:
        """Further scores that have intervals, including the user's own."""
        names = dict.fromkeys(name for group in self.groups for name in group.example.target.scorers())
        return [name for name in names if name != self.score]

    @cached_property
    def keys(self) -> list[str]:
        """Swept keys."""
        return swept_keys(self.results)

    @cached_property
    def repetitions(self) -> list[str]:
        """Swept keys whose values repeat a cell."""
        return repetition_keys(self.results)

    @cached_property
    def ranked(self) -> pd.DataFrame:
        """Trials that have a result, with their bootstrap columns: by validation set, the best trial first."""
        return pd.concat(ranked(self.full, self.objective) or [self.full[:0]])

    @cached_property
    def full(self) -> pd.DataFrame:
        """All trials with their bootstrap columns: ``results.csv``."""
        columns = uncertainty_columns(self.groups)
        full = self.results.join(columns, on="source_run_id")
        full.attrs = dict(self.results.attrs)
        return full

    @cached_property
    def best(self) -> list[pd.Series]:
        """Row of the best trial of each validation set; of a search by stages, of what these chose."""
        chosen = [] if self.staged is None else self.staged.runs
        full = self.full[self.full["run_id"].isin(chosen)] if chosen else self.full
        return best_trials(full, self.objective)

    @cached_property
    def several_sets(self) -> bool:
        """Whether there are several validation sets, so that no trial is the best of all."""
        return len(self.best) > 1

    def set_name(self, number: int) -> str:
        """A validation set, as sentences name it."""
        return set_name(self.results, number)

    def extremes(self) -> list[tuple[str, pd.Series]]:
        """Name and row of the best and the worst finished trial, or of the best trial of each validation set."""
        if self.several_sets:
            return [(f"best on {self.set_name(row['validation_set'])}", row) for row in self.best[:MOST_SETS]]
        found = [("best", row) for row in self.best]
        if len(self.ranked) > 1:
            found.append(("worst", self.ranked.iloc[-1]))
        return found

    @cached_property
    def drawn(self) -> list[str]:
        """Runs whose learning curves are drawn."""
        found = [str(row["run_id"]) for _, row in self.extremes()]
        for stage in self.staged.done if self.staged else ():
            found += [run for candidate in stage.candidates for run in candidate.runs]
        known = set(self.results["run_id"])
        return [run for run in dict.fromkeys(found) if run in known]

    @cached_property
    def stage_shares(self) -> list[dict[int, float]]:
        """For each stage the share of the resamples in which it chooses each setting; empty where it is unknown."""
        if self.staged is None:
            return []
        sources = dict(zip(self.results["run_id"], self.results["source_run_id"], strict=True))
        better, found = maximizes(self.results, self.staged.objective), []
        for stage in self.staged.done:
            draws = stage_draws(stage, self.groups, sources, self.staged.objective)
            found.append({} if draws is None else stage_shares(stage, draws, better, self.staged.rule))
        return found

    def run(self, run_id: str) -> MlflowRun:
        """A trial by its id."""
        return next(run for run in self.runs if run.info.run_id == run_id)

    @cached_property
    def study(self) -> paper.Study | None:
        """The published study that the cells are of; None where there is none."""
        return None if self.staged is not None else paper.study_of(self.results, cell_keys(self.results))

    @cached_property
    def departures(self) -> list[str]:
        """Differences from the paper's protocol."""
        records = [
            int(found["counts"]["train"]["records"]) for found in self.data if "train" in found.get("counts", {})
        ]
        return [] if self.study is None else self.study.departures(self.runs, records)

    @cached_property
    def cells(self) -> list[TableCell]:
        """Cells of the objective. For the paper's grid, cells of the paper's metric, with the paper's values."""
        metric = self.objective if self.study is None else self.study.metric
        return collect_cells(self.results, cell_keys(self.results), metric, self.study)

    @cached_property
    def table(self) -> Table:
        """The cells, arranged like the paper's table."""
        return arrange(self.cells, _MOST_COLUMNS)

    @cached_property
    def seeds(self) -> VarianceComponents | None:
        """How much of the variance comes from repetitions; None where there are none."""
        values = {" ".join(cell.values.values()): cell.scores for cell in self._most_comparable}
        return variance_components(values) if self.repetitions and values else None

    @property
    def comparable_cells(self) -> list[list[TableCell]]:
        """Cells that can be ranked against each other."""
        return comparable(self.cells)

    @cached_property
    def _most_comparable(self) -> list[TableCell]:
        """The largest group of cells that were validated on the same data."""
        return max(self.comparable_cells, key=len, default=[])

    # --- sentences

    def findings(self) -> list[str]:
        """The findings, the most important first; each is one sentence or a few."""
        if not self.best:
            return ["No trial has finished, so there is nothing to compare."]
        return [
            *self._about_stages(),
            *self._about_sets(),
            *map(self._about_the_best, self.best[:MOST_SETS]),
            *self._about_the_search(),
            *self._about_other_trials(),
            *self._about_cells(),
            *self._about_repetitions(),
            *self._about_intervals(),
            *self._about_epochs(),
            *self._about_data(),
            self._about_accesses(),
        ]

    def _about_sets(self) -> list[str]:
        if not self.several_sets:
            return []
        text = (
            f"The trials were validated on {len(self.best)} different sets of records (or versions of them). They are "
            "ranked and compared only within each set, and no trial is the best of all."
        )
        if self.search is not None:
            text += " The search itself compared the values of all sets with each other."
        if len(self.best) > MOST_SETS:
            text += f" The following sentences are about the first {MOST_SETS} sets; {File.RESULTS} has all."
        return [text]

    def _about_the_best(self, best: pd.Series) -> str:
        name, value = metric_of(self.objective), best[self.objective]
        where = f" on {self.set_name(best['validation_set'])}" if self.several_sets else ""
        of = " of the setting that the stages chose" if self.staged is not None and self.staged.runs else ""
        text = f"The best trial{of}{where} is {described(best, self.keys)}: {name} {value:.3f} in validation"
        low, high = (best.get(f"{self.objective}_{end}") for end in ("low", "high"))
        if low is not None and not pd.isna(low):
            text += f" (95 % interval {low:.3f} to {high:.3f})"
        return f"{text}."

    def _about_stages(self) -> list[str]:
        if self.staged is None:
            return []
        text = [about_path(self.staged, digits=3)]
        for number, shares in enumerate(self.stage_shares, start=1):
            choice = about_choice(self.staged, number, digits=3)
            text.append(f"{choice} {about_shares(self.staged, number, shares)}".strip())
        return text

    def _about_the_search(self) -> list[str]:
        if self.search is None:
            return []
        pruned = int(self.results["pruned"].sum())
        text = f"The search ran {len(self.results)} trials"
        if not pruned:
            return [f"{text} and pruned none."]
        longest = max(int(setting(run, "max_epochs") or 0) for run in self.runs)
        trained, at_most = epochs_saved(self.search, longest)
        return [
            f"{text} and pruned {pruned} of them ({pruned / len(self.results):.0%}). The pruned trials trained "
            f"{trained} of at most {at_most} epochs, so pruning saved at most {at_most - trained} epochs. The "
            "following sentences are about the other trials."
        ]

    def _about_other_trials(self) -> list[str]:
        sentences = []
        for group in self.groups[:MOST_SETS]:
            trials = self.full[self.full["source_run_id"].isin(group.runs)]
            number = trials["validation_set"].iloc[0]
            where = f" in {self.set_name(number)}" if self.several_sets else ""
            if isinstance(group.uncertainty, str):
                sentences.append(f"There are no intervals{where}: {group.uncertainty}")
                continue
            score = group.uncertainty.scores.get(self.score)
            if score is None or len(group.runs) < 2:
                continue
            alike = int(score.comparison.indistinguishable.sum()) - 1
            total = len(group.runs) - 1
            winner = trials[trials["source_run_id"] == group.runs[score.comparison.winner]].iloc[0]
            of = f" of {group.uncertainty.patients} patients" if self.patients_known else ""
            by = f"by these {group.uncertainty.records} records{of}{where}"
            if winner["trial"] not in [best["trial"] for best in self.best]:
                by += f" (the winner by {self.score}{where} is trial {winner['trial']})"
            confidence = "with 95 % confidence for all these comparisons together"
            if alike == total:
                sentences.append(f"No other trial can be distinguished from the winner {by}.")
            elif alike == 0:
                sentences.append(f"Every other trial is worse, {confidence}, {by}.")
            else:
                sentences.append(
                    f"Of the {total} other trials, {alike} cannot be distinguished from the winner {by}; "
                    f"{total - alike} {'is' if total - alike == 1 else 'are'} worse, {confidence}."
                )
            if score.optimism is not None and score.optimism >= 0.0005:  # smaller ones would be shown as 0.000
                best, too = ("highest", "high") if score.higher_is_better else ("lowest", "low")
                value = score.values[score.comparison.winner]
                sentences.append(
                    f"As the {best} of {len(group.runs)}, the {self.score} of {value:.3f}{where} "
                    f"is probably about {score.optimism:.3f} too {too}, for this reason alone."
                )
        return sentences

    def _about_intervals(self) -> list[str]:
        known = [group.uncertainty for group in self.groups if not isinstance(group.uncertainty, str)]
        if not known:
            return []
        name = metric_of(self.objective)
        sentences = [COVERAGE.format("patients of the " if self.patients_known else "")]
        if self.score == self.main_metric != name:
            sentences.append(f"The metric {name} has no interval of its own: comparisons use {self.score} instead.")
        return [*sentences, *dict.fromkeys(reason for found in known for reason in found.undefined.values())]

    def _about_epochs(self) -> list[str]:
        monitors = dict.fromkeys(setting(run, "monitor") for run in self.runs)
        chosen_by = [name for name in monitors if name and split_of(name) == "val"]
        if not chosen_by or self.ranked.get(EPOCHS, pd.Series(dtype=float)).max() <= 1:
            return []
        too = "high" if maximizes(self.results, self.objective) else "low"
        return [
            f"Each value is from the epoch with the best {' or '.join(chosen_by)}. The same validation records chose "
            f"this epoch, which makes the value too {too} as well, by an amount that no figure here covers."
        ]

    def _about_cells(self) -> list[str]:
        if not self.repetitions:
            return []
        sentences = []
        families = self.comparable_cells
        for family in families[:MOST_SETS]:
            best = [cell for cell in family if cell.best]
            if not best or len(best) == len(self.cells):
                continue
            settings = " ".join(f"{key}={value}" for key, value in best[0].values.items())
            of = f" of the {len(family)} that share their validation sets" if len(families) > 1 else ""
            value = best[0].text().rstrip("*")
            if best[0].sd is None:
                sentences.append(f"The best cell{of} is {settings}: {value}, from one run, so its spread is not known.")
            else:
                sentences.append(f"Over its repetitions the best cell{of} is {settings}: {value} (mean ± sd).")
        return sentences

    def _about_repetitions(self) -> list[str]:
        if self.seeds is None:
            return []
        found, what = self.seeds, " and ".join(self.repetitions)
        if found.within_share is None or found.within_share_interval is None or found.within_sd is None:
            return [found.remark]
        low, high = found.within_share_interval
        text = (
            f"Of the variance between single trials, {found.within_share:.0%} comes from {what}, not from the cell "
            f"(95 % interval {low:.0%} to {high:.0%}). The repetitions of a cell have a standard deviation of "
            f"{found.within_sd:.3f}"
        )
        if found.within_sd_interval is not None:
            text += f" ({found.within_sd_interval[0]:.3f} to {found.within_sd_interval[1]:.3f})"
        text += ", which is assumed to be equal in all cells."
        if "dataset.val_fold" in self.repetitions:
            text += " A fold that is easy for all cells adds to this share."
        if len(self._most_comparable) < sum(bool(cell.scores) for cell in self.cells):
            text += f" This is about the {len(self._most_comparable)} cells that share their validation sets."
        return [text, *([found.remark] if found.remark else [])]

    def _about_data(self) -> list[str]:
        sentences = list(dict.fromkeys(str(remark) for found in self._counts for remark in found.get("remarks", [])))
        if any(not group.patients_known for group in self.groups):
            sentences.append(
                "The patients are not known here, since the data are not where the runs had them. Each record counts "
                "as a separate patient, so intervals are too narrow where patients have several records."
            )
        for group in self.groups:
            absent = group.example.target.absent(group.example.targets)
            if absent:
                sentences.append(f"Macro averages leave out {', '.join(absent)}, which no validation record has.")
        if self.missing:
            trials = f"trial{'s' * (len(self.missing) > 1)} {', '.join(map(str, self.missing))}"
            sentences.append(f"There is no interval for {trials}, whose predictions are missing or damaged.")
        return sentences

    def _about_accesses(self) -> str:
        if not self.accesses:
            return "None of these trials has accessed the test set."
        times = "once" if len(self.accesses) == 1 else f"{len(self.accesses)} times"
        last, sets = self.accesses[-1]["when"], len({entry["data"] for entry in self.accesses if "data" in entry})
        if sets > 1:
            times += f", with {sets} different sets of test records"
        return f"The test set was accessed {times}, last at {last}. Any later choice between trials has used it."
