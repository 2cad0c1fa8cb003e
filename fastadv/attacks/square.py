"""The Square attack, which asks for nothing but logits."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from typing import ClassVar

import torch
from torch import Tensor

from .. import ops
from ._ascend import STEPS, Rows, ascend, numbers
from ._attack import Attack, Budget, check_budgets, check_choice, check_counts, check_ranges
from ._state import State

_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""After which queries the share of pixels in a window is halved; published for 10,000, and used as it is for fewer."""
_ORDERS = {"l2": 2, "l1": 1}
"""Of the norms that bumps have."""


@dataclass
class _Margin(State):
    """The best margin so far, [B]."""

    margin: Tensor


@dataclass(frozen=True)
class Square(Attack):
    """Random search by square windows (Andriushchenko et al., 2020); uses no gradients.

    Every query changes one window of the best point so far: to plus or minus eps in each channel (``linf``,
    Algorithm 2), or by moving the perturbation of another window into it (``l2``, Algorithm 3; ``l1``, Croce and Hein,
    2021, where a projection then takes off what is beyond ball or box). It is kept if the margin falls. A sample that
    succeeds is finished. Windows are a query's, the same for all samples, and so are signs in ``linf``; the other signs
    and the starts are a sample's own.
    Samples [B, D] and [B, C, D] have windows in their last dimension (``linf``).

    Args:
        eps: budget in `norm`, in the units of the inputs; a number or one a sample.
        queries: forward passes, after the first.
        p: share of the pixels in a window to begin with.
        restarts: how many starts are tried.
        norm: ``linf``; or ``l2`` or ``l1``, which need images of at least 3 x 3 pixels.
        targeted: towards the labels instead of away from them.
    """

    eps: Budget = 8 / 255
    queries: int = 5000
    p: float = 0.8
    restarts: int = 1
    norm: str = field(default="linf", kw_only=True)
    targeted: bool = field(default=False, kw_only=True)

    is_random: ClassVar[bool] = True
    repeats: ClassVar[bool] = False
    ends_early: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "norm", self.norm, tuple(STEPS))
        check_budgets(self, "eps")
        check_counts(self, queries=0, restarts=1)
        check_ranges(self, p="(0, 1]")

    def perturb(self, rows: Rows) -> None:
        if self.norm != "linf" and (rows.x.dim() != 4 or min(rows.x.shape[2:]) < 3):
            shape = tuple(rows.x.shape)
            raise ValueError(
                f"Square: norm {self.norm} needs images [B, C, H, W] of at least 3 x 3 pixels, got {shape}"
            )
        rows.eps = ops.per_sample("Square", "eps", self.eps, rows.x)
        bumps = cache(lambda *how: _bumps(*how, _ORDERS[self.norm]).to(rows.x.device, rows.eps.dtype))  # a copy a size
        start, move = _stripes, self._paint
        if self.norm != "linf":
            start, move = partial(_tiles, bumps), partial(self._carry, bumps)
        for restart, part, _ in rows.rounds(range(self.restarts)):
            part.x_adv = self._within(part, self.unit * start(part, self.seed, 2 * restart))
            part.state = _Margin(torch.full_like(part.eps, -torch.inf))
            _, going = self._judged(part)
            queries, draw = self._numbers(rows.x, 2 * restart + 1), 2 * self.restarts + restart * self.queries

            def query(live: Rows, number: int, queries: Iterator = queries, draw: int = draw) -> Tensor:
                share, places, signs = next(queries)
                if self.norm != "linf":
                    signs = _signs(live, (*live.x.shape[:2], 1, 1), self.seed, draw + number)
                return move(live, share, places, signs)

            ascend(self, part, self.queries, query, going)

    def _paint(self, live: Rows, share: float, places: list[float], signs: Tensor) -> Tensor:
        """A window becomes x plus or minus eps; only the window is written, and put back where it was no better."""
        height, width = _size(live.x)
        side = max(round(math.sqrt(share * height * width)), 1)
        tall = min(height, side if side <= width else round(share * height))
        wide = min(width, side if side <= height else round(share * width))
        window = _window(places[0], places[1], tall, wide, live.x)
        before = live.x_adv[window].clone()
        painted = torch.addcmul(live.x[window], ops.as_rows(live.eps, live.x), signs).clamp_(*self.bounds)
        live.x_adv[window] = painted.to(live.x.dtype)
        better, going = self._judged(live)
        live.x_adv[window] = torch.where(ops.as_rows(better, live.x), live.x_adv[window], before)
        return going

    def _carry(self, bumps: Callable, live: Rows, share: float, places: list[float], signs: Tensor) -> Tensor:
        """The perturbation of two windows, and what is left of eps, goes into one, in the shape of two bumps.

        Each channel gets its own of the two, and an equal part of what is left. In L1, so much for every channel, which
        leaves the projection few entries.
        """
        here, delta, order = live.x_adv, (live.x_adv - live.x).to(live.eps.dtype), _ORDERS[self.norm]
        height, width = _size(live.x)
        side = min(max(round(math.sqrt(share * height * width)), 3) | 1, (min(height, width) - 1) | 1)  # odd
        to, source = (_window(*corner, side, side, live.x) for corner in (places[:2], places[2:4]))
        union = torch.zeros(height, width, dtype=delta.dtype, device=delta.device)
        union[to[-2:]] = union[source[-2:]] = 1
        sizes = delta.abs().pow(order)
        carried = (sizes * union).sum(dim=(2, 3), keepdim=True)
        left = (ops.as_rows(live.eps, here) ** order - sizes.sum(dim=(1, 2, 3), keepdim=True)).clamp(min=0)
        new = bumps(side, places[4] < 0.5) * signs + _unit(delta[to], order)
        channels = delta.shape[1]
        size = (left / channels + carried).sqrt() if order == 2 else left + channels * carried
        new = _unit(new, order) * size
        delta[source] = 0
        delta[to] = new
        live.x_adv = self._within(live, delta)
        better, going = self._judged(live)
        live.x_adv = torch.where(ops.as_rows(better, here), live.x_adv, here)
        return going

    def _within(self, live: Rows, delta: Tensor) -> Tensor:
        """`x` plus `delta` at its full size, eps, in ball and box; in L1 the nearest point to it in both."""
        none, no_size = torch.zeros_like(live.x), torch.zeros_like(live.eps)
        if self.norm == "l1":
            point = torch.empty_like(live.x).copy_(live.x + delta)
            ops.sparse_l1_step(point, none, live.x, no_size, live.eps, no_size, *self.bounds)
            return point
        delta = ops.as_rows(live.eps / ops.row_norms(delta, self.norm).clamp(min=1e-12), delta) * delta
        point = torch.empty_like(live.x).copy_((live.x + delta).clamp(*self.bounds))
        STEPS[self.norm](point, none, live.x, no_size, live.eps, *self.bounds)
        return point

    def _judged(self, live: Rows) -> tuple[Tensor, Tensor]:
        """Whether `x_adv` is better than the best so far, which it then is, and who is not fooled yet."""
        _, losses, fooled = live.loss_gradient(live.scores(), "margin", kappa=0.0)
        return ops.accept(live.state.margin, losses.to(live.state.margin.dtype), fooled, live.active)

    def _numbers(self, x: Tensor, draw: int) -> Iterator[tuple[float, list[float], Tensor]]:
        """For every query: the share of pixels in a window, five numbers in (0, 1), and a sign for each channel."""
        channels = x.shape[1] if x.dim() > 2 else 1
        table = numbers(torch.arange(self.queries), (5 + channels,), self.seed, draw)
        signs = (table[:, 5:] - 0.5).sign().to(x.device, x.dtype).view(-1, channels, *[1] * max(0, x.dim() - 2))
        for query, places in enumerate(table[:, :5].tolist()):
            yield self.p / 2 ** sum(query > past for past in _HALVINGS), places, signs[query]


def _size(x: Tensor) -> tuple[int, int]:
    """Height and width of a sample; one that is no image has one row."""
    return (x.shape[-2] if x.dim() > 3 else 1), x.shape[-1]


def _window(down: float, across: float, tall: int, wide: int, x: Tensor) -> tuple:
    """The index of a window of tall x wide, whose place is given by two numbers in (0, 1)."""
    height, width = _size(x)
    top, left = int(down * (height - tall + 1)), int(across * (width - wide + 1))
    columns = slice(left, left + wide)
    return (..., slice(top, top + tall), columns) if x.dim() > 3 else (..., columns)


def _stripes(rows: Rows, seed: int, draw: int) -> Tensor:
    """Vertical stripes of random signs."""
    first = rows.x.narrow(-2, 0, 1) if rows.x.dim() > 3 else rows.x
    return _signs(rows, first.shape, seed, draw).expand(rows.x.shape)


def _tiles(bumps: Callable[[int, bool], Tensor], rows: Rows, seed: int, draw: int) -> Tensor:
    """A grid of five by five bumps, or of as many as have three pixels a side, of random signs and turned at random."""
    height, width = _size(rows.x)
    side = max(min(height, width) // 5, 3)
    down, across = height // side, width // side
    top, left = (height - side * down) // 2, (width - side * across) // 2
    images, channels = rows.x.shape[:2]
    signs, turned = _signs(rows, (images, channels + 1, down, across), seed, draw).split([channels, 1], dim=1)
    delta = torch.zeros_like(rows.x, dtype=signs.dtype)
    tiles = sum(torch.kron(signs * (turned == way), bumps(side, way > 0)) for way in (-1, 1))
    delta[:, :, top : top + side * down, left : left + side * across] = tiles
    return delta


def _signs(rows: Rows, shape: tuple[int, ...], seed: int, draw: int) -> Tensor:
    nothing = torch.zeros(shape, dtype=rows.eps.dtype, device=rows.x.device)
    return ops.random_start(nothing, rows.ids, 1.0, seed, draw, "sign", -1.0, 1.0)


def _bumps(side: int, turned: bool, order: int = 2) -> Tensor:
    """Two bumps of opposite sign, one above the other or side by side, of unit norm (L1 or L2), [side, side]."""
    upper, lower = _bump(side // 2, side, order), _bump(side - side // 2, side, order)
    both = torch.cat([upper, -lower])
    both = both / both.norm(order)
    return both.T.contiguous() if turned else both


def _bump(height: int, width: int, order: int) -> Tensor:
    """Rings of equal value around the middle: the sum of 1 / k^2, in L1 of 1 / k^4, from ring to rim. Unit norm."""
    down, across = (torch.arange(n) - n // 2 for n in (height, width))
    ring = torch.maximum(down.abs().unsqueeze(1), across.abs().unsqueeze(0))
    rings = max(height, width) // 2 + 1
    weights = torch.arange(1, rings + 1, dtype=torch.float64) ** (-4 if order == 1 else -2)
    bump = weights.flip(0).cumsum(0).flip(0)[ring]
    return bump / bump.norm(order)


def _unit(window: Tensor, order: int) -> Tensor:
    """Each channel of each sample at unit norm (L1 or L2)."""
    return window / torch.linalg.vector_norm(window, order, dim=(2, 3), keepdim=True).clamp(min=1e-12)
