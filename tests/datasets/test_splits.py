import numpy as np
import pytest

from ecgexp.datasets.splits import stratified_split

FRACTIONS = (0.8, 0.1, 0.1)


def records(patients: int = 2000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Patients with one to four records and labels of 40 % to 1 % prevalence, some without any."""
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(patients), rng.integers(1, 5, patients))
    return (rng.random((len(owner), 5)) < [0.4, 0.2, 0.1, 0.03, 0.01]).astype(np.uint8), owner


def test_no_patient_in_two_parts():
    targets, patients = records()
    part = stratified_split(targets, patients, FRACTIONS, seed=0)
    assert all(len(set(part[patients == patient])) == 1 for patient in np.unique(patients))


@pytest.mark.parametrize("seed", range(5))
def test_each_part_has_its_share_of_records_and_labels(seed):
    targets, patients = records(seed=seed)
    part = stratified_split(targets, patients, FRACTIONS, seed)
    for i, fraction in enumerate(FRACTIONS):
        assert abs((part == i).sum() - fraction * len(part)) <= 4  # a patient's records
        shares = targets[part == i].sum(axis=0)
        assert (abs(shares - fraction * targets.sum(axis=0)) <= 4).all()


def test_rare_labels_reach_every_part_where_a_random_split_misses_some():
    rng = np.random.default_rng(0)
    targets = np.zeros((3000, 20), dtype=np.uint8)
    for label in range(20):
        targets[rng.choice(3000, 10, replace=False), label] = 1
    part = stratified_split(targets, np.arange(3000), FRACTIONS, seed=0)
    assert all(targets[part == i].any(axis=0).all() for i in range(3))
    random = rng.choice(3, 3000, p=FRACTIONS)
    assert not all(targets[random == i].any(axis=0).all() for i in range(3))


def test_the_seed_decides():
    targets, patients = records(300)
    first = stratified_split(targets, patients, FRACTIONS, seed=1)
    np.testing.assert_array_equal(first, stratified_split(targets, patients, FRACTIONS, seed=1))
    assert (first != stratified_split(targets, patients, FRACTIONS, seed=2)).any()


def test_unlabelled_records_are_divided_too():
    part = stratified_split(np.zeros((100, 3)), np.arange(100), (0.5, 0.3, 0.2), seed=0)
    assert np.bincount(part).tolist() == [50, 30, 20]


def test_full_size_real_labels(real_labels):
    targets = real_labels.filter(regex="^(super|sub|form|rhythm)_").to_numpy()
    part = stratified_split(targets, real_labels.patient_id.to_numpy(), FRACTIONS, seed=0)
    assert real_labels.assign(part=part).groupby("patient_id").part.nunique().max() == 1
    for i, fraction in enumerate(FRACTIONS):
        shares = targets[part == i].sum(axis=0)
        assert (abs(shares - fraction * targets.sum(axis=0)) <= 0.02 * targets.sum(axis=0) + 3).all()
