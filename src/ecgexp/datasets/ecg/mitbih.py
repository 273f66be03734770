"""Single beats of the MIT-BIH Arrhythmia Database, in the five classes of the AAMI."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from tqdm import tqdm

from ecgexp.datasets.base import SIGNAL, SignalDataset, Split, SplitName
from ecgexp.datasets.cache import cached_array, create_array
from ecgexp.datasets.ecg.annotations import read_annotations
from ecgexp.datasets.ecg.headers import Problem, named_files
from ecgexp.datasets.ecg.records import RecordError, read_extent, read_leads, read_record
from ecgexp.datasets.files import Sources
from ecgexp.datasets.paths import absent
from ecgexp.datasets.splits import choose_patients, stratified_classes
from ecgexp.errors import UserError, summarised

logger = logging.getLogger(__name__)

SYMBOLS = {"N": "NLRej", "S": "AaJS", "V": "VE", "F": "F", "Q": "/fQ"}
"""Annotation symbols of each class. Other symbols do not mark beats, except for waves of ventricular flutter."""

# The lists of de Chazal et al. 2004; they leave out the recordings with paced beats.
DS1 = (
    "101", "106", "108", "109", "112", "114", "115", "116", "118", "119", "122",
    "124", "201", "203", "205", "207", "208", "209", "215", "220", "223", "230",
)  # fmt: skip
DS2 = (
    "100", "103", "105", "111", "113", "117", "121", "123", "200", "202", "210",
    "212", "213", "214", "219", "221", "222", "228", "231", "232", "233", "234",
)  # fmt: skip
PACED = ("102", "104", "107", "217")
RECORDINGS = tuple(sorted((*DS1, *DS2, *PACED)))
SAME_PATIENT = {"202": "201"}
"""The only patient with two recordings."""

RATE = 125.0  # Hz
LONGEST, PADDED = 187, 192  # most samples of a beat; length with zeros, for nets that take 16 x 12
SPLITS: tuple[SplitName, ...] = ("train", "val", "test")
TEST_FRACTION = 0.2  # as in the published table
FORMAT = 2
"""Part of each key of the cache: raise it when the same files give other beats."""

Fraction = Annotated[float, Field(gt=0, lt=1)]
Seed = Annotated[int, Field(ge=0)]
Limit = Annotated[int, Field(ge=1)]


def cut_beats(signal: NDArray[Any], peaks: NDArray[np.int64]) -> NDArray[np.float32]:
    """Cut the beats of a recording: each begins at its R peak and lasts 1.2 R-R intervals, both ends included.

    A beat has at most 187 samples. It is scaled so that its lowest sample is 0 and its highest 1, and padded with
    zeros to 192. The last peak only ends the interval of the beat before it.

    Parameters
    ----------
    signal : array, (samples,)
        One lead at 125 Hz.
    peaks : int64 array, (beats + 1,)
        Positions of the R peaks in `signal`, in order.

    Returns
    -------
    float32 array, (beats, 192)

    Notes
    -----
    Kachuee et al. describe peaks found by a threshold, and a length of 1.2 times the median interval of 10 s around
    the beat. Their published table differs from this description: it has every annotated beat except the last of each
    recording, and each beat lasts 1.2 times the interval to its own next peak. This function follows the table.
    """
    starts = peaks[:-1]
    lengths = np.minimum(12 * np.diff(peaks) // 10 + 1, len(signal) - starts)
    steps = np.arange(LONGEST)
    inside = steps < lengths[:, None]
    windows = signal[np.minimum(starts[:, None] + steps, len(signal) - 1)]
    low = np.where(inside, windows, np.inf).min(axis=1, keepdims=True)
    span = np.where(inside, windows, -np.inf).max(axis=1, keepdims=True) - low
    scaled = np.where(inside, (windows - low) / np.where(span > 0, span, 1), 0)
    return np.pad(scaled, ((0, 0), (0, PADDED - LONGEST))).astype(np.float32)


@dataclass(frozen=True)
class Beats:
    """Beats that are stored together.

    Attributes
    ----------
    signals : float32 array, (beats, 192, 1)
        From 0 to 1; memory-mapped.
    classes : int64 array, (beats,)
        Index of each beat's class in the label names.
    ids, patients : str array, (beats,)
    """

    signals: NDArray[np.float32]
    classes: NDArray[np.int64]
    ids: NDArray[np.str_]
    patients: NDArray[np.str_]


class _BeatDataset(SignalDataset):
    """Common part of the data sets of beats: one label each, stratified splits, test beats read only on request."""

    unit = "single beats from 0 to 1"
    label_names = tuple(SYMBOLS)
    sampling_rate = RATE
    samples = PADDED

    def __init__(
        self, root: str | Path, cache_dir: str | Path, val_fraction: float, split_seed: int, beats_per_class: int | None
    ) -> None:
        self.root, self.cache_dir = Path(root).expanduser(), Path(cache_dir).expanduser()
        self.val_fraction, self.split_seed, self.beats_per_class = val_fraction, split_seed, beats_per_class
        self._loaded: dict[SplitName, Split] = {}

    @abstractmethod
    def _divided(self, test: bool) -> tuple[Beats, NDArray[np.str_]]:
        """Beats that include the test split, or all other splits, and the name of each beat's split."""

    def prepare(self) -> None:
        """Cut the beats of the train and validation splits, and cache them."""
        self.load("train")
        self.load("val")

    def load(self, split: SplitName) -> Split:
        """Beats of one split, in the order of the recordings.

        Raises
        ------
        UserError
            If a file is missing or damaged, or the split is empty.
        """
        if split not in self._loaded:
            self._loaded[split] = self._select(split)
        return self._loaded[split]

    def summary(self) -> dict[str, Any]:
        """What a run records about its data, JSON-able.

        Returns
        -------
        dict
            ``train``, ``val``, and ``test`` if it has been loaded: ``records`` (beats), ``patients`` and
            ``labels`` (beats per class). ``warning``: see `Dataset`.
        """
        summary = super().summary()
        if "test" in self._loaded:
            summary["test"] = self._counts(self._loaded["test"])
        return {**summary, "warning": self.warning}

    def _select(self, name: SplitName) -> Split:
        beats, splits = self._divided(name == "test")
        rows = np.flatnonzero(splits == name)
        if self.beats_per_class is not None and name != "test":
            rows = self._some(beats.classes, rows)
        if not rows.size:
            raise UserError(f"The {name} split of {self.root} is empty: choose another dataset.val_fraction.")
        targets = np.eye(len(self.label_names), dtype=np.uint8)[beats.classes[rows]]
        split = Split({SIGNAL: beats.signals}, rows, targets, beats.ids[rows], beats.patients[rows])
        counts = self._counts(split)
        labels = ", ".join(f"{label} {count}" for label, count in counts["labels"].items())
        logger.info("%s: %d beats of %d patients: %s", name, counts["records"], counts["patients"], labels)
        for label in (label for label, count in counts["labels"].items() if not count):
            logger.warning("The %s split has no beat of class %s: results for it have no meaning.", name, label)
        return split

    def _some(self, classes: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """At most `beats_per_class` of each class among `rows`."""
        rng = np.random.default_rng(self.split_seed)
        groups = [rows[classes[rows] == label] for label in range(len(self.label_names))]
        return np.sort(np.concatenate([rng.permutation(group)[: self.beats_per_class] for group in groups]))


class MITBIH(_BeatDataset):
    """Beats of the MIT-BIH Arrhythmia Database, cut as Kachuee et al. 2018 did, with splits by beat or by patient.

    Each of the 48 recordings is resampled to 125 Hz. Each annotated beat is 192 samples of one lead, from 0 to 1
    without unit (see `cut_beats`). The classes are those of ANSI/AAMI EC57:

    ===== ================================================================================== ======= ========
    class symbols in the annotations                                                         beats   share
    ===== ================================================================================== ======= ========
    N     N normal, L and R bundle branch block, e atrial escape, j nodal escape             90,589  82.77 %
    S     A atrial, a aberrated atrial, J nodal and S supraventricular premature beat         2,779   2.54 %
    V     V premature ventricular contraction, E ventricular escape                           7,236   6.61 %
    F     F fusion of ventricular and normal beat                                               803   0.73 %
    Q     / paced, f fusion of paced and normal beat, Q unclassifiable                        8,039   7.35 %
    ===== ================================================================================== ======= ========

    These 109,446 beats have the same number in each class as the published table. The database annotates 109,494; the
    last beat of each recording is left out because no interval to a next beat exists. The other symbols mark rhythms,
    noise, isolated artefacts, non-conducted P waves, or (!) single waves of ventricular flutter.

    Parameters
    ----------
    root : path
        The folder with the ``.hea``, ``.dat`` and ``.atr`` files.
    cache_dir : path
        Folder for the cache of beats.
    split : {'interpatient', 'random'}
        'interpatient': the test split is DS2 of de Chazal et al. 2004. DS1 is divided by patient into training and
        validation so that each class has its share in both, as far as possible. The recordings with paced beats (102,
        104, 107 and 217) are left out. Recordings 201 (DS1) and 202 (DS2) are from one patient; the published lists
        have this patient in both sets. 'random': all recordings are divided by beat, stratified by class, with a fifth
        for the test, as in the published table. Then beats of one patient are in all splits, so all results are too
        good.
    val_fraction : float
        Validation's share of the training and validation data.
    split_seed : int
        Same seed, same splits.
    lead : str or list of str
        Lead names in order of preference: each recording gives the first of them that it has. Recordings 102 and 104
        have no MLII, because surgical dressings left no place for its electrodes. A recording with none of the
        leads is left out and listed in `summary`.
    beats_per_class : int, optional
        At most so many beats of each class in training, and as many in validation; the test split is complete.

    Raises
    ------
    UserError
        If no lead is named.

    References
    ----------
    Moody and Mark 2001, The impact of the MIT-BIH Arrhythmia Database, IEEE Eng Med Biol 20(3). Kachuee, Fazeli,
    Sarrafzadeh 2018, ECG heartbeat classification: a deep transferable representation, arXiv 1805.00794. De Chazal,
    O'Dwyer, Reilly 2004, Automatic classification of heartbeats using ECG morphology and heartbeat interval
    features, IEEE Trans Biomed Eng 51(7).
    """

    def __init__(
        self,
        root: str | Path,
        *,
        cache_dir: str | Path,
        split: Literal["interpatient", "random"] = "interpatient",
        val_fraction: Fraction = 0.2,
        split_seed: Seed = 0,
        lead: str | list[str] = ["MLII", "V5"],  # noqa: B006 - only read
        beats_per_class: Limit | None = None,
    ) -> None:
        super().__init__(root, cache_dir, val_fraction, split_seed, beats_per_class)
        self.split = split
        self.leads = (lead,) if isinstance(lead, str) else tuple(lead)
        if not self.leads:
            raise UserError("Config key 'dataset.lead' names no lead: write for example dataset.lead=MLII.")
        self.lead_names = self.leads[:1]
        self._stored: dict[tuple[str, ...], tuple[Beats, dict[str, Any]]] = {}

    @property
    def warning(self) -> str:  # type: ignore[override]
        """How the split affects every result."""
        if self.split == "random":
            return (
                "Random split: beats of one patient are in training, validation and test, so all results are too good; "
                "dataset.split=interpatient separates the patients."
            )
        return (
            "Inter-patient split: recordings 201 (DS1: training or validation) and 202 (DS2: test) are from one "
            "patient, as in the published lists."
        )

    def summary(self) -> dict[str, Any]:
        """What a run records about its data, JSON-able.

        Returns
        -------
        dict
            ``train``, ``val``, and ``test`` if it has been loaded: ``records`` (beats), ``patients`` and
            ``labels`` (beats per class). ``recordings``: names by split; for the random split all are in each.
            ``shared_patients``: patients in the test split and in another. ``leads``: lead by recording, for those
            without the first wanted lead; ``left_out``: recordings with none of the wanted leads; both among the
            recordings that were read. ``warning``: see `Dataset`.
        """
        used = {
            name: sorted({one.partition("/")[0] for one in self.load(name).ids.tolist()}) for name in ("train", "val")
        }
        leads = {one: lead for _, facts in self._stored.values() for one, lead in facts["leads"].items()}
        used["test"] = [one for one in self._recordings(test=True) if leads.get(one) != ""]
        patients = {name: {_patient(one) for one in names} for name, names in used.items()}
        return {
            **super().summary(),
            "recordings": used,
            "shared_patients": sorted(patients["test"] & (patients["train"] | patients["val"])),
            "leads": {one: lead for one, lead in leads.items() if lead not in ("", self.leads[0])},
            "left_out": [one for one, lead in leads.items() if not lead],
        }

    def _recordings(self, test: bool) -> tuple[str, ...]:
        """Recordings to read for the test split, or for the other splits."""
        if self.split == "random":
            return RECORDINGS
        return DS2 if test else DS1

    def _divided(self, test: bool) -> tuple[Beats, NDArray[np.str_]]:
        beats = self._read(self._recordings(test))
        shares = [1 - self.val_fraction, self.val_fraction]
        if self.split == "random":
            shares = [(1 - TEST_FRACTION) * share for share in shares] + [TEST_FRACTION]
            part = stratified_classes(beats.classes, shares, self.split_seed)
        elif test:
            part = np.full(len(beats.classes), SPLITS.index("test"))
        else:
            chosen = choose_patients(beats.classes, beats.patients, self.val_fraction, self.split_seed)
            part = chosen.astype(np.int64)
        return beats, np.array(SPLITS)[part]

    def _read(self, recordings: tuple[str, ...]) -> Beats:
        """Beats of recordings, from the cache; they are cut first if the cache lacks them."""
        if recordings not in self._stored:
            if not self.root.is_dir():
                raise UserError(
                    f"The folder {absent(self.root)}: download the database with `make data DATASET=mitbih`, "
                    "or set dataset.root to your copy."
                )
            sources = Sources(self.root, recordings, self.cache_dir, (".hea", ".atr"), {".hea": named_files})
            settings = ["beats", FORMAT, self.leads]
            signals, facts = cached_array(self.cache_dir, sources, settings, lambda path: self._cut(path, recordings))
            places = [(recording, place) for recording, found in facts["places"].items() for place in found]
            ids = np.array([f"{recording}/{place}" for recording, place in places])
            patients = np.array([_patient(recording) for recording, _ in places])
            others = [f"{one} ({lead or 'left out'})" for one, lead in facts["leads"].items() if lead != self.leads[0]]
            if others:
                logger.info("Recordings without lead %s: %s.", self.leads[0], ", ".join(others))
            self._stored[recordings] = Beats(signals, np.array(facts["classes"]), ids, patients), facts
        return self._stored[recordings][0]

    def _cut(self, path: Path, recordings: Sequence[str]) -> dict[str, Any]:
        """Write the beats of recordings to a file; return their places, classes and leads."""
        leads = {recording: self._lead_of(recording) for recording in recordings}
        annotations = {recording: read_beats(self.root / recording) for recording, lead in leads.items() if lead}
        if not annotations:
            raise UserError(
                f"No recording in {self.root} has a lead {' or '.join(self.leads)}: dataset.lead may be MLII, V1, V2, "
                "V4, V5, or a list of them."
            )
        # The last beat is left out: no interval to a next beat exists.
        places = {recording: found[:-1].tolist() for recording, (found, _, _) in annotations.items()}
        classes = [label for _, labels, _ in annotations.values() for label in labels[:-1].tolist()]
        array = create_array(path, (len(classes), PADDED, 1))
        logger.info("Cutting %d beats of %s into the cache %s.", len(classes), self.root, self.cache_dir)
        end = 0
        for recording in tqdm(annotations, desc="cutting beats", unit="recording", disable=None):
            found, _, rate = annotations[recording]
            reading = read_record(self.root / recording, lead_names=[leads[recording]], sampling_rate=RATE)
            peaks = np.minimum(_at(found, rate), len(reading.signal) - 1)
            start, end = end, end + len(peaks) - 1
            array[start:end, :, 0] = cut_beats(reading.signal[:, 0], peaks)
        array.flush()
        return {"places": places, "classes": classes, "leads": leads}

    def _lead_of(self, recording: str) -> str:
        """The first wanted lead that a recording has; '' for none."""
        there = {name.casefold() for name in read_leads(self.root / recording)}
        return next((lead for lead in self.leads if lead.casefold() in there), "")


class MITBIHTable(_BeatDataset):
    """The same beats as published by Kachuee et al.: two tables with 187 samples and a class in each row.

    Beats are padded with zeros to 192 samples. The published split is by beat, and the tables do not name the patients.

    Parameters
    ----------
    root : path
        The folder of the tables.
    cache_dir : path
        Folder for the cache of beats.
    train, test : str
        The tables, in `root`: CSV without a header, or parquet, with 188 columns. The class, 0 to 4 for N, S, V, F
        and Q, is in the column ``target``, or else in the last column. The training table is divided into training
        and validation, stratified by class.
    val_fraction, split_seed, beats_per_class
        As in `MITBIH`.

    References
    ----------
    Kachuee, Fazeli, Sarrafzadeh 2018, arXiv 1805.00794; https://www.kaggle.com/datasets/shayanfazeli/heartbeat.
    """

    lead_names = ("MLII",)
    warning = (
        "Published split: beats of one patient are in training, validation and test, so all results are too good; "
        "intervals count each beat as a separate patient, so they are too narrow."
    )

    def __init__(
        self,
        root: str | Path,
        *,
        cache_dir: str | Path,
        train: str = "mitbih_train.csv",
        test: str = "mitbih_test.csv",
        val_fraction: Fraction = 0.2,
        split_seed: Seed = 0,
        beats_per_class: Limit | None = None,
    ) -> None:
        super().__init__(root, cache_dir, val_fraction, split_seed, beats_per_class)
        self.files = {"train": train, "test": test}

    def _divided(self, test: bool) -> tuple[Beats, NDArray[np.str_]]:
        name = "test" if test else "train"
        table = self.root / self.files[name]
        if not table.is_file():
            raise UserError(f"The table {absent(table)}: put it there, or name another table with dataset.{name}.")
        sources = Sources(self.root, [self.files[name]], self.cache_dir, ("",))
        settings = ["table", FORMAT]
        signals, facts = cached_array(self.cache_dir, sources, settings, lambda path: _read_table(table, path))
        classes = np.array(facts["classes"])
        ids = np.array([f"{name}/{row}" for row in range(len(classes))])
        beats = Beats(signals, classes, ids, ids)
        if test:
            return beats, np.full(len(classes), "test")
        part = stratified_classes(classes, [1 - self.val_fraction, self.val_fraction], self.split_seed)
        return beats, np.array(SPLITS)[part]


def read_beats(path: Path) -> tuple[NDArray[np.int64], NDArray[np.int64], float]:
    """Read the annotated beats of a recording: their samples, their classes (indices in `SYMBOLS`), and the rate in Hz.

    Raises
    ------
    RecordError
        If the annotation file is missing or damaged, or if it has fewer than two beats, two beats at one sample, or
        beats after the end of the recording.
    """
    frames, rate = read_extent(path)
    name = f"{path.name}.atr"
    try:
        found = read_annotations(path.with_name(name))
    except Problem as problem:
        raise RecordError(path, str(problem)) from problem.__cause__
    finer = round((found.rate or rate) / rate)  # annotations may count samples while the record counts frames
    if not finer or not np.isclose(rate * finer, found.rate or rate, rtol=1e-3):
        raise RecordError(path, f"its annotation file {name} is for {found.rate:g} Hz, its header for {rate:g} Hz")
    known = {symbol: label for label, symbols in enumerate(SYMBOLS.values()) for symbol in symbols}
    classes = np.array([known.get(symbol, -1) for symbol in found.symbols.tolist()], dtype=np.int64)
    beats, classes = found.samples[classes >= 0], classes[classes >= 0]
    if len(beats) < 2:
        raise RecordError(path, "its annotation file has fewer than two beats")
    length, rate = frames * finer, found.rate or rate
    late = int((beats >= length).sum())
    if late:
        raise RecordError(
            path,
            f"its annotation file {name} has {late} of {len(beats)} beats after the end of the recording, the last "
            f"one at sample {beats[-1]} of {length}",
        )
    close = beats[1:][np.diff(_at(beats, rate)) == 0]
    if close.size:
        raise RecordError(path, f"its annotation file {name} has two beats at sample {close[0]}")
    return beats, classes, rate


def _at(samples: NDArray[np.int64], rate: float) -> NDArray[np.int64]:
    """Positions at 125 Hz of samples at another rate."""
    return np.rint(samples * (RATE / rate)).astype(np.int64)


def _read_table(table: Path, path: Path) -> dict[str, Any]:
    """Write the beats of a published table to a file; return their classes."""
    import pandas as pd

    try:
        read = pd.read_csv(table, header=None) if table.suffix == ".csv" else pd.read_parquet(table)
        target = read["target"] if "target" in read else read.iloc[:, -1]
        classes = target.to_numpy(dtype=np.float64)
        values = read.drop(columns=target.name).to_numpy(dtype=np.float32)
    except Exception as error:  # a damaged parquet file may raise any exception
        raise UserError(f"The table {table} cannot be read ({summarised(error)}): restore it.") from error
    if values.shape[1] != LONGEST:
        raise UserError(
            f"The table {table} has {values.shape[1] + 1} columns where {LONGEST} samples and a class are expected: "
            "use the published table."
        )
    wrong = ~np.isin(classes, range(len(SYMBOLS))) | ~np.isfinite(values).all(axis=1)
    if wrong.any():
        raise UserError(
            f"Row {wrong.argmax() + 1} of the table {table} is not a beat: its class must be 0 to {len(SYMBOLS) - 1}, "
            "and its samples must be numbers."
        )
    array = create_array(path, (len(values), PADDED, 1))
    array[:, :LONGEST, 0] = values
    array.flush()
    return {"classes": classes.astype(int).tolist()}


def _patient(recording: str) -> str:
    return SAME_PATIENT.get(recording, recording)
