"""A data set with two inputs: a beat, and age and sex of whom it is of."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ecgexp.datasets import Input, SignalDataset, Split


class Graded(SignalDataset):
    """Generated beats whose ST segment is lowered, graded by how much for the age."""

    def __init__(self, label_names: Sequence[str], records: int = 160, samples: int = 64, seed: int = 0) -> None:
        self.label_names = tuple(label_names)
        self.lead_names, self.sampling_rate, self.samples = ("II", "V5"), 100.0, samples
        self.records, self.seed = records, seed

    @property
    def inputs(self) -> tuple[Input, ...]:  # type: ignore[override]
        """The signal, and a table whose columns are normalised one by one."""
        columns = {"feature": ("age", "sex")}
        return (*super().inputs, Input("tabular", ("feature",), (2,), coordinates=columns, normalize_over=()))

    def load(self, split: str) -> Split:
        """Two records of each patient."""
        rng = np.random.default_rng((self.seed, ("train", "val", "test").index(split)))
        age, sex = (
            np.repeat(rng.uniform(30, 90, self.records // 2), 2),
            np.repeat(rng.random(self.records // 2) < 0.5, 2),
        )
        depression = rng.uniform(0, 0.3, len(age))  # mV
        time = np.arange(self.samples) / self.sampling_rate
        beat = np.exp(-(((time - 0.2) / 0.015) ** 2)) + 0.3 * np.exp(-(((time - 0.5) / 0.05) ** 2))
        lowered = beat - depression[:, None] * ((time > 0.25) & (time < 0.4))
        signals = lowered[:, :, None] + rng.normal(0, 0.02, (len(age), self.samples, 2))
        severity = depression / 0.3 + (age - 30) / 60  # from 0 to 2
        grade = (severity * len(self.label_names) / 2).astype(int)
        ids = np.array([f"{split}-{number}" for number in range(len(age))])
        patients = np.array([f"{split}-patient-{number // 2}" for number in range(len(age))])
        arrays = {"signal": signals.astype(np.float32), "tabular": np.column_stack([age, sex]).astype(np.float32)}
        return Split(arrays, np.arange(len(age)), np.eye(len(self.label_names), dtype=np.uint8)[grade], ids, patients)

    def metadata(self, split: str) -> pd.DataFrame:
        """Age and sex, for the groups of an evaluation."""
        age, sex = self.load(split).inputs["tabular"].T
        return pd.DataFrame({"age": age, "sex": np.where(sex > 0, "female", "male")})
