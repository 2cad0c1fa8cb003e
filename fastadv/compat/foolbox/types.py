"""``foolbox.types``: the range of inputs, and names for annotations."""

from typing import NamedTuple, NewType

from .._names import only

__all__ = ["L0", "L1", "L2", "Bounds", "Linf", "Preprocessing"]

__getattr__, __dir__ = only(__name__, __all__)

L0, L1, L2, Linf = (NewType(name, float) for name in ("L0", "L1", "L2", "Linf"))
Preprocessing = NewType("Preprocessing", dict)


class Bounds(NamedTuple):
    """The lowest and the highest value of the inputs."""

    lower: float
    upper: float
