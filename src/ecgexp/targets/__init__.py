"""What is predicted: kinds of targets, each of which knows its outputs, its decisions and its metrics.

Neither importing this package nor building a target imports torch, numpy or pandas: the command line asks targets
for the names of their metrics.
"""

from ecgexp.targets.base import Target
from ecgexp.targets.multiclass import MultiClass
from ecgexp.targets.multilabel import MultiLabel

__all__ = ["MultiClass", "MultiLabel", "Target"]
