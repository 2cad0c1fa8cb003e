"""When to stop: what validation found, epoch by epoch."""

import math

from ._method import Row
from ._settings import Settings


def _watched(history: list[Row]) -> list[float]:
    """The first figure of `validate`, by epoch; NaN is below all others."""
    names = list(history[0])
    name = names[names.index("images_per_second") + 1]  # after the loop's own
    return [-math.inf if math.isnan(row[name]) else row[name] for row in history]


def best(history: list[Row]) -> int:
    """Which epoch has the highest, from 0."""
    figures = _watched(history)
    return figures.index(max(figures))


def enough(history: list[Row], how: Settings) -> bool:
    """Whether the watched figure has not risen for `patience` epochs, or has fallen below a share of its best."""
    if not history or not (how.patience or how.collapse):
        return False
    figures = _watched(history)
    stale = bool(how.patience) and len(figures) - 1 - best(history) >= how.patience
    return stale or figures[-1] < how.collapse * max(figures)
