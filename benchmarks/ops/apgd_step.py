from collections.abc import Callable

import torch
from torch import Tensor

from ._case import BOX, Case, columns, samples


def usual(previous, x_adv, grad, x, step_size, eps, norm, share, lo, hi, active):
    """As in the authors' apgd_attack.py."""
    rows = (-1, 1, 1, 1)
    step_size, eps = step_size.view(rows), eps.view(rows)

    def length(t: Tensor) -> Tensor:
        return t.flatten(1).norm(dim=1).view(rows)

    def within(t: Tensor) -> Tensor:
        if norm == "linf":
            return torch.min(torch.max(t, x - eps), x + eps).clamp(lo, hi)
        return (x + (t - x) / (length(t - x) + 1e-12) * torch.min(eps, length(t - x))).clamp(lo, hi)

    direction = grad.sign() if norm == "linf" else grad / (length(grad) + 1e-12)
    point = within(x_adv + step_size * direction)
    previous.copy_(within(x_adv + (point - x_adv) * share + (x_adv - previous) * (1 - share)))


def of(norm: str, step_size: float, eps: float) -> Callable:
    def arguments(shape: tuple[int, ...]) -> tuple:
        x_adv, grad, x = samples(shape)
        return x.clone(), x_adv, grad, x, *columns(shape, step_size, eps), norm, 0.75, *BOX

    return arguments


CASES = [
    Case("apgd_step", of("linf", 0.01, 0.03), (4, 1), usual),
    Case("apgd_step l2", of("l2", 0.3, 2.0), (4, 1), usual),
]
