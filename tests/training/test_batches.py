from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ecgexp.datasets import SignalDataset, Split
from ecgexp.training.batches import GIGABYTE, Batches, Records
from ecgexp.training.data import TrainingData

CPU = torch.device("cpu")
STORED, LEADS, SAMPLES, CLASSES = 50, 3, 20, 4


def split(records: int, seed: int = 0) -> Split:
    """Some rows, in no order, of a larger store; the first sample of a record says which row it is."""
    rng = np.random.default_rng(seed)
    signals = rng.normal(size=(STORED, SAMPLES, LEADS)).astype(np.float32)
    rows = rng.permutation(STORED)[:records]
    targets = rng.integers(0, 2, (records, CLASSES)).astype(np.uint8)
    ids = np.array([f"record {row}" for row in rows])
    return Split({"signal": signals}, rows, targets, ids, ids)


class Known(SignalDataset):
    label_names = ("a", "b", "c", "d")
    lead_names = ("I", "II", "III")
    sampling_rate, samples = 10.0, SAMPLES

    def __init__(self) -> None:
        self.asked: list[str] = []

    def load(self, split_name):
        self.asked.append(split_name)
        return split(20, seed=("train", "val", "test").index(split_name))


INPUTS = Known().inputs


def order(records: int, batch_size: int, **options) -> list[list[int]]:
    batches = Batches(Records(split(records), INPUTS, GIGABYTE, CPU), batch_size, **options)
    drawn = [index.tolist() for _, _, index in batches]
    assert len(batches) == len(drawn)
    return drawn


def flat(batches: list[list[int]]) -> list[int]:
    return [index for batch in batches for index in batch]


@pytest.mark.parametrize("memory_budget", [GIGABYTE, 0])
def test_a_batch_is_the_records_at_its_index(memory_budget):
    data = split(30)
    index = torch.tensor([7, 0, 29, 7])
    signals, targets, same = Records(data, INPUTS, memory_budget, CPU).select(index)
    assert signals.shape == (4, LEADS, SAMPLES)
    assert signals.dtype == targets.dtype == torch.float32
    for place, record in enumerate(index):
        np.testing.assert_array_equal(signals[place].T, data.inputs["signal"][data.rows[record]])
        np.testing.assert_array_equal(targets[place], data.targets[record])
    assert same.tolist() == index.tolist()


def test_a_memory_mapped_split_gives_the_same_batches_as_one_in_memory(tmp_path):
    data = split(30)
    np.save(tmp_path / "signals.npy", data.inputs["signal"])
    mapped = replace(data, inputs={"signal": np.load(tmp_path / "signals.npy", mmap_mode="r")})
    inside = Batches(Records(data, INPUTS, GIGABYTE, CPU), 8, seed=1)
    outside = Batches(Records(mapped, INPUTS, 0, CPU), 8, seed=1)
    for one, other in zip(inside, outside, strict=True):
        for left, right in zip(one, other, strict=True):
            torch.testing.assert_close(left, right, rtol=0, atol=0)


@pytest.mark.parametrize("records", [1, 7, 8, 30])
def test_each_record_comes_exactly_once_per_epoch(records):
    batches = order(records, 8, seed=0)
    assert sorted(flat(batches)) == list(range(records))
    assert all(len(batch) == 8 for batch in batches[:-1])


def test_without_a_seed_records_keep_their_order():
    assert flat(order(30, 8)) == list(range(30))


def test_the_order_depends_on_seed_and_epoch_alone():
    def at(seed, epoch):
        return order(30, 8, seed=seed, epoch=lambda: epoch)

    assert at(0, 0) == at(0, 0)
    assert len({str(at(seed, epoch)) for seed in (0, 1) for epoch in (0, 1, 2)}) == 6


def test_a_later_epoch_is_the_same_whether_or_not_the_earlier_ones_were_drawn():
    epoch = 0
    batches = Batches(Records(split(30), INPUTS, GIGABYTE, CPU), 8, seed=3, epoch=lambda: epoch)
    drawn = []
    for epoch in range(3):  # noqa: B007 - read by the function above
        drawn = [index.tolist() for _, _, index in batches]
    assert drawn == order(30, 8, seed=3, epoch=lambda: 2)


@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize("records", [30, 32])
def test_processes_share_each_batch_of_one_process(world_size, records):
    whole = order(records, 8, seed=0)
    shares = [order(records, 8, seed=0, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert len({len(share) for share in shares}) == 1
    assert {len(flat(share)) for share in shares} == {-(-records // world_size)}
    for step, batch in enumerate(whole):
        together = [index for share in shares for index in share[step]]
        assert set(together) >= set(batch)
        assert set(together) - set(batch) <= set(flat(whole))
    drawn = flat([flat(share) for share in shares])
    assert set(drawn) == set(range(records))
    assert len(drawn) - records < world_size  # repeated, so that the shares are equally long


def test_training_never_asks_for_the_test_split():
    dataset = Known()
    TrainingData(dataset, batch_size=4, seed=0, memory_budget=1.0)
    assert set(dataset.asked) == {"train", "val"}
