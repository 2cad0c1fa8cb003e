"""Normal training (NT)."""

from dataclasses import dataclass

from torch import Tensor, nn

from ._method import Batch, Method, accuracy, error, forward


@dataclass
class Standard(Method):
    """Cross-entropy on clean data.

    Args:
        label_smoothing: share of the label spread over all classes.
    """

    label_smoothing: float = 0.1

    needs_classes = ""

    @property
    def mixes(self) -> bool:
        return True

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        logits = forward(model, batch.x)
        batch.stats["clean_accuracy"] = accuracy(logits, batch.y, model)
        return error(model, logits, batch.targets(logits), self.label_smoothing)
