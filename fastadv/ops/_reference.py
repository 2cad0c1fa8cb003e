"""Arithmetic that the references of several ops share, on tensors [B, ...] whose rows are samples."""

import torch
from torch import Tensor

STEP = (
    "(Tensor(a!) x_adv, Tensor grad, Tensor x, Tensor step_size, Tensor eps, float lo=0., float hi=1., "
    "Tensor? active=None, Tensor(c!)? nonfinite=None{}) -> ()"
)
"""The schema of a step, with a place for what one has besides."""


def wide_type(x: Tensor) -> torch.dtype:
    """The type that ops compute in."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def compute(x: Tensor) -> Tensor:
    return x.to(wide_type(x))


def as_rows(values: Tensor, x: Tensor) -> Tensor:
    """One value a sample, [B], shaped to broadcast over the samples of `x`."""
    return values.view(-1, *[1] * (x.dim() - 1))


def column(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """An empty tensor with one value a sample, in the compute type or another."""
    return x.new_empty(x.shape[:1], dtype=dtype or wide_type(x))


def flat(x: Tensor) -> Tensor:
    return x.flatten(1) if x.dim() > 1 else x.unsqueeze(1)


def norm_of(x: Tensor, order: float) -> Tensor:
    """The norm of every sample in double precision, [B]."""
    rows = flat(x).double()
    norms = torch.linalg.vector_norm(rows, order, dim=1) if rows.shape[1] else rows.new_zeros(rows.shape[0])
    return norms if order else norms.masked_fill(rows.isnan().any(dim=1), torch.nan)


def cleaned(grad: Tensor) -> Tensor:
    grad = compute(grad)
    return grad.masked_fill(~grad.isfinite(), 0)


def note(grad: Tensor, active: Tensor | None, nonfinite: Tensor | None) -> None:
    """Sets `nonfinite` [B] where an active sample's gradient is NaN or infinite."""
    if nonfinite is not None:
        broken = ~flat(grad).isfinite().all(dim=1)
        nonfinite |= broken if active is None else broken & active


def pace(step_size: Tensor, norm: Tensor) -> Tensor:
    """What a gradient is multiplied with to make a step of the given length; 0 where there is no direction.

    Bounded, so that a gradient that has all but vanished makes a shorter step and not NaN.
    """
    most = torch.finfo(step_size.dtype).max
    return torch.where(norm > 0, (step_size / norm).clamp(-most, most), 0).to(step_size.dtype)


def write(x: Tensor, value: Tensor, active: Tensor | None) -> None:
    value = value.to(x.dtype)
    x.copy_(value if active is None else torch.where(as_rows(active, x), value, x))


def radial(delta: Tensor, norm: Tensor, eps: Tensor) -> Tensor:
    """`delta` shrunk to the ball in which it has the given norm."""
    norm = norm.to(eps.dtype)
    return as_rows(torch.where(norm <= eps, torch.ones_like(eps), eps / norm), delta) * delta


def simplex(delta: Tensor, norm: Tensor, eps: Tensor) -> Tensor:
    """The nearest point of the L1 ball, by sorting (Duchi et al., 2008)."""
    if delta.numel() == 0:
        return delta
    sizes = flat(delta).abs().double().sort(dim=1, descending=True).values
    count = torch.arange(1, sizes.shape[1] + 1, device=sizes.device)
    theta = (sizes.cumsum(1) - eps.double().unsqueeze(1)) / count
    last = (sizes > theta).sum(dim=1, keepdim=True).clamp(min=1) - 1
    theta = theta.gather(1, last).squeeze(1).to(eps.dtype)
    theta = as_rows(torch.where(norm.to(eps.dtype) <= eps, torch.zeros_like(eps), theta), delta)
    return delta - torch.minimum(torch.maximum(delta, -theta), theta)
