"""Margin-aware instance learning (Liu et al., 2021: Probabilistic Margins for Instance Reweighting in Adversarial
Training), MAIL-AT and MAIL-TRADES.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..attacks import PGD, Attack, Rows
from ..losses import kl, wide
from ._adversarial import both, report
from ._method import Batch, check_count, check_weight
from ._parallel import mean
from ._weighted import WeightedTraining
from .trades import TRADES


def margin_weights(logits: Tensor, y: Tensor, slope: float, bias: float, factor: float | None) -> Tensor:
    """``sigmoid(slope (margin + bias))``, per sample, with the margin ``max_{j != y} p_j - p_y`` of `logits` [B, K].

    Divided by their mean over the batch, or multiplied by `factor` where there is one. Without a gradient.
    """
    p = wide(logits.detach()).softmax(dim=1)
    own = p.gather(1, y.unsqueeze(1)).squeeze(1)
    rival = p.scatter(1, y.unsqueeze(1), 0).amax(dim=1)
    weights = torch.sigmoid(slope * (rival - own + bias))
    return weights / mean(weights) if factor is None else factor * weights


def _of_their_mean(self: "MAIL | MAILTRADES") -> str:
    return "weights are divided by their mean over it, unless a factor is given" if self.factor is None else ""


@dataclass
class MAIL(WeightedTraining):
    """MAIL-AT: samples near or beyond the boundary weigh more.

    Attacked samples count. The weight is ``sigmoid(slope (margin + bias))`` with the margin ``max_{j != y} p_j(x_adv) -
    p_y(x_adv)``.

    Args:
        attack: PGD on the cross-entropy.
        slope: how sharply weights depend on margins.
        bias: minus the margin at which the weight is a half.
        factor: of all weights, 3 in the published code. By default weights are divided by their mean.
        burn_in: first epochs, in which all weights are 1.
    """

    attack: Attack = field(
        default_factory=lambda: PGD(eps=8 / 255, alpha=0.007, steps=10, random_start="gaussian-unclipped"), kw_only=True
    )
    slope: float = 10.0
    bias: float = -0.5
    factor: float | None = None
    burn_in: int = 76

    whole_batch = property(_of_their_mean)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weight("factor", self.factor or 0)

    def weights(self, rows: Rows, logits: Tensor) -> Tensor:
        return margin_weights(logits, rows.y, self.slope, self.bias, self.factor)


@dataclass
class MAILTRADES(TRADES):
    """MAIL-TRADES: TRADES with the weights of MAIL.

    Slope and bias have other defaults.

    Args:
        attack: PGD on the divergence.
        beta: weight of robustness.
        slope: how sharply weights depend on margins.
        bias: minus the margin at which the weight is a half.
        factor: of all weights, 3 in the published code. By default weights are divided by their mean.
        burn_in: first epochs, in which all weights are 1. These are epochs of TRADES.
    """

    beta: float = 5.0
    slope: float = 2.0
    bias: float = 0.0
    factor: float | None = None
    burn_in: int = 76

    in_epochs = ("eps_warmup", "burn_in")
    whole_batch = property(_of_their_mean)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weight("factor", self.factor or 0)
        check_count("burn_in", self.burn_in)

    @property
    def mixes(self) -> bool:
        return False

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        clean, adversarial = both(model, batch.x, self.examples(model, batch))
        report(batch, clean, adversarial)
        divergence = kl(adversarial, clean)
        if batch.epoch >= self.burn_in:
            divergence = margin_weights(adversarial, batch.y, self.slope, self.bias, self.factor) * divergence
        return self.cross_entropy(clean, batch.y) + self.beta * divergence.mean()
