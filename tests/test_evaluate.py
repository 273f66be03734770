"""A test-set access: its measurements, and its record."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import metrics as oracle
from trained import Trained, call, is_one_sentence, shell, trained_once

from ecgexp.commands.evaluate import other_records
from ecgexp.datasets import PTBXL, Synthetic, WFDBFolder
from ecgexp.reports.evaluation import SMALLEST_GROUP, calibration_bins, reliability_figure, subgroup_table
from ecgexp.targets import MultiLabel
from ecgexp.tracking.names import File
from ecgexp.tracking.runs import find_run
from ecgexp.tracking.test_access import accesses

LABELS = ("NORM", "STTC", "CD", "MI", "HYP")
PARENT = "mlflow.parentRunId"


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Trained:
    return trained_once(tmp_path_factory.getbasetemp())


@pytest.fixture
def moved(trained, tmp_path) -> Trained:
    """A copy of the run that a test may write to; the data stay where they are."""
    return trained.moved_to(tmp_path / "copy")


def places(trained: Trained) -> list[str]:
    return [f"dataset.root={trained.folder}/data/synthetic", f"dataset.cache_dir={trained.folder}/data/cache"]


def database(trained: Trained) -> pd.DataFrame:
    return pd.read_csv(trained.records.parents[1] / "ptbxl_database.csv", index_col="ecg_id")


def arrays(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    return tuple(table[[f"{what}/{label}" for label in LABELS]].to_numpy() for what in ("true", "probability"))


# --- the whole, from the command line


@pytest.mark.slow
def test_everything_is_measured_logged_and_printed(trained, moved):
    words = (f"run={trained.run_id}", "split=test", "thresholds=tuned", *places(trained))
    done = shell("evaluate", moved.folder, *words)
    assert done.returncode == 0, done.stderr
    folder = moved.artifacts / "evaluation" / "test"
    assert {path.name for path in folder.iterdir()} == {
        "predictions_test.parquet", "mlcm_test.csv", "mlcm_test.png", "labels.csv", "labels_tuned.csv",
        "calibration.csv", "reliability.png", "subgroups.csv", "metrics.json",
        "errors.csv", "errors.html",
    }  # fmt: skip
    errors = pd.read_csv(folder / "errors.csv", dtype={"id": str})
    assert set(errors["id"]) <= set(pd.read_parquet(folder / "predictions_test.parquet")["id"].astype(str))
    assert (folder / "errors.html").read_text().count("data:image/png;base64,") >= len(errors)
    assert str(folder / "errors.html") in done.stdout
    predictions = pd.read_parquet(folder / "predictions_test.parquet")
    known = database(trained)
    assert set(known.loc[predictions["id"].astype(int), "strat_fold"]) == {10}
    true, probability = arrays(predictions)
    logged = {key.removeprefix("test/"): v for key, v in moved.client.get_run(trained.run_id).data.metrics.items()}

    assert logged["auroc_macro"] == pytest.approx(oracle.roc_auc_score(true, probability), abs=1e-6)
    assert logged["ap_macro"] == pytest.approx(oracle.average_precision_score(true, probability), abs=1e-6)
    brier = [oracle.brier_score_loss(true[:, i], probability[:, i]) for i in range(5)]
    assert [logged[f"brier/{label}"] for label in LABELS] == pytest.approx(brier, abs=1e-6)
    assert logged["brier"] == pytest.approx(np.mean(brier), abs=1e-6)
    assert logged["loss"] == pytest.approx(oracle.log_loss(true.ravel(), probability.ravel()), abs=1e-5)
    assert logged["mlcm_f1_macro_low"] <= logged["mlcm_f1_macro"] <= logged["mlcm_f1_macro_high"]
    assert logged["auroc_macro_low"] < logged["auroc_macro"] < logged["auroc_macro_high"]

    table, tuned = (pd.read_csv(folder / name, index_col=0) for name in ("labels.csv", "labels_tuned.csv"))
    for part in (table, tuned):
        predicted = probability > part["threshold"].to_numpy()
        scores = oracle.precision_recall_fscore_support(true, predicted, average=None, zero_division=0)
        np.testing.assert_allclose(part[["precision", "recall", "f1"]].to_numpy().T, scores[:3], atol=1e-6)
        assert part["positives"].tolist() == scores[3].tolist()
    for name in ("precision", "recall"):
        seen = table[table["positives"] > 0]
        assert (seen[f"{name}_low"].fillna(0) <= seen[name]).all()
        assert (seen[name] <= seen[f"{name}_high"].fillna(1)).all()
    assert (table["threshold"] == 0.5).all()
    validation_true, validation = arrays(trained.validation())
    at_tuned = oracle.f1_score(validation_true, validation > tuned["threshold"].to_numpy(), average=None)
    at_half = oracle.f1_score(validation_true, validation > 0.5, average=None, zero_division=0)
    assert (at_tuned >= at_half).all()
    assert (at_tuned > at_half).any()
    assert logged["tuned/f1/NORM"] == pytest.approx(tuned.loc["NORM", "f1"], abs=1e-6)

    groups = pd.read_csv(folder / "subgroups.csv")
    ages = known.loc[predictions["id"].astype(int), "age"]
    assert groups.query("by == 'age' and group == '60 to 79'")["records"].item() == ages.between(60, 79).sum()
    sexes = known.loc[predictions["id"].astype(int), "sex"]
    larger = int(sexes.mean() > 0.5)
    row = groups.query(f"by == 'sex' and group == '{('male', 'female')[larger]}'").iloc[0]
    here = (sexes == larger).to_numpy()
    assert row["records"] == here.sum() >= SMALLEST_GROUP
    assert row["brier"] == pytest.approx(np.mean((true - probability)[here] ** 2), abs=1e-6)
    assert groups.groupby("by")["records"].sum().to_dict() == dict.fromkeys(
        ("age", "device", "sex", "site"), len(predictions)
    )

    for words in ("mlcm_f1_macro", "95 % interval", "NORM", "female", "tuned", "not of the seed", "number 1"):
        assert words in done.stdout
    assert Synthetic.warning in done.stdout
    assert json.loads((folder / "metrics.json").read_text())["warning"] == Synthetic.warning
    assert moved.client.get_run(trained.run_id).data.tags["warning"] == Synthetic.warning
    assert f"{logged['auroc_macro']:.3f}" in done.stdout
    assert "fingerprint" not in done.stdout


def test_each_access_is_counted_for_the_run_and_for_its_sweeps(trained, moved, monkeypatch, capsys):
    client = moved.client
    experiment = client.get_run(trained.run_id).info.experiment_id
    sweep, other = (client.create_run(experiment, tags={"kind": "sweep"}).info.run_id for _ in range(2))
    client.set_tag(trained.run_id, PARENT, sweep)
    took_over = client.create_run(experiment, tags={PARENT: other, "reused_from": trained.run_id}).info.run_id
    sibling = client.create_run(experiment, tags={PARENT: sweep}).info.run_id
    printed = []
    for run in (trained.run_id, took_over):
        assert call(monkeypatch, "evaluate", moved.folder, f"run={run}", "split=test", *places(trained)) == 0
        printed += [line for line in capsys.readouterr().out.splitlines() if "test-set access number" in line]
    assert printed == [f"This is test-set access number {number} of this sweep." for number in (1, 2)]
    store, _ = find_run(trained.run_id, moved.folder, None)
    for run in (trained.run_id, took_over, sweep, other):
        found = accesses(store, run)
        assert [entry["run"] for entry in found] == [trained.run_id] * 2
        assert client.get_run(run).data.tags["looks/test"] == "2"
    assert accesses(store, sibling) == []
    assert found[0]["by"].count("@") == 1
    assert found[0]["when"] <= found[1]["when"]
    assert found[0]["same_data"] is True
    steps = [metric.step for metric in client.get_metric_history(trained.run_id, "test/mlcm_f1_macro")]
    assert steps == [1, 2]


@pytest.mark.slow
def test_a_sweep_that_reuses_a_trial_later_has_its_accesses(trained, moved, monkeypatch, capsys):
    client = moved.client
    experiment = client.get_run(trained.run_id).info.experiment_id
    words = (f"run={trained.run_id}", "split=test", *places(trained))
    assert call(monkeypatch, "evaluate", moved.folder, *words) == 0
    later, another = (client.create_run(experiment, tags={"kind": "sweep"}).info.run_id for _ in range(2))
    reused = client.create_run(experiment, tags={PARENT: later, "reused_from": trained.run_id}).info.run_id
    client.create_run(experiment, tags={PARENT: another, "identity": "another"})
    store, _ = find_run(trained.run_id, moved.folder, None)
    for run in (later, reused):
        assert [entry["run"] for entry in accesses(store, run)] == [trained.run_id]
    assert accesses(store, another) == []
    capsys.readouterr()
    assert call(monkeypatch, "evaluate", moved.folder, *words) == 0
    assert "test-set access number 2 of this sweep" in capsys.readouterr().out
    assert len(accesses(store, later)) == 2
    identity = client.get_run(trained.run_id).data.tags["identity"]
    client.create_run(experiment, tags={PARENT: another, "identity": identity})  # the same trial, trained again
    client.delete_run(trained.run_id)
    assert len(accesses(store, later)) == len(accesses(store, another)) == 2


@pytest.mark.slow
def test_an_access_to_other_test_records_is_reported_and_stored_separately(trained, moved, monkeypatch, capsys):
    words = (f"run={trained.run_id}", "split=test")
    assert call(monkeypatch, "evaluate", moved.folder, *words, *places(trained)) == 0
    assert "not those" not in capsys.readouterr().out
    first = {path: path.read_bytes() for path in (moved.artifacts / "evaluation" / "test").iterdir()}
    metrics = moved.client.get_run(trained.run_id).data.metrics

    data = shutil.copytree(trained.folder / "data" / "synthetic", moved.folder / "other")
    (table,) = data.rglob("ptbxl_database.csv")
    rows = pd.read_csv(table, dtype=str)
    tested = rows.index[rows["strat_fold"].astype(float) == 10]
    rows.drop(tested[::4]).to_csv(table, index=False)
    table.with_name("SHA256SUMS.txt").unlink()
    others = (f"dataset.root={data}", "dataset.cache_dir=cache")
    assert call(monkeypatch, "evaluate", moved.folder, *words, *others) == 0
    printed = capsys.readouterr().out
    assert f"their table lists {len(tested) - len(tested[::4])} test records, not {len(tested)}" in printed
    store, run = find_run(trained.run_id, moved.folder, None)
    one, two = accesses(store, trained.run_id)
    assert one["records"] > two["records"]
    assert one["data"] != two["data"]
    assert (one["place"], two["place"]) == ("test", f"test-{two['data'][:8]}")
    assert (one["same_data"], two["same_data"]) == (True, False)
    assert f"The {two['records']} test records are not the {one['records']} of this run's first access" in printed
    assert {path: path.read_bytes() for path in first} == first
    apart = moved.artifacts / "evaluation" / two["place"]
    assert len(pd.read_parquet(apart / "predictions_test.parquet")) == two["records"]
    assert json.loads((apart / "metrics.json").read_text())["data"] == two["data"]
    assert {key: run.data.metrics[key] for key in metrics} == metrics
    assert f"{two['place']}/mlcm_f1_macro" in run.data.metrics

    assert call(monkeypatch, "evaluate", moved.folder, *words, *places(trained)) == 0
    assert accesses(store, trained.run_id)[2]["place"] == "test"
    assert "test-set access number 3" in capsys.readouterr().out


def test_the_commit_is_noted(trained, moved, monkeypatch, capsys):
    from ecgexp.tracking import provenance

    monkeypatch.setattr(provenance, "git_state", lambda folder: {"git_commit": "abc", "git_dirty": "true"})
    assert call(monkeypatch, "evaluate", moved.folder, f"run={trained.run_id}", "split=test", *places(trained)) == 0
    assert "test-set access number 1 of this run" in capsys.readouterr().out
    store, _ = find_run(trained.run_id, moved.folder, None)
    assert accesses(store, trained.run_id)[0]["git_commit"] == "abc"


def test_an_access_that_fails_afterwards_is_recorded_and_one_that_could_not_begin_is_not(trained, moved, monkeypatch):
    import ecgexp.commands.evaluate

    store, _ = find_run(trained.run_id, moved.folder, None)
    words = (f"run={trained.run_id}", "split=test")
    empty = moved.folder / "file"
    empty.touch()
    message = call(monkeypatch, "evaluate", moved.folder, *words, f"dataset.root={empty}")
    assert is_one_sentence(message), message
    assert accesses(store, trained.run_id) == []

    def broken(*_):
        raise MemoryError

    monkeypatch.setattr(ecgexp.commands.evaluate, "predict_split", broken)
    with pytest.raises(MemoryError):
        call(monkeypatch, "evaluate", moved.folder, *words, *places(trained))
    assert len(accesses(store, trained.run_id)) == 1


def test_an_evaluation_of_the_validation_split_is_no_test_set_access(trained, moved, monkeypatch, capsys):
    before = moved.client.get_run(trained.run_id).data
    assert call(monkeypatch, "evaluate", moved.folder, f"run={trained.run_id}", "split=val", *places(trained)) == 0
    assert "test-set access" not in capsys.readouterr().out
    after = moved.client.get_run(trained.run_id).data
    assert after.metrics == before.metrics
    assert after.tags == before.tags
    again = pd.read_parquet(moved.artifacts / "evaluation" / "val" / "predictions_val.parquet")
    pd.testing.assert_frame_equal(again, trained.validation(), atol=1e-6)
    whole = json.loads((moved.artifacts / "evaluation" / "val" / "metrics.json").read_text())
    shared = {name: value for name, value in whole["metrics"].items() if f"best/val/{name}" in before.metrics}
    assert len(shared) > 15
    assert shared == pytest.approx({name: before.metrics[f"best/val/{name}"] for name in shared}, abs=1e-5)


@pytest.mark.slow
def test_other_data_than_those_of_the_training_are_pointed_out(trained, moved, monkeypatch, capsys):
    data = shutil.copytree(trained.folder / "data" / "synthetic", moved.folder / "other")
    name = f"{int(trained.validation()['id'][0]):05d}_lr.dat"
    (file,) = data.rglob(name)
    content = bytearray(file.read_bytes())
    # Two samples of all leads change places; the checksums in the header do not detect it.
    content[240:264], content[480:504] = content[480:504], content[240:264]
    file.write_bytes(content)
    words = (f"run={trained.run_id}", "split=val", f"dataset.root={data}", "dataset.cache_dir=cache")
    assert call(monkeypatch, "evaluate", moved.folder, *words) == 0
    assert "fingerprint differs" in capsys.readouterr().out


def with_folds(trained: Trained, folder: Path, swap: dict[int, int]) -> list[str]:
    """A copy of the data whose records change folds; returns the words that name it."""
    data = shutil.copytree(trained.folder / "data" / "synthetic", folder / "other")
    (path,) = data.rglob("ptbxl_database.csv")
    table = pd.read_csv(path, dtype=str)
    folds = table["strat_fold"].astype(float).astype(int)
    table["strat_fold"] = folds.map(lambda fold: swap.get(fold, fold)).astype(str)
    table.to_csv(path, index=False)
    path.with_name("SHA256SUMS.txt").unlink()
    return [f"dataset.root={data}", "dataset.cache_dir=cache"]


@pytest.mark.slow
@pytest.mark.parametrize(("swap", "how"), [({1: 10, 10: 1}, "trained on"), ({9: 10, 10: 9}, "used in validation")])
def test_test_records_that_the_run_was_trained_on_are_refused_before_an_access(
    trained, moved, monkeypatch, capsys, swap, how
):
    before = moved.client.get_run(trained.run_id).data
    others = with_folds(trained, moved.folder, swap)
    message = call(monkeypatch, "evaluate", moved.folder, f"run={trained.run_id}", "split=test", *others)
    assert is_one_sentence(message), message
    assert re.match(rf"(2\d) of the \1 test records were {how}", message), message
    assert capsys.readouterr().out == ""
    after = moved.client.get_run(trained.run_id).data
    assert (after.metrics, after.tags) == (before.metrics, before.tags)
    assert not (moved.artifacts / "evaluation").exists()


@pytest.mark.slow
def test_validation_records_that_were_trained_on_are_reported_before_and_after(trained, moved, monkeypatch, capsys):
    words = (f"run={trained.run_id}", "split=val", *with_folds(trained, moved.folder, {1: 9, 9: 1}))
    assert call(monkeypatch, "evaluate", moved.folder, *words) == 0
    printed = capsys.readouterr().out
    found = re.findall(r"((\d+) of the \2 val records were trained on)", printed)
    told, count = found[0]
    assert int(count) == len(pd.read_parquet(next(moved.artifacts.glob("evaluation/val-*/*.parquet"))))
    first, second = printed.index(told), printed.rindex(told)
    assert first < printed.index("mlcm_f1_macro") < second
    (written,) = (moved.artifacts / "evaluation").glob("val-*/metrics.json")
    assert told in json.loads(written.read_text())["trained_on"]

    (moved.artifacts / File.TRAINED_ON).unlink()  # as of an earlier version
    assert call(monkeypatch, "evaluate", moved.folder, *words) == 0
    assert "It cannot be checked whether val records were trained on" in capsys.readouterr().out


def test_records_of_the_first_access_with_other_labels_are_not_called_other_records():
    assert other_records(12, "a", {"records": 12, "names": "a"}).endswith("but their labels or signals differ")
    assert other_records(12, "b", {"records": 12, "names": "a"}).startswith("The 12 test records are not the 12 of")
    assert other_records(12, "b", {"records": 11}).endswith("or their labels or signals differ")


# --- sentences


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["split=test"], "run"),
        (["run=x"], "split=test"),
        (["run=x", "split=train"], "split=test or split=val"),
        (["run=x", "split=test", "thresholds=best"], "thresholds=tuned"),
        (["run=x", "split=test", "dataset.val_fold=10"], "dataset.val_fold"),
        (["run=x", "split=test", "model=ribeiro"], "model"),
        (["run=x", "split=test", "quickly"], "quickly"),
        (["run=x", "split=test"], "mlflow.db"),
        (["run={run}", "split=test", "tracking.root={trained}", "dataset.labels_csv=a.csv"], "labels_csv"),
    ],
)
def test_what_cannot_be_done_is_reported_in_one_sentence(trained, tmp_path, monkeypatch, words, named):
    words = [word.format(trained=trained.folder, run=trained.run_id) for word in words]
    message = call(monkeypatch, "evaluate", tmp_path, *words)
    assert is_one_sentence(message), message
    assert named in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("group", ["model", "dataset", "loss"])
def test_a_config_that_names_a_foreign_class_is_refused(trained, moved, monkeypatch, group):
    (moved.artifacts / File.CHECKSUMS).unlink()  # a stranger would make them fit
    path = moved.artifacts / "config.yaml"
    lines = path.read_text().splitlines()
    at = lines.index(f"{group}:") + 1
    lines[at] = "  _target_: os.system"
    path.write_text("\n".join([*lines[: at + 1], "  command: touch marker", *lines[at + 1 :]]))
    message = call(monkeypatch, "evaluate", moved.folder, f"run={trained.run_id}", "split=test", *places(trained))
    assert is_one_sentence(message), message
    assert "os.system" in message
    assert not (moved.folder / "marker").exists()


# --- the parts


def example(records: int = 400, classes: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    random = np.random.default_rng(seed)
    targets = random.random((records, classes)) < [0.5, 0.2, 0.05][:classes]
    values = np.clip(random.normal(0.3 + 0.3 * targets, 0.2), 0.001, 0.999).astype(np.float32)
    return torch.from_numpy(values), torch.from_numpy(targets.astype(np.float32))


def test_calibration_bins_are_those_of_scikit_learn():
    from sklearn.calibration import calibration_curve

    values, targets = example()
    bins = calibration_bins(values, targets, ("a", "b", "c"))
    for name, p, y in [
        ("all", values.flatten(), targets.flatten()), *zip("abc", values.T, targets.T, strict=True),
    ]:  # fmt: skip
        observed, mean = calibration_curve(y, p, n_bins=10)
        here = bins[bins["label"] == name]
        np.testing.assert_allclose(here["observed"], observed, atol=1e-6)
        np.testing.assert_allclose(here["mean_probability"], mean, atol=1e-6)
        assert here["records"].sum() == len(p)
    certain = calibration_bins([[0.0], [1.0]], [[0], [1]], ("a",))
    assert certain[["low", "observed"]].drop_duplicates().to_numpy().tolist() == [[0.0, 0.0], [0.9, 1.0]]


@pytest.mark.parametrize("classes", [3, 12])
def test_the_reliability_plot_shows_labels_while_they_can_be_distinguished(classes):
    values, targets = (part.repeat(1, classes // 3) for part in example())
    names = [f"label {i}" for i in range(classes)]
    figure = reliability_figure(calibration_bins(values, targets, names), 0.1234, "title")
    shown = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert ("label 0" in shown) == (classes == 3)
    assert "all labels" in shown
    assert "0.1234" in figure.axes[0].get_title()


def test_subgroups_are_counted_scored_and_honest_about_what_they_lack():
    values, targets = example(60)
    targets[:20, 2] = 0
    targets[20:, 2] = (torch.arange(40) % 2).float()
    metadata = pd.DataFrame(
        {
            "age": ["39", "40"] * 10 + ["79.0", "80", "300", ""] * 10,
            "sex": ["male"] * 20 + ["female"] * 40,
            "device": ["A  1", "A 1 "] * 10 + ["B"] * 35 + [None] * 5,
        }
    )
    patients = np.repeat(np.arange(30), 2)
    table = subgroup_table(MultiLabel("abc"), values, targets, patients, metadata).set_index(["by", "group"])
    assert table["records"].to_dict() == {
        ("age", "under 40"): 10, ("age", "40 to 59"): 10, ("age", "60 to 79"): 10, ("age", "80 and over"): 20,
        ("age", "unknown"): 10, ("sex", "female"): 40, ("sex", "male"): 20,
        ("device", "A 1"): 20, ("device", "B"): 35, ("device", "unknown"): 5,
    }  # fmt: skip
    assert table.loc[("sex", "male"), "patients"] == 10
    women = table.loc[("sex", "female")]
    assert women["auroc_macro"] == pytest.approx(oracle.roc_auc_score(targets[20:], values[20:]))
    assert women["absent"] == ""
    assert np.isfinite(women["mlcm_f1_macro"])
    men = table.loc[("sex", "male")]
    assert men["absent"] == "c"
    assert np.isnan(men["mlcm_f1_macro"])
    assert np.isfinite(men["mlcm_f1_micro"])
    assert men["auroc_macro"] == pytest.approx(oracle.roc_auc_score(targets[:20, :2], values[:20, :2]))
    few = table.loc[("device", "unknown")]
    assert few["records"] < SMALLEST_GROUP
    assert few[["mlcm_f1_micro", "auroc_macro", "brier"]].isna().all()


def test_rare_devices_form_one_group():
    values, targets = example(60)
    metadata = pd.DataFrame({"device": [f"device {min(i % 20, i // 2):02d}" for i in range(60)]})
    table = subgroup_table(MultiLabel("abc"), values, targets, np.arange(60), metadata)
    assert len(table) == 12
    assert table["group"].iloc[-1] == "others"
    assert table["records"].sum() == 60


# --- metadata


def test_real_metadata_are_those_of_the_records_of_the_split(ptbxl_folder, tmp_path):
    dataset = PTBXL(ptbxl_folder, cache_dir=tmp_path, workers=1)
    split, metadata = dataset.load("test"), dataset.metadata("test")
    table = pd.read_csv(ptbxl_folder / "ptbxl_database.csv", index_col="ecg_id").loc[split.ids.astype(int)]
    assert list(metadata) == ["age", "sex", "site", "device"]
    assert metadata["age"].astype(float).tolist() == table["age"].tolist()
    assert (metadata["sex"] == "female").tolist() == (table["sex"] == 1).tolist()
    assert [float(site or "nan") for site in metadata["site"]] == pytest.approx(table["site"].tolist(), nan_ok=True)


@pytest.mark.parametrize("columns", [("sex", "age"), ()])
def test_a_folder_of_records_has_the_metadata_that_its_table_has(trained, tmp_path, columns):
    names = [path.stem for path in sorted(trained.records.glob("*.hea"))[:12]]
    known = {"sex": ["f", "m"] * 6, "age": range(40, 52)}
    table = pd.DataFrame({"record": names, "AF": [0, 1, 1] * 4, "split": ["train", "val", "test"] * 4})
    table.assign(**{name: known[name] for name in columns}).to_csv(tmp_path / "labels.csv", index=False)
    dataset = WFDBFolder(
        trained.records,
        cache_dir=tmp_path / "cache",
        labels_csv=tmp_path / "labels.csv",
        labels=["AF"],
        lead_names=["I", "II"],
        sampling_rate=100,
        samples=1000,
        split_column="split",
        workers=1,
    )
    metadata = dataset.metadata("test")
    if not columns:
        assert metadata is None
    else:
        assert metadata["age"].tolist() == ["42", "45", "48", "51"]
        assert metadata["sex"].tolist() == ["f", "m", "f", "m"]
