"""The augmented Lagrangian method for adversarial attacks."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .. import ops
from ._ascend import Rows
from ._attack import check_choice, check_counts, check_ranges
from ._nearest import Descent
from ._state import Nearest


@dataclass
class _Lagrangian(Nearest):
    """The best so far; multiplier, penalty parameter, ratio at the last check, step size and step of the first success,
    [B]; the mean square of the gradients and the momentum, [B, ...].
    """

    multiplier: Tensor | None = None
    penalty: Tensor | None = None
    checked: Tensor | None = None
    rate: Tensor | None = None
    first: Tensor | None = None
    square: Tensor | None = None
    momentum: Tensor | None = None


@dataclass(frozen=True)
class ALMA(Descent):
    """ALMA (Rony et al., 2021, Algorithm 1): RMSProp with momentum down ``|delta| + P(ratio, rho, mu)``.

    The ratio is that of logits, ``(z_y - max_{j != y} z_j) / (z_1st - z_3rd)``, negative where the sample is fooled.
    P is the penalty-Lagrangian function P2. The multiplier mu follows its slope; the penalty parameter rho grows where
    no point has fooled the model yet and the ratio hardly falls. The first step is as long as `first`; once a sample
    was fooled its steps become shorter, exponentially. Samples that succeed at x are returned as they are; so are
    those that are never fooled, and those whose ratio has no gradient at x. Models need three classes.

    Args:
        steps: gradient steps.
        first: how far the first step goes in `norm`, with the inputs' range as its unit; by default 0.1 in ``l2`` and
            0.5 in ``l1``.
        memory: the share of the past in all running means; by default 0.9 in ``l2`` and 0.5 in ``l1``.
        check: after how many steps the ratio is looked at.
        norm: ``l2`` or ``l1``.
        targeted: towards the labels instead of away from them.
    """

    steps: int = 1000
    first: float | None = None
    memory: float | None = None
    check: int = 10
    norm: str = field(default="l2", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "norm", self.norm, ("l2", "l1"))
        check_counts(self, check=1)
        check_ranges(self, first="(0, inf)", memory="[0, 1)")

    def descent(self, rows: Rows) -> Callable[[Rows, int], None]:
        state, wide = self.begin(rows, _Lagrangian), torch.promote_types(rows.x.dtype, torch.float32)
        state.multiplier, state.penalty, state.checked, state.rate = (torch.ones_like(state.size) for _ in range(4))
        state.first = torch.full_like(state.size, math.inf)
        state.square, state.momentum = torch.ones_like(rows.x, dtype=wide), torch.zeros_like(rows.x, dtype=wide)
        memory = {"l1": 0.5, "l2": 0.9}[self.norm] if self.memory is None else self.memory

        def step(live: Rows, number: int) -> None:
            own: _Lagrangian = live.state
            grad, ratio, fooled = live.ascent("dlr")
            self.keep(live, fooled)
            live.nonfinite |= ~grad.flatten(1).isfinite().all(dim=1)
            ratio, found = -ratio.to(own.size.dtype), own.size < math.inf
            own.first = torch.where(found & own.first.isinf(), number, own.first)
            if number == 1:
                own.checked = ratio
            elif number % self.check == 0:
                own.penalty = torch.where(found | (ratio < 0.95 * own.checked), own.penalty, 1.2 * own.penalty)
                own.checked = ratio
            if number > 1:
                slope = _slope(ratio, own.penalty, own.multiplier)
                own.multiplier = torch.lerp(slope, own.multiplier, memory).clamp(1e-6, 1e12)
            pull = _slope(ratio, own.penalty, own.multiplier)
            delta = (live.x_adv - live.x).to(own.square.dtype) / self.unit
            down = -self.unit * ops.as_rows(pull, delta) * grad.to(delta.dtype).nan_to_num(0, 0, 0)
            if number == 1:
                own.rate = self._rate(live, down)
            elif self.norm == "l1":
                down += delta.sign()
            else:
                size = ops.as_rows(ops.row_norms(delta, "l2"), delta)
                down += torch.where(size > 0, delta / size, 0)
            own.square = torch.lerp(down.square(), own.square, memory)
            own.momentum = memory * own.momentum + down / (own.square.sqrt() + 1e-8)
            share = ((number - own.first) / (self.steps + 1 - own.first)).clamp(min=0).nan_to_num(0)
            rate = self.unit * own.rate * 0.01**share
            moved = live.x_adv.to(down.dtype) - ops.as_rows(rate, down) * own.momentum
            live.x_adv = torch.empty_like(live.x).copy_(moved.clamp_(*self.bounds))

        return step

    def _rate(self, live: Rows, down: Tensor) -> Tensor:
        """The step size [B] at which a step against `down` goes `first` far within the box."""
        first = {"l1": 0.5, "l2": 0.1}[self.norm] if self.first is None else self.first
        least = (first / ops.row_norms(down, self.norm)).nan_to_num(0, 0, 0)
        near, far = torch.zeros_like(least), torch.full_like(least, 30.0)
        for _ in range(30):  # the share of doublings of the least
            middle = (near + far) / 2
            moved = live.x.to(down.dtype) - self.unit * ops.as_rows(least * middle.exp2(), down) * down
            size = ops.row_norms(moved.clamp(*self.bounds).sub_(live.x), self.norm)
            short = size < first * self.unit
            near, far = torch.where(short, middle, near), torch.where(short, far, middle)
        return least * near.exp2()


def _slope(y: Tensor, rho: Tensor, mu: Tensor) -> Tensor:
    """The derivative of P2 at y."""
    return torch.where(
        y >= 0, mu + 2 * mu * rho * y + rho.square() * y.square() / 2, mu / (1 - rho * y.clamp(max=0)).square()
    )
