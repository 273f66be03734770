"""Data sets of ECGs and images: records with labels and fixed splits."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ecgexp.datasets.base import Dataset, ImageDataset, Input, Normalization, SignalDataset, Split, SplitName
    from ecgexp.datasets.ecg.folder import WFDBFolder
    from ecgexp.datasets.ecg.mitbih import MITBIH, MITBIHTable
    from ecgexp.datasets.ecg.ptbxl import PTBXL
    from ecgexp.datasets.ecg.records import Reading, read_record
    from ecgexp.datasets.ecg.statements import LABEL_SETS
    from ecgexp.datasets.ecg.synthetic import Synthetic
    from ecgexp.datasets.image.cells import SyntheticCells
    from ecgexp.datasets.image.folder import ImageFolder
    from ecgexp.datasets.image.medmnist import MedMNIST

__all__ = [
    "LABEL_SETS",
    "MITBIH",
    "PTBXL",
    "Dataset",
    "ImageDataset",
    "ImageFolder",
    "Input",
    "MITBIHTable",
    "MedMNIST",
    "Normalization",
    "Reading",
    "SignalDataset",
    "Split",
    "SplitName",
    "Synthetic",
    "SyntheticCells",
    "WFDBFolder",
    "read_record",
]

# These modules take seconds to import, and the download needs none of them: each is imported at its first use.
_MODULES = {
    "Dataset": "base",
    "ImageDataset": "base",
    "Input": "base",
    "Normalization": "base",
    "SignalDataset": "base",
    "Split": "base",
    "SplitName": "base",
    "WFDBFolder": "ecg.folder",
    "MITBIH": "ecg.mitbih",
    "MITBIHTable": "ecg.mitbih",
    "PTBXL": "ecg.ptbxl",
    "LABEL_SETS": "ecg.statements",
    "Reading": "ecg.records",
    "read_record": "ecg.records",
    "Synthetic": "ecg.synthetic",
    "SyntheticCells": "image.cells",
    "ImageFolder": "image.folder",
    "MedMNIST": "image.medmnist",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
