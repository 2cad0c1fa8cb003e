"""Networks to attack, trained for a minute or two at the first use and kept in runs/benchmarks.

How long an attack takes, and how well it does, depends on what it attacks: random weights would measure nothing.
"""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastadv
from fastadv.attacks import PGD
from fastadv.trainers import Method, PGDTraining, Standard

from .timing import DEVICE

FOLDER = Path(__file__).parents[1] / "runs" / "benchmarks"


@dataclass(frozen=True)
class Network:
    """A network and how it is trained."""

    model: str
    method: Method
    images: int
    epochs: int


NETWORKS = {
    "lenet5": Network("lenet5", Standard(), 60_000, 3),
    "lenet5, robust": Network("lenet5", PGDTraining(attack=PGD(eps=0.1, alpha=0.025, steps=7)), 20_000, 4),
    "small-cnn": Network("small-cnn", Standard(), 20_000, 3),
    "resnet18": Network("resnet18", Standard(), 6_000, 1),
}


class ImageResNet50(nn.Sequential):
    """ResNet-50 for images [B, C, H, W] of 224 pixels: logits [B, classes]. 23,528,522 parameters on three channels.

    `fastadv.models.ResNet50`, which is for small images, behind the stem of the paper: a 7x7 convolution and a
    max-pooling, which make a sixteenth of the pixels.
    """

    def __init__(self, shape: tuple[int, ...] = (3, 224, 224), classes: int = 10):
        small = fastadv.models.ResNet50(shape, classes)
        stem = nn.Conv2d(shape[0], 64, 7, 2, padding=3, bias=False), nn.BatchNorm2d(64), nn.ReLU()
        super().__init__(*stem, nn.MaxPool2d(3, 2, padding=1), *small.features[3:], small.classifier)


class SmallViT(nn.Module):
    """A vision transformer (Dosovitskiy et al., 2021) for small images: logits [B, classes] from images [B, C, H, W].

    Patches of 4 x 4 pixels, `depth` blocks of width `width` with three heads, and the mean over patches.
    """

    def __init__(self, shape: tuple[int, ...] = (3, 32, 32), classes: int = 10, width: int = 192, depth: int = 6):
        super().__init__()
        patches = shape[1] // 4 * (shape[2] // 4)
        self.embed = nn.Conv2d(shape[0], width, 4, 4)
        self.places = nn.Parameter(0.02 * torch.randn(1, patches, width))
        self.blocks = nn.Sequential(*(_Transformer(width) for _ in range(depth)))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, classes))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).transpose(1, 2) + self.places
        return self.head(self.blocks(tokens).mean(dim=1))


class _Transformer(nn.Module):
    def __init__(self, width: int, heads: int = 3):
        super().__init__()
        self.heads, self.before, self.between = heads, nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.before(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.mlp(self.between(x))


class Depthwise(nn.Sequential):
    """Depthwise and pointwise convolutions (Howard et al., 2017) for small images: logits [B, classes]."""

    def __init__(self, shape: tuple[int, ...] = (3, 32, 32), classes: int = 10):
        def conv(channels: int, out: int, size: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
            layer = nn.Conv2d(channels, out, size, stride, size // 2, groups=groups, bias=False)
            return [layer, nn.BatchNorm2d(out), nn.ReLU()]

        layers, channels = conv(shape[0], 32, 3), 32
        for out, stride in ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1)):
            layers += [*conv(channels, channels, 3, stride, groups=channels), *conv(channels, out, 1)]
            channels = out
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def group_norm_resnet(shape: tuple[int, ...] = (3, 32, 32), classes: int = 10) -> nn.Module:
    """`fastadv.models.ResNet18` with group normalisation (Wu and He, 2018), eight groups, in place of batch norm."""
    model = fastadv.models.ResNet18(shape, classes)
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.GroupNorm(8, child.num_features))
    return model


SIX: dict[str, tuple[Callable[..., nn.Module], tuple[int, int, int]]] = {
    "LeNet-5": (fastadv.models.LeNet5, (1, 28, 28)),
    "small CNN": (fastadv.models.SmallCNN, (1, 28, 28)),
    "ResNet-18": (fastadv.models.ResNet18, (3, 32, 32)),
    "small ViT": (SmallViT, (3, 32, 32)),
    "depthwise CNN": (Depthwise, (3, 32, 32)),
    "GroupNorm ResNet-18": (group_norm_resnet, (3, 32, 32)),
}
"""Kinds of networks, to measure how long attacks of fixed length take; that does not depend on their weights."""


@cache
def data(split: str) -> fastadv.Dataset:
    """Fashion-MNIST, or the embedded sample of it where the machine does not have it."""
    try:
        return fastadv.load("fashion-mnist", split)
    except FileNotFoundError:
        return fastadv.load("fashion-mnist-mini", split)


@cache
def trained(name: str) -> nn.Module:
    """The network of that name in `NETWORKS`, trained, in eval mode, on `DEVICE`."""
    network, train = NETWORKS[name], data("train")
    recipe = repr((network, train.name, len(train)))
    file = FOLDER / f"{network.model}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}.pt"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = fastadv.models.build(network.model, tuple(train.x.shape[1:]), len(train.classes)).to(DEVICE)
        if file.exists():
            model.load_state_dict(torch.load(file, map_location=DEVICE, weights_only=True))
        else:
            threads = torch.get_num_threads()
            torch.set_num_threads(os.cpu_count() or 1)
            fastadv.fit(model, network.method, train.take(network.images), epochs=network.epochs)
            torch.set_num_threads(threads)
            FOLDER.mkdir(parents=True, exist_ok=True)
            torch.save(model.state_dict(), file)
    return model.eval()


def classified(name: str, count: int) -> tuple[Tensor, Tensor]:
    """The first `count` test images that the network classifies correctly, and their labels."""
    test = data("test").take(2 * count + 100).to(DEVICE)
    with torch.no_grad():
        right = trained(name)(test.x).argmax(dim=1) == test.y
    return test.x[right][:count], test.y[right][:count]
