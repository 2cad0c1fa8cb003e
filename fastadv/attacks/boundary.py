"""The boundary attack, which asks for nothing but the predicted class."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .. import ops
from ._ascend import Rows, ascend
from ._attack import check_counts, check_ranges
from ._decisions import DecisionAttack
from ._state import State

_EVERY = 10
"""After how many steps the first half of one is asked for, too, and the steps' sizes are looked at."""


@dataclass
class _Walk(State):
    """The distance and the shares of it that a step goes, [B]; the last successes, [B, 100] and [B, 30]."""

    size: Tensor
    sphere: Tensor
    source: Tensor
    spheres: Tensor
    walks: Tensor


@dataclass(frozen=True)
class Boundary(DecisionAttack):
    """A random walk along the decision boundary towards x, in L2 (Brendel et al., 2018, Algorithm 1).

    A step goes by `sphere` in a random direction on the sphere around x, then by `source` towards x, both as shares of
    the distance; it is made if the model still gives a wanted class and it is nearer. Every tenth step also asks for
    the point on the sphere. Sizes follow the shares of successes, as in the authors' code: of the last 100 points on
    spheres, more than 1/2 make both larger by `adaptation` and fewer than 1/5 smaller; of the last 30 whole steps, more
    than 1/4 or fewer than 1/10 those towards x. The attack of a sample ends where `source` falls below `least`.

    It asks for 1.1 predictions a step, after those for a start and ten to approach x from there. Samples of the wanted
    class are returned as they are, as are those without a start.

    Args:
        steps: steps at the most.
        sphere: the first step's size on the sphere.
        source: the first step's size towards x.
        least: the size at which a walk has converged.
        adaptation: by how much sizes change.
        starts: where to start, a point a sample, [B, ...]; where there is none, or it fails, uniform noise is drawn.
        tries: how often noise is drawn.
        targeted: towards the labels instead of away from them; noise seldom has the class, so give `starts`.
    """

    steps: int = 25000
    sphere: float = 0.01
    source: float = 0.01
    least: float = 1e-7
    adaptation: float = 1.5

    norm: ClassVar[str] = "l2"
    ends_early: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, steps=0)
        check_ranges(self, sphere="[0, 1]", source="[0, 1]", least="[0, 1]", adaptation="[1, 100]")

    def perturb(self, rows: Rows) -> None:
        started = self.start(rows)
        size = ops.row_norms(rows.x_adv, "l2", rows.x)
        sizes = (torch.full_like(size, share) for share in (self.sphere, self.source))
        past = (torch.full((len(rows.x), n), torch.nan, device=rows.x.device) for n in (100, 30))
        rows.state = _Walk(size, *sizes, *past)
        ascend(self, rows, self.steps, self._step, started)

    def _step(self, live: Rows, number: int) -> Tensor:
        own: _Walk = live.state
        around, point = self._proposed(live, number)
        fooled, size = live.fooled_at(point), ops.row_norms(point, "l2", live.x)
        better = fooled & (size < own.size)
        if live.active is not None:
            better &= live.active
        live.x_adv = torch.where(ops.as_rows(better, point), point, live.x_adv)
        own.size = torch.where(better, size, own.size)
        if number % _EVERY == 0:
            own.spheres, both = self._followed(own.spheres, live.fooled_at(around), 0.2, 0.5)
            own.walks, towards = self._followed(own.walks, fooled, 0.1, 0.25)
            own.sphere, own.source = own.sphere * both, own.source * both * towards
        return own.source >= self.least

    def _proposed(self, live: Rows, number: int) -> tuple[Tensor, Tensor]:
        """A point on the sphere around x through `x_adv`, and one from there towards x, [B, ...] both."""
        own: _Walk = live.state
        size, sphere, source = (ops.as_rows(t, live.x) for t in (own.size, own.sphere, own.source))
        way = (live.x - live.x_adv).to(size.dtype)
        noise = self._noise(live, number)
        noise = noise - way * ops.as_rows((noise * way).flatten(1).sum(dim=1), way) / size.square()
        noise = noise * (sphere * size / ops.as_rows(ops.row_norms(noise, "l2"), noise))
        around = live.point(live.x + (noise - way) / (sphere.square() + 1).sqrt(), self.bounds)
        back = (live.x - around).to(size.dtype)
        left = ops.as_rows(ops.row_norms(back, "l2"), back)
        return around, live.point(around + (source * size + left - size).clamp(min=0) / left * back, self.bounds)

    def _noise(self, live: Rows, number: int) -> Tensor:
        """Normal noise for a step, [B, ...]."""
        nothing = torch.zeros_like(live.x, dtype=live.state.size.dtype)
        lo, hi = -torch.inf, torch.inf
        return ops.random_start(nothing, live.ids, 1.0, self.seed, self.tries + number, "gaussian", lo, hi)

    def _followed(self, past: Tensor, won: Tensor, few: float, many: float) -> tuple[Tensor, Tensor]:
        """The last successes [B, N] with those of now, and by what a size changes, [B]; they begin anew where it does.

        NaN stands for what has not been tried.
        """
        past = torch.cat((past[:, 1:], won.to(past.dtype).unsqueeze(1)), dim=1)
        share = past.mean(dim=1)
        factor = torch.where(share > many, self.adaptation, torch.where(share < few, 1 / self.adaptation, 1.0))
        return past.masked_fill(factor.unsqueeze(1) != 1, torch.nan), factor
