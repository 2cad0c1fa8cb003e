"""HopSkipJump, which estimates gradients from predicted classes."""

import math
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from torch import Tensor

from .. import ops
from ._ascend import Rows, ascend
from ._attack import check_choice, check_counts, check_ranges
from ._decisions import DecisionAttack, to_boundary
from ._state import Nearest

_HALVINGS = 40  # of a step, after which a model that contradicts itself is left where it was


@dataclass
class _Probe(Nearest):
    """The best so far, and how far away points are asked for, [B]."""

    radius: Tensor | None = None


@dataclass(frozen=True)
class HopSkipJump(DecisionAttack):
    """From the boundary along an estimated gradient, and back to the boundary (Chen et al., 2020, Algorithm 2).

    Step t asks for the class of about ``queries * sqrt(t)`` random points around `x_adv`. The mean of their directions,
    each with the sign of its success and less the mean sign, points into the wanted class (equation 16). It goes there
    by the distance to x over ``sqrt(t)``, halved until that succeeds, and back by bisection. With d entries, bisection
    ends within ``theta = gamma / d^1.5`` of its way (``d^2`` for ``linf``), and points are ``gamma / d`` times the
    distance before bisection away; in the first step, a tenth of the inputs' range. What is returned is the nearest
    point of all steps.

    Samples of the wanted class are returned as they are, as are those without a start.

    Args:
        steps: steps of this kind.
        queries: points of the first step.
        most: points of a step at the most.
        gamma: sets the precision, as above.
        norm: ``l2`` or ``linf``.
        starts: where to start, a point a sample, [B, ...]; where there is none, or it fails, uniform noise is drawn.
        tries: how often noise is drawn.
        targeted: towards the labels instead of away from them; noise seldom has the class, so give `starts`.
    """

    steps: int = 64
    queries: int = 100
    most: int = 10000
    gamma: float = 1.0
    norm: str = field(default="l2", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, steps=0, queries=1, most=1)
        check_choice(self, "norm", self.norm, ("l2", "linf"))
        check_ranges(self, gamma="(0, inf)")

    def perturb(self, rows: Rows) -> None:
        entries = math.prod(rows.x.shape[1:])
        theta = self.gamma / entries ** (2 if self.norm == "linf" else 1.5)
        halvings = max(0, math.ceil(-math.log2(theta)))
        counts = [min(int(self.queries * math.sqrt(step)), self.most) for step in range(1, self.steps + 1)]
        firsts = [*accumulate(counts, initial=self.tries)]

        started = self.start(rows)
        state = self.begin(rows, _Probe)
        state.best = rows.x_adv.clone()
        state.radius = torch.full_like(state.size, 0.1 * self.unit)

        def settle(live: Rows) -> None:
            live.x_adv = to_boundary(live, self.bounds, self.norm, halvings)
            self.keep(live, torch.ones_like(live.nonfinite))

        def step(live: Rows, number: int) -> None:
            if number == 1:
                settle(live)
            draws = range(firsts[number - 1], firsts[number])
            way = self._gradient(live, draws)
            self._leap(live, way, ops.row_norms(live.x_adv, self.norm, live.x) / math.sqrt(number))
            live.state.radius = ops.row_norms(live.x_adv, self.norm, live.x) * (self.gamma / entries)
            settle(live)

        ascend(self, rows, self.steps, step, started)
        rows.x_adv = state.best

    def _gradient(self, live: Rows, draws: range) -> Tensor:
        """The direction of the boundary's normal at `x_adv`, of L2 norm 1, or its signs for ``linf``, [B, ...]."""
        law = "gaussian" if self.norm == "l2" else "uniform"
        nothing, radius = torch.zeros_like(live.x, dtype=live.state.size.dtype), ops.as_rows(live.state.radius, live.x)
        signed, plain, signs = nothing.clone(), nothing.clone(), torch.zeros_like(live.state.size)
        for some in live.in_passes(len(draws)):
            points = []
            for draw in draws[some.start : some.stop]:
                noise = ops.random_start(nothing, live.ids, 1.0, self.seed, draw, law, -torch.inf, torch.inf)
                noise = noise * (radius / ops.as_rows(ops.row_norms(noise, "l2"), noise))
                points.append(live.point(live.x_adv + noise, self.bounds))
            logits = live.logits_at_each(torch.stack(points))
            for point, scores in zip(points, logits, strict=True):
                way = (point - live.x_adv) / radius
                sign = torch.where(live.fooled(ops.predictions(scores)), 1.0, -1.0).to(signs.dtype)
                signed += ops.as_rows(sign, way) * way
                plain += way
                signs += sign
        mean = signs / len(draws)
        less = torch.where(mean.abs() == 1, 0, mean)
        way = signed - ops.as_rows(less, plain) * plain
        return way.sign() if self.norm == "linf" else way / ops.as_rows(ops.row_norms(way, "l2"), way).clamp(min=1e-12)

    def _leap(self, live: Rows, way: Tensor, size: Tensor) -> None:
        """Moves `x_adv` by the largest of `size`, ``size / 2``, ... along `way` that succeeds."""
        left = torch.arange(len(size), device=size.device)
        for _ in range(_HALVINGS):
            part = live.take(left)
            live.queries[left] += 1
            point = part.point(part.x_adv + ops.as_rows(size[left], part.x) * way[left], self.bounds)
            fooled = part.fooled_at(point)
            live.x_adv[left[fooled]] = point[fooled]
            left = left[~fooled]
            if len(left) == 0:
                break
            size = size / 2
