"""Fast adversarial training (Wong, Rice and Kolter: Fast Is Better Than Free, 2020), FGSM-RS."""

from dataclasses import dataclass, field

from ..attacks import PGD
from .madry import Madry


@dataclass
class FGSMRS(Madry):
    """Fast AT: samples of one step from a random start.

    The step is 1.25 eps long, the start uniform in the ball. It takes one gradient a sample beside those of the
    training step. At larger budgets or in longer runs it can overfit catastrophically all the same: see `guard` of
    `fit`.
    """

    attack: PGD = field(default_factory=lambda: PGD(eps=8 / 255, alpha=10 / 255, steps=1), kw_only=True)
