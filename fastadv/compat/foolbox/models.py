"""``foolbox.models``: a PyTorch model with the range of its inputs."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .._models import logits_at, normalised
from .._names import only

__all__ = ["PyTorchModel"]

__getattr__, __dir__ = only(__name__, __all__)


class PyTorchModel:
    """`model` with the `bounds` of its inputs and their `preprocessing`: mean, std and axis -3, the channels."""

    def __init__(
        self,
        model: nn.Module,
        bounds: tuple[float, float],
        device: torch.device | str | None = None,
        preprocessing: Mapping[str, Any] | None = None,
    ):
        how = {"mean": 0.0, "std": 1.0, "axis": -3, **(preprocessing or {})}
        if unknown := how.keys() - {"mean", "std", "axis"}:
            raise ValueError(f"PyTorchModel: preprocessing may have mean, std and axis, got {', '.join(unknown)}")
        mean, std = (torch.as_tensor(how[name]).flatten() for name in ("mean", "std"))
        if how["axis"] != -3 and max(len(mean), len(std)) > 1:
            raise ValueError(f"PyTorchModel: the axis of the channels must be -3, got {how['axis']}")
        size = max(len(mean), len(std))
        self.model = normalised(model if device is None else model.to(device), mean.expand(size), std.expand(size))
        self.bounds = (float(bounds[0]), float(bounds[1]))

    def __call__(self, inputs: Tensor) -> Tensor:
        """The logits at `inputs`, as attacks see them."""
        return logits_at(self.model, inputs)
