"""The most confusing and the least likely wrong class."""

import torch
from torch import Tensor

from ._op import op
from ._reference import column


@op(
    "(Tensor logits, Tensor labels, str which='most_confusing') -> Tensor",
    samples=("logits",),
    choices={"which": ("most_confusing", "least_likely")},
    classes=2,
    fake=lambda logits, *args, **kwargs: column(logits, torch.int64),
)
def wrong_class_target(logits: Tensor, labels: Tensor, which: str = "most_confusing") -> Tensor:
    """The wrong class with the highest of `logits` [B, K] (``most_confusing``) or the lowest (``least_likely``): [B].

    int64; of equal ones the first; NaN comes before all (Bilateral's MC and LL targets, equations 24 and 23).
    """
    scores = logits if which == "most_confusing" else -logits
    scores = scores.clamp(min=torch.finfo(logits.dtype).min)  # minus infinity is for the label alone
    own = torch.arange(logits.shape[1], device=logits.device) == labels.unsqueeze(1)
    return scores.masked_fill(own, -torch.inf).argmax(dim=1)
