"""The least time in which a network reaches a robust accuracy under AutoAttack: fastadv's way, and the usual loop's.

    python -m benchmarks.records LEVEL SEED [SEED ...] [--model lenet5|small-cnn|resnet18]

Both train the network on Fashion-MNIST for L-infinity attacks of 0.1; LEVEL is a percentage of the first 1,000 test
images, one of the network's `WAYS`. The usual loop is Adam at 1e-3 around torchattacks' PGD-7, on all images, measured
every half epoch until it is there. fastadv's way has a fixed length, and its result is what it is. Measuring is not
timed. Prints a JSON line a run. Its gradients are passes backward through the network, of attacks and of training, for
each of the 60,000 images; its joules are those of the processors, whatever ran on them, and null where the machine does
not tell or a GPU trains.
"""

import argparse
import json
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastadv
from fastadv.attacks import FGSM, PGD, AutoAttack
from fastadv.info import environment
from fastadv.trainers import FreeAT, Method, fit

from .peers import torchattacks

EPS = 0.1
TESTED = 1_000
ATTACKS = (
    PGD(eps=EPS, alpha=EPS / 4, steps=20, seed=0),
    AutoAttack(eps=EPS, seed=0, version="fast"),
    AutoAttack(eps=EPS, seed=0),
)
BATCH = 128  # of the usual loop
LONGEST = 70  # epochs of it
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ZONES = Path("/sys/class/powercap")
MOST = 1_000.0  # watts of a processor, beyond which its counter may have gone round more than once


@dataclass(frozen=True)
class Way:
    """How fastadv trains: by a method, on the first `images`, for so many epochs."""

    method: Callable[[], Method]
    images: int
    epochs: int = 1
    lr: float = 5e-3
    batch_size: int = 64


def free(replays: int) -> Callable[[], Method]:
    return lambda: FreeAT(attack=FGSM(eps=EPS), replays=replays)


# The first is measured, in results/2026-11-30-records.md. The others are where to begin: no run has tried them.
WAYS = {
    "lenet5": {55: Way(free(4), 15_000), 60: Way(free(4), 60_000), 65: Way(free(4), 60_000, epochs=4)},
    "small-cnn": {55: Way(free(4), 15_000), 60: Way(free(4), 30_000), 65: Way(free(4), 60_000)},
    "resnet18": {55: Way(free(4), 15_000), 60: Way(free(4), 30_000), 65: Way(free(4), 60_000)},
}


class Clock:
    """Seconds by the clock and of processors, and joules, from when it is made until `stop`; `go` goes on."""

    def __init__(self) -> None:
        self.seconds = self.processors = 0.0
        self.joules: float | None = 0.0
        self.go()

    def go(self) -> None:
        self.began = time.perf_counter(), _used(), _energy()

    def stop(self) -> None:
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        began, used, energy = self.began
        seconds = time.perf_counter() - began
        self.seconds += seconds
        self.processors += _used() - used
        spent = _spent(energy, _energy(), seconds)
        self.joules = None if self.joules is None or spent is None else self.joules + spent


def _used() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _energy() -> dict[Path, tuple[int, int]]:
    """The counter of each processor in microjoules (RAPL), and after how many it begins again; empty if untold."""
    try:
        zones = [zone for zone in ZONES.glob("*rapl:*") if (zone / "name").read_text().startswith("package")]
        names = "energy_uj", "max_energy_range_uj"
        return {zone: tuple(int((zone / name).read_text()) for name in names) for zone in zones}
    except OSError:  # since 2020, Linux lets root alone read them
        return {}


def _spent(before: dict[Path, tuple[int, int]], after: dict[Path, tuple[int, int]], seconds: float) -> float | None:
    """The joules between two readings, whose counters began again once at most; None where nobody knows."""
    known = before and before.keys() == after.keys() and DEVICE.type == "cpu"
    if not known or any(seconds > around / 1e6 / MOST for _, around in after.values()):
        return None
    return sum((count - before[zone][0]) % around for zone, (count, around) in after.items()) / 1e6


def robust(model: nn.Module, x: Tensor, y: Tensor, level: float = 0.0) -> float:
    """The percentage of samples that AutoAttack leaves right; that of a cheaper attack where it is below `level`."""
    model.eval()
    for attack in ATTACKS:
        found = [attack(model, some, of) for some, of in zip(x.split(250), y.split(250), strict=True)]
        share = right(model, torch.cat(found), y)
        if share < level:
            break
    model.train()
    return share


def right(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """The percentage of samples that `model` classifies correctly."""
    with torch.no_grad():
        return 100 * (model(x).argmax(1) == y).double().mean().item()


def usual(model: nn.Module, train: fastadv.Dataset, seed: int) -> Iterator[float]:
    """Trains as in a loop by hand, and gives how many gradients a sample has taken, every half epoch."""
    attack = torchattacks("PGD", eps=EPS, alpha=EPS / 4, steps=7)(model)
    descent = torch.optim.Adam(model.parameters(), lr=1e-3)
    order = torch.Generator().manual_seed(seed)
    for epoch in range(LONGEST):
        batches = torch.randperm(len(train), generator=order).split(BATCH)
        for number, index in enumerate(batches, 1):
            x, y = train.x[index].to(DEVICE), train.y[index].to(DEVICE)
            model.eval()
            x_adv = attack(x, y)
            model.train()
            descent.zero_grad()
            F.cross_entropy(model(x_adv), y).backward()
            descent.step()
            if number in (len(batches) // 2, len(batches)):
                yield 8 * (epoch + number / len(batches))


def fast(model: nn.Module, way: Way, train: fastadv.Dataset, seed: int) -> float:
    """Trains by `way`, and gives how many gradients a sample of `train` has taken, on average."""
    method, some = way.method(), (train.x[: way.images], train.y[: way.images])
    how = {"epochs": way.epochs, "batch_size": way.batch_size, "lr": way.lr, "schedule": "one-cycle"}
    history = fit(model, method, some, seed=seed, memory_format="preserve", **how)
    passes = sum(method.replays * (1 + row["gradients"]) for row in history)  # of training, and of its attack
    return passes * len(some[1]) / len(train)


def run(name: str, side: str, level: int, seed: int, train: fastadv.Dataset, test: fastadv.Dataset) -> dict[str, Any]:
    torch.manual_seed(seed)
    model = fastadv.models.build(name, train.sample_shape, len(train.classes)).to(DEVICE)
    x, y = test.x[:TESTED].to(DEVICE), test.y[:TESTED].to(DEVICE)
    clock = Clock()
    if side == "fastadv":
        gradients = fast(model, WAYS[name][level], train, seed)
        clock.stop()
        found = robust(model, x, y)
    else:
        for done in usual(model, train, seed):
            clock.stop()
            gradients = done
            if (found := robust(model, x, y, level)) >= level:
                break
            clock.go()
        else:
            raise RuntimeError(f"the loop has not come to {level} %: give it more epochs (LONGEST)")
    return {
        "model": name, "side": side, "target": level, "seed": seed, "autoattack": found,
        "clean": right(model.eval(), x, y), "seconds": clock.seconds, "processor seconds": clock.processors,
        "joules": clock.joules, "gradients": gradients, "threads": torch.get_num_threads(),
        "devices": environment()["devices"], "torch": torch.__version__,
    }  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("level", type=int, choices=sorted({level for ways in WAYS.values() for level in ways}))
    parser.add_argument("seeds", type=int, nargs="+")
    parser.add_argument("--model", choices=WAYS, default="lenet5")
    given = parser.parse_args(arguments)
    train, test = fastadv.data.load_halves("fashion-mnist")
    for seed in given.seeds:
        for side in ("torchattacks", "fastadv"):
            print(json.dumps(run(given.model, side, given.level, seed, train, test)), flush=True)


if __name__ == "__main__":
    main()
