"""Records as named inputs: the attributes of an input, and datasets with several inputs."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from ecgexp.config.build import check_inputs, example, sizes
from ecgexp.datasets import Dataset, Input, SignalDataset, Split
from ecgexp.errors import UserError

RNG = np.random.default_rng(0)
IMAGE = Input("image", ("channel", "row", "column"), (3, 4, 5), stored=("row", "column", "channel"))


class Both(SignalDataset):
    """A signal, and the age and height of the patient."""

    label_names = ("a", "b")
    lead_names = ("I", "II")
    sampling_rate, samples = 50, 30

    def __init__(self, over: tuple[str, ...] | None = ()) -> None:
        rng, count = np.random.default_rng(1), 40
        self.arrays = {
            "signal": rng.normal(3, 2, (count, 30, 2)).astype(np.float32),
            "tabular": rng.normal([60, 170], [10, 20], (count, 2)).astype(np.float16),
        }
        self.rows, self.over = rng.permutation(count)[:20], over

    @property
    def inputs(self):
        names = {"feature": ("age", "height")}
        tabular = Input("tabular", ("feature",), (2,), coordinates=names, normalize_over=self.over)
        return (*super().inputs, tabular)

    def load(self, split):
        ids = np.array([f"{split}-{row}" for row in self.rows])
        return Split(self.arrays, self.rows, np.ones((len(ids), 2), np.uint8), ids, ids)


class Signals(Both):
    @property
    def inputs(self):
        return super().inputs[:1]

    def load(self, split):
        ids = np.array([f"{split}-{row}" for row in self.rows])
        return Split({"signal": self.arrays["signal"]}, self.rows, np.ones((len(ids), 2), np.uint8), ids, ids)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"name": "my input"}, "'my input' must have a name"),
        ({"shape": (3,)}, r"must name each of its axes \('a', 'b'\) once in stored"),
        ({"stored": ("a",)}, "once in stored"),
        ({"stored": ("a", "c")}, "once in stored"),
        ({"axes": ("a", "a")}, "once in stored"),
        ({"coordinates": {"a": ("x",)}}, "has no axis 'a' of length 1"),
        ({"coordinates": {"c": ("x",)}}, "has no axis 'c'"),
        ({"normalize_over": ("c",)}, r"lacks some of the axes \('c',\) of normalize_over"),
    ],
)
def test_an_input_that_does_not_fit_itself_is_refused(arguments, named):
    with pytest.raises(ValueError, match=named):
        Input(**{"name": "x", "axes": ("a", "b"), "shape": (3, 2), **arguments})


def test_axes_are_exchanged_from_the_order_in_memory_to_that_of_the_net():
    assert IMAGE.stored_shape == (4, 5, 3)
    assert np.zeros((9, 4, 5, 3)).transpose(IMAGE.order).shape == (9, 3, 4, 5)
    assert Input("x", ("feature",), (7,)).order == (0, 1)


def test_the_input_of_a_signal_dataset_follows_from_its_attributes():
    (signal,) = Signals().inputs
    assert (signal.axes, signal.shape, signal.stored_shape) == (("lead", "time"), (2, 30), (30, 2))
    assert (signal.unit, signal.rate, signal.coordinates) == ("mV", 50, {"lead": ("I", "II")})


def test_an_example_has_the_axes_of_each_input():
    dataset = Both()
    arrays = example(dataset, dataset.load("val"), 3)
    first = dataset.arrays["signal"][dataset.rows[:3]]
    np.testing.assert_array_equal(arrays["signal"], first.transpose(0, 2, 1))
    np.testing.assert_array_equal(arrays["tabular"], dataset.arrays["tabular"][dataset.rows[:3]])
    signals = Signals()
    np.testing.assert_array_equal(example(signals, signals.load("val"), 3), first.transpose(0, 2, 1))


def test_sizes_have_the_names_of_the_field():
    assert sizes(Both().inputs) == {"leads": 2, "samples": 30, "features": 2}
    assert sizes([IMAGE]) == {"channels": 3, "height": 4, "width": 5}
    other = Input("ppg", ("lead", "time"), (2, 10))
    assert sizes([*Signals().inputs, other]) == {"leads": 2, "samples": {"signal": 30, "ppg": 10}}


def test_statistics_are_taken_over_the_axes_that_an_input_names():
    values = {name: array[Both().rows].astype(np.float64) for name, array in Both().arrays.items()}
    found = Both(over=()).normalization()
    assert set(found) == {"tabular"}  # the signal is not normalised
    np.testing.assert_allclose(found["tabular"][0], values["tabular"].mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(found["tabular"][1], values["tabular"].std(axis=0), rtol=1e-4)
    dataset = Both(over=("feature",))
    dataset.normalize = "per_lead"
    found = dataset.normalization()
    np.testing.assert_allclose(found["tabular"][0], [values["tabular"].mean()], rtol=1e-5)
    np.testing.assert_allclose(found["signal"][0], values["signal"].mean(axis=(0, 1))[:, None], rtol=1e-5)
    assert Both(over=None).normalization() == {}


def test_whole_numbers_have_statistics_too():
    class Images(Dataset):
        label_names = ("a",)
        inputs = (Input("image", IMAGE.axes, IMAGE.shape, stored=IMAGE.stored, normalize_over=("row", "column")),)

        def load(self, split):
            ids = np.arange(6).astype(str)
            return Split({"image": pixels}, np.arange(6), np.zeros((6, 1), np.uint8), ids, ids)

    pixels = RNG.integers(0, 256, (6, 4, 5, 3)).astype(np.uint8)
    mean, deviation = Images().normalization()["image"]
    assert mean.shape == deviation.shape == (3, 1, 1)
    np.testing.assert_allclose(mean[:, 0, 0], pixels.mean(axis=(0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(deviation[:, 0, 0], pixels.std(axis=(0, 1, 2)), rtol=1e-5)


def test_a_feature_that_is_constant_in_training_is_named():
    dataset = Both(over=())
    dataset.arrays["tabular"][:, 1] = 170
    with pytest.raises(UserError, match="feature height of input 'tabular' is constant at 170, and its normalisation"):
        dataset.normalization()
    dataset.over = None
    assert dataset.normalization() == {}


def test_the_fingerprint_of_a_signal_is_that_of_versions_that_had_nothing_else():
    dataset, digest = Signals(), hashlib.sha256()
    for name in ("train", "val"):
        split = dataset.load(name)
        digest.update(repr((name, ("a", "b"), ("I", "II"), 50)).encode())
        digest.update("\n".join(split.ids).encode())
        digest.update(split.targets.tobytes())
        digest.update(dataset.arrays["signal"][dataset.rows].tobytes())
    assert dataset.fingerprint() == digest.hexdigest()[:16]


@pytest.mark.parametrize("change", ["value", "type", "name", "targets"])
def test_the_fingerprint_depends_on_each_input(change):
    dataset, before = Both(), Both().fingerprint()
    if change == "value":
        dataset.arrays["tabular"][dataset.rows[-1], 0] += 1
    elif change == "type":
        dataset.arrays["tabular"] = dataset.arrays["tabular"].view(np.int16)
    elif change == "name":
        names = {"feature": ("age", "weight")}
        altered = (*Both().inputs[:1], Input("tabular", ("feature",), (2,), coordinates=names))
        dataset = type("Renamed", (Both,), {"inputs": altered})()
    else:
        load = dataset.load
        dataset.load = lambda name: Split(**{**vars(load(name)), "targets": np.ones((20, 2), np.int8)})
    assert dataset.fingerprint() != before


def test_a_split_without_an_input_or_of_another_shape_is_refused():
    dataset = Both()
    check_inputs(dataset, dataset.load("train"))
    signal, tabular = dataset.arrays["signal"], dataset.arrays["tabular"]
    dataset.arrays = {"signal": signal}
    with pytest.raises(UserError, match="Both has the inputs signal, tabular, but its splits have signal"):
        check_inputs(dataset, dataset.load("train"))
    dataset.arrays = {"signal": signal.transpose(0, 2, 1), "tabular": tabular}
    with pytest.raises(UserError, match=r"input 'signal' has the shape \(30, 2\), but its splits have \(2, 30\)"):
        check_inputs(dataset, dataset.load("train"))
