"""``art.attacks``: its evasion attacks."""

from ..._names import only
from . import evasion

__all__ = ["evasion"]

__getattr__, __dir__ = only(__name__, __all__)
