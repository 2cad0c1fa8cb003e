"""DeepFool: the nearest linearised decision boundary, again and again."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from .. import ops
from ._ascend import Rows, ascend
from ._attack import Attack, check_count


@dataclass(frozen=True)
class DeepFool(Attack):
    """The smallest L2 perturbation DeepFool finds (Moosavi-Dezfooli et al., 2016), batched over samples and classes.

    The convention is cleverhans', which the Blind AT paper used: candidates are the best classes at the current point,
    every iterate is clipped to the box, and the overshoot multiplies the sum of the steps but is not linearised at. A
    sample is finished, and leaves the batch, as soon as the point that would be returned has another class; cleverhans
    asks the point before the overshoot, which creeps up to the boundary for twice as many steps and is no nearer in the
    end. Samples whose predicted class is not `y` to begin with are returned as they are.

    Args:
        steps: iterations at the most.
        overshoot: the accumulated perturbation is multiplied by ``1 + overshoot``.
        candidates: how many of the best classes are considered, the attacked one included.
    """

    steps: int = 50
    overshoot: float = 0.02
    candidates: int = 10

    norm: ClassVar[str] = "l2"
    has_budget: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self, "steps", self.steps, 0)
        if not 0 <= self.overshoot < math.inf:
            raise ValueError(f"DeepFool: overshoot must be finite and not negative, got {self.overshoot}")
        check_count(self, "candidates", self.candidates, 2)

    def perturb(self, rows: Rows) -> None:
        wide = torch.promote_types(rows.x.dtype, torch.float32)
        rows.delta = torch.zeros_like(rows.x, dtype=wide)  # the sum of the steps, never clipped
        ascend(rows, self.steps, self._step, active=None if rows.own_labels else rows.predictions() == rows.y)

    def _step(self, live: Rows) -> torch.Tensor:
        x_adv, logits = live.differentiable(self._moved(live, 1), again=True)
        rivals = live.ranked(logits)[:, : self.candidates - 1]
        leads, grads = live.class_gradients(x_adv, logits, rivals)
        ops.deepfool_step(
            live.x_adv,
            live.delta,
            live.x,
            leads,
            grads,
            torch.zeros_like(live.y),  # the place of y among them
            self.overshoot,
            self.norm,
            *self.bounds,
        )
        return live.predictions() == live.y

    def _moved(self, rows: Rows, scale: float) -> torch.Tensor:
        # Into x's own layout: with one channel, sums lose channels_last, and convolutions their speed.
        return torch.empty_like(rows.x).copy_((rows.x + scale * rows.delta).clamp(*self.bounds))
