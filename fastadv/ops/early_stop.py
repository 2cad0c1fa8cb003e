"""PGD-K-tau's bookkeeping."""

import torch
from torch import Tensor

from ._op import op
from ._reference import column
from .predictions import predictions


@op(
    "(Tensor logits, Tensor labels, Tensor(a!) tau, Tensor? active=None) -> (Tensor, Tensor, Tensor, Tensor)",
    samples=("logits",),
    classes=1,
    fake=lambda logits, labels, tau, active=None: (
        column(logits, torch.int64),
        column(logits, torch.bool),
        column(logits, torch.int64),
        logits.new_empty(1, dtype=torch.int64),
    ),
)
def early_stop(
    logits: Tensor, labels: Tensor, tau: Tensor, active: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """PGD-K-tau's bookkeeping before a step (FAT, Zhang et al. 2020, Algorithm 1), in place on `tau` [B] int64.

    A sample of `logits` [B, K] that is misclassified, as one with a NaN always is, stops if its `tau` is 0, and
    otherwise goes on with one less. Samples that are not `active` stay stopped and keep their `tau`. Nothing waits for
    the device.

    Returns ``(predictions, active, order, count)``: the predicted classes [B], as the op of that name has them; who
    goes on [B]; their indices in order, followed by the others' from the last to the first [B]; and how many go on [1],
    which may be read asynchronously.
    """
    predicted = predictions.reference(logits)
    wrong = predicted != labels
    goes_on = ~(wrong & (tau <= 0))
    if active is not None:
        goes_on = goes_on & active
    tau.sub_((goes_on & wrong).to(tau.dtype))
    index = torch.arange(len(labels), device=logits.device)
    order = torch.where(goes_on, index, 2 * len(labels) - index).argsort()
    return predicted, goes_on, order, goes_on.sum().reshape(1)
