"""The status of the trials of a sweep."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from ecgexp.sweeps.status import Board, StatusLine, TrialStatus

SECONDS = {"model=slow": 100.0, "model=fast": 4.0}


def line(board: Board, cells: list[list[str]]) -> str:
    return StatusLine(board, cells, maximize=True).text(now=0.0)


@pytest.fixture
def board(tmp_path) -> Board:
    made = Board(tmp_path, "parent")
    made.clear()
    return made


def test_what_a_trial_comes_to_is_seen_however_soon_it_ends(board):
    reader = Board(board.folder.parents[1], "parent")
    for job in range(50):
        running = TrialStatus("running", ["lr=1"], started=0.0)
        board.write(job, running)
        assert reader.read()[job] == running
        board.write(job, running.ended("reused", value=0.5))
        assert reader.read()[job].state == "reused"
    assert sorted(reader.read()) == list(range(50))


def test_a_board_that_another_command_clears_can_be_read(board, monkeypatch):
    for job in range(3):
        board.write(job, TrialStatus("done", [], started=0.0))
    stat = Path.stat

    def cleared(path: Path, **options: bool) -> os.stat_result:
        if path.name == "1.json":  # it was found, and is cleared before it is read
            board.clear()
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", cleared)
    assert list(board.read()) == [0]
    assert board.read() == {}


@pytest.mark.parametrize("content", ["", "[]", '{"state": "done"}', '{"state": "done", "overrides": 1, "started": 0}'])
def test_a_damaged_status_is_reported_and_skipped(board, content, caplog):
    for job in range(2):
        board.write(job, TrialStatus("done", ["lr=1"], started=0.0, value=0.5))
    (board.folder / "0.json").write_text(content)
    assert list(board.read()) == list(board.read()) == [1]
    (message,) = caplog.messages
    assert f"{board.folder / '0.json'} is damaged" in message
    assert line(board, [["lr=1"], ["lr=1"]]).startswith("1/2 trials")


@pytest.mark.parametrize("times", [1, 400])
def test_the_time_left_is_that_of_trials_like_those_to_come(board, times):
    cells = [[model, f"lr={number}"] for number in range(2 * times) for model in SECONDS]
    for job, cell in enumerate(cells[: 2 * times]):
        board.write(job, TrialStatus("done", cell, started=float(job), value=job / 1e4, seconds=SECONDS[cell[0]]))
    text = line(board, cells)
    hours, minutes, seconds = map(int, text.rpartition(" ")[2].split(":"))
    within = 0.2 if times > 100 else 0.01  # of many it is estimated
    assert 3600 * hours + 60 * minutes + seconds == pytest.approx(104 * times, rel=within)
    assert f"{2 * times}/{4 * times} trials" in text
    assert f"best {(2 * times - 1) / 1e4:.4f} (model=fast lr={times - 1})" in text


def test_the_time_left_is_shown_only_after_a_trial_has_ended(board):
    board.write(0, TrialStatus("running", ["lr=1"], started=0.0))
    assert re.fullmatch(r"0/2 trials  \|  1 running  \|  elapsed \S+", line(board, [["lr=1"], ["lr=2"]]))
