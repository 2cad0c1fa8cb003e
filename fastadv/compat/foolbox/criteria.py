"""``foolbox.criteria``: what counts as adversarial."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch

from ...attacks import predicted
from .._names import only
from ._eager import kind, plain

__all__ = ["Criterion", "Misclassification", "TargetedMisclassification"]

__getattr__, __dir__ = only(__name__, __all__)


class Criterion(ABC):
    """``criterion(perturbed, outputs)`` tells which samples are adversarial; ``a & b`` is both at once.

    Attacks take `Misclassification` and `TargetedMisclassification` alone.
    """

    @abstractmethod
    def __call__(self, perturbed: Any, outputs: Any) -> Any:
        """Where `perturbed` [B, ...], of the logits `outputs` [B, K], is adversarial, [B]; tensors of one kind."""

    def __and__(self, other: "Criterion") -> "Criterion":
        return _Both(self, other)


@dataclass(frozen=True, eq=False)
class _Both(Criterion):
    one: Criterion
    other: Criterion

    def __call__(self, perturbed: Any, outputs: Any) -> Any:
        answers = (plain(criterion(perturbed, outputs)) for criterion in (self.one, self.other))
        return kind(outputs)(torch.logical_and(*answers))


@dataclass(frozen=True, eq=False)
class Misclassification(Criterion):
    """Away from `labels` [B]: where the class predicted is another."""

    labels: Any

    def __call__(self, perturbed: Any, outputs: Any) -> Any:
        return kind(outputs)(predicted(plain(outputs)) != plain(self.labels))


@dataclass(frozen=True, eq=False)
class TargetedMisclassification(Criterion):
    """Towards `target_classes` [B]: where that is the class predicted."""

    target_classes: Any

    def __call__(self, perturbed: Any, outputs: Any) -> Any:
        return kind(outputs)(predicted(plain(outputs)) == plain(self.target_classes))
