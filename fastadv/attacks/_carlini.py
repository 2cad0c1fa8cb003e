"""What Carlini and Wagner's attacks share: Adam down the sum of a penalty and a weighted margin."""

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from .. import ops
from ._ascend import Rows, ascend
from ._attack import Attack, check_count

_MEAN, _SQUARE, _TINY = 0.9, 0.999, 1e-8
"""Adam's beta_1, beta_2 and epsilon."""


@dataclass(frozen=True)
class CarliniWagner(Attack):
    """The smallest perturbation that Adam meets on its way down ``penalty + const * f``, with a const a sample.

    ``f = max(z_y - max_{j != y} z_j + kappa, 0)``, the difference turned round where the attack is targeted. Adam moves
    the sample itself, clipped to the box: in the paper's space of tanh, black and white pixels all but never move.
    """

    kappa: float = 0.0
    steps: int = 100
    lr: float = 0.01
    initial_const: float = 1e-3
    abort_early: bool = True
    targeted: bool = field(default=False, kw_only=True)

    has_budget: ClassVar[bool] = False
    ends_early: ClassVar[bool] = True
    degree: ClassVar[int]  # the power of the inputs' unit in which the penalty is

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self, "steps", self.steps, 0)
        if not 0 <= self.kappa < math.inf:
            raise ValueError(f"{type(self).__name__}: kappa must be finite and not negative, got {self.kappa}")
        for name in ("lr", "initial_const"):
            if not 1e-30 <= getattr(self, name) <= 1e30:  # far within float32
                raise ValueError(
                    f"{type(self).__name__}: {name} must be between 1e-30 and 1e+30, got {getattr(self, name):g}"
                )

    @abstractmethod
    def penalty(self, live: Rows) -> Tensor:
        """What the perturbations cost, [B]."""

    @abstractmethod
    def slope(self, live: Rows) -> Tensor:
        """The gradient of the penalty, [B, ...]."""

    def begin(self, rows: Rows) -> Tensor:
        """Sets `const`, `best` and its `size`; gives the mask of the rows that do not succeed at x already."""
        rows.best = rows.x.clone()
        rows.size = ops.row_norms(rows.x, self.norm).fill_(torch.inf)
        rows.const = torch.full_like(rows.size, self.weight(self.initial_const))
        _, losses, fooled = rows.loss_gradient(rows.scores(), "margin", kappa=self.kappa)
        return ~(fooled & (losses >= 0))

    def weight(self, const: float) -> float:
        """`const`, which is for inputs of range 1, in the units of the penalty."""
        return const * self.unit**self.degree

    def minimise(self, rows: Rows, active: Tensor, rate: Tensor) -> None:
        """A fresh run of Adam from `x_adv`, with one step size a sample; `found` tells who succeeded at any point."""
        rows.rate, rows.found = rate, torch.zeros_like(active)
        rows.loss = torch.full_like(rows.size, torch.inf)
        wide = torch.promote_types(rows.x.dtype, torch.float32)
        rows.mean, rows.square = (torch.zeros_like(rows.x, dtype=wide) for _ in range(2))
        move = ops.adam_step.in_loop()
        ascend(self, rows, self.steps, lambda live, number: self._step(live, number, move), active)

    def _step(self, live: Rows, number: int, move: Callable) -> Tensor | None:
        grad, losses, fooled = live.ascent("margin", kappa=self.kappa)  # the loss is -f
        losses, won = losses.to(live.size.dtype), fooled & (losses >= 0)
        if live.active is not None:
            won &= live.active
        live.found |= won
        live.keep_nearest(won, self.norm)
        going = None
        if self.abort_early and (number - 1) % math.ceil(self.steps / 10) == 0:
            before, live.loss = live.loss, self.penalty(live) - live.const * losses
            going = live.loss <= 0.9999 * before
        adam = (number, _MEAN, _SQUARE, _TINY * self.unit ** (self.degree - 1), *self.bounds, None, live.nonfinite)
        move(live.x_adv, live.mean, live.square, grad, self.slope(live), -live.const, live.rate, *adam)
        return going
