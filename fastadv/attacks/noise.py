"""Random noise, the attack that knows nothing of the model."""

from dataclasses import dataclass
from typing import ClassVar

from .. import ops
from ._ascend import Rows
from ._attack import Attack, Budget, check_budgets, check_choice


@dataclass(frozen=True)
class Noise(Attack):
    """One draw of noise, clipped to the box.

    Args:
        eps: size of the noise, in the units of the inputs; a number or one a sample.
        law: ``uniform`` in [-eps, eps]; ``sign``, -eps or eps with equal chance; or ``gaussian``, whose standard
            deviation is eps, so that it is the only one to leave the L-infinity ball.
    """

    eps: Budget = 8 / 255
    law: str = "uniform"

    is_random: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_budgets(self, "eps")
        check_choice(self, "law", self.law, ("uniform", "sign", "gaussian"))

    def perturb(self, rows: Rows) -> None:
        lo, hi = self.bounds
        rows.x_adv = ops.random_start(rows.x, rows.ids, self.eps, self.seed, law=self.law, lo=lo, hi=hi)
