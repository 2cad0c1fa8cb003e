"""Gradients corrected by those of neighbours: variance tuning."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .. import ops
from ._ascend import Rows
from ._attack import check_counts, check_ranges
from .mifgsm import MIFGSM, Momentum


@dataclass
class _Tuned(Momentum):
    """And by how much the next gradient is corrected, [B, ...]."""

    correction: Tensor


@dataclass(frozen=True)
class VMIFGSM(MIFGSM):
    """MI-FGSM with variance tuning (Wang and He, 2021, Algorithm 1).

    Every gradient is corrected by how far the mean gradient of random neighbours was from the gradient itself, a step
    before. A step takes ``1 + neighbours`` forward and backward passes. Gradients are normalised by their
    mean size, as in the published code, where the algorithm has the sum. Options beside the two below are those of
    `MIFGSM`.

    Args:
        neighbours: how many are drawn for a step, at least 1, uniformly and with no regard to the bounds.
        beta: how far they are from `x_adv` in every entry at the most, as a multiple of `eps`.
    """

    neighbours: int = 5
    beta: float = 1.5

    is_random: ClassVar[bool] = True
    repeats: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, neighbours=1)
        check_ranges(self, beta="[0, inf)")

    def memory(self, x: Tensor) -> Momentum:
        return _Tuned(torch.zeros_like(x), torch.zeros_like(x))

    def gradient(self, live: Rows, number: int) -> Tensor:
        own, nearby = live.ascent(at=self.point(live))[0], torch.zeros_like(live.x)
        for draw in range(number * self.neighbours, (number + 1) * self.neighbours):
            how = (self.beta * live.eps, self.seed, draw, "uniform", -math.inf, math.inf)
            nearby += live.ascent(at=ops.random_start(live.x_adv, live.ids, *how))[0]
        grad = own + live.state.correction
        live.state.correction = (nearby / self.neighbours).sub_(own)
        return grad

    def point(self, live: Rows) -> Tensor:
        """Where the gradient itself is taken, [B, ...]."""
        return live.x_adv


@dataclass(frozen=True)
class VNIFGSM(VMIFGSM):
    """NI-FGSM with variance tuning (Wang and He, 2021): `VMIFGSM` whose gradient is at the look-ahead.

    That is ``x_adv + alpha * decay * momentum``; neighbours are those of `x_adv`, as in the published code. Options are
    those of `VMIFGSM`.
    """

    def point(self, live: Rows) -> Tensor:
        return self.ahead(live)
