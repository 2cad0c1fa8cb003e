"""Primal-dual descent: the weight of misclassification is a dual variable, and no constant is searched for."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from .. import ops
from ._adam import ADAM, TINY, moments
from ._ascend import STEPS, Rows
from ._attack import check_choice, check_ranges
from ._nearest import Descent
from ._state import Nearest

_FIRST, _LEAST = math.log(0.01), math.log(1e-6)
"""The logarithm of the distance's weight over that of the loss: at first, and at the least."""


@dataclass
class _Dual(Nearest):
    """The best so far; the logarithm of the weight ratio, and the distance's share of both weights, averaged over the
    steps, [B]; Adam's mean and mean square, [B, ...].
    """

    ratio: Tensor | None = None
    share: Tensor | None = None
    mean: Tensor | None = None
    square: Tensor | None = None


@dataclass(frozen=True)
class PDGD(Descent):
    """PDGD (Matyasko and Chau, 2021): Adam down ``w |delta|_2 + (1 - w) softplus(z_y - max_{j != y} z_j)``.

    The weight w is a sample's own. Its dual variable rises with every adversarial point and falls with every other,
    which takes the place of a search for a constant. Samples that succeed at x are returned as they are; so are those
    that are never fooled.

    Args:
        steps: gradient steps.
        lr: Adam's first step size, as a share of the inputs' range; it falls exponentially, to a hundredth.
        dual_lr: by how much the logarithm of the weights' ratio changes at first; it falls linearly, to a tenth.
        targeted: towards the labels instead of away from them.
    """

    steps: int = 500
    lr: float = 0.1
    dual_lr: float = 0.1

    norm: ClassVar[str] = "l2"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, lr="(0, inf)", dual_lr="(0, inf)")

    def descent(self, rows: Rows) -> Callable[[Rows, int], None]:
        state = self.begin(rows, _Dual)
        state.ratio = torch.full_like(state.size, _FIRST)
        state.share = state.ratio.sigmoid()
        state.mean, state.square = moments(rows.x)
        move = ops.adam_step.in_loop()

        def step(live: Rows, number: int) -> None:
            own: _Dual = live.state
            grad, ahead, fooled = live.ascent("margin", kappa=math.inf)
            self.keep(live, fooled)
            weight = -torch.sigmoid(-ahead).to(own.size.dtype)
            rate = torch.full_like(own.size, self.lr * self.unit * 0.01 ** ((number - 1) / self.steps))
            slope, weight = self.slope(live, weight)
            adam = (number, *ADAM, TINY / self.unit, *self.bounds, None, live.nonfinite)
            move(live.x_adv, own.mean, own.square, grad, slope, weight, rate, *adam)
            self.nearer(live, number, rate)
            left = 0.1 + 0.9 * (self.steps - number) / max(1, self.steps - 1)
            rise = self.dual_lr * left * ahead.sign().to(own.size.dtype)
            own.ratio = (own.ratio + rise).clamp(_LEAST, -_LEAST)
            own.share = 0.9 * own.share + 0.1 * own.ratio.sigmoid()

        return step

    def slope(self, live: Rows, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient of the distance, [B, ...], and the weight of the loss's own, [B]."""
        own, delta = live.state, live.x_adv - live.x
        size = self.unit * ops.row_norms(delta, "l2")
        pull = torch.where(size > 0, own.share / size, 0)
        return (ops.as_rows(pull, delta) * delta).to(live.x.dtype), (1 - own.share) * weight

    def nearer(self, live: Rows, number: int, rate: Tensor) -> None:
        """What brings `x_adv` nearer to x after Adam's step of size `rate` [B]; nothing: its gradient does."""


@dataclass(frozen=True)
class PDPGD(PDGD):
    """PDPGD (Matyasko and Chau, 2021): `PDGD` for any norm, with proximal steps towards x.

    Adam goes down the softplus of the margin alone. Then delta becomes what minimises ``w |z| + (1 - w) |z - delta|^2``
    over z, in Adam's own metric: at once in ``l1``, elsewhere by proximal steps. In ``l0``, the norm is the sum of the
    2/3 powers, which leads to fewer entries than their number does. Options that `PDGD` has as well mean the same.

    Args:
        norm: ``l0``, ``l1``, ``l2`` or ``linf``.
        proximal_steps: how many proximal steps are made at the most.
    """

    norm: str = field(default="l1", kw_only=True)
    proximal_steps: int = field(default=5, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "norm", self.norm, ("l0", *STEPS))

    def slope(self, live: Rows, weight: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(live.x), weight

    def nearer(self, live: Rows, number: int, rate: Tensor) -> None:
        own: _Dual = live.state
        origin = live.x.to(own.mean.dtype)
        metric = (own.square / (1 - ADAM[1] ** number)).sqrt_().mul_(self.unit).add_(TINY)
        largest = ops.row_norms(metric, "linf")
        metric = metric / ops.as_rows(largest, metric)
        far = (live.x_adv.to(own.mean.dtype) - origin) / self.unit
        weight = own.share / (1 - own.share) * rate / self.unit / largest
        low, high = ((bound - origin) / self.unit for bound in self.bounds)
        if self.norm == "l1":
            near = far.sign() * (far.abs() - ops.as_rows(weight, far) / metric).clamp(min=0)
        else:
            near, change = far, torch.full_like(weight, torch.inf)
            for _ in range(self.proximal_steps):
                new = _PROXIMAL[self.norm](near - metric * (near - far), weight).clamp(low, high)
                new = torch.where(ops.as_rows(change > 0.01, near), new, near)
                change = ops.row_norms(new, "l2", near) / ops.row_norms(new, "l2")
                near = new
        live.x_adv = torch.empty_like(live.x).copy_((origin + self.unit * near).clamp_(*self.bounds))


def _to_l0(z: Tensor, weight: Tensor) -> Tensor:
    """The proximal point of ``weight * sum |z|^(2/3)`` (Xu et al., 2012; Cao et al., 2013), a cubic's root."""
    weight = ops.as_rows(weight, z).double()
    size = z.abs().double()
    inner = (size.pow(4) / 256 - 8 * weight.pow(3) / 729).sqrt()
    phi = 2 * ((size.square() / 16 + inner).pow(1 / 3) + (size.square() / 16 - inner).pow(1 / 3))
    root = phi.sqrt()
    found = ((2 * size / root - phi).sqrt() + root).pow(3) / 8
    return found.nan_to_num(0).to(z.dtype).copysign(z)


def _to_l2(z: Tensor, weight: Tensor) -> Tensor:
    return z * ops.as_rows((1 - weight / ops.row_norms(z, "l2")).clamp(min=0), z)


def _to_linf(z: Tensor, weight: Tensor) -> Tensor:
    """What is left beyond the projection on the L1 ball (Moreau)."""
    inside, none = z.clone(), torch.zeros_like(z)
    ops.l1_step(inside, none, none, 0.0, weight, -math.inf, math.inf)
    return z - inside


_PROXIMAL = {"l0": _to_l0, "l2": _to_l2, "linf": _to_linf}
