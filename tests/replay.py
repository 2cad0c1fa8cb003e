"""A stand-in for CUDA graphs on the CPU: what was called once is called again, on the memory that it had then."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

_WAITS = {"_local_scalar_dense", "nonzero", "is_nonzero", "equal"}


class Recording(TorchDispatchMode):
    """Notes every call with its arguments, and gives each result memory that it keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, list[Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.split("::")[1]
        if name in _WAITS:
            raise RuntimeError(f"{name} makes the host wait for the device, which a CUDA graph cannot record")
        out = func(*args, **(kwargs or {}))
        results = [each for each in pytree.tree_leaves(out) if isinstance(each, Tensor)]
        self.calls.append((func, args, kwargs or {}, results))
        return out

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, results in self.calls:
            again = [each for each in pytree.tree_leaves(func(*args, **kwargs)) if isinstance(each, Tensor)]
            for kept, new in zip(results, again, strict=True):
                if kept.data_ptr() != new.data_ptr() and kept.numel():
                    kept.copy_(new)


def recorded(run: Callable[[], None], practise: Callable[[], None], pool: Any) -> Callable[[], None]:
    """What `fastadv.attacks._graphs.recorded` does on a GPU."""
    practise()
    with Recording() as recording:
        run()
    return recording.replay
