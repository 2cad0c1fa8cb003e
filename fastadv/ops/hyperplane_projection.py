"""The shortest way to a hyperplane within the box."""

import torch
from torch import Tensor

from ._op import op
from ._reference import cleaned, compute, flat


@op(
    "(Tensor x, Tensor normal, Tensor offset, str norm, float lo=0., float hi=1.) -> Tensor",
    samples=("x", "normal"),
    budgets=("offset",),
    choices={"norm": ("linf", "l2", "l1")},
    fake=lambda x, *args, **kwargs: torch.empty_like(x),
)
def hyperplane_projection(
    x: Tensor, normal: Tensor, offset: float | Tensor, norm: str, lo: float = 0.0, hi: float = 1.0
) -> Tensor:
    """The shortest way, in `norm`, from `x` [B, ...] to the hyperplane ``normal . z = offset`` that stays in the box.

    A new tensor like `x`, to be added to it (FAB, Croce and Hein 2020). `offset` is one number a sample. Where the
    hyperplane does not meet the box, everything moves towards it as far as the box allows. In L1, entries of equal
    weight share alike. NaN and infinite entries of `normal` count as 0; a NaN offset shows as NaN.
    """
    if x.numel() == 0:
        return torch.empty_like(x)
    w, here = flat(cleaned(normal)).double(), flat(compute(x))
    gap = offset.double() - (w * here.double()).sum(dim=1)
    w = torch.where(gap < 0, -1.0, 1.0).unsqueeze(1) * w
    distance = gap.abs().unsqueeze(1)
    room = torch.where(w > 0, hi - here, here - lo).clamp(min=0).double()
    weight = w.abs()
    if norm == "l1":
        move = _heaviest_first(weight, room, distance)
    else:
        # In the order in which the coordinates reach their limits: up to each, all before it have.
        slope, limit = (weight.square(), room / weight) if norm == "l2" else (weight, room)
        limit, order = limit.nan_to_num(torch.inf, posinf=torch.inf).sort(dim=1)
        gain, slope = (weight * room).gather(1, order), slope.gather(1, order)
        root = (distance - (gain.cumsum(1) - gain)) / slope.flip(1).cumsum(1).flip(1)
        root = root.gather(1, (root <= limit).int().argmax(dim=1, keepdim=True))
        move = torch.minimum(root * weight if norm == "l2" else root, room)
    reach = (weight * room).sum(dim=1, keepdim=True)
    delta = w.sign() * torch.where(reach <= distance, room, move)
    delta = torch.where(gap.isnan().unsqueeze(1), torch.nan, delta)
    return torch.empty_like(x).copy_(delta.reshape(x.shape).to(here.dtype))


def _heaviest_first(weight: Tensor, room: Tensor, distance: Tensor) -> Tensor:
    """How far each coordinate moves if the heaviest move first and equal ones share, until `distance` is covered."""
    ordered, order = weight.sort(dim=1)
    gain = torch.nn.functional.pad((weight * room).gather(1, order).cumsum(1), (1, 0))
    up_to = gain.gather(1, torch.searchsorted(ordered, weight, right=True))
    equal = up_to - gain.gather(1, torch.searchsorted(ordered, weight))
    share = (distance - (gain[:, -1:] - up_to)) / equal
    return torch.where(equal > 0, share.clamp(0, 1), 0) * room
