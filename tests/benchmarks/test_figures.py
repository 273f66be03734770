"""How the benchmarks summarise measured times."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

train = pytest.importorskip("benchmarks.train", reason="an installed package comes without the benchmarks")
from benchmarks import bench, trial  # noqa: E402

SETTINGS = {"net": "ribeiro", "precision": "bf16", "batch_size": 16, "records": 100}
ARGUMENTS = SimpleNamespace(keras_python="python", keras="tensorflow", runs=2)


def epochs(*seconds: float, gigabytes: float = 1.0) -> list[dict[str, float]]:
    return [{"train": took, "evaluate": took / 10, "whole": took, "gigabytes": gigabytes} for took in seconds]


def test_the_faster_of_two_processes_of_keras_counts(monkeypatch):
    times = {"ours": epochs(1.0, 2.0, 1.0), "keras": epochs(8.0, 9.0), "keras again": epochs(2.0), "plain": []}
    monkeypatch.setattr(train, "take_turns", lambda *_: times)
    found = {(one.figure, one.peer_name[:5]): one for one in train.race(SETTINGS, ARGUMENTS, rate=1e12)}
    trained = found["ribeiro bf16 batch 16, train", "keras"]
    assert (trained.ours, trained.peer, trained.ratio, trained.target) == (100.0, 50.0, 2.0, "1.4")
    assert found["ribeiro bf16 batch 16, train", "torch"].peer is None
    limit = found["ribeiro bf16 batch 16, of the limit", "matri"]
    assert limit.ratio == pytest.approx(100 * train.flops("ribeiro") / 1e12)


def test_shares_of_an_epoch_and_of_a_longer_one(tmp_path, monkeypatch):
    took = [
        {"train": 9.0, "evaluate": 1.1, "whole": 10.6, "bare": 10.0},
        {"train": 18.0, "evaluate": 2.4, "whole": 21.0, "bare": 20.0},
        {"train": 9.0, "evaluate": 1.3, "whole": 10.9, "bare": 10.0},
    ]
    monkeypatch.setattr(trial, "take_turns", lambda *_: {"tracked": took})
    monkeypatch.setattr(trial, "write_records", lambda *_: None)
    found = {
        one.figure.partition(": ")[2]: one.ours for one in trial.shares(tmp_path, 1, 1, 512) if "256" in one.figure
    }
    assert found == pytest.approx(
        {
            "Lightning and metrics, 512 records": 2.0,
            "Lightning, metrics, checkpoints and tracking, 512 records": 6.0,
            "the same, 17,418 records, computed": 2.0 + 4.0 * 512 / 17_418,
        }
    )


@pytest.mark.parametrize(
    ("words", "apart"),
    [((), False), (("--nets", "ribeiro", "--batch-sizes", "16"), False), (("--records", "32"), True)],
)
def test_figures_from_other_conditions_do_not_replace_the_published_ones(monkeypatch, tmp_path, words, apart):
    monkeypatch.setattr(bench, "RESULTS", tmp_path)
    monkeypatch.setattr("sys.argv", ["train", *words])
    monkeypatch.setattr(train, "matrix_rate", lambda *_: 1e12)
    monkeypatch.setattr(train, "write_records", lambda *_: None)
    monkeypatch.setattr(train, "race", lambda *_: [bench.figure("train", "one", 1.0)])
    train.main()
    (path,) = tmp_path.rglob("*.json")
    assert path.parent == (tmp_path / "tryouts" if apart else tmp_path)


@pytest.mark.parametrize(
    "words", [("--runs", "0"), ("--threads", "many"), ("--batch-sizes", "-1"), ("--keras-python", "/nowhere/python")]
)
def test_an_argument_that_cannot_be_is_refused_before_anything_is_measured(monkeypatch, capsys, words):
    monkeypatch.setattr("sys.argv", ["train", *words])
    with pytest.raises(SystemExit):
        train.main()
    assert f"error: argument {words[0]}: " in capsys.readouterr().err
