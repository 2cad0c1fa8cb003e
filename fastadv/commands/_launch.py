"""Several processes, as ``torchrun`` starts them: the first one writes and speaks, all of them train."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from .._processes import rank
from ._terminal import console


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
