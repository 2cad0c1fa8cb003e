"""``fastadv train METHOD --estimate true``: how long a run would take here."""

import copy
import dataclasses
import statistics
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from typing import Any

from torch import nn

from ..attacks import ANPGD, EPGD, PGD, DeepFool, FriendlyPGD
from ..data import Placed
from ..trainers import AttackMethod, Madry, Method, Standard, Stopped, fit
from ..trainers._guard import CHECKS, SAMPLES
from ._plan import TrainingPlan, watch
from ._settings import Training

STEPS, SECONDS = 50, 5.0  # what is timed ends with the first of them, but not before three steps


@dataclass(frozen=True)
class Estimate:
    """What a run costs: ``seconds of a step = fixed + gradients * a_pass``.

    Args:
        steps: of the whole run.
        first: seconds of one on the untrained network, as measured.
        step: the same after some normal training.
        gradients: how many a sample took in these, on average.
        a_pass: what one more would take, in seconds a step.
        most: how many a sample takes at the most; None where that is not known.
        validation: seconds in all of measuring held-out samples, and those that `guard` looks at.
    """

    steps: int
    first: float
    step: float
    gradients: float
    a_pass: float
    most: float | None
    validation: float

    @property
    def seconds(self) -> float:
        """Of the run, if samples go on taking as many gradients as they did after some training."""
        return self.steps * self.step + self.validation

    @property
    def at_least(self) -> float:
        """Of the run, if steps go on taking as long as the first, in which methods that spare mistakes do little."""
        return self.steps * min(self.first, self.step) + self.validation

    @property
    def at_most(self) -> float | None:
        """Of the run, if all samples take as many as they may."""
        if self.most is None:
            return None
        return self.seconds + self.steps * max(0.0, self.most - self.gradients) * self.a_pass

    def __str__(self) -> str:
        figures = f"{self.step:.3g} s a step with {self.gradients:.3g} gradients a sample, {self.steps} steps"
        if self.most is not None and self.most <= self.gradients + 0.05:
            return f"about {_clock(self.seconds)} ({figures})"
        if self.at_most is None:
            return f"about {_clock(self.seconds)} ({figures}), while samples go on taking as many"
        least, long, most = map(_clock, (self.at_least, self.seconds, self.at_most))
        return f"{least} to {most}, about {long} if training is long ({figures}; the most is {self.most:g})"


def estimate(plan: TrainingPlan) -> Estimate:
    """Times a few steps of the run, on a new network and after as many of normal training.

    Raises ValueError where the run is for minutes.
    """
    method, options, train, held_out = plan.method, plan.options, plan.train, plan.held_out
    if options.minutes:
        raise ValueError(f"training with minutes {options.minutes:g} takes that long: leave out minutes or estimate")
    model = plan.build()
    first, _ = timed(method, copy.deepcopy(model), train, options)
    normal, _ = timed(Standard(), model, train, options)
    unmixed = dataclasses.replace(options, augment="none")  # not every method takes images with mixed labels
    two, _ = timed(Madry(attack=PGD(eps=0.1, alpha=0.05, steps=2)), model, train, unmixed)
    step, gradients = timed(method, model, train, options)
    validation = 0.0
    if held_out:
        some = held_out.take(200)
        started = time.perf_counter()
        watch(some, plan.label)(model)
        validation = (time.perf_counter() - started) * len(held_out) / len(some) * options.epochs
    a_pass = max(0.0, two - normal) / 2
    if options.guard:
        looks = min(CHECKS * SAMPLES, method.replays * len(train)) / options.batch_size
        validation += options.epochs * looks * 10 * a_pass
    steps = options.epochs * method.replays * -(-len(train) // options.batch_size)
    return Estimate(steps, first, step, gradients, a_pass, _most(method), validation)


def timed(method: Method, model: nn.Module, train: Placed, options: Training) -> tuple[float, float]:
    """Seconds of a step, the median, and gradients a sample."""
    method, ticks, gradients = copy.deepcopy(method), [], []

    def on_step(done: int, _: int, stats: Mapping[str, Any]) -> None:
        gradients.append(float(stats.get("gradients", 0.0)))  # waits for the device
        ticks.append(time.perf_counter())

    def enough() -> bool:
        return len(ticks) > STEPS or (len(ticks) > 3 and ticks[-1] - ticks[0] > SECONDS)

    # Epochs without validation, and enough of them for three steps; else as the run.
    off = {"extra_share": 0.0, "minutes": 0.0, "patience": 0, "collapse": 0.0, "guard": False}
    settings = options.fit_settings() | off
    settings["epochs"] = max(options.epochs, 4)
    with suppress(Stopped):
        fit(model, method, train, **settings, on_step=on_step, stop=enough)
    return statistics.median(b - a for a, b in pairwise(ticks)), statistics.mean(gradients[1:])


def _most(method: Method) -> float | None:
    """How many gradients a sample can take in a step of training; None where it is not known."""
    attack = method.attack if isinstance(method, AttackMethod) else None
    if attack is None:
        return 0.0
    if isinstance(attack, DeepFool):
        return float(attack.steps * (attack.candidates - 1))
    return float(attack.steps) if isinstance(attack, PGD | FriendlyPGD | EPGD | ANPGD) else None


def _clock(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))
