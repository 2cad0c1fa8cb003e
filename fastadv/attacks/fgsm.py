"""The fast gradient sign method, from the sample and from a random point beside it."""

from dataclasses import dataclass, field
from typing import ClassVar

from .. import ops
from ._ascend import Rows, ascend, ball_ascent
from ._attack import Attack, Budget, check_budgets, check_counts


@dataclass(frozen=True)
class FGSM(Attack):
    """``x + eps * sign(grad)``, clipped to the box (Goodfellow et al., 2015): one step from x, no random start.

    Args:
        eps: L-infinity budget, in the units of the inputs; a number or one a sample.
        targeted: towards the labels instead of away from them.
    """

    eps: Budget = 8 / 255
    targeted: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_budgets(self, "eps")

    def perturb(self, rows: Rows) -> None:
        ascend(self, rows, 1, ball_ascent(self, rows, self.eps))


@dataclass(frozen=True)
class RFGSM(Attack):
    """R+FGSM (Tramer et al., 2018): a step of ``alpha * sign(noise)``, and from there steps of FGSM of the same size.

    With alpha half of eps, and one step, the two steps are those of the paper. Where others speak of R-FGSM or of fast
    FGSM, which starts uniformly in the ball (Wong et al., 2020), use ``PGD(eps, alpha, steps=1)``.

    Args:
        eps: L-infinity budget, in the units of the inputs; a number or one a sample.
        alpha: size of the random step and of the others, likewise.
        steps: number of gradient steps, at least 1.
        targeted: towards the labels instead of away from them.
    """

    eps: Budget = 8 / 255
    alpha: Budget = 4 / 255
    steps: int = 1
    targeted: bool = field(default=False, kw_only=True)

    is_random: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_budgets(self, "eps", "alpha")
        check_counts(self, steps=1)

    def perturb(self, rows: Rows) -> None:
        step = ball_ascent(self, rows, self.alpha)
        rows.x_adv = ops.random_start(rows.x, rows.ids, self.alpha, self.seed, 0, "sign", *self.bounds)
        ascend(self, rows, self.steps, step)
