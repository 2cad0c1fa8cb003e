"""Dynamic adversarial training (Wang et al.: On the Convergence and Robustness of Adversarial Training, 2019)."""

import dataclasses
from dataclasses import dataclass, field

from ..attacks import DynamicPGD
from ._method import check_weight
from .madry import Madry


@dataclass
class DAT(Madry):
    """Dynamic AT: attacks converge better with every epoch.

    The loss is cross-entropy on the attacked samples.

    Args:
        attack: PGD that stops at a low enough FOSC. How low follows the two options below.
        fosc: threshold in the first epoch, the paper's c_max. It falls linearly.
        fosc_epochs: epochs until the threshold is 0, the paper's T'.
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
