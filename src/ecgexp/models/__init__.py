"""Nets on (batch, leads, samples) that return logits (batch, outputs)."""

from ecgexp.models.baselines import Constant, Linear
from ecgexp.models.convblocks import ConvBlocks
from ecgexp.models.rajpurkar import Rajpurkar, RajpurkarOriginal
from ecgexp.models.recurrent import Recurrent
from ecgexp.models.ribeiro import Ribeiro, RibeiroOriginal

__all__ = [
    "Constant",
    "ConvBlocks",
    "Linear",
    "Rajpurkar",
    "RajpurkarOriginal",
    "Recurrent",
    "Ribeiro",
    "RibeiroOriginal",
]
