"""The path of a search by stages: what each stage chose, by how much, and how easily it could have chosen another."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from pydantic import AfterValidator, FiniteFloat, TypeAdapter, ValidationError

from ecgexp.errors import UserError, shown
from ecgexp.reports.comparison import Group
from ecgexp.reports.figures import plain
from ecgexp.statistics import choices, noise
from ecgexp.text import shortened
from ecgexp.tracking.names import best_metric, metric_of, split_metric

COLUMN = "stage"
"""Column of the results: the stage that a trial was trained for."""
# Settings whose learning curves a picture can tell apart.
_MOST_CURVES = 10
# Other choices that a sentence names.
_NAMED = 3
# Letters of all values together that have room beside each other below a picture.
_LONG = 40

Floats = NDArray[np.float64]
Text = Annotated[str, AfterValidator(shown)]  # a store may come from a stranger


@dataclass(frozen=True)
class Candidate:
    """A setting that a stage could choose.

    Attributes
    ----------
    setting : dict of str to str
        Values by key.
    runs : list of str
        Its trials, one for each repetition; empty where it is left out.
    scores : list of float
        The objective of each of these.
    parameters : float or None
        Number of weights of the net.
    left_out : str
        Why it could not be chosen, as part of a sentence; empty where it could.
    """

    setting: dict[Text, Text]
    runs: list[str]
    scores: list[FiniteFloat]
    parameters: FiniteFloat | None = None
    left_out: Text = ""

    @property
    def score(self) -> float:
        """Mean over its repetitions; NaN where it is left out."""
        return math.fsum(self.scores) / len(self.scores) if self.scores else math.nan

    @property
    def words(self) -> str:
        """Its values in words."""
        return " ".join(f"{key}={shortened(word)}" for key, word in self.setting.items())


@dataclass(frozen=True)
class StageChoice:
    """What a stage chose.

    Attributes
    ----------
    candidates : list of Candidate
        In the order of the stage's values.
    chosen : int
    best : int
        The candidate with the best score.
    error : float or None
        Standard error of the difference of these two, with ``rule=one_se``.
    """

    candidates: list[Candidate]
    chosen: int
    best: int
    error: FiniteFloat | None = None

    @property
    def compared(self) -> list[int]:
        """Indices of the candidates that it could choose."""
        return [at for at, candidate in enumerate(self.candidates) if not candidate.left_out]


@dataclass(frozen=True)
class StagedPath:
    """The stages of a search and what they chose.

    Attributes
    ----------
    objective : str
        The metric that they chose by.
    rule : str
        'best' or 'one_se'.
    planned : list of list of str
        Keys of each stage.
    repeated : list of str
        Keys whose values repeat each setting.
    done : list of StageChoice
        Of the first stages: the others have not chosen yet.
    """

    objective: Text
    rule: Literal["best", "one_se"]
    planned: list[list[Text]]
    repeated: list[Text]
    done: list[StageChoice]

    @property
    def runs(self) -> list[str]:
        """Runs of the setting that the stages have come to; empty before the first choice."""
        return self.done[-1].candidates[self.done[-1].chosen].runs if self.done else []


def write_path(path: Path, staged: StagedPath) -> None:
    """Write what `read_path` reads; never half of it."""
    temporary = path.with_suffix(".part")
    temporary.write_bytes(TypeAdapter(StagedPath).dump_json(staged, indent=1))
    temporary.replace(path)


def read_path(path: Path) -> StagedPath:
    """Read the path of a search by stages.

    Raises
    ------
    UserError
        Where the file is damaged.
    """
    try:
        staged = TypeAdapter(StagedPath).validate_json(path.read_bytes())
        for stage in staged.done:
            if not {stage.chosen, stage.best} <= set(stage.compared):
                raise ValueError("a stage chooses what it does not compare.")
        if len(staged.done) > len(staged.planned):
            raise ValueError("it has more choices than stages.")
    except (OSError, ValidationError, ValueError) as error:
        first = str(error).splitlines()[0].rstrip(".")
        raise UserError(f"{path} is damaged or holds no stages of a search: {first}.") from error
    return staged


def choose(candidates: Sequence[Candidate], higher_is_better: bool, errors: Floats | None = None) -> StageChoice:
    """Choose the best candidate; of equally good ones the one with the fewest weights, and of these the first.

    Parameters
    ----------
    candidates : sequence of Candidate
        At least one of which is not left out.
    higher_is_better : bool
        Of their scores.
    errors : float array, (compared, compared), optional
        Of those that are not left out: standard errors of the differences of each pair. A candidate whose difference
        to the best one is at most one of these is as good.
    """
    stage = StageChoice(list(candidates), 0, 0)
    compared, costs = stage.compared, _costs(stage)
    scores = _signed([[candidates[at].score for at in compared]], higher_is_better)
    best, chosen = int(choices(scores, costs)[0]), int(choices(scores, costs, errors)[0])
    error = None if errors is None else float(errors[best, chosen])
    return StageChoice(stage.candidates, compared[chosen], compared[best], error)


def stage_draws(
    stage: StageChoice, groups: Sequence[Group], sources: Mapping[str, str], objective: str
) -> Floats | None:
    """Scores of the compared candidates in resamples of the validation records, as means over their repetitions.

    Parameters
    ----------
    stage : StageChoice
    groups : sequence of Group
        Of the trials, see `ecgexp.reports.comparison.compare_trials`.
    sources : mapping of str to str
        Runs that trained, by the runs of the candidates.
    objective : str
        That the stage chose by.

    Returns
    -------
    float64 array, (resamples, compared), or None
        None where the objective has no bootstrap, or predictions are missing.
    """
    name = metric_of(objective)
    if objective != best_metric("val", name):
        return None
    drawn = {
        run: group.uncertainty.scores[name].draws[:, at]
        for group in groups
        if not isinstance(group.uncertainty, str) and name in group.uncertainty.scores
        for at, run in enumerate(group.runs)
    }
    columns = []
    for at in stage.compared:
        runs = [sources.get(run, run) for run in stage.candidates[at].runs]
        if any(run not in drawn for run in runs):
            return None
        columns.append(np.mean([drawn[run] for run in runs], axis=0))
    return np.column_stack(columns)


def stage_errors(stage: StageChoice, draws: Floats) -> Floats:
    """Standard errors of the differences of the compared candidates, (compared, compared); see `noise`."""
    return noise(draws, [stage.candidates[at].scores for at in stage.compared])


def stage_shares(stage: StageChoice, draws: Floats, higher_is_better: bool, rule: str) -> dict[int, float]:
    """Share of the resamples in which a stage chooses each candidate by its rule.

    Parameters
    ----------
    stage : StageChoice
    draws : float array, (resamples, compared)
        See `stage_draws`.
    higher_is_better : bool
        Of the scores.
    rule : str
        'best' or 'one_se'; with the second one, a resample has the standard errors of all resamples together.

    Returns
    -------
    dict of int to float
        By the index of a candidate that is not left out.
    """
    errors = stage_errors(stage, draws) if rule == "one_se" else None
    chosen = choices(_signed(draws, higher_is_better), _costs(stage), errors)
    shares = np.bincount(chosen, minlength=len(stage.compared)) / len(chosen)
    return dict(zip(stage.compared, shares.tolist(), strict=True))


def stage_column(results: pd.DataFrame, staged: StagedPath) -> pd.Series:
    """The first stage that compared each trial, from 1; missing for a trial that no stage on this path compared."""
    first: dict[str, int] = {}
    for number, stage in enumerate(staged.done, start=1):
        for candidate in stage.candidates:
            for run in candidate.runs:
                first.setdefault(run, number)
    return results["run_id"].map(first).astype("Int64")


def about_path(staged: StagedPath, digits: int = 4) -> str:
    """What the stages came to, in a sentence or two; `digits` are those of the score."""
    if not staged.done:
        return "No stage of the search has chosen yet."
    chosen = [stage.candidates[stage.chosen] for stage in staged.done]
    name, mean = metric_of(staged.objective) or staged.objective, _mean_over(staged)
    text = f"The stages chose {', then '.join(one.words or 'the only setting' for one in chosen)}: "
    text += f"{name} {chosen[-1].score:.{digits}f}{mean} in validation."
    left = len(staged.planned) - len(staged.done)
    if left:
        text += f" {left} of the {len(staged.planned)} stages {'has' if left == 1 else 'have'} not chosen yet."
    return text


def about_choice(staged: StagedPath, number: int, digits: int = 4) -> str:
    """What a stage chose, and why, in a sentence or two.

    Parameters
    ----------
    staged : StagedPath
    number : int
        Of the stage, from 1.
    digits : int
        Of scores.
    """
    stage, name = staged.done[number - 1], metric_of(staged.objective) or staged.objective
    chosen, best = stage.candidates[stage.chosen], stage.candidates[stage.best]
    compared = [stage.candidates[at] for at in stage.compared]
    mean = _mean_over(staged)
    text = f"Stage {number} of {len(staged.planned)} chose {chosen.words or 'its only setting'}: {name} "
    text += f"{chosen.score:.{digits}f}{mean}."
    tied = [one for one in compared if one is not chosen and one.score == chosen.score]
    if tied:
        text += f" {', '.join(one.words for one in tied)} {'has' if len(tied) == 1 else 'have'} the same score: "
        text += f"{_reason(chosen, tied)}."
    elif chosen is not best and stage.error is not None:
        text += (
            f" {best.words} has {best.score:.{digits}f}, which is better by at most one standard error "
            f"({stage.error:.{digits}f}): {_reason(chosen, [best])}."
        )
    left = [f"{one.words} ({one.left_out})" for one in stage.candidates if one.left_out]
    if left:
        text += f" It left out {', '.join(left)}."
    return text


def about_shares(staged: StagedPath, number: int, shares: Mapping[int, float]) -> str:
    """How easily a stage could have chosen another setting, in a sentence; empty where it had no other one.

    Parameters
    ----------
    staged : StagedPath
    number : int
        Of the stage, from 1.
    shares : mapping of int to float
        See `stage_shares`; empty where they are unknown.
    """
    stage = staged.done[number - 1]
    if len(stage.compared) < 2:
        return ""
    if not shares:
        return (
            f"How easily it could have chosen another one is not known: {staged.objective} has no bootstrap, or "
            "predictions are missing."
        )
    others = sorted(((share, at) for at, share in shares.items() if at != stage.chosen and share), reverse=True)
    if not others:
        return "No resample of the validation records would have chosen another one."
    named = ", ".join(f"{stage.candidates[at].words} in {share:.1%}" for share, at in others[:_NAMED])
    more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
    total = sum(share for share, _ in others)
    return f"In {total:.1%} of the resamples of the validation records it would have chosen another: {named}{more}."


def _mean_over(staged: StagedPath) -> str:
    return f" (mean over {' and '.join(staged.repeated)})" if staged.repeated else ""


def _reason(chosen: Candidate, others: Sequence[Candidate]) -> str:
    """Why one of several equally good candidates is chosen."""
    fewer = all(_cost(chosen) < _cost(one) for one in others)
    return f"{chosen.words} has fewer weights" if fewer else f"{chosen.words} comes first"


def _cost(candidate: Candidate) -> float:
    return math.inf if candidate.parameters is None else candidate.parameters


def _costs(stage: StageChoice) -> list[float]:
    return [_cost(stage.candidates[at]) for at in stage.compared]


def _signed(scores: ArrayLike, higher_is_better: bool) -> Floats:
    return np.asarray(scores, dtype=np.float64) * (1.0 if higher_is_better else -1.0)


def stage_figure(
    stage: StageChoice,
    results: pd.DataFrame,
    metric: str,
    histories: Mapping[str, Sequence[Mapping[str, float]]],
) -> Figure:
    """Score and loss against the values of a stage, and the learning curves of its trials.

    Parameters
    ----------
    stage : StageChoice
    results : DataFrame
        A row per trial. Its columns ``best/val/<metric>_low`` and ``_high``, if there are any, become error bars of a
        setting with one trial; one with several has their standard deviation.
    metric : str
        The score, without the split.
    histories : mapping of str to sequence of mapping
        Epochs by run.
    """
    rows = results.set_index("run_id")
    figure = Figure(figsize=(9, 6.2), layout="constrained")
    (score, loss), below = figure.subplots(2, 2)
    for axes, name in ((score, metric), (loss, "loss")):
        _draw_values(axes, stage, rows, best_metric("val", name), name)
    drawn = stage.compared[:_MOST_CURVES]
    for axes, name in zip(below, (metric, "loss"), strict=True):
        _draw_curves(axes, stage, drawn, histories, name)
    if len(drawn) < len(stage.compared):
        below[0].set_title(f"the first {len(drawn)} of {len(stage.compared)} settings", fontsize=9)
    below[0].legend(fontsize=8)
    return figure


def _draw_values(axes: Axes, stage: StageChoice, rows: pd.DataFrame, column: str, name: str) -> None:
    """A metric against the values of a stage; the chosen one is marked."""
    places = np.arange(len(stage.candidates))
    means = np.full(len(places), np.nan)
    spans = np.full((2, len(places)), np.nan)
    for at in stage.compared:
        trials = rows[rows.index.isin(stage.candidates[at].runs)]
        values = trials[column].astype(float) if column in trials else pd.Series(dtype=float)
        means[at] = values.mean()
        if len(values) > 1:
            spans[:, at] = values.std()
        elif len(values) and {f"{column}_low", f"{column}_high"} <= set(trials.columns):
            low, high = trials[f"{column}_low"].iloc[0], trials[f"{column}_high"].iloc[0]
            spans[:, at] = means[at] - low, high - means[at]
    known = np.isfinite(means)
    axes.plot(places[known], means[known], color="#7d93a8", linewidth=1)
    axes.errorbar(places[known], means[known], np.clip(spans[:, known], 0, None), fmt="o", color="#1f5f99", capsize=3)
    axes.plot(stage.chosen, means[stage.chosen], "o", markersize=13, fillstyle="none", color="#2e7d32")
    keys = list(stage.candidates[0].setting)
    words = [" ".join(map(shortened, candidate.setting.values())) for candidate in stage.candidates]
    slanted: dict[str, Any] = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"}
    is_long = sum(map(len, words)) > _LONG
    axes.set_xticks(places, [plain(word) for word in words], **(slanted if is_long else {}))
    axes.set_xlim(-0.5, len(places) - 0.5)
    axes.set_xlabel(plain(", ".join(keys), 60))
    axes.set_ylabel(f"{plain(name)}, best weights")
    axes.grid(alpha=0.3)


def _draw_curves(
    axes: Any,
    stage: StageChoice,
    drawn: Sequence[int],
    histories: Mapping[str, Sequence[Mapping[str, float]]],
    name: str,
) -> None:
    """A metric of the validation split over the epochs, a colour for each setting."""
    for at in drawn:
        candidate = stage.candidates[at]
        for number, run in enumerate(candidate.runs):
            values = [epoch.get(split_metric("val", name), math.nan) for epoch in histories.get(run, [])]
            label = plain(" ".join(map(shortened, candidate.setting.values()))) if number == 0 else None
            width = 2.2 if at == stage.chosen else 1.0
            axes.plot(range(1, len(values) + 1), values, color=f"C{at % 10}", linewidth=width, label=label)
    axes.set_xlabel("epoch")
    axes.set_ylabel(plain(split_metric("val", name)))
    axes.grid(alpha=0.3)
    axes.xaxis.get_major_locator().set_params(integer=True)
