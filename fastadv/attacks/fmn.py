"""The fast minimum-norm attack, for any norm at one gradient a step."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .. import ops
from ._ascend import DUALS, STEPS, Rows
from ._attack import check_choice, check_ranges
from ._nearest import Descent
from ._state import Nearest

_LAST, _LAST_GAMMA = 0.01, 0.001
"""What is left of the step size at the end, and by what share the radius changes there."""
_BEYOND = 0.001


@dataclass
class _Ball(Nearest):
    """The best so far; the radius of the ball, and one that holds the box, [B]."""

    radius: Tensor | None = None
    most: Tensor | None = None


@dataclass(frozen=True)
class FMN(Descent):
    """FMN (Pintor et al., 2021, Algorithm 1): steps within a ball around x whose radius closes in on the boundary.

    A step goes along the gradient of the margin, divided by its L2 norm, and back to the ball and the box. The ball
    shrinks after an adversarial point, at least to the best one, and grows after others; until the first adversarial
    point, its radius is the distance to the linearised boundary. To that, 0.1 % of the perturbation's size is added
    here, as rounding would decide the class of a point on a boundary. In ``l0`` the radius is a number of entries, and
    changes by one at least. Step size and change of the radius fall by half a cosine. Samples that succeed at x are
    returned as they are; so are those that are never fooled.

    Args:
        steps: gradient steps.
        first: the first step's size, an L2 norm with the inputs' range as its unit.
        gamma: by what share of it the radius changes at first.
        norm: ``l0``, ``l1``, ``l2`` or ``linf``.
        targeted: towards the labels instead of away from them.
    """

    first: float = 1.0
    gamma: float = 0.05
    norm: str = field(default="linf", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "norm", self.norm, ("l0", *STEPS))
        check_ranges(self, first="(0, inf)", gamma="(0, 1)")

    def descent(self, rows: Rows) -> Callable[[Rows, int], None]:
        state, (lo, hi) = self.begin(rows, _Ball), self.bounds
        state.radius = torch.ones_like(state.size) if self.norm == "l0" else state.size.clone()
        state.most = ops.row_norms(torch.maximum(rows.x - lo, hi - rows.x), self.norm)
        move = self._move()

        def step(live: Rows, number: int) -> None:
            own, share = live.state, self.share(number)
            grad, ahead, fooled = live.ascent("margin", kappa=math.inf)
            self.keep(live, fooled)
            gamma = _LAST_GAMMA + (self.gamma - _LAST_GAMMA) * share
            radius = self._radius(live, grad, ahead.to(own.size.dtype), fooled, gamma)
            own.radius = torch.minimum(radius, own.most)
            alpha = torch.full_like(own.size, self.first * self.unit * (_LAST + (1 - _LAST) * share))
            move(live, grad, alpha, own.radius)

        return step

    def _radius(self, live: Rows, grad: Tensor, ahead: Tensor, fooled: Tensor, gamma: float) -> Tensor:
        own: _Ball = live.state
        smaller, larger = (1 - gamma) * own.radius, (1 + gamma) * own.radius
        if self.norm == "l0":
            smaller, larger = (
                torch.minimum(own.radius - 1, smaller.floor()),
                torch.maximum(own.radius + 1, larger.floor()),
            )
        else:
            distance = ahead.abs() / ops.row_norms(grad, DUALS[self.norm])
            moved = ops.row_norms(live.x_adv, self.norm, live.x)
            outside = torch.add(distance.nan_to_num(0), moved, alpha=1 + _BEYOND)
            larger = torch.where(own.size.isinf(), outside, larger)
        return torch.where(fooled, torch.minimum(smaller, own.size), larger).clamp(min=1 if self.norm == "l0" else 0)

    def _move(self) -> Callable[[Rows, Tensor, Tensor, Tensor], None]:
        """What makes a step of a size [B], and goes back to the ball of a radius [B]."""
        if self.norm in ("l0", "l2"):
            both = (ops.l0_step if self.norm == "l0" else ops.l2_step).in_loop()

            def move(live: Rows, grad: Tensor, alpha: Tensor, radius: Tensor) -> None:
                both(live.x_adv, grad, live.x, alpha, radius, *self.bounds, None, live.nonfinite)
        else:
            forth, back = ops.l2_step.in_loop(), STEPS[self.norm].in_loop()

            def move(live: Rows, grad: Tensor, alpha: Tensor, radius: Tensor) -> None:
                anywhere, none = torch.full_like(radius, math.inf), torch.zeros_like(radius)
                forth(live.x_adv, grad, live.x, alpha, anywhere, -math.inf, math.inf, None, live.nonfinite)
                back(live.x_adv, grad.nan_to_num_(0, 0, 0), live.x, none, radius, *self.bounds)

        return move
