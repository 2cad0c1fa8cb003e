"""The one-step targeted attack of bilateral adversarial training."""

import math
from dataclasses import dataclass

import torch

from .. import ops
from ..losses import cross_entropy
from ._ascend import Rows, ascend
from ._attack import Attack, Budget, check_budget, check_choice


@dataclass(frozen=True)
class OneStepTargeted(Attack):
    """One step towards a wrong class from a random start (Wang and Zhang, ICCV 2019: R-MC, R-LL).

    The class is chosen at x. As in the published code, the start may leave the box; the result does not. `AttackResult`
    counts any change of class as success.

    Args:
        eps: L-infinity budget, in the units of the inputs; a number or one a sample.
        alpha: step size, likewise; by default eps.
        towards: ``most_confusing`` (the wrong class with the highest logit), ``least_likely`` or ``random``.
        random_start: whether the start is uniform in the ball, or x.
    """

    eps: Budget = 8 / 255
    alpha: Budget | None = None
    towards: str = "most_confusing"
    random_start: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_budget(self, "eps", self.eps)
        if self.alpha is not None:
            check_budget(self, "alpha", self.alpha)
        check_choice(self, "towards", self.towards, ("most_confusing", "least_likely", "random"))

    def perturb(self, rows: Rows) -> None:
        rows.eps = ops.per_sample("OneStepTargeted", "eps", self.eps, rows.x)
        rows.alpha = rows.eps if self.alpha is None else ops.per_sample("OneStepTargeted", "alpha", self.alpha, rows.x)
        logits = rows.scores()
        if self.towards == "random":
            # The label and one to K - 1 more, in a circle: any other class with equal chance.
            ahead = self._uniform(rows) * (logits.shape[1] - 1)
            rows.goal = (rows.y + 1 + ahead.long().clamp(max=logits.shape[1] - 2)) % logits.shape[1]
        else:
            rows.goal = ops.wrong_class_target(logits, rows.y, self.towards)
        if self.random_start:
            wide = (-math.inf, math.inf)
            rows.x_adv = ops.random_start(rows.x, rows.ids, rows.eps, self.seed, 0, "uniform", *wide)

        def step(live: Rows) -> None:
            grad = live.gradient(cross_entropy, against="goal")
            ops.linf_step(live.x_adv, grad, live.x, -live.alpha, live.eps, *self.bounds)

        ascend(rows, 1, step)

    def _uniform(self, rows: Rows) -> torch.Tensor:
        """A number in (0, 1) for every sample, [B], which depends on the seed and its id alone."""
        middle = torch.full((len(rows.x), 1), 0.5, dtype=torch.float64, device=rows.x.device)
        return ops.random_start(middle, rows.ids, 0.5, self.seed, 1).squeeze(1)
