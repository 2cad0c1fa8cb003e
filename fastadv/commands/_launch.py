"""Several processes, as ``torchrun`` starts them: the first one writes and speaks, all of them train."""

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from ..trainers import processes, rank
from ._terminal import console

T = TypeVar("T")


def launched() -> bool:
    """Whether ``torchrun`` started this process and others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


@contextmanager
def joined() -> Iterator[None]:
    """Joins the processes that ``torchrun`` started: tensors on GPUs go over NCCL, others over gloo."""
    if not launched():
        yield
        return
    on_gpus = torch.cuda.is_available()
    if on_gpus:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # They wait for the first to evaluate. That one has died, torchrun sees and says.
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpus else "gloo", timeout=timedelta(days=1))
    console.quiet = rank() > 0
    # Of convolutions of one channel, whose memory layout has two names; it costs a copy of their few weights.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    try:
        yield
    finally:
        console.quiet = False
        dist.destroy_process_group()


def broken(error: RuntimeError) -> bool:
    """Whether it says that processes cannot reach each other; gloo raises no type of its own."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)


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
