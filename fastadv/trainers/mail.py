"""Margin-aware instance learning (Wang et al.: Probabilistic Margins for Instance Reweighting, 2021), MAIL-AT."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..attacks import PGD, Attack, Rows
from ..losses import wide
from ._weighted import WeightedTraining


@dataclass
class MAIL(WeightedTraining):
    """Samples weigh more whose adversarial ones are nearer to the boundary, or farther beyond it.

    The weight is ``sigmoid(slope (margin + bias))`` with the margin ``max_{j != y} p_j(x_adv) - p_y(x_adv)``.

    Args:
        attack: PGD on the cross-entropy.
        slope: how sharply weights depend on margins.
        bias: the margin at which the weight is a half is ``-bias``.
        burn_in: epochs in which all weights are 1.
    """

    attack: Attack = field(
        default_factory=lambda: PGD(eps=8 / 255, alpha=0.007, steps=10, random_start="gaussian"), kw_only=True
    )
    slope: float = 10.0
    bias: float = -0.5
    burn_in: int = 76

    def weights(self, rows: Rows, logits: Tensor) -> Tensor:
        p = wide(logits).softmax(dim=1)
        own = p.gather(1, rows.y.unsqueeze(1)).squeeze(1)
        rival = p.scatter(1, rows.y.unsqueeze(1), 0).amax(dim=1)
        return torch.sigmoid(self.slope * (rival - own + self.bias))
