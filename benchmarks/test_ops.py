"""Each op against its pure-torch reference and a plain copy of the same bytes, in one run: `make bench`.

Ratios are what counts. `make bench` runs one thread (OMP_NUM_THREADS=1): threads on a busy machine time the machine.
"""

import pytest
import torch

from fastadv import ops

SHAPES = [(128, 3, 32, 32), (512, 3, 32, 32)]


def arguments(op: str, shape: tuple[int, ...]) -> tuple:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(shape, generator=generator)
    x_adv = (x + 0.1 * torch.randn(shape, generator=generator)).clamp(0, 1)
    eps = torch.full(shape[:1], 0.03)
    return {
        "linf_step": (x_adv, torch.randn(shape, generator=generator), x, eps / 4, eps, 0.0, 1.0, None),
        "row_norms": (x_adv, "l2", x),
        "cutoff_scale": (x_adv, x, ops.row_norms(x_adv, "l2", x), eps, 0.9, None),
        "random_start": (x, torch.arange(shape[0]), eps, 0, 0, "uniform", 0.0, 1.0, None),
    }[op]


def results(function, args: tuple) -> list[torch.Tensor]:
    """What a call returns, or leaves in its first argument."""
    args = tuple(a.clone() if isinstance(a, torch.Tensor) else a for a in args)
    returned = function(*args)
    return [args[0], *([] if returned is None else [returned])]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
@pytest.mark.parametrize("side", ["compiled", "reference", "copy"])
@pytest.mark.parametrize("op", ops.OPS)
def test_op(op: str, side: str, shape: tuple[int, ...], benchmark) -> None:
    benchmark.group = f"{op} {'x'.join(map(str, shape))}"
    args = arguments(op, shape)
    compiled, reference = getattr(torch.ops.fastadv, op), ops.OPS[op].reference
    if ops.backend(op) != "compiled":
        pytest.skip(f"nothing to compare: {ops.backend(op)}")
    for a, b in zip(results(compiled, args), results(reference, args), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=0)
    if side == "copy":
        tensors = [a for a in args if isinstance(a, torch.Tensor) and a.dim() > 1]
        targets = [torch.empty_like(t) for t in tensors]
        benchmark(lambda: [target.copy_(t) for target, t in zip(targets, tensors, strict=True)])
    else:
        benchmark(compiled if side == "compiled" else reference, *args)
