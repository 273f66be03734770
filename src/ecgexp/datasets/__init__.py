"""ECG data sets: records with labels and fixed splits."""

from ecgexp.datasets.base import Dataset, Normalization, Split, SplitName
from ecgexp.datasets.folder import WFDBFolder
from ecgexp.datasets.ptbxl import PTBXL, PTBXL_CLASSES
from ecgexp.datasets.records import Reading, read_record
from ecgexp.datasets.synthetic import Synthetic

__all__ = [
    "PTBXL",
    "PTBXL_CLASSES",
    "Dataset",
    "Normalization",
    "Reading",
    "Split",
    "SplitName",
    "Synthetic",
    "WFDBFolder",
    "read_record",
]
