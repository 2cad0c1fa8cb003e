"""Auto-PGD, which chooses its own step sizes."""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from .. import ops
from ._ascend import DUALS, STARTS, Rows, ascend, predicted
from ._attack import Attack, Budget, check_budget, check_choice, check_count


def checkpoints(steps: int) -> dict[int, int]:
    """After which of `steps` steps the step size is judged, and how many steps each judgement is about.

    At 22, 41, 57, 70, 80, 87, 93 and 99 per cent: every interval is 3 per cent shorter than the last, down to 6.
    """
    found, before, share, width = {}, 0, 0, 22
    while (share := share + width) < 100:
        at = -(-share * steps // 100)
        if at > before:
            found[at] = at - before
        before, width = at, max(width - 3, 6)
    return found


@dataclass(frozen=True)
class _AutoPGD(Attack):
    """What APGD and APGDT share: Croce and Hein (2020), Algorithm 1; a subclass says what is maximised."""

    eps: Budget = 8 / 255
    steps: int = 100
    restarts: int = 1
    rho: float = 0.75
    eot: int = 1
    norm: str = field(default="linf", kw_only=True)

    is_random: ClassVar[bool] = True
    ends_early: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        name = type(self).__name__
        check_choice(self, "norm", self.norm, ("linf", "l2"))
        check_budget(self, "eps", self.eps, whole=self.norm != "linf")
        check_count(self, "steps", self.steps, 0)
        check_count(self, "restarts", self.restarts, 1)
        check_count(self, "eot", self.eot, 1)
        if not 0 <= self.rho <= 1:
            raise ValueError(f"{name}: rho must be between 0 and 1, got {self.rho}")

    @abstractmethod
    def _loss(self, logits: Tensor, live: Rows) -> tuple[Tensor, Tensor, Tensor]:
        """What is maximised, with its gradient and who is fooled, as `Rows.loss_gradient` gives them."""

    @abstractmethod
    def _runs(self, rows: Rows) -> Iterator[int]:
        """A number for every run; sets up what `_losses` needs before each."""

    def perturb(self, rows: Rows) -> None:
        rows.eps = ops.per_sample(type(self).__name__, "eps", self.eps, rows.x)
        for run in self._runs(rows):
            part, where = rows.unfooled()
            if len(where) == 0:
                break
            part.x_adv = ops.random_start(part.x, part.ids, part.eps, self.seed, run, STARTS[self.norm], *self.bounds)
            self._search(part)
            rows.put(where, part)

    def _search(self, rows: Rows) -> None:
        rows.grad, fooled = self._look(rows)
        rows.grads = rows.grads + self.eot
        rows.previous, rows.best, rows.best_grad = torch.empty_like(rows.x), rows.x_adv.clone(), rows.grad.clone()
        rows.best_loss = rows.loss.nan_to_num(nan=-torch.inf)
        rows.judged = rows.best_loss.clone()
        rows.size = 2 * rows.eps
        rows.rises = torch.zeros_like(rows.steps)
        rows.halved = torch.ones_like(fooled)  # so that the second rule waits for the second checkpoint
        judged, move = checkpoints(self.steps), ops.apgd_step.in_loop()
        ascend(self, rows, self.steps, lambda live, k: self._step(live, k, judged.get(k), move), ~fooled)
        rows.x_adv = rows.best

    def _step(self, live: Rows, k: int, interval: int | None, move: Callable) -> Tensor:
        how = (self.norm, 0.75 if k > 1 else 1.0, *self.bounds, live.active, live.nonfinite)
        move(live.previous, live.x_adv, live.grad, live.x, live.size, live.eps, *how)
        live.x_adv, live.previous, before = live.previous, live.x_adv, live.loss
        live.grad, fooled = self._look(live)
        better, going = ops.accept(live.best_loss, live.loss, fooled, live.active)
        live.rises += live.loss > before
        better = ops.as_rows(better, live.x)
        live.best = torch.where(better, live.x_adv, live.best)
        live.best_grad = torch.where(better, live.grad, live.best_grad)
        if interval is not None:
            self._judge(live, interval, going)
        return going

    def _judge(self, live: Rows, interval: int, going: Tensor) -> None:
        """Halves the steps of the samples that get no further, and sends them back to their best point."""
        stuck = (live.rises <= self.rho * interval) | (~live.halved & (live.best_loss <= live.judged))
        live.halved, live.judged, live.rises = stuck, live.best_loss.clone(), torch.zeros_like(live.rises)
        live.size = torch.where(stuck, live.size / 2, live.size)
        back = ops.as_rows(stuck & going, live.x)
        live.x_adv = torch.where(back, live.best, live.x_adv)
        live.grad = torch.where(back, live.best_grad, live.grad)

    def _look(self, live: Rows) -> tuple[Tensor, Tensor]:
        """The gradient at `x_adv`, summed over `eot` forward passes, and who is fooled there; notes the loss."""
        grad, live.loss = None, None
        for _ in range(self.eot):
            x_adv, logits = live.differentiable(live.x_adv)
            slope, losses, fooled = self._loss(logits, live)
            found = live.back(logits, x_adv, slope)
            grad, live.loss = (found, losses) if grad is None else (grad + found, live.loss + losses)
        return grad, fooled


@dataclass(frozen=True)
class APGD(_AutoPGD):
    """Auto-PGD (Croce and Hein, 2020): PGD with momentum that halves its step where it gets no further.

    Steps begin at ``2 * eps``. At 22, 41, 57, ... per cent of the steps, samples whose loss has risen too seldom, or
    whose best loss has not changed, go back to their best point with half the step. A sample that is misclassified is
    finished; of the others the point of highest loss in the last restart is the result.

    Args:
        eps: budget in `norm`, in the units of the inputs; a number or one a sample.
        steps: number of gradient steps.
        restarts: how many random starts, uniform in the ball, are tried.
        rho: the share of steps that has to raise the loss.
        eot: how many gradients are summed for a step, for models that are random.
        loss: what is maximised, ``ce``, ``dlr`` or ``pm`` (PMA's probability margin).
        norm: ``linf`` or ``l2``.
    """

    loss: str = "ce"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "loss", self.loss, ("ce", "dlr", "pm"))

    def _loss(self, logits: Tensor, live: Rows) -> tuple[Tensor, Tensor, Tensor]:
        return live.loss_gradient(logits, self.loss)

    def _runs(self, rows: Rows) -> Iterator[int]:
        yield from range(self.restarts)


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
        check_count(self, "targets", self.targets, 1)
        check_count(self, "candidates", self.candidates, 0)

    def _loss(self, logits: Tensor, live: Rows) -> tuple[Tensor, Tensor, Tensor]:
        if logits.shape[1] >= 4:
            return live.loss_gradient(logits, "dlr", goal=live.goal)
        slope, losses, reached = ops.loss_gradient(logits.detach(), live.goal, -1.0)
        return slope, losses, reached if logits.shape[1] == 2 else live.fooled(predicted(logits))

    def _runs(self, rows: Rows) -> Iterator[int]:
        ranked = self._nearest(rows) if self.candidates else rows.ranked(rows.scores())
        count = min(self.targets, ranked.shape[1])
        for run in range(self.restarts * count):
            rows.goal = ranked[:, run % count]
            yield run

    def _nearest(self, rows: Rows) -> Tensor:
        """The `candidates`, nearest first by the distance to the linearised boundary from x, [B, candidates]."""
        x, logits = rows.differentiable(rows.x, again=True)
        rivals = rows.ranked(logits)[:, : self.candidates]
        leads, grads = rows.class_gradients(x, logits, rivals)
        rows.grads = rows.grads + rivals.shape[1]
        sizes = ops.row_norms(grads.flatten(0, 1), DUALS[self.norm]).view_as(leads)
        distances = (leads.abs() / sizes)[:, 1:].nan_to_num(torch.inf)
        return rivals.gather(1, distances.argsort(dim=1, stable=True))
