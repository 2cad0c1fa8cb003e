"""Accuracy under common corruptions (Hendrycks and Dietterich, 2019)."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .._frames import frame
from ..attacks import Model, classify
from ..data import AnyData
from ..models.adapted import expected
from ._common import beside, measuring

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class CorruptionAccuracy:
    """The `accuracy` in [0, 1] by corruption and then by severity, and on the `clean` images where they were given."""

    accuracy: dict[str, dict[int, float]]
    clean: float | None = None

    def mean(self, *names: str) -> float:
        """The mean accuracy in [0, 1], over severities and then over these corruptions, by default all."""
        means = [sum(self.accuracy[name].values()) / len(self.accuracy[name]) for name in names or self.accuracy]
        return sum(means) / len(means)

    def to_dataframe(self) -> "pandas.DataFrame":
        """A row a ``corruption`` and ``severity``, with the ``accuracy``. Raises ImportError without pandas."""
        rows = [(name, severity, value) for name, found in self.accuracy.items() for severity, value in found.items()]
        return frame(dict(zip(("corruption", "severity", "accuracy"), map(list, zip(*rows, strict=True)), strict=True)))


@measuring()
def corruption_accuracy(
    model: Model, sets: Iterable[tuple[str, int, AnyData]], clean: AnyData | None = None, *, batch_size: int = 500
) -> CorruptionAccuracy:
    """Accuracy of `model` on each of `sets`, (corruption, severity, data), which may be made one at a time.

    Data are what `evaluate` takes; no more than one batch is held.

    Args:
        model: samples to logits; in eval mode, on the device it is on, and left as it was.
        clean: what was corrupted.
        batch_size: samples at a time; it decides memory and speed only.

    Raises ValueError without any data, and what is wrong with the logits.
    """
    found: dict[str, dict[int, float]] = {}
    for name, severity, data in sets:
        found.setdefault(name, {})[severity] = _accuracy(model, data, batch_size)
    if not found:
        raise ValueError("corruption_accuracy: sets holds no data: give at least one corruption and severity")
    return CorruptionAccuracy(found, None if clean is None else _accuracy(model, clean, batch_size))


def _accuracy(model: Model, data: AnyData, batch_size: int) -> float:
    data, right, count = beside(model, data), 0, 0
    for x, y, _ in data.batches(batch_size):
        right += int((classify(model, x, len(data.classes) - 1, y) == expected(model, y)).sum())
        count += len(y)
    return right / count
