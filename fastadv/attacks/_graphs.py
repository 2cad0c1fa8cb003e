"""Steps of attacks as CUDA graphs: recorded once, and replayed on other samples of the same shape."""

import dataclasses
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ._kept import keeping

_MOST = 256
"""So many graphs are kept for a model, before all are given up."""


def graphs_of(model: object, x: Tensor) -> "Graphs | None":
    """The graphs of a model that has any, for samples on a GPU."""
    return getattr(model, "graphs", None) if x.is_cuda else None


def recorded(run: Callable[[], None], practise: Callable[[], None], pool: Any) -> Callable[[], None]:
    """`run` as a CUDA graph: what repeats it on its memory. `practise`, done before, is the same on other memory."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):  # libraries that set themselves up at a first call do so now
        practise()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    # Other threads, of loaders for example, may go on with what a recording must not do.
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        run()
    return graph.replay


class Graphs:
    """The graphs of one model, in one pool of memory.

    One is kept for every attack, segment of its steps, shape of the rows, and place of the model's weights in memory:
    weights may change in place, as optimisers change them. What is frozen is cast to fewer bits once a replay.
    """

    def __init__(self) -> None:
        self._kept: dict[Any, _Graph] = {}
        self._pool: Any = None
        self._lock = threading.Lock()
        self._largest = 0

    def __reduce__(self) -> tuple:
        return Graphs, ()

    def size(self, count: int) -> int:
        """How large a batch of so many rows is made: a number of eighths of the largest there was."""
        self._largest = max(self._largest, count)
        eighths = -(-8 * count // max(1, self._largest))
        return -(-eighths * self._largest // 8)

    def run(self, attack: Any, live: Any, numbers: range, steps: Callable[[Any], None]) -> None:
        """``steps(live)``, of the rows `live`: the steps `numbers` of `attack`."""
        options = [getattr(attack, field.name) for field in dataclasses.fields(attack) if field.name != "seed"]
        shapes = [(name, t.shape, t.dtype, t.device) for name, t in live.columns().items()]
        weights = [*live.model.parameters(), *live.model.buffers()]
        key = (
            type(attack),
            tuple(option for option in options if not isinstance(option, Tensor)),
            numbers,
            tuple(shapes),
            tuple(weight.data_ptr() for weight in weights),
        )
        with self._lock:
            if key not in self._kept:
                if len(self._kept) >= _MOST:
                    self._kept.clear()
                if self._pool is None and live.x.is_cuda:
                    self._pool = torch.cuda.graph_pool_handle()
                self._kept[key] = _Graph(live, steps, self._pool)
            self._kept[key](live)


class _Graph:
    def __init__(self, live: Any, steps: Callable[[Any], None], pool: Any):
        self._static = live.twin()
        self._given = self._static.columns()
        practice, before = live.twin(), self._static.made

        def run() -> None:
            with keeping(anew=True):
                steps(self._static)

        self._replay = recorded(run, lambda: steps(practice), pool)
        self._made = self._static.made - before

    def __call__(self, live: Any) -> None:
        columns = live.columns()
        torch._foreach_copy_(list(self._given.values()), [columns[key] for key in self._given])
        self._replay()
        given = {(0, name) for name in live.GIVEN if name != "active"}
        found = {key: t for key, t in self._static.columns().items() if key not in given}
        copies = [torch.empty_like(t) for t in found.values()]
        torch._foreach_copy_(copies, list(found.values()))
        live.change(dict(zip(found, copies, strict=True)))
        live.made += self._made
        live.log.extend(self._static.log)
