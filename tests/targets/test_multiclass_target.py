"""Records with exactly one label each: decisions and what is shown of each label."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import metrics as oracle

from ecgexp.reports.evaluation import subgroup_table
from ecgexp.targets import MultiClass
from ecgexp.targets.multiclass import SMALLEST_CLASS


def one_hot_example(records: int = 300) -> tuple[torch.Tensor, torch.Tensor]:
    random = np.random.default_rng(0)
    true = random.choice(4, records, p=[0.6, 0.3, 0.1, 0])
    values = torch.from_numpy(random.normal(size=(records, 4)) + 1.5 * np.eye(4)[true]).float().softmax(dim=1)
    return values, torch.from_numpy(np.eye(4, dtype=np.float32)[true])


def test_the_label_table_of_classes_is_that_of_the_most_probable_one():
    values, targets = one_hot_example()
    values[5] = torch.nan
    table = MultiClass("NVSQ").label_table(values, targets)
    known = torch.cat([values.nan_to_num(0), values.isnan().any(dim=1, keepdim=True)], dim=1)
    scores = oracle.precision_recall_fscore_support(
        targets.argmax(dim=1), known.argmax(dim=1), labels=range(4), zero_division=0
    )
    np.testing.assert_allclose(table[["precision", "recall", "f1"]].to_numpy().T, scores[:3])
    assert table["positives"].tolist() == scores[3].tolist()
    assert table.loc["V", "auroc"] == pytest.approx(oracle.roc_auc_score(targets[:, 1], values[:, 1].nan_to_num(0)))
    assert {"threshold", "mlcm_f1"} & set(table) == set()


def test_subgroups_of_classes_say_which_are_too_small_for_their_averages():
    values, targets = one_hot_example()
    sexes = np.array(["male"] * 80 + ["female"] * 220)
    table = subgroup_table(
        MultiClass("NVSQ").for_evaluation(), values, targets, np.arange(300), pd.DataFrame({"sex": sexes})
    ).set_index("group")
    for sex, row in table.iterrows():
        here = sexes == sex
        true, chosen = targets[here].argmax(dim=1), values[here].argmax(dim=1)
        counted = [k for k in range(4) if (true == k).sum() >= SMALLEST_CLASS]
        assert row["left_out"] == ", ".join(name for k, name in enumerate("NVSQ") if k not in counted)
        assert row["accuracy"] == pytest.approx(oracle.accuracy_score(true, chosen))
        f1 = oracle.f1_score(true, chosen, labels=counted, average="macro")
        assert row["f1_macro"] == pytest.approx(f1)
    assert table["left_out"].to_dict() == {"female": "Q", "male": "S, Q"}
