"""``foolbox.utils``: accuracy, and foolbox's own images."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ...attacks import predicted
from .._names import only
from ._eager import plain
from .models import of_foolbox

__all__ = ["accuracy", "samples"]

__getattr__, __dir__ = only(__name__, __all__)


def accuracy(fmodel: Any, inputs: Any, labels: Any) -> float:
    """The share of `inputs` [B, ...] that `fmodel` classifies as `labels` [B]."""
    return (predicted(of_foolbox(fmodel)(plain(inputs))) == plain(labels)).double().mean().item()


def samples(
    fmodel: Any,
    dataset: str = "imagenet",
    index: int = 0,
    batchsize: int = 1,
    shape: tuple[int, int] = (224, 224),
    data_format: str | None = None,
    bounds: tuple[float, float] | None = None,
) -> tuple[Tensor, Tensor]:
    """Images [B, C, H, W] that come with foolbox, which must be installed, and their labels [B], where `fmodel` is.

    The options are foolbox's. Raises ImportError without foolbox.
    """
    try:
        from eagerpy import astensor
        from foolbox import utils
    except ImportError as error:
        raise ImportError("samples are images of the package foolbox: pip install foolbox") from error
    model = of_foolbox(fmodel)
    place = SimpleNamespace(
        data_format="channels_first", bounds=model.bounds, dummy=astensor(torch.zeros(0, device=model.device))
    )
    return utils.samples(place, dataset, index, batchsize, shape, data_format, bounds)
