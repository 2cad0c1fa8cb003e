"""Random noise, the attack that knows nothing of the model."""

from dataclasses import dataclass

from .. import ops
from ._ascend import Rows
from ._attack import Attack, Budget, check_budget, check_choice


@dataclass(frozen=True)
class Noise(Attack):
    """One draw of noise in the L-infinity ball, clipped to the box.

    Args:
        eps: L-infinity budget, in the units of the inputs; a number or one a sample.
        law: ``uniform`` in [-eps, eps], or ``sign``, -eps or eps with equal chance.
    """

    eps: Budget = 8 / 255
    law: str = "uniform"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_budget(self, "eps", self.eps)
        check_choice(self, "law", self.law, ("uniform", "sign"))

    def perturb(self, rows: Rows) -> None:
        lo, hi = self.bounds
        rows.x_adv = ops.random_start(rows.x, rows.ids, self.eps, self.seed, law=self.law, lo=lo, hi=hi)
