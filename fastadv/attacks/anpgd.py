"""MMA training's attack: how far the boundary is along PGD's direction."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from .. import ops
from ..losses import soft_margin
from ._ascend import Rows, Start, ascend, ball_ascent, predicted, start
from ._attack import Attack, Budget, check_budgets, check_choice, check_counts, check_start
from ._state import State


@dataclass
class Distance(State):
    """How far the boundary is, [B]."""

    distance: Tensor


@dataclass(frozen=True)
class ANPGD(Attack):
    """PGD, and a bisection along the direction it took for the nearest misclassified point (Ding et al., 2020: MMA).

    The result is the end of the bisection beyond the boundary, or the point at `longest` where none it tried is there;
    `distance` of the rows' state is how far that is, before the box cuts it off.

    Args:
        eps: budget of PGD in `norm`, in the units of the inputs; a number or one a sample.
        steps: number of gradient steps, each of ``2.5 eps / steps``.
        longest: how far the bisection looks.
        bisections: how often it halves the way.
        random_start: the start is uniform in the ball of radius ``random_start * eps``, x itself for 0.
        norm: ``linf`` or ``l2``.
        soft: the boundary is where the soft margin is 0, that is the probability of the class one half, as in MMA's
            training; otherwise where the prediction changes, as in its tests.
    """

    eps: Budget = 8 / 255
    steps: int = 10
    longest: float = 12.6 / 255
    bisections: int = 10
    random_start: Start = 1.0
    norm: str = field(default="linf", kw_only=True)
    soft: bool = field(default=False, kw_only=True)

    has_budget: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "norm", self.norm, ("linf", "l2"))
        check_budgets(self, "eps", "longest")
        check_counts(self, steps=1, bisections=0)
        check_start(self, self.random_start)

    def perturb(self, rows: Rows) -> None:
        step = ball_ascent(self, rows, 2.5 / self.steps * self.eps, "slm")
        rows.x_adv = start(self, rows)
        ascend(self, rows, self.steps, step)
        delta = rows.x_adv - rows.x
        size = ops.row_norms(delta, self.norm).clamp_min(torch.finfo(delta.dtype).tiny)
        unit = delta / ops.as_rows(size, delta)
        near, far = torch.zeros_like(size), torch.full_like(size, self.longest)
        for _ in range(self.bisections):
            middle = (near + far) / 2
            rows.x_adv = self._at(rows, middle, unit)
            scores = rows.scores()
            crossed = ~(soft_margin(scores, rows.y) < 0) if self.soft else rows.fooled(predicted(scores))
            near, far = torch.where(crossed, near, middle), torch.where(crossed, middle, far)
        rows.state = Distance(far)
        rows.x_adv = self._at(rows, far, unit)

    def _at(self, rows: Rows, distance: Tensor, unit: Tensor) -> Tensor:
        return (rows.x + ops.as_rows(distance, unit) * unit).clamp(*self.bounds).to(rows.x.dtype)
