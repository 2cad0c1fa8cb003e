"""Weights that autocast needs in fewer bits, cast once an attack."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._kept import kept
from ._passes import COMPILED

_Layers = list[tuple[nn.Module, Callable[[Tensor], Tensor]]]
"""Layers, and what takes the place of their `forward`."""


@contextmanager
def casting_once(model: Callable[[Tensor], Tensor], x: Tensor) -> Iterator[None]:
    """Within it, under autocast, linear layers and convolutions of `model` take weights that were cast once an attack.

    PyTorch's autocast keeps the casts of weights that need a gradient, and only until it is left. The frozen weights of
    an attack it casts at every step: on LeNet-5, 10 of 36 launches. Nothing is kept for compiled models, whose kernels
    cast. A CUDA graph of several steps keeps casts of its own, made anew at every replay.
    """
    memory, key = kept(), ("casts", id(model))
    if memory is None or not isinstance(model, nn.Module):
        yield
        return
    if key not in memory:
        memory[key] = model, _cast_layers(model)
    _, layers = memory[key]
    for layer, forward in layers:
        vars(layer)["forward"] = forward
    try:
        yield
    finally:
        for layer, _ in layers:
            vars(layer).pop("forward", None)


def _cast_layers(model: nn.Module) -> _Layers:
    """The layers of PyTorch's own in `model` that compute with frozen float32 weights as they are."""
    modules = list(model.modules())
    if any(vars(module).get(name) or name in module._modules for module in modules for name in COMPILED):
        return []
    layers = []
    for module in modules:
        weights = [module._parameters.get(name) for name in ("weight", "bias")]
        of_torch = type(module) in (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d) and "forward" not in vars(module)
        frozen = all(each is None or (each.dtype == torch.float32 and not each.requires_grad) for each in weights)
        if of_torch and frozen and weights[0] is not None:
            layers.append((module, _with_casts(module, weights)))
    return layers


def _with_casts(layer: nn.Module, weights: list[Tensor | None]) -> Callable[[Tensor], Tensor]:
    """The forward of `layer` with casts of its `weights`, as long as these are what they are now."""
    plain, compute = layer.forward, F.linear if isinstance(layer, nn.Linear) else layer._conv_forward
    kind = weights[0].device.type
    dtype = torch.get_autocast_dtype(kind)
    casts = [each if each is None else each.to(dtype) for each in weights]
    held = [(name, each, each.detach(), each._version) for name, each in layer._parameters.items() if each is not None]

    def forward(x: Tensor) -> Tensor:
        if not torch.is_autocast_enabled(kind) or torch.get_autocast_dtype(kind) != dtype:
            return plain(x)
        for name, weight, data, version in held:  # the memory is held, so that no other data can come to lie there
            same = layer._parameters[name] is weight and weight.data_ptr() == data.data_ptr()
            if not same or weight._version != version or weight.requires_grad:
                return plain(x)
        return compute(x, *casts)

    return forward
