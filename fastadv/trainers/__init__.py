"""Training methods, and `fit`, which trains a network by any of them."""

from .._processes import processes, rank
from ._adversarial import AdversarialTraining, AttackMethod, PairedTraining
from ._fit import Stopped, fit
from ._method import Batch, Method, Source
from ._parallel import mean
from ._settings import Settings
from .alp import ALP
from .bilateral import Bilateral
from .blind import Blind
from .cat import CAT
from .dat import DAT
from .deepfool import DeepFoolTraining
from .dkl import DKL
from .dra import DRAFineTuning
from .fgsm import FGSMTraining
from .fgsm_pgi import FGSMPGI
from .fgsm_rs import FGSMRS
from .free import FreeAT
from .friendly import Friendly, FriendlyMART, FriendlyTRADES
from .gairat import GAIRAT
from .grad_align import GradAlign
from .liet import LIET
from .madry import Madry
from .mail import MAIL, MAILTRADES
from .mart import MART
from .mma import MMA
from .n_fgsm import NFGSM
from .pgd import PGDTraining
from .smd import SMD
from .spat import SPAT
from .standard import Standard
from .trades import TRADES

__all__ = [
    "ALP",
    "CAT",
    "DAT",
    "DKL",
    "FGSMPGI",
    "FGSMRS",
    "GAIRAT",
    "LIET",
    "MAIL",
    "MAILTRADES",
    "MART",
    "METHODS",
    "MMA",
    "NFGSM",
    "SMD",
    "SPAT",
    "TRADES",
    "AdversarialTraining",
    "AttackMethod",
    "Batch",
    "Bilateral",
    "Blind",
    "DRAFineTuning",
    "DeepFoolTraining",
    "FGSMTraining",
    "FreeAT",
    "Friendly",
    "FriendlyMART",
    "FriendlyTRADES",
    "GradAlign",
    "Madry",
    "Method",
    "PGDTraining",
    "PairedTraining",
    "Settings",
    "Source",
    "Standard",
    "Stopped",
    "fit",
    "mean",
    "processes",
    "rank",
]

METHODS: dict[str, type[Method]] = {
    "alp": ALP,
    "bilateral": Bilateral,
    "blind": Blind,
    "cat": CAT,
    "dat": DAT,
    "deepfool": DeepFoolTraining,
    "dkl": DKL,
    "dra": DRAFineTuning,
    "fgsm": FGSMTraining,
    "fgsm_pgi": FGSMPGI,
    "fgsm_rs": FGSMRS,
    "free": FreeAT,
    "friendly": Friendly,
    "friendly_mart": FriendlyMART,
    "friendly_trades": FriendlyTRADES,
    "gairat": GAIRAT,
    "grad_align": GradAlign,
    "liet": LIET,
    "madry": Madry,
    "mail": MAIL,
    "mail_trades": MAILTRADES,
    "mart": MART,
    "mma": MMA,
    "n_fgsm": NFGSM,
    "pgd": PGDTraining,
    "smd": SMD,
    "spat": SPAT,
    "standard": Standard,
    "trades": TRADES,
}
