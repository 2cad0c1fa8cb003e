"""Friendly adversarial training's attack, PGD-K-tau."""

import itertools
import math
from dataclasses import dataclass

import torch

from .. import ops
from ..losses import cross_entropy, kl
from ._ascend import Rows, ascend
from ._attack import Attack, Budget, check_budget, check_choice, check_count


@dataclass(frozen=True)
class FriendlyPGD(Attack):
    """PGD-K-tau (Zhang et al., 2020, Algorithm 1): PGD that stops `tau` steps after a sample is first misclassified.

    Before every step, a sample that is misclassified stops if its tau is used up, and otherwise goes on with one less;
    nothing is checked after the last step. With ``tau >= steps`` this is PGD. `AttackResult.grads` counts the steps
    that were made, as in the paper's Figure 5.

    Args:
        eps: L-infinity budget, in the units of the inputs; a number or one a sample. Infinity: no projection, only the
            box (Appendix B).
        alpha: step size; a number or one a sample.
        steps: number of gradient steps at the most, the paper's K.
        tau: steps after the first misclassification; a number or one a sample, [B] int64.
        start: ``uniform`` in the ball (FAT), ``gaussian`` of standard deviation 0.001 (FAT for TRADES and MART), or
            ``natural``, at x.
        omega: standard deviation of the noise added to every step; 0.001 in FAT, 0 in FAT for TRADES and MART.
        loss: ``ce``, or ``kl``, the divergence from the prediction at x (TRADES).
    """

    eps: Budget = 8 / 255
    alpha: Budget = 2 / 255
    steps: int = 10
    tau: int | torch.Tensor = 0
    start: str = "uniform"
    omega: float = 0.0
    loss: str = "ce"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (isinstance(self.eps, float) and self.eps == math.inf):
            check_budget(self, "eps", self.eps)
        check_budget(self, "alpha", self.alpha)
        check_count(self, "steps", self.steps, 0)
        check_choice(self, "start", self.start, ("uniform", "gaussian", "natural"))
        check_choice(self, "loss", self.loss, ("ce", "kl"))
        check_budget(self, "omega", self.omega)
        if isinstance(self.tau, int):
            check_count(self, "tau", self.tau, 0)
        if self.start == "uniform" and isinstance(self.eps, float) and self.eps == math.inf:
            raise ValueError("FriendlyPGD: a uniform start needs a finite eps; use start='natural'")

    def perturb(self, rows: Rows) -> None:
        rows.eps = ops.per_sample("FriendlyPGD", "eps", self.eps, rows.x)
        rows.alpha = ops.per_sample("FriendlyPGD", "alpha", self.alpha, rows.x)
        rows.tau = torch.as_tensor(self.tau, device=rows.x.device).expand(len(rows.x)).clone()
        if self.loss == "kl":
            rows.natural = rows.scores()
        if self.start != "natural":
            size = rows.eps if self.start == "uniform" else 0.001
            rows.x_adv = ops.random_start(rows.x, rows.ids, size, self.seed, 0, self.start, *self.bounds)
        draws = itertools.count(1)  # the start is number 0
        ascend(rows, self.steps, lambda live: self._step(live, next(draws)))

    def _step(self, live: Rows, draw: int) -> torch.Tensor:
        x_adv, logits = live.differentiable(live.x_adv)
        _, goes_on, _, _ = ops.early_stop(logits.detach(), live.y, live.tau)
        loss = kl(logits, live.natural) if self.loss == "kl" else cross_entropy(logits, live.y)
        (grad,) = torch.autograd.grad(loss.sum(), x_adv)
        live.counted(grad)
        if self.omega:
            wide = (-math.inf, math.inf)
            noisy = (live.x_adv, live.ids, self.omega, self.seed, draw, "gaussian", *wide)
            live.x_adv = ops.random_start(*noisy, active=goes_on)
        ops.linf_step(live.x_adv, grad, live.x, live.alpha, live.eps, *self.bounds, active=goes_on)
        stopped = (~goes_on).long()  # only looked at: neither step nor gradient counts
        live.steps -= stopped
        live.grads -= stopped
        return goes_on
