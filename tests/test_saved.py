"""A file is read as it was written, or refused: one flipped bit is enough."""

from __future__ import annotations

import json
import shutil
import subprocess
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from trained import Trained, call, is_one_sentence, trained_once

from ecgexp.errors import UserError
from ecgexp.saved import check_sum, load_tensors, sha256, write_sums
from ecgexp.tracking.artifacts import read_json
from ecgexp.tracking.contract import BUFFER
from ecgexp.tracking.names import File
from ecgexp.training.callbacks import find_checkpoint


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Trained:
    return trained_once(tmp_path_factory.getbasetemp())


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(bytes(content))


def outcome(path: Path, written: dict[str, torch.Tensor]) -> str:
    try:
        found = load_tensors(path)
    except UserError as error:
        assert is_one_sentence(str(error)), error
        return "refused"
    same = isinstance(found, dict) and found.keys() == written.keys()
    return "same" if same and all(torch.equal(found[key], written[key]) for key in written) else "other"


@pytest.mark.slow
def test_no_flipped_bit_of_a_file_of_tensors_gives_other_numbers(tmp_path):
    torch.manual_seed(0)
    written = {"weight": torch.randn(3, 4), "mean": torch.zeros(2, 1), "steps": torch.arange(5)}
    path = tmp_path / "weights.pt"
    torch.save(written, path)
    whole = path.read_bytes()
    counts: Counter[str] = Counter()
    for bit in range(8 * len(whole)):
        path.write_bytes(whole)
        flip(path, bit)
        counts[outcome(path, written)] += 1
    assert counts["other"] == 0
    assert counts["refused"] > counts["same"]  # the rest is padding


@pytest.mark.parametrize("length", [0, 1, 100, 0.5, 0.99])
def test_a_truncated_file_of_tensors_is_refused(tmp_path, length):
    path = tmp_path / "weights.pt"
    torch.save({"weight": torch.randn(50)}, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(length if length > 0.99 or not length else length * len(whole))])
    assert outcome(path, {}) == "refused"


def checkpoint(folder: Path, epoch: int, best: int | None) -> Path:
    state = {"epoch": epoch, "callbacks": {"Checkpoints": {"best_epoch": best}}, "weight": torch.randn(200)}
    torch.save(state, folder / "last.ckpt")
    if best not in (None, epoch):
        torch.save({"weight": torch.randn(200)}, folder / f"best-{best}.pt")
    return folder / "last.ckpt"


@pytest.mark.parametrize("best", [None, 1, 3])
def test_a_sound_checkpoint_is_found(tmp_path, best):
    path = checkpoint(tmp_path, 3, best)
    assert find_checkpoint(tmp_path) == (path, False)
    assert find_checkpoint(tmp_path / "nothing") == (None, False)


@pytest.mark.parametrize("spoilt", ["truncated", "flipped", "no best", "best flipped", "empty"])
def test_a_damaged_checkpoint_is_renamed_and_reported(tmp_path, caplog, spoilt):
    path = checkpoint(tmp_path, 3, 1)
    best = tmp_path / "best-1.pt"
    if spoilt == "truncated":
        path.write_bytes(path.read_bytes()[:-500])
    elif spoilt == "empty":
        path.write_bytes(b"")
    elif spoilt == "no best":
        best.unlink()
    else:
        file = best if spoilt == "best flipped" else path
        flip(file, 8 * file.read_bytes().index(torch.load(file)["weight"].numpy().tobytes()))
    assert find_checkpoint(tmp_path) == (None, True)
    assert not path.exists()
    assert (tmp_path / "last.ckpt.damaged").exists()
    assert "starts again" in caplog.text
    assert find_checkpoint(tmp_path) == (None, False)


def test_files_of_a_run_have_sums_that_sha256sum_confirms(trained):
    done = subprocess.run(["sha256sum", "-c", File.CHECKSUMS], cwd=trained.artifacts, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    named = {line.split(": ")[0] for line in done.stdout.splitlines()}
    assert {"config.yaml", "data.json", "predictions_val.parquet", "weights.pt"} <= named


@pytest.mark.parametrize("name", ["config.yaml", "weights.pt", "data.json"])
def test_a_flipped_bit_in_a_run_is_reported_instead_of_used(trained, tmp_path, monkeypatch, name):
    run = shutil.copytree(trained.artifacts, tmp_path / "run")
    random = np.random.default_rng(0)
    whole = (run / name).read_bytes()
    for bit in random.integers(0, 8 * len(whole), 5):
        flip(run / name, int(bit))
        message = call(monkeypatch, "predict", tmp_path, f"run={run}", trained.records / "00001_lr")
        assert is_one_sentence(message), message
        assert f"{name} is damaged" in message
        (run / name).write_bytes(whole)
    assert call(monkeypatch, "predict", tmp_path, f"run={run}", trained.records / "00001_lr") == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": ["NORM"]}, "names 1 labels, and the net of config.yaml beside it gives 5"),
        ({"leads": ["I", "II"]}, "does not fit the net of config.yaml"),
        ({"samples": 2000}, "does not fit the net of config.yaml"),
    ],
)
def test_a_description_of_another_net_is_refused(trained, tmp_path, monkeypatch, change, words):
    run = shutil.copytree(trained.artifacts, tmp_path / "run")
    (run / File.CHECKSUMS).unlink()  # earlier runs have none, and weights without a digest of their contract
    state = torch.load(run / "weights.pt", weights_only=True)
    torch.save({name: value for name, value in state.items() if name != BUFFER}, run / "weights.pt")
    data = json.loads((run / "data.json").read_text())
    (signal,) = data["inputs"]
    earlier = {"labels": data["labels"], "leads": signal["coordinates"]["lead"], "sampling_rate": 100, "samples": 1000}
    (run / "data.json").write_text(json.dumps(earlier | change))
    message = call(monkeypatch, "predict", tmp_path, f"run={run}", trained.records / "00001_lr")
    assert is_one_sentence(message), message
    assert words in message


def test_a_file_of_many_brackets_is_damaged(tmp_path):
    (tmp_path / "data.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"data\.json is damaged"):
        read_json(tmp_path / "data.json")


def test_what_has_no_sum_is_not_checked(tmp_path):
    path = tmp_path / "other"
    path.write_text("a")
    check_sum(path)
    write_sums(tmp_path / File.CHECKSUMS, {"one more": sha256(path)})
    check_sum(path)
    write_sums(tmp_path / File.CHECKSUMS, {"other": sha256(path)})
    check_sum(path)
    path.write_text("b")
    with pytest.raises(UserError, match=rf"other is damaged.*{File.CHECKSUMS}"):
        check_sum(path)


@pytest.mark.slow
def test_damaged_predictions_have_no_interval_and_the_report_names_them(trained, tmp_path, monkeypatch, capsys):
    moved = trained.moved_to(tmp_path / "copy")
    experiment = moved.client.get_run(moved.run_id).info.experiment_id
    sweep = moved.client.create_run(experiment, tags={"kind": "sweep", "sweep": "one"}).info.run_id
    for key, value in {"mlflow.parentRunId": sweep, "overrides": "[]"}.items():
        moved.client.set_tag(moved.run_id, key, value)
    path = moved.artifacts / "predictions_val.parquet"
    table = pd.read_parquet(path)
    table.loc[0, "probability/NORM"] += 0.1
    table.to_parquet(path, index=False)
    assert call(monkeypatch, "report", moved.folder, f"sweep={sweep}") == 0
    printed = capsys.readouterr()
    assert "predictions_val.parquet is damaged" in printed.err
    assert "There is no interval for trial 0, whose predictions are missing or damaged" in printed.out


def test_torch_itself_takes_a_flipped_bit(tmp_path):
    """Where this fails, `load_tensors` may be no more than ``torch.load``."""
    path = tmp_path / "weights.pt"
    torch.save({"weight": torch.ones(50)}, path)
    flip(path, 8 * path.read_bytes().index(torch.ones(50).numpy().tobytes()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert torch.load(path, weights_only=True)["weight"][0] != 1
