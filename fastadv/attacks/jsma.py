"""The Jacobian-based saliency map attack."""

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from ._ascend import Rows, ascend
from ._attack import Attack, check_choice, check_ranges
from ._state import Goal


@dataclass(frozen=True)
class JSMA(Attack):
    """Changes two entries at a time, those that most favour one class over all others (Papernot et al., 2016).

    With the gradients of logits, a pair of entries has ``alpha``, the sum of its derivatives of the target, and
    ``beta``, that of all other classes. Where `theta` is positive, a step takes the pair of the largest
    ``alpha * -beta`` of those with ``alpha > 0`` and ``beta < 0``; where it is negative, signs are turned round
    (Algorithms 2 and 3). Entries at the bound that they move to are left out, as are new ones where `gamma` allows no
    more. The attack ends where it succeeds, or where there is no such pair. Two gradients a step.

    Args:
        theta: what is added to an entry, as a share of the inputs' range; negative to subtract.
        gamma: the share of the entries that may be changed.
        saliency: ``pair``, as above; ``target`` takes the pair of the largest ``alpha`` instead, as ART does.
        targeted: towards the labels. Otherwise towards the most likely other class at x, until any other is reached.
    """

    theta: float = 1.0
    gamma: float = 0.1
    saliency: str = field(default="pair", kw_only=True)
    targeted: bool = field(default=False, kw_only=True)

    norm: ClassVar[str] = "l0"
    has_budget: ClassVar[bool] = False
    ends_early: ClassVar[bool] = True
    repeats: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "saliency", self.saliency, ("pair", "target"))
        if not 0 < abs(self.theta) <= 1:
            raise ValueError(
                f"JSMA: theta must be a share of the inputs' range, in [-1, 1] and not 0, got {self.theta}"
            )
        check_ranges(self, gamma="[0, 1]")

    def perturb(self, rows: Rows) -> None:
        rows.state = Goal(rows.y if self.targeted else rows.ranked(rows.scores())[:, 0])
        moves = self._most(rows.x) * math.ceil(1 / abs(self.theta))
        ascend(self, rows, moves // 2, self._step, rows.unwon())

    def _step(self, live: Rows, number: int) -> Tensor:
        sign = math.copysign(1, self.theta)
        full = (live.x_adv >= self.bounds[1] if sign > 0 else live.x_adv <= self.bounds[0]).flatten(1)
        target, others = (sign * slope for slope in self._slopes(live))
        others = -target if self.saliency == "target" else others
        broken = ~(target + others).isfinite()
        live.nonfinite |= broken.any(dim=1)
        changed = (live.x_adv != live.x).flatten(1)
        spent = changed.sum(dim=1, keepdim=True) + 2 > self._most(live.x)
        out = full | broken | (spent & ~changed)
        pair, found = best_pair(target.masked_fill(out, -torch.inf), (-others).masked_fill(out, -torch.inf))
        if live.active is not None:
            found &= live.active
        change = found.unsqueeze(1) * torch.full_like(target[:, :2], self.theta * self.unit)
        change = torch.zeros_like(target).scatter_(1, pair, change).view(live.x.shape)
        live.x_adv = live.point(live.x_adv + change, self.bounds)
        return found & ~live.fooled_at(live.x_adv)

    def _most(self, x: Tensor) -> int:
        """How many entries of a sample may be changed."""
        return math.floor(self.gamma * math.prod(x.shape[1:]) + 1e-9)

    def _slopes(self, live: Rows) -> tuple[Tensor, Tensor]:
        """The derivatives of the target's logit and of the sum of all others', [B, D] each."""
        x_adv, logits = live.differentiable(live.x_adv, again=True)
        target = torch.zeros_like(logits).scatter_(1, live.state.goal.unsqueeze(1), 1)
        wide = torch.promote_types(live.x.dtype, torch.float32)
        slopes = live.back(logits, x_adv, target, again=True), live.back(logits, x_adv, 1 - target)
        return slopes[0].flatten(1).to(wide), slopes[1].flatten(1).to(wide)


def best_pair(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """The two columns p, q of `u` and `v` [B, D] of the largest ``(u_p + u_q) (v_p + v_q)``, both sums positive.

    [B, 2], and whether there are such two, [B]. A column that two others equal or exceed in both `u` and `v` can be
    exchanged for one of these, and is left out; so few are left that all their pairs can be looked at.
    """
    u, order = u.sort(dim=1, descending=True, stable=True)
    v = v.gather(1, order)
    largest = _before(v.cummax(dim=1).values)
    second = _before(torch.minimum(v, largest).cummax(dim=1).values)
    kept = v > second
    most = max(2, int(kept.sum(dim=1).amax())) if kept.numel() else 0
    place = kept.byte().argsort(dim=1, descending=True, stable=True)[:, :most]
    left, right = (t.masked_fill(~kept, -torch.inf).gather(1, place) for t in (u, v))
    gains, sums = (t.unsqueeze(2) + t.unsqueeze(1) for t in (left, right))
    apart = ~torch.eye(gains.shape[1], dtype=torch.bool, device=u.device)
    products = torch.where((gains > 0) & (sums > 0) & apart, gains * sums, 0).flatten(1)
    if products.shape[1] == 0:
        return order[:, :0].expand(len(u), 2), torch.zeros(len(u), dtype=torch.bool, device=u.device)
    best = products.argmax(dim=1, keepdim=True)
    found = (products.gather(1, best) > 0).squeeze(1)
    return order.gather(1, place.gather(1, torch.cat((best // most, best % most), dim=1))), found


def _before(v: Tensor) -> Tensor:
    """The column before each, -inf before the first."""
    return pad(v[:, :-1], (1, 0), value=-torch.inf)
