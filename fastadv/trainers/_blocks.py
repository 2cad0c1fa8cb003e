"""The blocks of a network, and passes through them that keep nothing for the way back but where they start."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint

from ..attacks._passes import faster_passes

_LISTS = (nn.ModuleList, nn.ModuleDict)


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The top-level modules of `model` that have modules of their own; of lists and sequences of such, those in them.

    A network within a wrapper is taken apart, too. Empty for a network of plain layers.
    """
    found: list[nn.Module] = []
    for child in model.children():
        inner = blocks_of(child) if isinstance(child, (nn.Sequential, *_LISTS)) else []
        whole = any(True for _ in child.children()) and not isinstance(child, _LISTS)
        found += inner or [child] * whole
    found = list(dict.fromkeys(found))
    return blocks_of(found[0]) or found if len(found) == 1 else found


@contextmanager
def checkpointed(model: nn.Module) -> Iterator[None]:
    """Within it, the `blocks_of` `model` keep their inputs alone, and compute the rest again in the backward pass.

    Statistics of batch norm move once. Raises ValueError for a network without blocks.
    """
    found = blocks_of(model)
    if not found:
        raise ValueError(
            f"checkpointing computes the blocks of a network twice, and {type(model).__name__} has none, only single "
            "layers: leave it out"
        )
    kinds = [type(block) for block in found]
    try:
        for block, kind in zip(found, kinds, strict=True):
            block.__class__ = type(kind.__name__, (_Checkpointed, kind), {})
        yield
    finally:
        for block, kind in zip(found, kinds, strict=True):
            block.__class__ = kind


class _Checkpointed(nn.Module):
    """Comes before the class of a block, as a class: hooks, names and copies of the block stay what they are."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        def contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
            # Both passes have to keep the same tensors, and the second is outside of what was set for the first.
            first, second = (faster_passes(args[0], self) for _ in range(2))
            return first, _Again(self, second)

        how = {"use_reentrant": False, "preserve_rng_state": self.training, "context_fn": contexts}
        return checkpoint(super().forward, *args, **how, **kwargs)


class _Again:
    """A second pass, which moves copies of the statistics of norms.

    It is entered as often as a graph is gone back through.
    """

    def __init__(self, block: nn.Module, passes: AbstractContextManager[Any]):
        self.block, self.passes, self.stack = block, passes, ExitStack()

    def __enter__(self) -> None:
        self.stack.enter_context(self.passes)
        for module in self.block.modules():
            if isinstance(module, _NormBase) and module.training and module.track_running_stats:
                self.stack.callback(module._buffers.update, dict(module._buffers))
                module._buffers.update({name: buffer.clone() for name, buffer in module._buffers.items()})

    def __exit__(self, *_: object) -> None:
        self.stack.close()
