"""Synthetic 12-lead ECGs: a generator that writes a folder in the layout of PTB-XL, and the dataset that reads it.

The signals come from a model (see `ecgexp.datasets.ecg.heart`) and the people are invented. The records serve to try
the software without real data: **results on them have no clinical meaning.**
"""

from __future__ import annotations

import csv
import hashlib
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from tqdm import tqdm

from ecgexp.datasets.base import Normalization
from ecgexp.datasets.ecg.heart import (
    LEAD_NAMES,
    LESIONS,
    ST,
    Beats,
    Hearts,
    Noise,
    R,
    S,
    T,
    afflict,
    beat,
    healthy,
    record,
)
from ecgexp.datasets.ecg.ptbxl import DATABASE, PTBXL, STATEMENTS, LabelSet, _Statement
from ecgexp.datasets.ecg.statements import STATEMENT_TABLE, SUPERCLASS_OF
from ecgexp.datasets.recordset import Records
from ecgexp.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

VERSION: Final = 1
"""Raise it when the same options give other files."""

_SUMS: Final = "SHA256SUMS.txt"
_BLOCK: Final = 256  # records that share a random stream; another value gives other records from the same seed
MOST_RECORDS: Final = 99_999  # five digits in a file name

_NOTICE: Final = """\
SYNTHETIC electrocardiograms in the file layout of PTB-XL.

No signal, person, date or diagnosis here is real: a mathematical model of the heart made them, from a seed.
Numbers obtained on them mean nothing clinically. Use them to try software out, and for nothing else.

Made by ecgexp, generator version {version}: {records} records, seed {seed}, {sampling_rate} Hz.
"""
_LICENSE: Final = """\
The records in this folder are synthetic. They contain no data of any person and no part of PTB-XL, and may be
used without restriction (CC0 1.0). They come without any warranty, and nothing clinical follows from them.
"""

# --- frequencies --------------------------------------------------------------------------------------------

# Records of PTB-XL 1.0.3 (21,799) per combination of superclasses, with any likelihood.
_COMBINATIONS: Final = {
    "NORM": 9069,
    "MI": 2532,
    "STTC": 2400,
    "CD": 1708,
    "CD+MI": 1297,
    "STTC+HYP": 781,
    "STTC+MI": 599,
    "HYP": 535,
    "STTC+CD": 471,
    "": 411,
    "NORM+CD": 407,
    "STTC+MI+HYP": 361,
    "CD+HYP": 300,
    "STTC+CD+MI": 223,
    "STTC+CD+HYP": 211,
    "MI+HYP": 183,
    "STTC+CD+MI+HYP": 156,
    "CD+MI+HYP": 117,
    "NORM+STTC": 28,
    "NORM+STTC+CD": 5,
    "NORM+CD+HYP": 2,
    "NORM+HYP": 2,
    "NORM+CD+MI+HYP": 1,
}

# Records per statement within each superclass, as published for PTB-XL 1.0.1 (Wagner et al. 2020).
_OCCURRENCES: Final = {
    "NORM": {"NORM": 1},
    "STTC": {
        "NDT": 1829, "ISC_": 1275, "NST_": 770, "ISCAL": 660, "ISCIN": 219, "DIG": 181, "ISCIL": 179,
        "ISCAS": 170, "ISCLA": 142, "LNGQT": 118, "ANEUR": 104, "EL": 97, "ISCAN": 44,
    },
    "CD": {
        "LAFB": 1626, "IRBBB": 1118, "1AVB": 797, "IVCD": 789, "CRBBB": 542, "CLBBB": 536, "LPFB": 177,
        "WPW": 80, "ILBBB": 77, "3AVB": 16, "2AVB": 14,
    },
    "MI": {
        "IMI": 2685, "ASMI": 2363, "ILMI": 479, "AMI": 354, "ALMI": 290, "INJAS": 215, "LMI": 201,
        "INJAL": 148, "IPLMI": 51, "IPMI": 33, "INJIN": 18, "INJLA": 17, "PMI": 17, "INJIL": 15,
    },
    "HYP": {"LVH": 2137, "LAO/LAE": 427, "RVH": 126, "RAO/RAE": 99, "SEHYP": 30},
}  # fmt: skip
# If a normal record of PTB-XL has a conduction statement, it is one of these harmless ones.
_HARMLESS: Final = {"IRBBB": 6, "1AVB": 3, "IVCD": 1}
# A heart has at most one statement of each of these sets.
_EXCLUSIVE: Final = (
    {"CLBBB", "ILBBB", "CRBBB", "IRBBB", "IVCD", "WPW"},
    {"CLBBB", "ILBBB", "LAFB", "LPFB", "WPW"},
    {"1AVB", "2AVB", "3AVB", "WPW"},
)
_CLASSES_BY_FREQUENCY: Final = ("NORM", "MI", "STTC", "CD", "HYP")
# Share of the patients of a class who have a second statement of that class.
_SECOND: Final = {"NORM": 0.0, "STTC": 0.15, "CD": 0.25, "MI": 0.10, "HYP": 0.12}

_LIKELIHOODS: Final = np.array([15.0, 35.0, 50.0, 80.0, 100.0])
_LIKELIHOOD_SHARES: Final = {
    "NORM": (0.005, 0.0, 0.055, 0.195, 0.745),
    "STTC": (0.01, 0.01, 0.09, 0.01, 0.88),
    "CD": (0.005, 0.0, 0.015, 0.02, 0.96),
    "MI": (0.20, 0.04, 0.18, 0.04, 0.54),
    "HYP": (0.07, 0.05, 0.20, 0.05, 0.63),
}

# Records of PTB-XL 1.0.3 per rhythm, for normal records (True) and others; normal records have sinus rhythms only.
_RHYTHM_SHARES: Final = {
    True: {"SR": 8300, "SARRH": 460, "SBRAD": 410, "STACH": 340},
    False: {
        "SR": 8448, "AFIB": 1514, "STACH": 486, "SARRH": 312, "SBRAD": 227, "PACE": 294, "SVARR": 157,
        "BIGU": 82, "AFLT": 73, "SVTAC": 27, "PSVT": 24, "TRIGU": 20,
    },
}  # fmt: skip
_EXTRA_SHARES: Final = {"PVC": 0.050, "PAC": 0.018}
_DEVICES: Final = {"CS100    3": 681, "AT-6 C 5.5": 558, "CS-12   E": 491, "CS-12": 439, "AT-6     6": 240}


@dataclass
class Population:
    """Invented people and their records.

    Attributes
    ----------
    table : pandas.DataFrame
        One row per record with the columns of ``ptbxl_database.csv``; the index is ``ecg_id``.
    hearts : Hearts
        One per record.
    beats : Beats
    noise : Noise
    """

    table: pd.DataFrame
    hearts: Hearts
    beats: Beats
    noise: Noise


def populate(records: int, seed: int) -> Population:
    """Invent people, their hearts and the noise of their records; the result does not depend on the sampling rate.

    Parameters
    ----------
    records : int
    seed : int

    Returns
    -------
    Population
    """
    import pandas as pd

    rng = np.random.default_rng([seed, VERSION])
    patient = _patients(rng, records)
    people = patient[-1] + 1
    combination = _quota(rng, people, _COMBINATIONS)
    normal = np.array(["NORM" in name for name in combination])

    age = np.where(normal, rng.normal(50, 17, people), rng.normal(68, 13, people)).clip(17, 96).round()
    male = rng.random(people) < np.where(normal, 0.46, 0.60)
    hearts = healthy(rng, age, male)
    statements = _diagnose(rng, hearts, combination)
    rhythm = _rhythms(rng, combination, statements)
    infarcted = np.array(["MI" in name for name in combination])
    invented = pd.DataFrame({"age": age, "male": male, "infarcted": infarcted, "fold": _folds(rng, statements)})
    paced = np.flatnonzero(rhythm == "PACE")
    afflict(hearts, paced, "PACE", np.ones(len(paced)), rng)

    hearts, statements, rhythm = hearts.take(patient), [dict(statements[p]) for p in patient], rhythm[patient]
    hearts.leads *= rng.lognormal(0, 0.04, (records, 8, 1))
    extra = np.where(
        np.isin(rhythm, ("SR", "SBRAD", "STACH", "SARRH")),
        rng.choice([*_EXTRA_SHARES, ""], records, p=[*_EXTRA_SHARES.values(), 1 - sum(_EXTRA_SHARES.values())]),
        "",
    )
    block = np.array([next((name for name in ("2AVB", "3AVB") if name in codes), "") for codes in statements])
    beats = beat(rng, hearts, rhythm, extra, block)
    noise = Noise(
        wander=rng.lognormal(np.log(0.030), 0.6, records),
        muscle=rng.lognormal(np.log(0.0055), 0.6, records),
        mains=rng.lognormal(np.log(0.001), 0.9, records),
    )
    _describe(rng, statements, hearts, rhythm, extra)
    table = _table(rng, patient, invented, statements, hearts, noise, extra, rhythm)
    return Population(table, hearts, beats, noise)


def _patients(rng: np.random.Generator, records: int) -> NDArray[np.int64]:
    """Index of the patient of each record, ascending; a patient has 1 to 6 records, as in PTB-XL."""
    counts = rng.choice(np.arange(1, 7), records, p=np.array([16758, 1590, 350, 99, 43, 29]) / 18869)
    return np.repeat(np.arange(records), counts)[:records]


def _quota(rng: np.random.Generator, n: int, shares: dict[str, int]) -> NDArray[np.str_]:
    """Draw n names in random order; each occurs in proportion to its share, up to rounding."""
    cumulative = np.cumsum(list(shares.values())) / sum(shares.values())
    place = (rng.permutation(n) + rng.random()) / n
    return np.array(list(shares))[np.searchsorted(cumulative, place, side="right")]


def _diagnose(rng: np.random.Generator, hearts: Hearts, combination: NDArray[np.str_]) -> list[dict[str, float]]:
    """Choose statements and likelihoods for combinations of superclasses, and change the hearts accordingly."""
    statements: list[dict[str, float]] = [{} for _ in combination]
    degrees: dict[str, list[tuple[int, float]]] = {}
    for row, combined in enumerate(combination):
        superclasses = combined.split("+") if combined else []
        for superclass in superclasses:
            harmless = "NORM" in superclasses and superclass == "CD"
            occurrences = _HARMLESS if harmless else _OCCURRENCES[superclass]
            chosen = statements[row]
            for _ in range(1 + int(not harmless and rng.random() < _SECOND[superclass])):
                left = {
                    name: count
                    for name, count in occurrences.items()
                    if name not in chosen and not any(name in group and group & chosen.keys() for group in _EXCLUSIVE)
                }
                if not left:
                    break
                name = _pick(rng, left)
                likelihood = float(rng.choice(_LIKELIHOODS, p=_LIKELIHOOD_SHARES[superclass]))
                chosen[name] = likelihood
                # A doubtful diagnosis is a mild one.
                degree = rng.uniform(0.4, 1.3) * (0.45 + 0.55 * likelihood / 100)
                degrees.setdefault(name, []).append((row, 0.5 * degree if "NORM" in superclasses else degree))
    for name in LESIONS:
        if name in degrees:
            rows, severity = (np.array(values) for values in zip(*degrees[name], strict=True))
            afflict(hearts, rows, name, severity, rng)
    return statements


def _pick(rng: np.random.Generator, shares: dict[str, int]) -> str:
    cumulative = np.cumsum(list(shares.values()))
    return list(shares)[int(np.searchsorted(cumulative, rng.uniform(0, cumulative[-1]), side="right"))]


def _rhythms(
    rng: np.random.Generator, combination: NDArray[np.str_], statements: list[dict[str, float]]
) -> NDArray[np.str_]:
    """Draw a rhythm that is possible with each heart's superclasses and conduction."""
    rhythm = np.array([_pick(rng, _RHYTHM_SHARES["NORM" in combined]) for combined in combination], dtype="U8")
    need_p_wave = {"1AVB", "2AVB", "3AVB", "WPW", "LAO/LAE", "RAO/RAE"}
    sinus = np.array([bool(need_p_wave & codes.keys()) for codes in statements])
    rhythm[sinus & ~np.isin(rhythm, ("SR", "SBRAD", "STACH", "SARRH"))] = "SR"
    # A paced QRS hides every other diagnosis, so only records without a diagnosis are paced.
    undiagnosed = combination == ""
    rhythm[~undiagnosed & (rhythm == "PACE")] = "SR"
    rhythm[undiagnosed & (rng.random(len(rhythm)) < 0.6)] = "PACE"
    return rhythm


def _describe(
    rng: np.random.Generator,
    statements: list[dict[str, float]],
    hearts: Hearts,
    rhythm: NDArray[np.str_],
    extra: NDArray[np.str_],
) -> None:
    """Add the form and rhythm statements of each record, with likelihood 0, as in PTB-XL."""
    r, s, st, t = (hearts.amplitude(wave) for wave in (R, S, ST, T))
    voltage = np.abs(r).max(axis=1) + np.abs(s[:, 3])
    lateral = [0, 1, 6, 7]
    found = {
        "ABQRS": 0.35,
        "QWAVE": 0.18,
        "VCLVH": 0.40,
        "LPR": 0.35,
        "STD_": (st[:, lateral].mean(axis=1) < -0.05) * 0.45,
        "STE_": (st.max(axis=1) > 0.25) * 0.06,
        "INVT": (t[:, lateral].mean(axis=1) < -0.08) * 0.25,
        "LOWT": (np.abs(t[:, lateral]).max(axis=1) < 0.15) * 0.30,
        "NT_": (t[:, lateral].mean(axis=1) < 0.05) * 0.12,
        "TAB_": (t[:, lateral].mean(axis=1) < -0.02) * 0.01,
        "LVOLT": (voltage < 1.1) * 0.5,
        "HVOLT": (voltage > 4.5) * 0.2,
    }
    chance = rng.random((len(found), len(statements)))
    drawn = {name: row < share for (name, share), row in zip(found.items(), chance, strict=True)}
    for index, codes in enumerate(statements):
        classes = {SUPERCLASS_OF[name] for name in codes}
        possible = {
            "ABQRS": bool(classes & {"MI", "HYP", "CD"}) and "NORM" not in classes,
            "QWAVE": "MI" in classes,
            "VCLVH": "LVH" in codes,
            "LPR": bool({"1AVB", "2AVB"} & codes.keys()),
        }
        codes.update({name: 0.0 for name, holds in drawn.items() if holds[index] and possible.get(name, True)})
        if extra[index]:
            codes["PRC(S)" if rng.random() < 0.02 else str(extra[index])] = 0.0
        codes[str(rhythm[index])] = 0.0


def _table(
    rng: np.random.Generator,
    patient: NDArray[np.int64],
    people: pd.DataFrame,
    statements: list[dict[str, float]],
    hearts: Hearts,
    noise: Noise,
    extra: NDArray[np.str_],
    rhythm: NDArray[np.str_],
) -> pd.DataFrame:
    """All 28 columns of ``ptbxl_database.csv``. `people` has one row per patient, all others one per record."""
    import pandas as pd

    n, ids = len(patient), np.arange(1, len(patient) + 1)
    male = people["male"].to_numpy()
    height = np.where(male, rng.normal(174, 8, len(people)), rng.normal(162, 7, len(people))).round()
    weight = (rng.lognormal(np.log(25.5), 0.15, len(people)) * (height / 100) ** 2).round()
    seconds = np.sort(rng.integers(0, 12 * 365 * 86_400, n))
    dates = pd.Timestamp("1984-10-01") + pd.to_timedelta(seconds, unit="s")
    axis = np.rad2deg(np.arctan2(*hearts.amplitude(R)[:, 1::-1].T * [[1.15], [1.0]]))
    amount = rng.choice(["", "1", "2"], n)
    human = rng.random(n) < 0.75
    age = people["age"].to_numpy()[patient]
    stadium = rng.choice(["unknown", "Stadium III", "Stadium II-III", "Stadium I", "Stadium II"], n,
                         p=[0.58, 0.2, 0.15, 0.05, 0.02])  # fmt: skip

    def where(condition: Any, values: Any) -> pd.Series:
        return pd.Series(values, index=ids, dtype=object).where(np.asarray(condition))

    columns = {
        "patient_id": (rng.permutation(len(people)) + 1.0)[patient],
        "age": np.where(age > 89, 300.0, age),
        "sex": (~male).astype(int)[patient],
        "height": where(rng.random(n) < 0.32, height[patient]),
        "weight": where(rng.random(n) < 0.43, weight[patient]),
        "nurse": where(rng.random(n) < 0.93, rng.integers(0, 12, n).astype(float)),
        "site": rng.choice([0.0, 1.0, 2.0, 3.0], n, p=[0.45, 0.3, 0.2, 0.05]),
        "device": rng.choice(list(_DEVICES), n, p=np.array(list(_DEVICES.values())) / sum(_DEVICES.values())),
        "recording_date": dates.strftime("%Y-%m-%d %H:%M:%S"),
        "report": ["synthetic: " + ", ".join(codes) for codes in statements],
        "scp_codes": [repr(codes) for codes in statements],
        "heart_axis": where(rng.random(n) < 0.53, np.select([axis < -30, axis < 0, axis > 120, axis > 90],
                                                            ["ALAD", "LAD", "ARAD", "RAD"], "MID")),
        "infarction_stadium1": where(people["infarcted"].to_numpy()[patient], stadium),
        "infarction_stadium2": None,
        "validated_by": where(human, rng.integers(0, 2, n).astype(float)),
        "second_opinion": rng.random(n) < 0.03,
        "initial_autogenerated_report": ~human,
        "validated_by_human": human,
        "baseline_drift": where(noise.wander > 0.07, " , alles"),
        "static_noise": where(noise.muscle > 0.012, " , alles,  "),
        "burst_noise": None,
        "electrodes_problems": None,
        "extra_beats": where(extra != "", np.char.add(amount, np.where(extra == "PVC", "VES", "SVES"))),
        "pacemaker": where(rhythm == "PACE", "ja, pacemaker"),
        "strat_fold": people["fold"].to_numpy()[patient],
        "filename_lr": [f"records100/{number // 1000 * 1000:05d}/{number:05d}_lr" for number in ids],
        "filename_hr": [f"records500/{number // 1000 * 1000:05d}/{number:05d}_hr" for number in ids],
    }  # fmt: skip
    return pd.DataFrame(columns, index=pd.Index(ids, name="ecg_id"))


def _folds(rng: np.random.Generator, statements: list[dict[str, float]]) -> NDArray[np.int64]:
    """Fold 1-10 of each patient: each superclass is spread evenly over the folds, the rarest most evenly."""
    certain = [{SUPERCLASS_OF[name] for name, share in codes.items() if share >= 50} for codes in statements]
    keys = np.array([[name in classes for classes in certain] for name in _CLASSES_BY_FREQUENCY])
    order = np.lexsort(np.vstack([rng.random(len(statements)), keys]))
    folds = np.empty(len(statements), np.int64)
    folds[order] = np.arange(len(statements)) % 10 + 1
    return folds


def generate(
    folder: str | Path,
    records: int = 800,
    seed: int = 0,
    sampling_rate: int = 100,
    progress: bool = False,
) -> None:
    """Write synthetic records as a folder in the official layout of PTB-XL.

    Results on these records have no clinical meaning. The same arguments give the same bytes on the same machine
    and numpy version, with any number of threads. Another number of `records` gives other people. Another
    `sampling_rate` gives the same people, statements and beats, with other noise.

    Parameters
    ----------
    folder : path
        Must not exist yet, or be empty.
    records : int
        1 to 99,999 records of 10 s.
    seed : int
        At least 0.
    sampling_rate : {100, 500}
        In Hz: writes ``records100`` or ``records500``.
    progress : bool
        Show a progress bar on a terminal.

    Raises
    ------
    UserError
        If an argument is out of its range or the folder is not empty.
    """
    _check(records, seed, sampling_rate)
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not empty: choose a new folder for the synthetic records.")
    folder.mkdir(parents=True, exist_ok=True)
    population = populate(records, seed)
    names = population.table["filename_lr" if sampling_rate == 100 else "filename_hr"]
    for sub in sorted({str(Path(name).parent) for name in names}):
        (folder / sub).mkdir(parents=True)
    with tqdm(total=records, desc="synthetic ECGs", unit="record", disable=None if progress else True) as bar:
        for block, start in enumerate(range(0, records, _BLOCK)):
            rows = np.arange(start, min(start + _BLOCK, records))
            rng = np.random.default_rng([seed, VERSION, block])
            signals = record(
                rng,
                population.hearts.take(rows),
                population.beats.take(rows),
                population.noise.take(rows),
                sampling_rate,
            )
            for name, signal in zip(names.iloc[rows], signals, strict=True):
                _write(folder / name, signal, sampling_rate)
            bar.update(len(rows))
    _write_statements(folder / STATEMENTS)
    details = {"version": VERSION, "records": records, "seed": seed, "sampling_rate": sampling_rate}
    (folder / "README.txt").write_text(_NOTICE.format(**details), encoding="utf-8")
    (folder / "LICENSE.txt").write_text(_LICENSE, encoding="utf-8")
    population.table.to_csv(folder / DATABASE)
    (folder / _SUMS).write_text(_sums(folder), encoding="ascii")


def _sums(folder: Path) -> str:
    """Hashes of the tables, as ``sha256sum`` writes them."""
    tables = (folder / name for name in (DATABASE, STATEMENTS) if (folder / name).is_file())
    return "".join(f"{hashlib.sha256(table.read_bytes()).hexdigest()}  {table.name}\n" for table in tables)


def _check(records: int, seed: int, sampling_rate: int) -> None:
    if not 1 <= records <= MOST_RECORDS:
        raise UserError(
            f"Config key 'dataset.records' is {records}: give a number from 1 to {MOST_RECORDS} for the synthetic "
            "dataset."
        )
    if seed < 0:
        raise UserError(f"Config key 'dataset.generator_seed' is {seed}: give a whole number of at least 0.")
    if sampling_rate not in (100, 500):
        raise UserError(
            f"Config key 'dataset.sampling_rate' is {sampling_rate}: the synthetic data set has 100 or 500 Hz."
        )


def _write(path: Path, signal: NDArray[np.int16], sampling_rate: int) -> None:
    """Write a WFDB record in format 16 with 1000 steps per mV; `wfdb.wrsamp` would take a hundred times as long."""
    path.with_name(path.name + ".dat").write_bytes(signal.astype("<i2").tobytes())
    checksums = signal.sum(axis=0, dtype=np.int64) % 65536
    lines = [f"{path.name} {signal.shape[1]} {sampling_rate} {signal.shape[0]}"]
    lines += [
        f"{path.name}.dat 16 1000.0(0)/mV 16 0 {first} {checksum} 0 {lead}"
        for first, checksum, lead in zip(signal[0], checksums, LEAD_NAMES, strict=True)
    ]
    path.with_name(path.name + ".hea").write_text("\n".join(lines) + "\n", encoding="ascii")


def _write_statements(path: Path) -> None:
    others = [
        "Statement Category",
        "SCP-ECG Statement Description",
        "AHA code",
        "aECG REFID",
        "CDISC Code",
        "DICOM Code",
    ]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        kinds = {"D": "diagnostic", "F": "form", "R": "rhythm"}
        writer.writerow(["", "description", *kinds.values(), "diagnostic_class", "diagnostic_subclass", *others])
        for name, kind, superclass, subclass, description in STATEMENT_TABLE:
            flags = ["1.0" if letter in kind else "" for letter in kinds]
            writer.writerow([name, description, *flags, superclass, subclass, *[""] * len(others)])


class Synthetic(PTBXL):
    """Generated 12-lead ECGs, written as a PTB-XL folder and read like the real one.

    Results on these records have no clinical meaning.

    Parameters
    ----------
    root : path
        Folder for the generated folders; each is named by its options and `VERSION`.
    records : int
        Number of records, 1 to 99,999.
    generator_seed : int
        Seed of the generator; it is independent of the seed of a trial.
    sampling_rate : {100, 500}
        In Hz.
    cache_dir, task, min_likelihood, val_fold, test_fold, train_folds, normalize, on_bad_record, workers
        As in `PTBXL`.

    Raises
    ------
    UserError
        If an argument is out of its range.
    """

    warning = "Synthetic ECGs: these numbers mean nothing clinically."

    def __init__(
        self,
        root: str | Path,
        *,
        cache_dir: str | Path,
        records: Annotated[int, Field(ge=1, le=MOST_RECORDS)] = 800,
        generator_seed: Annotated[int, Field(ge=0)] = 0,
        sampling_rate: Literal[100, 500] = 100,
        labels: LabelSet | list[str] = "superclass",
        min_likelihood: Annotated[float, Field(ge=0, le=100)] = 50,
        val_fold: int | list[int] = 9,
        test_fold: int | list[int] = 10,
        train_folds: list[int] | None = None,
        normalize: Normalization = "none",
        on_bad_record: Literal["raise", "skip"] = "raise",
        workers: Annotated[int, Field(ge=1)] | None = None,
    ) -> None:
        _check(records, generator_seed, sampling_rate)
        self.records = records
        self.generator_seed = generator_seed
        super().__init__(
            Path(root) / f"v{VERSION}-{records}-seed{generator_seed}-{sampling_rate}hz",
            cache_dir=cache_dir,
            sampling_rate=sampling_rate,
            labels=labels,
            min_likelihood=min_likelihood,
            val_fold=val_fold,
            test_fold=test_fold,
            train_folds=train_folds,
            normalize=normalize,
            on_bad_record=on_bad_record,
            workers=workers,
        )

    # All reading begins with one of these two methods, so both generate the folder first.
    @cached_property
    def _statements(self) -> dict[str, _Statement]:
        self._generate()
        return super()._statements

    def _read_records(self) -> Records:
        self._generate()
        return super()._read_records()

    def _generate(self) -> None:
        if (self.root / DATABASE).exists():
            self._check_tables()
            return
        try:
            self.root.parent.mkdir(parents=True, exist_ok=True)
            # Write to a temporary folder and move it, so that no process sees an incomplete folder.
            with tempfile.TemporaryDirectory(prefix=f".{self.root.name}-", dir=self.root.parent) as temporary:
                finished = Path(temporary) / self.root.name
                generate(finished, self.records, self.generator_seed, int(self.sampling_rate), progress=True)
                finished.rename(self.root)
        except OSError as error:
            # If another process was faster, its folder is equal to the byte.
            if not (self.root / DATABASE).exists():
                raise UserError(
                    f"The synthetic records cannot be written to {self.root} ({error.strerror}): remove this folder if "
                    "it exists, or set dataset.root to a folder that you can write to."
                ) from error

    def _check_tables(self) -> None:
        """Refuse tables that have changed since they were generated; the headers have checksums of the signals."""
        sums = self.root / _SUMS
        if not sums.exists():  # generated by an earlier version
            return
        if sums.read_text(encoding="ascii", errors="replace") != _sums(self.root):
            raise UserError(
                f"The tables in {self.root} have changed since they were generated: remove this folder; the next start "
                "generates it again."
            )
