"""PGD-10, and an epoch of training by it, as fastadv's commands run them, beside torchattacks:
`python -m benchmarks.apart attack|epoch [NETWORK [SAMPLES [ROUNDS]]]`.

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
from fastadv.attacks import PGD, tuned

from . import models
from .peers import torchattacks
from .test_training import ALPHA, EPS, MADRY, STEPS, by_fit, by_loop
from .timing import Timed

THEIRS = torchattacks("PGD", eps=EPS, alpha=ALPHA, steps=STEPS, random_start=False)
Side = Callable[[str, int], Callable[[], object]]
"""From a network's name and a number of samples to what is timed."""


def attack(own: bool, bf16: bool = False) -> Side:
    """PGD on as many samples; `own`: with the gradients that measuring finds fastest."""

    def prepared(network: str, samples: int) -> Callable[[], object]:
        model, (x, y) = models.trained(network), models.classified(network, samples)
        if not own:
            return partial(THEIRS(model), x, y)
        found = tuned(model, x, bf16=bf16)
        print(found.extra_repr(), file=sys.stderr)
        return partial(PGD(EPS, ALPHA, STEPS, random_start=0.0), found, x, y)

    return prepared


def epoch(own: bool, **settings: object) -> Side:
    """Training on as many samples."""
    train = by_fit(MADRY, **settings) if own else by_loop(THEIRS)

    def prepared(network: str, samples: int) -> Callable[[], object]:
        start, data = models.trained(network), models.data("train").take(samples)
        return lambda: train(copy.deepcopy(start), data)

    return prepared


SIDES: dict[str, dict[str, Side]] = {
    "attack": {"torchattacks": attack(False), "float32": attack(True), "bfloat16": attack(True, bf16=True)},
    "epoch": {
        "torchattacks": epoch(False),
        "float32": epoch(True),
        "float32, channels_last": epoch(True, channels_last=True),
        "bfloat16": epoch(True, precision="bfloat16"),
        "bfloat16, channels_last": epoch(True, precision="bfloat16", channels_last=True),
    },
}


def seconds(what: str, network: str, samples: int, side: str) -> float:
    """Of one attack or epoch by `side`, in this process."""
    if side != "torchattacks":
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
    theirs = statistics.median(taken["torchattacks"])
    print(f"{what}, {network}, {samples} samples, {torch.get_num_threads()} thread(s)\n")
    print("| side | seconds | torchattacks' over it |\n| --- | --- | --: |")
    for side, each in taken.items():
        print(f"| {side} | {', '.join(f'{s:.2f}' for s in each)} | {theirs / statistics.median(each):.2f} |")


if __name__ == "__main__":
    _, what, *rest = sys.argv
    if len(rest) == 3 and rest[2] in SIDES[what]:
        print(seconds(what, rest[0], int(rest[1]), rest[2]))
    else:
        main(what, *rest)
