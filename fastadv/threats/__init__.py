"""What an adversary may do, beyond one budget for all inputs: masks, budgets and ranges a feature, the 8-bit grid,
averages over random models; perturbations of a whole data set, and patches.
"""

from ._model import ThreatModel
from ._patch import Patch
from ._universal import Universal

__all__ = ["Patch", "ThreatModel", "Universal"]
