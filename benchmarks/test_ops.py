"""Each op against its reference in eager mode, the reference under torch.compile, the form usually written by hand, and
a copy of as many bytes as the op has to move, in one run; every side is checked against the op first.

`make bench` runs this and prints the table of ratios (benchmarks/table.py). On a GPU, with 300 MB and long rows, too.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fastadv import ops

from .ops import CASES, Case
from .timing import DEVICE, clock

# torch.compile warns about its own insides; a side that is skipped leaves its timer unused.
pytestmark = pytest.mark.filterwarnings("default")

LARGE = [(24576, 3, 32, 32), (64, 3, 224, 224), (8, 1, 1000, 1000)]  # rows that a block holds, and longer ones
SHAPES = [(128, 3, 32, 32), *(LARGE if DEVICE == "cuda" else [(512, 3, 32, 32)])]
TOGETHER = 2e-3  # seconds of calls for one synchronisation, on a GPU


def test_every_op_is_measured() -> None:
    assert {case.op for case in CASES} == set(ops.OPS)


def results(function: Callable, args: tuple) -> list[Tensor]:
    """What a call leaves in its arguments and returns."""
    args = tuple(a.clone() if isinstance(a, Tensor) else a for a in args)
    returned = function(*args)
    tensors = [a for a in args if isinstance(a, Tensor)]
    return tensors + list(returned if isinstance(returned, tuple) else [returned] * (returned is not None))


def assert_same(function: Callable, case: Case, args: tuple) -> None:
    fused = results(getattr(torch.ops.fastadv, case.op), args)
    for a, b in zip(fused, results(function, args), strict=True):
        same = torch.isclose(a, b, rtol=2e-5, atol=2e-6, equal_nan=True).reshape(len(a), -1).all(1)
        assert same.double().mean() >= 0.999  # of thousands of rows, a few have ties, which a top-k breaks otherwise


def timed(benchmark, function: Callable, *args) -> None:
    if DEVICE == "cpu":
        benchmark(function, *args)
        return
    calls = 1

    def together() -> None:
        for _ in range(calls):
            function(*args)
        torch.cuda.synchronize()

    together()  # loads the kernel
    started = clock()
    together()
    if benchmark.enabled:
        calls = max(1, min(20, int(TOGETHER / (clock() - started))))
    benchmark.extra_info["calls"] = calls
    benchmark(together)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
@pytest.mark.parametrize("side", ["fused", "eager", "compile", "usual", "copy"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_op(case: Case, side: str, shape: tuple[int, ...], benchmark) -> None:
    benchmark.group = f"{case.name} {'x'.join(map(str, shape))}"
    benchmark.extra_info |= {"case": case.name, "side": side, "shape": shape, "device": DEVICE}
    if ops.backend(case.op, DEVICE) != "compiled":
        pytest.skip(f"nothing to compare: {ops.backend(case.op, DEVICE)}")
    args = case.arguments(shape)
    reference = ops.OPS[case.op].reference
    if side == "fused":
        timed(benchmark, getattr(torch.ops.fastadv, case.op), *args)
    elif side == "copy":
        read, written = case.moves
        count = max(1, round((read + written) / 2 * torch.Size(shape).numel()))
        source = torch.ones(count, device=DEVICE)
        timed(benchmark, torch.empty_like(source).copy_, source)
    else:
        function = case.usual if side == "usual" else reference
        if function is None:
            pytest.skip("no usual form")
        if side == "compile":
            torch.compiler.reset()
            function = torch.compile(function)
        if not (side == "usual" and case.random):
            try:
                assert_same(function, case, args)
            except torch._inductor.exc.InductorError as error:
                pytest.skip(f"torch.compile fails: {error}".splitlines()[0])
        with torch.no_grad():
            timed(benchmark, function, *args)
