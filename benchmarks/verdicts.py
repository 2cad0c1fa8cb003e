"""Whether what a paper printed stood up in a run: four verdicts, and what chance leaves open of a difference.

Percents throughout; a norm is in its own unit. An interval is a pair (low, high) of a difference, at 95 %.
"""

import math
from collections.abc import Iterable
from functools import cache

import numpy as np

from fastadv.evaluation import wilson
from fastadv.report import paired_bootstrap

CONFIRMED, WITHIN, CONTRADICTED, INCOMPARABLE = "confirmed", "within chance", "contradicted", "not comparable"
VERDICTS = (CONFIRMED, WITHIN, CONTRADICTED, INCOMPARABLE)

POINTS = 1.5
"""So near to the printed accuracy a measured one must be to confirm it; and what another seed is allowed to change."""
NORMS = 0.1
"""The same for norms and gradients, as a share of the printed one."""
MUCH_SHORTER = 0.5
"""A training of less than this share of the printed epochs says nothing about a printed figure."""

BEARS_ON: dict[str, tuple[str, ...]] = {
    "data": ("figure", "ordering"),
    "model": ("figure",),
    "epochs": ("figure",),
    "per_class": ("figure",),
    "part": ("figure",),
    "batch_size": ("figure",),
    "lr": ("figure",),
    "optimizer": ("figure",),
    "eps_warmup": ("figure",),
    "precision": ("figure",),
    "limit": (),
}
"""What a run may change, and what is not comparable with print then, unless the recipe says that print leaves it open
(`Recipe.also`). All figures are of trained networks, so whatever changes the training bears on every one of them. An
ordering of two networks that were trained alike is a claim about their methods: on the paper's data it is put to the
test at any length. Fewer test samples only widen the interval."""

STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""The 97.5 % quantile of Student's t with 1 to 9 degrees of freedom."""

Interval = tuple[float, float]


def bearing(changed: Iterable[str], claim: str) -> list[str]:
    """Those of the `changed` settings that make a ``figure`` or an ``ordering`` not comparable with print."""
    return [name for name in changed if claim in BEARS_ON[name]]


def of_figure(difference: float, chance: Interval, tolerance: float) -> str:
    """The verdict on a printed figure, from measured less printed and the interval that chance leaves of it.

    Beyond chance it is contradicted; within chance it is confirmed if it is also no further off than `tolerance`.
    """
    if not chance[0] <= 0 <= chance[1]:
        return CONTRADICTED
    return CONFIRMED if round(abs(difference), 9) <= tolerance else WITHIN


def of_ordering(printed: float, chance: Interval) -> str:
    """The verdict on the sign of a `printed` difference, which is not 0, from the interval of the measured one."""
    if chance[0] <= 0 <= chance[1]:
        return WITHIN
    return CONFIRMED if (chance[0] > 0) == (printed > 0) else CONTRADICTED


def independent(first: float, n_first: int, second: float, n_second: int) -> Interval:
    """Of ``first - second``, percents of `n_first` and `n_second` samples that are drawn independently.

    Newcombe's hybrid score interval, from the Wilson intervals of both (Newcombe, *Statistics in Medicine* 17, 1998,
    method 10). On the same samples, or for averages over budgets, it is wider than it need be.
    """
    low, high = zip(_wilson(first, n_first), _wilson(second, n_second), strict=True)
    difference = first - second
    below = math.hypot(first - low[0], high[1] - second)
    above = math.hypot(high[0] - first, second - low[1])
    return difference - below, difference + above


def _wilson(percent: float, n: int) -> Interval:
    low, high = wilson(round(percent * n / 100), n)
    return min(100 * low, percent), max(100 * high, percent)


def paired(first: np.ndarray, second: np.ndarray) -> Interval:
    """Of the difference of the means of two rows of outcomes on the same samples, in the outcomes' unit."""
    return _paired(first.astype(float).tobytes(), second.astype(float).tobytes())


@cache
def _paired(first: bytes, second: bytes) -> Interval:
    """Kept, since several pages ask for the same two rows, and 10,000 sizes take seconds."""
    return paired_bootstrap(np.frombuffer(first), np.frombuffer(second))


def of_seeds(*figures: tuple[int, float | None], default: float) -> float:
    """Half the interval that training with other seeds leaves of the difference of two `figures`.

    Of each, how many trainings it is the mean of, and their standard deviation, or None where that is not known: it is
    taken to be the other's then, and the half is `default` where neither is known. Welch's standard error, at the
    degrees of freedom of the figure of fewer trainings with a known deviation.
    """
    known = [(n, deviation) for n, deviation in figures if deviation is not None and n > 1]
    if not known:
        return default
    largest = max(deviation for _, deviation in known)
    variance = sum((largest if deviation is None else deviation) ** 2 / n for n, deviation in figures)
    degrees = min(n for n, _ in known) - 1
    return STUDENT[min(degrees, len(STUDENT)) - 1] * math.sqrt(variance)


def widened(difference: float, interval: Interval, half: float) -> Interval:
    """`interval` around `difference` where an independent error of `half` comes on top."""
    low, high = interval
    return difference - math.hypot(difference - low, half), difference + math.hypot(high - difference, half)
