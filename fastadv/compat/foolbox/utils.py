"""``foolbox.utils``: accuracy."""

from torch import Tensor

from ...attacks import predicted
from .._names import only
from .models import PyTorchModel

__all__ = ["accuracy"]

__getattr__, __dir__ = only(__name__, __all__)


def accuracy(fmodel: PyTorchModel, inputs: Tensor, labels: Tensor) -> float:
    """The share of `inputs` [B, ...] that `fmodel` classifies as `labels` [B]."""
    return (predicted(fmodel(inputs)) == labels).double().mean().item()
