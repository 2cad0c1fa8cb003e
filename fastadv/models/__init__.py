"""The seeds' networks. Each is a class called with the shape of a sample and the number of classes."""

import difflib

from torch import nn

from .lenet import LeNet5, LeNet5Wide
from .normalize import Normalize
from .resnet import ResNet18
from .small_cnn import SmallCNN
from .two_circles import TwoCirclesNet

__all__ = ["MODELS", "LeNet5", "LeNet5Wide", "Normalize", "ResNet18", "SmallCNN", "TwoCirclesNet", "build"]

MODELS: dict[str, type[nn.Module]] = {
    "lenet5": LeNet5,
    "lenet5-wide": LeNet5Wide,
    "resnet18": ResNet18,
    "small-cnn": SmallCNN,
    "two-circles-net": TwoCirclesNet,
}


def build(name: str, shape: tuple[int, ...], classes: int) -> nn.Module:
    """The network called `name`, initialised from torch's global generator, for samples of `shape`.

    Raises ValueError for an unknown name, or a shape that the network cannot take.
    """
    if name not in MODELS:
        near = difflib.get_close_matches(name, MODELS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown model {name!r}: choose one of {', '.join(MODELS)}{hint}")
    return MODELS[name](tuple(shape), classes)
