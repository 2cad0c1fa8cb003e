"""Training with noise and FGSM (de Jorge et al.: Make Some Noise, 2022), N-FGSM."""

import dataclasses
from dataclasses import dataclass, field

from torch import Tensor, nn

from ..attacks import PGD, Rows
from ._method import Batch, altered, check_weight
from .madry import Madry


@dataclass
class NFGSM(Madry):
    """Samples of one step of FGSM from noise beyond the budget.

    ``x_adv = clip(x + u + alpha sign(g(x + u)))``, with u uniform in a ball of radius ``noise * eps``, and g the
    gradient of the loss. It is clipped to the range of the inputs only, so it is up to ``noise * eps + alpha`` from x.

    Args:
        attack: one step in the L-infinity ball; its `random_start` is not used.
        noise: radius of the noise, as a multiple of eps, the paper's k.
    """

    attack: PGD = field(default_factory=lambda: PGD(eps=8 / 255, alpha=8 / 255, steps=1), kw_only=True)
    noise: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weight("noise", self.noise)
        if (self.attack.norm, self.attack.steps) != ("linf", 1):
            raise ValueError(f"NFGSM: the attack must be one step in linf, got {self.attack!r}")

    def steadier(self) -> "NFGSM":
        """With noise that reaches one eps farther."""
        return altered(self, noise=self.noise + 1)

    def craft(self, model: nn.Module, batch: Batch, y: Tensor | None) -> Rows:
        attack = self.warm(self.attack, batch.epoch)
        # A ball in which every step ends: nothing is projected but to the range of the inputs.
        widest = min(self.noise * attack.eps + attack.alpha, attack.unit)
        start = min(self.noise * attack.eps / widest, 1.0) if widest else 0.0
        return dataclasses.replace(attack, eps=widest, random_start=start).rows(model, batch.x, y, batch.ids)
