import numpy as np
import pytest

from ecgexp.datasets.splits import choose_patients, stratified_classes, stratified_split

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


def test_classes_are_divided_in_proportion_at_random():
    classes = np.repeat([0, 1, 2, 3], [1000, 100, 11, 3])
    np.random.default_rng(1).shuffle(classes)
    part = stratified_classes(classes, (0.64, 0.16, 0.2), seed=0)
    counts = np.array([[(part[classes == label] == i).sum() for i in range(3)] for label in range(4)])
    assert (abs(counts - np.outer([1000, 100, 11, 3], [0.64, 0.16, 0.2])) <= 1).all()
    # drawn at random: no part is a stretch of the order
    assert all(abs(np.flatnonzero(part == i).mean() - len(classes) / 2) < 60 for i in range(3))
    np.testing.assert_array_equal(part, stratified_classes(classes, (0.64, 0.16, 0.2), seed=0))
    assert (part != stratified_classes(classes, (0.64, 0.16, 0.2), seed=1)).any()


def test_chosen_patients_have_about_their_share_of_each_class():
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(20), rng.integers(50, 150, 20)).astype(str)
    classes = (rng.random(len(patients)) < 0.05).astype(int)
    classes[np.flatnonzero(patients == "7")] = 2  # nearly all of this class, which no fifth of the patients can share
    classes[np.flatnonzero(patients == "3")[:5]] = 2
    for seed in range(5):
        chosen = choose_patients(classes, patients, 0.2, seed)
        assert len(set(patients[chosen])) == 4
        assert not set(patients[chosen]) & set(patients[~chosen])
        shares = [chosen[classes == label].mean() for label in range(3)]
        assert shares[:2] == pytest.approx([0.2, 0.2], abs=0.06)
        assert shares[2] < 0.2
    np.testing.assert_array_equal(chosen, choose_patients(classes, patients, 0.2, seed))


def test_the_choice_of_patients_is_the_best_where_all_are_drawn():
    classes, patients = np.array([0, 0, 1, 1, 0, 1, 0, 1]), np.array(list("aabbcdcd"))
    # of two in four, only a or c with b or d have half of both classes
    for seed in range(4):
        assert sorted(classes[choose_patients(classes, patients, 0.5, seed)]) == [0, 0, 1, 1]
