import numpy as np
import pytest

from ecgexp.datasets import SignalDataset, Split
from ecgexp.errors import UserError

RNG = np.random.default_rng(0)


class Made(SignalDataset):
    label_names, sampling_rate = ("a",), 100.0
    lead_names = ("I", "II", "V1")

    def __init__(self, signals: np.ndarray, normalize: str) -> None:
        self.signals, self.normalize = signals.astype(np.float32), normalize  # type: ignore[assignment]
        self.samples = signals.shape[1]

    def load(self, split):
        count = len(self.signals)
        ids = np.arange(count).astype(str)
        return Split({"signal": self.signals}, np.arange(count), np.zeros((count, 1), np.uint8), ids, ids)


@pytest.fixture
def signals() -> np.ndarray:
    return RNG.normal(0.3, [0.5, 1, 2], (3000, 40, 3))


def test_statistics_are_those_of_all_samples(signals):
    mean, deviation = Made(signals, "per_lead").normalization()["signal"]
    np.testing.assert_allclose(mean[:, 0], signals.mean(axis=(0, 1)), atol=1e-6)
    np.testing.assert_allclose(deviation[:, 0], signals.std(axis=(0, 1)), atol=1e-6)
    mean, deviation = Made(signals, "scalar").normalization()["signal"]
    np.testing.assert_allclose(mean, signals.mean(), atol=1e-6)
    np.testing.assert_allclose(deviation, signals.std(), atol=1e-6)
    assert Made(signals, "none").normalization() == {}


@pytest.mark.parametrize("value", [0, 0.3, -1234.567, 1e-8])
def test_a_lead_that_is_constant_in_training_is_named(signals, value):
    signals[..., 1] = value
    with pytest.raises(
        UserError, match=r"lead II is constant at .* mV, and dataset\.normalize=per_lead divides .* none"
    ):
        Made(signals, "per_lead").normalization()
    assert np.isfinite(Made(signals, "scalar").normalization()["signal"][1]).all()
    assert Made(signals, "none").normalization() == {}


def test_a_lead_far_from_zero_is_not_constant(signals):
    signals = signals + 500
    np.testing.assert_allclose(
        Made(signals, "per_lead").normalization()["signal"][1][:, 0], signals.std(axis=(0, 1)), rtol=1e-3
    )


def test_signals_that_are_all_constant(signals):
    with pytest.raises(
        UserError, match=r"input 'signal' is constant at 0\.5 mV, and dataset\.normalize=scalar .* to none"
    ):
        Made(np.full_like(signals, 0.5), "scalar").normalization()
