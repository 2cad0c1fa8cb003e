"""Standard adversarial training (Madry et al.: Towards Deep Learning Models Resistant to Adversarial Attacks, 2018)."""

from dataclasses import dataclass, field

from torch import Tensor, nn

from ..attacks import PGD, Attack
from ._adversarial import AttackMethod
from ._method import Batch, accuracy, error, forward


@dataclass
class Madry(AttackMethod):
    """Training on PGD samples alone, without clean ones.

    By default with the budget and steps of the friendly adversarial training paper. `PGDTraining` is the Blind AT
    paper's, with a clean term.

    Args:
        attack: makes the adversarial samples.
    """

    attack: Attack = field(default_factory=lambda: PGD(eps=8 / 255, alpha=0.007, steps=10), kw_only=True)

    needs_classes = ""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        logits = forward(model, self.examples(model, batch))
        batch.stats["adversarial_accuracy"] = accuracy(logits, batch.y, model)
        return error(model, logits, batch.y, self.label_smoothing)
