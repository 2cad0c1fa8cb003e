"""Networks of the papers. Each is called with the shape of a sample and the number of classes, and returns logits."""

import difflib
from collections.abc import Callable
from functools import partial

from torch import nn

from .adapted import Adapted, adapt
from .cosine import CosineHead, with_cosine_head
from .fitnet import FitNet4
from .lenet import LeNet5, LeNet5Wide, LeNetCaffe
from .mean_sparse import MeanSparse, mean_sparse
from .normalize import Normalize
from .preact_resnet import PreActResNet18
from .resnet import ResNet18, ResNet34, ResNet50, ResNet101
from .small_cnn import NetMNIST, SmallCNN, SmallCNN8
from .smd import SMDFashionNet, SMDSVHNNet
from .two_circles import TwoCirclesNet
from .wide_resnet import MadryResNet, WideResNet

__all__ = [
    "MODELS",
    "Adapted",
    "CosineHead",
    "FitNet4",
    "LeNet5",
    "LeNet5Wide",
    "LeNetCaffe",
    "MadryResNet",
    "MeanSparse",
    "NetMNIST",
    "Normalize",
    "PreActResNet18",
    "ResNet18",
    "ResNet34",
    "ResNet50",
    "ResNet101",
    "SMDFashionNet",
    "SMDSVHNNet",
    "SmallCNN",
    "SmallCNN8",
    "TwoCirclesNet",
    "WideResNet",
    "adapt",
    "build",
    "find",
    "mean_sparse",
    "with_cosine_head",
]

# A class, or one with some of its options set.
MODELS: dict[str, Callable[[tuple[int, ...], int], nn.Module]] = {
    "fitnet4": FitNet4,
    "fitnet4-plain": partial(FitNet4, batch_norm=False),
    "lenet5": LeNet5,
    "lenet5-bn": partial(LeNet5, batch_norm=True),
    "lenet5-unpadded": partial(LeNet5, padded=False),
    "lenet5-wide": LeNet5Wide,
    "lenet-caffe": LeNetCaffe,
    "net-mnist": NetMNIST,
    "preact-resnet18": PreActResNet18,
    "preact-resnet18-silu": partial(PreActResNet18, activation="silu"),
    "resnet18": ResNet18,
    "resnet34": ResNet34,
    "resnet50": ResNet50,
    "resnet101": ResNet101,
    "small-cnn": SmallCNN,
    "small-cnn-8": SmallCNN8,
    "smd-fashion": SMDFashionNet,
    "smd-svhn": SMDSVHNNet,
    "two-circles-net": TwoCirclesNet,
    "w32-10": MadryResNet,
    "wrn-28-4": partial(WideResNet, depth=28, widen=4),
    "wrn-28-10": partial(WideResNet, depth=28, widen=10),
    "wrn-28-10-silu": partial(WideResNet, depth=28, widen=10, activation="silu"),
    "wrn-32-10": partial(WideResNet, depth=34, widen=10),  # so called by friendly adversarial training, in its Table 1
    "wrn-34-10": partial(WideResNet, depth=34, widen=10),
    "wrn-34-20": partial(WideResNet, depth=34, widen=20),
    "wrn-40-4": partial(WideResNet, depth=40, widen=4),
    "wrn-58-10": partial(WideResNet, depth=58, widen=10),
}


def find(name: str) -> Callable[[tuple[int, ...], int], nn.Module]:
    """What builds the network called `name`, of `MODELS`. Raises ValueError for an unknown name."""
    if name not in MODELS:
        near = difflib.get_close_matches(name, MODELS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown model {name!r}: choose one of {', '.join(MODELS)}{hint}")
    return MODELS[name]


def build(name: str, shape: tuple[int, ...], classes: int) -> nn.Module:
    """The network called `name`, initialised from torch's global generator, for samples of `shape`.

    Raises ValueError for an unknown name, or a shape that the network cannot take.
    """
    return find(name)(tuple(shape), classes)
