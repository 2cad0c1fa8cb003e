"""What attacks share that ask for nothing but decisions: where they start, and the way to the boundary."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from .. import ops
from ._ascend import Rows, numbers
from ._attack import check_counts, check_finite_bounds
from ._nearest import MinimumNorm

_HALVINGS = 10  # of the way from noise to x, before an attack begins


@dataclass(frozen=True)
class DecisionAttack(MinimumNorm):
    """An attack that starts from a point of the wanted class, and comes nearer to x by the predicted class alone."""

    starts: Tensor | None = field(default=None, kw_only=True)
    tries: int = field(default=100, kw_only=True)
    targeted: bool = field(default=False, kw_only=True)

    is_random: ClassVar[bool] = True
    repeats: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, tries=0)

    def start(self, rows: Rows) -> Tensor:
        """Moves `x_adv` to where the attack starts; gives who has a start and needs one, [B].

        It is the given start where that succeeds, or the first success among uniform noise; then as near to x, on the
        line between, as bisection shows that it still succeeds. Others stay at x.
        """
        check_finite_bounds(self)
        part, where = rows.unfooled()
        started = torch.zeros_like(rows.nonfinite)
        for draw in range(-1, self.tries):
            if len(where) == 0:
                break
            if draw >= 0:
                lo, hi = self.bounds
                noise = numbers(part.ids, part.x.shape[1:], self.seed, draw)
                point = part.point(lo + (hi - lo) * noise, self.bounds)
            elif self.starts is not None:
                point = part.point(self._given(rows)[where], self.bounds)
            else:
                continue
            fooled = part.fooled_at(point)
            rows.queries[where] += 1
            rows.x_adv[where[fooled]], started[where[fooled]] = point[fooled], True
            part, where = part.take(~fooled), where[~fooled]
        index = started.nonzero().squeeze(1)
        part = rows.take(index)
        part.x_adv = to_boundary(part, self.bounds, "l2", _HALVINGS)
        rows.put(index, part)
        return started

    def _given(self, rows: Rows) -> Tensor:
        name, shape = type(self).__name__, tuple(rows.x.shape)
        if self.starts.shape != rows.x.shape:
            raise ValueError(f"{name}: starts must hold a start a sample, {shape}, got {tuple(self.starts.shape)}")
        return self.starts.to(rows.x)


def to_boundary(live: Rows, bounds: tuple[float, float], norm: str, halvings: int) -> Tensor:
    """The nearest point to x that bisection finds of the wanted class, on the way from `x_adv`, which is: [B, ...].

    The way is a line, or for ``linf`` the projections on ever smaller balls around x.
    """
    far = found = live.x_adv
    reach = ops.as_rows(ops.row_norms(far, norm, live.x), far)
    most = torch.ones_like(live.y, dtype=torch.float64)
    least = torch.zeros_like(most)
    for _ in range(halvings if len(far) else 0):
        share = (least + most) / 2
        part = ops.as_rows(share, far)
        ball = part * reach
        point = torch.clamp(far, live.x - ball, live.x + ball) if norm == "linf" else live.x + part * (far - live.x)
        point = live.point(point, bounds)
        fooled = live.fooled_at(point)
        found = torch.where(ops.as_rows(fooled, far), point, found)
        least, most = torch.where(fooled, least, share), torch.where(fooled, share, most)
    return found
