"""An epoch of adversarial training by fastadv, beside the same epoch as others train it, and beside its own options.

All start from the same trained network and see the same batches. After the first epoch of each, what it did is looked
at: sides that claim to train the same have to end with the same loss, to a few percent (dropout and rounding differ).
Then they are timed again, by turns. `make bench` prints the tables (benchmarks/table.py).
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import fastadv
from fastadv.attacks import PGD, DeepFool, FriendlyPGD
from fastadv.trainers import SMD, TRADES, Blind, Friendly, Madry, Method

from . import models
from .peers import Prepare, adv_lib, early_stop_as_published, epgd_as_printed, foolbox, torchattacks
from .timing import DEVICE, Counted, Timed, peak_memory

EPS, ALPHA, STEPS = 0.1, 0.025, 10
ATTACK = {"eps": EPS, "alpha": ALPHA, "steps": STEPS, "random_start": 0.0}
KL = ATTACK | {"random_start": "gaussian-unclipped", "loss": "kl"}
BATCH, LR, BETA = 128, 0.01, 6.0
SECONDS = 8.0 if DEVICE == "cuda" else 120.0  # for the rounds of one comparison, beyond the first
IMAGES = {"lenet5": 2560, "lenet5, robust": 2560, "small-cnn": 1280, "resnet18": 128}
IMAGES = dict.fromkeys(IMAGES, 12_800) | {"resnet18": 2560} if DEVICE == "cuda" else IMAGES
# On a GPU; graphs are captured in every epoch.
FASTEST = {"precision": "bfloat16", "memory_format": "channels_last", "graphs": True}
# By which there are fewer images: torchattacks' DeepFool takes one at a time.
SLOW = {"Blind AT, DeepFool-10": 20 if DEVICE == "cuda" else 4}
CLOSE = 0.05  # of the loss, by which two ways to train the same may differ

Epoch = Callable[[nn.Module, fastadv.Dataset], float]
Objective = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]
"""A loss of (model, x, x_adv, y)."""


@dataclass
class Trained:
    """An epoch: its mean `loss`, how many samples went `forward` and `backward` for one of the data, and MB of tensors.

    `peak`: the most at once in the training of one batch, beside the network and the data.
    """

    loss: float
    forwards: float
    gradients: float
    peak: float = 0.0


def by_fit(method: Method, **settings: Any) -> Epoch:
    """fastadv's epoch."""

    def epoch(model: nn.Module, train: fastadv.Dataset) -> float:
        how = {"epochs": 1, "batch_size": BATCH, "lr": LR, "optimizer": "sgd"} | settings
        return fastadv.fit(model, method, train, **how)[0]["loss"]

    return epoch


def uncounted(epoch: Epoch) -> Epoch:
    """`epoch` of the network itself: torch.compile cannot look into hooks, and graphs are replayed without them."""
    return lambda counted, train: epoch(counted.model, train)


def batches(train: fastadv.Dataset) -> Iterator[tuple[Tensor, Tensor]]:
    """A loader of tensors, in fit's order; of data on a GPU, batches from there, as fit takes them."""
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    if train.device.type == "cuda":
        yield from ((train.x[index], train.y[index]) for index in order.to(train.device).split(BATCH))
        return
    order = order.tolist()
    for x, y in DataLoader(TensorDataset(train.x.cpu(), train.y.cpu()), batch_size=BATCH, sampler=order):
        yield x.to(DEVICE), y.to(DEVICE)


def cross_entropy_of_attacked(model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(model(x_adv), y)


def by_loop(prepare: Prepare, objective: Objective = cross_entropy_of_attacked) -> Epoch:
    """The usual loop around an attack: eval mode, attack, train mode, step."""

    def epoch(model: nn.Module, train: fastadv.Dataset) -> float:
        attack, descent = prepare(model), torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9)
        total = 0.0
        for x, y in batches(train):
            model.eval()
            x_adv = attack(x, y)
            model.train()
            descent.zero_grad()
            loss = objective(model, x, x_adv, y)
            loss.backward()
            descent.step()
            total += loss.item() * len(y) / len(train)
        return total

    return epoch


def blind(model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor) -> Tensor:
    """Blind AT's cutoff and scale, and its loss, by hand."""
    delta = x_adv.detach() - x
    sizes = delta.flatten(1).norm(dim=1)
    delta = 0.9 * (sizes.mean() / sizes.clamp_min(1e-12)).clamp(max=1).view(-1, 1, 1, 1) * delta
    smooth = {"label_smoothing": 0.1}
    return F.cross_entropy(model(x), y, **smooth) + F.cross_entropy(model(x + delta), y, **smooth)


def of_predictions(prepare: Prepare) -> Prepare:
    """The attack away from what the network says, whatever the labels."""

    def prepared(model: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
        attack = prepare(model)

        def away(x: Tensor, _: Tensor) -> Tensor:
            with torch.no_grad():
                y = model(x).argmax(dim=1)
            return attack(x, y)

        return away

    return prepared


def smd_as_printed(model: nn.Module, train: fastadv.Dataset) -> float:
    """The first epoch of SMD's Algorithm 1, with EPGD as it is printed: margins are all 128 grey levels yet."""
    descent = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9)
    largest = 128 / 255
    attack = epgd_as_printed(largest, 4 * largest / 20, steps=20, bisections=10)(model)
    total = 0.0
    for x, y in batches(train):
        model.eval()
        with torch.no_grad():
            right = model(x).argmax(dim=1) == y
        x_adv = attack(x[right], y[right]).requires_grad_()
        (grad,) = torch.autograd.grad(F.cross_entropy(model(x_adv), y[right], reduction="sum"), x_adv)
        reached = (x_adv.detach() - x[right]).flatten(1).abs().amax(dim=1)
        steepness = grad.flatten(1).abs().amax(dim=1)
        reached.minimum(largest + 1 / (1 + steepness))  # the margins of the next epoch
        model.train()
        descent.zero_grad()
        loss = (F.cross_entropy(model(x), y) + F.cross_entropy(model(x_adv.detach()), y[right])) / 2
        loss.backward()
        descent.step()
        total += loss.item() * len(y) / len(train)
    return total


def plain_pgd(model: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    """PGD as people write it by hand."""

    def attack(x: Tensor, y: Tensor) -> Tensor:
        x_adv = x.clone()
        for _ in range(STEPS):
            x_adv.requires_grad_()
            F.cross_entropy(model(x_adv), y).backward()
            x_adv = x_adv.detach() + ALPHA * x_adv.grad.sign()
            x_adv = torch.max(torch.min(x_adv, x + EPS), x - EPS).clamp(0, 1)
        return x_adv

    return attack


def trades_as_published(model: nn.Module, train: fastadv.Dataset) -> float:
    """TRADES in the manner of its published code: the clean prediction anew at every step of the attack."""
    divergence, descent = nn.KLDivLoss(reduction="sum"), torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9)
    total = 0.0
    for x, y in batches(train):
        model.eval()
        x_adv = x + 0.001 * torch.randn_like(x)
        for _ in range(STEPS):
            x_adv.requires_grad_()
            apart = divergence(F.log_softmax(model(x_adv), dim=1), F.softmax(model(x), dim=1))
            (grad,) = torch.autograd.grad(apart, [x_adv])
            x_adv = x_adv.detach() + ALPHA * grad.sign()
            x_adv = torch.min(torch.max(x_adv, x - EPS), x + EPS).clamp(0, 1)
        model.train()
        descent.zero_grad()
        clean = model(x)
        robust = divergence(F.log_softmax(model(x_adv), dim=1), F.softmax(clean, dim=1)) / len(x)
        loss = F.cross_entropy(clean, y) + BETA * robust
        loss.backward()
        descent.step()
        total += loss.item() * len(y) / len(train)
    return total


def passes_alone(model: nn.Module, train: fastadv.Dataset) -> float:
    """What an epoch of PGD cannot do without: the network's passes, and the optimiser's steps."""
    descent = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9)
    total = 0.0
    for start in range(0, len(train), BATCH):
        x, y = train.x[start : start + BATCH], train.y[start : start + BATCH]
        model.eval().requires_grad_(False)
        for _ in range(STEPS):
            leaf = x.detach().requires_grad_()
            torch.autograd.grad(F.cross_entropy(model(leaf), y, reduction="sum"), leaf)
        model.train().requires_grad_(True)
        descent.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        descent.step()
        total += float(loss.detach()) * len(y) / len(train)
    return total


MADRY = Madry(attack=PGD(**ATTACK))
FAT = Friendly(attack=FriendlyPGD(**ATTACK), tau_schedule=[])


def on_gpu(method: Method) -> dict[str, Epoch]:
    return {"fastest": uncounted(by_fit(method, **FASTEST))} if DEVICE == "cuda" else {}


TRAININGS: dict[str, dict[str, Epoch]] = {
    "PGD-AT, 10 steps": {
        "fastadv": by_fit(MADRY),
        "bfloat16": by_fit(MADRY, precision="bfloat16"),
        **on_gpu(MADRY),
        "by hand": by_loop(plain_pgd),
        "torchattacks": by_loop(torchattacks("PGD", eps=EPS, alpha=ALPHA, steps=STEPS, random_start=False)),
        "passes alone": passes_alone,
    },
    "FAT, PGD-10-0": {
        "fastadv": by_fit(FAT),
        **on_gpu(FAT),
        "as published": by_loop(early_stop_as_published(EPS, ALPHA, STEPS)),
        "madry": by_fit(MADRY),
    },
    "TRADES, 10 steps": {
        "fastadv": by_fit(TRADES(attack=PGD(**KL), beta=BETA)),
        "bfloat16": by_fit(TRADES(attack=PGD(**KL), beta=BETA), precision="bfloat16"),
        "as published": trades_as_published,
    },
    "Blind AT, DeepFool-10": {
        "fastadv": by_fit(Blind(attack=DeepFool(steps=10))),
        "torchattacks": by_loop(of_predictions(torchattacks("DeepFool", steps=10, overshoot=0.02)), blind),
        "foolbox": by_loop(of_predictions(foolbox("L2DeepFoolAttack", steps=10, candidates=10, overshoot=0.02)), blind),
        "adv-lib": by_loop(of_predictions(adv_lib("df", steps=10, overshoot=0.02, return_unsuccessful=True)), blind),
    },
    "SMD, EPGD-20-10": {"fastadv": by_fit(SMD()), "as published": smd_as_printed},
    "options of PGD-AT": {
        "fastadv": by_fit(MADRY),
        "ema": by_fit(MADRY, ema=0.99),
        "clip": by_fit(MADRY, clip=100.0),
        "awp": by_fit(MADRY, awp=0.005),
        "channels_last": by_fit(MADRY, memory_format="channels_last"),
        "compiled": uncounted(by_fit(MADRY, compiled=True)),
        **({"graphs": uncounted(by_fit(MADRY, graphs=True))} if DEVICE == "cuda" else {}),
    },
}
OTHERWISE = ("madry", "passes alone", "awp")  # sides that do not claim to train the same


@pytest.mark.parametrize("network", models.NETWORKS)
@pytest.mark.parametrize("training", TRAININGS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:TensorFloat32:UserWarning")  # torch.compile's own
def test_epoch(training: str, network: str, benchmark) -> None:
    train = models.data("train").take(IMAGES[network] // SLOW.get(training, 1)).to(DEVICE)
    start = models.trained(network)

    def run(epoch: Epoch) -> Trained:
        torch._dynamo.reset()
        torch.manual_seed(0)  # of dropout
        model = Counted(copy.deepcopy(start))
        loss = epoch(model, train)
        return Trained(loss, model.forwards / len(train), model.backwards / len(train))

    timed: dict[str, Timed[Trained]] = {}
    found: dict[str, Trained] = {}
    skipped: dict[str, dict[str, str]] = {}
    for side, epoch in TRAININGS[training].items():
        one = Timed(lambda epoch=epoch: run(epoch))
        try:
            found[side] = one()
        except ImportError as error:
            skipped[side] = {"skipped": str(error).splitlines()[0]}
            continue
        timed[side] = one
        batch, model = train.take(BATCH), Counted(copy.deepcopy(start))
        found[side].peak = peak_memory(partial(epoch, model, batch)) / 1e6
    for side, other in found.items():
        if side not in OTHERWISE:
            assert found["fastadv"].loss == pytest.approx(other.loss, rel=CLOSE), side

    first = {side: one.median() for side, one in timed.items()}
    again = [one for side, one in timed.items() if side != "fastadv" and first[side] <= 5 * first["fastadv"]]

    def others() -> None:
        for one in again:  # of one that takes so much longer, once is enough to know the ratio
            one()

    rounds = max(1, min(4, int(SECONDS / sum(first.values()))))
    benchmark.pedantic(timed["fastadv"], setup=others, rounds=rounds)
    sides = {side: {**vars(found[side]), "seconds": one.median()} for side, one in timed.items()}
    info = {"training": training, "network": network, "data": models.data("train").name, "images": len(train)}
    benchmark.extra_info |= {**info, "sides": sides | skipped}
