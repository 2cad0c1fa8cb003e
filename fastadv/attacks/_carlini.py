"""What Carlini and Wagner's attacks share: Adam down the sum of a penalty and a weighted margin."""

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from .. import ops
from ._adam import ADAM, TINY, moments
from ._ascend import Rows, ascend
from ._attack import check_counts, check_ranges
from ._nearest import MinimumNorm
from ._state import Nearest

_WEIGHTS = "[1e-30, 1e+30]"  # so that products with them are within float32's range


@dataclass
class Weighed(Nearest):
    """The best so far, the `const` of each sample, and of the present run of the steps: who was `found` to succeed, the
    `loss` at the last looks [B, looks], and Adam's step sizes [B], `mean` and mean `square` [B, ...].
    """

    const: Tensor | None = None
    found: Tensor | None = None
    loss: Tensor | None = None
    rate: Tensor | None = None
    mean: Tensor | None = None
    square: Tensor | None = None


@dataclass(frozen=True)
class CarliniWagner(MinimumNorm):
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

    ends_early: ClassVar[bool] = True
    state: ClassVar[type[Weighed]] = Weighed
    looks: ClassVar[int] = 1  # how many looks without progress end the attack of a sample
    degree: ClassVar[int]  # the power of the inputs' unit in which the penalty is

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, steps=0)
        check_ranges(self, kappa="[0, inf)", lr=_WEIGHTS, initial_const=_WEIGHTS)

    @abstractmethod
    def penalty(self, live: Rows) -> Tensor:
        """What the perturbations cost, [B]."""

    @abstractmethod
    def slope(self, live: Rows) -> Tensor:
        """The gradient of the penalty, [B, ...]."""

    def start(self, rows: Rows) -> tuple[Weighed, Tensor]:
        """The state of `rows`, and who does not succeed at x already, [B]."""
        state = self.begin(rows, self.state)
        state.const = torch.full_like(state.size, self.weight(self.initial_const))
        _, losses, fooled = rows.loss_gradient(rows.scores(), "margin", kappa=self.kappa)
        return state, ~(fooled & (losses >= 0))

    def weight(self, const: float) -> float:
        """`const`, which is for inputs of range 1, in the units of the penalty."""
        return const * self.unit**self.degree

    def minimise(self, rows: Rows, active: Tensor, rate: Tensor) -> None:
        """A fresh run from `x_adv`, with one step size a sample; `found` tells who succeeded at any point."""
        state: Weighed = rows.state
        state.found, state.rate = torch.zeros_like(active), rate
        state.loss = rate.new_full((len(rate), self.looks), torch.inf)
        ascend(self, rows, self.steps, self.descent(rows), active)

    def descent(self, rows: Rows) -> Callable[[Rows, int], Tensor | None]:
        """Begins a run; gives the step, one of Adam's."""
        rows.state.mean, rows.state.square = moments(rows.x)
        move = ops.adam_step.in_loop()
        return lambda live, number: self._step(live, number, move)

    def _step(self, live: Rows, number: int, move: Callable) -> Tensor | None:
        own: Weighed = live.state
        grad, losses, fooled = live.ascent("margin", kappa=self.kappa)  # the loss is -f
        losses = self._won(live, losses, fooled)
        going = self._falls(live, number, lambda: self.penalty(live) - own.const * losses)
        adam = (number, *ADAM, TINY * self.unit ** (self.degree - 1), *self.bounds, None, live.nonfinite)
        move(live.x_adv, own.mean, own.square, grad, self.slope(live), -own.const, own.rate, *adam)
        return going

    def _won(self, live: Rows, losses: Tensor, fooled: Tensor) -> Tensor:
        """Notes who succeeds at `x_adv`, which `keep` may keep; the losses in the type of sizes."""
        losses, won = losses.to(live.state.size.dtype), fooled & (losses >= 0)
        if live.active is not None:
            won &= live.active
        live.state.found |= won
        self.keep(live, won)
        return losses

    def _falls(self, live: Rows, number: int, loss: Callable[[], Tensor]) -> Tensor | None:
        """Whose loss is still falling, [B]; None at steps where that is not looked at."""
        if not self.abort_early or (number - 1) % math.ceil(self.steps / 10):
            return None
        now, before = loss().unsqueeze(1), live.state.loss
        live.state.loss = torch.cat((now, before[:, :-1]), dim=1)
        return (now <= 0.9999 * before).any(dim=1)
