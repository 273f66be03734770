"""The environment that a job gives to the process of its trial."""

from __future__ import annotations

import pytest
from filelock import FileLock
from omegaconf import DictConfig, OmegaConf

from ecgexp.sweeps import supervisor
from ecgexp.sweeps.supervisor import TrialFailed
from ecgexp.tracking import provenance


def config(devices: int = 1, accelerator: str = "auto", jobs_per_gpu: int = 1) -> DictConfig:
    trainer = {"accelerator": accelerator, "devices": devices}
    return OmegaConf.create({"trainer": trainer, "sweep": {"jobs_per_gpu": jobs_per_gpu}})


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """What a worker of a job gets on a machine that pretends to have three GPUs."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0, 1,2")
    monkeypatch.setattr(supervisor, "_gpus", {})
    yield lambda *asked, **more: supervisor._gpu_environment(config(*asked, **more), tmp_path)
    for lock in supervisor._gpus.values():
        lock.release()


def taken(tmp_path, *gpus: str, place: int = 0) -> list[FileLock]:
    """GPUs that another job holds."""
    (tmp_path / "locks").mkdir(exist_ok=True)
    locks = [FileLock(tmp_path / "locks" / f"{provenance.host()}-gpu{gpu}-{place}.lock") for gpu in gpus]
    for lock in locks:
        lock.acquire(timeout=0)
    return locks


def test_a_job_uses_the_same_gpu_for_all_its_trials(environment, tmp_path):
    first = environment()
    locks = taken(tmp_path, "1", "2")
    assert first == environment() == environment() == {"CUDA_VISIBLE_DEVICES": "0"}
    assert all(lock.is_locked for lock in locks)


def test_a_trial_on_several_gpus_gets_all_of_them_or_an_error(environment, tmp_path):
    (other,) = taken(tmp_path, "1")
    assert environment(2) == {"CUDA_VISIBLE_DEVICES": "0,2"}
    with pytest.raises(TrialFailed, match=r"on 3 of the 3 GPUs, .* start fewer jobs"):
        environment(3)
    other.release()
    assert environment(3) == {"CUDA_VISIBLE_DEVICES": "0,1,2"}
    assert environment(1) == {"CUDA_VISIBLE_DEVICES": "0"}


def test_jobs_share_gpus_if_configured(environment, tmp_path):
    locks = taken(tmp_path, "0", "1", "2")
    with pytest.raises(TrialFailed):
        environment()
    assert environment(jobs_per_gpu=2) == {"CUDA_VISIBLE_DEVICES": "0"}
    assert all(lock.is_locked for lock in locks)


def test_what_trains_on_no_gpu_takes_none_and_what_asks_for_more_than_there_are_is_left_to_fail(environment, tmp_path):
    locks = taken(tmp_path, "0", "1", "2")
    assert environment(accelerator="cpu") == environment(4) == {}
    assert all(lock.is_locked for lock in locks)
