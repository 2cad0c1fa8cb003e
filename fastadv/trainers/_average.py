"""The moving average of a network's weights and buffers."""

import functools

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of `model`, buffers with it, which moves at each ``update_parameters``."""
    return AveragedModel(model, multi_avg_fn=functools.partial(_moved, decay), use_buffers=True)


def _moved(decay: float, averages: list[Tensor], now: list[Tensor], _: Tensor) -> None:
    """Moves averages towards what is now; of whole numbers, as counts and indices are, there is no average."""
    if averages[0].is_floating_point():
        torch._foreach_lerp_(averages, now, 1 - decay)
    else:
        torch._foreach_copy_(averages, now)
