"""DeepFool adversarial training (DF-AT)."""

from dataclasses import dataclass, field

from ..attacks import Attack, DeepFool
from ._adversarial import AdversarialTraining


@dataclass
class DeepFoolTraining(AdversarialTraining):
    """Training on DeepFool samples, just beyond the boundary.

    Xie et al., section 2.2. DeepFool starts from the predicted class; the loss is on the true label. Any other attack
    that looks for the smallest perturbation can take its place, such as DDN (the paper's section 4).
    """

    attack: Attack = field(default_factory=lambda: DeepFool(steps=10, overshoot=0.02), kw_only=True)
    label: str = field(default="pred", kw_only=True)
