"""A model's gradients computed the fastest way there is here: chosen by measuring."""

import itertools
import logging
import statistics
import time
from collections.abc import Callable, Hashable, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from ..losses import cross_entropy
from ..models.adapted import logits_of, own_loss
from ._ascend import Model, checked_logits, isolated
from ._casts import casting_once
from ._graphs import Graphs
from ._passes import COMPILED


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
        graphs: whether attacks on a GPU run as CUDA graphs: all steps of one of fixed length, a few steps of one whose
            samples leave. They are for eighths of the largest batch; each is recorded when it is first needed, which
            takes as long as a few runs. Weights may change in place, as optimisers change them.
    """

    def __init__(
        self,
        model: Model,
        *,
        memory_format: torch.memory_format | None = None,
        dtype: torch.dtype | None = None,
        compiled: bool = False,
        graphs: bool = False,
    ):
        super().__init__()
        if dtype not in (None, torch.bfloat16, torch.float16):
            raise ValueError(f"Tuned: dtype must be torch.bfloat16, torch.float16 or None, got {dtype}")
        self.model, self.memory_format, self.dtype = model, memory_format, dtype
        self.compiled, self.graphs = compiled, Graphs() if graphs else None
        self._ways: dict[object, Model] = {"run": torch.compile(model) if compiled else model}  # no more submodules

    def forward(self, x: Tensor) -> Tensor:
        if self.memory_format is not None and x.dim() == 4:
            x = x.to(memory_format=self.memory_format)
        if self.training or not (x.requires_grad and torch.is_grad_enabled()):
            return logits_of(self.model, x)
        way = self._ways["run"]
        autocast = torch.autocast(x.device.type, self.dtype, self.dtype is not None)
        with autocast, casting_once(way, x) if self.dtype else nullcontext():
            return logits_of(way, x).to(x.dtype)

    def extra_repr(self) -> str:
        names = ("memory_format", "dtype", "compiled")
        return ", ".join([*(f"{name}={getattr(self, name)}" for name in names), f"graphs={self.graphs is not None}"])


def tuned(model: Model, x: Tensor, *, bf16: bool = False, compiled: bool = False, rounds: int = 5) -> Tuned:
    """`model` with the way of computing gradients that is fastest here on samples like `x`, found by timing all.

    Memory formats are always tried: they change rounding only. `bf16` and `compiled` allow those as well, see `Tuned`.
    Takes `rounds` + 1 gradients of each way, in turns; the first round does not count.
    """
    formats = (torch.contiguous_format, torch.channels_last) if x.dim() == 4 else (None,)
    dtypes = (None, torch.bfloat16) if bf16 else (None,)
    ways = [
        Tuned(model, memory_format=memory_format, dtype=dtype, compiled=way)
        for way, dtype, memory_format in itertools.product((False, True)[: 1 + compiled], dtypes, formats)
    ]
    medians = _medians(ways, x, rounds)
    return ways[medians.index(min(medians))]


FORMATS: dict[str, torch.memory_format] = {
    "preserve": torch.preserve_format,
    "contiguous": torch.contiguous_format,
    "channels_last": torch.channels_last,
}

_WORTH = 50  # what a run must take of what timing takes, so that timing is at most 2 % of it
_ROUNDS, _SAMPLES = 5, 128
_timed_before: dict[Hashable, str] = {}
_log = logging.getLogger("fastadv")


def laid_out(x: Tensor, memory_format: str) -> Tensor:
    """`x` in one of `FORMATS`; other samples than images [B, C, H, W] as they are."""
    return x.to(memory_format=FORMATS[memory_format]) if x.dim() == 4 else x


def check_format(memory_format: str) -> None:
    """Raises ValueError for what is neither ``auto`` nor one of `FORMATS`."""
    if memory_format not in ("auto", *FORMATS):
        raise ValueError(f"memory_format must be one of auto, {', '.join(FORMATS)}, got {memory_format!r}")


def chosen_format(model: Model, shape: Sequence[int], dtype: torch.dtype, device: torch.device, gradients: int) -> str:
    """Which of `FORMATS` attacks on `model` are fastest in, for samples of `shape` (without the batch).

    Found by timing where the run takes so many `gradients` of samples that this is at most a fiftieth of it; otherwise
    ``preserve``, as for a loss of the user's own. Timed once a process for networks of one description, a shape, a
    dtype and a device; the result goes to the log ``fastadv``. Torch's generators are left as they are. Compiled models
    are not timed: that compiles them.
    """
    names = [name for name in FORMATS if name != "preserve"]
    known = len(shape) == 3 and isinstance(model, nn.Module) and not (_compiled(model) or own_loss(model))
    if not known or gradients < _WORTH * len(names) * (_ROUNDS + 1) * _SAMPLES:
        return "preserve"
    sizes = tuple(tuple(p.shape) for p in model.parameters())
    key = repr(model), sizes, tuple(shape), dtype, str(device), torch.get_num_threads()
    if key not in _timed_before:
        x = torch.rand(_SAMPLES, *shape, generator=torch.Generator().manual_seed(0)).to(device, dtype)
        ways = [Tuned(model, memory_format=FORMATS[name]) for name in names]
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            seconds = dict(zip(names, _medians(ways, x, _ROUNDS), strict=True))
        first, other = sorted(seconds, key=seconds.get)
        _timed_before[key] = first
        share = seconds[first] / seconds[other]
        _log.info(f"images are {first}: gradients take {share:.2f} of the time that they take in {other}")
    return _timed_before[key]


def _compiled(model: nn.Module) -> bool:
    return any(getattr(module, name, None) for module in model.modules() for name in COMPILED)


def _medians(ways: Sequence[Tuned], x: Tensor, rounds: int) -> list[float]:
    """Seconds of a gradient by each of `ways`, timed in turns; the first round does not count."""
    times: list[list[float]] = [[] for _ in ways]
    for _ in range(rounds + 1):
        for way, seconds in zip(ways, times, strict=True):
            seconds.append(_timed(way, x))
    return [statistics.median(seconds[1:] or seconds) for seconds in times]


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
