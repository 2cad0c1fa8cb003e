"""The fast adaptive boundary attack."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch

from .. import ops
from ._ascend import STEPS, Rows, ascend
from ._attack import Attack, check_choice, check_count


@dataclass(frozen=True)
class FAB(Attack):
    """FAB-T (Croce and Hein, 2020): the smallest perturbation it finds, towards each of the most likely wrong classes.

    Every step projects the iterate and the sample on the linearised boundary within the box, and goes to a mean of the
    two a little beyond; once across, it starts back towards the sample. Samples that are misclassified at x are
    returned as they are; so are those that it fails on.

    Args:
        steps: iterations for every class.
        targets: how many classes are tried, in the order of their logits at x.
        alpha_max: the largest weight of the sample's own projection.
        eta: how far beyond the boundary, as a multiple of the projection.
        beta: how much of the perturbation is left after going back.
        norm: ``linf``, ``l2`` or ``l1``.
    """

    steps: int = 100
    targets: int = 9
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9
    norm: str = field(default="linf", kw_only=True)

    has_budget: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self, "steps", self.steps, 0)
        check_count(self, "targets", self.targets, 1)
        check_choice(self, "norm", self.norm, tuple(STEPS))
        for name, least, most in (("alpha_max", 0, 1), ("eta", 1, 2), ("beta", 0, 1)):
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"FAB: {name} must be between {least} and {most}, got {getattr(self, name)}")

    def perturb(self, rows: Rows) -> None:
        scores = rows.scores()
        right = scores.argmax(dim=1) == rows.y
        ranked = scores.scatter(1, rows.y.unsqueeze(1), -torch.inf).argsort(dim=1, descending=True)
        rows.best = rows.x.clone()
        rows.size = ops.row_norms(rows.x, self.norm).fill_(torch.inf)
        for rank in range(min(self.targets, scores.shape[1] - 1)):
            rows.goal = ranked[:, rank]
            rows.x_adv = rows.x.clone()
            ascend(rows, self.steps, self._step, active=right)
        rows.x_adv = rows.best

    def _step(self, live: Rows) -> None:
        x_adv, logits = live.differentiable(live.x_adv)
        lead = (logits.gather(1, live.goal.unsqueeze(1)) - logits.gather(1, live.y.unsqueeze(1))).squeeze(1)
        (w,) = torch.autograd.grad(lead.sum(), x_adv)
        live.counted(w)
        here, w = x_adv.detach(), w.nan_to_num(0, 0, 0)
        offset = (w.double() * here.double()).flatten(1).sum(dim=1) - lead.detach()
        ways = [ops.hyperplane_projection(start, w, offset, self.norm, *self.bounds) for start in (here, live.x)]
        sizes = [ops.row_norms(way, self.norm) for way in ways]
        share = (sizes[0] / (sizes[0] + sizes[1])).nan_to_num(0).clamp(max=self.alpha_max)
        share = ops.as_rows(share, here).to(here.dtype)
        ends = [start + self.eta * way for start, way in zip((here, live.x), ways, strict=True)]
        live.x_adv = ((1 - share) * ends[0] + share * ends[1]).clamp(*self.bounds)
        fooled = live.predictions() != live.y
        live.keep_nearest(fooled, self.norm)
        back = live.x + self.beta * (live.x_adv - live.x)
        live.x_adv = torch.where(ops.as_rows(fooled, here), back, live.x_adv)
