"""Attacks: frozen dataclasses of options, called as ``attack(model, x, y)``."""

from ._ascend import Model, checked_logits, isolated
from ._attack import Attack, AttackResult
from .deepfool import DeepFool
from .fgsm import FGSM
from .noise import Noise
from .pgd import PGD

__all__ = [
    "ATTACKS",
    "FGSM",
    "PGD",
    "Attack",
    "AttackResult",
    "DeepFool",
    "Model",
    "Noise",
    "checked_logits",
    "isolated",
]

ATTACKS: dict[str, type[Attack]] = {
    "deepfool": DeepFool,
    "fgsm": FGSM,
    "noise": Noise,
    "pgd": PGD,
}
