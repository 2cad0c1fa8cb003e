"""Friendly adversarial training (Zhang et al., 2020: Attacks Which Do Not Kill Training ...), for three losses."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field

from ..attacks import FriendlyPGD
from ._adversarial import AttackMethod
from ._method import Source, check_epochs
from .madry import Madry
from .mart import MART
from .trades import TRADES

Schedule = list[int] | Callable[[int], int]


@dataclass
class _Friendly(AttackMethod):
    """A method whose attack stops a sample `tau` steps after it is first misclassified, with a tau that rises.

    With an ``attack.tau`` of ``attack.steps`` and no ``attack.omega`` it is the method that it varies.

    Args:
        attack: friendly PGD (PGD-K-tau).
        tau_schedule: epochs after which tau rises by one. It starts at ``attack.tau``, and stays there where there are
            none. A function gives tau for an epoch, counted from 1.
    """

    attack: FriendlyPGD = field(kw_only=True)
    tau_schedule: Schedule = field(kw_only=True)

    in_epochs = ("eps_warmup", "tau_schedule")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.tau_schedule):
            check_epochs("tau_schedule", self.tau_schedule)

    def begin(self, train: Source, seed: int | None, epochs: int) -> None:
        super().begin(train, seed, epochs)
        for epoch in range(epochs):
            self.attack_in(epoch)  # raises for a tau that cannot be, before training and not in the midst of it

    def attack_in(self, epoch: int) -> FriendlyPGD:
        if callable(self.tau_schedule):
            return dataclasses.replace(self.attack, tau=self.tau_schedule(epoch + 1))
        return dataclasses.replace(self.attack, tau=self.attack.tau + sum(epoch >= rise for rise in self.tau_schedule))


@dataclass
class Friendly(_Friendly, Madry):
    """FAT: friendly samples, which are only just misclassified.

    The loss is cross-entropy (Algorithm 2).
    """

    attack: FriendlyPGD = field(
        default_factory=lambda: FriendlyPGD(eps=8 / 255, alpha=0.007, steps=10, omega=0.001), kw_only=True
    )
    tau_schedule: Schedule = field(default_factory=lambda: [50, 90], kw_only=True)


@dataclass
class FriendlyTRADES(_Friendly, TRADES):
    """FAT for TRADES: the divergence at friendly samples.

    Equation 9; Algorithm 4 prints the clean term with x_adv.
    """

    attack: FriendlyPGD = field(
        default_factory=lambda: FriendlyPGD(eps=8 / 255, alpha=0.007, steps=10, random_start="gaussian", loss="kl"),
        kw_only=True,
    )
    tau_schedule: Schedule = field(default_factory=lambda: [30, 50, 70], kw_only=True)


@dataclass
class FriendlyMART(_Friendly, MART):
    """FAT for MART: its loss on friendly samples.

    Equation 11 and Algorithm 5.
    """

    attack: FriendlyPGD = field(
        default_factory=lambda: FriendlyPGD(eps=8 / 255, alpha=0.007, steps=10, random_start="gaussian"),
        kw_only=True,
    )
    tau_schedule: Schedule = field(default_factory=lambda: [20, 40, 60, 80], kw_only=True)
