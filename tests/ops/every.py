"""Calls every op bare, in every type, layout and length of rows, for tools that watch memory and races.

    PYTHONPATH=tests python -m ops.every cuda 60

The second argument is how many seconds to go on for; what comes first matters most.
"""

import itertools
import math
import sys
import time
from collections.abc import Iterator

import torch
from torch import Tensor

from fastadv import ops

from .cases import DTYPES, Args
from .table import CASES, bare

SHAPES = {
    "odd": (33, 129),  # rows begin where no vector does
    "vectors": (9, 3, 8, 8),
    "held": (3, 3, 113, 113),  # 153 KB a row in float32: more than a block has without asking
    "long": (2, 3, 151, 149),  # more than a block can hold
    "none": (0, 3),
    "empty": (3, 0),
}
LAYOUTS = ("contiguous", "shifted", "channels_last", "strided")


def shifted(value: object) -> object:
    """A tensor whose memory begins one element later than an allocation."""
    if not isinstance(value, Tensor) or not value.is_contiguous():
        return value
    return value.new_empty(value.numel() + 1)[1:].view(value.shape).copy_(value)


def calls() -> Iterator[tuple[str, str, torch.dtype, str, Args]]:
    """Shape, layout, type, op and variant of every call: of every op the first variant, then the second, ..."""
    most = max(len(case.variants) for case in CASES.values())
    for place, shape, layout, dtype, op in itertools.product(range(most), SHAPES, LAYOUTS, DTYPES, CASES):
        if place < len(CASES[op].variants):
            yield shape, layout, dtype, op, CASES[op].variants[place]


def main(device: str, seconds: float = math.inf) -> dict[str, int]:
    """How often every op was called."""
    counts, ends = dict.fromkeys(CASES, 0), time.monotonic() + seconds
    for op in CASES:
        assert ops.backend(op, device) == "compiled", f"{op}: {ops.backend(op, device)}"
    for shape, layout, dtype, op, variant in calls():
        if time.monotonic() > ends:
            break
        how = {"shape": SHAPES[shape], "dtype": dtype, "layout": "contiguous" if layout == "shifted" else layout}
        args = CASES[op].arguments(variant, device=device, **how)
        if layout == "shifted":
            args = {name: shifted(value) for name, value in args.items()}
        bare(op)(**args)
        counts[op] += 1
    if device == "cuda":
        torch.cuda.synchronize()
    whole = sum(1 for _ in calls())
    print(f"{sum(counts.values())} of {whole} calls of {len(counts)} ops, the least {min(counts.values())} of one")
    return counts


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
