"""The momentum iterative method."""

from dataclasses import dataclass, field

import torch

from .. import ops
from ..losses import cross_entropy
from ._ascend import Rows, ascend
from ._attack import Attack, Budget, check_budget, check_count


@dataclass(frozen=True)
class MIFGSM(Attack):
    """Iterated FGSM along the sign of a running sum of normalised gradients (Dong et al., 2018); no random start.

    Args:
        eps: L-infinity budget, in the units of the inputs; a number or one a sample.
        alpha: step size, likewise.
        steps: number of gradient steps.
        decay: what the sum is multiplied with before each gradient is added.
        targeted: towards the labels instead of away from them.
    """

    eps: Budget = 8 / 255
    alpha: Budget = 2 / 255
    steps: int = 10
    decay: float = 1.0
    targeted: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_budget(self, "eps", self.eps)
        check_budget(self, "alpha", self.alpha)
        check_count(self, "steps", self.steps, 0)
        if not 0 <= self.decay <= 1:
            raise ValueError(f"MIFGSM: decay must be between 0 and 1, got {self.decay}")

    def perturb(self, rows: Rows) -> None:
        rows.eps = ops.per_sample("MIFGSM", "eps", self.eps, rows.x)
        rows.alpha = ops.per_sample("MIFGSM", "alpha", self.alpha, rows.x) * (-1 if self.targeted else 1)
        rows.momentum = torch.zeros_like(rows.x)

        def step(live: Rows) -> None:
            grad = live.gradient(cross_entropy)
            ops.linf_step(
                live.x_adv, grad, live.x, live.alpha, live.eps, *self.bounds, momentum=live.momentum, decay=self.decay
            )

        ascend(rows, self.steps, step)
