"""A model's gradients computed the fastest way there is here: chosen by measuring."""

import itertools
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from ..losses import cross_entropy
from ._ascend import Model, checked_logits, isolated, passes_again
from ._casts import casting_once


class Tuned(nn.Module):
    """`model` with another way of computing the gradients of attacks.

    Only forward passes in eval mode whose input needs a gradient run in another dtype, compiled or as a graph: an
    attack moves by them, and is judged on the model itself.

    Args:
        model: samples to logits.
        memory_format: what images [B, C, H, W] are laid out in, or None.
        dtype: what autocast computes gradients in, or None. bfloat16 hardly weakens attacks on the cross-entropy or the
            margin; it spoils those that start next to x on the divergence from the prediction there (TRADES, SPAT).
        compiled: whether ``torch.compile`` runs.
        buckets: batch sizes to capture CUDA graphs for, from small to large; a batch is filled up to the next one, and
            a larger batch is not replayed, nor are passes that give several gradients (DeepFool, FAB). A graph reads
            the weights where they were when it was captured: change them in place only, as optimisers do.
    """

    def __init__(
        self,
        model: Model,
        *,
        memory_format: torch.memory_format | None = None,
        dtype: torch.dtype | None = None,
        compiled: bool = False,
        buckets: tuple[int, ...] = (),
    ):
        super().__init__()
        if dtype not in (None, torch.bfloat16, torch.float16):
            raise ValueError(f"Tuned: dtype must be torch.bfloat16, torch.float16 or None, got {dtype}")
        if list(buckets) != sorted(set(buckets)) or any(size < 1 for size in buckets):
            raise ValueError(f"Tuned: buckets must be batch sizes from small to large, got {buckets}")
        self.model, self.memory_format, self.dtype = model, memory_format, dtype
        self.compiled, self.buckets = compiled, buckets
        self._ways: dict[object, Model] = {"run": torch.compile(model) if compiled else model}  # no more submodules

    def forward(self, x: Tensor) -> Tensor:
        if self.memory_format is not None and x.dim() == 4:
            x = x.to(memory_format=self.memory_format)
        if self.training or not (x.requires_grad and torch.is_grad_enabled()):
            return self.model(x)
        replays = x.is_cuda and not passes_again.get()
        size = next((size for size in self.buckets if size >= len(x) > 0), None) if replays else None
        return self._logits(x) if size is None else self._replayed(x, size)

    def _logits(self, x: Tensor) -> Tensor:
        way = self._ways["run"]
        # Graphs must not hold what autocast keeps between passes.
        autocast = torch.autocast(x.device.type, self.dtype, self.dtype is not None, cache_enabled=not self.buckets)
        with autocast, casting_once(way, x) if self.dtype else nullcontext():
            return way(x).to(x.dtype)

    def _replayed(self, x: Tensor, size: int) -> Tensor:
        full = torch.cat([x, x[-1:].expand(size - len(x), *x.shape[1:])])
        key = (full.shape, full.dtype, full.stride(), full.device)
        if key not in self._ways:
            self._ways[key] = torch.cuda.make_graphed_callables(self._logits, (full.detach().requires_grad_(),))
        return self._ways[key](full)[: len(x)]

    def extra_repr(self) -> str:
        names = ("memory_format", "dtype", "compiled", "buckets")
        return ", ".join(f"{name}={getattr(self, name)}" for name in names)


def tuned(model: Model, x: Tensor, *, bf16: bool = False, compiled: bool = False, rounds: int = 5) -> Tuned:
    """`model` with the way of computing gradients that is fastest here on samples like `x`, found by timing all.

    Memory formats are always tried: they change rounding only. `bf16` and `compiled` allow those as well, see `Tuned`.
    Takes `rounds` + 1 gradients of each way, in turns; the first round does not count.
    """
    formats = (None, torch.channels_last) if x.dim() == 4 else (None,)
    dtypes = (None, torch.bfloat16) if bf16 else (None,)
    ways = [
        Tuned(model, memory_format=memory_format, dtype=dtype, compiled=way)
        for way, dtype, memory_format in itertools.product((False, True)[: 1 + compiled], dtypes, formats)
    ]
    times: list[list[float]] = [[] for _ in ways]
    for _ in range(rounds + 1):
        for way, seconds in zip(ways, times, strict=True):
            seconds.append(_timed(way, x))
    medians = [statistics.median(seconds[1:] or seconds) for seconds in times]
    return ways[medians.index(min(medians))]


def _timed(model: Tuned, x: Tensor) -> float:
    finish: Callable[[], None] = torch.cuda.synchronize if x.is_cuda else lambda: None
    with isolated(model):
        leaf = x.detach().requires_grad_()
        finish()
        started = time.perf_counter()
        logits = checked_logits(model, leaf)
        torch.autograd.grad(cross_entropy(logits, logits.detach().argmax(dim=1)).sum(), leaf)
        finish()
        return time.perf_counter() - started
