"""FGSM with gradient alignment.

Andriushchenko and Flammarion: Understanding and Improving Fast Adversarial Training, 2020.
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import ops
from ..attacks import FGSM
from ..attacks._attack import drawn_seed
from ._method import Batch, altered, check_weight, error, forward
from .madry import Madry

_NOTHING = 1e-12
"""A gradient of this size at the most, the largest of its entries, counts as none: its direction is rounding."""


@dataclass
class GradAlign(Madry):
    """FGSM training that keeps gradients alike within the ball.

    FGSM alone overfits catastrophically where they differ. The loss is that of FGSM samples, and
    ``align (1 - cos(g(x), g(x + u)))``, with u uniform in the ball and g the gradient of the loss with respect to the
    sample (equation 6). It is minimised through both gradients, which takes a second derivative. Samples without a
    gradient count as aligned.

    Args:
        align: weight of the alignment, 0.2 for an eps of 8/255 in the paper.
    """

    attack: FGSM = field(default_factory=lambda: FGSM(eps=8 / 255), kw_only=True)
    align: float = 0.2

    second_order = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weight("align", self.align)

    def steadier(self) -> "GradAlign | None":
        """With twice the alignment."""
        return altered(self, align=2 * self.align) if self.align else None

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        loss = super().loss(model, batch)
        attack = self.warm(self.attack, batch.epoch)
        seed = drawn_seed() if attack.seed is None else attack.seed
        eps = ops.per_sample("GradAlign", "eps", attack.eps, batch.x)
        beside = ops.random_start(batch.x, batch.ids, eps, seed, 0, "uniform", *attack.bounds)
        here, there = (gradient(model, x, batch.y) for x in (batch.x, beside))
        # Norms below 1e-8 count as that in a cosine, and those of a network that is sure are smaller.
        sizes = [g.detach().abs().amax(1, keepdim=True) for g in (here, there)]
        known = (torch.minimum(*sizes) > _NOTHING).squeeze(1)
        scaled = (g / size.clamp_min(_NOTHING) for g, size in zip((here, there), sizes, strict=True))
        cosines = F.cosine_similarity(*scaled).masked_fill(~known, 1)
        batch.stats["alignment"] = cosines.detach().mean()
        return loss + self.align * (1 - cosines).mean()


def gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The gradient of every sample's loss with respect to it, as a row, [B, N], which can be differentiated again."""
    x = x.detach().requires_grad_()
    return torch.autograd.grad(error(model, forward(model, x), y) * len(y), x, create_graph=True)[0].flatten(1)
