"""PGD adversarial training (PGD-AT)."""

from dataclasses import dataclass, field

from ..attacks import PGD
from ._adversarial import AdversarialTraining


@dataclass
class PGDTraining(AdversarialTraining):
    """Training on clean and PGD samples, as in the Blind AT paper.

    Madry et al. (2018), for Fashion-MNIST: 20 steps of eps/10, from a start uniform within eps/2.
    """

    attack: PGD = field(default_factory=lambda: PGD(eps=0.1, alpha=0.01, steps=20, random_start=0.5), kw_only=True)
