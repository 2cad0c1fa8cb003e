import torch

from ..timing import DEVICE
from ._case import BOX, Case, columns, samples


def usual(x_adv, grad, x, step_size, eps, lo, hi, active):
    rows = (-1, 1, 1, 1)
    delta = (x_adv + step_size.view(rows) * grad.sign() - x).clamp(-eps.view(rows), eps.view(rows))
    x_adv.copy_((x + delta).clamp(lo, hi))


def arguments(shape: tuple[int, ...]) -> tuple:
    return *samples(shape), *columns(shape, 0.01, 0.03), *BOX


CASES = [
    Case("linf_step", arguments, (3, 1), usual),
    Case("linf_step momentum", lambda s: (*arguments(s), None, torch.zeros(s, device=DEVICE), 1.0), (4, 2)),
]
