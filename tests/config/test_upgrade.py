"""Configurations and descriptions of runs of earlier versions, in today's form."""

from __future__ import annotations

import pytest

from ecgexp.config.upgrade import upgrade, upgrade_description, upgrade_params

LINEAR = {"_target_": "ecgexp.models.Linear", "leads": 12, "samples": 1000, "classes": 5, "multiclass": False}
PTBXL = {"_target_": "ecgexp.datasets.PTBXL", "root": "data", "task": "superclass", "classes": 5, "leads": 12}
OLD = {"model": LINEAR, "dataset": PTBXL, "threshold": 0.4, "lr": 0.1}
MULTILABEL = {"_target_": "ecgexp.targets.MultiLabel", "threshold": 0.4}


def test_a_configuration_of_ptbxl():
    new = upgrade(OLD)
    assert new["target"] == MULTILABEL
    assert new["dataset"] == {
        "_target_": "ecgexp.datasets.PTBXL", "root": "data", "labels": "superclass", "leads": 12,
        "label_names": ["NORM", "STTC", "CD", "MI", "HYP"],
    }  # fmt: skip
    assert new["model"] == {"_target_": "ecgexp.models.Linear", "leads": 12, "samples": 1000, "outputs": 5}
    assert (new["lr"], new["metrics"], "threshold" in new) == (0.1, {}, False)
    assert OLD["dataset"]["task"] == "superclass"  # what was given is as it was
    assert upgrade(new) == new


def test_a_configuration_of_records_with_exactly_one_label():
    beats = {"_target_": "ecgexp.datasets.MITBIH", "classes": 5, "multiclass": True}
    new = upgrade({**OLD, "dataset": beats, "model": {**LINEAR, "multiclass": True}})
    assert new["target"] == {"_target_": "ecgexp.targets.MultiClass"}
    assert new["dataset"]["label_names"] == list("NSVFQ") and "multiclass" not in new["model"]
    folder = {"_target_": "ecgexp.datasets.WFDBFolder", "labels": ["AF", 7], "classes": 2, "multiclass": False}
    new = upgrade({**OLD, "dataset": folder})
    assert (new["dataset"]["label_names"], new["dataset"]["labels"]) == (["AF", "7"], ["AF", 7])


def test_a_net_of_a_users_own_keeps_its_arguments():
    own = {"_target_": "mine.Net", "classes": 5}
    new = upgrade({**OLD, "model": own, "dataset": {"_target_": "mine.Data", "classes": 5}})
    assert new["model"] == own
    assert new["dataset"] == {"_target_": "mine.Data"}  # its labels are known only from the data


@pytest.mark.parametrize(
    ("multiclass", "kind"), [("True", "MultiClass"), ("False", "MultiLabel"), (None, "MultiLabel")]
)
def test_params(multiclass, kind):
    old = {"threshold": "0.4", "dataset.task": "rhythm", "model.classes": "12", "lr": "0.1"}
    old |= {} if multiclass is None else {"dataset.multiclass": multiclass}
    new = upgrade_params(old)
    assert new["target._target_"] == f"ecgexp.targets.{kind}"
    assert new.get("target.threshold") == (None if kind == "MultiClass" else "0.4")
    assert (new["dataset.labels"], new["model.outputs"], new["lr"]) == ("rhythm", "12", "0.1")
    assert upgrade_params(new) == new


def test_descriptions():
    assert upgrade_description({"labels": ["a"], "threshold": 0.4})["target"] == MULTILABEL
    both = {"labels": ["a"], "threshold": 0.4, "multiclass": True}
    assert upgrade_description(both)["target"] == {"_target_": "ecgexp.targets.MultiClass"}
    assert upgrade_description({"target": {"kind": "other"}}) == {"target": {"kind": "other"}}
    with pytest.raises(KeyError):
        upgrade_description({"labels": ["a"]})
