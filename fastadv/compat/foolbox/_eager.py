"""EagerPy's tensors, told by the tensor that they hold as `raw`: EagerPy itself is not needed."""

from collections.abc import Callable
from typing import Any

from torch import Tensor


def plain(value: Any) -> Any:
    """The tensor within one of EagerPy; anything else as it is."""
    return getattr(value, "raw", value)


def kind(value: Any) -> Callable[[Tensor], Any]:
    """What makes a tensor one of the kind of `value`, EagerPy's or PyTorch's."""
    return type(value) if hasattr(value, "raw") else lambda tensor: tensor
