"""``foolbox.criteria``: what counts as adversarial."""

from dataclasses import dataclass

from torch import Tensor

from ...attacks import predicted
from .._names import only

__all__ = ["Misclassification", "TargetedMisclassification"]

__getattr__, __dir__ = only(__name__, __all__)


@dataclass(frozen=True, eq=False)
class Misclassification:
    """Away from `labels` [B]."""

    labels: Tensor

    def __call__(self, perturbed: Tensor, outputs: Tensor) -> Tensor:
        """Where the class predicted by the logits `outputs` [B, K] is not the label, [B]."""
        return predicted(outputs) != self.labels


@dataclass(frozen=True, eq=False)
class TargetedMisclassification:
    """Towards `target_classes` [B]."""

    target_classes: Tensor

    def __call__(self, perturbed: Tensor, outputs: Tensor) -> Tensor:
        """Where the class predicted by the logits `outputs` [B, K] is the target, [B]."""
        return predicted(outputs) == self.target_classes
