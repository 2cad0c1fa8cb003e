"""MeanSparse: features near their mean become the mean, in a network that is trained already."""

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.SiLU, nn.GELU)
BACKWARD = ("exact", "identity")


class MeanSparse(nn.Module):
    """Features [B, C, ...] of which values within ``alpha * std`` of their channel's mean become the mean.

    Amini et al. (MeanSparse: Post-Training Robustness Enhancement Through Mean-Centered Feature Sparsification, 2024).

    Args:
        mean: of each channel, [C].
        std: standard deviation of each channel, [C].
        alpha: how far from the mean values are replaced, in standard deviations; 0 replaces nothing.
        backward: the gradient where values are replaced: ``exact`` is 0, as published; ``identity`` passes the gradient
            through as if nothing were replaced, for attacks that this would stop.

    Raises ValueError for options out of range.
    """

    def __init__(self, mean: Tensor, std: Tensor, alpha: float, backward: str = "exact"):
        super().__init__()
        if not alpha >= 0:
            raise ValueError(f"MeanSparse: alpha must not be negative, got {alpha}")
        if backward not in BACKWARD:
            raise ValueError(f"MeanSparse: backward must be one of {', '.join(BACKWARD)}, got {backward!r}")
        self.alpha, self.backward = alpha, backward
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, x: Tensor) -> Tensor:
        mean, std = (each.view(-1, *[1] * (x.dim() - 2)) for each in (self.mean, self.std))
        found = torch.where((x - mean).abs() < self.alpha * std, mean, x)
        return found if self.backward == "exact" else x + (found - x).detach()

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}, backward={self.backward!r}"


def mean_sparse(
    model: nn.Module, batches: Iterable[Tensor | Sequence[Tensor]], alpha: float, *, backward: str = "exact"
) -> nn.Module:
    """A copy of the trained `model` with `MeanSparse` before each activation.

    Args:
        model: a network whose activations are modules (`ReLU`, `LeakyReLU`, `SiLU` or `GELU`), each called once in a
            forward pass, on features [B, C] or [B, C, H, W].
        batches: training samples [B, ...], or (samples, ...) as a loader or ``Dataset.batches`` gives; the means and
            standard deviations of the features are computed of all together, in eval mode.
        alpha: see `MeanSparse`.
        backward: see `MeanSparse`.

    Raises ValueError for other networks and for options out of range.
    """
    MeanSparse(torch.zeros(1), torch.zeros(1), alpha, backward)  # refuses options before the work
    model = copy.deepcopy(model)
    modes = [(layer, layer.training) for layer in model.modules()]
    places = {name: layer for name, layer in model.named_modules() if name and isinstance(layer, ACTIVATIONS)}
    if not places:
        known = ", ".join(kind.__name__ for kind in ACTIVATIONS)
        raise ValueError(f"mean_sparse: {type(model).__name__} has no activation that is a module of {known}")
    sums = {name: _Sums(name) for name in places}
    hooks = [layer.register_forward_pre_hook(sums[name].see) for name, layer in places.items()]
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    model.eval()
    with torch.no_grad():
        for batch in batches:
            for each in sums.values():
                each.calls = 0
            model((batch if isinstance(batch, Tensor) else batch[0]).to(device))
    for hook in hooks:
        hook.remove()
    for name in places:
        if sums[name].count:  # an activation that is not used has no features
            insert(model, name, MeanSparse(*sums[name].moments(), alpha, backward))
    for layer, mode in modes:
        layer.training = mode
    return model


def insert(model: nn.Module, name: str, sparse: MeanSparse) -> None:
    """Puts `sparse` before the activation called `name` in `model`. Raises ValueError where there is none."""
    layer = dict(model.named_modules()).get(name)
    if not isinstance(layer, ACTIVATIONS):
        raise ValueError(f"MeanSparse stands before activations, and {type(model).__name__} has none called {name!r}")
    model.set_submodule(name, nn.Sequential(sparse, layer))


class _Sums:
    """Sums over the features that come to an activation, by channel, in double precision."""

    def __init__(self, name: str):
        self.name, self.calls, self.count = name, 0, 0
        self.first: Any = 0.0
        self.second: Any = 0.0
        self.dtype = torch.float32

    def see(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        (x,) = inputs
        self.calls += 1
        if self.calls > 1:
            raise ValueError(
                f"mean_sparse: the activation {self.name} is called several times in a forward pass, on different "
                "features: give each place a module of its own"
            )
        if x.dim() not in (2, 4):
            raise ValueError(
                f"mean_sparse: the activation {self.name} has features {[*x.shape]}: [B, C] or [B, C, H, W] are wanted"
            )
        rest = [dim for dim in range(x.dim()) if dim != 1]
        values = x.double()
        self.first, self.second = self.first + values.sum(rest), self.second + values.square().sum(rest)
        self.count, self.dtype = self.count + x.numel() // x.shape[1], x.dtype

    def moments(self) -> tuple[Tensor, Tensor]:
        """The mean and the standard deviation of each channel, [C]."""
        mean = self.first / self.count
        std = (self.second / self.count - mean.square()).clamp_min(0).sqrt()
        return mean.to(self.dtype), std.to(self.dtype)
