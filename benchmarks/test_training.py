"""An epoch of friendly adversarial training beside the same epoch as published, and beside one of standard training.

All start from the same trained network and see the same batches. After the first epoch of each, what it did is looked
at: fastadv's friendly epoch has to end with the loss and the gradients of the published way, to a few percent (dropout
and rounding differ). Then they are timed again, by turns. `make bench` prints the table (benchmarks/table.py).
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import fastadv
from fastadv.attacks import PGD, FriendlyPGD
from fastadv.trainers import Friendly, Madry, Method

from . import models
from .peers import early_stop_as_published
from .timing import DEVICE, Counted, Timed

ATTACK = {"eps": 0.1, "alpha": 0.025, "steps": 10, "random_start": 0.0}
BATCH, LR, ROUNDS = 128, 0.01, 4
IMAGES = {"lenet5": 2560, "lenet5, robust": 2560, "small-cnn": 1280, "resnet18": 256}
CLOSE = 0.05  # of the loss, by which two ways to train the same may differ

Epoch = Callable[[nn.Module, fastadv.Dataset], float]


@dataclass
class Trained:
    """An epoch: its mean `loss`, and how many samples went `forward` and `backward`, for one of the data."""

    loss: float
    forwards: float
    gradients: float


def by_fit(method: Method) -> Epoch:
    def epoch(model: nn.Module, train: fastadv.Dataset) -> float:
        return fastadv.fit(model, method, train, epochs=1, batch_size=BATCH, lr=LR, optimizer="sgd")[0]["loss"]

    return epoch


def as_published(model: nn.Module, train: fastadv.Dataset) -> float:
    """FAT in the manner of its published code: a loader, samples in the order in which they leave the attack."""
    attack = early_stop_as_published(ATTACK["eps"], ATTACK["alpha"], ATTACK["steps"])(model)
    descent = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0)).tolist()  # as fit's
    total = 0.0
    for x, y in DataLoader(TensorDataset(train.x.cpu(), train.y.cpu()), batch_size=BATCH, sampler=order):
        x, y = x.to(DEVICE), y.to(DEVICE)
        model.eval()
        x_adv = attack(x, y)
        model.train()
        descent.zero_grad()
        loss = F.cross_entropy(model(x_adv), y)
        loss.backward()
        descent.step()
        total += loss.item() * len(y) / len(train)
    return total


SIDES: dict[str, Epoch] = {
    "fastadv": by_fit(Friendly(attack=FriendlyPGD(**ATTACK), tau_schedule=[])),
    "as published": as_published,
    "madry": by_fit(Madry(attack=PGD(**ATTACK))),
}


@pytest.mark.parametrize("network", models.NETWORKS)
def test_friendly_epoch(network: str, benchmark) -> None:
    train = models.data("train").take(IMAGES[network]).to(DEVICE)
    start = models.trained(network).to(DEVICE)

    def run(epoch: Epoch) -> Trained:
        model = Counted(copy.deepcopy(start))
        loss = epoch(model, train)
        return Trained(loss, model.forwards / len(train), model.backwards / len(train))

    timed = {side: Timed(lambda epoch=epoch: run(epoch)) for side, epoch in SIDES.items()}
    found = {side: one() for side, one in timed.items()}
    own, other = found["fastadv"], found["as published"]
    assert own.loss == pytest.approx(other.loss, rel=CLOSE)
    assert own.gradients == pytest.approx(other.gradients, rel=CLOSE)

    def others() -> None:
        for side in ("as published", "madry"):
            timed[side]()

    benchmark.pedantic(timed["fastadv"], setup=others, rounds=ROUNDS)
    sides = {side: {**vars(found[side]), "seconds": one.median()} for side, one in timed.items()}
    info = {"training": "FAT, PGD-10-0", "network": network, "data": models.data("train").name, "images": len(train)}
    benchmark.extra_info |= {**info, "sides": sides}
