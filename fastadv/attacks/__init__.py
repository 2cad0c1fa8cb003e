"""Attacks: frozen dataclasses of options, called as ``attack(model, x, y)``."""

from ._ascend import Model, Rows, checked_logits, classify, isolated, predicted
from ._attack import Attack, AttackResult, Ended
from ._tuned import Tuned, tuned
from .alma import ALMA
from .anpgd import ANPGD
from .apgd import APGD, APGDT, APGDRounds
from .autoattack import AutoAttack, MultiAttack
from .boundary import Boundary
from .cw import CW
from .cwlinf import CWLinf
from .ddn import DDN
from .deepfool import DeepFool
from .difgsm import DIFGSM, TIFGSM
from .dra import DRA
from .dynamic import DynamicPGD
from .ead import EAD
from .epgd import EPGD
from .fab import FAB, FABT
from .fgsm import FGSM, RFGSM
from .fmn import FMN
from .friendly import FriendlyPGD
from .hopskipjump import HopSkipJump
from .jsma import JSMA
from .mifgsm import MIFGSM
from .minimal import Minimal
from .nifgsm import NIFGSM, SINIFGSM
from .noise import Noise
from .onepixel import OnePixel
from .onestep import OneStepTargeted
from .pdgd import PDGD, PDPGD
from .pgd import EOTPGD, PGD, TPGD
from .pixle import Pixle
from .sigmazero import SigmaZero
from .spsa import SPSA
from .square import Square
from .vmifgsm import VMIFGSM, VNIFGSM

__all__ = [
    "ALMA",
    "ANPGD",
    "APGD",
    "APGDT",
    "ATTACKS",
    "CW",
    "DDN",
    "DIFGSM",
    "DRA",
    "EAD",
    "EOTPGD",
    "EPGD",
    "FAB",
    "FABT",
    "FGSM",
    "FMN",
    "JSMA",
    "MIFGSM",
    "NIFGSM",
    "PDGD",
    "PDPGD",
    "PGD",
    "RFGSM",
    "SINIFGSM",
    "SPSA",
    "TIFGSM",
    "TPGD",
    "VMIFGSM",
    "VNIFGSM",
    "APGDRounds",
    "Attack",
    "AttackResult",
    "AutoAttack",
    "Boundary",
    "CWLinf",
    "DeepFool",
    "DynamicPGD",
    "Ended",
    "FriendlyPGD",
    "HopSkipJump",
    "Minimal",
    "Model",
    "MultiAttack",
    "Noise",
    "OnePixel",
    "OneStepTargeted",
    "Pixle",
    "Rows",
    "SigmaZero",
    "Square",
    "Tuned",
    "checked_logits",
    "classify",
    "isolated",
    "predicted",
    "tuned",
]

ATTACKS: dict[str, type[Attack]] = {
    "alma": ALMA,
    "anpgd": ANPGD,
    "apgd": APGD,
    "apgdrounds": APGDRounds,
    "apgdt": APGDT,
    "autoattack": AutoAttack,
    "boundary": Boundary,
    "cw": CW,
    "cwlinf": CWLinf,
    "ddn": DDN,
    "deepfool": DeepFool,
    "difgsm": DIFGSM,
    "dra": DRA,
    "dynamic": DynamicPGD,
    "ead": EAD,
    "eotpgd": EOTPGD,
    "epgd": EPGD,
    "fab": FAB,
    "fabt": FABT,
    "fgsm": FGSM,
    "fmn": FMN,
    "friendly": FriendlyPGD,
    "hopskipjump": HopSkipJump,
    "jsma": JSMA,
    "mifgsm": MIFGSM,
    "minimal": Minimal,
    "multi": MultiAttack,
    "nifgsm": NIFGSM,
    "noise": Noise,
    "onepixel": OnePixel,
    "onestep": OneStepTargeted,
    "pdgd": PDGD,
    "pdpgd": PDPGD,
    "pgd": PGD,
    "pixle": Pixle,
    "rfgsm": RFGSM,
    "sinifgsm": SINIFGSM,
    "sigmazero": SigmaZero,
    "spsa": SPSA,
    "square": Square,
    "tifgsm": TIFGSM,
    "tpgd": TPGD,
    "vmifgsm": VMIFGSM,
    "vnifgsm": VNIFGSM,
}
