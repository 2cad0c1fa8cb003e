"""Attacks, and epochs of training by them, as fastadv's commands run them, beside others:
`python -m benchmarks.apart pgd|friendly|epgd|madry|fat|smd [NETWORK [SAMPLES [ROUNDS]]]`.

Every side in a process of its own, by turns, because the C library keeps freed memory for a whole process or not at all
(`fastadv.keep_freed_memory`). A process warms up once and takes the median of two.
"""

import copy
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import partial

import torch

import fastadv
from fastadv.attacks import EPGD, PGD, FriendlyPGD, tuned

from . import models
from .peers import Prepare, early_stop_as_published, epgd_as_printed, torchattacks
from .test_training import ALPHA, EPS, MADRY, STEPS, TRAININGS, Epoch, by_fit
from .timing import Timed

Side = Callable[[str, int], Callable[[], object]]
"""From a network's name and a number of samples to what is timed."""


def attack(prepare: Prepare) -> Side:
    """On as many samples."""

    def prepared(network: str, samples: int) -> Callable[[], object]:
        model, (x, y) = models.trained(network), models.classified(network, samples)
        return partial(prepare(model), x, y)

    return prepared


def measured(**allowed: bool) -> Side:
    """PGD with the gradients that measuring finds fastest among those `allowed`."""

    def prepared(network: str, samples: int) -> Callable[[], object]:
        model, (x, y) = models.trained(network), models.classified(network, samples)
        found = tuned(model, x, **allowed)
        print(found.extra_repr(), file=sys.stderr)
        return partial(PGD(EPS, ALPHA, STEPS, random_start=0.0), found, x, y)

    return prepared


def epoch(train: Epoch) -> Side:
    """Training on as many samples."""

    def prepared(network: str, samples: int) -> Callable[[], object]:
        start, data = models.trained(network), models.data("train").take(samples)
        return lambda: train(copy.deepcopy(start), data)

    return prepared


def sides(training: str, *names: str) -> dict[str, Side]:
    return {name: epoch(TRAININGS[training][name]) for name in names}


# The first side is the one that fastadv, whose memory alone is kept, is compared with.
SIDES: dict[str, dict[str, Side]] = {
    "pgd": {
        "torchattacks": attack(torchattacks("PGD", eps=EPS, alpha=ALPHA, steps=STEPS, random_start=False)),
        "float32": measured(),
        "bfloat16": measured(bf16=True),
        "bfloat16, compiled": measured(bf16=True, compiled=True),
    },
    "friendly": {
        "as published": attack(early_stop_as_published(EPS, ALPHA, steps=STEPS)),
        "fastadv": attack(lambda model: partial(FriendlyPGD(EPS, ALPHA, STEPS, tau=0, random_start=0.0), model)),
    },
    "epgd": {
        "as published": attack(epgd_as_printed(EPS, 4 * EPS / 20, steps=20, bisections=10)),
        "fastadv": attack(lambda model: partial(EPGD(EPS, steps=20, bisections=10), model)),
    },
    "madry": {
        **sides("PGD-AT, 10 steps", "torchattacks", "fastadv", "bfloat16"),
        "channels_last": epoch(by_fit(MADRY, memory_format="channels_last")),
        "bfloat16, channels_last": epoch(by_fit(MADRY, precision="bfloat16", memory_format="channels_last")),
    },
    "fat": sides("FAT, PGD-10-0", "as published", "fastadv"),
    "smd": sides("SMD, EPGD-20-10", "as published", "fastadv"),
}


def seconds(what: str, network: str, samples: int, side: str) -> float:
    """Of one attack or epoch by `side`, in this process."""
    if side != next(iter(SIDES[what])):
        fastadv.keep_freed_memory()
    timed = Timed(SIDES[what][side](network, samples))
    for _ in range(3):
        timed()
    return timed.median()


def main(what: str, network: str = "resnet18", samples: str = "128", rounds: str = "3") -> None:
    models.trained(network)
    taken: dict[str, list[float]] = {side: [] for side in SIDES[what]}
    for _ in range(int(rounds)):
        for side, each in taken.items():
            command = [sys.executable, "-m", "benchmarks.apart", what, network, samples, side]
            each.append(float(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))
    other = next(iter(taken))
    theirs = statistics.median(taken[other])
    print(f"{what}, {network}, {samples} samples, {torch.get_num_threads()} thread(s)\n")
    print(f"| side | seconds | {other}'s over it |\n| --- | --- | --: |")
    for side, each in taken.items():
        print(f"| {side} | {', '.join(f'{s:.2f}' for s in each)} | {theirs / statistics.median(each):.2f} |")


if __name__ == "__main__":
    _, what, *rest = sys.argv
    if len(rest) == 3 and rest[2] in SIDES[what]:
        print(seconds(what, rest[0], int(rest[1]), rest[2]))
    else:
        main(what, *rest)
