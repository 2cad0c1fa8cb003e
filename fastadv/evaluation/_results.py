"""What an evaluation gives: every sample's outcome, and the figures that follow from them."""

import math
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from ..attacks import Attack
from ._curve import AACurve


def wilson(count: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The Wilson score interval, (low, high), of a share of which `count` of `n` were seen (Wilson, 1927).

    It is what chance in drawing the test samples leaves open; nothing else that could differ is in it.
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = count / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(frozen=True, eq=False)
class Outcome:
    """Which samples are classified correctly: `right` [N] bool, on the CPU."""

    right: Tensor

    @property
    def accuracy(self) -> float:
        return float(self.right.double().mean())

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% Wilson interval of the accuracy."""
        return wilson(int(self.right.sum()), len(self.right))


@dataclass(frozen=True, eq=False)
class Result(Outcome):
    """A model under one attack.

    `sizes` [N]: of the perturbations, RMS. `grads` [N] int64: gradients that the attack took. `seconds`: of all batches
    together. `curve`: AA(eps) of an attack that looks for the smallest perturbation, whose `accuracy` is that at full
    strength.
    """

    attack: Attack
    sizes: Tensor
    grads: Tensor
    seconds: float
    curve: AACurve | None = None

    @property
    def norm(self) -> float:
        """The mean size of the perturbations, RMS."""
        return float(self.sizes.double().mean())

    @property
    def median_norm(self) -> float:
        """The median size of the perturbations, RMS."""
        return float(self.sizes.double().quantile(0.5))


@dataclass(frozen=True)
class Finding:
    """What speaks against trusting an evaluation: which `check` found it, what it means and what to do."""

    check: str
    text: str


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What `evaluate` found on `data`: the `natural` outcome, a `Result` for each attack, and the `findings` of checks.

    `label`: what the attacks moved away from.
    """

    data: str
    label: str
    natural: Outcome
    results: dict[str, Result]
    findings: tuple[Finding, ...] = ()

    @property
    def samples(self) -> int:
        return len(self.natural.right)

    @property
    def clean(self) -> float:
        """The accuracy without any attack."""
        return self.natural.accuracy

    @property
    def worst(self) -> Outcome | None:
        """Samples that are right clean and under every attack with a budget; None where those are fewer than two."""
        budgeted = [result.right for result in self.results.values() if result.attack.has_budget]
        return Outcome(torch.stack([self.natural.right, *budgeted]).all(0)) if len(budgeted) > 1 else None
