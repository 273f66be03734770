"""The SCP-ECG statements of PTB-XL and its sets of labels, known before any data are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ecgexp.errors import UserError

# statement, kind (Diagnostic, Form, Rhythm), class, subclass, description
_TABLE: Final = """
NDT|DF|STTC|STTC|T changes without a diagnosis
NST_|DF|STTC|NST_|ST changes, not specific
DIG|DF|STTC|STTC|effect of digitalis
LNGQT|DF|STTC|STTC|long QT
NORM|D|NORM|NORM|normal
IMI|D|MI|IMI|infarction, inferior
ASMI|D|MI|AMI|infarction, anteroseptal
LVH|D|HYP|LVH|hypertrophy of the left ventricle
LAFB|D|CD|LAFB/LPFB|block of the left anterior fascicle
ISC_|D|STTC|ISC_|ischaemia, not specific
IRBBB|D|CD|IRBBB|block of the right bundle, incomplete
1AVB|D|CD|_AVB|AV block, first degree
IVCD|D|CD|IVCD|intraventricular block, not specific
ISCAL|D|STTC|ISCA|ischaemia, anterolateral
CRBBB|D|CD|CRBBB|block of the right bundle, complete
CLBBB|D|CD|CLBBB|block of the left bundle, complete
ILMI|D|MI|IMI|infarction, inferolateral
LAO/LAE|D|HYP|LAO/LAE|enlarged left atrium
AMI|D|MI|AMI|infarction, anterior
ALMI|D|MI|AMI|infarction, anterolateral
ISCIN|D|STTC|ISCI|ischaemia, inferior
INJAS|D|MI|AMI|subendocardial injury, anteroseptal
LMI|D|MI|LMI|infarction, lateral
ISCIL|D|STTC|ISCI|ischaemia, inferolateral
LPFB|D|CD|LAFB/LPFB|block of the left posterior fascicle
ISCAS|D|STTC|ISCA|ischaemia, anteroseptal
INJAL|D|MI|AMI|subendocardial injury, anterolateral
ISCLA|D|STTC|ISCA|ischaemia, lateral
RVH|D|HYP|RVH|hypertrophy of the right ventricle
ANEUR|D|STTC|STTC|ST-T changes as in an aneurysm
RAO/RAE|D|HYP|RAO/RAE|enlarged right atrium
EL|D|STTC|STTC|electrolytes or drugs
WPW|D|CD|WPW|Wolff-Parkinson-White
ILBBB|D|CD|ILBBB|block of the left bundle, incomplete
IPLMI|D|MI|IMI|infarction, inferoposterolateral
ISCAN|D|STTC|ISCA|ischaemia, anterior
IPMI|D|MI|IMI|infarction, inferoposterior
SEHYP|D|HYP|SEHYP|hypertrophy of the septum
INJIN|D|MI|IMI|subendocardial injury, inferior
INJLA|D|MI|AMI|subendocardial injury, lateral
PMI|D|MI|PMI|infarction, posterior
3AVB|D|CD|_AVB|AV block, third degree
INJIL|D|MI|IMI|subendocardial injury, inferolateral
2AVB|D|CD|_AVB|AV block, second degree
ABQRS|F|||abnormal QRS
PVC|F|||ventricular extra beat
STD_|F|||ST depression
VCLVH|F|||voltage as in left hypertrophy
QWAVE|F|||Q waves
LOWT|F|||low T waves
NT_|F|||T changes, not specific
PAC|F|||atrial extra beat
LPR|F|||long PR
INVT|F|||inverted T waves
LVOLT|F|||low voltage
HVOLT|F|||high voltage
TAB_|F|||abnormal T
STE_|F|||ST elevation
PRC(S)|F|||extra beats
SR|R|||sinus rhythm
AFIB|R|||atrial fibrillation
STACH|R|||sinus tachycardia
SARRH|R|||sinus arrhythmia
SBRAD|R|||sinus bradycardia
PACE|R|||pacemaker
SVARR|R|||supraventricular arrhythmia
BIGU|R|||bigeminy
AFLT|R|||atrial flutter
SVTAC|R|||supraventricular tachycardia
PSVT|R|||paroxysmal supraventricular tachycardia
TRIGU|R|||trigeminy
"""
STATEMENT_TABLE: Final = [row.split("|") for row in _TABLE.strip().splitlines()]
"""Statement, kind (letters of D diagnostic, F form, R rhythm), superclass, subclass and description of each."""
SUPERCLASS_OF: Final = {name: superclass for name, _, superclass, _, _ in STATEMENT_TABLE if superclass}
SUPERCLASSES: Final = ("NORM", "STTC", "CD", "MI", "HYP")
"""In the order of Leandro et al. 2023."""


def _named(kind: str) -> tuple[str, ...]:
    return tuple(sorted(name for name, kinds, *_ in STATEMENT_TABLE if kind in kinds))


LABEL_SETS: Final[dict[str, tuple[str, ...]]] = {
    "superclass": SUPERCLASSES,
    "subclass": tuple(sorted({subclass for _, _, _, subclass, _ in STATEMENT_TABLE if subclass})),
    "diagnostic": _named("D"),
    "form": _named("F"),
    "rhythm": _named("R"),
    "all": tuple(sorted(name for name, *_ in STATEMENT_TABLE)),
}
"""Labels of each set of the PTB-XL benchmark: superclasses in the order of the paper, others in alphabetical order."""


def statement_labels(labels: str | Sequence[str]) -> tuple[str, ...]:
    """Names of the labels that ``dataset.labels`` chooses.

    Parameters
    ----------
    labels : str or sequence of str
        Name of a set, such as 'superclass', or statements, such as ['AFIB', 'SR'], whose order is kept.

    Raises
    ------
    UserError
        If there is no such set or statement, or a statement is named twice.
    """
    if isinstance(labels, str):
        if labels not in LABEL_SETS:
            raise UserError(
                f"Config key 'dataset.labels' is {labels!r}: choose one of {', '.join(LABEL_SETS)}, or a list of "
                "statements such as [AFIB,SR]."
            )
        return LABEL_SETS[labels]
    unknown = [label for label in labels if label not in LABEL_SETS["all"]]
    if unknown:
        raise UserError(
            f"Config key 'dataset.labels' names {unknown[0]!r}, which is not a statement of PTB-XL: choose from "
            f"{', '.join(LABEL_SETS['all'])}."
        )
    twice = [label for label in labels if list(labels).count(label) > 1]
    if twice or not labels:
        what = f"{twice[0]} twice" if twice else "nothing"
        raise UserError(f"Config key 'dataset.labels' names {what}: name each statement once.")
    return tuple(labels)
