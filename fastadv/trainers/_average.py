"""The moving average of a network's weights and buffers, and batch norm's statistics for it."""

import functools
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
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


@torch.no_grad()
def recalibrate(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Gives batch norm in `network` the statistics of `batches` of samples [B, ...], their means over the batches.

    Of Izmailov et al. (Averaging Weights Leads to Wider Optima, 2018): the averages of statistics are not those of the
    network with averaged weights. Other layers are in eval mode meanwhile; all modes are as before then.
    """
    norms = [layer for layer in network.modules() if isinstance(layer, _BatchNorm) and layer.track_running_stats]
    if not norms:
        return
    modes = [(layer, layer.training) for layer in network.modules()]
    momenta = [layer.momentum for layer in norms]
    network.eval()
    for layer in norms:
        layer.reset_running_stats()
        layer.momentum = None  # a mean with equal weights
        layer.train()
    for x in batches:
        network(x)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum
    for layer, mode in modes:
        layer.training = mode
