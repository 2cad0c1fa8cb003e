"""FGSM adversarial training (FGSM-AT)."""

from dataclasses import dataclass, field

from ..attacks import FGSM
from ._adversarial import AdversarialTraining


@dataclass
class FGSMTraining(AdversarialTraining):
    """Training on clean and FGSM samples, a baseline that fails.

    Goodfellow et al. (2015), with the Blind AT paper's budget for Fashion-MNIST. Known to fail by catastrophic
    overfitting: robust to FGSM alone. It is here as the baseline that shows it.
    """

    attack: FGSM = field(default_factory=lambda: FGSM(eps=0.1), kw_only=True)
