"""sigma-zero, which minimises a smooth form of the number of changed entries."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .. import ops
from ._adam import ADAM, TINY, moments
from ._ascend import Rows
from ._attack import check_ranges
from ._nearest import Descent
from ._state import Nearest

_PACE = 0.01
"""By what share of the step size the threshold changes."""


@dataclass
class _Sparse(Nearest):
    """The best so far; the size of entries that count as unchanged [B]; Adam's mean and mean square, [B, ...]."""

    threshold: Tensor | None = None
    mean: Tensor | None = None
    square: Tensor | None = None


@dataclass(frozen=True)
class SigmaZero(Descent):
    """sigma-zero (Cina et al., 2025, Algorithm 1): the fewest changed entries, by descent on a smooth count of them.

    Adam minimises ``max(z_y - max_{j != y} z_j, 0) + mean(delta^2 / (delta^2 + sigma))``, whose gradient is divided by
    its largest entry; then entries of delta below a threshold become 0. The threshold rises after an adversarial point
    and falls after others. The step size falls by half a cosine, to a tenth. Samples that succeed at x are returned as
    they are; so are those that are never fooled.

    Args:
        steps: gradient steps.
        lr: Adam's first step size, as a share of the inputs' range.
        sigma: how smooth the count is, for inputs of range 1: an entry of its square root counts half.
        threshold: the first threshold, as a share of the inputs' range.
        targeted: towards the labels instead of away from them.
    """

    steps: int = 1000
    lr: float = 1.0
    sigma: float = 1e-3
    threshold: float = 0.3

    norm: ClassVar[str] = "l0"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, lr="(0, inf)", sigma="(0, inf)", threshold="[0, 1]")

    def descent(self, rows: Rows) -> Callable[[Rows, int], None]:
        state = self.begin(rows, _Sparse)
        state.threshold = torch.full_like(state.size, self.threshold)
        state.mean, state.square = moments(rows.x)
        move = ops.l0_adam_step.in_loop()

        def step(live: Rows, number: int) -> None:
            own: _Sparse = live.state
            grad, _, fooled = live.ascent("margin", kappa=0.0)
            self.keep(live, fooled)
            change = _PACE * self.lr * (0.1 + 0.9 * self.share(number))
            own.threshold = torch.where(fooled, own.threshold + change, own.threshold - change).clamp(0, 1)
            pace = self.unit * self.lr * (0.1 + 0.9 * self.share(max(1, number - 1)))
            moments, least, rate = (own.mean, own.square), self.unit * own.threshold, torch.full_like(own.size, pace)
            how = (number, self.sigma, self.unit, *ADAM, TINY, *self.bounds, None, live.nonfinite)
            move(live.x_adv, *moments, grad, live.x, least, rate, *how)

        return step
