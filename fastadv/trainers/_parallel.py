"""Several processes that share every batch (``torchrun``); all of it does nothing where there is one."""

import inspect
from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .._processes import processes, rank


def mean(values: Tensor) -> Tensor:
    """The mean of `values` [M] over the parts of a batch that all processes have, a scalar without a gradient.

    Parts may differ in size. Every process must call it as often as the others.
    """
    values = values.detach()
    if processes() == 1:
        return values.mean()
    sum_and_count = torch.stack((values.double().sum(), values.new_tensor(len(values), dtype=torch.float64)))
    dist.all_reduce(sum_and_count)
    return (sum_and_count[0] / sum_and_count[1]).to(values.dtype)


def total(value: Tensor) -> Tensor:
    """The sum of `value` over all processes, without a gradient."""
    value = value.detach()
    if processes() > 1:
        value = value.clone()
        dist.all_reduce(value)
    return value


def own_part(index: Tensor) -> Tensor:
    """Of a batch's samples `index` [B], those that this process has."""
    return index.tensor_split(processes())[rank()]


def wrapped(network: nn.Module, device: torch.device) -> nn.Module:
    """The network with gradients averaged over all processes.

    Buffers are left alone during an epoch: a network may be called several times before one backward pass, and not
    equally often by all processes. `agree` makes them one.
    """
    if processes() == 1:
        return network
    ddp = nn.parallel.DistributedDataParallel
    name = (
        "forward_sync_buffers" if "forward_sync_buffers" in inspect.signature(ddp).parameters else "broadcast_buffers"
    )
    return ddp(network, device_ids=[device] if device.type == "cuda" else None, **{name: False})


def agree(network: nn.Module) -> None:
    """Makes the network's buffers those of the first process."""
    for buffer in network.buffers():
        dist.broadcast(buffer, 0)


def agreed(values: Mapping[str, Tensor], seen: Tensor) -> dict[str, Tensor]:
    """`values` [N, ...] of samples, the same in all processes.

    A sample's entry becomes that of the process that has it `seen` [N] since the last call, which is forgotten; their
    mean where a sampler gave it to several, as it does to make parts equal.
    """
    by, found = total(seen.int()), {}
    for name, value in values.items():
        own, count = (each.view(-1, *[1] * (value.dim() - 1)) for each in (seen, by))
        theirs = total(torch.where(own, value, torch.zeros_like(value))) / count.clamp_min(1)
        found[name] = torch.where(count > 0, theirs, value)
    seen.zero_()
    return found
