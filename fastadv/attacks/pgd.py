"""Projected gradient descent in the L-infinity ball."""

import dataclasses
from dataclasses import dataclass

from .. import ops
from ..losses import LOSSES
from ._ascend import Rows, ascend, sign_ascent
from ._attack import Attack, Budget, check_budget, check_choice, check_count


@dataclass(frozen=True)
class PGD(Attack):
    """Projected gradient ascent with the sign of the gradient (Madry et al., 2018); the last iterate is the result.

    Args:
        eps: L-infinity budget, in the units of the inputs; a number or one a sample.
        alpha: step size, likewise.
        steps: number of gradient steps.
        random_start: the start is uniform in the ball of radius ``random_start * eps``; 0 starts at x.
        loss: what is maximised, ``ce`` (cross-entropy) or ``margin`` (Carlini and Wagner's, kappa 50).
    """

    eps: Budget = 8 / 255
    alpha: Budget = 2 / 255
    steps: int = 10
    random_start: float = 1.0
    loss: str = "ce"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_budget(self, "eps", self.eps)
        check_budget(self, "alpha", self.alpha)
        check_count(self, "steps", self.steps, 0)
        if not 0 <= self.random_start <= 1:
            raise ValueError(f"PGD: random_start must be a share of eps, between 0 and 1, got {self.random_start}")
        check_choice(self, "loss", self.loss, tuple(LOSSES))

    def at(self, eps: float) -> "PGD":
        if not isinstance(self.eps, float | int) or not self.eps:
            raise ValueError(
                f"PGD.at scales alpha with eps, which needs one positive eps to start from; got {self.eps}"
            )
        return dataclasses.replace(self, eps=eps, alpha=self.alpha * (eps / self.eps))

    def perturb(self, rows: Rows) -> None:
        if self.random_start:
            start = self.random_start * self.eps
            rows.x_adv = ops.random_start(rows.x, rows.ids, start, self.seed, lo=self.bounds[0], hi=self.bounds[1])
        ascend(rows, self.steps, sign_ascent(self, rows, LOSSES[self.loss], self.alpha))
