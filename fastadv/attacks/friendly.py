"""Friendly adversarial training's attack, PGD-K-tau."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .. import ops
from ._ascend import Departure, Rows, Start, ascend, budgets, start
from ._attack import Attack, Budget, check_budgets, check_choice, check_counts, check_ranges, check_start
from ._state import Natural


@dataclass
class Patience(Natural):
    """How many more steps are made once the sample is misclassified, [B]."""

    tau: Tensor | None = None


@dataclass(frozen=True)
class FriendlyPGD(Attack):
    """PGD-K-tau (Zhang et al., 2020, Algorithm 1): PGD that stops `tau` steps after a sample is first misclassified.

    Before every step, a sample that is misclassified stops if its tau is used up, and otherwise goes on with one less;
    nothing is checked after the last step. With ``tau >= steps`` this is PGD. `AttackResult.grads` counts the steps
    that were made, as in the paper's Figure 5.

    Args:
        eps: L-infinity budget, in the units of the inputs; a number or one a sample. Infinity: no projection, only the
            box (Appendix B, with random_start 0).
        alpha: step size; a number or one a sample.
        steps: number of gradient steps at the most, the paper's K.
        tau: steps after the first misclassification; a number or one a sample, [B] int64.
        random_start: the start is uniform in the ball of radius ``random_start * eps``, x itself for 0 (Algorithm 1);
            ``gaussian`` for x with normal noise of standard deviation 0.001 of the inputs' range (FAT for TRADES and
            MART, in their published code); ``gaussian-unclipped`` for the same with no regard to the bounds, as TRADES
            and MART start. The first step leads back to the bounds; a sample that stops before it is clipped.
        omega: standard deviation of the noise added to every step; 0.001 in FAT, 0 in FAT for TRADES and MART.
        loss: ``ce``, or ``kl``, the divergence from the prediction at x (TRADES).
        rho: a sample counts as misclassified where it is so by this margin (section 3).
        margin: of what: ``loss``, the cross-entropy with the label above that with the best class, or ``probability``,
            the best class's above the label's (Appendix A.1).
    """

    eps: Budget = 8 / 255
    alpha: Budget = 2 / 255
    steps: int = 10
    tau: int | Tensor = 0
    random_start: Start = 1.0
    omega: float = 0.0
    loss: str = "ce"
    rho: float = 0.0
    margin: str = "loss"

    ends_early: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        unbounded = isinstance(self.eps, float) and self.eps == math.inf
        if not unbounded:
            check_budgets(self, "eps")
        check_budgets(self, "alpha", "omega")
        check_counts(self, steps=0)
        check_choice(self, "loss", self.loss, ("ce", "kl"))
        check_start(self, self.random_start, self.loss, laws=("gaussian", "gaussian-unclipped"))
        check_choice(self, "margin", self.margin, ("loss", "probability"))
        check_ranges(self, rho="[0, inf)" if self.margin == "loss" else "[0, 1)")
        if not isinstance(self.tau, Tensor):
            check_counts(self, tau=0)
        elif self.tau.dtype != torch.int64:
            raise ValueError(f"{type(self).__name__}: tau must be int64, got {self.tau.dtype}")
        if unbounded and self.random_start not in (0, "gaussian", "gaussian-unclipped"):
            raise ValueError(f"{type(self).__name__}: a uniform start needs a finite eps; set random_start to 0")

    @property
    def is_random(self) -> bool:
        return super().is_random or bool(self.omega)

    @property
    def repeats(self) -> bool:
        return not self.omega

    def perturb(self, rows: Rows) -> None:
        budgets(self, rows, self.alpha)
        tau = torch.as_tensor(self.tau, device=rows.x.device)
        if tau.numel() != 1 and tau.shape != rows.ids.shape:
            each = f"one number or one a sample, ({len(rows.x)},)"
            raise ValueError(f"{type(self).__name__}: tau must be {each}, got {tuple(tau.shape)}")
        rows.state = state = Patience(tau=tau.reshape(-1).expand(len(rows.x)).clone())
        if self.loss == "kl":
            state.natural = rows.scores()
        rows.x_adv = start(self, rows)
        move = ops.linf_step.in_loop()
        before = rows.steps.clone()
        ascend(self, rows, self.steps, lambda live, number: self._step(live, number, move))
        rows.queries += rows.steps - before < self.steps  # those that stopped had been looked at once more
        if self.random_start == "gaussian-unclipped":  # where no step was made
            rows.x_adv.clamp_(*self.bounds)

    def _step(self, live: Rows, number: int, move: Callable) -> tuple[Tensor, Departure | None]:
        x_adv, logits = live.differentiable(live.x_adv)
        going, departure = self.goes_on(live, logits.detach())
        slope, _, _ = live.loss_gradient(logits, self.loss, natural=live.state.natural)
        grad = live.back(logits, x_adv, slope)
        if number > 1 and (converged := self.converged(live, grad)) is not None:
            going, departure = going & ~converged, None
        live.active = going  # a sample that stops has been looked at only: neither step nor gradient counts
        if self.omega:
            wide = (-math.inf, math.inf)
            noisy = (live.x_adv, live.ids, self.omega, self.seed, number, "gaussian", *wide)  # the start is number 0
            live.x_adv = ops.random_start(*noisy, active=going)
        move(live.x_adv, grad, live.x, live.alpha, live.eps, *self.bounds, going, live.nonfinite)
        return going, departure

    def converged(self, live: Rows, grad: Tensor) -> Tensor | None:
        """Which samples stop for their gradient, [B]; None: it is no reason."""

    def goes_on(self, live: Rows, logits: Tensor) -> tuple[Tensor, Departure]:
        """Which samples make another step, [B], given their logits where they stand, and how the others depart."""
        if self.rho:
            scores = logits.softmax(dim=1) if self.margin == "probability" else logits
            logits = scores.scatter_add(1, live.y.unsqueeze(1), scores.new_full((len(scores), 1), self.rho))
        _, going, order, count = ops.early_stop(logits, live.y, live.state.tau, live.active)
        return going, Departure.of(order, count)
