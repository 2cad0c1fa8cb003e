"""One step of the fast adaptive boundary attack."""

from torch import Tensor

from ._op import op
from ._reference import as_rows, cleaned, compute, flat, note, write
from .hyperplane_projection import hyperplane_projection
from .row_norms import row_norms


@op(
    "(Tensor(a!) x_adv, Tensor x, Tensor normal, Tensor lead, str norm, float alpha_max, float eta, float lo=0., "
    "float hi=1., Tensor? active=None, Tensor(b!)? nonfinite=None) -> ()",
    samples=("x_adv", "x", "normal"),
    budgets=("lead",),
    choices={"norm": ("linf", "l2", "l1")},
)
def fab_step(
    x_adv: Tensor,
    x: Tensor,
    normal: Tensor,
    lead: float | Tensor,
    norm: str,
    alpha_max: float,
    eta: float,
    lo: float = 0.0,
    hi: float = 1.0,
    active: Tensor | None = None,
    nonfinite: Tensor | None = None,
) -> None:
    """One step of FAB (Croce and Hein 2020, Algorithm 1), in place on `x_adv` [B, ...].

    The boundary is linearised at `x_adv`: another class is ahead by `lead` [B], and `normal` [B, ...] is the gradient
    of that. From `x_adv` and from `x` the ways to it are those of `hyperplane_projection`, with norms a and b; with
    ``share = min(a / (a + b), alpha_max)``, 0 where both are 0, ``x_adv <- clip((1 - share) * (x_adv + eta * way) +
    share * (x + eta * way), lo, hi)``. NaN and infinite entries of `normal` count as 0; a NaN lead moves nothing.
    """
    note(normal, active, nonfinite)
    broken = lead.isnan()
    if nonfinite is not None:
        nonfinite |= broken if active is None else broken & active
    w, lead = flat(cleaned(normal)).double(), lead.double()
    ends, sizes = [], []
    for start in (x_adv, x):
        # In double precision, so that the two ways end on the same hyperplane.
        point, slope = compute(start).double(), cleaned(normal).double()
        offset = (w * flat(compute(x_adv)).double()).sum(dim=1) - lead
        way = hyperplane_projection.reference(point, slope, offset, norm, lo, hi).to(x.dtype)
        sizes.append(row_norms.reference(way, norm))
        ends.append(compute(start) + eta * compute(way))
    share = (sizes[0] / (sizes[0] + sizes[1])).nan_to_num(0.0).clamp(max=alpha_max)
    share = as_rows(share, x)
    moves = ~broken if active is None else active & ~broken
    write(x_adv, ((1 - share) * ends[0] + share * ends[1]).clamp(lo, hi), moves)
