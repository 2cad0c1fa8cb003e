"""Dynamic adversarial training (Wang et al.: On the Convergence and Robustness of Adversarial Training, 2019)."""

import dataclasses
from dataclasses import dataclass, field

from ..attacks import DynamicPGD
from ._method import check_weight
from .madry import Madry


@dataclass
class DAT(Madry):
    """Cross-entropy on PGD samples that stop at a quality of convergence, FOSC, which becomes stricter by the epoch.

    Args:
        attack: PGD that stops where a sample's FOSC is low enough; how low follows the two options below.
        fosc: how low in the first epoch; it falls in a line, the paper's c_max.
        fosc_epochs: epochs until it is 0, the paper's T'.
    """

    attack: DynamicPGD = field(default_factory=lambda: DynamicPGD(eps=8 / 255, alpha=2 / 255, steps=10), kw_only=True)
    fosc: float = 0.5
    fosc_epochs: int = 100

    in_epochs = ("eps_warmup", "fosc_epochs")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weight("fosc", self.fosc)
        if self.fosc_epochs < 1:
            raise ValueError(f"fosc_epochs must be at least 1, got {self.fosc_epochs}")

    def attack_in(self, epoch: int) -> DynamicPGD:
        return dataclasses.replace(self.attack, fosc=max(self.fosc * (1 - epoch / self.fosc_epochs), 0.0))
