"""Adversarial logit pairing (Kannan et al., 2018)."""

from dataclasses import dataclass, field

import torch.nn.functional as F
from torch import Tensor

from ..attacks import PGD, Attack
from ._adversarial import PairedTraining
from ._method import check_weight


@dataclass
class ALP(PairedTraining):
    """Adversarial logit pairing: clean and attacked logits agree.

    The loss is ``CE(z(x), y) / 2 + CE(z(x_adv), y) / 2 + beta MSE(z(x), z(x_adv))``, with the mean square over batch
    and classes.

    Args:
        attack: PGD on the cross-entropy.
        beta: weight of the pairing, 0.5 in the SPAT thesis.
    """

    attack: Attack = field(default_factory=lambda: PGD(eps=8 / 255, alpha=0.007, steps=10), kw_only=True)
    beta: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weight("beta", self.beta)

    def compare(self, clean: Tensor, adversarial: Tensor, y: Tensor) -> Tensor:
        cross_entropy = (self.cross_entropy(clean, y) + self.cross_entropy(adversarial, y)) / 2
        return cross_entropy + self.beta * F.mse_loss(clean, adversarial)
