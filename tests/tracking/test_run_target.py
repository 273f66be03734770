"""The target of a run and the form of its configuration, also for runs of earlier versions."""

from __future__ import annotations

import sys

import pytest
from mlflow.entities import Param, Run, RunData, RunInfo, RunTag

from ecgexp.config.upgrade import FORM
from ecgexp.errors import UserError
from ecgexp.metrics.base import as_metric
from ecgexp.sweeps import session
from ecgexp.targets import MultiClass, MultiLabel
from ecgexp.tracking.names import Tag
from ecgexp.tracking.runs import left_out, setting, standing
from ecgexp.tracking.target import metric_note, note_of, target_of, to_tag

OLD = {"threshold": "0.3", "dataset.task": "rhythm", "dataset.multiclass": "False"}


def run(params=None, number=0, **tags):
    info = RunInfo(f"run{number}", "0", "me", "FINISHED", number, number, "active")
    tags = {Tag.JOB: str(number), **tags}
    data = RunData([], [Param(*one) for one in (params or {}).items()], [RunTag(*one) for one in tags.items()])
    return Run(info, data)


class Hits:
    higher_is_better = False

    def __call__(self, probabilities, targets):
        return 0.0


def test_a_run_records_which_metrics_are_shown_and_their_direction():
    target = MultiLabel("AB")
    target.extra = (as_metric("hits", Hits()),)
    note = note_of(run(**{Tag.METRICS: to_tag(metric_note(target))}))
    assert note.main == "mlcm_f1_macro" and note.table[-1] == "hits"
    assert note.lower_is_better == ("loss", "hits")


@pytest.mark.parametrize(("multiclass", "main"), [("True", "f1_macro"), ("False", "mlcm_f1_macro")])
def test_a_run_of_an_earlier_version_has_the_metrics_of_its_kind(multiclass, main):
    assert note_of(run({**OLD, "dataset.multiclass": multiclass})).main == main


def test_the_target_of_a_run():
    new = {"target._target_": "ecgexp.targets.MultiLabel", "target.threshold": "0.3"}
    for params in (OLD, new):
        target = target_of(run(params))(("A", "B"))
        assert isinstance(target, MultiLabel) and (target.threshold, target.names) == (0.3, ("A", "B"))
    assert isinstance(target_of(run({**OLD, "dataset.multiclass": "True"}))("AB"), MultiClass)
    assert setting(run(OLD), "dataset.labels") == "rhythm" and setting(run(OLD), "target.threshold") == "0.3"


@pytest.mark.parametrize("key", ["target._target_", "metrics.mine._target_"])
def test_a_class_of_ones_own_is_built_only_where_it_is_trusted(tmp_path, monkeypatch, key):
    (tmp_path / "strangekinds.py").write_text(
        "from pathlib import Path\nfrom ecgexp.targets import MultiClass\nPath('marker').touch()\n"
        "class Grades(MultiClass):\n    higher_is_better = True\n"
        "    def __init__(self, label_names=()):\n        super().__init__(label_names)\n"
        "    def __call__(self, probabilities, targets):\n        return 0.0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "strangekinds", raising=False)
    strange = run({"target._target_": "ecgexp.targets.MultiClass", key: "strangekinds.Grades"})
    with pytest.raises(UserError, match=r"strangekinds\.Grades.*trust=PACKAGE"):
        target_of(strange)
    assert not (tmp_path / "marker").exists()
    target = target_of(strange, ["strangekinds"])("AB")
    assert type(target).__name__ == "Grades" or [metric.name for metric in target.extra] == ["mine"]


def test_trials_of_an_earlier_form_stand_until_there_are_later_ones():
    old = [run(OLD, number, **{Tag.SLOT: f"old{number}"}) for number in range(2)]
    new = run({}, 3, **{Tag.SLOT: "new", Tag.FORM: str(FORM)})
    assert standing(old) == old and left_out(old) == []
    assert standing([*old, new]) == [new]
    assert left_out([*old, new]) == ["Left out: 2 trials of an earlier form of the configuration."]


def test_a_sweep_warns_once_that_trials_of_an_earlier_form_are_trained_again(monkeypatch, capsys):
    monkeypatch.setattr(session, "children", lambda store, parent: [run(OLD), run({}, 1, **{Tag.FORM: str(FORM)})])
    session._warn_of_earlier_form(None, run())
    printed = capsys.readouterr().err
    assert printed.startswith("1 trial of this sweep was trained by an earlier version") and printed.count("\n") == 1
    session._warn_of_earlier_form(None, None)
    assert capsys.readouterr().err == ""
