"""SPSA, which estimates gradients from logits at random points nearby."""

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from .. import ops
from ..losses import lead
from ._adam import ADAM, TINY, moments
from ._ascend import Rows, ascend
from ._attack import Attack, Budget, check_budgets, check_counts, check_ranges
from ._state import State


@dataclass
class _Adam(State):
    """Adam's mean and mean square of the gradients [B, ...], its step size, and ones and zeros [B]."""

    mean: Tensor
    square: Tensor
    rate: Tensor
    one: Tensor
    still: Tensor


@dataclass(frozen=True)
class SPSA(Attack):
    """Adam down gradients of the margin that differences of logits estimate (Uesato et al., 2018, Algorithm 1).

    A step takes `samples` directions v of random signs, a sample's own, and asks for the margin J of the label at both
    ends: the mean of ``(J(x_adv + delta v) - J(x_adv - delta v)) / (2 delta) * v`` is the gradient. These points may
    lie beyond the budget and the bounds. It uses no gradients, and ``2 * samples`` forward passes a step.

    Args:
        eps: L-infinity budget, in the units of the inputs; a number or one a sample.
        steps: number of Adam's steps.
        samples: directions a step.
        delta: how far the points are, as a share of the inputs' range.
        lr: Adam's step size, likewise.
        targeted: towards the labels instead of away from them.
    """

    eps: Budget = 8 / 255
    steps: int = 20
    samples: int = 128
    delta: float = 0.01
    lr: float = 0.01
    targeted: bool = field(default=False, kw_only=True)

    is_random: ClassVar[bool] = True
    repeats: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_budgets(self, "eps")
        check_counts(self, steps=0, samples=1)
        check_ranges(self, delta="(0, 1]", lr="(0, 1]")

    def perturb(self, rows: Rows) -> None:
        rows.eps = ops.per_sample("SPSA", "eps", self.eps, rows.x)
        rate = torch.full_like(rows.eps, self.lr * self.unit)
        rows.state = _Adam(*moments(rows.x), rate, torch.ones_like(rate), torch.zeros_like(rate))
        move, project = ops.adam_step.in_loop(), ops.linf_step.in_loop()

        def step(live: Rows, number: int) -> None:
            grad, none, own = self._estimate(live, number), torch.zeros_like(live.x), live.state
            adam = (number, *ADAM, TINY / self.unit, -math.inf, math.inf, None, live.nonfinite)
            move(live.x_adv, own.mean, own.square, grad, none, own.one, own.rate, *adam)
            project(live.x_adv, none, live.x, own.still, live.eps, *self.bounds)

        ascend(self, rows, self.steps, step)

    def _estimate(self, live: Rows, number: int) -> Tensor:
        """The gradient at `x_adv` of what is minimised, [B, ...]."""
        grad, reach = torch.zeros_like(live.state.mean), self.delta * self.unit
        for draw in range(number * self.samples, (number + 1) * self.samples):
            signs = ops.random_start(torch.zeros_like(live.x), live.ids, 1.0, self.seed, draw, "sign", -1.0, 1.0)
            signs = live.free(signs)
            rise = self._margin(live, live.x_adv + reach * signs) - self._margin(live, live.x_adv - reach * signs)
            grad += ops.as_rows(rise, live.x) * signs
        return grad.mul_(1 / (2 * reach * self.samples)).to(live.x.dtype)

    @torch.no_grad()
    def _margin(self, live: Rows, x: Tensor) -> Tensor:
        """How far the label is ahead, or behind where the attack is targeted, [B]."""
        ahead = lead(live.logits(x), live.y)
        return -ahead if self.targeted else ahead
