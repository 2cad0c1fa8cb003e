"""MART (Wang et al.: Improving Adversarial Robustness Requires Revisiting Misclassified Examples, 2020)."""

from dataclasses import dataclass, field

from torch import Tensor

from ..attacks import PGD, Attack
from ..losses import boosted_cross_entropy, kl, wide
from ._adversarial import PairedTraining
from ._method import check_weight


@dataclass
class MART(PairedTraining):
    """MART: like TRADES, with weight on misclassified samples.

    The loss is ``BCE(p(x_adv), y) + beta KL(p(x) || p(x_adv)) (1 - p_y(x))`` (Zhang et al., 2020, equation 10). As in
    the published code, the weight ``1 - p_y(x)`` has a gradient, too.

    Args:
        attack: PGD on the cross-entropy.
        beta: weight of the divergence, lambda in the paper. Papers use 5 or 6.
    """

    attack: Attack = field(
        default_factory=lambda: PGD(eps=8 / 255, alpha=0.007, steps=10, random_start="gaussian-unclipped"), kw_only=True
    )
    beta: float = 6.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weight("beta", self.beta)

    def compare(self, clean: Tensor, adversarial: Tensor, y: Tensor) -> Tensor:
        own = wide(clean).softmax(dim=1).gather(1, y.unsqueeze(1)).squeeze(1)
        boosted = boosted_cross_entropy(adversarial, y, self.label_smoothing)
        return (boosted + self.beta * kl(adversarial, clean) * (1 - own)).mean()
