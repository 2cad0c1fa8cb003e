"""The momentum iterative method."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .. import ops
from ._ascend import Rows, ascend, budgets
from ._attack import Attack, Budget, check_budgets, check_counts, check_ranges
from ._state import State


@dataclass
class Momentum(State):
    """The sum of the gradients before, [B, ...]."""

    momentum: Tensor


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
        check_budgets(self, "eps", "alpha")
        check_counts(self, steps=0)
        check_ranges(self, decay="[0, 1]")

    @property
    def dark(self) -> float:
        """The lowest value of the inputs; 0 where they have none."""
        return self.bounds[0] if self.bounds[0] > -math.inf else 0.0

    def perturb(self, rows: Rows) -> None:
        budgets(self, rows, self.alpha)
        rows.state = self.memory(rows.x)
        move = ops.linf_step.in_loop()

        def step(live: Rows, number: int) -> None:
            grad = self.gradient(live, number)
            own = (None, live.nonfinite, live.state.momentum, self.decay)
            move(live.x_adv, grad, live.x, live.alpha, live.eps, *self.bounds, *own)

        ascend(self, rows, self.steps, step)

    def memory(self, x: Tensor) -> Momentum:
        """What is remembered of samples like `x` at first."""
        return Momentum(torch.zeros_like(x))

    def gradient(self, live: Rows, number: int) -> Tensor:
        """What the step `number` adds to the sum once it is normalised, [B, ...]."""
        return live.ascent()[0]

    def ahead(self, live: Rows) -> Tensor:
        """Where the sum of the steps before would lead, [B, ...], with no regard to budget and bounds."""
        reach = ops.as_rows(live.alpha * self.decay, live.x).to(live.x.dtype)
        return torch.addcmul(live.x_adv, reach, live.state.momentum)
