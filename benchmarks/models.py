"""Networks to attack, trained for a minute or two at the first use and kept in runs/benchmarks.

How long an attack takes, and how well it does, depends on what it attacks: random weights would measure nothing.
"""

import hashlib
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
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
