"""DeepFool: the nearest linearised decision boundary, again and again."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from .. import ops
from ._ascend import Rows, ascend, predicted
from ._attack import Attack, check_choice, check_counts, check_ranges
from ._state import State

_BEYOND = 1e-4
"""How much further than the boundary the authors' code goes, in the norm, with the inputs' range as its unit."""


@dataclass
class _Sum(State):
    """The sum of the steps, never clipped, [B, ...], and the classes that are considered, [B, candidates - 1]."""

    delta: Tensor
    rivals: Tensor | None = None


@dataclass(frozen=True)
class DeepFool(Attack):
    """The smallest perturbation DeepFool finds (Moosavi-Dezfooli et al., 2016), batched over samples and classes.

    In the convention ``cleverhans``, which the Blind AT paper used, candidates are the best classes at the current
    point, every iterate is clipped to the box, and the overshoot multiplies the sum of the steps but is not linearised
    at. In the convention ``original``, that of the authors' code, they are the best classes at x, and every iterate has
    the overshoot in it, goes 1e-4 of the inputs' range beyond the boundary and may leave the box; only the result is
    clipped, which the authors do not do. The convention ``foolbox`` is that of foolbox: as ``original``, but every
    iterate is clipped.

    In all, a sample is finished, and leaves the batch, as soon as the point that would be returned has another class;
    cleverhans asks the point before the overshoot, which creeps up to the boundary for twice as many steps and is no
    nearer in the end. Samples whose predicted class is not `y` to begin with are returned as they are.

    Args:
        steps: iterations at the most.
        overshoot: the accumulated perturbation is multiplied by ``1 + overshoot``.
        candidates: how many of the best classes are considered, the attacked one included.
        norm: ``l2`` or ``linf``.
        convention: ``cleverhans``, ``original`` or ``foolbox``.
    """

    steps: int = 50
    overshoot: float = 0.02
    candidates: int = 10
    norm: str = field(default="l2", kw_only=True)
    convention: str = field(default="cleverhans", kw_only=True)

    has_budget: ClassVar[bool] = False
    ends_early: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, steps=0, candidates=2)
        check_ranges(self, overshoot="[0, inf)")
        check_choice(self, "norm", self.norm, ("l2", "linf"))
        check_choice(self, "convention", self.convention, ("cleverhans", "original", "foolbox"))

    def perturb(self, rows: Rows) -> None:
        wide = torch.promote_types(rows.x.dtype, torch.float32)
        rows.state, active = _Sum(torch.zeros_like(rows.x, dtype=wide)), rows.unwon()
        if self.convention != "cleverhans":
            rows.state.rivals = self._rivals(rows, rows.scores())
        ascend(self, rows, self.steps, self._step, active)

    def _step(self, live: Rows, number: int) -> Tensor:
        own: _Sum = live.state
        x_adv, logits = live.differentiable(self._point(live), again=True)
        if self.convention == "cleverhans":
            own.rivals = self._rivals(live, logits)
        leads, grads = live.class_gradients(x_adv, logits, own.rivals)
        own_place = torch.zeros_like(live.y)  # y comes first
        beyond = 0.0 if self.convention == "cleverhans" else _BEYOND * self.unit
        how = (self.overshoot, beyond, self.norm, *self.bounds, live.active, live.nonfinite)
        ops.deepfool_step(live.x_adv, own.delta, live.x, leads, grads, own_place, *how)
        return predicted(live.scores()) == live.y

    def _rivals(self, rows: Rows, logits: Tensor) -> Tensor:
        """The best classes but y, the best first, [B, candidates - 1]."""
        return rows.ranked(logits)[:, : self.candidates - 1]

    def _point(self, live: Rows) -> Tensor:
        """Where the model is linearised."""
        point = live.x + (1 if self.convention == "cleverhans" else 1 + self.overshoot) * live.state.delta
        # Into x's own layout: with one channel, sums lose channels_last, and convolutions their speed.
        return torch.empty_like(live.x).copy_(point if self.convention == "original" else point.clamp(*self.bounds))
