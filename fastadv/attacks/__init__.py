"""Attacks: frozen dataclasses of options, called as ``attack(model, x, y)``."""

from ._ascend import Model, Rows, checked_logits, classify, isolated, predicted
from ._attack import Attack, AttackResult
from ._tuned import Tuned, tuned
from .anpgd import ANPGD
from .apgd import APGD, APGDT
from .autoattack import AutoAttack, MultiAttack
from .cw import CW
from .cwlinf import CWLinf
from .ddn import DDN
from .deepfool import DeepFool
from .dra import DRA
from .dynamic import DynamicPGD
from .epgd import EPGD
from .fab import FAB, FABT
from .fgsm import FGSM, RFGSM
from .friendly import FriendlyPGD
from .mifgsm import MIFGSM
from .noise import Noise
from .onestep import OneStepTargeted
from .pgd import PGD
from .square import Square

__all__ = [
    "ANPGD",
    "APGD",
    "APGDT",
    "ATTACKS",
    "CW",
    "DDN",
    "DRA",
    "EPGD",
    "FAB",
    "FABT",
    "FGSM",
    "MIFGSM",
    "PGD",
    "RFGSM",
    "Attack",
    "AttackResult",
    "AutoAttack",
    "CWLinf",
    "DeepFool",
    "DynamicPGD",
    "FriendlyPGD",
    "Model",
    "MultiAttack",
    "Noise",
    "OneStepTargeted",
    "Rows",
    "Square",
    "Tuned",
    "checked_logits",
    "classify",
    "isolated",
    "predicted",
    "tuned",
]

ATTACKS: dict[str, type[Attack]] = {
    "anpgd": ANPGD,
    "apgd": APGD,
    "apgdt": APGDT,
    "autoattack": AutoAttack,
    "cw": CW,
    "cwlinf": CWLinf,
    "ddn": DDN,
    "deepfool": DeepFool,
    "dra": DRA,
    "dynamic": DynamicPGD,
    "epgd": EPGD,
    "fab": FAB,
    "fabt": FABT,
    "fgsm": FGSM,
    "friendly": FriendlyPGD,
    "mifgsm": MIFGSM,
    "multi": MultiAttack,
    "noise": Noise,
    "onestep": OneStepTargeted,
    "pgd": PGD,
    "rfgsm": RFGSM,
    "square": Square,
}
