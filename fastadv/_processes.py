"""Several processes that work together, as ``torchrun`` starts them; alone, a process is the first of one."""

from collections.abc import Callable
from typing import TypeVar

import torch.distributed as dist

T = TypeVar("T")


def processes() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this one is, from 0; the first writes and speaks."""
    return dist.get_rank() if processes() > 1 else 0


def shared(make: Callable[[], T]) -> T:
    """What `make` gives in the first process, in all of them; raises what it raises there."""
    if processes() == 1:
        return make()
    box: list[object] = [None, None]
    if rank() == 0:
        try:
            box[0] = make()
        except Exception as error:  # for all to raise
            box[1] = error
    dist.broadcast_object_list(box)
    if isinstance(box[1], Exception):
        raise box[1]
    return box[0]
