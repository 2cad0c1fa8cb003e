"""The passes that fastadv has CPU kernels for, against PyTorch's own functions; every side is checked first."""

import math
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fastadv import ops

kernels, aten = torch.ops.fastadv, torch.ops.aten
SAMPLES = 128
POOLED = [(6, 28, 28), (16, 10, 10), (32, 24, 24), (64, 8, 8)]  # LeNet-5's and the small CNN's
STEMS = [
    ((1, 28, 28), 6, 5, 2),
    ((1, 28, 28), 32, 3, 0),
    ((1, 28, 28), 64, 3, 1),
    ((3, 32, 32), 64, 3, 1),
]  # ResNet-18's
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
LAYOUTS = {"channels first": torch.contiguous_format, "channels last": torch.channels_last}

Sides = tuple[Callable[[], Tensor], Callable[[], Tensor]]
"""The kernel and PyTorch's own."""


def images(*shape: int, dtype: torch.dtype, layout: torch.memory_format) -> Tensor:
    return torch.randn(SAMPLES, *shape).to(dtype).to(memory_format=layout)


def pool(shape: tuple[int, ...], **options) -> Sides:
    x = images(*shape, **options).relu().requires_grad_()  # with a gradient PyTorch keeps places, too
    return partial(kernels.max_pool, x.detach()), partial(F.max_pool2d, x, 2)


def pool_backward(shape: tuple[int, ...], **options) -> Sides:
    x = images(*shape, **options).relu().requires_grad_()
    made = F.max_pool2d(x, 2)
    grad = torch.randn_like(made)
    theirs = partial(torch.autograd.grad, made, x, grad, retain_graph=True)
    return partial(kernels.max_pool_backward, grad, x.detach()), lambda: theirs()[0]


def stem(of_weight: bool, shape: tuple[int, ...], channels: int, kernel: int, padding: int, **options) -> Sides:
    x, weight = images(*shape, **options), torch.randn(channels, shape[0], kernel, kernel).to(options["dtype"])
    grad = torch.randn_like(F.conv2d(x, weight, padding=padding).to(memory_format=options["layout"]))
    sizes = [kernel, kernel, padding, padding]
    if of_weight:
        grad /= math.sqrt(grad[:, 0].numel())  # so many are summed up
        ours = partial(kernels.stem_weight_backward, grad, x, *sizes)
    else:
        ours = partial(kernels.stem_backward, grad, x, weight, *sizes[2:])
    own = [1, 1], sizes[2:], [1, 1], False, [0, 0], 1, (not of_weight, of_weight, False)
    return ours, lambda: aten.convolution_backward(grad, x, weight, None, *own)[int(of_weight)]


def cases() -> Iterator[tuple[str, Callable[..., Sides]]]:
    for shape in POOLED:
        size = "x".join(map(str, shape))
        yield f"max_pool {size}", partial(pool, shape)
        yield f"max_pool_backward {size}", partial(pool_backward, shape)
    for shape, channels, kernel, padding in STEMS:
        size = f"{'x'.join(map(str, shape))}, {channels} of {kernel}x{kernel}"
        for name in ("stem_backward", "stem_weight_backward"):
            yield f"{name} {size}", partial(stem, "weight" in name, shape, channels, kernel, padding)


CASES = dict(cases())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("side", ["fused", "eager"])
@pytest.mark.parametrize("name", CASES)
def test_pass(name: str, side: str, dtype: str, layout: str, benchmark) -> None:
    if ops.MISSING["cpu"]:
        pytest.skip(f"nothing to compare: {ops.MISSING['cpu']}")
    group = f"{name}, {dtype}, {layout}"
    benchmark.group = group
    benchmark.extra_info |= {"case": group, "side": side, "shape": (SAMPLES,), "device": "cpu"}
    ours, theirs = CASES[name](dtype=DTYPES[dtype], layout=LAYOUTS[layout])
    loose = {"rtol": 2**-6, "atol": 0.5} if dtype == "bfloat16" else {"rtol": 1e-4, "atol": 1e-3}
    torch.testing.assert_close(ours(), theirs(), **loose if "stem" in name else {"rtol": 0, "atol": 0})
    benchmark(ours if side == "fused" else theirs)
