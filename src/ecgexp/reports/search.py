"""What a search did: its study, kept with the sweep, and pictures of it."""

from __future__ import annotations

import json
from pathlib import Path

import optuna
from optuna.distributions import distribution_to_json, json_to_distribution
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import TrialState, create_trial


def write_study(path: Path, storage: BaseStorage, name: str) -> None:
    """Write a study as JSON: its directions, and each trial with parameters, values and reports.

    Parameters
    ----------
    path : Path
        The file.
    storage : BaseStorage
        That has the study.
    name : str
        Of the study.
    """
    study = optuna.load_study(study_name=name, storage=storage)
    trials = [
        {
            "number": trial.number,
            "state": trial.state.name,
            "values": trial.values,
            "params": {key: trial.distributions[key].to_internal_repr(value) for key, value in trial.params.items()},
            "distributions": {key: distribution_to_json(kind) for key, kind in trial.distributions.items()},
            "reported": trial.intermediate_values,
            "user_attrs": trial.user_attrs,
        }
        for trial in study.get_trials(deepcopy=False)
        if trial.state not in (TrialState.WAITING, TrialState.RUNNING)
    ]
    directions = [direction.name.lower() for direction in study.directions]
    path.write_text(json.dumps({"name": name, "directions": directions, "trials": trials}, indent=1))


def read_study(path: Path) -> Study:
    """Read what `write_study` wrote, into memory."""
    kept = json.loads(path.read_text())
    study = optuna.create_study(study_name=kept["name"], directions=kept["directions"])
    for trial in kept["trials"]:
        distributions = {key: json_to_distribution(text) for key, text in trial["distributions"].items()}
        study.add_trial(
            create_trial(
                state=TrialState[trial["state"]],
                values=trial["values"],
                params={key: distributions[key].to_external_repr(value) for key, value in trial["params"].items()},
                distributions=distributions,
                intermediate_values={int(step): value for step, value in trial["reported"].items()},
                user_attrs=trial["user_attrs"],
            )
        )
    return study
