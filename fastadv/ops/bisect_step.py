"""One bisection of a segment for every sample."""

import torch
from torch import Tensor

from ._op import op
from ._reference import as_rows, compute, write


@op(
    "(Tensor(a!) inner, Tensor(b!) outer, Tensor(c!) middle, Tensor inside, Tensor? active=None) -> ()",
    samples=("inner", "outer", "middle"),
)
def bisect_step(inner: Tensor, outer: Tensor, middle: Tensor, inside: Tensor, active: Tensor | None = None) -> None:
    """One bisection of the segments from `inner` to `outer` [B, ...], in place on all three (SMD, Ma and Liang).

    Where `inside` [B] says that the `middle` is still on the inner side, it becomes `inner`, elsewhere `outer`; the
    next `middle` is half-way between the two. Begin with ``middle = (inner + outer) / 2``.
    """
    replaced = as_rows(inside, middle)
    kept = torch.where(replaced, outer, inner)
    after = (compute(middle) + compute(kept)) * 0.5
    write(inner, torch.where(replaced, middle, inner), active)
    write(outer, torch.where(replaced, outer, middle), active)
    write(middle, after, active)
