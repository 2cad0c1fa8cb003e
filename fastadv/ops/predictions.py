"""The class that logits predict."""

import torch
from torch import Tensor

from ._op import op
from ._reference import column


@op(
    "(Tensor logits) -> Tensor",
    samples=("logits",),
    classes=1,
    fake=lambda logits: column(logits, torch.int64),
)
def predictions(logits: Tensor) -> Tensor:
    """The class of the highest of `logits` [B, K], and -1 where one of them is NaN: [B] int64.

    Of equal ones, infinite ones too, the first.
    """
    return torch.where(logits.isnan().any(dim=1), -1, logits.argmax(dim=1))
