"""Processes that torchrun or srun started, as their environment shows."""

from __future__ import annotations

import pytest

from ecgexp.errors import UserError
from ecgexp.training.launched import check_ranks, launched

TORCHRUN = {"RANK": "1", "WORLD_SIZE": "2"}
SRUN = {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS": "2"}
BATCH_SCRIPT = {"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}  # which runs once, whatever was reserved
ONE = {"RANK": "0", "WORLD_SIZE": "1"}


@pytest.fixture
def environment(monkeypatch):
    for name in TORCHRUN | SRUN:
        monkeypatch.delenv(name, raising=False)
    return lambda variables: [monkeypatch.setenv(*item) for item in variables.items()]


def trainer(devices: int = 1, **more: int) -> dict[str, int]:
    return {"devices": devices, **more}


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, (0, 1)),
        (TORCHRUN, (1, 2)),
        (SRUN, (1, 2)),
        (TORCHRUN | SRUN | {"RANK": "5", "WORLD_SIZE": "8"}, (5, 8)),  # srun torchrun
        (BATCH_SCRIPT, (0, 1)),
        (ONE, (0, 1)),
    ],
)
def test_rank_and_number_of_ranks(environment, variables, expected):
    environment(variables)
    assert launched() == expected


def test_what_fits_is_trained(environment):
    check_ranks(trainer(), 32, sweep=True)
    check_ranks(trainer(2), 32, sweep=True)
    environment(TORCHRUN)
    check_ranks(trainer(2), 32, sweep=False)
    check_ranks(trainer(1, num_nodes=2), 32, sweep=False)


@pytest.mark.parametrize(
    ("variables", "settings", "sentence"),
    [
        (TORCHRUN, (trainer(2), 32, True), "a sweep starts those of each trial itself"),
        (SRUN, (trainer(), 32, False), "There are 2 processes of torchrun or srun, but trainer.devices=1 asks for 1"),
        (TORCHRUN, (trainer(2), 33, False), "which 2 processes cannot share equally"),
        ({}, (trainer(2, num_nodes=2), 32, False), "start a single trial with torchrun or srun"),
    ],
)
def test_what_does_not_fit_is_refused(environment, variables, settings, sentence):
    environment(variables)
    with pytest.raises(UserError, match=sentence):
        check_ranks(*settings)
