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
        x_adv, logits = live.differentiable(self._moved(live, 1))
        y = live.y.unsqueeze(1)
        rivals = logits.scatter(1, y, -torch.inf).topk(min(self.candidates, logits.shape[1]) - 1, dim=1).values
        gaps = logits.gather(1, y) - rivals  # -f_k: how far ahead of each rival the attacked class is
        nearest = live.delta.new_full((len(live.x),), torch.inf)
        towards = torch.zeros_like(live.delta)
        for k in range(gaps.shape[1]):
            (grad,) = torch.autograd.grad(gaps[:, k].sum(), x_adv, retain_graph=k + 1 < gaps.shape[1])  # -w_k
            size = ops.row_norms(live.counted(grad), "l2")
            # The addend carries the point over a boundary that it would otherwise only touch.
            distance = (gaps[:, k].detach().abs() + 1e-5) / size
            nearer = (distance < nearest) & (size > 1e-8) & size.isfinite()
            nearest = torch.where(nearer, distance, nearest)
            towards = torch.where(ops.as_rows(nearer, grad), -grad / ops.as_rows(size, grad), towards)
        step = torch.where(nearest.isfinite(), nearest, 0)
        live.delta += ops.as_rows(step, towards) * towards
        live.x_adv = self._moved(live, 1 + self.overshoot)
        return live.predictions() == live.y

    def _moved(self, rows: Rows, scale: float) -> torch.Tensor:
        # Into x's own layout: with one channel, sums lose channels_last, and convolutions their speed.
        return torch.empty_like(rows.x).copy_((rows.x + scale * rows.delta).clamp(*self.bounds))
