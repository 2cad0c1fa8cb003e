"""Networks trained in shards (FSDP2), and attacked whole."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._processes import processes
from ._blocks import blocks_of


class Sharded(nn.Module):
    """`model` under fully sharded data parallelism: gradients and what optimisers remember exist once, in parts.

    In train mode, passes run on `shards`, which gather a block where it is needed; all processes must make the same. In
    eval mode, in which attacks are, they run on `whole`, the model itself, which `gather` refreshes: processes make as
    many as they like. Both have the same buffers. `around` says how either computes, as under autocast.
    """

    def __init__(self, model: nn.Module, around: Callable[[nn.Module], nn.Module]):
        from torch.distributed.device_mesh import init_device_mesh  # these take seconds, and few need them
        from torch.distributed.fsdp import fully_shard

        super().__init__()
        with torch.no_grad():
            for tensor in (*model.parameters(), *model.buffers()):  # as DistributedDataParallel begins, too
                torch.distributed.broadcast(tensor.detach(), 0)
        self.whole, shards = around(model), copy.deepcopy(model)
        for own, other in zip(model.modules(), shards.modules(), strict=True):
            other._buffers.update(own._buffers)
        mesh = init_device_mesh(next(model.parameters()).device.type, (processes(),))
        for block in blocks_of(shards):
            fully_shard(block, mesh=mesh)
        self.shards = around(fully_shard(shards, mesh=mesh, reshard_after_forward=True))

    def forward(self, x: Tensor) -> Any:
        return self.shards(x) if self.training else self.whole(x)

    @torch.no_grad()
    def gather(self) -> None:
        """The weights of the shards become those of the model, in one exchange. Every process must call it."""
        whole, count = list(self.whole.parameters()), processes()
        rows = [-(-len(weight) // count) for weight in whole]  # of each process, but that the last ones have fewer
        sizes = [row * weight[:1].numel() for row, weight in zip(rows, whole, strict=True)]
        mine = torch.cat(
            [
                F.pad(shard.to_local().flatten(), (0, size - shard.to_local().numel()))
                for shard, size in zip(self.shards.parameters(), sizes, strict=True)
            ]
        )
        every = mine.new_empty(count * len(mine))
        torch.distributed.all_gather_into_tensor(every, mine)
        for weight, found in zip(whole, every.view(count, -1).split(sizes, dim=1), strict=True):
            weight.copy_(found.reshape(-1)[: weight.numel()].view_as(weight))

    @torch.no_grad()
    def scatter(self) -> None:
        """The weights of the model become those of the shards."""
        for whole, shard in zip(self.whole.parameters(), self.shards.parameters(), strict=True):
            shard.copy_(parted(whole, shard))

    def adopt(self, descent: torch.optim.Optimizer) -> None:
        """An optimiser of the model's weights, which has made no step, becomes one of the shards."""
        of = dict(zip(self.whole.parameters(), self.shards.parameters(), strict=True))
        for group in descent.param_groups:
            group["params"] = [of[weight] for weight in group["params"]]
            if isinstance(descent, torch.optim.SGD):
                group["fused"] = False  # there is no such step of shards


def parted(value: Tensor, like: Tensor) -> Tensor:
    """`value`, the same in all processes, in shards as those of `like`."""
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def remembered(state: Mapping[int, dict[str, Any]], descent: torch.optim.Optimizer) -> dict[int, dict[str, Any]]:
    """What an optimiser with whole tensors remembers of each weight, in shards as `descent` has them."""
    weights = dict(enumerate(weight for group in descent.param_groups for weight in group["params"]))
    return {
        number: {
            name: parted(value, weights[number])
            if isinstance(value, Tensor) and value.shape == weights[number].shape
            else value
            for name, value in values.items()
        }
        for number, values in state.items()
    }
