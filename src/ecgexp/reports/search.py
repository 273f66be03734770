"""The study of a search: a file in the run of the sweep, and pictures."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import optuna
from matplotlib.figure import Figure
from optuna.distributions import distribution_to_json, json_to_distribution
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from ecgexp.errors import UserError, first_line
from ecgexp.reports.figures import LONGEST_NAME, plain
from ecgexp.search.study import first_number
from ecgexp.tracking.names import Attribute

# The importance of keys is drawn for at least so many trials; fewer show nothing.
_FEWEST = 4
# A picture has room for at most so many keys.
_MOST_KEYS = 12


def write_study(path: Path, storage: BaseStorage, name: str) -> None:
    """Write a study as JSON: its directions, and each trial with parameters, values and reports.

    Parameters
    ----------
    path : Path
        The file.
    storage : BaseStorage
        The storage with the study.
    name : str
        Name of the study.
    """
    study = optuna.load_study(study_name=name, storage=storage)
    everyone = study.get_trials(deepcopy=False)
    trials = [
        {
            "number": trial.number,
            Attribute.JOB: first_number(everyone, trial),
            "state": trial.state.name,
            # Optuna takes the last report as the value of a pruned trial, but it may be of another metric.
            "values": None if trial.state == TrialState.PRUNED else trial.values,
            "params": {key: trial.distributions[key].to_internal_repr(value) for key, value in trial.params.items()},
            "distributions": {key: distribution_to_json(kind) for key, kind in trial.distributions.items()},
            "reported": trial.intermediate_values,
            "user_attrs": trial.user_attrs,
        }
        for trial in everyone
        if trial.state not in (TrialState.WAITING, TrialState.RUNNING)
    ]
    directions = [direction.name.lower() for direction in study.directions]
    path.write_text(json.dumps({"name": name, "directions": directions, "trials": trials}, indent=1))


def read_study(path: Path) -> Study:
    """Read a file of `write_study` into memory. The job of each trial becomes a user attribute.

    Raises
    ------
    UserError
        Where the file is damaged.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return _restored(json.loads(path.read_text()))
    except Exception as error:  # Optuna raises many kinds of errors for invalid trials
        raise UserError(f"{path} is damaged: {first_line(error)}.") from error


def _restored(content: Any) -> Study:
    study = optuna.create_study(study_name=content["name"], directions=content["directions"])
    for trial in content["trials"]:
        distributions = {key: json_to_distribution(text) for key, text in trial["distributions"].items()}
        study.add_trial(
            create_trial(
                state=TrialState[trial["state"]],
                values=None if trial["state"] == TrialState.PRUNED.name else trial["values"],
                params={key: distributions[key].to_external_repr(value) for key, value in trial["params"].items()},
                distributions=distributions,
                intermediate_values={int(step): value for step, value in trial["reported"].items()},
                user_attrs={**trial["user_attrs"], Attribute.JOB: trial.get(Attribute.JOB, trial["number"])},
            )
        )
    return study


def search_figures(study: Study, objectives: Sequence[str], monitor: str) -> Iterator[tuple[str, Any, str]]:
    """Draw pictures of a search.

    Parameters
    ----------
    study : Study
        From `read_study`.
    objectives : sequence of str
        Names of its objectives.
    monitor : str
        The metric that its trials reported.

    Yields
    ------
    name : str
        Name of the picture.
    figure : Figure
        Drawn by Optuna.
    caption : str
    """
    from matplotlib import pyplot
    from optuna.visualization import matplotlib as plots

    complete = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
    searched = list(dict.fromkeys(key for trial in complete for key in trial.params))
    if not searched:
        return
    minimized = _minimized(study)
    shown, which = searched[:_MOST_KEYS], ""
    if len(shown) < len(searched):
        which = f" (the first {len(shown)} of {len(searched)} keys)"
    drawn: list[tuple[str, Callable[[], Any], str]] = []
    if len(objectives) > 1:
        pareto = lambda: plots.plot_pareto_front(study, target_names=list(objectives))  # noqa: E731
        if len(objectives) <= 3:
            drawn.append(("pareto_front", pareto, f"Pareto front of {', '.join(objectives)}"))
    first: dict[str, Any] = {"target_name": objectives[0]}
    if len(objectives) > 1:
        first["target"] = lambda trial: trial.values[0]
    drawn.append(
        ("history", lambda: plots.plot_optimization_history(study, **first), "Value of each trial that was not pruned")
    )
    if any(trial.intermediate_values for trial in study.trials):
        drawn.append(
            (
                "reports",
                lambda: plots.plot_intermediate_values(study),
                f"Reported value of each trial per epoch (cut off {'above' if minimized else 'below'})",
            )
        )
    if len(complete) >= _FEWEST and len({trial.values[0] for trial in complete}) > 1:
        drawn.append(
            (
                "importances",
                lambda: plots.plot_param_importances(study, params=shown if which else None, **first),
                f"Importance of each key (fANOVA){which}",
            )
        )
    drawn.append(("slices", lambda: plots.plot_slice(study, params=shown, **first), f"Value over each key{which}"))
    if len(searched) > 1:
        drawn.append(
            (
                "parallel",
                lambda: plots.plot_parallel_coordinate(study, params=shown, **first),
                f"Each trial over all keys{which}",
            )
        )
    for name, draw, caption in drawn:
        with matplotlib.rc_context(), warnings.catch_warnings():  # Optuna changes the style of all later pictures
            warnings.simplefilter("ignore", ExperimentalWarning)
            warnings.simplefilter("ignore", UserWarning)
            pyplot.switch_backend("agg")
            axes = draw()
            figure = np.ravel(axes)[0].figure
            if name == "reports":
                if (legend := axes.get_legend()) is not None:  # it has a line for each trial; Optuna makes none for one
                    legend.remove()
                axes.set_title("")
                axes.set_xlabel("epoch")
                axes.set_ylabel(monitor)
                reports = [value for t in study.trials for value in t.intermediate_values.values()]
                axes.set_ylim(*_limits(reports, minimized))
            elif name in ("slices", "parallel"):
                figure.set_size_inches(max(6.4, 2.4 * len(shown)), 4.2)
            _shorten_names(figure)
            yield name, figure, caption
            pyplot.close(figure)


def _minimized(study: Study) -> bool:
    return study.directions[0] == StudyDirection.MINIMIZE


def _shorten_names(figure: Figure) -> None:
    """Shorten names of ticks: a search may choose between long settings."""
    figure.canvas.draw()
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        names = [label.get_text() for label in axis.get_ticklabels()]
        if any(len(name) > LONGEST_NAME and "$" not in name for name in names):  # a power of ten has dollars
            axis.set_ticks(axis.get_ticklocs(), [plain(name) for name in names])


def _limits(values: Sequence[float], minimized: bool) -> tuple[float, float]:
    """Limits that contain all values but the worst fifth, so that a diverged trial does not hide the others."""
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(finite), max(finite)
    if minimized:
        high = float(np.quantile(finite, 0.8, method="lower"))
    else:
        low = float(np.quantile(finite, 0.2, method="higher"))
    margin = 0.05 * (high - low) or 1.0
    return low - margin, high + margin


def pareto_front(study: Study) -> list[FrozenTrial]:
    """Trials that no other trial beats in all objectives, sorted by the first objective, the best first."""
    return sorted(study.best_trials, key=lambda trial: trial.values[0], reverse=not _minimized(study))


def epochs_saved(study: Study, max_epochs: int) -> tuple[int, int]:
    """Epochs that the pruned trials trained, and epochs that they could have trained at most."""
    pruned = [trial for trial in study.trials if trial.state == TrialState.PRUNED]
    return sum(trial.last_step or 0 for trial in pruned), max_epochs * len(pruned)
