"""How the sides of a comparison are counted and timed."""

import gc
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn
from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
T = TypeVar("T")


class Counted(nn.Module):
    """`model`, counting the samples that pass through it forwards and backwards."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model, self.forwards, self.backwards = model, 0, 0

    def forward(self, x: Tensor) -> Tensor:
        logits = self.model(x)
        self.forwards += len(x)
        if logits.requires_grad:
            logits.register_hook(self._backward)
        return logits

    def _backward(self, grad: Tensor) -> None:
        self.backwards += len(grad)


class Timed(Generic[T]):
    """Something that records how long its calls take."""

    def __init__(self, call: Callable[[], T]):
        self.call = call
        self.seconds: list[float] = []

    def __call__(self) -> T:
        gc.collect()  # or one side pays for another's garbage
        start = clock()
        result = self.call()
        self.seconds.append(clock() - start)
        return result

    def median(self) -> float:
        return statistics.median(self.seconds[1:] or self.seconds)  # the first call also warms up


def peak_memory(call: Callable[[], object]) -> int:
    """The most bytes of tensors that were alive at once of those that `call` made."""
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        call()
    events = list(found.profiler.kineto_results.experimental_event_tree())
    for event in events:  # grows meanwhile
        events.extend(event.children)
    changes = [event for event in events if event.tag == _EventType.Allocation]
    live: dict[int, int] = {}
    now = most = 0
    for change in sorted(changes, key=lambda event: event.start_time_ns):
        block, size = change.extra_fields.ptr, change.extra_fields.alloc_size
        if size > 0:
            live[block] = size
        now += size if size > 0 else -live.pop(block, 0)  # what was there before does not count
        most = max(most, now)
    return most


def clock() -> float:
    """Seconds, but for those in which this thread waited for a core that others had, where Linux counts them."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    now = time.perf_counter()
    with suppress(OSError):
        now -= int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    return now
