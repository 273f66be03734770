"""A sweep that is killed at any moment and resumed gives the same result as an uninterrupted one."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import pandas as pd
import psutil
import pytest
from commands import (
    LINEAR,
    SMALL,
    all_runs,
    ecgexp,
    finish,
    only,
    parents,
    start,
    training_among,
    trials,
    until,
    wait_for,
)
from trained import call

pytestmark = pytest.mark.slow

TRIALS, LENGTH = 6, 4
NET = ("model=ribeiro", "model.width=4", "model.depth=2", "early_stopping.patience=null")
# What a kill ends is retried; the sweep it ends does not run on to its end, so that ten kills find ten moments.
MANNER = ("sweep.max_retries=20", "sweep.max_failures=1")
SWEEP = ("-m", *SMALL, *NET, f"max_epochs={LENGTH}", "lr=0.01,0.02,0.03", "batch_size=16,32", *MANNER)
VICTIMS = ("sweep", "trial", "everything")
# What is just being written: a file appears for as long as that takes, and stays where the writer is killed.
WRITING = {"checkpoint": "checkpoints/*/*.part", "database": "mlflow.db-journal"}


@dataclass(frozen=True)
class Moment:
    """When to kill what: at the first occasion after so many epochs of the whole sweep.

    The occasion is that something is being written, or just a time, `delay` seconds later.
    """

    epochs: int
    occasion: str
    victim: str
    delay: float


# Each victim and each occasion once; each victim at each occasion.
FEW = [("checkpoint", "trial"), ("database", "everything"), ("any", "sweep")]
ALL = [*product((*WRITING, "any"), VICTIMS), ("any", "sweep")]


def moments(kinds: list[tuple[str, str]], seed: int) -> Iterator[Moment]:
    """Random ones of these kinds, one in each of as many parts of the sweep."""
    chance = random.Random(seed)
    for part, (occasion, victim) in enumerate(chance.sample(kinds, len(kinds))):
        epochs = (part + chance.random()) / len(kinds) * (TRIALS * LENGTH - 1)
        yield Moment(int(epochs), occasion, victim, chance.uniform(0, 2))


@dataclass
class Sweep:
    """A sweep that is started and killed again and again, watched beside it so that nothing is repaired by looking.

    Attributes
    ----------
    finished : dict
        End of each run that was ever seen to be finished.
    torn : list
        What was left half written by each kill that came while it was being written.
    """

    folder: Path
    finished: dict[str, int] = field(default_factory=dict)
    torn: list[str] = field(default_factory=list)

    def start_and_kill(self, moment: Moment) -> None:
        process = start(self.folder, *SWEEP)
        command = psutil.Process(process.pid)
        until(lambda: self._reached(moment, command), process)
        workers = training_among(command.children())
        self._await_occasion(moment, process)
        command.suspend()  # so that it does nothing before it was seen what the kill left behind
        for victim in workers if moment.victim != "sweep" else []:
            victim.kill()
            while victim.is_running() and victim.status() != psutil.STATUS_ZOMBIE:
                pass
            self.torn += [moment.occasion] if moment.occasion in WRITING and self._written(moment.occasion) else []
        if moment.victim != "trial":
            command.kill()
        command.resume()
        done = finish(process, self.folder)
        if moment.victim == "trial":
            assert "1 failed" in done.expect(1).stderr
        else:
            done.expect(-signal.SIGKILL)

    def _reached(self, moment: Moment, command: psutil.Process) -> bool:
        enough = self._ask("SELECT count(*) FROM metrics WHERE key = 'val/loss'", [(0,)])[0][0] >= moment.epochs
        self.finished |= dict(self._ask("SELECT run_uuid, end_time FROM runs WHERE status = 'FINISHED'", []))
        return enough and (moment.victim == "sweep" or len(training_among(command.children())) > 0)

    def _await_occasion(self, moment: Moment, process: subprocess.Popen[str]) -> None:
        end = time.monotonic() + (moment.delay if moment.occasion == "any" else 120)
        while time.monotonic() < end:
            assert process.poll() is None, (moment, process.communicate())
            if moment.occasion in WRITING and self._written(moment.occasion):
                return
            time.sleep(0.0005)
        assert moment.occasion == "any", f"{moment.occasion} was never written"

    def _written(self, occasion: str) -> list[Path]:
        return list((self.folder / "mlruns").glob(WRITING[occasion]))

    def _ask(self, question: str, default: list[tuple]) -> list[tuple]:
        try:
            with sqlite3.connect(f"file:{self.folder / 'mlruns' / 'mlflow.db'}?mode=ro", uri=True) as database:
                return database.execute(question).fetchall()
        except sqlite3.OperationalError:  # not there yet, or half written
            return default


def results(folder: Path, monkeypatch) -> pd.DataFrame:
    assert call(monkeypatch, "report", folder, "out=report") == 0
    table = pd.read_csv(folder / "report" / "results.csv")
    return table.drop(columns=[name for name in table if "seconds" in name or name in ("run_id", "source_run_id")])


@pytest.mark.parametrize("kinds", [FEW, pytest.param(ALL, marks=pytest.mark.full)], ids=len)
def test_killed_at_random_moments_it_ends_as_if_it_had_not_been(tmp_path, monkeypatch, kinds):
    ecgexp(tmp_path / "whole", *SWEEP).expect()
    sweep = Sweep(tmp_path / "broken")
    for moment in moments(kinds, seed=0):
        sweep.start_and_kill(moment)
    checkpoints = sweep.folder / "mlruns" / "checkpoints"
    for run_id in sweep.finished:  # as a kill leaves it that comes just before they are removed
        (checkpoints / run_id).mkdir(exist_ok=True)
    ecgexp(sweep.folder, *SWEEP).expect()

    whole, broken = (results(folder, monkeypatch) for folder in (tmp_path / "whole", sweep.folder))
    assert len(whole) == TRIALS
    pd.testing.assert_frame_equal(broken, whole, check_exact=True)
    assert {run.info.status for run in all_runs(sweep.folder)} == {"FINISHED"}
    assert only(parents(sweep.folder))
    assert len(trials(sweep.folder)) == TRIALS, "no trial was begun twice"
    ends = {run.info.run_id: run.info.end_time for run in trials(sweep.folder)}
    assert sweep.finished.items() <= ends.items(), "no trial that was finished was trained again"
    assert sweep.finished
    assert set(sweep.torn) == set(WRITING), "checkpoints and the database were hit while they were written"
    assert not list(checkpoints.iterdir()), "nothing half written stays"


def processes_in(folder: Path) -> list[str]:
    """Command lines of the processes that work in a folder, whoever their parent is by now."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            found += [" ".join(process.cmdline())] if process.cwd() == str(folder) else []
    return found


def test_killed_alone_before_its_first_trial_it_leaves_no_process(tmp_path):
    words = ("-m", *LINEAR, "max_epochs=1", "lr=0.01,0.02,0.03", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    for begun in ("LokyProcess", "ecgexp.sweeps.trial_process"):  # which runs jobs, and which trains their trials
        process = start(tmp_path, *words)
        until(lambda begun=begun: any(begun in command for command in processes_in(tmp_path)), process)
        process.kill()
        wait_for(lambda: not processes_in(tmp_path), 10)
        finish(process, tmp_path).expect(-signal.SIGKILL)
    assert "FINISHED" not in {run.info.status for run in all_runs(tmp_path)}
    ecgexp(tmp_path, *words).expect()
    assert [run.info.status for run in (*parents(tmp_path), *trials(tmp_path))] == ["FINISHED"] * 4
