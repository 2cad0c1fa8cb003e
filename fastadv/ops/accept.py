"""A search's verdict on the point that it has tried."""

import torch
from torch import Tensor

from ._op import Op, op
from ._reference import column


def _check(op: Op, given: dict) -> None:
    if given["best"].dim() != 1:
        raise ValueError(f"{op.name}: best must hold one value a sample, [B], got {tuple(given['best'].shape)}")


@op(
    "(Tensor(a!) best, Tensor loss, Tensor fooled, Tensor? active=None) -> (Tensor, Tensor)",
    samples=("best", "loss"),
    check=_check,
    fake=lambda best, *args, **kwargs: (column(best, torch.bool), column(best, torch.bool)),
)
def accept(best: Tensor, loss: Tensor, fooled: Tensor, active: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Whether a point is better than the best so far, in place on `best` [B], the highest loss so far.

    It is where it is `fooled` [B], or its `loss` [B] is higher; `best` then becomes its loss. Samples that are not
    `active` have no better point. Returns ``(better, going)``, [B] bool each; `going` are the active ones that are not
    fooled.
    """
    going = ~fooled if active is None else active & ~fooled
    better = fooled | (loss > best)
    if active is not None:
        better = better & active
    best.copy_(torch.where(better, loss, best))
    return better, going
