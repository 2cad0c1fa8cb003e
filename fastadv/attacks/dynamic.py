"""Dynamic adversarial training's attack: PGD to a given quality of convergence."""

from dataclasses import dataclass

from torch import Tensor

from .. import ops
from ..losses import wide
from ._ascend import Rows
from .friendly import FriendlyPGD


@dataclass(frozen=True)
class DynamicPGD(FriendlyPGD):
    """PGD that stops where a sample is stationary enough (Wang et al., 2019: DAT).

    Its measure is FOSC, the first-order stationary condition ``c(x_adv) = eps * |g|_1 - <x_adv - x, g>``,
    with the gradient g of the cross-entropy: how much the loss could still rise in the ball if it were linear, never
    negative, and 0 at its corner. Every sample makes the first step. As in `FriendlyPGD`, whose options are here too,
    `AttackResult.grads` counts the steps that were made.

    Args:
        fosc: samples stop once their c is not above this; the lower, the more adversarial. Negative never stops.
        tau: steps after the first misclassification, as in friendly adversarial training; by default no sample stops
            for that.
    """

    tau: int | Tensor = 1_000_000
    fosc: float = 0.0

    def converged(self, live: Rows, grad: Tensor) -> Tensor:
        moved = ((live.x_adv - live.x) * wide(grad)).flatten(1).sum(1)
        return live.eps * ops.row_norms(grad, "l1") - moved <= self.fosc
