"""Training methods, and `fit`, which trains a network by any of them."""

from ._adversarial import AdversarialTraining, AttackMethod
from ._fit import Batch, Method, check_settings, fit
from .bilateral import Bilateral
from .blind import Blind
from .deepfool import DeepFoolTraining
from .fgsm import FGSMTraining
from .pgd import PGDTraining
from .standard import Standard

__all__ = [
    "METHODS",
    "AdversarialTraining",
    "AttackMethod",
    "Batch",
    "Bilateral",
    "Blind",
    "DeepFoolTraining",
    "FGSMTraining",
    "Method",
    "PGDTraining",
    "Standard",
    "check_settings",
    "fit",
]

METHODS: dict[str, type[Method]] = {
    "bilateral": Bilateral,
    "blind": Blind,
    "deepfool": DeepFoolTraining,
    "fgsm": FGSMTraining,
    "pgd": PGDTraining,
    "standard": Standard,
}
