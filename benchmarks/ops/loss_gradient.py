from collections.abc import Callable

import torch
import torch.nn.functional as F

from ._case import OF_LOGITS, Case, columns, logits


def usual(logits, labels, sign, loss):
    z = logits.detach().requires_grad_()
    with torch.enable_grad():
        losses = F.cross_entropy(z, labels, reduction="none")
        gradient = torch.autograd.grad(losses.sum(), z)[0]
    return gradient, losses.detach(), logits.argmax(dim=1) != labels


def of(loss: str) -> Callable:
    def arguments(shape: tuple[int, ...]) -> tuple:
        scores, labels = logits(shape)
        natural = (scores.flip(0),) if loss == "kl" else ()
        return scores, labels, *columns(shape, 1.0), loss, *natural

    return arguments


CASES = [
    Case("loss_gradient", of("ce"), (OF_LOGITS, OF_LOGITS), usual),
    Case("loss_gradient margin", of("margin"), (OF_LOGITS, OF_LOGITS)),
    Case("loss_gradient dlr", of("dlr"), (OF_LOGITS, OF_LOGITS)),
    Case("loss_gradient kl", of("kl"), (2 * OF_LOGITS, OF_LOGITS)),
]
