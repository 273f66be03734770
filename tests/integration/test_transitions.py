"""Commands one after another in one folder: every table has every cell once, with the value of a new folder."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from commands import LINEAR, SMALL, artifact, ecgexp, own_folder, parents, trials

pytestmark = pytest.mark.slow
RATES = ("-m", *LINEAR, "max_epochs=1", "lr=0.01,0.02")
F1 = "best/val/mlcm_f1_macro"


def table(folder: Path, sweep: int = -1) -> pd.DataFrame:
    return pd.read_csv(artifact(folder, parents(folder)[sweep], "results.csv"))


def test_threads_and_back(tmp_path):
    unset = [word for word in RATES if not word.startswith("trainer.threads")]
    joblib = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    commands = [(*unset, "tracking.experiment=e"), (*unset, "tracking.experiment=e", *joblib)]
    tables = []
    for words in (*commands, *commands):
        done = ecgexp(tmp_path, *words).expect(0)
        assert "Best: " in done.stdout
        tables.append(table(tmp_path))
        assert list(tables[-1]["lr"]) == [0.01, 0.02]
        assert ("Left out" in done.stdout) == (len(tables) > 1 and len(trials(tmp_path)) > 2)


def test_a_sweep_over_threads_has_a_row_for_each(tmp_path):
    words = [word for word in RATES if not word.startswith(("trainer.threads", "lr="))]
    for _ in range(2):
        ecgexp(tmp_path, *words, "trainer.threads=1,2").expect(0)
        assert list(table(tmp_path)["trainer.threads"]) == [1, 2]
    assert len(trials(tmp_path)) == 2


def test_a_net_without_a_swept_key_joins_a_named_sweep(tmp_path):
    named = ("-m", *SMALL, "max_epochs=1", "sweep.name=two")
    ecgexp(tmp_path, *named, "model=ribeiro", "model.depth=1", "model.width=4,8").expect(0)
    joined = ecgexp(tmp_path, *named, "model=linear").expect(0)
    assert "Best: " in joined.stdout
    assert sorted(table(tmp_path)["model.width"].fillna(0)) == [0, 4, 8]
    (parent,) = parents(tmp_path)
    assert parent.info.status == "FINISHED"
    assert artifact(tmp_path, parent, "heat_map.png").is_file()
    again = ecgexp(tmp_path, *named, "model=linear").expect(0)
    assert "1 reused" in again.stderr


def test_a_changed_net_is_trained_again_and_reported(tmp_path):
    folder = own_folder(tmp_path / "study")
    words = ("--config-dir", "conf", "-m", "model=mynet", *SMALL, "max_epochs=1", "sweep.name=mine")
    ecgexp(folder, *words, "seed=0,1").expect(0)
    before = table(folder)
    source = folder / "ownstudy" / "nets.py"
    source.write_text(source.read_text().replace("10 * x.std", "20 * x.std"))
    mixed = ecgexp(folder, *words, "seed=2").expect(0)
    assert "The trials differ in code of your own classes" in mixed.stdout
    assert table(folder)["code"].nunique() == 2
    again = ecgexp(folder, *words, "seed=0,1").expect(0)
    assert "reused" not in again.stderr
    assert "other code" in again.stdout
    after = table(folder)
    assert (after["best/val/loss"][:2] != before["best/val/loss"]).all()
    fresh = own_folder(tmp_path / "fresh")
    (fresh / "ownstudy" / "nets.py").write_text(source.read_text())
    ecgexp(fresh, *words, "seed=0,1,2").expect(0)
    assert sorted(table(fresh)["best/val/loss"]) == sorted(after["best/val/loss"])
