"""The fast gradient sign method."""

from dataclasses import dataclass, field

from ..losses import cross_entropy
from ._ascend import Rows, ascend, ball_ascent
from ._attack import Attack, Budget, check_budget


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
        check_budget(self, "eps", self.eps)

    def perturb(self, rows: Rows) -> None:
        ascend(rows, 1, ball_ascent(self, rows, cross_entropy, self.eps))
