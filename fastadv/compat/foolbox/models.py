"""``foolbox.models``: a PyTorch model with the range of its inputs."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...attacks import checked_logits, isolated
from .._models import of_model
from .._names import only
from ._eager import kind, plain
from .types import Bounds

__all__ = ["Model", "PyTorchModel"]

__getattr__, __dir__ = only(__name__, __all__)


class _Preprocessed(nn.Module):
    """`model` behind a flip of the axis `flip`, if any, and ``(x - mean) / std``."""

    def __init__(self, model: nn.Module, mean: Tensor, std: Tensor, flip: int | None):
        super().__init__()
        self.model, self.flip = model, flip
        like = next(model.parameters(), torch.empty(0))
        self.register_buffer("mean", mean.to(like), persistent=False)
        self.register_buffer("std", std.to(like), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(((x if self.flip is None else x.flip(self.flip)) - self.mean) / self.std)


class _Called(nn.Module):
    """A model of foolbox's, or of its kind, as a module: with the modules that it calls, as far as they are seen."""

    def __init__(self, model: Any):
        super().__init__()
        self.seen, self.call = nn.ModuleList(_modules(model)), model

    def forward(self, x: Tensor) -> Tensor:
        return self.call(x)


def _modules(model: Any) -> list[nn.Module]:
    """The modules within a model of foolbox's, where its functions and wrappers hold them."""
    if isinstance(model, nn.Module):
        return [model]
    within = getattr(model, "_model", None)
    held = inspect.getclosurevars(within).nonlocals.values() if inspect.isfunction(within) else [within]
    return [module for value in held if value is not None for module in _modules(value)]


class Model(ABC):
    """A function of inputs within `bounds`, to logits. Attacks take anything of that kind."""

    bounds: Bounds

    @abstractmethod
    def __call__(self, inputs: Any) -> Any:
        """The logits [B, K] at `inputs`, a tensor of PyTorch or EagerPy, of the same kind."""


class PyTorchModel(Model):
    """A module with the `bounds` of its inputs and their `preprocessing`; it is called in eval mode.

    `preprocessing` may have ``mean`` and ``std``, numbers or tensors that broadcast; with ``axis``, which counts from
    the end, they are one number for each place along it. ``flip_axis`` is turned round before. Raises ValueError for
    other keys, another `axis`, or a model that is no module.
    """

    data_format = "channels_first"

    def __init__(
        self,
        model: nn.Module,
        bounds: tuple[float, float],
        device: torch.device | str | None = None,
        preprocessing: Mapping[str, Any] | None = None,
    ):
        if not isinstance(model, nn.Module):
            raise ValueError(f"PyTorchModel: model must be a torch.nn.Module, got {type(model).__name__}")
        how = {"mean": None, "std": None, "axis": None, "flip_axis": None, **(preprocessing or {})}
        if unknown := how.keys() - {"mean", "std", "axis", "flip_axis"}:
            raise ValueError(
                f"PyTorchModel: preprocessing may have mean, std, axis and flip_axis, got {', '.join(unknown)}"
            )
        self._given = model if device is None else model.to(device)
        self._flip = how["flip_axis"]
        self._mean = _broadcast("mean", how["mean"], how["axis"], 0.0)
        self._std = _broadcast("std", how["std"], how["axis"], 1.0)
        self.model = _Preprocessed(self._given, self._mean, self._std, self._flip)
        self.bounds = Bounds(*map(float, bounds))

    def __call__(self, inputs: Any) -> Any:
        x = plain(inputs)
        with isolated(self.model), torch.set_grad_enabled(x.requires_grad):
            return kind(inputs)(checked_logits(self.model, x))

    @property
    def device(self) -> torch.device:
        parameter = of_model(self.model)
        return torch.device("cpu") if parameter is None else parameter.device

    def transform_bounds(self, bounds: tuple[float, float]) -> "PyTorchModel":
        """The same model for inputs that are stretched to other `bounds`."""
        (low, high), (lowest, highest) = self.bounds, map(float, bounds)
        share = (highest - lowest) / (high - low)
        how = {"mean": lowest + share * (self._mean - low), "std": share * self._std, "flip_axis": self._flip}
        return PyTorchModel(self._given, bounds, preprocessing=how)


def _broadcast(name: str, value: Any, axis: int | None, default: float) -> Tensor:
    """The preprocessing's `value` with dimensions of 1 behind `axis`."""
    tensor = torch.as_tensor(plain(default if value is None else value), dtype=torch.float64)
    if axis is None or value is None:
        return tensor
    if axis >= 0 or tensor.dim() != 1:
        raise ValueError(
            f"PyTorchModel: axis counts from the end, -3 for the channels, of a {name} with one number each; got axis "
            f"{axis} and {name} of shape {tuple(tensor.shape)}"
        )
    return tensor.view(-1, *[1] * (-axis - 1))


def of_foolbox(fmodel: Any) -> PyTorchModel:
    """`fmodel` itself where it is ours; foolbox's own, or anything like it, by its call and its bounds.

    Raises TypeError for what has neither.
    """
    if isinstance(fmodel, PyTorchModel):
        return fmodel
    if not callable(fmodel) or not hasattr(fmodel, "bounds"):
        raise TypeError(f"model must be a PyTorchModel, or have bounds and be called; got {type(fmodel).__name__}")
    return PyTorchModel(_Called(fmodel), fmodel.bounds)
