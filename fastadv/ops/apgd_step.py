"""One step of Auto-PGD."""

import torch
from torch import Tensor

from ._op import op
from ._reference import as_rows, compute
from .l2_step import l2_step
from .linf_step import linf_step


@op(
    "(Tensor(a!) previous, Tensor x_adv, Tensor grad, Tensor x, Tensor step_size, Tensor eps, str norm='linf', "
    "float share=0.75, float lo=0., float hi=1., Tensor? active=None, Tensor(b!)? nonfinite=None) -> ()",
    samples=("previous", "x_adv", "grad", "x"),
    budgets=("step_size", "eps"),
    choices={"norm": ("linf", "l2")},
)
def apgd_step(
    previous: Tensor,
    x_adv: Tensor,
    grad: Tensor,
    x: Tensor,
    step_size: float | Tensor,
    eps: float | Tensor,
    norm: str = "linf",
    share: float = 0.75,
    lo: float = 0.0,
    hi: float = 1.0,
    active: Tensor | None = None,
    nonfinite: Tensor | None = None,
) -> None:
    """One step of Auto-PGD (Croce and Hein 2020, Algorithm 1), in place on `previous` [B, ...].

    `previous` is where `x_adv` has come from.

    With ``z`` the point that `linf_step` or `l2_step` gives from `x_adv`, ``previous <- P(x_adv + share * (z - x_adv) +
    (1 - share) * (x_adv - previous))``, P the projection on the ball around `x` and the box; with share 1, ``z``. The
    two change places: `previous` is then where the sample is. Samples that are not `active` stay where `x_adv` is.
    """
    step = (linf_step if norm == "linf" else l2_step).reference
    point = x_adv.clone()
    step(point, grad, x, step_size, eps, lo, hi, active, nonfinite)
    if share != 1:
        here = compute(x_adv)
        mixed = here + share * (compute(point) - here) + (1 - share) * (here - compute(previous))
        point = torch.empty_like(here).copy_(mixed)
        step(point, torch.zeros_like(point), compute(x), torch.zeros_like(step_size), eps, lo, hi)
    previous.copy_(point if active is None else torch.where(as_rows(active, x), point.to(x.dtype), x_adv))
