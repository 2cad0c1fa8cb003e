from collections.abc import Callable

import torch

from ._case import BOX, Case, columns, samples


def usual(x_adv, grad, x, step_size, eps, p, normalise, projection, lo, hi, active):
    rows, flat = (-1, 1, 1, 1), grad.flatten(1)
    best = flat.abs().topk(round(p * flat.shape[1]), dim=1).indices
    kept = torch.zeros_like(flat).scatter_(1, best, flat.gather(1, best)).view_as(grad)
    delta = x_adv + (step_size / flat.abs().sum(dim=1)).view(rows) * kept - x
    delta = delta * (eps / delta.flatten(1).abs().sum(dim=1)).clamp(max=1).view(rows)
    x_adv.copy_((x + delta).clamp(lo, hi))


def onto(projection: str) -> Callable:
    return lambda s: (*samples(s), *columns(s, 30.0, 60.0), 1 / 3, "all", projection, *BOX)


CASES = [
    Case("topp_step", onto("radial"), (3, 1), usual),
    Case("topp_step simplex", onto("simplex"), (3, 1)),
]
