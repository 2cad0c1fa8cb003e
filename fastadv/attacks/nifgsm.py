"""Nesterov's momentum, and gradients of darker copies."""

from dataclasses import dataclass

from torch import Tensor

from ._ascend import Rows
from ._attack import check_counts
from .mifgsm import MIFGSM


@dataclass(frozen=True)
class NIFGSM(MIFGSM):
    """MI-FGSM with Nesterov's look-ahead (Lin et al., 2020, equations 6 to 8).

    The gradient is the one at ``x_adv + alpha * decay * momentum``, which may be beyond budget and bounds. Gradients
    are normalised by their mean size, as in the published code, where the equations have the sum. Options are those of
    `MIFGSM`.
    """

    def gradient(self, live: Rows, number: int) -> Tensor:
        return live.ascent(at=self.ahead(live))[0]


@dataclass(frozen=True)
class SINIFGSM(NIFGSM):
    """NI-FGSM up the mean loss of copies whose contrast is halved again and again (Lin et al., 2020, Algorithm 1).

    Copy ``i = 0, 1, ...`` is ``lo + (x - lo) / 2^i``, with `lo` the lowest value of `bounds`, 0 where there is none;
    each takes a forward and a backward pass a step. Options beside `scales` are those of `MIFGSM`.

    Args:
        scales: how many copies there are, at least 1, the image itself among them.
    """

    scales: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, scales=1)

    def gradient(self, live: Rows, number: int) -> Tensor:
        ahead, dark = self.ahead(live), self.dark
        grad = live.ascent(at=ahead)[0]
        for i in range(1, self.scales):
            share = 0.5**i
            grad = grad.add(live.ascent(at=ahead * share + dark * (1 - share))[0], alpha=share)
        return grad
