import logging
from typing import get_type_hints

import numpy as np
import pandas as pd
import pytest
from folders import write_record
from pydantic import TypeAdapter, ValidationError

from ecgexp.datasets import WFDBFolder
from ecgexp.errors import UserError
from ecgexp.targets import MultiClass

RNG = np.random.default_rng(2)
N = 40


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """40 records of 20 patients in two sub-folders, at 250 Hz or 100 Hz, of 5 or 12 s, leads in two orders."""
    root = tmp_path_factory.mktemp("own")
    signals = {}
    for i in range(N):
        rate, seconds, leads = ((250, 12, ["II", "I"]), (100, 5, ["i", "ii", "V1"]))[i % 2]
        time = np.arange(int(rate * seconds)) / rate
        signal = np.stack([np.sin(2 * np.pi * (k + 1 + i / N) * time) for k in range(len(leads))], axis=1)
        write_record(root / f"part{i % 2}/rec{i:02d}", signal, leads, rate)
        signals[f"rec{i:02d}"] = signal
    return root, signals


@pytest.fixture
def own(template, tmp_path):
    root, signals = template
    table = pd.DataFrame(
        {
            "record": [f"part{i % 2}/rec{i:02d}" for i in range(N)],
            "patient": [f"p{i // 2}" for i in range(N)],
            "AF": [int(i % 3 == 0) for i in range(N)],
            "PVC": [int(i % 4 == 0) for i in range(N)],
            "findings": [" ; ".join(["AF"] * (i % 3 == 0) + ["PVC"] * (i % 4 == 0)) for i in range(N)],
            "use": ["train"] * 30 + ["val"] * 6 + ["test"] * 4,
        }
    )
    return Own(root, table, tmp_path, signals)


class Own:
    def __init__(self, root, table, tmp_path, signals):
        self.root, self.table, self.tmp_path, self.signals = root, table, tmp_path, signals

    def dataset(self, **options) -> WFDBFolder:
        path = self.tmp_path / "labels.csv"
        self.table.to_csv(path, index=False)
        defaults = {
            "cache_dir": self.tmp_path / "cache",
            "labels_csv": path,
            "labels": ["PVC", "AF"],
            "lead_names": ["I", "II"],
            "sampling_rate": 100,
            "samples": 1000,
            "patient_column": "patient",
            "split_column": "use",
        }
        return WFDBFolder(self.root, **(defaults | options))


def test_records_of_other_rates_lengths_and_leads(own):
    dataset = own.dataset()
    train = dataset.load("train")
    assert train.inputs["signal"].shape[1:] == (1000, 2)
    long, short = train.inputs["signal"][train.rows[0]], train.inputs["signal"][train.rows[1]]
    time = np.arange(1000) / 100
    expected = np.stack([np.sin(2 * np.pi * 2 * time), np.sin(2 * np.pi * time)], axis=1)  # leads were II, I
    np.testing.assert_allclose(long[20:-20], expected[20:-20], atol=0.01)
    np.testing.assert_allclose(short[:500], own.signals["rec01"][:, :2], atol=1e-3)
    assert not short[500:].any()
    summary = dataset.summary()
    adapted = {"reordered": 15, "cropped": 15, "resampled": 15, "omitted": 15, "padded": 15}
    assert summary["train"]["adapted"] == adapted
    assert summary["test"] == {"records": 4}


@pytest.mark.parametrize("columns", [{}, {"label_column": "findings", "separator": ";"}])
def test_labels_from_columns_or_from_text(own, columns):
    dataset = own.dataset(**columns)
    train = dataset.load("train")
    assert dataset.label_names == ("PVC", "AF")
    expected = [[i % 4 == 0, i % 3 == 0] for i in range(30)]
    np.testing.assert_array_equal(train.targets, expected)  # records without a label are not left out
    assert train.ids.tolist() == [f"part{i % 2}/rec{i:02d}" for i in range(30)]
    assert train.patients.tolist() == [f"p{i // 2}" for i in range(30)]
    assert dataset.load("val").ids.tolist() == own.table.record[30:36].tolist()


def test_labels_as_true_and_false(own):
    expected = own.dataset().load("train").targets
    own.table["AF"] = own.table["AF"].astype(bool)
    own.table["PVC"] = own.table["PVC"].astype(float)
    np.testing.assert_array_equal(own.dataset().load("train").targets, expected)


def test_records_by_bare_name_and_with_extension(own):
    endings = (".hea", "", ".HEA", ".mat", ".dat", ".MAT", ".Dat")
    own.table["record"] = [f"rec{i:02d}{endings[i % len(endings)]}" for i in range(N)]
    train = own.dataset().load("train")
    np.testing.assert_allclose(train.inputs["signal"][train.rows[1], :500], own.signals["rec01"][:, :2], atol=1e-3)


def test_records_without_a_gain_are_bad_or_assumed_and_reported(tmp_path, caplog):
    caplog.set_level(logging.INFO, "ecgexp")
    splits = ["train", "train", "val", "test"]
    for i in range(4):
        write_record(tmp_path / f"r{i}", RNG.normal(size=(1000, 2)), ["I", "II"], 100)
    header = tmp_path / "r1.hea"
    header.write_text(header.read_text().replace("1000.0(0)/mV", "0"))
    own = Own(tmp_path, pd.DataFrame({"record": [f"r{i}" for i in range(4)], "AF": 1, "use": splits}), tmp_path, {})
    options = {"labels": ["AF"], "patient_column": None}
    with pytest.raises(UserError, match=r"Record r1 .* no gain for lead I, II, .* uncalibrated=assume"):
        own.dataset(**options).prepare()
    assert len(own.dataset(**options, on_bad_record="skip").load("train")) == 1
    dataset = own.dataset(**options, uncalibrated="assume")
    assert len(dataset.load("train")) == 2
    assert dataset.summary()["train"]["adapted"] == {"uncalibrated": 1}
    assert "train: records adapted: 1 uncalibrated." in caplog.text


def test_a_bare_name_in_two_folders(tmp_path):
    for folder in ("a", "b"):
        write_record(tmp_path / folder / "r", RNG.normal(size=(100, 1)), ["I"], 100)
    dataset = Own(tmp_path, pd.DataFrame({"record": ["r"], "AF": [1], "use": ["train"]}), tmp_path, {})
    with pytest.raises(UserError, match=r"Record r is in several folders of .* \(a/r, b/r\): give its path"):
        dataset.dataset(labels=["AF"], lead_names=["I"], patient_column=None).load("train")


def test_without_a_split_column_patients_are_split_by_seed(own):
    def parts(seed):
        dataset = own.dataset(split_column=None, fractions=(0.5, 0.25, 0.25), split_seed=seed)
        return {name: dataset.load(name) for name in ("train", "val", "test")}

    splits = parts(0)
    assert [len(split) for split in splits.values()] == [20, 10, 10]
    patients = [set(split.patients.tolist()) for split in splits.values()]
    assert set.union(*patients) == set(own.table.patient)
    assert sum(map(len, patients)) == own.table.patient.nunique()
    for split, fraction in zip(splits.values(), (0.5, 0.25, 0.25), strict=True):
        assert (abs(split.targets.sum(axis=0) - fraction * own.table[["PVC", "AF"]].sum().to_numpy()) <= 1.5).all()
    assert parts(0)["val"].ids.tolist() == splits["val"].ids.tolist()
    assert parts(1)["val"].ids.tolist() != splits["val"].ids.tolist()


def test_a_missing_patient_column_gives_a_warning(own, caplog):
    dataset = own.dataset(split_column=None, patient_column=None)
    assert dataset.load("train").patients.tolist() == dataset.load("train").ids.tolist()
    assert (
        "each record counts as a separate patient. If a patient may have several records, set dataset.patient_column"
        in caplog.text
    )
    assert caplog.records[0].levelno == logging.WARNING


def test_the_cache_ignores_labels_but_not_the_layout(own):
    own.dataset().prepare()
    own.dataset(labels=["AF"]).prepare()
    assert len(list((own.tmp_path / "cache").glob("*.npy"))) == 1
    own.dataset(sampling_rate=50, samples=500).prepare()
    assert len(list((own.tmp_path / "cache").glob("*.npy"))) == 2


def set_cell(row, column, value):
    def damage(own):
        own.table[column] = own.table[column].astype(object)
        own.table.loc[row, column] = value

    return damage


TABLES = {
    "label column": (lambda o: o.table.pop("AF"), r"labels\.csv has no column 'AF', only record, .*: add it"),
    "record column": (lambda o: o.table.pop("record"), r"labels\.csv has no column 'record'"),
    "patient column": (lambda o: o.table.pop("patient"), r"labels\.csv has no column 'patient'"),
    "no rows": (lambda o: o.table.drop(index=o.table.index, inplace=True), r"labels\.csv has no rows"),
    "no record": (set_cell(3, "record", None), r"labels\.csv names no record in line 5, column 'record': fill it in"),
    "no patient": (set_cell(3, "patient", None), r"names no patient in line 5, column 'patient' \(''\): fill it in"),
    "record twice": (
        set_cell(3, "record", "part0/rec02"),
        r"has record part0/rec02 in line 4 \('part0/rec02'\) and in line 5 \('part0/rec02'\): keep one",
    ),
    "file twice": (
        set_cell(3, "record", "rec02"),
        r"has one record twice, as part0/rec02 and as rec02: keep one of the rows",
    ),
    "split": (set_cell(3, "use", "tarin"), r"has the split 'tarin' in line 5: write train, val or test"),
    "patient in two splits": (
        set_cell(3, "use", "val"),
        r"A patient is in more than one split \(records part0/rec02 in train, part1/rec03 in val\)",
    ),
    "empty split": (
        lambda o: o.table.replace({"use": {"val": "train"}}, inplace=True),
        r"The val split of .* is empty: write val into column 'use'",
    ),
}


@pytest.mark.parametrize("case", TABLES)
def test_a_bad_table(own, case):
    damage, message = TABLES[case]
    damage(own)
    with pytest.raises(UserError, match=message) as error:
        own.dataset(on_bad_record="skip").prepare()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("damage", "options", "message"),
    [
        (set_cell(2, "AF", "2"), {}, r"its column 'AF' in labels\.csv is '2', not 0 or 1"),
        (set_cell(2, "AF", None), {}, r"its column 'AF' in labels\.csv is '', not 0 or 1"),
        (
            set_cell(2, "findings", "AF;VT"),
            {"label_column": "findings"},
            r"its label 'VT' in labels\.csv is not in dataset\.labels",
        ),
        (set_cell(2, "record", "nowhere"), {}, r"the header file nowhere\.hea is missing"),
    ],
)
def test_a_bad_record(own, damage, options, message):
    damage(own)
    with pytest.raises(UserError, match=rf"Record .* is bad: .*: {message}. Repair it, or leave bad records out"):
        own.dataset(**options).prepare()
    dataset = own.dataset(**options, on_bad_record="skip")
    assert len(dataset.load("train")) == 29
    assert len(dataset.summary()["train"]["bad"]) == 1


def test_records_with_exactly_one_label(own):
    own.table["AF"] = 1 - own.table["PVC"]
    dataset = own.dataset()
    dataset.target = MultiClass(dataset.label_names)
    assert (dataset.load("train").targets.sum(axis=1) == 1).all()


@pytest.mark.parametrize(
    ("columns", "damage", "held"),
    [
        ({}, set_cell(2, "AF", 0), "no label"),
        ({}, set_cell(4, "AF", 1), "PVC and AF"),
        ({"label_column": "findings"}, set_cell(2, "findings", " "), "no label"),
        ({"label_column": "findings"}, set_cell(2, "findings", "AF;PVC"), "PVC and AF"),
    ],
)
def test_none_or_several_labels_are_bad_where_there_is_exactly_one(own, columns, damage, held):
    own.table["AF"] = 1 - own.table["PVC"]
    own.table["findings"] = np.where(own.table["AF"] == 1, "AF", "PVC")
    damage(own)
    message = rf"Record .* is bad: .*: it has {held}, but must have exactly one label \(labels\.csv\)\. Repair it"
    dataset = own.dataset(**columns)
    dataset.target = MultiClass(dataset.label_names)
    with pytest.raises(UserError, match=message):
        dataset.prepare()
    dataset = own.dataset(on_bad_record="skip", **columns)
    dataset.target = MultiClass(dataset.label_names)
    assert len(dataset.load("train")) == 29
    assert (dataset.load("train").targets.sum(axis=1) == 1).all()
    assert len(own.dataset(**columns).load("train")) == 30


def test_a_missing_folder_or_table(own, tmp_path):
    with pytest.raises(UserError, match=r"The folder .*nowhere is missing: set dataset\.root"):
        WFDBFolder(
            tmp_path / "nowhere",
            cache_dir=tmp_path,
            labels_csv="labels.csv",
            labels=["AF"],
            lead_names=["I"],
            sampling_rate=100,
            samples=100,
        ).prepare()
    with pytest.raises(UserError, match=r"missing\.csv is missing: restore it"):
        own.dataset(labels_csv="missing.csv").prepare()


def test_impossible_arguments(own):
    with pytest.raises(UserError, match=r"'dataset\.labels' names AF twice"):
        own.dataset(labels=["AF", "PVC", "AF"])
    with pytest.raises(UserError, match=r"'dataset\.lead_names' names I twice"):
        own.dataset(lead_names=["I", "II", "i"])
    with pytest.raises(UserError, match=r"'dataset\.fractions' is \[0\.8, 0\.1, 0\.2\], which sum to 1\.1"):
        own.dataset(fractions=[0.8, 0.1, 0.2])
    with pytest.raises(
        UserError, match=r"'dataset\.fractions' is \[0\.8, 0\.2\], which are 2 shares: give three, .* \[0\.8,0\.2,0\]"
    ):
        own.dataset(fractions=[0.8, 0.2])
    for shares in (["0.8", "0.1", "0.1"], [1.2, -0.1, -0.1], [float("nan"), 0.5, 0.5], [None, 0.5, 0.5]):
        with pytest.raises(
            UserError, match=r"'dataset\.fractions' is \[.*\]: give each share as a number from 0 to 1\.$"
        ):
            own.dataset(fractions=shares)
    with pytest.raises(UserError, match=r"'dataset\.labels' has an empty name"):
        own.dataset(labels=["AF", " "])


def test_annotations_refuse_impossible_values():
    hints = get_type_hints(WFDBFolder.__init__, include_extras=True)
    TypeAdapter(hints["fractions"]).validate_python([0.8, 0.1, 0.1])
    TypeAdapter(hints["labels"]).validate_python(["AF", 164889003])
    for name, value in {
        "fractions": [0.5, 1.5],
        "labels": [True],
        "samples": 0,
        "sampling_rate": 0,
        "workers": 0,
    }.items():
        with pytest.raises(ValidationError):
            TypeAdapter(hints[name]).validate_python(value)


def test_mitdb(mitdb, tmp_path):
    """Two leads at 360 Hz in format 212; 102 and 104 have no MLII; 201 and 202 are one patient."""
    records = ["100", "101", "102", "201", "202", "203"]
    table = pd.DataFrame(
        {
            "record": records,
            "patient": ["201" if record == "202" else record for record in records],
            "PVC": [0, 0, 0, 1, 1, 1],
            "use": ["train", "train", "train", "train", "train", "val"],
        }
    )
    own = Own(mitdb, table, tmp_path, {})
    dataset = own.dataset(labels=["PVC"], lead_names=["MLII"], on_bad_record="skip")
    summary = dataset.summary()
    assert summary["train"]["records"] == 4
    assert summary["train"]["patients"] == 3
    assert [bad["record"] for bad in summary["train"]["bad"]] == ["102"]
    assert summary["train"]["adapted"] == {"omitted": 4, "cropped": 4, "resampled": 4}


# --- links


@pytest.fixture
def linked(tmp_path):
    """Records in a store, and a folder of links to them."""
    store, root = tmp_path / "store", tmp_path / "data"
    for k, record in enumerate(("one/r1", "two/r2")):
        write_record(store / record, k + np.arange(100)[:, None] / 100, ["I"], 100)
    root.mkdir()
    return store, root


def own_records(root, tmp_path, records, **options) -> WFDBFolder:
    table = pd.DataFrame({"record": records, "AF": 1, "use": ["train", "val"][: len(records)]})
    return Own(root, table, tmp_path, {}).dataset(
        labels=["AF"], lead_names=["I"], samples=100, patient_column=None, **options
    )


def first_samples(dataset) -> list[float]:
    splits = [dataset.load(name) for name in ("train", "val")]
    return [float(split.inputs["signal"][row, 0, 0]) for split in splits for row in split.rows]


@pytest.mark.parametrize("names", [["a/r1", "b/r2"], ["r1", "r2"]])
def test_records_in_linked_folders(linked, tmp_path, names):
    store, root = linked
    (root / "a").symlink_to(store / "one")
    (root / "b").symlink_to("../store/two")
    assert first_samples(own_records(root, tmp_path, names)) == [0, 1]


def test_records_behind_a_linked_root_share_the_cache(linked, tmp_path):
    store, _ = linked
    (tmp_path / "link").symlink_to(store)
    direct = own_records(store, tmp_path, ["one/r1", "two/r2"])
    behind = own_records(tmp_path / "link", tmp_path, ["r1", "r2"])
    assert first_samples(direct) == first_samples(behind) == [0, 1]
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 1


def test_records_that_are_links(linked, tmp_path):
    store, root = linked
    for record in ("one/r1", "two/r2"):
        for suffix in (".hea", ".dat"):
            (root / f"{record[4:]}{suffix}").symlink_to(store / f"{record}{suffix}")
    assert first_samples(own_records(root, tmp_path, ["r1", "r2"])) == [0, 1]


def test_a_record_behind_two_links_is_one(linked, tmp_path):
    store, root = linked
    (root / "a").symlink_to(store / "one")
    (root / "b").symlink_to(store / "one")
    (root / "c").symlink_to(store / "two")
    assert first_samples(own_records(root, tmp_path, ["r1", "r2"])) == [0, 1]
    with pytest.raises(UserError, match=r"has one record twice, as a/r1 and as b/r1: keep one of the rows"):
        own_records(root, tmp_path, ["a/r1", "b/r1"]).prepare()


def test_a_record_by_a_path_from_elsewhere_is_one(linked, tmp_path):
    store, root = linked
    (root / "a").symlink_to(store / "one")
    for other in (str(store / "one/r1"), "../store/one/r1"):
        assert first_samples(own_records(root, tmp_path, [other, str(store / "two/r2")])) == [0, 1]
        with pytest.raises(
            UserError, match=r"has one record twice, as a/r1 and as .*store/one/r1: keep one of the rows"
        ):
            own_records(root, tmp_path, ["a/r1", other]).prepare()


def test_links_in_a_circle_are_not_followed(linked, tmp_path, caplog):
    store, root = linked
    (root / "a").symlink_to(store)
    (store / "one/back").symlink_to(root)
    (store / "up").symlink_to(store)
    (store / "self").symlink_to(store / "self")
    assert first_samples(own_records(root, tmp_path, ["r1", "r2"])) == [0, 1]
    assert f"{root}/a/up is a link back to its parent folder {store} and is not followed." in caplog.text
    assert f"{root}/a/one/back is a link back to its parent folder {root} and is not followed." in caplog.text


LINKS = {
    "root": (lambda root: root.rmdir() or root.symlink_to("gone"), r"The folder .*data is a broken link to gone: set"),
    "root in a circle": (
        lambda root: root.rmdir() or root.symlink_to(root),
        r"The folder .*data is a broken link to .*data: set dataset\.root",
    ),
    "folder above the root": (
        lambda root: root.rmdir() or root.parent.joinpath("x").symlink_to("gone"),
        r"The folder .*x/data is missing, because .*x is a broken link to gone: set",
    ),
    "folder": (
        lambda root: (root / "a").symlink_to("gone"),
        r"Record a/r1 .* header file r1\.hea is missing, because .*data/a is a broken link to gone\.",
    ),
    "header": (
        lambda root: (root / "a").mkdir() or (root / "a/r1.hea").symlink_to("gone"),
        r"Record a/r1 .* header file r1\.hea is a broken link to gone\. Repair",
    ),
    "header in a circle": (
        lambda root: (root / "a").mkdir() or (root / "a/r1.hea").symlink_to("r1.hea"),
        r"Record a/r1 .* header file r1\.hea is a broken link to r1\.hea\. Repair",
    ),
}


@pytest.mark.parametrize("case", LINKS)
def test_a_link_that_leads_nowhere(linked, tmp_path, case):
    damage, message = LINKS[case]
    damage(linked[1])
    root = tmp_path / "x/data" if case == "folder above the root" else linked[1]
    with pytest.raises(UserError, match=message):
        own_records(root, tmp_path, ["a/r1", "b/r2"]).prepare()


@pytest.mark.parametrize("target", ["gone", "r1.dat"])
def test_a_signal_file_that_is_a_link_to_nowhere(linked, tmp_path, target):
    store, _ = linked
    (store / "one/r1.dat").unlink()
    (store / "one/r1.dat").symlink_to(target)
    with pytest.raises(UserError, match=rf"signal file r1\.dat is a broken link to {target}\. Repair"):
        own_records(store, tmp_path, ["one/r1", "two/r2"]).prepare()
