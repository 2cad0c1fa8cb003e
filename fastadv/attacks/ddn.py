"""Decoupled direction and norm, the smallest perturbation in L2 at one gradient a step."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .. import ops
from ._ascend import Rows
from ._attack import check_ranges
from ._nearest import Descent
from ._state import Nearest


@dataclass
class _Sphere(Nearest):
    """The best so far, the radius of the sphere, and an infinite one, [B]."""

    radius: Tensor | None = None
    anywhere: Tensor | None = None


@dataclass(frozen=True)
class DDN(Descent):
    """The smallest L2 perturbation DDN meets (Rony et al., CVPR 2019, Algorithm 1), without its quantisation.

    Every step goes along the normalised gradient of the cross-entropy, and then to the sphere around x whose radius has
    become smaller if the point before was adversarial, and larger if not; the step size falls from 1 to 0.01 of the
    inputs' range by half a cosine. Samples that succeed at x are returned as they are; so are those that are never
    fooled. Without a gradient only the radius changes.

    Args:
        steps: gradient steps. In n of them the radius reaches ``init_norm * (1 +- gamma) ** n`` and no further: few
            steps need a larger gamma, or an init_norm near the norms expected.
        gamma: by what share of it the radius changes at a step.
        init_norm: the radius at first, an L2 norm, with the inputs' range as its unit.
        targeted: towards the labels instead of away from them.
    """

    gamma: float = 0.05
    init_norm: float = 1.0

    norm: ClassVar[str] = "l2"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, gamma="(0, 1)", init_norm="(0, inf)")

    def descent(self, rows: Rows) -> Callable[[Rows, int], None]:
        state = self.begin(rows, _Sphere)
        state.radius, state.anywhere = torch.full_like(state.size, self.init_norm * self.unit), state.size.clone()
        forth, back = ops.l2_step.in_loop(), ops.l2_step.in_loop()

        def step(live: Rows, number: int) -> None:
            own: _Sphere = live.state
            grad, _, fooled = live.ascent()
            self.keep(live, fooled)
            own.radius = torch.where(fooled, (1 - self.gamma) * own.radius, (1 + self.gamma) * own.radius)
            alpha = torch.full_like(own.radius, self.unit * (0.01 + 0.99 * self.share(number)))
            forth(live.x_adv, grad, live.x, alpha, own.anywhere, -math.inf, math.inf, None, live.nonfinite)
            # As far again as the radius, and back to it: on the sphere from inside and outside.
            back(live.x_adv, live.x_adv - live.x, live.x, own.radius, own.radius, *self.bounds)

        return step
