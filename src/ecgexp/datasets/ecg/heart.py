"""A dipole model of the heart: it turns hearts with diagnoses into 12-lead ECGs.

Everything here is synthetic. Signals of this model, and results on them, have no clinical meaning.

A beat is a sum of waves. Each wave is a Gaussian in time multiplied by a fixed vector in space. So the heart is a
moving dipole, and each lead measures one projection of it. The atria (two P waves) and the ventricles (q, R, S, ST, T,
and a late wave for disturbed conduction) follow separate trains of events, which allows AV block and atrial
fibrillation. Hearts are stored as columns of numbers with one row per heart, and all computation runs over many
hearts at once.

Axes are Frank's: x to the patient's left, y to the feet, z to the back. Vectors are in mV, times in seconds.

References
----------
P. E. McSharry, G. D. Clifford, L. Tarassenko, L. A. Smith (2003), A dynamical model for generating synthetic
electrocardiogram signals, IEEE Trans. Biomed. Eng. 50(3), doi 10.1109/TBME.2003.808805: beats as Gaussian
waves, heart-rate variability. R. Sameni, G. D. Clifford, C. Jutten, M. B. Shamsollahi (2007), Multichannel
ECG and noise modeling, EURASIP J. Adv. Signal Process., doi 10.1155/2007/43407: the dipole in space.
G. E. Dower, H. B. Machado, J. A. Osborne (1980), On deriving the electrocardiogram from vectorcardiographic
leads, Clin. Cardiol. 3, 87-95: the projection.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

LEAD_NAMES: Final = ("I", "II", "III", "AVR", "AVL", "AVF", "V1", "V2", "V3", "V4", "V5", "V6")
SECONDS: Final = 10

DOWER: Final = np.array(
    [
        [0.632, -0.235, 0.059],  # I
        [0.235, 1.066, -0.132],  # II
        [-0.515, 0.157, -0.917],  # V1
        [0.044, 0.164, -1.387],  # V2
        [0.882, 0.098, -1.277],  # V3
        [1.213, 0.127, -0.601],  # V4
        [1.125, 0.127, -0.086],  # V5
        [0.831, 0.076, 0.230],  # V6
    ]
)

# The same eight leads from the potentials of RA, LA, LL, V1..V6; chest leads are relative to Wilson's terminal.
ELECTRODES: Final = np.zeros((8, 9))
ELECTRODES[:2, :3] = [[-1, 1, 0], [-1, 0, 1]]
ELECTRODES[2:, :3] = -1 / 3
ELECTRODES[2:, 3:] = np.eye(6)

P_RIGHT, P_LEFT, Q, R, S, LATE, ST, T = range(8)
ATRIAL: Final = slice(P_RIGHT, Q)
VENTRICULAR: Final = slice(Q, T + 1)
QRS: Final = slice(Q, ST)

# A healthy adult: vector (x, y, z), centre, and the widths (standard deviations) before and after the centre.
# Times of P waves count from the middle of the P wave, all others from the peak of R.
_HEALTHY: Final = np.array(
    [
        [0.030, 0.075, -0.045, -0.012, 0.016, 0.016],  # P, right atrium
        [0.055, 0.055, 0.040, 0.016, 0.016, 0.018],  # P, left atrium
        [-0.08, -0.04, -0.33, -0.026, 0.009, 0.009],  # q: the septum
        [1.15, 0.60, 0.25, 0.000, 0.0115, 0.0115],  # R: the free walls
        [-0.14, -0.08, 0.74, 0.021, 0.0105, 0.013],  # S: the base
        [0.00, 0.00, 0.00, 0.048, 0.012, 0.012],  # late: silent
        [0.01, 0.01, -0.03, 0.120, 0.045, 0.060],  # ST
        [0.26, 0.16, -0.27, 0.255, 0.054, 0.039],  # T; its centre follows QT
    ]
)
_QRS_ONSET: Final = -0.045
_P_DURATION: Final = 0.100
_FAR: Final = 1e3
_BEATS: Final = 48
_FLUTTER: Final = 5.0  # Hz; every second to fourth wave is conducted


@dataclass
class Hearts:
    """Hearts and the chests around them, one row each.

    Attributes
    ----------
    vector : (hearts, 8, 3), mV
        Amplitude of each wave in space.
    centre, before, after : (hearts, 8), s
        Time of each wave in the beat, and its width before and after this time (standard deviations).
    pr : (hearts,), s
        Time from the onset of P to the onset of QRS.
    leads : (hearts, 8, 3)
        Projection to I, II, V1..V6: the Dower matrix, changed by the chest and by displaced electrodes.
    """

    vector: Floats
    centre: Floats
    before: Floats
    after: Floats
    pr: Floats
    leads: Floats

    def __len__(self) -> int:
        return len(self.pr)

    def take(self, rows: Rows) -> Hearts:
        """Copies of some rows, in the order of `rows`."""
        return replace(self, **{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def amplitude(self, wave: int) -> Floats:
        """Voltage in I, II, V1..V6 at the peak of a wave: (hearts, 8), mV."""
        return np.einsum("nij,nj->ni", self.leads, self.vector[:, wave])


def _rotate(vector: Floats, degrees: ArrayLike, plane: tuple[int, int]) -> None:
    """Turn vectors (hearts, ..., 3) in place within a plane, from its first axis towards its second."""
    first, second = plane
    angle = np.deg2rad(degrees).reshape(-1, *[1] * (vector.ndim - 2))
    cos, sin = np.cos(angle), np.sin(angle)
    a, b = vector[..., first].copy(), vector[..., second].copy()
    vector[..., first] = cos * a - sin * b
    vector[..., second] = sin * a + cos * b


def healthy(rng: np.random.Generator, age: Floats, male: NDArray[np.bool_]) -> Hearts:
    """Draw healthy hearts for people of a given age and sex.

    Parameters
    ----------
    rng : numpy Generator
    age : (hearts,), years
    male : (hearts,)

    Returns
    -------
    Hearts
    """
    n = len(age)
    vector = np.tile(_HEALTHY[:, :3], (n, 1, 1))
    vector *= rng.lognormal(0, 0.18, (n, 8, 1)) * rng.lognormal(0, 0.10, (n, 8, 3))
    vector += rng.normal(0, [[0.008], [0.008], [0.03], [0.06], [0.06], [0.02], [0.01], [0.02]], (n, 8, 3))
    vector[:, QRS] *= (np.where(male, 1.08, 0.95) * rng.lognormal(0, 0.24, n))[:, None, None]
    vector[:, ST, 2] -= np.where(male, 0.03, 0.0)
    # The axis turns to the left with age.
    _rotate(vector, rng.normal(0, 15, n) - 0.25 * (age - 45), (0, 1))
    _rotate(vector, rng.normal(0, 12, n), (0, 2))
    _rotate(vector[:, T:], rng.normal(0, 10, n), (0, 1))
    _rotate(vector[:, T:], rng.normal(0, 10, n), (0, 2))

    centre, before, after = (np.tile(_HEALTHY[:, column], (n, 1)) for column in (3, 4, 5))
    stretch = rng.normal(np.where(male, 1.03, 0.97), 0.07, n)[:, None]
    for times in (centre, before, after):
        times[:, QRS] *= stretch
        times[:, ATRIAL] *= rng.normal(1, 0.08, (n, 1))
    qt = rng.normal(np.where(male, 0.395, 0.405), 0.018, n)
    centre[:, T] = qt + _QRS_ONSET - 2.3 * after[:, T]
    centre[:, ST] *= qt / 0.4

    leads = np.tile(DOWER, (n, 1, 1)) * rng.lognormal(0, 0.07, (n, 8, 1))
    leads += rng.normal(0, 0.04, (n, 8, 3))
    _misplace(leads, rng.normal(0, 0.25, (n, 6)))
    return Hearts(
        vector,
        centre,
        before,
        after,
        np.clip(rng.normal(0.155 + 0.0003 * (age - 45), 0.018, n), 0.12, 0.2),
        leads,
    )


def _misplace(leads: Floats, shift: Floats) -> None:
    """Move each chest electrode towards its neighbour, as a share of the distance: (hearts, 6)."""
    chest = leads[:, 2:].copy()
    neighbour = np.clip(np.arange(6) + np.where(shift > 0, 1, -1), 0, 5)
    share = np.abs(shift).clip(0, 0.6)[..., None]
    leads[:, 2:] = (1 - share) * chest + share * np.take_along_axis(chest, neighbour[..., None], axis=1)


# --- effects of diagnoses -----------------------------------------------------------------------------------
# Each function changes hearts in place. It takes the degree of the disease (about 0.3 mild to 1.3 severe) and a
# generator for the differences between patients.

Lesion = Callable[[Hearts, Floats, np.random.Generator], None]

_REGIONS: Final = {
    "anterior": (0.20, 0.00, -1.00),
    "anteroseptal": (-0.15, 0.00, -1.00),
    "anterolateral": (0.80, -0.15, -0.60),
    "lateral": (1.00, -0.30, 0.10),
    "inferior": (-0.05, 1.00, 0.15),
    "inferolateral": (0.65, 0.75, 0.15),
    "inferoposterior": (0.00, 0.80, 0.60),
    "inferoposterolateral": (0.50, 0.65, 0.55),
    "posterior": (0.10, 0.10, 1.00),
    "diffuse": (0.75, 0.45, -0.50),
}


def _direction(region: str, n: int, rng: np.random.Generator) -> Floats:
    """Unit vectors towards a region of the ventricle, with a small random deviation: (hearts, 3)."""
    vector = np.asarray(_REGIONS[region]) + rng.normal(0, 0.15, (n, 3))
    return vector / np.linalg.norm(vector, axis=1, keepdims=True)


def _along(vector: Floats, direction: Floats) -> Floats:
    """Components of vectors along unit vectors, (hearts, 1)."""
    return np.einsum("nj,nj->n", vector, direction)[:, None]


def _infarction(region: str, hearts: Hearts, degree: Floats, rng: np.random.Generator) -> None:
    towards, d = _direction(region, len(hearts), rng), degree[:, None]
    vector = hearts.vector
    vector[:, Q] -= 0.42 * d * towards
    vector[:, R] -= (0.55 * d).clip(0, 0.9) * _along(vector[:, R], towards).clip(0) * towards
    for times in (hearts.before, hearts.after):
        times[:, Q] *= 1 + 0.35 * degree
    hearts.centre[:, Q] -= 0.004 * degree
    # From fresh (ST up, T still up) to old (ST almost level, T inverted).
    age = rng.beta(1.3, 1.0, (len(hearts), 1))
    vector[:, ST] += d * (0.27 * (1 - age) + 0.04) * towards
    vector[:, T] += d * (0.10 * (1 - age) - 0.40 * age) * towards


def _injury(region: str, hearts: Hearts, degree: Floats, rng: np.random.Generator) -> None:
    towards, d = _direction(region, len(hearts), rng), degree[:, None]
    hearts.vector[:, ST] -= 0.17 * d * towards
    hearts.vector[:, T] -= 0.12 * d * towards
    hearts.vector[:, Q] -= 0.12 * d * towards


def _ischaemia(region: str, hearts: Hearts, degree: Floats, rng: np.random.Generator) -> None:
    towards, d = _direction(region, len(hearts), rng), degree[:, None]
    share = rng.uniform(0, 1, (len(hearts), 1))
    hearts.vector[:, ST] -= d * 0.11 * share * towards
    hearts.vector[:, T] -= d * (0.25 + 0.28 * (1 - share)) * towards


def _flat_t(hearts: Hearts, degree: Floats, rng: np.random.Generator) -> None:
    towards = _direction("diffuse", len(hearts), rng)
    lost = (0.9 * degree[:, None]).clip(0, 1.4)
    hearts.vector[:, T] -= lost * _along(hearts.vector[:, T], towards) * towards


def _st_change(hearts: Hearts, degree: Floats, rng: np.random.Generator) -> None:
    towards = _direction("diffuse", len(hearts), rng)
    hearts.vector[:, ST] -= 0.09 * degree[:, None] * towards
    hearts.vector[:, T] *= (1 - 0.4 * degree[:, None]).clip(0.2)


def _digitalis(hearts: Hearts, degree: Floats, rng: np.random.Generator) -> None:
    towards = _direction("diffuse", len(hearts), rng)
    hearts.vector[:, ST] -= 0.13 * degree[:, None] * towards
    hearts.centre[:, ST] += 0.02 * degree
    hearts.vector[:, T] *= (1 - 0.5 * degree[:, None]).clip(0.2)
    hearts.centre[:, T] -= 0.025 * degree


def _long_qt(hearts: Hearts, degree: Floats, rng: np.random.Generator) -> None:
    hearts.centre[:, T] += 0.06 + 0.05 * degree
    hearts.before[:, T] *= 1.2


def _electrolytes(hearts: Hearts, degree: Floats, rng: np.random.Generator) -> None:
    tall = rng.random(len(hearts)) < 0.5
    hearts.vector[:, T] *= np.where(tall, 1 + degree, (1 - 0.7 * degree).clip(0.1))[:, None]
    for times in (hearts.before, hearts.after):
        times[:, T] *= np.where(tall, 0.7, 1.15)


def _aneurysm(hearts: Hearts, degree: Floats, rng: np.random.Generator) -> None:
    towards, d = _direction("anterior", len(hearts), rng), degree[:, None]
    hearts.vector[:, Q] -= 0.2 * d * towards
    hearts.vector[:, ST] += 0.16 * d * towards
    hearts.vector[:, T] -= 0.15 * d * towards


def _left_bundle(share: float, hearts: Hearts, degree: Floats, rng: np.random.Generator) -> None:
    # A complete block is complete in every patient; only its signs in the ECG vary.
    block = share * (0.85 + 0.15 * degree.clip(0, 1))
    b, vector = block[:, None], hearts.vector
    late = np.abs(vector[:, R]) * [0.75, 0.25, 0.0] + [0.0, 0.0, 0.75]
    vector[:, Q] = (1 - b) * vector[:, Q] + b * np.array([0.22, 0.10, 0.10])
    vector[:, R, 2] += 0.3 * block
    vector[:, S] *= 1 - 0.4 * b
    vector[:, LATE] += b * late
    for times in (hearts.before, hearts.after):
        times[:, R] *= 1 + 0.6 * block
        times[:, LATE] *= 1 + 0.9 * block
    hearts.centre[:, Q] -= 0.010 * block
    hearts.centre[:, LATE] += 0.010 * block
    against = vector[:, R] + vector[:, LATE]
    vector[:, ST] -= 0.09 * b * against
    vector[:, T] = (1 - b) * vector[:, T] - b * 0.27 * against


def _right_bundle(share: float, hearts: Hearts, degree: Floats, rng: np.random.Generator) -> None:
    block = share * (0.75 + 0.35 * degree)
    b, vector = block[:, None], hearts.vector
    vector[:, LATE] += b * (np.array([-0.50, -0.05, -0.62]) + rng.normal(0, 0.06, (len(hearts), 3)))
    vector[:, S, 2] *= 1 - 0.35 * block.clip(0, 1)
    for times in (hearts.before, hearts.after):
        times[:, LATE] *= 1 + 0.6 * block
    hearts.centre[:, LATE] += 0.004 + 0.016 * block
    vector[:, T] += 0.16 * b * np.array([0.3, 0.0, 1.0])
    vector[:, ST] += 0.03 * b * np.array([0.0, 0.0, 1.0])


def _wide_qrs(hearts: Hearts, degree: Floats, rng: np.random.Generator) -> None:
    n = len(hearts)
    wider = (1 + 0.35 * degree)[:, None]
    for times in (hearts.centre, hearts.before, hearts.after):
        times[:, QRS] *= wider
    notch = rng.normal(0, 1, (n, 3))
    notch /= np.linalg.norm(notch, axis=1, keepdims=True)
    hearts.vector[:, LATE] += 0.28 * degree[:, None] * notch


def _fascicle(axis: float, late: float, hearts: Hearts, degree: Floats, rng: np.random.Generator) -> None:
    vector, share = hearts.vector, (0.55 + 0.4 * degree).clip(0, 1)[:, None]
    size = np.hypot(vector[:, R, 0], vector[:, R, 1])[:, None]

    def frontal(degrees: float) -> Floats:
        angle = np.deg2rad(degrees + rng.normal(0, 8, len(hearts)))
        return np.stack([np.cos(angle), np.sin(angle)], axis=1)

    towards = frontal(axis)
    vector[:, R, :2] = (1 - share) * vector[:, R, :2] + share * size * towards
    # The wall of the other fascicle is activated first, that of the blocked one last.
    vector[:, Q, :2] -= 0.18 * share * towards
    vector[:, S, :2] += 0.42 * share * frontal(late)
    for times in (hearts.centre, hearts.before, hearts.after):
        times[:, QRS] *= 1.06


def _first_degree_block(hearts: Hearts, degree: Floats, rng: np.random.Generator) -> None:
    hearts.pr[:] = 0.200 + 0.055 * degree + rng.exponential(0.008, len(hearts))


def _preexcitation(hearts: Hearts, degree: Floats, rng: np.random.Generator) -> None:
    hearts.pr[:] = rng.normal(0.090, 0.008, len(hearts))
    d, vector = degree[:, None], hearts.vector
    vector[:, Q] = (0.25 + 0.12 * d) * vector[:, R] + rng.normal(0, 0.06, (len(hearts), 3))
    hearts.centre[:, Q] = -0.032
    hearts.before[:, Q] = 0.020
    hearts.after[:, Q] = 0.018
    vector[:, ST] -= 0.06 * d * vector[:, R]
    vector[:, T] -= 0.22 * d * vector[:, R]


def _left_ventricle(hearts: Hearts, degree: Floats, rng: np.random.Generator) -> None:
    d, vector = degree[:, None], hearts.vector
    vector[:, QRS] *= (1.30 + 0.50 * d)[..., None]
    vector[:, R] += d * np.array([0.24, 0.28, 0.0])
    vector[:, S, 2] += 0.05 * degree
    for times in (hearts.centre, hearts.before, hearts.after):
        times[:, QRS] *= 1 + 0.06 * d
    strain = d * (rng.random(len(hearts)) < 0.55)[:, None] * rng.uniform(0.4, 1.1, (len(hearts), 1))
    vector[:, ST] -= 0.06 * strain * vector[:, R]
    vector[:, T] -= strain * np.array([0.42, 0.12, 0.0])


def _right_ventricle(hearts: Hearts, degree: Floats, rng: np.random.Generator) -> None:
    d, vector = degree[:, None], hearts.vector
    _rotate(vector[:, R : R + 1], 30 + 30 * degree, (0, 1))
    vector[:, R] += d * np.array([-0.30, 0.10, -0.65])
    vector[:, S] += d * np.array([-0.35, 0.0, -0.15])
    vector[:, ST] += 0.04 * d * np.array([0.0, 0.0, 1.0])
    vector[:, T] += 0.22 * d * np.array([0.2, -0.2, 1.0])


def _septum(hearts: Hearts, degree: Floats, rng: np.random.Generator) -> None:
    hearts.vector[:, Q] += degree[:, None] * np.array([-0.32, -0.15, -0.28])
    hearts.vector[:, R] *= (1 + 0.2 * degree)[:, None]


def _left_atrium(hearts: Hearts, degree: Floats, rng: np.random.Generator) -> None:
    hearts.vector[:, P_LEFT] += degree[:, None] * np.array([0.05, 0.02, 0.09])
    hearts.centre[:, P_LEFT] += 0.022 * degree
    hearts.after[:, P_LEFT] *= 1.2
    hearts.pr += 0.010


def _right_atrium(hearts: Hearts, degree: Floats, rng: np.random.Generator) -> None:
    hearts.vector[:, P_RIGHT] += degree[:, None] * np.array([0.0, 0.17, -0.07])


def _paced(hearts: Hearts, degree: Floats, rng: np.random.Generator) -> None:
    _left_bundle(1.1, hearts, degree, rng)
    # The spike uses the wave q, because a heart paced from the right ventricle has no q.
    hearts.vector[:, Q] = rng.normal([0.3, 0.8, -0.4], 0.15, (len(hearts), 3))
    hearts.centre[:, Q] = -0.085
    hearts.before[:, Q] = hearts.after[:, Q] = 0.003


def _nothing(hearts: Hearts, degree: Floats, rng: np.random.Generator) -> None:
    """Change nothing, for diagnoses that affect only the rhythm."""


# In the order in which they are applied to a heart with several of them.
LESIONS: Final[dict[str, Lesion]] = {
    "NORM": _nothing,
    "LVH": _left_ventricle,
    "RVH": _right_ventricle,
    "SEHYP": _septum,
    "LAO/LAE": _left_atrium,
    "RAO/RAE": _right_atrium,
    "LAFB": partial(_fascicle, -38.0, -65.0),
    "LPFB": partial(_fascicle, 80.0, 150.0),
    "CLBBB": partial(_left_bundle, 1.0),
    "ILBBB": partial(_left_bundle, 0.5),
    "CRBBB": partial(_right_bundle, 1.0),
    "IRBBB": partial(_right_bundle, 0.5),
    "IVCD": _wide_qrs,
    "WPW": _preexcitation,
    "1AVB": _first_degree_block,
    "2AVB": _nothing,
    "3AVB": _nothing,
    "PACE": _paced,
    "IMI": partial(_infarction, "inferior"),
    "ASMI": partial(_infarction, "anteroseptal"),
    "AMI": partial(_infarction, "anterior"),
    "ALMI": partial(_infarction, "anterolateral"),
    "LMI": partial(_infarction, "lateral"),
    "ILMI": partial(_infarction, "inferolateral"),
    "IPMI": partial(_infarction, "inferoposterior"),
    "IPLMI": partial(_infarction, "inferoposterolateral"),
    "PMI": partial(_infarction, "posterior"),
    "INJAS": partial(_injury, "anteroseptal"),
    "INJAL": partial(_injury, "anterolateral"),
    "INJLA": partial(_injury, "lateral"),
    "INJIN": partial(_injury, "inferior"),
    "INJIL": partial(_injury, "inferolateral"),
    "NDT": _flat_t,
    "NST_": _st_change,
    "DIG": _digitalis,
    "LNGQT": _long_qt,
    "ANEUR": _aneurysm,
    "EL": _electrolytes,
    "ISC_": partial(_ischaemia, "diffuse"),
    "ISCAL": partial(_ischaemia, "anterolateral"),
    "ISCIN": partial(_ischaemia, "inferior"),
    "ISCIL": partial(_ischaemia, "inferolateral"),
    "ISCAS": partial(_ischaemia, "anteroseptal"),
    "ISCLA": partial(_ischaemia, "lateral"),
    "ISCAN": partial(_ischaemia, "anterior"),
}


def afflict(hearts: Hearts, rows: Rows, diagnosis: str, degree: Floats, rng: np.random.Generator) -> None:
    """Give some of the hearts a disease, in place.

    Parameters
    ----------
    hearts : Hearts
    rows : (afflicted,)
        Rows of the hearts to change.
    diagnosis : str
        A key of `LESIONS`: an SCP-ECG statement.
    degree : (afflicted,)
        From about 0.3 (mild) to 1.3 (severe).
    rng : numpy Generator
    """
    changed = hearts.take(rows)
    LESIONS[diagnosis](changed, degree, rng)
    for field in fields(hearts):
        getattr(hearts, field.name)[rows] = getattr(changed, field.name)


# --- rhythm -------------------------------------------------------------------------------------------------


@dataclass
class Beats:
    """Times at which the atria and ventricles of each record are activated.

    Attributes
    ----------
    atrial, ventricular : (records, events), s
        Middle of each P wave and peak of each R wave, ascending, from the start of the record. Events before 0 and
        after the end are included, because their waves may extend into the record.
    conducted : (records, events)
        1 for a ventricular event on the normal path, 0 for an ectopic one.
    recovery : (records, events)
        Factor for the times of ST and T, which depends on the length of the cycle.
    flicker, flutter : (records,), mV
        Amplitude of fibrillatory and of flutter waves.
    """

    atrial: Floats
    ventricular: Floats
    conducted: Floats
    recovery: Floats
    flicker: Floats
    flutter: Floats

    def take(self, rows: Rows) -> Beats:
        """Copies of some rows, in the order of `rows`."""
        return replace(self, **{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def inside(self, record: int) -> Floats:
        """Peaks of R within a record, in s."""
        events = self.ventricular[record]
        return events[(events >= 0) & (events < SECONDS)]


# Heart rate (mean, deviation, minimum, maximum) in 1/min, and the size of respiratory and of irregular variation.
RHYTHMS: Final = {
    "SR": ((72, 10, 58, 100), 0.025, 0.010),
    "SARRH": ((68, 9, 55, 95), 0.140, 0.030),
    "SBRAD": ((53, 4, 40, 59), 0.030, 0.012),
    "STACH": ((112, 9, 101, 145), 0.010, 0.006),
    "AFIB": ((88, 20, 50, 150), 0.000, 0.210),
    "AFLT": ((100, 26, 70, 152), 0.000, 0.006),
    "SVTAC": ((160, 14, 135, 190), 0.000, 0.005),
    "PSVT": ((170, 14, 140, 195), 0.000, 0.005),
    "SVARR": ((78, 10, 60, 105), 0.040, 0.050),
    "PACE": ((70, 4, 60, 80), 0.000, 0.002),
    "BIGU": ((76, 9, 58, 100), 0.015, 0.010),
    "TRIGU": ((76, 9, 58, 100), 0.015, 0.010),
}
_NO_P: Final = ("AFIB", "AFLT", "SVTAC", "PSVT", "PACE")


def beat(
    rng: np.random.Generator,
    hearts: Hearts,
    rhythm: NDArray[np.str_],
    extra: NDArray[np.str_],
    block: NDArray[np.str_],
) -> Beats:
    """Draw the trains of atrial and ventricular events of records.

    Parameters
    ----------
    rng : numpy Generator
    hearts : Hearts
        One per record.
    rhythm : (records,)
        Keys of `RHYTHMS`.
    extra : (records,)
        'PVC', 'PAC' or ''.
    block : (records,)
        '2AVB', '3AVB' or ''.

    Returns
    -------
    Beats
    """
    n = len(hearts)
    (mean, spread, least, most), sway, jitter = (
        np.array([RHYTHMS[kind][0] for kind in rhythm], dtype=float).T,
        np.array([RHYTHMS[kind][1] for kind in rhythm]),
        np.array([RHYTHMS[kind][2] for kind in rhythm]),
    )
    rate = np.clip(rng.normal(mean, spread), least, most)
    rate = np.where(block == "3AVB", rng.uniform(34, 46, n), rate)
    rate = np.where(rhythm == "AFLT", 60 * _FLUTTER / rng.integers(2, 5, n), rate)
    cycle = 60 / rate
    about = cycle[:, None] * np.arange(_BEATS)

    def wave(low: float, high: float) -> Floats:
        frequency, phase = rng.uniform(low, high, (n, 1)), rng.random((n, 1))
        return np.sin(2 * np.pi * (frequency * about + phase))

    depth = (sway * rng.lognormal(0, 0.35, n))[:, None]
    intervals = 1 + depth * wave(0.18, 0.32) + 0.6 * depth * wave(0.08, 0.12)
    intervals *= np.exp(jitter[:, None] * rng.normal(0, 1, (n, _BEATS)))

    ectopic = _ectopic(rng, rhythm, extra)
    ventricular_ectopic = ectopic & ((extra == "PVC") | np.isin(rhythm, ("BIGU", "TRIGU")))[:, None]
    early = rng.uniform(0.58, 0.78, (n, 1))
    after = np.where(ventricular_ectopic, 2 - early, 1.05)
    intervals = np.where(ectopic, early, intervals)
    intervals[:, 1:] *= np.where(ectopic[:, :-1], after[:, :-1], 1)
    intervals = (intervals * cycle[:, None]).clip(0.28)

    ventricular = np.cumsum(intervals, axis=1) - cycle[:, None] * rng.uniform(2, 3, (n, 1))
    conduction = hearts.pr - _QRS_ONSET - _P_DURATION / 2
    atrial = np.where(ventricular_ectopic | np.isin(rhythm, _NO_P)[:, None], _FAR, ventricular - conduction[:, None])
    sinus = np.arange(_BEATS) * (60 / rng.uniform(70, 95, (n, 1))) - rng.uniform(1, 2, (n, 1))
    atrial = np.where((block == "3AVB")[:, None], sinus, atrial)
    dropped = (np.arange(_BEATS) + rng.integers(0, 4, (n, 1))) % rng.integers(3, 5, (n, 1)) == 0
    ventricular[dropped & (block == "2AVB")[:, None]] = _FAR

    order = np.argsort(ventricular, axis=1, kind="stable")
    ventricular = np.take_along_axis(ventricular, order, axis=1)
    return Beats(
        atrial=np.sort(atrial, axis=1),
        ventricular=ventricular,
        conducted=np.take_along_axis(1.0 - ventricular_ectopic, order, axis=1),
        recovery=np.take_along_axis(np.cbrt(0.4 * intervals + 0.6 * cycle[:, None]), order, axis=1),
        flicker=np.where(rhythm == "AFIB", rng.lognormal(np.log(0.05), 0.4, n), 0.0),
        flutter=np.where(rhythm == "AFLT", rng.lognormal(np.log(0.13), 0.25, n), 0.0),
    )


def _ectopic(rng: np.random.Generator, rhythm: NDArray[np.str_], extra: NDArray[np.str_]) -> NDArray[np.bool_]:
    """Whether each event comes early: (records, events)."""
    n, index = len(rhythm), np.arange(_BEATS)
    # With at most seven events between extra beats, 10 s contain at least one extra beat at any sinus rate.
    every = np.select(
        [rhythm == "BIGU", rhythm == "TRIGU", rhythm == "SVARR", extra != ""],
        [2, 3, rng.integers(2, 5, n), rng.integers(4, 8, n)],
        _BEATS,
    )[:, None]
    return ((index + rng.integers(0, every)) % every == 0) & (every < _BEATS) & (index > 0)


def _ventricular_ectopic(hearts: Hearts, rng: np.random.Generator) -> Hearts:
    """The same chests with a beat that starts in a ventricle: QRS wide and large, T opposite to it."""
    n = len(hearts)
    towards = rng.normal(0, 1, (n, 3)) * [1.0, 1.0, 0.8]
    towards /= np.linalg.norm(towards, axis=1, keepdims=True)
    size = rng.uniform(1.1, 1.7, (n, 1))
    pvc = hearts.take(np.arange(n))
    pvc.vector[:, VENTRICULAR] = 0
    pvc.vector[:, R] = size * towards
    pvc.vector[:, LATE] = 0.45 * size * (towards + rng.normal(0, 0.35, (n, 3)))
    pvc.vector[:, T] = -0.42 * size * towards
    pvc.before[:, R] = pvc.after[:, R] = 0.026
    pvc.centre[:, LATE], pvc.before[:, LATE], pvc.after[:, LATE] = 0.06, 0.022, 0.022
    pvc.centre[:, T] += 0.03
    return pvc


# --- signals ------------------------------------------------------------------------------------------------


@dataclass
class Noise:
    """Noise of each record: amplitudes as standard deviations, each (records,), in mV."""

    wander: Floats
    muscle: Floats
    mains: Floats

    def take(self, rows: Rows) -> Noise:
        """Copies of some rows, in the order of `rows`."""
        return Noise(self.wander[rows], self.muscle[rows], self.mains[rows])


def record(
    rng: np.random.Generator, hearts: Hearts, beats: Beats, noise: Noise, sampling_rate: int
) -> NDArray[np.int16]:
    """Record hearts for 10 s.

    Parameters
    ----------
    rng : numpy Generator
    hearts, beats, noise
        One row per record.
    sampling_rate : int, Hz

    Returns
    -------
    int16 array, (records, samples, 12), microvolts
        Leads in the order of `LEAD_NAMES`.
    """
    time = np.arange(SECONDS * sampling_rate, dtype=np.float32) / np.float32(sampling_rate)
    dipole = _waves(time, hearts, ATRIAL, beats.atrial)
    dipole += _waves(time, hearts, VENTRICULAR, beats.ventricular, beats.conducted, beats.recovery)
    rows = np.flatnonzero((beats.conducted == 0).any(axis=1))
    if len(rows):
        ectopic, own = _ventricular_ectopic(hearts.take(rows), rng), beats.take(rows)
        dipole[:, rows] += _waves(time, ectopic, VENTRICULAR, own.ventricular, 1 - own.conducted, own.recovery)
    dipole += _atrial_arrhythmia(rng, time, beats)
    breath = _breathe(rng, time, dipole)

    leads = np.einsum("nij,jnt->nti", hearts.leads.astype(np.float32), dipole)
    electrodes = _electrode_noise(rng, time, noise, sampling_rate, breath)
    leads += np.einsum("ij,njt->nti", ELECTRODES.astype(np.float32), electrodes)
    return _twelve(np.rint(np.clip(leads, -16, 16) * 1000).astype(np.int32))


def _twelve(leads: NDArray[np.int32]) -> NDArray[np.int16]:
    """All leads from I, II, V1..V6. Einthoven's and Goldberger's equations hold for the whole numbers in the file."""
    one, two = leads[..., 0], leads[..., 1]
    limbs = np.stack([one, two, two - one, -(one + two) // 2, one - two // 2, two - one // 2], axis=-1)
    return np.concatenate([limbs, leads[..., 2:]], axis=-1).astype(np.int16)


def _waves(
    time: NDArray[np.float32],
    hearts: Hearts,
    waves: slice,
    events: Floats,
    weight: Floats | None = None,
    recovery: Floats | None = None,
) -> NDArray[np.float32]:
    """Sum of the waves of a train of events: (3, records, samples), mV."""
    n = len(hearts)

    def padded(values: Floats, left: float, right: float) -> NDArray[np.float32]:
        return np.pad(values, ((0, 0), (2, 1)), constant_values=((0, 0), (left, right))).astype(np.float32)

    peaks = padded(events, -_FAR, _FAR)
    weights = padded(np.ones_like(events) if weight is None else weight, 0, 0)
    stretch = padded(np.ones_like(events) if recovery is None else recovery, 1, 1)
    following = np.stack([np.searchsorted(row, time, side="right") for row in peaks])
    dipole = np.zeros((3, n, len(time)), np.float32)
    vector, centre, before, after = (
        getattr(hearts, name).astype(np.float32)[:, waves, None] for name in ("vector", "centre", "before", "after")
    )
    # A sample may lie in the waves of the last two events and of the next one.
    for index in (following - 2, following - 1, np.minimum(following, peaks.shape[1] - 1)):
        since = time - np.take_along_axis(peaks, index, axis=1)
        size = np.take_along_axis(weights, index, axis=1)
        slow = np.take_along_axis(stretch, index, axis=1)
        for wave in range(vector.shape[1]):
            repolarisation = wave + (waves.start or 0) in (ST, T)
            away = since - centre[:, wave] * (slow if repolarisation else np.float32(1))
            width = np.where(away < 0, before[:, wave], after[:, wave])
            shape = np.exp(-0.5 * np.square(away / width)) * size
            for axis in range(3):
                dipole[axis] += shape * vector[:, wave, :, axis]
    return dipole


def _atrial_arrhythmia(
    rng: np.random.Generator, time: NDArray[np.float32], beats: Beats
) -> NDArray[np.float32] | np.float32:
    """Fibrillatory and flutter waves: (3, records, samples), mV."""
    n = len(beats.flicker)
    frequency, phase = rng.uniform(4.5, 8.0, (n, 1)), rng.random((2, n, 1)) * 2 * np.pi
    if not (beats.flicker.any() or beats.flutter.any()):
        return np.float32(0)
    drift = 1.5 * np.sin(2 * np.pi * 0.4 * time + phase[1])
    angle = 2 * np.pi * frequency * time + phase[0] + drift
    fine = beats.flicker[:, None] * (np.sin(angle) + 0.4 * np.sin(2.1 * angle + phase[1]))
    turn = 2 * np.pi * _FLUTTER * time + phase[0]
    saw = beats.flutter[:, None] * (np.sin(turn) + 0.4 * np.sin(2 * turn))
    towards = np.array([[-0.2, 0.6, -0.8], [0.0, 1.0, -0.5]])
    return (towards[0, :, None, None] * fine + towards[1, :, None, None] * saw).astype(np.float32)


def _breathe(rng: np.random.Generator, time: NDArray[np.float32], dipole: NDArray[np.float32]) -> Floats:
    """Change size and axis of dipoles (3, records, samples) by breathing, in place; return the course of breath."""
    n = dipole.shape[1]
    course = np.sin(2 * np.pi * (rng.uniform(0.18, 0.32, (n, 1)) * time + rng.random((n, 1))))
    size = (1 + rng.uniform(0.01, 0.07, (n, 1)) * course).astype(np.float32)
    turn = (rng.uniform(0.01, 0.06, (n, 1)) * course).astype(np.float32)
    x, y = dipole[0].copy(), dipole[1].copy()
    dipole[0] = x - turn * y
    dipole[1] = y + turn * x
    dipole *= size
    return course


def _electrode_noise(
    rng: np.random.Generator, time: NDArray[np.float32], noise: Noise, sampling_rate: int, breath: Floats
) -> NDArray[np.float32]:
    """Potentials of skin, muscle and mains at RA, LA, LL, V1..V6: (records, 9, samples), mV."""
    n, samples = len(noise.wander), len(time)
    frequency = np.fft.rfftfreq(samples, 1 / sampling_rate)
    slow = np.where((frequency > 0) & (frequency < 1.0), 1 / np.maximum(frequency, 0.1), 0)
    fast = 1 / (1 + (8 / np.maximum(frequency, 0.01)) ** 4) / (1 + (frequency / 120) ** 4)

    def amplitude(per_record: Floats, filter_: Floats, chest: float) -> Floats:
        contact = rng.lognormal(0, 0.45, (n, 9)) * np.where(np.arange(9) < 3, 1, chest)
        unit = filter_ / np.sqrt(2 * np.square(filter_).sum() / samples)
        return (per_record[:, None] * contact)[..., None] * unit / np.sqrt(2)

    colour = amplitude(noise.wander, slow, 1.5) + amplitude(noise.muscle, fast, 0.5)
    heave = noise.wander[:, None] * rng.normal(0, 0.35, (n, 9))
    # Resampling to 100 Hz leaves half of the amplitude at 50 Hz.
    left = 0.5 if sampling_rate <= 100 else 1.0
    pickup = left * noise.mains[:, None] * rng.normal(0, 1, (n, 9))
    hum = np.sin(2 * np.pi * (rng.normal(50, 0.05, (n, 1)) * time + rng.random((n, 1))))
    # Drawn last, so that all earlier random numbers are the same at every sampling rate.
    white = rng.standard_normal((n, 9, samples), dtype=np.float32)
    potential = np.fft.irfft(np.fft.rfft(white) * colour, samples)
    potential += heave[..., None] * breath[:, None] + pickup[..., None] * hum[:, None]
    return potential.astype(np.float32)
