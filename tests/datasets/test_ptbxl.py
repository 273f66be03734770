import ast
import json
import logging
from itertools import pairwise
from typing import get_type_hints

import numpy as np
import pandas as pd
import pytest
from folders import LEADS

from ecgexp.datasets import LABEL_SETS, PTBXL
from ecgexp.errors import UserError


def labels_of(dataset: PTBXL, split: str) -> dict[str, set[str]]:
    loaded = dataset.load(split)
    names = np.array(dataset.label_names)
    return {str(i): set(names[t == 1].tolist()) for i, t in zip(loaded.ids, loaded.targets, strict=True)}


# --- what is read


def test_splits_signals_and_patients(folder):
    dataset = folder.dataset()
    train, val, test = (dataset.load(split) for split in ("train", "val", "test"))
    assert train.ids.tolist() == [str(i) for i in range(1, 21) if i % 10 not in (9, 0)]
    assert (val.ids.tolist(), test.ids.tolist()) == (["9", "19"], ["10", "20"])
    assert val.patients.tolist() == ["1009", "1019"]
    assert dataset.lead_names == tuple(LEADS)
    assert (dataset.sampling_rate, dataset.samples) == (100, 1000)
    for split in (train, val, test):
        signals = np.concatenate(list(split.chunks("signal", 3)))
        expected = np.stack([folder.signals[int(i)] for i in split.ids])
        np.testing.assert_allclose(signals, expected, atol=1e-6)


def test_superclasses_in_the_papers_order_and_by_likelihood(folder):
    dataset = folder.dataset()
    assert dataset.label_names == ("NORM", "STTC", "CD", "MI", "HYP")
    expected = [{"NORM"}, {"STTC"}, {"CD"}, {"MI"}, {"HYP", "CD"}]
    labels = labels_of(dataset, "train")
    assert labels == {i: expected[(int(i) - 1) % 5] for i in labels}
    at_any = labels_of(folder.dataset(min_likelihood=0), "train")
    assert at_any["3"] == {"CD", "MI"}
    certain = labels_of(folder.dataset(min_likelihood=100), "train")
    assert certain["5"] == {"HYP"}
    assert "2" not in certain  # its only diagnostic statement has a likelihood of 50: no label, left out


def test_records_without_a_label_are_left_out_and_counted(folder):
    folder.set(1, "scp_codes", "{'SR': 0.0}")
    folder.set(19, "scp_codes", "{'NORM': 15.0}")
    summary = folder.dataset().summary()
    assert (summary["train"]["unlabelled"], summary["val"]["unlabelled"]) == (1, 1)
    assert (summary["train"]["records"], summary["val"]["records"]) == (15, 1)


def test_folds_are_chosen(folder):
    dataset = folder.dataset(val_fold=[1, 2], test_fold=3, train_folds=[4, 5])
    assert dataset.load("val").ids.tolist() == ["1", "2", "11", "12"]
    assert dataset.load("train").ids.tolist() == ["4", "5", "14", "15"]
    assert dataset.load("test").ids.tolist() == ["3", "13"]
    for options in ({"val_fold": 10}, {"train_folds": [8, 9]}, {"test_fold": [9, 10]}):
        with pytest.raises(UserError, match=r"Fold (9|10) is named twice"):
            folder.dataset(**options)


def test_label_sets_and_validation_folds_share_one_cache(folder, tmp_path):
    for options in ({}, {"min_likelihood": 0}, {"val_fold": 3}, {"train_folds": [1, 2]}, {"normalize": "scalar"}):
        folder.dataset(**options).prepare()
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 1
    folder.dataset().load("test")
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 2


def test_training_never_touches_the_test_fold(folder):
    for i in (10, 20):
        folder.path(i).with_suffix(".dat").unlink()
        folder.path(i).with_suffix(".hea").write_text("nonsense")
        folder.set(i, "scp_codes", "nonsense")
    dataset = folder.dataset(normalize="scalar")
    dataset.prepare()
    dataset.normalization()
    dataset.fingerprint()
    assert dataset.summary()["test"] == {"records": 2}
    with pytest.raises(UserError, match=r"Record 10 .* its scp_codes 'nonsense' cannot be read"):
        dataset.load("test")


def test_the_constructor_reads_nothing(tmp_path):
    PTBXL(tmp_path / "nowhere", cache_dir=tmp_path / "cache")
    assert list(tmp_path.iterdir()) == []


def test_arguments_are_annotated_for_validation():
    hints = get_type_hints(PTBXL.__init__, include_extras=True)
    assert {"root", "cache_dir", "sampling_rate", "labels", "min_likelihood", "val_fold"} <= set(hints)


# --- statistics, report, fingerprint


def test_normalization_is_that_of_the_training_split(folder):
    signals = np.stack([folder.signals[i] for i in range(1, 21) if i % 10 not in (9, 0)])
    assert folder.dataset().normalization() == {}
    mean, std = folder.dataset(normalize="per_lead").normalization()["signal"]
    np.testing.assert_allclose(mean[:, 0], signals.mean(axis=(0, 1)), atol=1e-5)
    np.testing.assert_allclose(std[:, 0], signals.std(axis=(0, 1)), rtol=1e-5)
    mean, std = folder.dataset(normalize="scalar").normalization()["signal"]
    np.testing.assert_allclose(mean, [[signals.mean()]], atol=1e-5)
    np.testing.assert_allclose(std, [[signals.std()]], rtol=1e-5)


def test_summary_counts(folder, caplog):
    caplog.set_level(logging.INFO, "ecgexp")
    summary = folder.dataset().summary()
    assert summary["train"]["records"] == summary["train"]["patients"] == 16
    assert summary["train"]["labels"] == {"NORM": 4, "STTC": 4, "CD": 6, "MI": 2, "HYP": 2}
    assert summary["val"]["labels"] == {"NORM": 0, "STTC": 0, "CD": 0, "MI": 2, "HYP": 0}
    assert summary["test"] == {"records": 2}
    assert json.loads(json.dumps(summary)) == summary
    assert "train: 16 records of 16 patients: NORM 4, STTC 4, CD 6, MI 2, HYP 2" in caplog.text


def test_identical_signals_across_splits(folder):
    folder.write(19, folder.signals[3])
    folder.write(20, folder.signals[3])
    folder.write(4, folder.signals[5])  # within a split
    dataset = folder.dataset()
    assert dataset.summary()["identical"] == [["train/3", "val/19"]]
    dataset.load("test")
    assert dataset.identical() == [["train/3", "val/19", "test/20"]]


def test_the_fingerprint_is_what_training_sees(folder, tmp_path):
    def fingerprint(**options):
        return folder.dataset(**options).fingerprint()

    first = fingerprint()
    folder.root = folder.root.rename(tmp_path / "elsewhere")
    assert fingerprint(cache_dir=tmp_path / "other") == first
    folder.set(20, "scp_codes", "{'LVH': 100}")  # a test record
    folder.write(10, folder.signals[1])
    assert fingerprint() == first
    different = [first, fingerprint(val_fold=8), fingerprint(min_likelihood=0)]
    folder.set(1, "scp_codes", "{'LVH': 100}")
    different.append(fingerprint())
    folder.write(2, -folder.signals[2])
    different.append(fingerprint())
    assert len(set(different)) == 5


# --- bad input


def drop_column(folder):
    folder.table = folder.table.drop(columns="strat_fold")
    folder.save()


def rows_twice(folder):
    folder.table = pd.concat([folder.table, folder.table.iloc[:1]])
    folder.save()


def clean(path):
    for file in path.rglob("*"):
        if file.is_file():
            file.unlink()


def replace_statement(folder, old, new):
    path = folder.root / "scp_statements.csv"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))


FOLDERS = {
    "no folder": (lambda f: f.root.rename(f.root.with_name("x")), r"The folder .*ptbxl is missing: .*make data"),
    "no table": (lambda f: (f.root / "ptbxl_database.csv").unlink(), r"ptbxl_database\.csv is missing: restore"),
    "no statements": (lambda f: (f.root / "scp_statements.csv").unlink(), r"scp_statements\.csv is missing"),
    "no column": (drop_column, r"ptbxl_database\.csv has no column 'strat_fold', only ecg_id, .*: add it"),
    "no rows": (
        lambda f: f.table.iloc[:0].to_csv(f.root / "ptbxl_database.csv"),
        r"ptbxl_database\.csv has no rows: restore",
    ),
    "empty table": (lambda f: (f.root / "ptbxl_database.csv").write_text(""), r"ptbxl_database\.csv is empty: restore"),
    "empty cell": (lambda f: f.set(3, "patient_id", None), r"ptbxl_database\.csv has no patient_id in line 4"),
    "fold": (lambda f: f.set(3, "strat_fold", "x"), r"record 3 into strat_fold 'x': write a whole number"),
    "file in two spellings": (
        lambda f: f.set(2, "filename_lr", "./records100//00000/00001_lr"),
        r"record file records100/00000/00001_lr occurs 2",
    ),
    "no patient": (lambda f: f.set(3, "patient_id", "NA"), r"names no patient in line 4, column 'patient_id' \('NA'\)"),
    "patient in two spellings": (
        lambda f: f.set(9, "patient_id", "01002"),
        r"has '1002' and '01002' \(line 10\) in column 'patient_id', which may be one patient",
    ),
    "id rounded": (lambda f: f.set(3, "ecg_id", "1.23457E+12"), r"has '1\.23457E\+12' in line 4, column 'ecg_id'"),
    "statement flag": (
        lambda f: replace_statement(f, "NORM,1", "NORM,nan"),
        r"scp_statements\.csv has 'nan' in column 'diagnostic' of the statement 'NORM', not 1 or nothing",
    ),
    "class": (
        lambda f: replace_statement(f, "HYP", "HPY"),
        r"scp_statements\.csv has the label 'HPY': restore the file",
    ),
    "statement twice": (
        lambda f: replace_statement(f, "NDT,", "NORM,"),
        r"scp_statements\.csv has the statement 'NORM' twice",
    ),
    "id twice": (rows_twice, r"record id 1 occurs 2 times in the table of .*/ptbxl: keep one"),
    "file twice": (lambda f: f.set(2, "filename_lr", "records100/00000/00001_lr"), r"record file .*1_lr occurs 2"),
    "patient in two splits": (
        lambda f: f.set(9, "patient_id", 1002.0),
        r"A patient is in more than one split \(records 2 in train, 9 in val\): put all",
    ),
    "empty split": (
        lambda f: [f.set(i, "strat_fold", 3) for i in (9, 19)],
        r"The val split of .* is empty: set dataset\.val_fold to folds",
    ),
    "no label in a split": (
        lambda f: [f.set(i, "scp_codes", "{'SR': 0.0}") for i in (9, 19)],
        r"The val split of .* is empty, because 0 of its records are bad and 2 have no label: set dataset\.val_fold",
    ),
    "other labels": (
        lambda f: (f.root / "scp_statements.csv").write_text(
            "".join((f.root / "scp_statements.csv").read_text().splitlines(keepends=True)[:3])
        ),
        r"scp_statements\.csv gives 2 labels for dataset\.labels=superclass, but PTB-XL has 5",
    ),
}


def test_folds_with_leading_zeros(folder):
    expected = folder.dataset().load("val").ids.tolist()
    for record in (9, 19):
        folder.set(record, "strat_fold", "09")
    assert folder.dataset().load("val").ids.tolist() == expected


@pytest.mark.parametrize("case", FOLDERS)
@pytest.mark.parametrize("on_bad_record", ["raise", "skip"])
def test_a_bad_folder(folder, case, on_bad_record):
    damage, message = FOLDERS[case]
    damage(folder)
    with pytest.raises(UserError, match=message) as error:
        folder.dataset(on_bad_record=on_bad_record).prepare()
    assert "\n" not in str(error.value)


def test_the_other_sampling_rate_is_missing(folder):
    with pytest.raises(UserError, match=r"no folder records500 with the 500 Hz .*dataset\.sampling_rate=100"):
        folder.dataset(sampling_rate=500).prepare()


def replace_header(folder, old, new):
    header = folder.path(2).with_suffix(".hea")
    assert old in header.read_text()
    header.write_text(header.read_text().replace(old, new))


def lead(value):
    def damage(folder):
        signal = folder.signals[2].copy()
        signal[:, 7] = value
        folder.write(2, signal)

    return damage


RECORDS = {
    "no header": (lambda f: f.path(2).with_suffix(".hea").unlink(), r"the header file 00002_lr\.hea is missing"),
    "no signal file": (lambda f: f.path(2).with_suffix(".dat").unlink(), r"signal file 00002_lr\.dat is missing"),
    "truncated": (
        lambda f: f.path(2).with_suffix(".dat").write_bytes(f.path(2).with_suffix(".dat").read_bytes()[:-24]),
        r"its files are truncated or damaged",
    ),
    "length": (lambda f: f.write(2, f.signals[2][:999]), r"it has 999 samples where 1000 are expected"),
    "rate": (lambda f: f.write(2, f.signals[2], rate=500), r"its sampling rate is 500 Hz where 100 Hz is"),
    "fewer leads": (lambda f: f.write(2, f.signals[2][:, :11], LEADS[:11]), r"it has no lead V6"),
    "more leads": (
        lambda f: f.write(2, f.signals[2][:, [*range(12), 0]], [*LEADS, "V7"]),
        r"it has 13 leads where 12 are expected \(also V7\)",
    ),
    "other lead": (lambda f: replace_header(f, " V1\n", " X\n"), r"it has no lead V1"),
    "unit": (lambda f: replace_header(f, "/mV", "/nV"), r"lead I is in 'nV'"),
    "missing sample": (lead(-32.768), r"lead V2 has missing samples \(NaN\)"),
    "constant lead": (lead(0.0), r"lead V2 is constant at 0 mV"),
    "unparsable codes": (lambda f: f.set(2, "scp_codes", "{'NORM': 100"), r"its scp_codes .* cannot be read"),
    "codes that are no dict": (lambda f: f.set(2, "scp_codes", "['NORM']"), r"its scp_codes .* cannot be read"),
    "no codes": (lambda f: f.set(2, "scp_codes", None), r"its scp_codes '' cannot be read"),
    "likelihood": (lambda f: f.set(2, "scp_codes", "{'NORM': 'x'}"), r"its scp_codes .* cannot be read"),
    "a code twice": (
        lambda f: f.set(2, "scp_codes", "{'NORM': 100.0, 'NORM': 0.0}"),
        r"its scp_codes .* name a statement twice",
    ),
    "likelihood above 100": (
        lambda f: f.set(2, "scp_codes", "{'NORM': 1000.0}"),
        r"its scp_codes .* have a likelihood that is not from 0 to 100",
    ),
    "no number": (lambda f: f.set(2, "scp_codes", "{'NORM': 1e999 - 1e999}"), r"its scp_codes .* cannot be read"),
    "unknown code": (
        lambda f: f.set(2, "scp_codes", "{'NORM': 100, 'NROM': 0}"),
        r"its scp_codes name the statement 'NROM', which scp_statements\.csv does not have",
    ),
}


@pytest.mark.parametrize("case", RECORDS)
def test_a_bad_record(folder, case):
    damage, message = RECORDS[case]
    damage(folder)
    with pytest.raises(UserError, match=message) as error:
        folder.dataset().prepare()
    sentence = str(error.value)
    assert sentence.startswith(f"Record 2 of {folder.root} is bad: records100/00000/00002_lr: ")
    assert "dataset.on_bad_record=skip" in sentence
    assert "\n" not in sentence

    dataset = folder.dataset(on_bad_record="skip")
    train = dataset.load("train")
    assert train.ids.tolist() == [str(i) for i in range(1, 21) if i % 10 not in (9, 0) and i != 2]
    np.testing.assert_allclose(train.inputs["signal"][train.rows[1]], folder.signals[3], atol=1e-6)
    (bad,) = dataset.summary()["train"]["bad"]
    assert bad["record"] == "2"
    assert bad["problem"].startswith("records100/00000/00002_lr: ")


def test_several_bad_records_are_counted(folder):
    for i in (2, 4, 9):
        folder.path(i).with_suffix(".dat").unlink()
    with pytest.raises(UserError, match=r"Record 2 of .* \(1 more are bad\)\. Repair it"):
        folder.dataset().load("train")
    summary = folder.dataset(on_bad_record="skip").summary()
    assert [bad["record"] for split in ("train", "val") for bad in summary[split]["bad"]] == ["2", "4", "9"]


def test_a_bad_record_without_a_label_asked_for_does_no_harm(folder):
    folder.set(2, "scp_codes", "{'SR': 0}")
    folder.path(2).with_suffix(".dat").unlink()
    assert "2" not in folder.dataset().load("train").ids


def test_leads_in_another_order_are_reordered(folder):
    folder.write(2, folder.signals[2][:, ::-1], LEADS[::-1])
    replace_header(folder, " AVR\n", " aVR\n")
    dataset = folder.dataset()
    train = dataset.load("train")
    np.testing.assert_allclose(train.inputs["signal"][train.rows[1]], folder.signals[2], atol=1e-6)
    assert dataset.summary()["train"]["adapted"] == {"reordered": 1}


def test_a_label_that_never_occurs_is_reported(folder, caplog):
    for i in (5, 15):
        folder.set(i, "scp_codes", "{'NORM': 100}")
    folder.dataset().prepare()
    sentences = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len(sentences) == 2
    assert (
        f"The train split of {folder.root} has no record with label HYP: results for it have no meaning" in sentences[0]
    )
    assert "no record with label NORM, STTC, CD, HYP" in sentences[1]


# --- the real records


@pytest.fixture(scope="module")
def real(real_ptbxl, tmp_path_factory):
    cache_dir = tmp_path_factory.mktemp("cache")
    return lambda **options: PTBXL(real_ptbxl, cache_dir=cache_dir, **options)


@pytest.mark.slow
def test_the_papers_counts(real):
    summary = real().summary()
    assert (summary["train"]["records"], summary["val"]["records"]) == (2191, 307)
    assert summary["train"]["bad"] == summary["val"]["bad"] == summary["identical"] == []


def test_the_two_known_pairs_are_identical(real):
    dataset = real(train_folds=[5], val_fold=1)
    splits = {name: dataset.load(name) for name in ("train", "val")}
    signal = {
        record: split.inputs["signal"][row]
        for split in splits.values()
        for record, row in zip(split.ids.tolist(), split.rows, strict=True)
    }
    assert (signal["456"] == signal["457"]).all() and (signal["459"] == signal["460"]).all()
    assert (signal["456"] != signal["459"]).any()


@pytest.mark.parametrize(
    ("task", "prefix"), [("superclass", "super_"), ("subclass", "sub_"), ("form", "form_"), ("rhythm", "rhythm_")]
)
def test_labels_agree_with_the_published_table(real, real_labels, task, prefix):
    """At any likelihood, as the benchmark counts; the table leaves out the underscores of ISC_ and the like."""
    dataset = real(labels=task, min_likelihood=0)
    compared = 0
    for split in ("train", "val"):
        loaded = dataset.load(split)
        table = real_labels.reindex(loaded.ids.astype(int))
        known = table[f"{prefix}{dataset.label_names[0]}".rstrip("_")].notna().to_numpy()
        for i, label in enumerate(dataset.label_names):
            column = f"{prefix}{label.strip('_') if task == 'subclass' else label}"
            np.testing.assert_array_equal(loaded.targets[known, i], table.loc[known, column])
        compared += known.sum()
    assert compared > 1000


def test_the_label_sets_are_those_of_the_benchmark(real, real_ptbxl):
    statements = pd.read_csv(real_ptbxl / "scp_statements.csv", index_col=0)
    diagnostic = statements[statements.diagnostic == 1]
    expected = {
        "subclass": set(diagnostic.diagnostic_subclass),
        "diagnostic": set(diagnostic.index),
        "form": set(statements.index[statements.form == 1]),
        "rhythm": set(statements.index[statements.rhythm == 1]),
        "all": set(statements.index),
    }
    for task, names in expected.items():
        dataset = real(labels=task)
        assert set(dataset.label_names) == names
        assert all(a < b for a, b in pairwise(dataset.label_names))
        assert LABEL_SETS[task] == dataset.label_names
    assert set(real().label_names) == set(diagnostic.diagnostic_class)


def test_the_set_all_takes_diagnostic_statements_by_likelihood_and_others_always(real, real_ptbxl):
    table = pd.read_csv(real_ptbxl / "ptbxl_database.csv").set_index("ecg_id")
    statements = pd.read_csv(real_ptbxl / "scp_statements.csv", index_col=0)
    always = set(statements.index[(statements.form == 1) | (statements.rhythm == 1)])
    labels = labels_of(real(labels="all"), "val")
    for record, names in labels.items():
        codes = ast.literal_eval(table.scp_codes[int(record)])
        assert names == {code for code, value in codes.items() if value >= 50 or code in always}
    assert len(labels) > 300


def test_statements_may_be_asked_for_one_by_one_in_any_order(real, real_ptbxl):
    table = pd.read_csv(real_ptbxl / "ptbxl_database.csv").set_index("ecg_id")
    dataset = real(labels=["SR", "IMI", "AFIB"])
    assert dataset.label_names == ("SR", "IMI", "AFIB")
    labels = labels_of(dataset, "val")
    for record, names in labels.items():
        codes = ast.literal_eval(table.scp_codes[int(record)])
        assert names == {
            code for code, value in codes.items() if code in ("SR", "AFIB") or (code == "IMI" and value >= 50)
        }
    assert len(labels) > 200


@pytest.mark.parametrize(
    ("labels", "words"),
    [(["SR", "XX"], "names 'XX', which is not a statement"), (["SR", "SR"], "SR twice"), ([], "nothing")],
)
def test_statements_that_there_are_not_or_twice_are_refused(tmp_path, labels, words):
    with pytest.raises(UserError, match=words):
        PTBXL(tmp_path, cache_dir=tmp_path, labels=labels)
