"""The part of a report about a search: the copy of its study, and pictures."""

from __future__ import annotations

import json
from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState, create_trial

from ecgexp.errors import UserError
from ecgexp.reports.search import _limits, pareto_front, read_study, search_figures, write_study

SPACE = {"lr": FloatDistribution(1e-4, 1e-1, log=True), "optimizer": CategoricalDistribution(["adam", "sgd"])}


def study(trials: int, directions: list[str], reports: bool = False) -> optuna.Study:
    found = optuna.create_study(directions=directions, storage=InMemoryStorage(), study_name="study")
    for number in range(trials):
        found.add_trial(
            create_trial(
                params={"lr": 0.001 * (number + 1), "optimizer": "adam"},
                distributions=SPACE,
                values=[0.1 * number] * len(directions),
                intermediate_values={1: 0.1, 2: 0.2} if reports else {},
            )
        )
    return found


@pytest.mark.slow
@pytest.mark.parametrize("trials", [0, 1, 2, 5])
@pytest.mark.parametrize(
    ("directions", "reports"),
    [(["maximize"], True), (["minimize"], True), (["maximize"], False), (["maximize", "minimize"], False)],
)
def test_a_search_of_any_length_can_be_drawn(trials, directions, reports):
    found = study(trials, directions, reports)
    names = [name for name, _, _ in search_figures(found, ["a", "b"][: len(directions)], "val/loss")]
    assert ("history" in names) == (trials > 0)
    assert ("reports" in names) == (reports and trials > 0)


def test_the_best_of_what_is_reported_is_in_the_picture_whichever_way_is_better():
    values = [0.1, 0.2, 0.3, 0.4, 0.5, 90.0]
    low, high = _limits(values, minimized=True)
    assert low < 0.1 < 0.5 < high < 90
    low, high = _limits([-value for value in values], minimized=False)
    assert -90 < low < -0.5 < -0.1 < high


@pytest.mark.parametrize(("direction", "expected"), [("maximize", [3.0, 2.0, 1.0]), ("minimize", [1.0, 2.0, 3.0])])
def test_the_front_begins_with_the_best_of_the_first_objective(direction, expected):
    found = optuna.create_study(directions=[direction, "minimize"])
    for one in (2.0, 1.0, 3.0):
        other = one if direction == "maximize" else -one
        found.add_trial(create_trial(values=[one, other]))
    assert [trial.values[0] for trial in pareto_front(found)] == expected


def test_a_pruned_trial_has_reports_and_no_value_also_from_an_earlier_version(tmp_path):
    found = study(1, ["maximize"])
    found.add_trial(
        create_trial(
            state=TrialState.PRUNED, params={"lr": 0.01}, distributions={"lr": SPACE["lr"]},
            values=[-0.7], intermediate_values={1: -0.7}, user_attrs={"run_id": "abc"},
        )
    )  # fmt: skip
    path = Path(tmp_path / "study.json")
    write_study(path, found._storage, "study")
    kept = json.loads(path.read_text())
    assert [trial["values"] for trial in kept["trials"]] == [[0.0], None]
    kept["trials"][1]["values"] = [-0.7]
    path.write_text(json.dumps(kept))
    _, pruned = read_study(path).trials
    assert (pruned.value, pruned.intermediate_values, pruned.user_attrs["run_id"]) == (None, {1: -0.7}, "abc")


@pytest.mark.parametrize(
    "content", ["", "[1]", '{"name": "study"}', '{"name": "study", "directions": 1, "trials": []}']
)
def test_a_search_whose_file_is_damaged_is_refused_in_a_sentence(tmp_path, content):
    path = Path(tmp_path / "study.json")
    path.write_text(content)
    with pytest.raises(UserError, match=r"study\.json is damaged"):
        read_study(path)
