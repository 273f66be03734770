"""Every kind of file that is read: how a whole one is made, how it is read, and how it may be damaged.

What `read` returns stands for all that the reader says, so that another value means another result.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import wfdb
from mutate import (
    ARCHIVE,
    BYTES,
    DATABASE,
    JOURNAL,
    JSON,
    SAME_TABLE,
    SAME_TEXT,
    TABLE,
    TEXT,
    YAML,
    Mutator,
    comment,
    json_again,
    yaml_again,
)
from scipy.io import savemat

from ecgexp.datasets import MITBIH, PTBXL, MITBIHTable, Synthetic, WFDBFolder
from ecgexp.datasets.ecg.records import read_record
from ecgexp.datasets.ecg.signals import cached_signals
from ecgexp.errors import UserError

LEADS = ["I", "II"]


@dataclass(frozen=True)
class Damage:
    """Files, by a pattern, and what is done to one of them.

    Attributes
    ----------
    checked : bool
        The files have checksums: whatever is read must be right.
    same : bool
        They still mean the same, and must be read.
    """

    files: str
    mutators: tuple[Mutator, ...]
    checked: bool = False
    same: bool = False


@dataclass(frozen=True)
class Target:
    """A kind of file.

    Attributes
    ----------
    make : callable
        Writes whole files into a folder.
    read : callable
        Reads them from there, and returns all that it found.
    damage : tuple of Damage
        To choose from.
    inputs : int
        How often.
    """

    make: Callable[[Path], None]
    read: Callable[[Path], Any]
    damage: tuple[Damage, ...]
    inputs: int = 40


def told(*values: Any) -> str:
    """All of the values, with arrays as their hashes, as one text."""
    return repr([_plain(value) for value in values])


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.shape, hashlib.sha1(np.ascontiguousarray(value).tobytes()).hexdigest()
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, (list, tuple)) else value


# --- records


def _record(folder: Path, name: str, format: str = "16", samples: int = 96, seed: int = 0, leads=LEADS) -> None:
    """A record of a gain of 100 per mV: 8 bits hold it."""
    folder.mkdir(parents=True, exist_ok=True)
    steps = np.random.default_rng(seed).integers(-99, 100, (samples, len(leads)))
    count = len(leads)
    wfdb.wrsamp(
        name,
        fs=100,
        units=["mV"] * count,
        sig_name=list(leads),
        d_signal=steps,
        fmt=[format] * count,
        adc_gain=[100.0] * count,
        baseline=[0] * count,
        write_dir=str(folder),
    )


def _read(path: Path, rate: float = 100, samples: int | None = 96) -> Any:
    found = read_record(path, lead_names=LEADS, sampling_rate=rate, samples=samples)
    return found.signal, found.notes


def _make_formats(folder: Path) -> None:
    for seed, format in enumerate(("16", "212", "80", "24", "32", "516")):
        _record(folder, f"r{format}", format, seed=seed)
    _record(folder, "m")
    text = (folder / "m.hea").read_text()
    steps = np.fromfile(folder / "m.dat", "<i2").reshape(-1, 2)
    (folder / "m.dat").unlink()
    savemat(folder / "m.mat", {"val": steps.T.copy()}, format="4")
    (folder / "m.hea").write_text(text.replace("m.dat 16", "m.mat 16+24"))


def _read_formats(folder: Path) -> Any:
    return told(*(_read(path.with_suffix("")) for path in sorted(folder.glob("*.hea"))))


def _make_segments(folder: Path) -> None:
    for seed, name in enumerate(("a", "b")):
        _record(folder, name, seed=seed)
    (folder / "r.hea").write_text("r/2 2 100 192\na 96\nb 96\n# two parts\n")


def _read_segments(folder: Path) -> Any:
    return told(_read(folder / "r", samples=150), _read(folder / "r", rate=125, samples=None))


def _make_beats(folder: Path) -> None:
    for seed, name in enumerate(("101", "106")):
        _record(folder, name, samples=3000, seed=seed, leads=("MLII", "V1"))
        rng = np.random.default_rng(seed)
        places = np.cumsum(rng.integers(50, 100, 40))
        symbols = rng.choice(list("NNNVAF+/~"), 40).tolist()
        notes = ["(N" if symbol == "+" else "" for symbol in symbols]
        wfdb.wrann(name, "atr", places, symbols, aux_note=notes, write_dir=str(folder))


class _TwoRecordings(MITBIH):
    def _recordings(self, test: bool) -> tuple[str, ...]:
        return ("101", "106")


def _split(dataset: Any, *names: str) -> str:
    found: list[Any] = []
    for name in names:
        split = dataset.load(name)
        found += [split.inputs["signal"][split.rows], split.targets, split.ids.tolist(), split.patients.tolist()]
    return told(dataset.label_names, *found)


def _read_beats(folder: Path) -> Any:
    return _split(_TwoRecordings(folder, cache_dir=folder / "cache", val_fraction=0.5), "train", "val")


# --- tables


def _make_beat_table(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("mitbih_train", "mitbih_test"):
        table = pd.DataFrame(rng.random((25, 188)).round(3))
        table[187] = np.arange(25.0) % 5
        table.to_csv(folder / f"{name}.csv", header=False, index=False)
    table.columns = table.columns.astype(str)
    table.to_parquet(folder / "test.parquet")


def _read_beat_table(folder: Path) -> Any:
    return _split(MITBIHTable(folder, cache_dir=folder / "cache", test="test.parquet"), "train", "test")


def _make_labels(folder: Path) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for i in range(8):
        _record(folder / "deep", f"{i + 1:04d}", seed=i)
        rows.append(
            [
                f"deep/{i + 1:04d}",
                700 + i // 2,
                *rng.integers(0, 2, 2),
                ("train", "val", "test", "train")[i // 2],
                40 + i,
                "é",
            ]
        )
    columns = ["record", "patient", "AF", "164889003", "split", "age", "site"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "labels.csv", index=False)


def _read_labels(folder: Path) -> Any:
    dataset = WFDBFolder(
        folder,
        cache_dir=folder / "cache",
        labels_csv="labels.csv",
        labels=["AF", "164889003"],
        lead_names=LEADS,
        sampling_rate=100,
        samples=96,
        patient_column="patient",
        split_column="split",
    )
    return _split(dataset, "train", "val", "test") + told(dataset.metadata("val").to_dict("list"))


STATEMENTS = {
    "NORM": (1, "", "", "NORM"), "NDT": (1, 1, "", "STTC"), "LAFB": (1, "", "", "CD"), "IMI": (1, "", "", "MI"),
    "LVH": (1, "", "", "HYP"), "SR": ("", "", 1, ""),
}  # fmt: skip
TWELVE = ["I", "II", "III", "AVR", "AVL", "AVF", "V1", "V2", "V3", "V4", "V5", "V6"]


def _make_ptbxl(folder: Path) -> None:
    columns = ["diagnostic", "form", "rhythm", "diagnostic_class"]
    statements = pd.DataFrame.from_dict(STATEMENTS, orient="index", columns=columns)
    statements.assign(diagnostic_subclass="x").to_csv(folder / "scp_statements.csv")
    rows = []
    for i in range(1, 9):
        _record(folder / "records100/00000", f"{i:05d}_lr", samples=1000, seed=i, leads=TWELVE)
        codes = {list(STATEMENTS)[i % 5]: 100.0, "SR": 0.0}
        rows.append([i, 1000.0 + i, 50 + i, i % 2, str(codes), 8 + i % 3, f"records100/00000/{i:05d}_lr"])
    columns = ["ecg_id", "patient_id", "age", "sex", "scp_codes", "strat_fold", "filename_lr"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "ptbxl_database.csv", index=False)


def _read_ptbxl(folder: Path) -> Any:
    dataset = PTBXL(folder, cache_dir=folder / "cache")
    return _split(dataset, "train", "val", "test") + told(dataset.metadata("val").to_dict("list"))


def _make_synthetic(folder: Path) -> None:
    _read_synthetic(folder)


def _read_synthetic(folder: Path) -> Any:
    return _split(Synthetic(folder, cache_dir=folder / "cache", records=40), "train", "val", "test")


# --- caches


def _make_cache(folder: Path) -> None:
    for i in range(3):
        _record(folder / "records", f"r{i}", seed=i)
    _read_cache(folder)


def _read_cache(folder: Path) -> Any:
    layout: Any = {"lead_names": ("I", "II"), "sampling_rate": 100, "samples": 96, "exact": False}
    found = cached_signals(
        folder / "records", ["r0", "r1", "r2"], layout | {"uncalibrated": "refuse"}, folder / "cache"
    )
    return told(np.asarray(found.array), found.hashes, found.problems, found.notes)


# --- runs


def _make_run(folder: Path) -> None:

    from ecgexp.saved import sha256, write_sums
    from ecgexp.tracking.names import File

    _make_old_run(folder)
    write_sums(folder / File.CHECKSUMS, {path.name: sha256(path) for path in folder.iterdir()})


def _make_old_run(folder: Path) -> None:
    import torch

    from ecgexp.models import Linear
    from ecgexp.training.network import Network

    generator = torch.Generator().manual_seed(0)
    network = Network(Linear(leads=2, samples=96, outputs=3))
    state = {
        name: torch.rand(value.shape, generator=generator) if value.is_floating_point() else value
        for name, value in network.state_dict().items()
    }
    torch.save(state, folder / "weights.pt")
    data = {"labels": ["A", "B", "C"], "leads": LEADS, "sampling_rate": 100, "samples": 96, "unit": "mV"}
    (folder / "data.json").write_text(json.dumps(data | {"multiclass": False, "counts": {}}, indent=1))
    (folder / "config.yaml").write_text(
        "model:\n  _target_: ecgexp.models.Linear\n  leads: 2\n  samples: 96\n  classes: 3\n"
        "threshold: 0.5\nlr: 0.01\ndataset:\n  root: data\n"
    )


def _read_run(folder: Path) -> Any:
    import torch

    from ecgexp.commands.predict import predict_records
    from ecgexp.tracking.restore import load_trained

    torch.set_num_threads(1)
    trained = load_trained(str(folder))
    signal = np.random.default_rng(0).normal(size=trained.contract.inputs[0].shape[::-1]).astype(np.float32)
    probabilities = predict_records(trained, [SimpleNamespace(signal=signal)])  # type: ignore[list-item]
    return told(probabilities, trained.contract.to_json())


def _make_checkpoint(folder: Path) -> None:
    import torch

    generator = torch.Generator().manual_seed(0)
    best, last = ({"w": torch.rand(64, generator=generator)} for _ in range(2))
    callbacks = {"Checkpoints": {"best_epoch": 1, "best_value": 0.5}}
    torch.save({"epoch": 2, "state_dict": last, "callbacks": callbacks}, folder / "last.ckpt")
    torch.save(best, folder / "best-1.pt")


def _read_checkpoint(folder: Path) -> Any:
    import torch

    from ecgexp.training.callbacks import find_checkpoint

    path, damaged = find_checkpoint(folder)
    if path is None:
        raise UserError(f"The checkpoint in {folder} is {'damaged' if damaged else 'missing'}.")
    found, best = torch.load(path), torch.load(folder / "best-1.pt")
    return told(found["epoch"], found["state_dict"]["w"].numpy(), found["callbacks"], best["w"].numpy())


def _make_predictions(folder: Path) -> None:
    rng = np.random.default_rng(0)
    table = {"id": [f"{i:03d}" for i in range(40)], "patient": [str(i // 2) for i in range(40)]}
    table |= {f"true/{name}": rng.integers(0, 2, 40).astype(np.uint8) for name in "AB"}
    table |= {f"probability/{name}": rng.random(40).astype(np.float32) for name in "AB"}
    pd.DataFrame(table).to_parquet(folder / "predictions_val.parquet", index=False)


def _read_predictions(folder: Path) -> Any:
    from ecgexp.targets import MultiLabel
    from ecgexp.training.predictions import read_predictions

    found = read_predictions(folder / "predictions_val.parquet", MultiLabel)
    return told(found.ids.tolist(), found.targets, found.probabilities, found.target.names, found.patients.tolist())


# --- searches, boards, keys


def _make_journal(folder: Path) -> None:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    from ecgexp.search.study import open_storage, open_study

    study = open_study(open_storage(str(folder / "study.journal")), "study", ["maximize"])
    space = {"lr": FloatDistribution(1e-4, 1e-1, log=True), "net": CategoricalDistribution(["a", "b"])}
    for value in (0.5, 0.25, 0.75):
        trial = study.ask(space)
        trial.set_user_attr("run_id", f"run{value}")
        trial.report(value, 1)
        study.tell(trial, value)


def _trials(study: Any) -> str:
    return told(
        *(
            (one.number, one.state.name, one.values, one.params, one.user_attrs, one.intermediate_values)
            for one in study.trials
        )
    )


def _read_journal(folder: Path) -> Any:
    from ecgexp.search.study import counted, open_storage, open_study, put_back_dead, retry_failed

    study = open_study(open_storage(str(folder / "study.journal")), "study", ["maximize"])
    put_back_dead(study)
    retry_failed(study, 1)
    counted(study.trials)
    return _trials(study)


def _make_search(folder: Path) -> None:
    from ecgexp.reports.search import write_study
    from ecgexp.search.study import open_storage

    _make_journal(folder)
    write_study(folder / "study.json", open_storage(str(folder / "study.journal")), "study")


def _read_search(folder: Path) -> Any:
    from ecgexp.reports.search import read_study

    return _trials(read_study(folder / "study.json"))


def _make_board(folder: Path) -> None:
    from ecgexp.sweeps.status import Board, TrialStatus

    board = Board(folder, "parent")
    for job in range(3):
        board.write(job, TrialStatus("done", [f"lr={job}"], 0.0, 0.5, 10.0))


def _read_board(folder: Path) -> Any:
    from ecgexp.sweeps.status import Board, StatusLine

    board = Board(folder, "parent")
    found = board.read()
    StatusLine(board, [[f"lr={job}"] for job in range(4)], True).text(1e9)
    return told({job: vars(status) for job, status in found.items()})


def _make_key(folder: Path) -> None:
    _read_key(folder)


def _read_key(folder: Path) -> Any:
    from ecgexp.tracking.privacy import hashed_patients
    from ecgexp.tracking.store import Store

    store = Store(None, "", "", folder)  # type: ignore[arg-type]
    return told(hashed_patients(store, np.array(["Anna", "Bert"])).tolist())


# --- stores


def _make_store(folder: Path) -> None:
    from sweeps import Sweep, new_store

    sweep = Sweep(new_store(folder), "made", records=24)
    for seed, skill in enumerate((1.0, 0.5)):
        sweep.trial("model=linear", f"seed={seed}", skill=skill)
    sweep.end()
    entry = {"when": "2026-01-01T00:00:00+00:00", "by": "me@here", "run": sweep.parent, "thresholds": "fixed"}
    sweep.store.client.set_tag(sweep.parent, "look/test/20260101T000000.000000", json.dumps(entry))


def _read_store(folder: Path) -> Any:
    from ecgexp.commands.report import read_report
    from ecgexp.tracking.runs import find_run, find_sweeps
    from ecgexp.tracking.store import find_store

    store = find_store(folder, None)
    parents = find_sweeps(store, [])
    report = read_report(store, parents)
    find_run(report.runs[0].info.run_id, folder, None)
    groups = [(group.runs, group.example.ids.tolist(), group.uncertainty) for group in report.groups]
    return told(report.results.to_dict("list"), report.missing, report.data, report.accesses, groups)


def _read_open_store(folder: Path) -> Any:
    from sweeps import new_store

    store = new_store(folder)
    runs = store.search("tags.kind = 'trial'")
    return told([(run.info.run_id, run.info.status, run.data.metrics, run.data.tags, run.data.params) for run in runs])


TARGETS = {
    "headers": Target(
        lambda folder: _record(folder, "r"),
        lambda folder: told(_read(folder / "r"), _read(folder / "r", rate=250, samples=None)),
        (
            Damage("r.hea", TEXT),
            Damage("r.hea", TEXT),
            Damage("r.hea", TEXT),
            Damage("r.hea", (*SAME_TEXT, comment), same=True),
        ),
        90,
    ),
    "signals": Target(
        _make_formats,
        _read_formats,
        (
            *(Damage(f"{name}.dat", BYTES, checked=True) for name in ("r16", "r212", "r80", "r516")),
            Damage("m.mat", BYTES, checked=True),
            Damage("r[23][42].dat", BYTES),  # their checksums leave the higher bits out
        ),
        70,
    ),
    "segments": Target(
        _make_segments,
        _read_segments,
        (
            Damage("*.hea", TEXT),
            Damage("*.dat", BYTES, checked=True),
            Damage("*.hea", (*SAME_TEXT, comment), same=True),
        ),
    ),
    "annotations": Target(_make_beats, _read_beats, (Damage("*.atr", BYTES), Damage("*.hea", TEXT)), 80),
    "tables of beats": Target(
        _make_beat_table, _read_beat_table, (Damage("mitbih_train.csv", TABLE), Damage("*.parquet", BYTES)), 40
    ),
    "tables of labels": Target(
        _make_labels,
        _read_labels,
        (Damage("labels.csv", TABLE), Damage("labels.csv", TABLE), Damage("labels.csv", SAME_TABLE, same=True)),
        90,
    ),
    "ptbxl": Target(
        _make_ptbxl,
        _read_ptbxl,
        (
            Damage("ptbxl_database.csv", TABLE),
            Damage("scp_statements.csv", TABLE),
            Damage("*.csv", SAME_TABLE, same=True),
        ),
        60,
    ),
    "synthetic": Target(
        _make_synthetic,
        _read_synthetic,
        (Damage("v*/*.csv", TABLE, checked=True), Damage("v*/records100/*/*.dat", BYTES, checked=True)),
        20,
    ),
    "caches": Target(_make_cache, _read_cache, (Damage("cache/*", BYTES, checked=True),), 60),
    "runs": Target(
        _make_run,
        _read_run,
        (
            Damage("weights.pt", ARCHIVE, checked=True),
            Damage("config.yaml", YAML, checked=True),
            Damage("data.json", JSON, checked=True),
        ),
        60,
    ),
    "runs without checksums": Target(
        _make_old_run,
        _read_run,
        (
            Damage("weights.pt", BYTES, checked=True),
            Damage("weights.pt", ARCHIVE),
            Damage("config.yaml", YAML),
            Damage("config.yaml", (yaml_again, comment), same=True),
            Damage("data.json", JSON),
            Damage("data.json", (json_again,), same=True),
        ),
        80,
    ),
    "checkpoints": Target(
        _make_checkpoint, _read_checkpoint, (Damage("*", BYTES, checked=True), Damage("*", ARCHIVE)), 50
    ),
    "predictions": Target(_make_predictions, _read_predictions, (Damage("*", BYTES),), 30),
    "journals": Target(_make_journal, _read_journal, (Damage("study.journal", JOURNAL),), 60),
    "searches": Target(
        _make_search, _read_search, (Damage("study.json", JSON), Damage("study.json", (json_again,), same=True)), 30
    ),
    "boards": Target(_make_board, _read_board, (Damage("**/*.json", JSON),), 20),
    "keys": Target(_make_key, _read_key, (Damage("patients.key", TEXT),), 10),
    "stores": Target(
        _make_store,
        _read_store,
        (
            Damage("mlruns/mlflow.db", DATABASE),
            Damage("mlruns/**/*.parquet", BYTES),
            Damage("mlruns/**/data.json", JSON),
        ),
        30,
    ),
    "opened stores": Target(_make_store, _read_open_store, (Damage("mlruns/mlflow.db", DATABASE),), 30),
}
