"""The one-step targeted attack of bilateral adversarial training."""

import math
from dataclasses import dataclass

import torch

from .. import ops
from ._ascend import Rows, ascend, budgets, numbers
from ._attack import Attack, Budget, check_budgets, check_choice
from ._state import Goal


@dataclass(frozen=True)
class OneStepTargeted(Attack):
    """One step towards a wrong class from a random start (Wang and Zhang, ICCV 2019: R-MC, R-LL, R-FGSM).

    The class is chosen at x. As in the published code, the start may leave the box; the result does not. `AttackResult`
    counts any change of class as success.

    Args:
        eps: L-infinity budget, in the units of the inputs; a number or one a sample.
        alpha: step size, likewise; by default eps.
        towards: ``most_confusing`` (the wrong class with the highest logit), ``least_likely``, ``random``, or ``any``,
            which is a step away from the label (R-FGSM).
        random_start: whether the start is uniform in the ball, or x.
    """

    eps: Budget = 8 / 255
    alpha: Budget | None = None
    towards: str = "most_confusing"
    random_start: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_budgets(self, "eps", "alpha")
        check_choice(self, "towards", self.towards, ("most_confusing", "least_likely", "random", "any"))

    @property
    def is_random(self) -> bool:
        return self.random_start or self.towards == "random"

    def perturb(self, rows: Rows) -> None:
        budgets(self, rows, self.alpha)
        rows.state = Goal(self.goal(rows))
        sign = 1 if self.towards == "any" else -1
        if self.random_start:
            wide = (-math.inf, math.inf)
            rows.x_adv = ops.random_start(rows.x, rows.ids, rows.eps, self.seed, 0, "uniform", *wide)

        def step(live: Rows, number: int) -> None:
            grad, _, _ = live.ascent(labels=live.state.goal)
            budgets = (sign * live.alpha, live.eps)
            ops.linf_step(live.x_adv, grad, live.x, *budgets, *self.bounds, nonfinite=live.nonfinite)

        ascend(self, rows, 1, step)

    def goal(self, rows: Rows) -> torch.Tensor:
        """The class that the step is towards, or the label that it is away from, [B]."""
        if self.towards == "any":
            return rows.y
        logits = rows.scores()
        if self.towards == "random":
            return random_target(rows.y, rows.ids, logits.shape[1], self.seed)
        return ops.wrong_class_target(logits, rows.y, self.towards)


def random_target(y: torch.Tensor, ids: torch.Tensor, classes: int, seed: int) -> torch.Tensor:
    """Any class but `y`, with equal chance, [B]; it depends on the seed and the sample's id alone."""
    ahead = numbers(ids, (1,), seed, 1).squeeze(1) * (classes - 1)
    # The label and one to K - 1 more, in a circle.
    return (y + 1 + ahead.long().clamp(max=classes - 2)) % classes
