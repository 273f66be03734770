"""Sweeps written down as if trained, with figures that a test knows."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
from mlflow.entities import Metric, Param, RunTag

from ecgexp.metrics import classification_metrics
from ecgexp.tracking.store import Store, open_store

LABELS = ("NORM", "STTC", "CD", "MI", "HYP")
PROTOCOL = {
    "dataset.labels": "superclass",
    "dataset.min_likelihood": "50",
    "dataset.sampling_rate": "100",
    "dataset.normalize": "none",
    "dataset.val_fold": "9",
    "max_epochs": "100",
    "early_stopping.patience": "15",
    "early_stopping.min_delta": "0.0",
    "monitor": "val/loss",
    "target._target_": "ecgexp.targets.MultiLabel",
    "target.threshold": "0.5",
    "precision": "32",
}
CHOICES = {"dataset": "ptbxl", "model": "ribeiro", "loss": "bce", "optimizer": "adam", "scheduler": "plateau"}


def new_store(folder: Path) -> Store:
    return open_store(SimpleNamespace(root=str(folder), uri=None, experiment="ecgexp", patience=0.0))


def truth(records: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Targets, and a signal that predicts them: (records, labels) each."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((records, len(LABELS))) < 0.35).astype(np.uint8)
    return targets, rng.normal(size=targets.shape)


@dataclass
class Sweep:
    """A sweep whose trials predict as well as a test wants."""

    store: Store
    name: str = "made"
    records: int = 60
    patient_column: bool = True
    count: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        tags = {"kind": "sweep", "sweep": self.name, "objective": "best/val/mlcm_f1_macro", "mlflow.runName": self.name}
        self.parent = self.store.client.create_run(self.store.experiment_id, tags=tags).info.run_id

    def end(self, status: str = "FINISHED") -> None:
        self.store.client.set_terminated(self.parent, status)

    def trial(
        self,
        *overrides: str,
        skill: float | None = 1.0,
        status: str = "FINISHED",
        data_seed: int = 0,
        seconds: float = 10.0,
        choices: dict[str, str] | None = None,
        params: dict[str, str] | None = None,
        **tags: str,
    ) -> str:
        """Write a trial down; `skill` is how well it predicts, None: it left neither metrics nor files."""
        client = self.store.client
        given = dict(override.split("=", 1) for override in overrides)
        chosen = {**CHOICES, **(choices or {}), **{key: value for key, value in given.items() if key in CHOICES}}
        tags = {
            "kind": "trial", "job": str(self.count), "mlflow.parentRunId": self.parent, "diverged": "false",
            "device": "cpu", "overrides": json.dumps(overrides), "best_epoch": "1", **chosen,
            "identity": f"{data_seed} {sorted(given.items())}", **tags,
        }  # fmt: skip
        self.count += 1
        run = client.create_run(self.store.experiment_id, tags=tags).info.run_id
        settings = {
            **PROTOCOL,
            **{f"{group}._target_": f"some.{choice}" for group, choice in chosen.items()},
            **{key: value for key, value in given.items() if key not in CHOICES},
            **(params or {}),
        }
        client.log_batch(run, params=[Param(key, value) for key, value in settings.items()])
        if skill is not None:
            self._measure(run, skill, data_seed, seconds)
        client.set_terminated(run, status)
        return run

    def _measure(self, run: str, skill: float, data_seed: int, seconds: float) -> None:
        targets, noise = truth(self.records, data_seed)
        probabilities = (1 / (1 + np.exp(-(skill * (2.0 * targets - 1) + 0.3 * noise)))).astype(np.float32)
        table = {"id": [f"{data_seed}-{i}" for i in range(self.records)]}
        if self.patient_column:
            table["patient"] = [str(i // 2) for i in range(self.records)]
        table |= {f"true/{name}": targets[:, i] for i, name in enumerate(LABELS)}
        table |= {f"probability/{name}": probabilities[:, i] for i, name in enumerate(LABELS)}
        folder = self.store.root / "artifacts" / run / "artifacts"
        folder.mkdir(parents=True)
        pd.DataFrame(table).to_parquet(folder / "predictions_val.parquet", index=False)
        description = {
            "labels": LABELS,
            "sampling_rate": 100,
            "counts": {
                "train": {"records": 17000, "patients": 15000},
                "val": {"records": self.records, "patients": 30},
            },
        }
        (folder / "data.json").write_text(json.dumps(description))
        found = measured(probabilities, targets)
        last = {**{f"best/val/{key}": value for key, value in found.items()}, "epochs": 3.0, "train_seconds": seconds}
        metrics = [Metric(key, value, 0, 0) for key, value in last.items()]
        for step in range(3):
            for split in ("train", "val"):
                metrics += [Metric(f"{split}/{name}", 0.5 + step / 10, 0, step) for name in ("loss", "mlcm_f1_macro")]
        self.store.client.log_batch(run, metrics=metrics, tags=[RunTag("done", "yes")])


def measured(probabilities: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    import torch

    found = classification_metrics(torch.tensor(probabilities), torch.tensor(targets).int(), LABELS).metrics
    return {name: found[name] for name in ("mlcm_f1_macro", "mlcm_f1_micro", "auroc_macro")}
