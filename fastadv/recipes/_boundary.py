"""The decision boundary of a small ReLU network in the plane, exactly: straight pieces, and distances from them."""

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Boundary:
    """Straight pieces ``foot + t * along`` with t from `first` to `last`, of S networks with at most P pieces each.

    `foot` [S, P, 2] is the point of the piece's line nearest the origin, `along` [S, P, 2] its direction, of length 1,
    `first` and `last` [S, P]. Places without a piece have ``first >= last``. All are float64.
    """

    foot: Tensor
    along: Tensor
    first: Tensor
    last: Tensor

    def gap(self, radius: float) -> Tensor:
        """The distance between the boundary and the circle of `radius` around the origin, [S]; inf without boundary."""
        foot = self.foot.norm(dim=-1)
        nearest = torch.hypot(foot, torch.minimum(torch.maximum(self.first, self.first.new_zeros(())), self.last))
        farthest = torch.hypot(foot, torch.maximum(self.first.abs(), self.last.abs()))
        return self._over_pieces(torch.maximum(nearest - radius, radius - farthest).clamp_min(0))

    def distances(self, x: Tensor) -> Tensor:
        """The distance between every point of `x` [B, 2] and the boundary, [S, B]; inf without boundary."""
        away = x.double()[:, None, None] - self.foot  # [B, S, P, 2]
        t = torch.minimum(torch.maximum((away * self.along).sum(-1), self.first), self.last)
        return self._over_pieces((away - t.unsqueeze(-1) * self.along).norm(dim=-1)).mT

    def ends(self, net: int) -> Tensor:
        """The pieces of one network by their two ends, [pieces, 2, 2]."""
        some = self.first[net] < self.last[net]
        foot, along = self.foot[net][some], self.along[net][some]
        return torch.stack([foot + t[net][some].unsqueeze(-1) * along for t in (self.first, self.last)], dim=1)

    def _over_pieces(self, distances: Tensor) -> Tensor:
        return distances.masked_fill(self.first >= self.last, torch.inf).amin(-1)


def relu_boundary(w: Tensor, b: Tensor, v: Tensor, c: Tensor, radius: float) -> Boundary:
    """Where ``v . relu(w x + b) + c`` is 0 within `radius` of the origin, for S networks at once.

    w [S, H, 2], b [S, H], v [S, H], c [S]. Under each of the 2^H patterns of units that are on, the score is affine:
    its line of zeros is clipped to the half-planes in which those units, and no others, are on. A region in which the
    score is 0 throughout has no boundary here.
    """
    w, b, v, c = (t.double() for t in (w, b, v, c))
    on = torch.tensor(list(itertools.product((0.0, 1.0), repeat=w.shape[1])), dtype=w.dtype, device=w.device)  # [P, H]
    slope, offset = torch.einsum("ph,sh,shd->spd", on, v, w), torch.einsum("ph,sh,sh->sp", on, v, b) + c[:, None]
    steepness = slope.norm(dim=-1)
    along = torch.stack((-slope[..., 1], slope[..., 0]), dim=-1) / steepness.unsqueeze(-1)
    foot = -(offset / steepness.square()).unsqueeze(-1) * slope
    # A unit's half-plane: its input at the foot plus t times its change along the line, with the sign of its state.
    sign = 2 * on - 1
    at_foot = sign * (torch.einsum("shd,spd->sph", w, foot) + b[:, None])
    change = sign * torch.einsum("shd,spd->sph", w, along)
    crossing = -at_foot / change
    reach = (radius**2 - foot.square().sum(-1)).clamp_min(0).sqrt()
    first = torch.where(change > 0, crossing, -torch.inf).amax(-1).maximum(-reach)
    last = torch.where(change < 0, crossing, torch.inf).amin(-1).minimum(reach)
    none = (steepness == 0) | ((change == 0) & (at_foot < 0)).any(-1)
    blank = foot.new_zeros(())
    return Boundary(
        torch.where(none.unsqueeze(-1), blank, foot),
        torch.where(none.unsqueeze(-1), blank, along),
        torch.where(none, blank, first),
        torch.where(none, blank, last),
    )
