"""Whether anything has become slower: ``python -m benchmarks.guard`` fails where something has by half, and with
``--write`` takes the ratios of now for the measure.

Ratios, of fastadv's time to that of plain PyTorch doing as much in the same minute, because they hold from one machine
to the next, more or less: the stored ones are the larger of those of processors with and without AVX-512 (of `l0_step`,
`l0_adam_step` and `sparse_l1_step`, one and a half times that of a processor without). One that is too high is measured
again, twice at the most: a busy machine is no slow-down.
"""

import copy
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

import fastadv
from fastadv import attacks, ops
from fastadv.trainers import SMD, TRADES, Blind, Madry, Standard

from .models import SIX
from .ops import CASES
from .peers import early_stop_as_published, epgd_as_printed, passes
from .test_training import ATTACK, KL, Epoch, by_fit, by_loop, plain_pgd, smd_as_printed, trades_as_published
from .timing import clock

STORED = Path(__file__).with_name("guard.json")
MARGIN, ROUNDS, TRIES = 1.5, 5, 3
SHAPE = (128, 3, 32, 32)
EPS, ALPHA = ATTACK["eps"], ATTACK["alpha"]

Sides = tuple[Callable[[], object], Callable[[], object]]
"""What fastadv does, and the same or as much in plain PyTorch."""


def of_ops() -> Iterator[tuple[str, Sides]]:
    for case in CASES:
        fused, plain = getattr(torch.ops.fastadv, case.op), ops.OPS[case.op].reference
        args = case.arguments(SHAPE)
        yield case.name, (partial(fused, *args), partial(plain, *args))


def of_attacks(model: fastadv.models.LeNet5, test: fastadv.Dataset) -> Iterator[tuple[str, Sides]]:
    """Beside their published form, or beside the passes of ten steps of PGD."""
    for attack, plain in (
        (attacks.PGD(**ATTACK), passes(10)),
        (attacks.FriendlyPGD(**ATTACK, tau=0), early_stop_as_published(EPS, ALPHA, 10)),
        (attacks.EPGD(eps=EPS), epgd_as_printed(EPS, 4 * EPS / 20, 20, 10)),
        (attacks.DeepFool(steps=10), passes(10)),
        (attacks.DRA(steps=10), passes(10)),
        (attacks.APGD(eps=EPS, steps=20), passes(10)),
        (attacks.FAB(steps=5), passes(10)),
        (attacks.Square(eps=EPS, queries=50), passes(10)),
    ):
        yield type(attack).__name__, (partial(attack, model, test.x, test.y), partial(plain(model), test.x, test.y))


def of_networks() -> Iterator[tuple[str, Sides]]:
    """PGD as it comes, beside its bare passes: what is asked for is 1.02."""
    for name, (kind, shape) in SIX.items():
        count = 128 if name == "LeNet-5" else 8
        model, x, y = kind(shape, 10).eval(), torch.rand(count, *shape), torch.arange(count) % 10
        yield f"PGD, {name}", (partial(attacks.PGD(EPS, ALPHA, 2), model, x, y), partial(passes(2)(model), x, y))


def of_training(model: fastadv.models.LeNet5, train: fastadv.Dataset) -> Iterator[tuple[str, Sides]]:
    """Beside loops by hand, or of the published form."""

    def of_a_copy(epoch: Epoch) -> object:
        return epoch(copy.deepcopy(model).train(), train)

    for method, plain in (
        (Standard(), by_loop(lambda _: lambda x, y: x)),
        (Madry(attack=attacks.PGD(**ATTACK)), by_loop(plain_pgd)),
        (TRADES(attack=attacks.PGD(**KL)), trades_as_published),
        (SMD(), smd_as_printed),
        (Blind(), by_loop(plain_pgd)),
    ):
        yield f"{type(method).__name__} epoch", (partial(of_a_copy, by_fit(method)), partial(of_a_copy, plain))


def ratio(sides: Sides) -> float:
    """Of the medians; the first round warms up."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS + 1):
        for side, taken in zip(sides, seconds, strict=True):
            start = clock()
            side()
            taken.append(clock() - start)
    own, plain = (statistics.median(taken[1:]) for taken in seconds)
    return own / plain


def main(write: bool) -> int:
    data = fastadv.load("fashion-mnist-mini", "train")
    torch.manual_seed(0)
    model = fastadv.models.LeNet5()
    fastadv.fit(model, Standard(), data, epochs=3)
    stored = {} if write else json.loads(STORED.read_text())
    found, slower = {}, []
    table = Table("", "now", "stored", "now / stored")
    for group in (
        of_ops(),
        of_attacks(model.eval(), data.take(128)),
        of_networks(),
        of_training(model, data.take(256)),
    ):
        for name, sides in group:
            found[name] = ratio(sides)
            for _ in range(TRIES - 1):
                if write or found[name] <= MARGIN * stored[name]:
                    break
                found[name] = min(found[name], ratio(sides))
            change = "" if write else f"{found[name] / stored[name]:.2f}"
            table.add_row(name, f"{found[name]:.3f}", "" if write else f"{stored[name]:.3f}", change)
            if not write and found[name] > MARGIN * stored[name]:
                slower.append(name)
    Console().print(table)
    if write:
        STORED.write_text(json.dumps({name: float(f"{value:.3g}") for name, value in found.items()}, indent=1) + "\n")
    if slower:
        print(f"slower by more than {MARGIN - 1:.0%}: {', '.join(slower)}", file=sys.stderr)
    return len(slower) > 0


if __name__ == "__main__":
    sys.exit(main("--write" in sys.argv[1:]))
