"""The least time in which a network reaches a robust accuracy under AutoAttack: fastadv's way, and the usual loop's.

    python -m benchmarks.records TARGET SEED [SEED ...]

Both train LeNet-5 on Fashion-MNIST for L-infinity attacks of 0.1; TARGET is a percentage of the first 1,000 test
images, one of `WAYS`. The usual loop is Adam at 1e-3 around torchattacks' PGD-7, on all images, measured every half
epoch until it is there. fastadv's way is free adversarial training, on some of them; it has a fixed length, and its
result is what it is. Measuring is not timed. Prints a JSON line a run.
"""

import json
import resource
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastadv
from fastadv.attacks import FGSM, PGD, AutoAttack
from fastadv.info import environment
from fastadv.trainers import FreeAT, fit

from .peers import torchattacks

EPS = 0.1
TESTED = 1_000
ATTACKS = (
    PGD(eps=EPS, alpha=EPS / 4, steps=20, seed=0),
    AutoAttack(eps=EPS, seed=0, version="fast"),
    AutoAttack(eps=EPS, seed=0),
)
BATCH = 128  # of the usual loop
LONGEST = 12  # epochs of it


WAYS = {55: (15_000, 4)}
"""How many images, and how often each batch of them is trained on, by the percentage that is to be reached."""


class Clock:
    """Seconds by the clock and of processors, from when it is made until `stop`; `go` goes on."""

    def __init__(self) -> None:
        self.seconds = self.processors = 0.0
        self.go()

    def go(self) -> None:
        self.began = time.perf_counter(), _used()

    def stop(self) -> None:
        self.seconds += time.perf_counter() - self.began[0]
        self.processors += _used() - self.began[1]


def _used() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def robust(model: nn.Module, x: Tensor, y: Tensor, target: float = 0.0) -> float:
    """The percentage of samples that AutoAttack leaves right; that of a cheaper attack where it is below `target`."""
    model.eval()
    for attack in ATTACKS:
        found = [attack(model, some, of) for some, of in zip(x.split(250), y.split(250), strict=True)]
        with torch.no_grad():
            share = 100 * (model(torch.cat(found)).argmax(1) == y).double().mean().item()
        if share < target:
            break
    model.train()
    return share


def usual(model: nn.Module, train: fastadv.Dataset, seed: int) -> Iterator[float]:
    """Trains as in a loop by hand, and gives how many gradients a sample has taken, every half epoch."""
    attack = torchattacks("PGD", eps=EPS, alpha=EPS / 4, steps=7)(model)
    descent = torch.optim.Adam(model.parameters(), lr=1e-3)
    order = torch.Generator().manual_seed(seed)
    for epoch in range(LONGEST):
        batches = torch.randperm(len(train), generator=order).split(BATCH)
        for number, index in enumerate(batches, 1):
            x, y = train.x[index], train.y[index]
            model.eval()
            x_adv = attack(x, y)
            model.train()
            descent.zero_grad()
            F.cross_entropy(model(x_adv), y).backward()
            descent.step()
            if number in (len(batches) // 2, len(batches)):
                yield 8 * (epoch + number / len(batches))


def run(side: str, target: int, seed: int, train: fastadv.Dataset, test: fastadv.Dataset) -> dict[str, Any]:
    torch.manual_seed(seed)
    model, x, y = fastadv.models.LeNet5(), test.x[:TESTED], test.y[:TESTED]
    clock = Clock()
    if side == "fastadv":
        images, replays = WAYS[target]
        some = train.x[:images], train.y[:images]
        method = FreeAT(attack=FGSM(eps=EPS), replays=replays)
        how = {"epochs": 1, "batch_size": 64, "lr": 5e-3, "schedule": "one-cycle", "memory_format": "preserve"}
        fit(model, method, some, seed=seed, **how)
        clock.stop()
        gradients, found = replays * images / len(train), robust(model, x, y)
    else:
        for done in usual(model, train, seed):
            clock.stop()
            gradients = done
            if (found := robust(model, x, y, target)) >= target:
                break
            clock.go()
        else:
            raise RuntimeError(f"the loop has not come to {target} %: give it more epochs (LONGEST)")
    with torch.no_grad():
        clean = 100 * (model.eval()(x).argmax(1) == y).double().mean().item()
    return {
        "side": side, "target": target, "seed": seed, "autoattack": found, "clean": clean, "seconds": clock.seconds,
        "processor seconds": clock.processors, "gradients": gradients, "threads": torch.get_num_threads(),
        "devices": environment()["devices"], "torch": torch.__version__,
    }  # fmt: skip


def main(target: int, *seeds: int) -> None:
    train, test = fastadv.data.load_halves("fashion-mnist")
    for seed in seeds:
        for side in ("torchattacks", "fastadv"):
            print(json.dumps(run(side, target, seed, train, test)), flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
