"""What Carlini and Wagner's attacks share: Adam down the sum of a penalty and a weighted margin."""

import itertools
import math
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from .. import ops
from ..losses import lead
from ._ascend import Rows, ascend, predicted
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
    def penalty(self, live: Rows) -> tuple[Tensor, Tensor]:
        """What the perturbations cost, [B], and the gradient of that."""

    def begin(self, rows: Rows) -> Tensor:
        """Sets `const`, `best` and its `size`; gives the mask of the rows that do not succeed at x already."""
        rows.best = rows.x.clone()
        rows.size = ops.row_norms(rows.x, self.norm).fill_(torch.inf)
        rows.const = torch.full_like(rows.size, self.weight(self.initial_const))
        return ~self._judge(rows, rows.scores())[1]

    def weight(self, const: float) -> float:
        """`const`, which is for inputs of range 1, in the units of the penalty."""
        return const * self.unit**self.degree

    def minimise(self, rows: Rows, active: Tensor, rate: Tensor) -> None:
        """A fresh run of Adam from `x_adv`, with one step size a sample; `found` tells who succeeded at any point."""
        rows.rate, rows.found = rate, torch.zeros_like(active)
        rows.loss = torch.full_like(rows.size, torch.inf)
        wide = torch.promote_types(rows.x.dtype, torch.float32)
        rows.mean, rows.square = (torch.zeros_like(rows.x, dtype=wide) for _ in range(2))
        done = itertools.count()
        ascend(rows, self.steps, lambda live: self._step(live, next(done)), active)

    def _step(self, live: Rows, done: int) -> Tensor | None:
        x_adv, logits = live.differentiable(live.x_adv)
        f, fooled = self._judge(live, logits)
        (grad,) = torch.autograd.grad(f.sum(), x_adv)
        grad = live.counted(grad).nan_to_num(0, 0, 0)
        live.found |= fooled
        live.keep_nearest(fooled, self.norm)
        penalty, slope = self.penalty(live)
        self._adam(live, slope + ops.as_rows(live.const, grad) * grad, done + 1)
        if not self.abort_early or done % math.ceil(self.steps / 10):
            return None
        before, live.loss = live.loss, penalty + live.const * f.detach().to(penalty.dtype)
        return live.loss <= 0.9999 * before

    def _judge(self, rows: Rows, logits: Tensor) -> tuple[Tensor, Tensor]:
        """f, and whether the prediction is what the attack wants, with confidence."""
        ahead = lead(logits, rows.y)
        f = ((-ahead if self.targeted else ahead) + self.kappa).clamp_min(0)
        return f, rows.fooled(predicted(logits)) & (f <= 0)

    def _adam(self, live: Rows, grad: Tensor, count: int) -> None:
        """Step number `count` of Adam (Kingma and Ba, 2015) down `grad`, and the box."""
        live.mean.lerp_(grad.to(live.mean.dtype), 1 - _MEAN)
        live.square.mul_(_SQUARE).addcmul_(grad, grad, value=1 - _SQUARE)
        scale = (live.square / (1 - _SQUARE**count)).sqrt_().add_(_TINY * self.unit ** (self.degree - 1))
        pace = ops.as_rows(live.rate / (_MEAN**count - 1), grad)
        live.x_adv.addcdiv_(pace * live.mean, scale).clamp_(*self.bounds)
