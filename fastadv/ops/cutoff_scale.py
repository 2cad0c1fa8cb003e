"""Blind AT's cutoff and scale."""

import torch
from torch import Tensor

from ._op import op
from ._reference import as_rows, compute, write


@op(
    "(Tensor(a!) x_adv, Tensor x, Tensor norms, Tensor? eps=None, float rho=1., Tensor? active=None) -> ()",
    samples=("x_adv", "x"),
    budgets=("norms", "eps"),
)
def cutoff_scale(
    x_adv: Tensor,
    x: Tensor,
    norms: Tensor,
    eps: float | Tensor | None = None,
    rho: float = 1.0,
    active: Tensor | None = None,
) -> None:
    """Blind AT's cutoff and scale (Xie et al., Algorithm 1), in place on `x_adv` [B, ...].

    ``x_adv <- x + rho * min(1, eps / norm) * (x_adv - x)`` with `norms` [B] of ``x_adv - x`` in whatever norm `eps` is
    measured in; by default their mean, in which norms that are not finite count as 0. (Distributed: average the mean
    over the processes, and give it.) A sample within its budget keeps its bits when rho is 1; one whose norm is NaN or
    infinite returns to x.
    """
    if eps is None:
        eps = torch.where(norms.isfinite(), norms, 0).double().mean().to(norms.dtype).expand(norms.shape)
    factor = torch.where(norms <= eps, torch.ones_like(norms), eps / norms) * torch.as_tensor(rho, dtype=norms.dtype)
    factor = torch.where(norms.isfinite(), factor, torch.zeros_like(norms))
    here, origin, factor = compute(x_adv), compute(x), as_rows(factor, x)
    moved = torch.where(factor == 0, origin, origin + factor * (here - origin))
    write(x_adv, torch.where(factor == 1, here, moved), active)
