"""The elastic-net attack."""

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import softshrink

from .. import ops
from ._ascend import Rows, ascend
from ._attack import check_choice
from .cw import CW


@dataclass(frozen=True)
class EAD(CW):
    """The smallest perturbation in L1, or in the elastic-net sense, by FISTA (Chen et al., 2018, Algorithm 1).

    For a const that is searched for as in `CW`, it minimises ``|delta|_2^2 + beta |delta|_1 + const * f``: gradient
    steps of the smooth part, whose size falls as the square root of the steps left, from a point ahead (FISTA); then
    entries of delta shrink by `beta`, those below it to 0 (equation 7). The gradient is taken at the point ahead, and
    success looked for at the shrunk one: two forward passes a step. Samples that succeed at x are returned as they are;
    so are those never fooled. Options that `CW` has as well mean the same.

    Args:
        lr: the first step's size: the share of a gradient that is subtracted.
        abort_early: a sample leaves a const once its own loss is no lower than a tenth and two tenths of the steps
            before.
        beta: the weight of the L1 norm, as a share of the inputs' range.
        decision: which successful point is the best: of smallest ``l1`` norm, or ``en``, of smallest
            ``|delta|_2^2 + beta |delta|_1``.
    """

    beta: float = field(default=1e-3, kw_only=True)
    decision: str = field(default="l1", kw_only=True)

    norm: ClassVar[str] = "l1"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "decision", self.decision, ("l1", "en"))
        if not 0 <= self.beta < math.inf:
            raise ValueError(f"EAD: beta must be finite and not negative, got {self.beta}")

    def minimise(self, rows: Rows, active: Tensor, rate: Tensor) -> None:
        rows.found = torch.zeros_like(active)
        rows.loss = rows.size.new_full((len(rows.x), 2), torch.inf)  # at the last two looks: FISTA may rise in between
        rows.ahead = rows.x_adv.to(rows.size.dtype, copy=True)
        ascend(self, rows, self.steps, self._step, active)

    def _step(self, live: Rows, number: int) -> Tensor | None:
        grad, _, _ = live.ascent("margin", at=live.ahead.to(live.x.dtype), kappa=self.kappa)  # of -f
        clean, origin, before = grad.to(live.ahead.dtype), live.x.to(live.ahead.dtype), live.x_adv
        live.nonfinite |= ~clean.flatten(1).isfinite().all(dim=1)
        delta, rate = live.ahead - origin, self.lr * math.sqrt(1 - (number - 1) / self.steps)
        downhill = (ops.as_rows(live.const, grad) * clean.nan_to_num(0, 0, 0)).sub_(delta, alpha=2)
        shrunk = softshrink(delta.add_(downhill, alpha=rate), self.beta * self.unit)
        live.x_adv = torch.empty_like(live.x).copy_(shrunk.add_(origin).clamp_(*self.bounds))
        live.ahead = torch.add(live.x_adv, (live.x_adv - before).to(delta.dtype), alpha=(number - 1) / (number + 2))
        return self._judged(live, number)

    def _judged(self, live: Rows, number: int) -> Tensor | None:
        """Notes the best so far; gives who goes on, where that is looked at."""
        _, losses, fooled = live.loss_gradient(live.scores(), "margin", kappa=self.kappa)
        losses, won = losses.to(live.size.dtype), fooled & (losses >= 0)
        if live.active is not None:
            won &= live.active
        live.found |= won
        absolute = ops.row_norms(live.x_adv, "l1", live.x)
        penalty = self.penalty(live) + self.beta * self.unit * absolute
        size = absolute if self.decision == "l1" else penalty
        nearer = won & (size < live.size)
        live.size = torch.where(nearer, size, live.size)
        live.best = torch.where(ops.as_rows(nearer, live.x), live.x_adv, live.best)
        if not self.abort_early or (number - 1) % math.ceil(self.steps / 10):
            return None
        loss = (penalty - live.const * losses).unsqueeze(1)
        before, live.loss = live.loss, torch.cat((loss, live.loss[:, :1]), dim=1)
        return (loss <= 0.9999 * before).any(dim=1)
