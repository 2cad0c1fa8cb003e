"""One step of Auto-PGD in L1."""

import torch
from torch import Tensor

from ._op import op
from ._reference import as_rows, cleaned, compute, flat, note, write


@op(
    "(Tensor(a!) x_adv, Tensor grad, Tensor x, Tensor step_size, Tensor eps, Tensor entries, float lo=0., float hi=1., "
    "Tensor? active=None, Tensor(b!)? nonfinite=None) -> ()",
    samples=("x_adv", "grad", "x"),
    budgets=("step_size", "eps", "entries"),
)
def sparse_l1_step(
    x_adv: Tensor,
    grad: Tensor,
    x: Tensor,
    step_size: float | Tensor,
    eps: float | Tensor,
    entries: float | Tensor,
    lo: float = 0.0,
    hi: float = 1.0,
    active: Tensor | None = None,
    nonfinite: Tensor | None = None,
) -> None:
    """One L1 ascent step of few entries, in place on `x_adv` [B, ...] (Croce and Hein, 2021, sections 3 and 4).

    So many `entries` [B] as are largest in the gradient, at least one and equal ones by lowest index, move by
    `step_size` in all: each by the same, along its sign; what is 0, NaN or infinite does not. The result is the nearest
    point that lies both in the L1 ball of radius `eps` around `x` and in the box from `lo` to `hi`.
    """
    note(grad, active, nonfinite)
    grad, origin = cleaned(grad), compute(x)
    rows = flat(grad)
    place = rows.abs().sort(dim=1, descending=True, stable=True).indices
    rank = torch.empty_like(place).scatter_(1, place, torch.arange(rows.shape[1], device=x.device).expand_as(place))
    chosen = (rank == 0) | (rank < entries.ceil().unsqueeze(1))
    kept = torch.where(chosen, rows.sign(), 0).reshape(grad.shape)
    each = step_size / flat(kept).abs().sum(dim=1).clamp(min=1)
    delta = compute(x_adv) + as_rows(each, x) * kept - origin
    write(x_adv, (origin + _nearest(delta, origin, eps, lo, hi)).clamp(lo, hi), active)


def _nearest(delta: Tensor, origin: Tensor, eps: Tensor, lo: float, hi: float) -> Tensor:
    """The nearest point to `delta` of L1 norm `eps` at most, with each entry within its room in the box.

    That is every magnitude reduced by theta, but not below 0, and cut off at its room. The sum of these falls with
    theta: a magnitude takes part from where it has come down to its room until it is 0.
    """
    if delta.numel() == 0:
        return delta
    sizes = flat(delta).abs().double()
    room = flat(torch.where(delta > 0, hi - origin, origin - lo)).double().clamp(min=0)
    corners, order = torch.cat(((sizes - room).clamp(min=0), sizes), dim=1).sort(dim=1)
    falling = torch.cat((torch.ones_like(sizes), -torch.ones_like(sizes)), dim=1).gather(1, order).cumsum(dim=1)
    falls = torch.nn.functional.pad(falling[:, :-1] * corners.diff(dim=1), (1, 0))
    above = torch.minimum(sizes, room).sum(dim=1, keepdim=True) - falls.cumsum(dim=1) - eps.double().unsqueeze(1)
    last = (above > 0).sum(dim=1, keepdim=True).clamp(min=1) - 1
    beyond = above.gather(1, last) / falling.gather(1, last).clamp(min=1)
    theta = torch.where(above[:, :1] > 0, corners.gather(1, last) + beyond, 0)
    theta = torch.where(eps.unsqueeze(1) > 0, theta, torch.inf).to(delta.dtype)
    shrunk = torch.minimum((sizes.to(delta.dtype) - theta).clamp(min=0), room.to(delta.dtype))
    return delta.sign() * shrunk.reshape(delta.shape)
