import json
import logging
import os
import shutil
from itertools import pairwise
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pandas as pd
import pytest
import wfdb
from folders import write_record
from scipy.signal import resample_poly

from ecgexp.datasets import MITBIH, MITBIHTable
from ecgexp.datasets.ecg import mitbih
from ecgexp.datasets.ecg.mitbih import DS1, DS2, PACED, RECORDINGS, cut_beats
from ecgexp.errors import UserError

CLASSES = ("N", "S", "V", "F", "Q")
# Symbol to class by EC57, '' for what is no beat.
TABLE = {
    "N": "N", "L": "N", "R": "N", "e": "N", "j": "N", "A": "S", "a": "S", "J": "S", "S": "S", "V": "V", "E": "V",
    "F": "F", "/": "Q", "f": "Q", "Q": "Q", "+": "", "~": "", "|": "", "x": "", "!": "", "[": "", "]": "", '"': "",
}  # fmt: skip
SECONDS = 40
PUBLISHED = {"N": 90_589, "S": 2_779, "V": 7_236, "F": 803, "Q": 8_039}


def annotations(recording: str) -> tuple[np.ndarray, list[str]]:
    """Where beats are and what they are: each recording another rhythm, and every symbol somewhere."""
    rng = np.random.default_rng(int(recording))
    places = np.cumsum(rng.integers(200, 400, SECONDS))
    places = places[places < SECONDS * 360 - 10]
    symbols = rng.choice(list(TABLE), len(places), p=[0.3, *[0.7 / (len(TABLE) - 1)] * (len(TABLE) - 1)])
    return places, ["N", *symbols[1:-1].tolist(), "N"]


def beats_of(recording: str) -> list[tuple[int, int, str]]:
    """Sample of each beat and of the next one, and the class."""
    beats = [(at, TABLE[symbol]) for at, symbol in zip(*annotations(recording), strict=True) if TABLE[symbol]]
    return [(at, end, label) for (at, label), (end, _) in pairwise(beats)]


def leads_of(recording: str) -> list[str]:
    return {"102": ["V5", "V2"], "104": ["V5", "V2"], "114": ["V5", "MLII"]}.get(recording, ["MLII", "V1"])


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> tuple[Path, dict[str, np.ndarray]]:
    """All 48 recordings, of 40 s, and their signals."""
    root = tmp_path_factory.mktemp("mitdb")
    signals = {}
    for recording in RECORDINGS:
        rng = np.random.default_rng(int(recording))
        signal = np.cumsum(rng.normal(0, 0.02, (SECONDS * 360, 2)), axis=0)
        options = {"fmt": ["16", "16"], "units": ["mV"] * 2, "adc_gain": [200.0] * 2, "baseline": [0, 0]}
        signals[recording] = write_record(root / recording, signal / 5, leads_of(recording), 360, **options) * 5
        places, symbols = annotations(recording)
        wfdb.wrann(recording, "atr", places, symbol=symbols, write_dir=str(root), fs=360)
    return root, signals


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def dataset(made, cache_dir):
    return lambda **options: MITBIH(made[0], **{"cache_dir": cache_dir, **options})


@pytest.fixture
def copied(made, tmp_path):
    """A copy that a test may damage."""
    root = shutil.copytree(made[0], tmp_path / "mitdb")
    return root, lambda **options: MITBIH(root, cache_dir=tmp_path / "cache", **options)


def labels(split) -> list[str]:
    assert (split.targets.sum(axis=1) == 1).all() and split.targets.dtype == np.uint8
    return [CLASSES[i] for i in split.targets.argmax(axis=1)]


def everything(dataset) -> dict[str, tuple[str, np.ndarray]]:
    """Class and signal of every beat of all splits, by id."""
    found = {}
    for name in ("train", "val", "test"):
        split = dataset.load(name)
        found |= dict(
            zip(split.ids.tolist(), zip(labels(split), split.inputs["signal"][split.rows], strict=True), strict=True)
        )
    return found


# --- how a beat is cut


def cut_slowly(signal: np.ndarray, start: int, end: int) -> list[float]:
    beat = [float(value) for at, value in enumerate(signal) if start <= at <= start + 1.2 * (end - start)][:187]
    low, high = min(beat), max(beat)
    return [(value - low) / (high - low) if high > low else 0.0 for value in beat] + [0.0] * (192 - len(beat))


def test_a_beat_reaches_from_its_peak_to_a_fifth_beyond_the_next():
    rng = np.random.default_rng(0)
    signal = rng.normal(size=1200)
    # the fourth is longer than 187 samples, the last but one reaches beyond the end of the recording
    peaks = np.array([3, 100, 185, 400, 1000, 1100, 1190])
    beats = cut_beats(signal, peaks)
    assert beats.shape == (6, 192) and beats.dtype == np.float32
    expected = [cut_slowly(signal, start, end) for start, end in pairwise(peaks)]
    np.testing.assert_allclose(beats, expected, atol=1e-6)
    assert beats.min(axis=1).tolist() == [0] * 6 and beats.max(axis=1).tolist() == [1] * 6
    assert (beats[:, 187:] == 0).all()


def test_a_beat_without_any_deflection_is_zero():
    assert not cut_beats(np.full(100, 0.7), np.array([10, 50, 50, 90])).any()


@pytest.mark.parametrize(("interval", "samples"), [(103, 124), (75, 91), (90, 109), (87, 105)])
def test_rows_of_the_published_table_are_as_long(interval, samples):
    """Place of the second peak and number of samples, as counted in rows of its test half."""
    signal = np.linspace(1, 2, 400)
    (beat,) = cut_beats(signal, np.array([50, 50 + interval]))
    assert beat.argmax() + 1 == samples


@pytest.mark.slow
def test_beats_are_those_of_the_annotations_in_the_lead_of_that_name(dataset, made):
    found = everything(dataset(split="random"))
    assert len(found) == sum(len(beats_of(recording)) for recording in RECORDINGS)
    for recording in ("100", "102", "114"):
        wanted = "MLII" if "MLII" in leads_of(recording) else "V5"
        signal = made[1][recording][:, leads_of(recording).index(wanted)]
        at_125 = resample_poly(signal, 25, 72, padtype="line")
        for start, end, label in beats_of(recording):
            known, beat = found[f"{recording}/{start}"]
            assert known == label
            expected = cut_slowly(at_125, round(start * 125 / 360), round(end * 125 / 360))
            np.testing.assert_allclose(beat[:, 0], expected, atol=2e-3)  # the file holds whole steps of 1/200 mV


def test_a_recording_without_the_wanted_lead(dataset, caplog):
    caplog.set_level(logging.INFO, "ecgexp")
    assert dataset(split="random").summary()["leads"] == {"102": "V5", "104": "V5"}
    assert "Recordings without lead MLII: 102 (V5), 104 (V5)" in caplog.text
    for lead in ("MLII", ["mlii"]):
        alone = dataset(split="random", lead=lead)
        recordings = {one.partition("/")[0] for one in everything(alone)}
        assert recordings == set(RECORDINGS) - {"102", "104"}
        assert "102 (left out), 104 (left out)" in caplog.text
        assert set(alone.summary()["recordings"]["test"]) == recordings
        assert alone.summary()["left_out"] == ["102", "104"] and alone.summary()["leads"] == {}
        assert alone.lead_names == ((lead,) if lead == "MLII" else ("mlii",))
    assert {one.partition("/")[0] for one in everything(dataset(split="random", lead=["V2"]))} == {"102", "104"}


# --- splits


def test_the_random_split_has_each_class_in_proportion_and_each_patient_everywhere(dataset):
    random = dataset(split="random")
    ids = [set(random.load(name).ids.tolist()) for name in ("train", "val", "test")]
    assert not (ids[0] & ids[1] or ids[0] & ids[2] or ids[1] & ids[2])
    known = pd.Series([label for recording in RECORDINGS for *_, label in beats_of(recording)]).value_counts()
    for name, share in (("train", 0.64), ("val", 0.16), ("test", 0.2)):
        counts = pd.Series(labels(random.load(name))).value_counts()
        assert (abs(counts - share * known) <= 1).all()
    assert set(random.load("train").patients) == set(random.load("test").patients) == set(RECORDINGS) - {"202"}
    assert len(random.summary()["shared_patients"]) == 47
    assert "too good" in random.warning
    assert random.summary()["warning"] == random.warning
    again, other = dataset(split="random"), dataset(split="random", split_seed=1)
    assert set(again.load("val").ids.tolist()) == ids[1] != set(other.load("val").ids.tolist())


def test_the_published_lists():
    assert len(DS1) == len(DS2) == 22 and not set(DS1) & set(DS2)
    assert set(DS1) | set(DS2) | set(PACED) == set(RECORDINGS) and len(RECORDINGS) == 48
    assert not (set(DS1) | set(DS2)) & set(PACED) and set(PACED) == {"102", "104", "107", "217"}
    assert "201" in DS1 and "202" in DS2  # of one patient


def test_the_inter_patient_split_separates_patients_except_the_one_that_the_lists_divide(dataset):
    inter = dataset()
    recordings = inter.summary()["recordings"]
    assert sorted(recordings["train"] + recordings["val"]) == sorted(DS1)
    assert len(recordings["val"]) == 4 and not set(recordings["train"]) & set(recordings["val"])
    assert recordings["test"] == list(DS2)
    assert {one.partition("/")[0] for one in inter.load("test").ids.tolist()} == set(DS2)
    patients = {name: set(inter.load(name).patients.tolist()) for name in ("train", "val", "test")}
    assert patients["test"] & (patients["train"] | patients["val"]) == {"201"}
    assert inter.summary()["shared_patients"] == ["201"]
    assert "201" in inter.warning and "202" in inter.warning
    others = {tuple(dataset(split_seed=seed).summary()["recordings"]["val"]) for seed in range(4)}
    assert len(others) > 1


def test_training_never_touches_the_test_recordings(copied):
    root, build = copied
    for recording in (*DS2, *PACED):
        (root / f"{recording}.dat").unlink()
        (root / f"{recording}.atr").write_bytes(b"nonsense")
        (root / f"{recording}.hea").write_text("nonsense")
    dataset = build(beats_per_class=10)
    dataset.prepare()
    dataset.fingerprint()
    assert "test" not in dataset.summary()
    with pytest.raises(UserError, match=r"Record .*100 cannot be used: its files are truncated or damaged"):
        dataset.load("test")


def test_no_label_of_the_test_split_is_shown_before_it_is_loaded(dataset):
    random = dataset(split="random")
    assert "test" not in random.summary()
    loaded = random.load("test")
    assert random.summary()["test"]["labels"] == {label: labels(loaded).count(label) for label in CLASSES}
    assert json.loads(json.dumps(random.summary())) == random.summary()


@pytest.mark.parametrize("split", ["random", "interpatient"])
def test_some_beats_of_each_class(dataset, split):
    whole, some = dataset(split=split), dataset(split=split, beats_per_class=6)
    for name in ("train", "val"):
        counts = {label: min(6, count) for label, count in whole.summary()[name]["labels"].items()}
        assert some.summary()[name]["labels"] == counts
        assert set(some.load(name).ids.tolist()) <= set(whole.load(name).ids.tolist())
        assert some.load(name).ids.tolist() == dataset(split=split, beats_per_class=6).load(name).ids.tolist()
    assert some.load("test").ids.tolist() == whole.load("test").ids.tolist()


def test_an_empty_split_is_refused(dataset):
    with pytest.raises(UserError, match=r"val split of .* is empty: choose another dataset\.val_fraction"):
        dataset(val_fraction=0.01).prepare()


# --- cache, fingerprint, report


def test_beats_are_cut_once(copied, monkeypatch):
    root, build = copied
    first = build()
    first.prepare()
    monkeypatch.setattr(mitbih, "read_record", None)
    second = build(split_seed=3, beats_per_class=5)
    second.prepare()
    row = second.load("val").rows[0]
    assert isinstance(first.load("train").inputs["signal"], np.memmap)
    np.testing.assert_array_equal(first.load("train").inputs["signal"][row], second.load("val").inputs["signal"][row])
    (root / "101.atr").write_bytes((root / "106.atr").read_bytes())
    with pytest.raises(TypeError):
        build().prepare()  # would read


@pytest.mark.parametrize("name", ["101.atr", "101.dat"])
def test_other_contents_of_equal_size_and_time_are_cut_again(copied, name):
    root, build = copied
    first = build().fingerprint()
    before = (root / name).stat()
    content = bytearray((root / name).read_bytes())
    if name.endswith(".dat"):
        # Samples change places; the checksum in the header does not detect it.
        content[1200:1296], content[3600:3696] = content[3600:3696], content[1200:1296]
    else:
        content[0] ^= 1  # a beat comes one sample earlier or later
    (root / name).write_bytes(content)
    os.utime(root / name, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert build().fingerprint() != first


def test_a_flipped_bit_in_cached_beats_changes_nothing(copied, caplog, tmp_path):
    _, build = copied
    first = build().fingerprint()
    rng = np.random.default_rng(0)
    for path in sorted((tmp_path / "cache").iterdir()):
        content = bytearray(path.read_bytes())
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
        path.write_bytes(content)
        caplog.clear()
        assert build().fingerprint() == first
        assert f"{path} is damaged" in caplog.text


def test_the_fingerprint_is_what_training_sees(copied, dataset, tmp_path):
    root, build = copied
    first = build().fingerprint()
    assert first == dataset().fingerprint()
    (root / "100.atr").write_bytes((root / "103.atr").read_bytes())  # a test recording
    assert build().fingerprint() == first
    different = [first, build(split_seed=1).fingerprint(), build(beats_per_class=5).fingerprint()]
    (root / "101.atr").write_bytes((root / "106.atr").read_bytes())
    different.append(build().fingerprint())
    assert len(set(different)) == 4


def test_counts_are_logged_and_a_class_without_beats_is_reported(copied, caplog):
    caplog.set_level(logging.INFO, "ecgexp")
    root, build = copied
    for recording in DS1:
        places, symbols = annotations(recording)
        wfdb.wrann(recording, "atr", places, symbol=["N" if s == "F" else s for s in symbols], write_dir=str(root))
    build().prepare()
    assert "The train split has no beat of class F: results for it have no meaning." in caplog.text
    assert "F 0, Q " in caplog.text


def test_it_says_what_it_is(dataset):
    built = dataset()
    assert built.unit != "mV"
    assert built.label_names == CLASSES and built.lead_names == ("MLII",)
    assert (built.sampling_rate, built.load("val").inputs["signal"].shape[1:]) == (125, (192, 1))
    hints = get_type_hints(MITBIH.__init__, include_extras=True)
    assert {"root", "cache_dir", "split", "val_fraction", "split_seed", "lead", "beats_per_class"} <= set(hints)


# --- what goes wrong


def test_a_folder_that_is_not_there(tmp_path):
    dataset = MITBIH(tmp_path / "nowhere", cache_dir=tmp_path / "cache")
    with pytest.raises(UserError, match=r"nowhere is missing: .*make data DATASET=mitbih.*dataset\.root"):
        dataset.prepare()


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-1000])


def one_beat(path):
    wfdb.wrann(path.stem, "atr", np.array([5]), symbol=["N"], write_dir=str(path.parent), fs=360)


def half(path):
    """Cut at an even byte, between two annotations."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 4 * 2])


def two_at_one_place(path):
    wfdb.wrann(path.stem, "atr", np.array([5, 400, 401, 900]), symbol=list("NNVN"), write_dir=str(path.parent), fs=360)


def behind_the_end(path):
    places = np.array([5, 400, SECONDS * 360 - 1, SECONDS * 360, SECONDS * 360 + 99])
    wfdb.wrann(path.stem, "atr", places, symbol=list("NNVNN"), write_dir=str(path.parent), fs=360)


def other_rate(path):
    wfdb.wrann(path.stem, "atr", np.array([5, 400, 900]), symbol=list("NNN"), write_dir=str(path.parent), fs=300)


def changed(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        (
            "101.atr",
            half,
            r"101\.atr is truncated or damaged \(it ends after \d+ annotations without an end mark",
        ),
        ("101.atr", behind_the_end, r"101\.atr has 2 of 5 beats after the end of the recording, .* 14499 of 14400"),
        ("101.atr", two_at_one_place, r"101 .* used: its annotation file 101\.atr has two beats at sample 401"),
        (
            "101.atr",
            other_rate,
            r"101 .* used: its annotation file 101\.atr is for 300 Hz, its header for 360 Hz",
        ),
        (
            "101.dat",
            changed,
            r"101 .* damaged \(lead \w+ in 101\.dat has the checksum",
        ),
        ("101.hea", Path.unlink, r"101 .* used: the header file 101\.hea is missing"),
        ("101.dat", Path.unlink, r"101 .* used: the signal file 101\.dat is missing"),
        ("101.atr", Path.unlink, r"101 cannot be used: the annotation file 101\.atr is missing"),
        (
            "101.hea",
            lambda path: path.write_text("nonsense"),
            r"101 cannot be used: its files are truncated or damaged",
        ),
        ("101.dat", cut_short, r"101 cannot be used: its files are truncated or damaged"),
        (
            "101.atr",
            lambda path: path.write_bytes(b"abc"),
            r"101 cannot be used: the annotation file 101\.atr is truncated or",
        ),
        ("101.atr", one_beat, r"101 cannot be used: its annotation file has fewer than two beats"),
    ],
)
def test_a_bad_recording_is_named_in_one_sentence(copied, file, damage, message):
    root, build = copied
    damage(root / file)
    with pytest.raises(UserError, match=message) as error:
        build().prepare()
    assert "\n" not in str(error.value)


def test_a_changed_byte_in_the_comment_that_gives_the_rate(copied):
    """wfdb.rdann does not return from some of these files."""
    root, build = copied
    content = (root / "101.atr").read_bytes()
    for wrong in (b"## tame resolution", b"## annotation type definitions"[:18], b"#! time resolution"):
        assert b"## time resolution" in content
        (root / "101.atr").write_bytes(content.replace(b"## time resolution", wrong))
        build().prepare()  # the header gives the same rate


def test_the_last_annotation_may_be_at_the_last_sample(copied):
    root, build = copied
    places = np.array([300, 900, SECONDS * 360 - 1])
    wfdb.wrann("101", "atr", places, symbol=list("NNN"), write_dir=str(root), fs=360)
    dataset = build(val_fraction=0.3)
    found = {one for name in ("train", "val") for one in dataset.load(name).ids.tolist()}
    assert {one for one in found if one.startswith("101/")} == {"101/300", "101/900"}


def test_leads_that_nothing_has(dataset):
    with pytest.raises(UserError, match=r"No recording in .* has a lead V9: dataset\.lead may be MLII"):
        dataset(lead="V9").prepare()
    with pytest.raises(UserError, match=r"'dataset\.lead' names no lead"):
        dataset(lead=[])


# --- the published table


@pytest.fixture
def table(tmp_path):
    """Two tables as published, and their rows."""
    rng = np.random.default_rng(0)
    rows = {}
    for name, count in (("train", 200), ("test", 60)):
        values = rng.random((count, 187)).astype(np.float32)
        values[:, 120:] = 0
        rows[name] = np.column_stack([values, np.arange(count) % 5])
        np.savetxt(tmp_path / f"mitbih_{name}.csv", rows[name], delimiter=",")
    return tmp_path, rows


def from_table(root, **options):
    return MITBIHTable(root, cache_dir=root / "cache", **options)


def test_the_table_as_csv_and_as_parquet(table):
    root, rows = table
    for name in ("train", "test"):
        frame = pd.DataFrame(rows[name], columns=[*map(str, range(187)), "target"])
        frame.to_parquet(root / f"last_{name}.parq")
        frame[["target", *map(str, range(187))]].to_parquet(root / f"first_{name}.parquet")
    kinds = [
        {},
        {"train": "last_train.parq", "test": "last_test.parq"},
        {"train": "first_train.parquet", "test": "first_test.parquet"},
    ]
    for options in kinds:
        dataset = from_table(root, **options)
        for name, count in (("train", 160), ("val", 40), ("test", 60)):
            split = dataset.load(name)
            assert len(split) == count
            part = "test" if name == "test" else "train"
            places = [int(one.removeprefix(f"{part}/")) for one in split.ids.tolist()]
            np.testing.assert_allclose(
                split.inputs["signal"][split.rows][:, :187, 0], rows[part][places, :187], atol=1e-6
            )
            assert not split.inputs["signal"][:, 187:].any()
            assert labels(split) == [CLASSES[int(label)] for label in rows[part][places, 187]]
            assert len(set(labels(split))) == 5
    assert "too good" in dataset.summary()["warning"]


def test_a_table_of_equal_size_and_time_is_read_again(table):
    root, _ = table
    first = from_table(root).fingerprint()
    path = root / "mitbih_train.csv"
    before, content = path.stat(), path.read_text()
    path.write_text(content.replace("e-01,", "e-02,", 1))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size and path.read_text() != content
    assert from_table(root).fingerprint() != first


def test_the_test_table_is_not_read_in_training(table):
    root, _ = table
    (root / "mitbih_test.csv").unlink()
    dataset = from_table(root, beats_per_class=3)
    dataset.prepare()
    assert dataset.summary()["train"]["labels"] == dict.fromkeys(CLASSES, 3)
    assert "test" not in dataset.summary()
    with pytest.raises(UserError, match=r"mitbih_test\.csv is missing: put it there, .*dataset\.test"):
        dataset.load("test")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"cannot be read"),
        ("a,b\n1\n1,2,3\n", r"cannot be read"),
        ("0.5,0.25,x\n", r"cannot be read"),
        ("0.5,0.25,1\n", r"has 3 columns where 187 samples and a class are expected"),
        (",".join(["0.5"] * 187 + ["5"]) + "\n", r"Row 1 of the table .* is not a beat: its class must be 0 to 4"),
        (
            ",".join(["0.5"] * 187 + ["1"]) + "\n" + ",".join(["nan"] * 187 + ["1"]),
            r"Row 2 of the table .* is not a beat",
        ),
    ],
)
def test_a_table_that_is_something_else(table, content, message):
    root, _ = table
    (root / "mitbih_train.csv").write_text(content)
    with pytest.raises(UserError, match=message) as error:
        from_table(root).prepare()
    assert "\n" not in str(error.value)


def test_a_parquet_file_that_is_none(table):
    root, _ = table
    (root / "beats.parq").write_bytes(b"PAR1 nonsense")
    with pytest.raises(UserError, match=r"beats\.parq cannot be read"):
        from_table(root, train="beats.parq").prepare()


# --- the real recordings


@pytest.fixture(scope="module")
def real(mitdb, tmp_path_factory):
    cache_dir = tmp_path_factory.mktemp("real")
    return lambda **options: MITBIH(mitdb, cache_dir=cache_dir, **options)


@pytest.mark.slow
def test_the_beats_of_each_class_are_as_many_as_published(real):
    dataset = real(split="random")
    counts = sum(dataset.load(name).targets.sum(axis=0, dtype=int) for name in ("train", "val", "test"))
    assert dict(zip(CLASSES, counts.tolist(), strict=True)) == PUBLISHED
    assert counts.sum() == 109_446
    shares = (100 * counts / counts.sum()).round(2).tolist()
    assert shares == pytest.approx([82.77, 2.54, 6.61, 0.73, 7.35], abs=0.0051)  # of Giraldi 2025
    assert dataset.summary()["leads"] == {"102": "V5", "104": "V5"} and dataset.summary()["left_out"] == []
    signals = dataset.load("train").inputs["signal"]
    assert signals.shape == (109_446, 192, 1)
    assert (signals.min(axis=1) == 0).all() and (signals.max(axis=1) == 1).all()
    assert not signals[:, 187:].any()


@pytest.mark.slow
def test_the_inter_patient_split_of_the_real_recordings(real):
    dataset = real()
    summary = dataset.summary()
    development = {label: summary["train"]["labels"][label] + summary["val"]["labels"][label] for label in CLASSES}
    # de Chazal's 45,866 N and 944 S in DS1, 44,259 N and 1,837 S in DS2, less the last beats of 22 recordings each
    assert development == {"N": 45_845, "S": 943, "V": 3_788, "F": 415, "Q": 8}
    dataset.load("test")
    assert dataset.summary()["test"]["labels"] == {"N": 44_238, "S": 1_836, "V": 3_221, "F": 388, "Q": 7}
    assert all(summary["val"]["labels"].values())
