"""What a report is made of, and what there is to say about it in words."""

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
from ecgexp.reports.search import epochs_saved, pareto_front
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

# Columns of the table of cells that a page has room for.
_MOST_COLUMNS = 12
COVERAGE = (
    "Intervals are 95 % bootstrap intervals over the patients of the validation records, for the nets as they were "
    "trained. They cover which records happened to be there, not which seed: another seed trains another net."
)


def merge(
    by_sweep: Mapping[str, Sequence[MlflowRun]], remarks: Sequence[str] = ()
) -> tuple[list[MlflowRun], pd.DataFrame]:
    """Trials of several sweeps in one table, one that is in more than one of them once.

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
        As of `results_table`, in the same order; with column ``sweep`` where there are several, and always with
        ``model``.
    """
    names = {run.info.run_id: name for name, runs in by_sweep.items() for run in runs}
    runs = [run for group in by_sweep.values() for run in group]
    if len(by_sweep) > 1:
        chosen: dict[str, MlflowRun] = {}
        for run in sorted(runs, key=lambda run: run.info.status != Status.FINISHED):
            chosen.setdefault(run.data.tags.get(Tag.IDENTITY, run.info.run_id), run)
        kept = {run.info.run_id for run in chosen.values()}
        runs = [run for run in runs if run.info.run_id in kept]
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
        Finished trials whose predictions are not there.
    data : list of dict
        What the runs say of each data set.
    accesses : list of dict
        To the test set, each with the run's ``metrics`` and the labels ``left_out`` of its macro F1, as a text.
    histories : dict of str to list of dict
        Epochs of the best and the worst trial, by run.
    search : optuna.Study, optional
        Where the sweep is a search.
    statistics : dict of str to Statistics
        The user's own, by the name of the sweep that computed them.
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
    statistics: dict[str, Statistics] = field(default_factory=dict)

    @cached_property
    def name(self) -> str:
        """Of the sweep, or of all of them."""
        return "+".join(parent.data.tags[Tag.SWEEP] for parent in self.parents)[:120]

    @cached_property
    def warnings(self) -> list[str]:
        """What has to be said beside results on these data."""
        return warnings_of(self.results)

    @cached_property
    def objective(self) -> str:
        """What the (first) sweep was about."""
        return str(self.parents[0].data.tags.get(Tag.OBJECTIVE, paper.METRIC))

    @cached_property
    def objectives(self) -> list[str]:
        """All objectives of a search, the first of which ranks its trials."""
        return list(json.loads(self.parents[0].data.tags.get(Tag.OBJECTIVES, f'["{self.objective}"]')))

    @cached_property
    def monitor(self) -> str:
        """What the trials of a search reported after each epoch, with the sign that they gave it."""
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
        """Trials that a search stopped early, with the epochs that they had and the best that they reported."""
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
        """Trials of the report with their rows."""
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
        """The metric that trials of this target are compared by unless told otherwise."""
        names = [note_of(run).main for run in self.runs]
        return next((name for name in names if best_metric("val", name) in self.results), paper.METRIC_NAME)

    @cached_property
    def metric(self) -> str:
        """The objective without split, or the main metric where it is the loss, which is shown anyway."""
        name = metric_of(self.objective)
        return self.main_metric if name == "loss" else name

    @cached_property
    def score(self) -> str:
        """The score whose intervals are shown first: the objective's, or that of the metric that stands for it."""
        name = metric_of(self.objective)
        return self.main_metric if self.target is None else self.target.score_of(name)

    @cached_property
    def other_scores(self) -> list[str]:
        """Further scores that have intervals, the user's own among them."""
        names = dict.fromkeys(name for group in self.groups for name in group.example.target.scorers())
        return [name for name in names if name != self.score]

    @cached_property
    def keys(self) -> list[str]:
        """Swept keys."""
        return swept_keys(self.results)

    @cached_property
    def repetitions(self) -> list[str]:
        """Swept keys that repeat cells."""
        return repetition_keys(self.results)

    @cached_property
    def ranked(self) -> pd.DataFrame:
        """Trials that have a result, with what the bootstrap says of them: from the best on, set by set."""
        return pd.concat(ranked(self.full, self.objective) or [self.full[:0]])

    @cached_property
    def full(self) -> pd.DataFrame:
        """All trials with what the bootstrap says of them: ``results.csv``."""
        columns = uncertainty_columns(self.groups)
        full = self.results.join(columns, on="source_run_id")
        full.attrs = dict(self.results.attrs)
        return full

    @cached_property
    def best(self) -> list[pd.Series]:
        """Row of the best trial of each validation set."""
        return best_trials(self.full, self.objective)

    @cached_property
    def several_sets(self) -> bool:
        """Whether no trial is the best of all, as they have several validation sets."""
        return len(self.best) > 1

    def set_name(self, number: int) -> str:
        """A validation set in words."""
        return set_name(self.results, number)

    def extremes(self) -> list[tuple[str, pd.Series]]:
        """Rows of the best and the worst finished trial, or of the best ones of validation sets, and what they are."""
        if self.several_sets:
            return [(f"best on {self.set_name(row['validation_set'])}", row) for row in self.best[:MOST_SETS]]
        found = [("best", row) for row in self.best]
        if len(self.ranked) > 1:
            found.append(("worst", self.ranked.iloc[-1]))
        return found

    def run(self, run_id: str) -> MlflowRun:
        """A trial by its id."""
        return next(run for run in self.runs if run.info.run_id == run_id)

    @cached_property
    def is_the_papers(self) -> bool:
        """Whether the cells are those of Leandro et al. 2023."""
        same_metric = best_metric("val", self.main_metric) == paper.METRIC
        return same_metric and paper.is_the_papers_grid(self.results, cell_keys(self.results))

    @cached_property
    def departures(self) -> list[str]:
        """What was done otherwise than in the paper."""
        records = [
            int(found["counts"]["train"]["records"]) for found in self.data if "train" in found.get("counts", {})
        ]
        return paper.departures(self.runs, records) if self.is_the_papers else []

    @cached_property
    def cells(self) -> list[TableCell]:
        """Cells by the objective; for the paper's grid by its metric, beside the paper's values."""
        metric = paper.METRIC if self.is_the_papers else self.objective
        return collect_cells(self.results, cell_keys(self.results), metric, self.is_the_papers)

    @cached_property
    def table(self) -> Table:
        """The cells like the paper's table."""
        return arrange(self.cells, _MOST_COLUMNS)

    @cached_property
    def seeds(self) -> VarianceComponents | None:
        """How much of the spread is repetitions; None where there are none."""
        values = {" ".join(cell.values.values()): cell.scores for cell in self._most_comparable}
        return variance_components(values) if self.repetitions and values else None

    @property
    def comparable_cells(self) -> list[list[TableCell]]:
        """Cells that can be ranked against each other."""
        return comparable(self.cells)

    @cached_property
    def _most_comparable(self) -> list[TableCell]:
        """Cells that were validated on the same data, as many as there are."""
        return max(self.comparable_cells, key=len, default=[])

    # --- in words

    def findings(self) -> list[str]:
        """What the sweep says, a sentence or two each, the most important first."""
        if not self.best:
            return ["No trial has finished, so there is nothing to compare."]
        said = [
            *self._said_of_sets(),
            *map(self._said_of_the_best, self.best[:MOST_SETS]),
            *self._said_of_the_search(),
            *self._said_of_the_others(),
            *self._said_of_cells(),
            *self._said_of_seeds(),
        ]
        said += self._said_of_intervals()
        return [*said, *self._said_of_epochs(), *self._said_of_data(), self._said_of_accesses()]

    def _said_of_sets(self) -> list[str]:
        if not self.several_sets:
            return []
        said = (
            f"The trials were validated on {len(self.best)} different sets of records (or versions of them): they are "
            "ranked and compared only within each, and none is the best of all."
        )
        if self.search is not None:
            said += " The search itself took all their values for one another's."
        if len(self.best) > MOST_SETS:
            said += f" What follows is about the first {MOST_SETS}; {File.RESULTS} has all."
        return [said]

    def _said_of_the_best(self, best: pd.Series) -> str:
        name, value = metric_of(self.objective), best[self.objective]
        where = f" on {self.set_name(best['validation_set'])}" if self.several_sets else ""
        words = f"The best trial{where} is {described(best, self.keys)}: {name} {value:.3f} in validation"
        low, high = (best.get(f"{self.objective}_{end}") for end in ("low", "high"))
        if low is not None and not pd.isna(low):
            words += f" (95 % interval {low:.3f} to {high:.3f})"
        return f"{words}."

    def _said_of_the_search(self) -> list[str]:
        if self.search is None:
            return []
        pruned = int(self.results["pruned"].sum())
        said = f"The search tried {len(self.results)} trials"
        if not pruned:
            return [f"{said} and pruned none."]
        longest = max(int(setting(run, "max_epochs") or 0) for run in self.runs)
        trained, at_most = epochs_saved(self.search, longest)
        return [
            f"{said} and pruned {pruned} of them ({pruned / len(self.results):.0%}) after {trained} of the {at_most} "
            f"epochs that they may have had, which saves at most {at_most - trained}. What follows is about the others."
        ]

    def _said_of_the_others(self) -> list[str]:
        said = []
        for group in self.groups[:MOST_SETS]:
            trials = self.full[self.full["source_run_id"].isin(group.runs)]
            number = trials["validation_set"].iloc[0]
            where = f" in {self.set_name(number)}" if self.several_sets else ""
            if isinstance(group.uncertainty, str):
                said.append(f"There are no intervals{where}: {group.uncertainty}")
                continue
            score = group.uncertainty.scores.get(self.score)
            if score is None or len(group.runs) < 2:
                continue
            alike = int(score.comparison.indistinguishable.sum()) - 1
            total = len(group.runs) - 1
            winner = trials[trials["source_run_id"] == group.runs[score.comparison.winner]].iloc[0]
            by = f"by these {group.uncertainty.records} records of {group.uncertainty.patients} patients{where}"
            if winner["trial"] not in [best["trial"] for best in self.best]:
                by += f" (the winner by {self.score}{where} is trial {winner['trial']})"
            sure = "with 95 % confidence for all of this together"
            if alike == total:
                said.append(f"No other trial can be told from the winner {by}.")
            elif alike == 0:
                said.append(f"Every other trial is worse, {sure}, {by}.")
            else:
                said.append(
                    f"Of the {total} other trials {alike} cannot be told from the winner {by}; "
                    f"{total - alike} {'is' if total - alike == 1 else 'are'} worse, {sure}."
                )
            if score.optimism is not None and score.optimism >= 0.0005:  # what is shown as 0.000 is nothing to tell
                best, too = ("highest", "high") if score.higher_is_better else ("lowest", "low")
                value = score.values[score.comparison.winner]
                said.append(
                    f"Being the {best} of {len(group.runs)}, the {self.score} of {value:.3f}{where} "
                    f"is probably about {score.optimism:.3f} too {too} for that reason alone."
                )
        return said

    def _said_of_intervals(self) -> list[str]:
        known = [group.uncertainty for group in self.groups if not isinstance(group.uncertainty, str)]
        if not known:
            return []
        name, said = metric_of(self.objective), [COVERAGE]
        if self.score == self.main_metric != name:
            said.append(f"The metric {name} has no interval of its own: {self.score} stands for it in comparisons.")
        return [*said, *dict.fromkeys(why for found in known for why in found.undefined.values())]

    def _said_of_epochs(self) -> list[str]:
        monitors = dict.fromkeys(setting(run, "monitor") for run in self.runs)
        chosen_by = [name for name in monitors if name and split_of(name) == "val"]
        if not chosen_by or self.ranked.get(EPOCHS, pd.Series(dtype=float)).max() <= 1:
            return []
        too = "high" if maximizes(self.results, self.objective) else "low"
        return [
            f"Each value is that of the epoch with the best {' or '.join(chosen_by)}, which was chosen by the same "
            f"validation records: this makes it too {too} as well, by an amount that no figure here covers."
        ]

    def _said_of_cells(self) -> list[str]:
        if not self.repetitions:
            return []
        said = []
        families = self.comparable_cells
        for family in families[:MOST_SETS]:
            best = [cell for cell in family if cell.best]
            if not best or len(best) == len(self.cells):
                continue
            words = " ".join(f"{key}={value}" for key, value in best[0].values.items())
            of = f" of the {len(family)} that share their validation sets" if len(families) > 1 else ""
            value = best[0].text().rstrip("*")
            if best[0].sd is None:
                said.append(f"The best cell{of} is {words}: {value}, of one run, so that its spread is not known.")
            else:
                said.append(f"Over its repetitions the best cell{of} is {words}: {value} (mean ± sd).")
        return said

    def _said_of_seeds(self) -> list[str]:
        if self.seeds is None:
            return []
        found, what = self.seeds, " and ".join(self.repetitions)
        if found.within_share is None or found.within_share_interval is None or found.within_sd is None:
            return [found.remark]
        low, high = found.within_share_interval
        said = (
            f"Of the variance between single trials, {found.within_share:.0%} is {what} rather than the cell "
            f"(95 % interval {low:.0%} to {high:.0%}); the repetitions of a cell have a standard deviation of "
            f"{found.within_sd:.3f}"
        )
        if found.within_sd_interval is not None:
            said += f" ({found.within_sd_interval[0]:.3f} to {found.within_sd_interval[1]:.3f})"
        said += ", taken as equal in all cells."
        if "dataset.val_fold" in self.repetitions:
            said += " What makes a fold easy for all cells counts as repetition here."
        if len(self._most_comparable) < sum(bool(cell.scores) for cell in self.cells):
            said += f" This is about the {len(self._most_comparable)} cells that share their validation sets."
        return [said, *([found.remark] if found.remark else [])]

    def _said_of_data(self) -> list[str]:
        said = []
        if any(not group.patients_known for group in self.groups):
            said.append(
                "Whose records they are is not known here, since the data are not where the runs had them: each "
                "record was taken for a patient of its own, and intervals are too narrow where patients have several."
            )
        for group in self.groups:
            absent = group.example.target.absent(group.example.targets)
            if absent:
                said.append(f"Macro averages are without {', '.join(absent)}, which no validation record has.")
        if self.missing:
            numbers = ", ".join(map(str, self.missing))
            said.append(f"The predictions of trial {numbers} are not there or damaged, so they have no interval.")
        return said

    def _said_of_accesses(self) -> str:
        if not self.accesses:
            return "None of these trials has accessed the test set."
        times = "once" if len(self.accesses) == 1 else f"{len(self.accesses)} times"
        last, sets = self.accesses[-1]["when"], len({entry["data"] for entry in self.accesses if "data" in entry})
        if sets > 1:
            times += f", with {sets} different sets of test records"
        return f"The test set was accessed {times}, last at {last}. A choice between trials after that has used it."
