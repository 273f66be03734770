"""Predictions of a trained net for single records, from all sources of nets and records."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch
import wfdb
import yaml
from scipy.signal import resample
from trained import REAL_DATA, Trained, call, is_one_sentence, shell, trained_once

from ecgexp.tracking.names import File
from ecgexp.tracking.restore import load_folder, load_trained
from ecgexp.tracking.trust import named_packages

LABELS = ("NORM", "STTC", "CD", "MI", "HYP")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Trained:
    return trained_once(tmp_path_factory.getbasetemp())


@pytest.fixture
def record(trained) -> Path:
    return trained.records / f"{int(trained.validation()['id'][0]):05d}_lr"


@pytest.fixture
def exported(trained, tmp_path) -> Path:
    """A copy of the run's artifacts that a test may spoil, as a stranger would: with no checksum that tells."""
    return shutil.copytree(trained.artifacts, tmp_path / "exported", ignore=shutil.ignore_patterns(File.CHECKSUMS))


def write(folder: Path, name: str, signal: np.ndarray, rate: float, leads) -> Path:
    units, formats = ["mV"] * len(leads), ["16"] * len(leads)
    wfdb.wrsamp(name, fs=rate, units=units, sig_name=list(leads), p_signal=signal, fmt=formats, write_dir=str(folder))
    return folder / name


def answer(capsys) -> dict:
    return json.loads(capsys.readouterr().out)


def probabilities(entry: dict) -> list[float]:
    return [entry["probabilities"][label] for label in LABELS]


# --- the numbers


def test_they_are_those_of_the_validation_that_the_run_logged(trained, monkeypatch, capsys):
    table = trained.validation()
    paths = [trained.records / f"{int(name):05d}_lr.hea" for name in table["id"]]
    assert call(monkeypatch, "predict", trained.folder, f"run={trained.run_id}", "format=json", *paths) == 0
    entries = answer(capsys)["records"]
    assert [entry["record"] for entry in entries] == [str(path.with_suffix("")) for path in paths]
    logged = table[[f"probability/{label}" for label in LABELS]].to_numpy()
    np.testing.assert_allclose([probabilities(entry) for entry in entries], logged, atol=1e-6)
    assert np.ptp(logged, axis=0).min() > 0.01  # not the same answer to everyone
    for entry, row in zip(entries, logged, strict=True):
        assert entry["predicted"] == [label for label, value in zip(LABELS, row, strict=True) if value > 0.5]
        assert entry["notes"] == []


@pytest.mark.slow
def test_real_records_at_two_rates_and_one_of_two_leads(trained, ptbxl_folder, tmp_path):
    if not (REAL_DATA / "mitdb" / "100.hea").is_file():
        pytest.skip("needs real MIT-BIH records")
    real = ptbxl_folder / "records100" / "00000" / "00001_lr"
    read = wfdb.rdrecord(str(real))
    fast = write(tmp_path, "fast", resample(read.p_signal, 5000), 500, read.sig_name)
    mitdb = REAL_DATA / "mitdb" / "100"
    done = shell("predict", trained.folder, f"run={trained.run_id}", "format=json", f"record={real}", fast, mitdb)
    assert done.returncode == 1
    assert is_one_sentence(done.stderr.strip())
    assert "lead" in done.stderr
    assert "MLII, V5" in done.stderr
    slow_entry, fast_entry, refused = json.loads(done.stdout)["records"]
    assert slow_entry["notes"] == []
    assert fast_entry["notes"] == ["resampled from 500 Hz to 100 Hz"]
    np.testing.assert_allclose(probabilities(slow_entry), probabilities(fast_entry), atol=0.02)
    assert refused["record"] == str(mitdb)
    assert refused["error"] == done.stderr.strip()


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (lambda s: np.vstack([s, s[:300]]), "cropped from 13 s to its first 10 s"),
        (lambda s: s[:600], "padded with 4 s of zeros at its end"),
    ],
)
def test_another_length_is_adapted_and_reported_outside_the_table(
    trained, record, tmp_path, monkeypatch, capsys, change, note
):
    read = wfdb.rdrecord(str(record))
    path = write(tmp_path, "other", change(read.p_signal), 100, read.sig_name)
    assert call(monkeypatch, "predict", trained.folder, f"run={trained.run_id}", path) == 0
    printed = capsys.readouterr()
    assert printed.err == f"record {path}: {note}\n"
    assert "cropped" not in printed.out
    assert "padded" not in printed.out


def test_leads_are_matched_by_name(trained, record, tmp_path, monkeypatch, capsys):
    read = wfdb.rdrecord(str(record))
    names = [name.lower() for name in read.sig_name[::-1]]
    turned = write(tmp_path, "turned", read.p_signal[:, ::-1], 100, names)
    assert call(monkeypatch, "predict", trained.folder, f"run={trained.run_id}", "format=json", record, turned) == 0
    first, second = answer(capsys)["records"]
    np.testing.assert_allclose(probabilities(first), probabilities(second), atol=1e-3)  # 16 bits twice
    assert second["notes"][0].startswith("reordered leads")


# --- how records are named


def test_the_table_has_a_line_per_record_whichever_of_its_files_were_named(trained, record, monkeypatch, capsys):
    monkeypatch.chdir(trained.folder)
    relative = record.relative_to(trained.folder)
    words = [f"record={relative}.hea", *(f"{relative}{suffix}" for suffix in (".dat", ".mat", ".HEA", ".Mat", ""))]
    assert call(monkeypatch, "predict", trained.folder, f"run={trained.run_id}", *words) == 0
    header, line = capsys.readouterr().out.splitlines()
    assert header.split() == ["record", *LABELS, "predicted"]
    cells = line.split()
    assert cells[0] == str(relative)
    logged = trained.validation().iloc[0]
    assert [float(cell) for cell in cells[1:6]] == pytest.approx(
        [logged[f"probability/{label}"] for label in LABELS], abs=1e-4
    )


def test_a_pattern_names_several(trained, monkeypatch, capsys):
    pattern = f"record={trained.records}/0001*"
    assert call(monkeypatch, "predict", trained.folder, f"run={trained.run_id}", "format=json", pattern) == 0
    found = [Path(entry["record"]).name for entry in answer(capsys)["records"]]
    assert found == [f"000{number}_lr" for number in range(10, 20)]


def test_a_file_that_is_no_record_is_named(trained, tmp_path, monkeypatch, capsys):
    (tmp_path / "holter.EDF").write_bytes(b"0       ")
    assert call(monkeypatch, "predict", trained.folder, f"run={trained.run_id}", tmp_path / "holter.EDF") == 1
    printed = capsys.readouterr().err
    assert "holter.EDF is an EDF file, and only WFDB records are read (a .hea file with its .dat or .mat)" in printed


def test_a_record_without_gains_is_refused_unless_they_are_assumed(trained, record, tmp_path, monkeypatch, capsys):
    for suffix in (".hea", ".dat"):
        shutil.copy(record.with_suffix(suffix), tmp_path)
    header = (tmp_path / record.name).with_suffix(".hea")
    header.write_text(header.read_text().replace("1000.0(0)/mV", "0/mV").replace("1000/mV", "0/mV"))
    words = (monkeypatch, "predict", trained.folder, f"run={trained.run_id}", header)
    assert call(*words) == 1
    assert "its header gives no gain for lead I, II," in capsys.readouterr().err
    assert call(*words, "uncalibrated=assume", "format=json") == 0
    notes = answer(capsys)["records"][0]["notes"]
    assert notes[0].startswith("uncalibrated lead I, II, ")


# --- pictures


def test_a_record_is_drawn_with_the_result(trained, record, tmp_path, monkeypatch):
    target = tmp_path / "out.png"
    assert call(monkeypatch, "predict", trained.folder, f"run={trained.run_id}", record, f"plot={target}") == 0
    height, width, _ = matplotlib.image.imread(target).shape
    assert width > 1500
    assert height > 500


def test_of_several_records_each_gets_a_picture(trained, record, tmp_path, monkeypatch, capsys):
    other = shutil.copytree(record.parent, tmp_path / "other") / record.name
    words = (f"run={trained.run_id}", "format=json", record, other, f"plot={tmp_path}/out.svg")
    assert call(monkeypatch, "predict", trained.folder, *words) == 0
    targets = [entry["plot"] for entry in answer(capsys)["records"]]
    assert len(set(targets)) == 2
    assert all("<svg" in Path(target).read_text() for target in targets)


# --- where the net comes from


def test_a_run_that_was_copied_from_another_machine(trained, record, tmp_path, monkeypatch, capsys):
    moved = trained.moved_to(tmp_path / "copy")
    expected = trained.validation().iloc[0][[f"probability/{label}" for label in LABELS]].tolist()
    for root in (moved.folder, moved.mlruns):
        words = (f"run={trained.run_id}", f"tracking.root={root}", "format=json", record)
        assert call(monkeypatch, "predict", tmp_path, *words) == 0
        assert probabilities(answer(capsys)["records"][0]) == pytest.approx(expected, abs=1e-6)
    uri = f"tracking.uri=sqlite:///{trained.mlruns / 'mlflow.db'}"
    assert call(monkeypatch, "predict", tmp_path, f"run={trained.run_id}", uri, "format=json", record) == 0
    assert probabilities(answer(capsys)["records"][0]) == pytest.approx(expected, abs=1e-6)
    shutil.rmtree(moved.mlruns / "artifacts")
    message = call(monkeypatch, "predict", moved.folder, f"run={trained.run_id}", record)
    assert is_one_sentence(message)
    assert "mlruns/artifacts" in message


def test_an_exported_folder(trained, exported, record, tmp_path, monkeypatch, capsys):
    expected = trained.validation().iloc[0][[f"probability/{label}" for label in LABELS]].tolist()
    for folder in (exported, trained.artifacts.parent):
        assert call(monkeypatch, "predict", tmp_path, f"run={folder}", "format=json", record) == 0
        assert probabilities(answer(capsys)["records"][0]) == pytest.approx(expected, abs=1e-6)


def test_a_registered_model_is_loaded_from_its_run(trained, record, tmp_path, monkeypatch, capsys):
    moved = trained.moved_to(tmp_path / "copy")
    moved.client.create_registered_model("ecg")
    moved.client.create_model_version("ecg", str(trained.model), run_id=trained.run_id)
    moved.client.set_registered_model_alias("ecg", "chosen", "1")
    expected = trained.validation().iloc[0][[f"probability/{label}" for label in LABELS]].tolist()
    for uri in ("models:/ecg/1", "models:/ecg@chosen"):
        assert call(monkeypatch, "predict", moved.folder, f"run={uri}", "format=json", record) == 0
        assert probabilities(answer(capsys)["records"][0]) == pytest.approx(expected, abs=1e-6)
    for uri in ("models:/ecg/2", "models:/other/1", "models:/ecg@none", "models:/ecg"):
        message = call(monkeypatch, "predict", moved.folder, f"run={uri}", record)
        assert is_one_sentence(message)
        assert uri in message


def test_an_exported_graph_is_loaded_only_where_it_is_trusted(trained, record, tmp_path, monkeypatch, capsys):
    folder = shutil.copytree(trained.model, tmp_path / "model")
    message = call(monkeypatch, "predict", tmp_path, f"run={folder}", record)
    assert is_one_sentence(message)
    assert "trust=pt2" in message
    assert call(monkeypatch, "predict", tmp_path, f"run={folder}", "trust=pt2", "format=json", record) == 0
    expected = trained.validation().iloc[0][[f"probability/{label}" for label in LABELS]].tolist()
    assert probabilities(answer(capsys)["records"][0]) == pytest.approx(expected, abs=1e-5)
    described = yaml.safe_load((folder / "MLmodel").read_text())
    del described["metadata"]
    (folder / "MLmodel").write_text(yaml.safe_dump(described))
    assert is_one_sentence(call(monkeypatch, "predict", tmp_path, f"run={folder}", "trust=pt2", record))


# --- nothing in a run's files is executed


def spoil(exported: Path, model: object) -> None:
    cfg = yaml.safe_load((exported / "config.yaml").read_text())
    cfg["model"] = model
    (exported / "config.yaml").write_text(yaml.safe_dump(cfg))


@pytest.mark.parametrize(
    "model",
    [
        {"_target_": "os.system", "command": "touch marker"},
        {"_target_": "posix.system", "command": "touch marker"},
        {"_target_": "subprocess.call", "_args_": [["touch", "marker"]]},
        {"_target_": "builtins.eval", "_args_": ["open('marker', 'w')"]},
        {"_target_": "ecgexp.cli.os.system", "command": "touch marker"},
        {"_target_": "ecgexp.models.os.system", "command": "touch marker"},
        {"_target_": "ecgexp.datasets.ecg.records.Path.touch", "self": "marker"},
        {"_target_": "ecgexp.models.layers.torch.hub.load", "repo_or_dir": "x"},
        {"_target_": "ecgexp.models.layers.check_signals"},
        {"_target_": "ecgexp.models.layers.nn.Sequential"},
        {"_target_": "ecgexp.models..Linear"},
        {"_target_": "ecgexp.modelsx.Linear"},
        {"_target_": "ecgexp.datasets.PTBXL", "root": "."},
        {"_target_": "torch.nn.Linear", "in_features": 1, "out_features": 1},
        {"_target_": "Linear"},
        {"_target_": ["os.system"]},
        {"_target_": 7},
        {"outputs": 5},
        {"_target_": "ecgexp.models.Linear", "leads": {"_target_": "os.system", "command": "touch marker"}},
        {"_target_": "ecgexp.models.Linear", "_args_": [[{"_target_": "os.system", "command": "touch marker"}]]},
    ],
)
def test_a_config_that_names_what_is_no_net_of_ours_is_refused(exported, record, tmp_path, monkeypatch, model):
    spoil(exported, model)
    message = call(monkeypatch, "predict", tmp_path, f"run={exported}", record)
    assert is_one_sentence(message), message
    assert message.startswith("The run's config")  # before Hydra, which would refuse some of them too, has seen it
    assert not (tmp_path / "marker").exists()


def test_a_foreign_class_is_not_even_imported_unless_its_package_is_trusted(
    exported, record, tmp_path, monkeypatch, capsys
):
    (tmp_path / "strangenets.py").write_text(
        "from os import system\nfrom pathlib import Path\nfrom ecgexp.models import Linear\n"
        "Path('marker').touch()\n"
        "class Net(Linear):\n    pass\n"
        "def make(**sizes):\n    return Net(**sizes)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "strangenets", raising=False)
    shape = {"leads": 12, "samples": 1000, "outputs": 5}
    spoil(exported, {"_target_": "strangenets.Net", **shape})
    words = (f"run={exported}", "format=json", record)
    for trust in ((), ("trust=other",), ("trust=strange",)):
        message = call(monkeypatch, "predict", tmp_path, *words, *trust)
        assert is_one_sentence(message)
        assert "strangenets.Net" in message
        assert "trust=" in message
    assert not (tmp_path / "marker").exists()
    for target in ("strangenets.Net", "strangenets.make"):
        spoil(exported, {"_target_": target, **shape})
        assert call(monkeypatch, "predict", tmp_path, *words, "trust=other,strangenets") == 0
        assert len(probabilities(answer(capsys)["records"][0])) == 5
    # A trusted package lends its trust to nothing that it merely imports.
    spoil(exported, {"_target_": "strangenets.system", "command": "touch second"})
    assert is_one_sentence(call(monkeypatch, "predict", tmp_path, *words, "trust=strangenets"))
    assert not (tmp_path / "second").exists()


def test_what_the_user_composed_can_be_trusted_by_name(exported):
    spoil(exported, {"_target_": "mynets.deep.Net", "parts": [{"_target_": "others.Part"}]})
    from omegaconf import OmegaConf

    assert {"mynets", "others"} < named_packages(OmegaConf.load(exported / "config.yaml"))


class Malicious:
    def __reduce__(self):
        return os.system, ("touch marker",)


def save_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"net.head.weight": Malicious()}))


def save_archive(path: Path) -> None:
    torch.save({"net.head.weight": Malicious()}, path)


def save_module(path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), path)


def save_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def save_nothing(path: Path) -> None:
    path.write_bytes(b"")


def save_text(path: Path) -> None:
    torch.save({"net.head.weight": "text"}, path)


def save_other(path: Path) -> None:
    torch.save(OrderedDict(weight=torch.zeros(3)), path)


@pytest.mark.parametrize(
    "save", [save_pickle, save_archive, save_module, save_half, save_nothing, save_text, save_other, Path.unlink]
)
def test_weights_that_are_no_weights_are_refused(exported, record, tmp_path, monkeypatch, save):
    save(exported / "weights.pt")
    message = call(monkeypatch, "predict", tmp_path, f"run={exported}", record)
    assert is_one_sentence(message), message
    assert "weights.pt" in message
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    "text",
    [
        "model: ${oc.env:HOME}",
        "model: {a: '${oc.env:HOME}'}",
        'model: {a: "\\x24{oc.env:HOME}"}',
        "- 1",
        "model: [",
        "",
        "model: !!python/name:os.system {}",
    ],
)
def test_a_config_that_no_run_writes_is_refused(exported, record, tmp_path, monkeypatch, text):
    (exported / "config.yaml").write_text(text)
    message = call(monkeypatch, "predict", tmp_path, f"run={exported}", record)
    assert is_one_sentence(message), message
    assert "config.yaml" in message


@pytest.mark.parametrize("text", ["{}", "[]", "{", '{"labels": ["a"], "leads": 3, "sampling_rate": "x", "samples": 1}'])
def test_a_description_that_no_run_writes_is_refused(exported, record, tmp_path, monkeypatch, text):
    (exported / "data.json").write_text(text)
    message = call(monkeypatch, "predict", tmp_path, f"run={exported}", record)
    assert is_one_sentence(message), message
    assert "data.json" in message


# --- sentences


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["record=a"], "run"),
        (["run=x"], "record"),
        (["run=x", "record=a", "formt=json"], "format"),
        (["run=x", "record=a", "dataset.root=."], "dataset.root"),
        (["run=x", "record=a", "format=xml"], "format=json"),
        (["run=x", "record=a", "uncalibrated=skip"], "uncalibrated=assume"),
        (["run=x", "run=y", "record=a"], "twice"),
        (["run=x", "record=a", "-v"], "-v"),
        (["run=x", "record=a", "plot=out.txt"], "out.txt"),
        (["run=x", "record=a", "plot=no/where/out.png"], "no/where"),
        (["run=x", "record=none/*.hea"], "none/*.hea"),
        (["run=x", "record=a"], "tracking.root"),
        (["run=./x", "record=a"], "./x"),
        (["run=.", "record=a"], "config.yaml"),
        (["run=models:/", "record=a", "tracking.root={trained}"], "models:/NAME/VERSION"),
        (["run=0123456789abcdef", "record=a", "tracking.root={trained}"], "0123456789abcdef"),
        (["run={run}", "record=a", "tracking.root={trained}"], "a.hea"),
    ],
)
def test_what_cannot_be_done_is_reported_in_one_sentence(trained, tmp_path, monkeypatch, capsys, words, named):
    words = [word.format(trained=trained.folder, run=trained.run_id) for word in words]
    printed = call(monkeypatch, "predict", tmp_path, *words)
    printed = capsys.readouterr().err.strip() if printed == 1 else printed
    assert is_one_sentence(printed), printed
    assert named in printed
    assert not list(tmp_path.iterdir())  # no store was made on the way


@pytest.mark.parametrize(
    ("tags", "status", "named"),
    [
        ({"kind": "sweep", "best_run_id": "abc"}, "FINISHED", "run=abc"),
        ({}, "FAILED", "failed"),
        ({}, "RUNNING", "running"),
        ({"best_epoch": "None", "diverged": "true"}, "FINISHED", "no weights"),
    ],
)
def test_a_run_without_weights_is_refused(trained, record, tmp_path, monkeypatch, tags, status, named):
    moved = trained.moved_to(tmp_path)
    for key, value in tags.items():
        moved.client.set_tag(trained.run_id, key, value)
    moved.client.update_run(trained.run_id, status=status)
    message = call(monkeypatch, "predict", tmp_path, f"run={trained.run_id}", record)
    assert is_one_sentence(message)
    assert named in message


def test_a_net_that_gives_no_numbers_is_refused(exported, record, tmp_path, monkeypatch):
    state = torch.load(exported / "weights.pt", weights_only=True)
    state["net.head.weight"].fill_(torch.nan)
    torch.save(state, exported / "weights.pt")
    assert is_one_sentence(call(monkeypatch, "predict", tmp_path, f"run={exported}", record))


@pytest.mark.parametrize("door", ["predict", "evaluate"])
def test_help_imports_nothing_heavy(door, tmp_path):
    code = (
        "import sys\n"
        f"sys.argv = ['{door}', '--help']\n"
        f"from ecgexp.{door} import main\n"
        "main()\n"
        "print('HEAVY:', [m for m in ('torch', 'mlflow', 'pandas', 'numpy', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "HEAVY: []"
    assert f"python -m ecgexp.{door} run=" in done.stdout
    assert "tracking.root" in done.stdout


def test_the_door_is_open_to_notebooks_too(trained):
    net = load_trained(trained.run_id, trained.folder)
    (signal,) = net.contract.inputs
    assert (net.target.names, signal.rate, signal.shape, net.target.threshold) == (LABELS, 100.0, (12, 1000), 0.5)
    restored = load_folder(trained.artifacts)
    assert restored.cfg.seed == 0
    assert not restored.network.training
