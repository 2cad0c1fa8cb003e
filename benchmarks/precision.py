"""What bfloat16 costs in robust accuracy:
`python -m benchmarks.precision [NETWORK [IMAGES [EPOCHS [SEEDS [FIRST [TEST [SIDE [SCHEDULE]]]]]]]]`.

Madry's training (PGD-10) of a network by every precision, from the same weights and on the same batches, for as many
epochs; then PGD-20 in float32 on the first TEST test images, by default all, which withstand it if no iterate of it is
misclassified. How far seeds differ says what chance does. Images are SIDE pixels wide and high, by default as they are:
half of that takes a quarter of the time. The learning rate stays, or falls by one of `fit`'s schedules: where it stays,
residual networks end some points up or down.
"""

import dataclasses
import math
import statistics
import sys

import torch
from torch.nn.functional import adaptive_avg_pool2d

import fastadv
from fastadv.attacks import PGD, FriendlyPGD
from fastadv.evaluation import evaluate
from fastadv.trainers import Madry

from . import models
from .timing import DEVICE, Timed

EPS = 0.1
PRECISIONS = ("float32", "bfloat16")
TRAINING = Madry(attack=PGD(EPS, EPS / 4, 10))
TEST = {"pgd20": FriendlyPGD(EPS, EPS / 10, 20)}  # with tau 0: the fewest passes


def robust_accuracy(
    network: str,
    precision: str,
    train: fastadv.Dataset,
    test: fastadv.Dataset,
    epochs: int,
    seed: int,
    schedule: str,
) -> tuple[float, float]:
    """In per cent, and the seconds of training."""
    torch.manual_seed(seed)
    model = fastadv.models.build(network, tuple(train.x.shape[1:]), len(train.classes)).to(DEVICE)
    how = {"optimizer": "adam", "lr": 0.001, "batch_size": 128, "epochs": epochs, "schedule": schedule, "seed": seed}
    training = Timed(lambda: fastadv.fit(model, TRAINING, train, precision=precision, **how))
    training()
    return 100 * evaluate(model, test, TEST, checks=0).results["pgd20"].accuracy, training.median()


def resized(data: fastadv.Dataset, side: int) -> fastadv.Dataset:
    """With the mean of the pixels that become one."""
    return dataclasses.replace(data, x=adaptive_avg_pool2d(data.x, side))


def main(
    network: str = "lenet5",
    images: str = "20000",
    epochs: str = "4",
    seeds: str = "3",
    first: str = "0",
    test: str = "10000",
    side: str = "28",
    schedule: str = "steps",
) -> None:
    print(
        f"{network}, {images} images of {side}x{side}, {epochs} epochs, {schedule}: PGD-20 at {EPS}, %, and seconds",
        end="\n\n",
    )
    fastadv.keep_freed_memory()  # as commands do
    splits = [resized(models.data(s).take(int(n)), int(side)) for s, n in (("train", images), ("test", test))]
    print(f"| seed | {' | '.join(PRECISIONS)} | difference |\n| --- {'| --: ' * (len(PRECISIONS) + 1)}|")
    differences = []
    for seed in range(int(first), int(first) + int(seeds)):
        found = [robust_accuracy(network, each, *splits, int(epochs), seed, schedule) for each in PRECISIONS]
        differences.append(found[1][0] - found[0][0])
        cells = " | ".join(f"{accuracy:.2f} ({seconds:.0f} s)" for accuracy, seconds in found)
        print(f"| {seed} | {cells} | {differences[-1]:+.2f} |", flush=True)
        error = statistics.stdev(differences) / len(differences) ** 0.5 if len(differences) > 1 else math.nan
        print(f"mean {statistics.mean(differences):+.2f}, standard error {error:.2f}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
