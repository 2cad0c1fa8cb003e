"""SMD's exploring attack."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from .. import ops
from ..losses import LOSSES
from ._ascend import STEPS, Rows, ascend, predicted
from ._attack import Attack, Budget, check_budgets, check_choice, check_counts
from ._state import State


@dataclass
class Crossing(State):
    """Whether any iterate was misclassified, [B]."""

    crossed: Tensor


@dataclass(frozen=True)
class EPGD(Attack):
    """PGD to the margin `eps` of every sample, then back to just before the boundary (Ma and Liang: SMD, Algorithm 2).

    The bisection runs between x and the last iterate, on the samples whose last iterate is misclassified; of the others
    it is taken to end at ``1 - 2^-bisections`` of the way. ``bisect="literal"`` is the algorithm as printed, which
    stops moving at the first point that is classified correctly. There is no random start. The `state` of the rows says
    which of them have `crossed` the boundary.

    Args:
        eps: the margin in `norm`, in the units of the inputs; a number or, as in SMD, one a sample.
        alpha: step size, likewise; by default ``4 * eps / steps``.
        steps: number of gradient steps.
        bisections: how often the segment is halved.
        bisect: ``true`` or ``literal``.
        loss: what is maximised, a name in `fastadv.losses.LOSSES`. The authors' later code has ``slm``, of which ``ce``
            is the softplus: its gradient points the same way, and does not vanish where the network is sure.
        norm: ``linf`` or ``l2``.
    """

    eps: Budget = 8 / 255
    alpha: Budget | None = None
    steps: int = 20
    bisections: int = 10
    bisect: str = "true"
    loss: str = "ce"
    norm: str = field(default="linf", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "norm", self.norm, ("linf", "l2"))
        check_budgets(self, "eps", "alpha")
        check_counts(self, steps=1, bisections=1)
        check_choice(self, "bisect", self.bisect, ("true", "literal"))
        check_choice(self, "loss", self.loss, tuple(LOSSES))

    def perturb(self, rows: Rows) -> None:
        rows.eps = ops.per_sample("EPGD", "eps", self.eps, rows.x)
        given = rows.eps * (4 / self.steps) if self.alpha is None else self.alpha
        rows.alpha = ops.per_sample("EPGD", "alpha", given, rows.x)
        rows.state = state = Crossing(torch.zeros_like(rows.nonfinite))
        move = STEPS[self.norm].in_loop()

        def step(live: Rows, number: int) -> None:
            grad, _, wrong = live.ascent(self.loss)  # the step's own forward pass shows who is
            live.state.crossed |= wrong
            move(live.x_adv, grad, live.x, live.alpha, live.eps, *self.bounds, None, live.nonfinite)

        ascend(self, rows, self.steps, step)
        wrong = rows.fooled(rows.predictions())
        state.crossed |= wrong
        inner, outer = rows.x.clone(), rows.x_adv
        if self.bisect == "literal":
            rows.x_adv = self._literal(rows)
            return
        middle = (inner + outer) / 2
        beyond = wrong.nonzero().squeeze(1)
        part = rows.take(beyond)
        ends = inner[beyond], outer[beyond], middle[beyond]
        everywhere = torch.ones_like(state.crossed)
        for _ in range(self.bisections):
            part.x_adv = ends[2]
            inside = predicted(part.scores()) == part.y if len(beyond) else part.state.crossed
            ops.bisect_step(*ends, inside)
            ops.bisect_step(inner, outer, middle, everywhere)
        inner[beyond] = ends[0]
        rows.queries = rows.queries + self.bisections * wrong
        rows.x_adv = inner

    def _literal(self, rows: Rows) -> Tensor:
        out, point = rows.x.clone(), rows.x_adv
        for _ in range(self.bisections):
            point = (point + out) / 2
            rows.x_adv = point
            right = ops.as_rows(predicted(rows.scores()) == rows.y, point)
            out = torch.where(right, point, out)
        return out
