"""Targets: what is predicted. Each kind of target defines its outputs, its decisions and its metrics.

Neither the import of this package nor building a target imports torch, numpy or pandas, because the command line asks
targets for the names of their metrics.
"""

from ecgexp.targets.base import Target
from ecgexp.targets.multiclass import MultiClass
from ecgexp.targets.multilabel import MultiLabel

__all__ = ["MultiClass", "MultiLabel", "Target"]
