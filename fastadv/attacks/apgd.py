"""Auto-PGD, which chooses its own step sizes."""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from .. import ops
from ._ascend import STARTS, STEPS, Rows, ascend, distances, predicted
from ._attack import Attack, Budget, check_budgets, check_choice, check_counts, check_ranges
from ._state import State

_SMALLEST, _FEWER = 10, 1.5
"""In L1: the largest step over the smallest; and a step over the next, as entries changed over those that move."""
_LARGER = (3, 2)
"""In L1: the budgets of `large_eps` over eps, one after the other; each has three tenths of the steps."""


def checkpoints(steps: int, norm: str = "linf") -> dict[int, int]:
    """After which of `steps` steps the step size is judged, and how many steps each judgement is about.

    At 22, 41, 57, 70, 80, 87, 93 and 99 per cent: every interval is 3 per cent shorter than the last, down to 6. In
    ``l1``, every 4 per cent.
    """
    if norm == "l1":
        width = max(steps // 25, 1)
        return dict.fromkeys(range(width, steps + 1, width), width)
    found, before, share, width = {}, 0, 0, 22
    while (share := share + width) < 100:
        at = -(-share * steps // 100)
        if at > before:
            found[at] = at - before
        before, width = at, max(width - 3, 6)
    return found


@dataclass
class _Climb(State):
    """Where a run stands: gradient and loss at `x_adv`, and the best point with its own; the step size.

    `previous`: the point before; `judged`, `rises`, `halved`: the best loss at the last checkpoint, how often the loss
    has risen since, and whether the step was halved there. In L1 instead, `moving` and `changed`: how many entries a
    step moves, and how many the best point of the last checkpoint had changed. `goal`: the class to reach, if any.
    """

    goal: Tensor | None = None
    grad: Tensor | None = None
    loss: Tensor | None = None
    best: Tensor | None = None
    best_grad: Tensor | None = None
    best_loss: Tensor | None = None
    size: Tensor | None = None
    previous: Tensor | None = None
    judged: Tensor | None = None
    rises: Tensor | None = None
    halved: Tensor | None = None
    moving: Tensor | None = None
    changed: Tensor | None = None


@dataclass(frozen=True)
class _AutoPGD(Attack):
    """What APGD and APGDT share: Croce and Hein (2020), Algorithm 1, and (2021), Algorithm 1, in L1.

    A subclass says what is maximised.
    """

    eps: Budget = 8 / 255
    steps: int = 100
    restarts: int = 1
    rho: float = 0.75
    eot: int = 1
    norm: str = field(default="linf", kw_only=True)
    large_eps: bool = field(default=False, kw_only=True)

    is_random: ClassVar[bool] = True
    ends_early: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "norm", self.norm, tuple(STEPS))
        check_budgets(self, "eps")
        check_counts(self, steps=0, restarts=1, eot=1)
        check_ranges(self, rho="[0, 1]")
        if self.large_eps and self.norm != "l1":
            raise ValueError(f"{type(self).__name__}: large_eps is for norm l1, got {self.norm}")

    @abstractmethod
    def _loss(self, logits: Tensor, live: Rows) -> tuple[Tensor, Tensor, Tensor]:
        """What is maximised, with its gradient and who is fooled, as `Rows.loss_gradient` gives them."""

    @abstractmethod
    def _runs(self, rows: Rows) -> Iterator[Tensor | None]:
        """For every run, the classes to reach, [B], or None."""

    def perturb(self, rows: Rows) -> None:
        rows.eps = ops.per_sample(type(self).__name__, "eps", self.eps, rows.x)
        for (run, goal), part, where in rows.rounds(enumerate(self._runs(rows))):
            part.state = _Climb(None if goal is None else goal[where])
            part.x_adv = self._start(part, run)
            for eps, stage in self._stages(part.eps):
                part.eps = eps
                stage._search(part)

    def _start(self, rows: Rows, run: int) -> Tensor:
        """In L1, where a search begins by projection, normal noise: of that, few entries are left."""
        if self.norm != "l1":
            return ops.random_start(rows.x, rows.ids, rows.eps, self.seed, run, STARTS[self.norm], *self.bounds)
        size = torch.full_like(rows.eps, self.unit)
        return ops.random_start(rows.x, rows.ids, size, self.seed, run, "gaussian", -torch.inf, torch.inf)

    def _stages(self, eps: Tensor) -> Iterator[tuple[Tensor, "_AutoPGD"]]:
        """The budgets of one run, each with the attack that makes its share of the steps; the last is `eps`."""
        before = 0
        if self.large_eps:
            for factor in _LARGER:
                steps = min(-(-3 * self.steps // 10), self.steps - before)
                yield factor * eps, replace(self, steps=steps)
                before += steps
        yield eps, replace(self, steps=self.steps - before, large_eps=False)

    def _search(self, rows: Rows, first: float = 2.0) -> None:
        """Climbs from `x_adv` to the best point; steps begin with `first` times the budget, in L1 with the budget."""
        own: _Climb = rows.state
        if self.norm == "l1":
            move, judge = ops.sparse_l1_step.in_loop(), self._thin
            self._begin_in_l1(rows)
        fooled = self._look(rows)
        own.best, own.best_grad, own.best_loss = rows.x_adv.clone(), own.grad.clone(), own.loss.nan_to_num(-torch.inf)
        if self.norm != "l1":
            move, judge = ops.apgd_step.in_loop(), self._halve
            own.size, own.previous = first * rows.eps, torch.empty_like(rows.x)
            own.judged, own.rises = own.best_loss.clone(), torch.zeros_like(rows.steps)
            own.halved = torch.ones_like(fooled)  # so that the second rule waits for the second checkpoint
        judged = checkpoints(self.steps, self.norm)

        def step(live: Rows, number: int) -> Tensor:
            going = self._step(live, number, move)
            if number in judged:
                back = ops.as_rows(judge(live, judged[number]) & going, live.x)
                live.x_adv = torch.where(back, live.state.best, live.x_adv)
                live.state.grad = torch.where(back, live.state.best_grad, live.state.grad)
            return going

        ascend(self, rows, self.steps, step, ~fooled)
        rows.x_adv = own.best

    def _begin_in_l1(self, rows: Rows) -> None:
        """Projects `x_adv`; a fifth of the entries will move, or what follows from a point of few entries."""
        own, none = rows.state, torch.zeros_like(rows.eps)
        ops.sparse_l1_step(rows.x_adv, torch.zeros_like(rows.x), rows.x, none, rows.eps, none, *self.bounds)
        own.size = rows.eps.clone()
        if own.best is None and not self.large_eps:
            own.changed = torch.full_like(own.size, rows.x[0].numel() if len(rows.x) else 0)
            own.moving = (0.2 * own.changed).ceil()
        else:
            own.changed = ops.row_norms(rows.x_adv, "l0", rows.x)
            own.moving = (own.changed / _FEWER).ceil()

    def _step(self, live: Rows, number: int, move: Callable) -> Tensor:
        own: _Climb = live.state
        how = (*self.bounds, live.active, live.nonfinite)
        if self.norm == "l1":
            move(live.x_adv, own.grad, live.x, own.size, live.eps, own.moving, *how)
        else:
            share = 0.75 if number > 1 else 1.0
            move(own.previous, live.x_adv, own.grad, live.x, own.size, live.eps, self.norm, share, *how)
            live.x_adv, own.previous = own.previous, live.x_adv
        before = own.loss
        fooled = self._look(live)
        better, going = ops.accept(own.best_loss, own.loss, fooled, live.active)
        if self.norm != "l1":
            own.rises += own.loss > before
        better = ops.as_rows(better, live.x)
        own.best = torch.where(better, live.x_adv, own.best)
        own.best_grad = torch.where(better, own.grad, own.best_grad)
        return going

    def _halve(self, live: Rows, interval: int) -> Tensor:
        """Halves the steps of the samples that get no further, which start again from their best point, [B]."""
        own: _Climb = live.state
        stuck = (own.rises <= self.rho * interval) | (~own.halved & (own.best_loss <= own.judged))
        own.halved, own.judged, own.rises = stuck, own.best_loss.clone(), torch.zeros_like(own.rises)
        own.size = torch.where(stuck, own.size / 2, own.size)
        return stuck

    def _thin(self, live: Rows, interval: int) -> Tensor:
        """In L1, samples whose best point became sparser start again from it, [B], with steps as large as at first."""
        own, changed = live.state, ops.row_norms(live.state.best, "l0", live.x)
        sparser = changed < 0.95 * own.changed
        own.changed, own.moving = changed, (changed / _FEWER).ceil()
        smaller = torch.maximum(own.size / _FEWER, live.eps / _SMALLEST)
        own.size = torch.where(sparser, live.eps, smaller)
        return sparser

    def _look(self, live: Rows) -> Tensor:
        """Who is fooled at `x_adv`, and may stop; notes the loss and its gradient, summed over `eot` forward passes."""
        own: _Climb = live.state
        own.grad, own.loss = None, None
        for _ in range(self.eot):
            x_adv, logits = live.differentiable(live.x_adv)
            slope, losses, fooled = self._loss(logits, live)
            grad = live.back(logits, x_adv, slope)
            own.grad, own.loss = (grad, losses) if own.grad is None else (own.grad + grad, own.loss + losses)
        return torch.zeros_like(fooled) if self.large_eps else fooled


@dataclass(frozen=True)
class APGD(_AutoPGD):
    """Auto-PGD (Croce and Hein, 2020): PGD with momentum that halves its step where it gets no further.

    Steps begin at ``2 * eps``. At 22, 41, 57, ... per cent of the steps, samples whose loss has risen too seldom, or
    whose best loss has not changed, go back to their best point with half the step. A sample that is misclassified is
    finished; of the others the point of highest loss in the last restart is the result.

    In L1 there is no momentum. A step moves the entries of largest gradient alike, a fifth of all at first and then two
    thirds of as many as the best point has changed, and the projection is on ball and box together. Steps begin at
    `eps`. Every 4 per cent of them, samples whose best point has become 5 per cent sparser go back to it, with steps of
    `eps`; of the others the step becomes smaller by a third, down to a tenth of `eps`. With `large_eps`, a restart
    first climbs within ``3 * eps`` and ``2 * eps``, three tenths of the steps each, and goes on from the best point
    found there, projected.

    Args:
        eps: budget in `norm`, in the units of the inputs; a number or one a sample.
        steps: number of gradient steps.
        restarts: how many random starts are tried, uniform in the ball; in L1 projections of normal noise.
        rho: the share of steps that has to raise the loss; not in L1.
        eot: how many gradients are summed for a step, for models that are random.
        loss: what is maximised, ``ce``, ``dlr`` or ``pm`` (PMA's probability margin).
        norm: ``linf``, ``l2`` or ``l1``.
        large_eps: in L1, begin with larger budgets.
        targeted: towards the labels, down their loss, instead of away from them.
    """

    loss: str = "ce"
    targeted: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "loss", self.loss, ("ce", "dlr", "pm"))

    def _loss(self, logits: Tensor, live: Rows) -> tuple[Tensor, Tensor, Tensor]:
        return live.loss_gradient(logits, self.loss)

    def _runs(self, rows: Rows) -> Iterator[Tensor | None]:
        yield from [None] * self.restarts


@dataclass(frozen=True)
class APGDT(_AutoPGD):
    """APGD on the targeted DLR loss, towards each of the most likely wrong classes in turn (Croce and Hein, 2020).

    With two or three classes, where that loss is not defined, down the cross-entropy with the target. Every restart
    tries every target; the options that `APGD` has as well mean the same.

    Args:
        targets: how many classes are tried, in the order of their logits at x.
        candidates: of so many classes, the likeliest, those come first whose linearised boundaries are nearest, at one
            gradient each (MALT: Melamed et al., 2024); 0 keeps the order of the logits.
    """

    targets: int = 9
    candidates: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, targets=1, candidates=0)

    def _loss(self, logits: Tensor, live: Rows) -> tuple[Tensor, Tensor, Tensor]:
        if logits.shape[1] >= 4:
            return live.loss_gradient(logits, "dlr", goal=live.state.goal)
        slope, losses, reached = ops.loss_gradient(logits.detach(), live.state.goal, -1.0)
        return slope, losses, reached if logits.shape[1] == 2 else live.fooled(predicted(logits))

    def _runs(self, rows: Rows) -> Iterator[Tensor | None]:
        ranked = self._nearest(rows) if self.candidates else rows.ranked(rows.scores())
        count = min(self.targets, ranked.shape[1])
        for run in range(self.restarts * count):
            yield ranked[:, run % count]

    def _nearest(self, rows: Rows) -> Tensor:
        """The `candidates`, nearest first by the distance to the linearised boundary from x, [B, candidates]."""
        x, logits = rows.differentiable(rows.x, again=True)
        rivals = rows.ranked(logits)[:, : self.candidates]
        leads, grads = rows.class_gradients(x, logits, rivals)
        return rivals.gather(1, distances(leads, grads, self.norm).argsort(dim=1, stable=True))


class _Beyond(APGDT):
    """In a ball that is larger than what counts: a sample that is fooled goes on."""

    def _look(self, live: Rows) -> Tensor:
        return torch.zeros_like(super()._look(live))


@dataclass(frozen=True)
class APGDRounds(Attack):
    """APGD-T in rounds: towards all classes, briefly and in a larger ball; then towards fewer, from where they led.

    In a ball of ``2 * eps``, ten steps show how far each of the nine likeliest wrong classes can be reached. From the
    best points, projected, follow ten steps in ``1.25 * eps``, and then forty within `eps` towards the three classes
    whose loss was highest. In L-infinity the larger balls are at most a tenth and a fortieth of the inputs' range
    beyond `eps`. In them a sample goes on where it is fooled. Steps begin with the budget of the round. Larger balls
    help where the loss is steep at x. No paper has these rounds; that of APGD in L1 has the larger balls.

    Args:
        eps: budget in `norm`, in the units of the inputs; a number or one a sample.
        norm: ``linf`` or ``l2``.
    """

    eps: Budget = 8 / 255
    norm: str = field(default="linf", kw_only=True)

    is_random: ClassVar[bool] = True
    ends_early: ClassVar[bool] = True
    ROUNDS: ClassVar[tuple[tuple[int, int, float], ...]] = ((9, 10, 1.0), (9, 10, 0.25), (3, 40, 0.0))
    """Of each round the number of classes, the steps towards each, and the share of what goes beyond `eps`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "norm", self.norm, ("linf", "l2"))
        check_budgets(self, "eps")

    def perturb(self, rows: Rows) -> None:
        budget = ops.per_sample("APGDRounds", "eps", self.eps, rows.x)
        beyond = budget.clamp(max=0.1 * self.unit) if self.norm == "linf" else budget
        goals = rows.ranked(rows.scores())[:, : self.ROUNDS[0][0]]
        draws = [ops.random_start(rows.x, rows.ids, budget, self.seed, run, STARTS[self.norm], *self.bounds)
                 for run in range(goals.shape[1])]  # fmt: skip
        points, losses = torch.stack(draws, dim=1), torch.zeros(goals.shape, dtype=budget.dtype, device=budget.device)
        for classes, steps, share in self.ROUNDS:
            best = losses.argsort(dim=1, descending=True, stable=True)[:, :classes]
            goals, points = goals.gather(1, best), points[torch.arange(len(best), device=best.device)[:, None], best]
            losses = torch.full_like(losses[:, :classes], -torch.inf)
            climb = (_Beyond if share else APGDT)(self.eps, steps, norm=self.norm, bounds=self.bounds, seed=self.seed)
            for run, part, where in rows.rounds(range(best.shape[1])):
                part.eps, part.state = (budget + share * beyond)[where], _Climb(goals[where, run])
                self._project(part, points[where, run])
                climb._search(part, 1.0)
                losses[where, run], points[where, run] = part.state.best_loss.to(losses), part.x_adv
                part.eps = budget[where]
                self._project(part, part.x_adv)

    def _project(self, rows: Rows, points: Tensor) -> None:
        """Moves `x_adv` to what is nearest to `points` [B, ...] in the ball of `rows.eps`."""
        rows.x_adv = torch.empty_like(rows.x).copy_(points)
        STEPS[self.norm](rows.x_adv, torch.zeros_like(rows.x), rows.x, 0.0, rows.eps, *self.bounds)
