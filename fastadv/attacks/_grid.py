"""The 8-bit grid: the 256 levels that a file has for a value, and perturbations rounded to whole ones."""

import torch
from torch import Tensor

LEVELS = 255
_REST = 1e-4
"""Of a level: what float32 may have left of a distance that is one of whole levels."""


def to_levels(x: Tensor, lowest: float | Tensor = 0.0, width: float | Tensor = 1.0) -> Tensor:
    """Where `x` is on the grid, float64: 0 at `lowest`, 255 at ``lowest + width``."""
    return (x.double() - lowest) / width * LEVELS


def from_levels(levels: Tensor, lowest: float | Tensor = 0.0, width: float | Tensor = 1.0) -> Tensor:
    """The values of `levels`, float64. Of whole levels in [0, 1], as float32, they are what ``uint8 / 255`` is."""
    return lowest + levels.double() / LEVELS * width


def rounded(
    levels: Tensor, clean: Tensor | None = None, norm: str = "linf", budget: float | Tensor | None = None
) -> Tensor:
    """The whole levels nearest to `levels` [B, ...], within the `budget` around `clean` [B, ...] where some are.

    Where rounding takes a perturbation beyond the budget, values are rounded towards `clean` instead: for ``linf``
    those that are too far, for ``l1`` and ``l2`` the nearest to the middle between two levels, as few as it takes.
    Perturbations within the budget of whole levels so remain within it. In other norms all go to the nearest.

    Args:
        budget: in levels; a number, or a tensor with the dimensions of `levels`, one value a sample, or for ``linf``
            one a value. None: there is none.
    """
    near = levels.round()
    if budget is None or norm not in ("linf", "l1", "l2"):
        return near
    if norm == "linf":
        least, greatest = (clean - budget - _REST).ceil(), (clean + budget + _REST).floor()
        return torch.where(least <= greatest, torch.clamp(near, least, greatest), near)
    power, far = {"l1": 1, "l2": 2}[norm], (near - clean).abs().flatten(1)
    excess = far.pow(power).sum(dim=1) - torch.as_tensor(budget, device=far.device).flatten().pow(power)
    beyond = (excess > 0).nonzero().squeeze(1)
    if len(beyond):
        part, from_x = levels[beyond].flatten(1), clean[beyond].flatten(1)
        whole = near[beyond].flatten(1)
        inward = torch.where(whole > from_x, part.floor(), part.ceil())
        gain = (far[beyond].pow(power) - (inward - from_x).abs().pow(power)).clamp_min(0)
        order = torch.where(gain > 0, (whole - part).abs(), -1).argsort(dim=1, descending=True, stable=True)
        gained = gain.gather(1, order)
        needed = gained.cumsum(dim=1) - gained < excess[beyond].unsqueeze(1)
        turned = torch.zeros_like(needed).scatter(1, order, needed & (gained > 0))
        near = near.index_copy(0, beyond, torch.where(turned, inward, whole).view_as(near[beyond]))
    return near
