"""A dataset of a user's own: noise whose size on a lead says which labels hold."""

import numpy as np

from ecgexp.datasets import SignalDataset, Split


class Noise(SignalDataset):
    """Two labels, two leads: the lead of a label that holds is twice as loud."""

    def __init__(self, records: int = 100, samples: int = 60, seed: int = 0) -> None:
        self.label_names = ("loud", "quiet (not)")
        self.lead_names = ("A", "B")
        self.sampling_rate = 50.0
        self.records, self.samples, self.seed = records, samples, seed

    def load(self, split):
        rng = np.random.default_rng((self.seed, ("train", "val", "test").index(split)))
        targets = rng.integers(0, 2, (self.records, 2)).astype(np.uint8)
        signals = rng.normal(size=(self.records, self.samples, 2)) * (1 + targets[:, None])
        ids = np.array([f"{split}-{number}" for number in range(self.records)])
        return Split({"signal": signals.astype(np.float32)}, np.arange(self.records), targets, ids, ids)
