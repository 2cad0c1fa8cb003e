"""The nearest adversarial point that an attack has met."""

import torch
from torch import Tensor

from ._op import Op, op
from ._reference import as_rows
from .row_norms import NORMS, row_norms


def _check(op: Op, given: dict) -> None:
    op.column("size", given["size"], given["best"])


@op(
    "(Tensor(a!) best, Tensor(b!) size, Tensor x_adv, Tensor x, Tensor fooled, str norm, Tensor? active=None) -> ()",
    samples=("best", "x_adv", "x"),
    choices={"norm": NORMS},
    check=_check,
)
def keep_nearest(
    best: Tensor,
    size: Tensor,
    x_adv: Tensor,
    x: Tensor,
    fooled: Tensor,
    norm: str,
    active: Tensor | None = None,
) -> None:
    """Notes the smallest perturbation that fools, in place on `best` [B, ...] and its `size` [B].

    Where `fooled` [B] and the `norm` of ``x_adv - x`` is below `size`: ``best <- x_adv``, and `size` that norm; `norm`
    as in `row_norms`. `size` is float32 (float64 for float64 samples).
    """
    found = row_norms.reference(x_adv, norm, x)
    nearer = fooled & (found < size) & (True if active is None else active)
    size.copy_(torch.where(nearer, found, size))
    best.copy_(torch.where(as_rows(nearer, best), x_adv, best))
