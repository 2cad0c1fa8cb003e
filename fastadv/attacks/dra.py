"""The dynamically regulated adversary."""

from dataclasses import dataclass
from typing import ClassVar

from .. import ops
from ._ascend import Rows, ascend
from ._attack import Attack, Budget, check_budgets, check_choice, check_counts, check_ranges


@dataclass(frozen=True)
class DRA(Attack):
    """Ascent along the largest entries of the gradient only, bounded in L1: the dynamically regulated adversary.

    Reconstructed from the text of Hou's thesis (2022, chapter 4), whose listing is missing: what is printed fixes what
    is ranked, how many entries are kept and that the bound is in L1, but not the normalisation; `normalise` offers the
    two that fit. At a `scale` of at most 1 the bound never binds: no step adds more than ``eps / steps`` to the mean.

    Args:
        eps: budget, the mean of ``|x_adv - x|`` over the entries of a sample; a number or one a sample.
        steps: number of gradient steps, each of size ``scale * eps / steps``.
        p: the share of entries that move.
        scale: multiplies every step.
        normalise: the gradient is divided by its mean size over ``all`` entries, or over all of what is ``kept``.
        projection: back into the budget by shrinking (``radial``) or to the nearest point (``simplex``); at a `scale`
            above 1 only.
    """

    eps: Budget = 1 / 255
    steps: int = 5
    p: float = 1 / 3
    scale: float = 1.0
    normalise: str = "all"
    projection: str = "radial"

    norm: ClassVar[str] = "l1"
    ball: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_budgets(self, "eps")
        check_counts(self, steps=1)
        check_ranges(self, p="(0, 1]", scale="(0, inf]")
        check_choice(self, "normalise", self.normalise, ("all", "kept"))
        check_choice(self, "projection", self.projection, ("radial", "simplex"))

    def perturb(self, rows: Rows) -> None:
        count = rows.x.flatten(1).shape[1]
        rows.eps = ops.per_sample("DRA", "eps", self.eps, rows.x) * count  # an L1 norm
        rows.alpha = rows.eps * (self.scale / self.steps)
        how = (self.p, self.normalise, self.projection, *self.bounds)

        move = ops.topp_step.in_loop()

        def step(live: Rows, number: int) -> None:
            grad, _, _ = live.ascent()
            move(live.x_adv, grad, live.x, live.alpha, live.eps, *how, None, live.nonfinite)

        ascend(self, rows, self.steps, step)
