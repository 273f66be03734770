"""ECG data sets: records with labels and fixed splits."""

from ecgexp.datasets.base import Dataset, Normalization, Split, SplitName
from ecgexp.datasets.ecg.folder import WFDBFolder
from ecgexp.datasets.ecg.mitbih import MITBIH, MITBIHTable
from ecgexp.datasets.ecg.ptbxl import PTBXL, PTBXL_CLASSES
from ecgexp.datasets.ecg.records import Reading, read_record
from ecgexp.datasets.ecg.synthetic import Synthetic

__all__ = [
    "MITBIH",
    "PTBXL",
    "PTBXL_CLASSES",
    "Dataset",
    "MITBIHTable",
    "Normalization",
    "Reading",
    "Split",
    "SplitName",
    "Synthetic",
    "WFDBFolder",
    "read_record",
]
