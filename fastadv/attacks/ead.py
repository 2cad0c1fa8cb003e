"""The elastic-net attack."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import softshrink

from .. import ops
from ._ascend import Rows
from ._attack import check_choice, check_ranges
from ._carlini import Weighed
from .cw import CW


@dataclass
class _Ahead(Weighed):
    """Of each sample besides: the point ahead of FISTA, [B, ...]."""

    ahead: Tensor | None = None


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
    state: ClassVar[type[Weighed]] = _Ahead
    looks: ClassVar[int] = 2  # FISTA may rise in between

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "decision", self.decision, ("l1", "en"))
        check_ranges(self, beta="[0, inf)")

    def descent(self, rows: Rows) -> Callable[[Rows, int], Tensor | None]:
        rows.state.ahead = rows.x_adv.to(rows.state.size.dtype, copy=True)
        return self._step

    def _step(self, live: Rows, number: int) -> Tensor | None:
        own: _Ahead = live.state
        grad, _, _ = live.ascent("margin", at=own.ahead.to(live.x.dtype), kappa=self.kappa)  # of -f
        clean, origin, before = grad.to(own.ahead.dtype), live.x.to(own.ahead.dtype), live.x_adv
        live.nonfinite |= ~clean.flatten(1).isfinite().all(dim=1)
        delta, rate = own.ahead - origin, self.lr * math.sqrt(1 - (number - 1) / self.steps)
        downhill = (ops.as_rows(own.const, grad) * clean.nan_to_num(0, 0, 0)).sub_(delta, alpha=2)
        shrunk = softshrink(delta.add_(downhill, alpha=rate), self.beta * self.unit)
        live.x_adv = torch.empty_like(live.x).copy_(shrunk.add_(origin).clamp_(*self.bounds))
        own.ahead = torch.add(live.x_adv, (live.x_adv - before).to(delta.dtype), alpha=(number - 1) / (number + 2))
        _, losses, fooled = live.loss_gradient(live.scores(), "margin", kappa=self.kappa)
        losses = self._won(live, losses, fooled)
        return self._falls(live, number, lambda: self._elastic(live) - own.const * losses)

    def _elastic(self, live: Rows) -> Tensor:
        return self.penalty(live) + self.beta * self.unit * ops.row_norms(live.x_adv, "l1", live.x)

    def keep(self, live: Rows, fooled: Tensor) -> None:
        if self.decision == "l1":
            super().keep(live, fooled)
        else:
            own, size = live.state, self._elastic(live)
            nearer = fooled & (size < own.size)
            own.size = torch.where(nearer, size, own.size)
            own.best = torch.where(ops.as_rows(nearer, live.x), live.x_adv, own.best)
