"""FGSM adversarial training (FGSM-AT)."""

from dataclasses import dataclass, field, fields

from ..attacks import FGSM
from ._adversarial import AdversarialTraining, steadier_attack
from .pgd import PGDTraining


@dataclass
class FGSMTraining(AdversarialTraining):
    """Training on clean and FGSM samples, a baseline that may fail.

    Goodfellow et al. (2015), with the Blind AT paper's budget for Fashion-MNIST. Known for catastrophic overfitting,
    after which a network is robust to FGSM alone; whether and when it comes depends on budget, network and epochs.
    """

    attack: FGSM = field(default_factory=lambda: FGSM(eps=0.1), kw_only=True)

    def steadier(self) -> PGDTraining:
        """From a random start."""
        options = {each.name: getattr(self, each.name) for each in fields(self)}
        return PGDTraining(**{**options, "attack": steadier_attack(self.attack)})
