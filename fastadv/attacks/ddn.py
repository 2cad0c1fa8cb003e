"""Decoupled direction and norm, the smallest perturbation in L2 at one gradient a step."""

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from .. import ops
from ._ascend import Rows, ascend
from ._attack import Attack, check_count


@dataclass(frozen=True)
class DDN(Attack):
    """The smallest L2 perturbation DDN meets (Rony et al., CVPR 2019, Algorithm 1), without its quantisation.

    Every step goes along the normalised gradient of the cross-entropy, and then to the sphere around x whose radius has
    become smaller if the point before was adversarial, and larger if not; the step size falls from 1 to 0.01 of the
    inputs' range by half a cosine. Nobody knows when a sample has come to its nearest point, so that all make all
    steps. Samples that succeed at x are returned as they are; so are those that are never fooled. Without a gradient
    only the radius changes.

    Args:
        steps: gradient steps. In n of them the radius reaches ``init_norm * (1 +- gamma) ** n`` and no further: few
            steps need a larger gamma, or an init_norm near the norms expected.
        gamma: by what share of it the radius changes at a step.
        init_norm: the radius at first, an L2 norm, with the inputs' range as its unit.
        targeted: towards the labels instead of away from them.
    """

    steps: int = 100
    gamma: float = 0.05
    init_norm: float = 1.0
    targeted: bool = field(default=False, kw_only=True)

    has_budget: ClassVar[bool] = False
    norm: ClassVar[str] = "l2"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self, "steps", self.steps, 0)
        if not 0 < self.gamma < 1:
            raise ValueError(f"DDN: gamma must be between 0 and 1, got {self.gamma}")
        if not 0 < self.init_norm < math.inf:
            raise ValueError(f"DDN: init_norm must be finite and positive, got {self.init_norm}")

    def perturb(self, rows: Rows) -> None:
        rows.best = rows.x.clone()
        rows.size = ops.row_norms(rows.x, "l2").fill_(torch.inf)
        rows.radius = torch.full_like(rows.size, self.init_norm * self.unit)
        active = None if rows.own_labels else ~rows.fooled(rows.predictions())
        forth, back = ops.l2_step.in_loop(), ops.l2_step.in_loop()
        rows.anywhere = torch.full_like(rows.size, torch.inf)

        def step(live: Rows, number: int) -> None:
            share = 0.01 + 0.99 * (1 + math.cos(math.pi * (number - 1) / self.steps)) / 2
            grad, _, fooled = live.ascent()
            live.keep_nearest(fooled, "l2")
            live.radius = torch.where(fooled, (1 - self.gamma) * live.radius, (1 + self.gamma) * live.radius)
            alpha = torch.full_like(live.radius, self.unit * share)
            forth(live.x_adv, grad, live.x, alpha, live.anywhere, -math.inf, math.inf, None, live.nonfinite)
            # As far again as the radius, and back to it: on the sphere from inside and outside.
            back(live.x_adv, live.x_adv - live.x, live.x, live.radius, live.radius, *self.bounds)

        ascend(self, rows, self.steps, step, active)
        fooled = rows.fooled(rows.predictions())
        rows.keep_nearest(fooled if active is None else fooled & active, "l2")
        rows.x_adv = rows.best
