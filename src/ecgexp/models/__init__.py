"""Nets on signals (batch, leads, samples) or images (batch, channels, height, width) to logits (batch, outputs)."""

from ecgexp.models.alexnet import AlexNet
from ecgexp.models.baselines import Constant, Linear
from ecgexp.models.cnn import CNN
from ecgexp.models.convblocks import ConvBlocks
from ecgexp.models.densenet import DenseNetSmall
from ecgexp.models.mlp import MLP
from ecgexp.models.rajpurkar import Rajpurkar, RajpurkarOriginal
from ecgexp.models.recurrent import Recurrent
from ecgexp.models.resnet import ResNet18
from ecgexp.models.ribeiro import Ribeiro, RibeiroOriginal

__all__ = [
    "CNN",
    "MLP",
    "AlexNet",
    "Constant",
    "ConvBlocks",
    "DenseNetSmall",
    "Linear",
    "Rajpurkar",
    "RajpurkarOriginal",
    "Recurrent",
    "ResNet18",
    "Ribeiro",
    "RibeiroOriginal",
]
