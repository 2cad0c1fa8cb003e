"""PGD-10 as fastadv's commands run it, beside torchattacks: `python -m benchmarks.apart [NETWORK [SAMPLES [ROUNDS]]]`.

Every side in a process of its own, by turns, because the C library keeps freed memory for a whole process or not at all
(`fastadv.keep_freed_memory`). A process warms up once and takes the median of three attacks.
"""

import statistics
import subprocess
import sys

import torch

import fastadv
from fastadv.attacks import PGD, tuned

from . import models
from .peers import torchattacks
from .timing import Timed

EPS, ALPHA, STEPS = 0.1, 0.025, 10
SIDES = ("torchattacks", "tuned", "tuned, kept", "tuned, bf16, kept")


def seconds(side: str, network: str, samples: int) -> float:
    """Of one attack by `side`, in this process."""
    if side.endswith("kept"):
        fastadv.keep_freed_memory()
    model = models.trained(network)
    x, y = models.classified(network, samples)
    if side == "torchattacks":
        attack = torchattacks("PGD", eps=EPS, alpha=ALPHA, steps=STEPS, random_start=False)(model)
    else:
        found = tuned(model, x, bf16="bf16" in side)
        print(side, found.extra_repr(), file=sys.stderr)
        pgd = PGD(EPS, ALPHA, STEPS, random_start=0.0)
        attack = lambda x, y: pgd(found, x, y)  # noqa: E731
    timed = Timed(lambda: attack(x, y))
    for _ in range(4):
        timed()
    return timed.median()


def main(network: str = "resnet18", samples: str = "64", rounds: str = "3") -> None:
    taken: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in range(int(rounds)):
        for side in SIDES:
            command = [sys.executable, "-m", "benchmarks.apart", network, samples, "1", side]
            taken[side].append(float(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))
    own = statistics.median(taken["tuned, kept"])
    print(f"{network}, {samples} samples, {torch.get_num_threads()} thread(s)\n")
    print("| side | seconds | as a multiple of the third |\n| --- | --- | --: |")
    for side, each in taken.items():
        print(f"| {side} | {', '.join(f'{s:.2f}' for s in each)} | {statistics.median(each) / own:.2f} |")


if __name__ == "__main__":
    if len(sys.argv) > 4:
        print(seconds(sys.argv[4], sys.argv[1], int(sys.argv[2])))
    else:
        main(*sys.argv[1:])
