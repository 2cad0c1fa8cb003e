"""Geometry-aware instance-reweighted adversarial training (Zhang et al., 2021)."""

import dataclasses
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..attacks import DynamicPGD, FriendlyPGD, Rows
from ..losses import wide
from ._adversarial import steadier_attack
from ._method import altered
from ._parallel import mean
from ._weighted import WeightedTraining


@dataclass
class GAIRAT(WeightedTraining):
    """GAIRAT: samples that are easily attacked weigh more.

    The fewer steps PGD takes to have a sample misclassified, the higher its weight. With kappa, how many of the points
    before each of the K steps are classified correctly, the weight is ``(1 + tanh(lam + 5 (1 - 2 kappa / K))) / 2``,
    the logistic function of the same, or ``(K + 1 - kappa) / (K + 1)``; divided by its mean over the batch.

    Args:
        attack: PGD that counts its steps. Its `tau` is at least `steps`, so that none stops.
        weighting: function of the weights: tanh, sigmoid, discrete.
        lam: evenness of the weights. The higher, the more alike they are.
        burn_in: first epochs, in which all weights are 1.
    """

    attack: FriendlyPGD = field(
        default_factory=lambda: FriendlyPGD(eps=8 / 255, alpha=0.007, steps=10, tau=10), kw_only=True
    )
    weighting: str = "tanh"
    lam: float = -1.0
    burn_in: int = 59

    whole_batch = "weights are divided by their mean over it"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weighting not in ("tanh", "sigmoid", "discrete"):
            raise ValueError(f"weighting must be one of tanh, sigmoid, discrete, got {self.weighting!r}")
        if self.attack.tau < self.attack.steps or isinstance(self.attack, DynamicPGD):
            raise ValueError(
                f"the attack must not stop: it must be FriendlyPGD with a tau of its {self.attack.steps} steps, got "
                f"{self.attack!r}"
            )

    def steadier(self) -> "GAIRAT":
        """With a step more, at which nothing stops either."""
        attack = steadier_attack(self.attack)
        return altered(self, attack=dataclasses.replace(attack, tau=max(attack.tau, attack.steps)))

    def weights(self, rows: Rows, logits: Tensor) -> Tensor:
        steps = self.attack.steps
        kappa = steps - (self.attack.tau - rows.state.tau).to(wide(logits).dtype)
        if self.weighting == "discrete":
            weights = (steps + 1 - kappa) / (steps + 1)
        else:
            closeness = self.lam + 5 * (1 - 2 * kappa / steps)
            # (1 + tanh(c)) / 2 is sigmoid(2 c), which does not round to 0.
            weights = torch.sigmoid(closeness if self.weighting == "sigmoid" else 2 * closeness)
        return weights / mean(weights)
