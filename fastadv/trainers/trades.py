"""TRADES (Zhang et al.: Theoretically Principled Trade-off between Robustness and Accuracy, 2019)."""

from dataclasses import dataclass, field

from torch import Tensor

from ..attacks import PGD, Attack
from ..losses import kl
from ._adversarial import PairedTraining
from ._method import check_weight


@dataclass
class TRADES(PairedTraining):
    """Clean loss, plus how much predictions change under attack.

    The loss is ``CE(z(x), y) + beta KL(p(x) || p(x_adv))`` (Zhang et al., 2020, equation 7). Gradients flow through
    both sides of the divergence.

    Args:
        attack: PGD on the same divergence. Its start is not clipped to the bounds. A clipped start has noise of one
            sign on black and white pixels, which makes the attack much stronger than the published one.
        beta: weight of robustness, 1 / lambda in the paper.
    """

    attack: Attack = field(
        default_factory=lambda: PGD(eps=8 / 255, alpha=0.007, steps=10, random_start="gaussian-unclipped", loss="kl"),
        kw_only=True,
    )
    beta: float = 6.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weight("beta", self.beta)

    @property
    def mixes(self) -> bool:
        return type(self.attack) is PGD and self.attack.loss == "kl" and self.attack.restarts == 1  # needs no labels

    def compare(self, clean: Tensor, adversarial: Tensor, y: Tensor) -> Tensor:
        return self.cross_entropy(clean, y) + self.beta * kl(adversarial, clean).mean()
