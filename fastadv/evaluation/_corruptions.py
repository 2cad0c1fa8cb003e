"""Accuracy under common corruptions (Hendrycks and Dietterich, 2019)."""

from collections.abc import Iterable
from dataclasses import dataclass

from ..attacks import Model, classify
from ..data import Dataset
from ._common import device_of


@dataclass(frozen=True)
class CorruptionAccuracy:
    """`accuracy` by corruption, then by severity, 0 to 1; and on the `clean` images, where they were given."""

    accuracy: dict[str, dict[int, float]]
    clean: float | None = None

    def mean(self, *names: str) -> float:
        """The mean over the severities of each of these corruptions, then over them; by default over all."""
        means = [sum(self.accuracy[name].values()) / len(self.accuracy[name]) for name in names or self.accuracy]
        return sum(means) / len(means)


def corruption_accuracy(
    model: Model, sets: Iterable[tuple[str, int, Dataset]], clean: Dataset | None = None, *, batch_size: int = 500
) -> CorruptionAccuracy:
    """Accuracy of `model` on each of `sets`, (corruption, severity, data), which may be made one at a time.

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


def _accuracy(model: Model, data: Dataset, batch_size: int) -> float:
    device = device_of(model, data)
    data, right = data.to(device), 0
    for x, y in zip(data.x.split(batch_size), data.y.split(batch_size), strict=True):
        right += int((classify(model, x, len(data.classes) - 1) == y).sum())
    return right / len(data)
