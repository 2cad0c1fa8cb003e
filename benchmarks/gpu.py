"""Attacks and epochs of training on a GPU, beside other libraries:
``python -m benchmarks.gpu attacks|training FOLDER SECONDS``.

All sides of a comparison have the same network in the same precision, and the same images, already there and in the
same layout. Each is run once to warm up, and what it found is looked at; then they are timed by turns, synchronised.
In float32, convolutions round as PyTorch lets them by default, for all sides alike; what was found is judged exactly.

FOLDER receives attacks.json or training.json, written anew after every comparison, the most important first: none is
begun after SECONDS. The networks are trained for a while first, or come from FOLDER/networks, where training leaves
its own. On a CPU everything is tiny: that shows that it runs, and measures nothing.
"""

import copy
import datetime
import json
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastadv
from fastadv import attacks, ops
from fastadv.attacks import Attack, Tuned
from fastadv.evaluation import evaluate
from fastadv.float32 import exact_float32, float32_precision
from fastadv.trainers import TRADES, Madry, Method

from . import models, table
from .conftest import pytest_benchmark_update_machine_info
from .peers import Prepare, auto_attack, early_stop_as_published, foolbox, passes, torchattacks
from .test_training import (
    ALPHA,
    BETA,
    EPS,
    FAT,
    KL,
    MADRY,
    STEPS,
    Epoch,
    by_fit,
    by_loop,
    passes_alone,
    plain_pgd,
    trades_as_published,
)
from .timing import DEVICE, Counted, Timed, peak_memory

TINY = DEVICE == "cpu"
ROUNDS = 1 if TINY else 20
SECONDS = 6.0  # of one comparison, beyond the first calls
LONG = 5.0  # seconds, after which fastadv's own variants of an attack are left out, and its memory is not looked at
SHARD, KEPT = 15 * 2**20, 48 * 2**20  # bytes of a file of weights, and of all of them
LEARN = 0.02 if TINY else 25.0  # seconds of training of a network that is to be attacked
TAKE = 0.02 if TINY else 45.0  # and of one that is to be kept


@dataclass(frozen=True)
class Network:
    build: Callable[[tuple[int, ...], int], nn.Module]
    size: int
    batches: tuple[int, ...]
    images: int  # of an epoch

    @property
    def shape(self) -> tuple[int, int, int]:
        return 3, self.size, self.size


_SMALL = partial(fastadv.models.WideResNet, depth=10, widen=1)
FULL = {
    "resnet18": Network(fastadv.models.ResNet18, 32, (128, 512, 1024), 12_800),
    "wrn-28-10": Network(partial(fastadv.models.WideResNet, depth=28, widen=10), 32, (128, 512, 1024), 1_280),
    "resnet50": Network(models.ImageResNet50, 224, (64,), 640),
}
NETWORKS = (
    {
        "resnet18": Network(_SMALL, 32, (4, 6), 8),
        "wrn-28-10": Network(_SMALL, 32, (4,), 8),
        "resnet50": Network(models.ImageResNet50, 64, (2,), 4),
    }
    if TINY
    else FULL
)


@cache
def images(size: int, split: str) -> fastadv.Dataset:
    """Fashion-MNIST in three channels of so many pixels a side, on `DEVICE`, channels innermost."""
    data = models.data(split).take(64 if TINY else 12_800)
    x = F.pad(data.x, (2, 2, 2, 2)) if size == 32 else F.interpolate(data.x, size=size)
    x = x.expand(-1, 3, -1, -1).to(DEVICE).contiguous(memory_format=torch.channels_last)
    return fastadv.Dataset(x, data.y.to(DEVICE), data.classes, name=data.name)


class InBfloat16(nn.Module):
    """`model` as anybody writes it: under autocast, logits in the dtype of the images."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            return self.model(x).to(x.dtype)


PRECISIONS: dict[str, Callable[[nn.Module], nn.Module]] = {"float32": lambda model: model, "bfloat16": InBfloat16}


# ---------------------------------------------------------------------------------------------------------- networks


def taught(name: str, method: Method, seconds: float) -> nn.Module:
    """A new network after so many seconds of training in bfloat16."""
    network = NETWORKS[name]
    torch.manual_seed(0)
    model = network.build(network.shape, 10).to(DEVICE)
    how = {"precision": "bfloat16", "memory_format": "channels_last", "optimizer": "sgd", "lr": 0.05, "clip": 1.0}
    fastadv.fit(model, method, images(network.size, "train"), **how, minutes=seconds / 60, epochs=100)
    return model.eval()


@cache
def attacked(name: str, folder: Path) -> nn.Module:
    """A network that resists a little: where nothing does, attacks end before they begin."""
    network = NETWORKS[name]
    model = network.build(network.shape, 10)
    if not restore(model, f"{name}-pgd-at", folder):
        model = taught(name, Madry(attack=attacks.PGD(EPS, EPS / 2, 3)), LEARN)
    return model.to(DEVICE, memory_format=torch.channels_last).eval()


def keep(model: nn.Module, name: str, folder: Path) -> list[Path]:
    """Writes the weights in half precision, in files of at most `SHARD`; none where `KEPT` is not enough."""
    shards: list[dict[str, Tensor]] = [{}]
    for key, value in model.state_dict().items():
        half = value.detach().cpu().to(torch.float16 if value.is_floating_point() else value.dtype)
        if sum(each.nbytes for each in shards[-1].values()) + half.nbytes > SHARD:
            shards.append({})
        shards[-1][key] = half
    folder.mkdir(parents=True, exist_ok=True)
    size = sum(value.nbytes for shard in shards for value in shard.values())
    if size + sum(file.stat().st_size for file in folder.glob("*.pt")) > KEPT:
        return []
    files = [folder / f"{name}-{place}of{len(shards)}.pt" for place in range(1, len(shards) + 1)]
    for shard, file in zip(shards, files, strict=True):
        torch.save(shard, file)
    return files


def restore(model: nn.Module, name: str, folder: Path) -> bool:
    """Whether there are weights that `keep` wrote, which `model` then has."""
    files = list(folder.glob(f"{name}-*of*.pt"))
    shards = [torch.load(file, map_location="cpu", weights_only=True) for file in files]
    if files:
        model.load_state_dict({key: value for shard in shards for key, value in shard.items()})
    return bool(files)


# ---------------------------------------------------------------------------------------------------------- attacks


@dataclass(frozen=True)
class Case:
    """An attack and other libraries' side of it; `norm`: what perturbations are measured in; `samples`: at the most."""

    own: Attack
    sides: dict[str, Prepare] = field(default_factory=dict)
    samples: int = 1024


PGD = {"eps": EPS, "alpha": ALPHA, "steps": 2 if TINY else 10}
MANY, QUERIES = (3, 4) if TINY else (100, 1000)
STANDARD = (
    attacks.AutoAttack(EPS, "custom", ("apgd-ce",)) if TINY else attacks.AutoAttack(EPS),
    ("apgd-ce",) if TINY else (),
)
CASES = {
    "PGD-10": Case(
        attacks.PGD(**PGD, random_start=0.0),
        {
            "bound": passes(PGD["steps"]),
            "torchattacks": torchattacks("PGD", **PGD, random_start=False),
            "foolbox": foolbox("LinfPGD", EPS, abs_stepsize=ALPHA, steps=PGD["steps"], random_start=False),
        },
    ),
    "APGD-CE": Case(attacks.APGD(EPS, steps=MANY), {"auto-attack": auto_attack(EPS, "apgd-ce", steps=MANY)}),
    "Square": Case(attacks.Square(EPS, queries=QUERIES), {"auto-attack": auto_attack(EPS, "square", queries=QUERIES)}),
    "DeepFool-10": Case(
        attacks.DeepFool(steps=PGD["steps"], candidates=10),
        {"foolbox": foolbox("L2DeepFoolAttack", steps=PGD["steps"], candidates=10, overshoot=0.02)},
    ),
    "DeepFool-10, 16": Case(  # one image at a time
        attacks.DeepFool(steps=PGD["steps"], candidates=10),
        {"torchattacks": torchattacks("DeepFool", steps=PGD["steps"], overshoot=0.02)},
        samples=2 if TINY else 16,
    ),
    "AutoAttack": Case(STANDARD[0], {"auto-attack": auto_attack(EPS, *STANDARD[1])}),
}


def plan_of_attacks() -> Iterator[tuple[str, str, int, str]]:
    """Attack, network, batch and precision of every comparison, the most important first."""
    for network, each in NETWORKS.items():
        yield "PGD-10", network, each.batches[0], "bfloat16"
    for precision in PRECISIONS:
        for name in ("PGD-10", "APGD-CE", "Square", "DeepFool-10"):
            if (name, precision) != ("PGD-10", "bfloat16"):
                yield name, "resnet18", NETWORKS["resnet18"].batches[0], precision
    for network in ("resnet18", "wrn-28-10"):
        for batch in NETWORKS[network].batches[1:]:
            yield "PGD-10", network, batch, "bfloat16"
    yield "AutoAttack", "resnet18", NETWORKS["resnet18"].batches[0], "bfloat16"
    for network in ("wrn-28-10", "resnet50"):
        for name in ("APGD-CE", "DeepFool-10"):
            yield name, network, NETWORKS[network].batches[0], "bfloat16"
    yield "DeepFool-10, 16", "resnet18", NETWORKS["resnet18"].batches[0], "float32"
    for network in ("wrn-28-10", "resnet50"):
        yield "PGD-10", network, NETWORKS[network].batches[0], "float32"


def compared(name: str, network: str, batch: int, precision: str, folder: Path) -> dict[str, object]:
    """What `table.of_attacks` takes."""
    case, model, test = CASES[name], attacked(network, folder / "networks"), images(NETWORKS[network].size, "test")
    count = min(batch, case.samples)
    x, y = test.x[:count], test.y[:count]
    dtype = torch.bfloat16 if precision == "bfloat16" else None
    sides: dict[str, dict[str, object]] = {}
    timed: dict[str, Timed] = {}

    def own(model: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
        return partial(case.own.seeded(0), model)

    prepares = {
        "fastadv": lambda counted: own(PRECISIONS[precision](counted)),
        **({"tuned": lambda counted: own(Tuned(counted, dtype=dtype))} if dtype else {}),
        "graphs": lambda _: own(Tuned(model, dtype=dtype, graphs=True)),  # which count nothing
        **{side: lambda counted, p=p: p(PRECISIONS[precision](counted)) for side, p in case.sides.items()},
    }
    for side, prepare in prepares.items():
        if side in ("tuned", "graphs") and "fastadv" in timed and timed["fastadv"].median() > LONG:
            continue
        counted = Counted(model).eval()
        try:
            attack = prepare(counted)
            one = Timed(partial(attack, x, y))
            x_adv = one().detach()
            quality = {} if side == "bound" else judged(case.own, model, x, y, x_adv)
        except Exception as error:  # a side that fails, or is not installed, costs its column only
            sides[side] = {"skipped": f"{type(error).__name__}: {error}".splitlines()[0]}
            print(f"{name}, {network}: {side} skipped: {sides[side]['skipped']}", flush=True)
            continue
        timed[side] = one
        sides[side] = {"forwards": counted.forwards / count, "gradients": counted.backwards / count, **quality}
    by_turns(timed)
    for side, one in timed.items():
        sides[side] |= {"seconds": one.median(), "rounds": len(one.seconds)}
        if one.median() <= LONG:
            sides[side]["peak"] = peak_memory(one.call) / 1e6
    info = {"attack": f"{name}, {precision}", "network": network, "data": test.name, "samples": count, "sides": sides}
    return info | {"batch": batch, "precision": precision}


@exact_float32()
def judged(attack: Attack, model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor) -> dict[str, float]:
    """The accuracy that is left, and the median size of the perturbations that succeed, or of all."""
    with torch.no_grad():
        fooled, right = model(x_adv).argmax(dim=1) != y, model(x).argmax(dim=1) == y
    size = ops.row_norms(x_adv, attack.norm, x)
    assert not attack.has_budget or size.max() <= 1.0001 * EPS
    moved = size[fooled & right] if (fooled & right).any() else size
    return {"accuracy": float((~fooled).double().mean()), "norm": float(moved.median())}


def by_turns(timed: dict[str, Timed]) -> None:
    """Runs every side again, in another order every time; one that takes five times as long as fastadv, no more."""
    first = {side: one.median() for side, one in timed.items()}
    order = deque(one for side, one in timed.items() if first[side] <= 5 * first["fastadv"])
    for _ in range(max(1, min(ROUNDS, int(SECONDS / sum(first.values()))))):
        for one in order:
            one()
        order.rotate()


# --------------------------------------------------------------------------------------------------------- training

TRAININGS: dict[str, tuple[Method, dict[str, Epoch]]] = {
    "PGD-AT": (
        MADRY,
        {
            "by hand": by_loop(plain_pgd),
            "torchattacks": by_loop(torchattacks("PGD", eps=EPS, alpha=ALPHA, steps=STEPS, random_start=False)),
            "passes alone": passes_alone,
        },
    ),
    "FAT": (FAT, {"as published": by_loop(early_stop_as_published(EPS, ALPHA, STEPS))}),
    "TRADES": (TRADES(attack=attacks.PGD(**KL), beta=BETA), {"as published": trades_as_published}),
}


def plan_of_epochs() -> Iterator[tuple[str, str, str]]:
    """Method, network and precision. The attack of TRADES stays in float32 whatever the network's precision is."""
    for network, precision in (("resnet18", "bfloat16"), ("resnet18", "float32"), ("wrn-28-10", "bfloat16")):
        for training in TRAININGS:
            if training != "TRADES" or precision == "float32":
                yield training, network, precision
    yield "PGD-AT", "resnet50", "bfloat16"


def epochs(training: str, network: str, precision: str, folder: Path) -> dict[str, object]:
    """What `table.of_training` takes."""
    method, peers = TRAININGS[training]
    train = images(NETWORKS[network].size, "train").take(NETWORKS[network].images)
    start = attacked(network, folder / "networks")
    settings = {"precision": precision, "memory_format": "channels_last"}
    sides = {
        "fastadv": by_fit(method, **settings),
        **({} if TINY else {"graphs": by_fit(method, **settings, graphs=True)}),
        **peers,
    }
    timed: dict[str, Timed] = {}
    found: dict[str, dict[str, object]] = {}

    def run(side: str, epoch: Epoch) -> tuple[float, Counted]:
        torch.manual_seed(0)
        model = copy.deepcopy(start)
        counted = Counted(model)
        given = model if side == "graphs" else counted if side == "fastadv" else PRECISIONS[precision](counted)
        return epoch(given, train), counted

    for side, epoch in sides.items():
        one = Timed(partial(run, side, epoch))
        try:
            loss, counted = one()
        except Exception as error:
            found[side] = {"skipped": f"{type(error).__name__}: {error}".splitlines()[0]}
            print(f"{training}, {network}: {side} skipped: {found[side]['skipped']}", flush=True)
            continue
        timed[side] = one
        passed = {"forwards": counted.forwards / len(train), "gradients": counted.backwards / len(train)}
        found[side] = {"loss": loss, **passed}
    by_turns(timed)
    for side, one in timed.items():
        found[side]["seconds"] = one.median()
    info = {"training": f"{training}, {precision}", "network": network, "data": train.name, "images": len(train)}
    return info | {"sides": found, "precision": precision}


def networks(folder: Path, ends: float) -> Iterator[dict[str, object]]:
    """Robust networks, what they withstand, and where their weights are."""
    test = images(32, "test").take(8 if TINY else 1000)
    tests = {"pgd-20": attacks.PGD(EPS, EPS / 10, PGD["steps"] * 2), "apgd": attacks.APGD(EPS, steps=MANY)}
    for training, (method, _) in TRAININGS.items():
        if time.monotonic() > ends:
            return
        model = taught("resnet18", method, TAKE)
        found = evaluate(model, test, tests, checks=0)
        files = keep(model, f"resnet18-{training.lower()}", folder / "networks")
        accuracy = {name: result.accuracy for name, result in found.results.items()}
        yield {"trained": training, "clean": found.clean, **accuracy, "files": [file.name for file in files]}


# ------------------------------------------------------------------------------------------------------------- main


def main(what: str, folder: str, seconds: str) -> None:
    ends, out = time.monotonic() + float(seconds), Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    machine: dict[str, object] = {"cpu": {"brand_raw": "CPU"}}
    pytest_benchmark_update_machine_info(None, machine)
    machine["float32"] = float32_precision()
    run = {"machine_info": machine, "datetime": datetime.datetime.now().isoformat(), "benchmarks": []}
    planned = {"attacks": plan_of_attacks, "training": plan_of_epochs}[what]
    measure = {"attacks": compared, "training": epochs}[what]

    def note(info: dict[str, object]) -> None:
        run["benchmarks"].append({"extra_info": info})
        (out / f"{what}.json").write_text(json.dumps(run, indent=1))

    warnings.simplefilter("ignore")  # libraries use what Python and NumPy are about to remove
    if what == "training":
        for info in networks(out, ends):
            note(info)
            print(info, flush=True)
    for each in planned():
        if time.monotonic() > ends:
            print(f"no time for {', '.join(map(str, each))}", flush=True)
            continue
        try:
            info = measure(*each, out)
        except Exception as error:  # the others are measured all the same
            note({"failed": each, "error": f"{type(error).__name__}: {error}"})
            print(f"{', '.join(map(str, each))} failed: {type(error).__name__}: {error}", flush=True)
            continue
        note(info)
        taken = {side: f"{one['seconds']:.4f} s" for side, one in info["sides"].items() if "seconds" in one}
        print(f"{', '.join(map(str, each))}: {taken}", flush=True)
    print(table.of_run(run))


if __name__ == "__main__":
    main(*sys.argv[1:])
