"""What a GPU would be asked to do, counted on the CPU: launches, and times at which the host waits for the device."""

from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_NO_LAUNCH = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "lift_fresh", "resize_", "set_"}
"""They allocate memory, or say what it holds."""
_WAITS = {"_local_scalar_dense", "nonzero", "is_nonzero", "equal", "item"}
_INDEXED = {"index", "index_put", "index_put_"}
"""The host needs a value, or a size that depends on values; of an index, where it is a mask."""


class Counting(TorchDispatchMode):
    """Within it, `launches` counts every call that is neither a view nor an allocation, by name, and `waits` waits."""

    def __init__(self) -> None:
        super().__init__()
        self.launches: Counter[str] = Counter()
        self.waits = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.split("::")[1]
        arguments = [each for each in func._schema.arguments if each.alias_info is not None]
        view = bool(arguments) and not any(each.alias_info.is_write for each in arguments)
        masked = name in _INDEXED and any(mask is not None and mask.dtype == torch.bool for mask in args[1])
        if name in _WAITS or masked:
            self.waits += 1
        if not view and name not in _NO_LAUNCH:
            self.launches[name] += 1
        return func(*args, **(kwargs or {}))

    @property
    def total(self) -> int:
        return self.launches.total()
