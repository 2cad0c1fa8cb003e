from collections.abc import Callable

import torch

from ..timing import DEVICE
from ._case import BOX, Case, columns, samples


def usual(x, ids, eps, seed, restart, law, lo, hi, active):
    return (x + eps.view(-1, 1, 1, 1) * (2 * torch.rand_like(x) - 1)).clamp(lo, hi)


def start(law: str) -> Callable:
    def arguments(shape: tuple[int, ...]) -> tuple:
        ids = torch.arange(shape[0], device=DEVICE)
        return samples(shape)[2], ids, *columns(shape, 0.03), 0, 0, law, *BOX

    return arguments


CASES = [
    Case("random_start", start("uniform"), (1, 1), usual, random=True),
    Case("random_start gaussian", start("gaussian"), (1, 1)),
    Case("random_start l2", start("l2"), (1, 1)),
]
