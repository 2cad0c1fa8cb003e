"""Adversarial training that weights samples."""

from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

from ..attacks import Rows
from ._method import Batch, accuracy, check_count, forward
from .madry import Madry


@dataclass
class WeightedTraining(Madry):
    """Cross-entropy on PGD samples, weighted by sample; weights have no gradient.

    Args:
        burn_in: first epochs, in which all weights are 1.
    """

    burn_in: int = 0

    in_epochs = ("eps_warmup", "burn_in")
    needs_classes = "it weighs samples by how their classes are predicted"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("burn_in", self.burn_in)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        rows = self.attacked(model, batch, batch.y)
        logits = forward(model, rows.x_adv)
        batch.stats["adversarial_accuracy"] = accuracy(logits, batch.y)
        losses = self.cross_entropy(logits, batch.y, "none")
        if batch.epoch < self.burn_in:
            return losses.mean()
        return (self.weights(rows, logits.detach()) * losses).mean()

    @abstractmethod
    def weights(self, rows: Rows, logits: Tensor) -> Tensor:
        """What the attacked samples weigh, given the `logits` [B, K] at them, [B]; as a rule with a mean of 1."""
