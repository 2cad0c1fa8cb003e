"""Fast adversarial training (Wong, Rice and Kolter: Fast Is Better Than Free, 2020), FGSM-RS."""

from dataclasses import dataclass, field

from ..attacks import PGD
from .madry import Madry


@dataclass
class FGSMRS(Madry):
    """Training on samples of one step of 1.25 eps from a random start in the ball.

    One gradient a sample beside those of the training step. It can overfit catastrophically all the same, at larger
    budgets or in longer runs: `collapse` of `fit` ends such a run, with a figure of PGD to watch.
    """

    attack: PGD = field(default_factory=lambda: PGD(eps=8 / 255, alpha=10 / 255, steps=1), kw_only=True)
