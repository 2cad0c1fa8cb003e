"""Bilateral's adversarial labels."""

import math

import torch
from torch import Tensor

from ._op import Op, op
from ._reference import compute, wide_type


def _check(op: Op, given: dict) -> None:
    for name, positive in (("beta", True), ("gamma", False), ("top_k", False)):
        value = given.get(name, 1)
        if not (0 < value < math.inf if positive else 0 <= value < math.inf):
            raise ValueError(f"{op.name}: {name} must be {'positive' if positive else 'at least 0'}, got {value}")


@op(
    "(Tensor logits, Tensor labels, float beta=9., float gamma=0.01, str variant='main', int top_k=0) -> Tensor",
    samples=("logits",),
    choices={"variant": ("main", "sup")},
    classes=2,
    check=_check,
    fake=lambda logits, *args, **kwargs: logits.new_empty(logits.shape, dtype=wide_type(logits)),
)
def adversarial_labels(
    logits: Tensor, labels: Tensor, beta: float = 9.0, gamma: float = 0.01, variant: str = "main", top_k: int = 0
) -> Tensor:
    """Bilateral's adversarial labels (Wang and Zhang, ICCV 2019), from the `logits` [B, K] of the natural samples.

    A soft label [B, K], float32 (float64 for float64 logits), that gives ``eps_y`` to the wrong classes in proportion
    to u, and the rest to the true one: ``u_k = v_k - min v + gamma`` (``main``, equations 14 and 18) or ``u_k = v_k``
    (``sup``, equations 26 and 28), with ``v = -log p`` and ``eps_y = 1 / (1 + beta * max u / sum u)``, so that the true
    class keeps `beta` times the largest wrong share. `top_k`: only that many of the least likely wrong classes take
    part (LA9 is ``sup`` with 9), equally unlikely ones by lowest index; 0: all. Where every u is 0, the shares are
    equal. A NaN or infinite logit makes the sample's label NaN.
    """
    z = logits.double()
    own = torch.arange(z.shape[1], device=z.device) == labels.unsqueeze(1)
    v = -z.log_softmax(dim=1)
    chosen = ~own
    if 0 < top_k < z.shape[1] - 1:
        order = v.masked_fill(own, -torch.inf).sort(dim=1, descending=True, stable=True).indices[:, :top_k]
        chosen = torch.zeros_like(own).scatter(1, order, True)
    u = v if variant == "sup" else v - v.masked_fill(~chosen, torch.inf).amin(1, keepdim=True) + gamma
    u = torch.where(chosen, u, 0)
    u = torch.where(u.sum(dim=1, keepdim=True) == 0, chosen.to(u.dtype), u)
    total = u.sum(dim=1, keepdim=True)
    eps_y = 1 / (1 + beta * (u.amax(dim=1, keepdim=True) / total))
    soft = torch.where(own, 1 - eps_y, eps_y * (u / total)).to(compute(logits).dtype)
    return soft.masked_fill(~z.isfinite().all(dim=1, keepdim=True), torch.nan)
