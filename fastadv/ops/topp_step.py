"""One step of the dynamically regulated adversary (DRA)."""

import math

import torch
from torch import Tensor

from ._op import Op, op
from ._reference import as_rows, cleaned, compute, flat, norm_of, note, pace, radial, simplex, write


def _check(op: Op, given: dict) -> None:
    if not 0 < given["p"] <= 1:
        raise ValueError(f"{op.name}: p must be a share of the entries, in (0, 1], got {given['p']}")


@op(
    "(Tensor(a!) x_adv, Tensor grad, Tensor x, Tensor step_size, Tensor eps, float p, str normalise='all', "
    "str projection='radial', float lo=0., float hi=1., Tensor? active=None, Tensor(b!)? nonfinite=None) -> ()",
    samples=("x_adv", "grad", "x"),
    budgets=("step_size", "eps"),
    choices={"normalise": ("all", "kept"), "projection": ("radial", "simplex")},
    check=_check,
)
def topp_step(
    x_adv: Tensor,
    grad: Tensor,
    x: Tensor,
    step_size: float | Tensor,
    eps: float | Tensor,
    p: float,
    normalise: str = "all",
    projection: str = "radial",
    lo: float = 0.0,
    hi: float = 1.0,
    active: Tensor | None = None,
    nonfinite: Tensor | None = None,
) -> None:
    """One step of DRA (Hou, 2022, thesis, chapter 4), in place on `x_adv` [B, ...].

    Only the ``ceil(p * N)`` entries of the gradient that are largest in magnitude move, equal ones by lowest index:
    ``delta = x_adv + step_size * kept / |grad|_1 - x``, or over ``|kept|_1`` with ``normalise="kept"``. `delta` is then
    bounded to the L1 norm `eps`, shrunk as a whole (``radial``) or to the nearest point of the ball (``simplex``), and
    ``x_adv <- clip(x + delta, lo, hi)``. `step_size` and `eps` are L1 norms: N times DRA's mean per pixel. NaN and
    infinite gradient entries count as 0.
    """
    note(grad, active, nonfinite)
    grad, origin = cleaned(grad), compute(x)
    rows = flat(grad)
    keep = math.ceil(p * (1 - 2.0**-40) * rows.shape[1])  # a hair less than p: its rounding must not keep one more
    best = rows.abs().sort(dim=1, descending=True, stable=True).indices[:, :keep]
    kept = torch.zeros_like(rows).scatter(1, best, rows.gather(1, best)).reshape(grad.shape)
    scale = as_rows(pace(step_size, norm_of(grad if normalise == "all" else kept, 1)), x)
    delta = compute(x_adv) + scale * kept - origin
    bound = radial if projection == "radial" else simplex
    write(x_adv, (origin + bound(delta, norm_of(delta, 1), eps)).clamp(lo, hi), active)
