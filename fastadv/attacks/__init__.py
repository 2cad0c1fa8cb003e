"""Attacks: frozen dataclasses of options, called as ``attack(model, x, y)``."""

from ._ascend import Model, checked_logits, isolated
from ._attack import Attack, AttackResult
from .cw import CW
from .cwlinf import CWLinf
from .deepfool import DeepFool
from .dra import DRA
from .epgd import EPGD
from .fab import FAB
from .fgsm import FGSM
from .friendly import FriendlyPGD
from .mifgsm import MIFGSM
from .noise import Noise
from .onestep import OneStepTargeted
from .pgd import PGD

__all__ = [
    "ATTACKS",
    "CW",
    "DRA",
    "EPGD",
    "FAB",
    "FGSM",
    "MIFGSM",
    "PGD",
    "Attack",
    "AttackResult",
    "CWLinf",
    "DeepFool",
    "FriendlyPGD",
    "Model",
    "Noise",
    "OneStepTargeted",
    "checked_logits",
    "isolated",
]

ATTACKS: dict[str, type[Attack]] = {
    "cw": CW,
    "cwlinf": CWLinf,
    "deepfool": DeepFool,
    "dra": DRA,
    "epgd": EPGD,
    "fab": FAB,
    "fgsm": FGSM,
    "friendly": FriendlyPGD,
    "mifgsm": MIFGSM,
    "noise": Noise,
    "onestep": OneStepTargeted,
    "pgd": PGD,
}
