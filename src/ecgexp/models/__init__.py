"""Nets on (batch, leads, samples) that return logits (batch, classes)."""

from ecgexp.models.baselines import Constant, Linear
from ecgexp.models.rajpurkar import Rajpurkar, RajpurkarOriginal
from ecgexp.models.ribeiro import Ribeiro, RibeiroOriginal

__all__ = ["Constant", "Linear", "Rajpurkar", "RajpurkarOriginal", "Ribeiro", "RibeiroOriginal"]
