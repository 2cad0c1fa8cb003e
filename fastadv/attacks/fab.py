"""The fast adaptive boundary attack."""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from .. import ops
from ._ascend import STARTS, STEPS, Rows, ascend, distances, predicted
from ._attack import Budget, check_budgets, check_choice, check_counts, check_ranges
from ._nearest import MinimumNorm
from ._state import Nearest

_FAR = 1e18  # where the box ends that has no end: in L1 a coordinate goes a share of its room


@dataclass
class _Aimed(Nearest):
    """The best so far, and of each sample besides: how near is `enough`; FAB-T's `goal`, and the `slope` [B, K] of its
    lead with respect to logits.
    """

    enough: Tensor | None = None
    goal: Tensor | None = None
    slope: Tensor | None = None


@dataclass(frozen=True)
class _AdaptiveBoundary(MinimumNorm):
    """What FAB and FABT share: Croce and Hein (2020), Algorithm 1; a subclass says which boundary a step goes to."""

    steps: int = 100
    restarts: int = 1
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9
    enough: Budget = 0.0
    early: bool = field(default=True, kw_only=True)
    norm: str = field(default="linf", kw_only=True)

    ends_early: ClassVar[bool] = True
    every_class: ClassVar[bool] = False  # whether a step looks at the gradients of all of them

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, steps=0, restarts=1)
        check_choice(self, "norm", self.norm, tuple(STEPS))
        check_budgets(self, "enough", whole=True)
        check_ranges(self, alpha_max="[0, 1]", eta="[1, 2]", beta="[0, 1]")

    @property
    def is_random(self) -> bool:
        return self.restarts > 1

    @abstractmethod
    def _runs(self, rows: Rows) -> Iterator[bool]:
        """For every run of the steps, whether it starts at x; sets up what `_boundary` needs before each."""

    @abstractmethod
    def _boundary(self, x_adv: Tensor, logits: Tensor, live: Rows) -> tuple[Tensor, Tensor]:
        """The linearised lead [B] of another class at `x_adv`, and its gradient [B, ...]."""

    def perturb(self, rows: Rows) -> None:
        state, right = self.begin(rows, _Aimed), rows.unwon()
        state.enough = ops.per_sample(type(self).__name__, "enough", self.enough, rows.x).clone()
        for run, at_x in enumerate(self._runs(rows)):
            rows.x_adv = rows.x.clone() if at_x else self._start(rows, run)
            move = ops.fab_step.in_loop()
            active = state.size > state.enough
            active = active if right is None else active & right
            ascend(self, rows, self.steps, lambda live, number, m=move: self._step(live, m), active)
        rows.x_adv = state.best

    def _start(self, rows: Rows, run: int) -> Tensor:
        """Uniform in the ball of half of the smallest perturbation so far, or of what is enough, if that is less."""
        (lo, hi), state = self.bounds, rows.state
        most = ops.row_norms(torch.full_like(rows.x, hi - lo), self.norm)
        radius = torch.minimum(state.size, torch.where(state.enough > 0, state.enough, most)) / 2
        return ops.random_start(rows.x, rows.ids, radius, self.seed, run, STARTS[self.norm], lo, hi)

    def _step(self, live: Rows, move: Callable) -> Tensor | None:
        x_adv, logits = live.differentiable(live.x_adv, again=self.every_class)
        lead, normal = self._boundary(x_adv, logits, live)
        lo, hi = max(self.bounds[0], -_FAR), min(self.bounds[1], _FAR)
        how = (self.norm, self.alpha_max, self.eta, lo, hi, live.active, live.nonfinite)
        move(live.x_adv, live.x, normal, lead.to(live.state.size.dtype), *how)
        fooled = live.fooled(predicted(live.scores()))
        self.keep(live, fooled)
        back = live.x + self.beta * (live.x_adv - live.x)
        live.x_adv = torch.where(ops.as_rows(fooled, back), back, live.x_adv)
        return live.state.size > live.state.enough if self.early else None


@dataclass(frozen=True)
class FAB(_AdaptiveBoundary):
    """FAB (Croce and Hein, 2020): the smallest perturbation it finds, across the nearest linearised boundary.

    Every step projects the iterate and the sample on that boundary within the box, and goes to a mean of the two a
    little beyond; once across, it starts back towards the sample. Samples that are misclassified at x are returned as
    they are; so are those that it fails on.

    Args:
        steps: iterations of every run.
        restarts: how many runs; the first starts at x, others at random within half of the smallest perturbation, or of
            what is enough.
        alpha_max: the largest weight of the sample's own projection.
        eta: how far beyond the boundary, as a multiple of the projection.
        beta: how much of the perturbation is left after going back.
        enough: a sample whose perturbation is no larger is finished; a number or one a sample.
        early: such a sample is finished at once; otherwise, as in the authors' code, with the end of its run.
        norm: ``linf``, ``l2`` or ``l1``.
    """

    every_class = True

    def _runs(self, rows: Rows) -> Iterator[bool]:
        for restart in range(self.restarts):
            yield restart == 0

    def _boundary(self, x_adv: Tensor, logits: Tensor, live: Rows) -> tuple[Tensor, Tensor]:
        leads, grads = live.class_gradients(x_adv, logits, live.ranked(logits))
        nearest = distances(leads, grads, self.norm).argmin(dim=1) + 1
        every = torch.arange(len(nearest), device=nearest.device)
        return leads[every, nearest], grads[every, nearest]


@dataclass(frozen=True)
class FABT(_AdaptiveBoundary):
    """FAB-T: FAB towards each of the most likely wrong classes in turn, at one gradient a step.

    Every restart tries every target; the options that `FAB` has as well mean the same.

    Args:
        targets: how many classes are tried, in the order of their logits at x.
    """

    targets: int = 9

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, targets=1)

    def _runs(self, rows: Rows) -> Iterator[bool]:
        ranked, state = rows.ranked(scores := rows.scores()), rows.state
        count = min(self.targets, ranked.shape[1])
        for run in range(self.restarts * count):
            state.goal = ranked[:, run % count]
            state.slope = torch.zeros_like(scores).scatter_(1, state.goal.unsqueeze(1), 1.0)
            state.slope.scatter_(1, rows.y.unsqueeze(1), -1.0)
            yield run < count

    def _boundary(self, x_adv: Tensor, logits: Tensor, live: Rows) -> tuple[Tensor, Tensor]:
        lead = live.leads(logits.detach(), live.state.goal.unsqueeze(1)).squeeze(1)
        return lead, live.back(logits, x_adv, live.state.slope.to(logits.dtype))
