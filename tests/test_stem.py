"""fastadv.attacks._stem: the gradient of a first convolution's input equals PyTorch's."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from toys import samples

from fastadv.attacks import PGD, _stem
from fastadv.attacks._stem import faster_stem


def gradients(x: Tensor, weight: Tensor, direction: Tensor | None = None, **options) -> list[Tensor]:
    """Of the same function, without and within the mode; nonlinear, and walked through twice."""
    found = []
    for within in (False, True):
        leaf = x.detach().requires_grad_()
        if within:
            with faster_stem(leaf):
                out = F.conv2d(leaf, weight, **options)
        else:
            out = F.conv2d(leaf, weight, **options)
        assert (type(out.grad_fn).__name__ == "_StemBackward") == (within and direction is None)
        first = torch.autograd.grad(out.square().sum(), leaf, retain_graph=True)[0]
        assert torch.equal(torch.autograd.grad(out.square().sum(), leaf)[0], first)
        found.append(first)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("channels", "out", "kernel", "padding", "size"),
    [
        (1, 6, 5, 2, (28, 28)),
        (1, 3, 3, 0, (9, 7)),
        (3, 8, 3, 1, (12, 10)),
        (2, 4, (1, 4), (0, 3), (5, 6)),
        (3, 5, 1, 0, (4, 4)),
    ],
)
def test_equals_pytorch(dtype, layout, channels, out, kernel, padding, size):
    kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
    x = torch.randn(11, channels, *size, dtype=dtype).to(memory_format=layout)
    weight, bias = torch.randn(out, channels, *kernel, dtype=dtype), torch.randn(out, dtype=dtype)
    plain, faster = gradients(x, weight, bias=bias, padding=padding)
    torch.testing.assert_close(faster, plain, rtol=1e-4, atol=1e-3 if dtype is torch.float32 else 1e-10)
    assert faster.stride() == x.stride()


@pytest.mark.parametrize("threads", [1, 2])
def test_any_number_of_threads(threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        x = torch.randn(11, 1, 28, 28).to(memory_format=torch.channels_last)
        plain, faster = gradients(x, torch.randn(6, 1, 5, 5), padding=2)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(faster, plain, rtol=1e-4, atol=1e-3)


def test_in_parts(monkeypatch):
    x, weight = torch.randn(11, 1, 8, 8), torch.randn(4, 1, 3, 3)
    (_, whole) = gradients(x, weight, padding=1)
    monkeypatch.setattr(_stem, "_PRODUCTS", 9 * 64 * 2)  # two samples at a time
    (_, parts) = gradients(x, weight, padding=1)
    torch.testing.assert_close(parts, whole)


@pytest.mark.parametrize(
    ("x", "weight", "options"),
    [
        (torch.randn(7, 1, 8, 8), torch.randn(4, 1, 3, 3), {}),
        (torch.randn(9, 4, 8, 8), torch.randn(4, 4, 3, 3), {}),
        (torch.randn(9, 1, 8, 8), torch.randn(4, 1, 3, 3), {"stride": 2}),
        (torch.randn(9, 1, 8, 8), torch.randn(4, 1, 3, 3), {"dilation": 2}),
        (torch.randn(9, 1, 8, 8), torch.randn(4, 1, 3, 3), {"padding": "same"}),
        (torch.randn(9, 2, 8, 8), torch.randn(4, 1, 3, 3), {"groups": 2}),
        (torch.randn(9, 1, 8, 8), torch.randn(4, 1, 3, 3).requires_grad_(), {}),
        (torch.randn(9, 1, 8, 8).bfloat16(), torch.randn(4, 1, 3, 3).bfloat16(), {}),
    ],
    ids=["few", "channels", "stride", "dilation", "same", "groups", "weight", "bf16"],
)
def test_others_are_pytorchs_to_the_bit(x, weight, options):
    plain, within = gradients(x, weight, direction=x, **options)
    assert torch.equal(plain, within)


def test_autocast_is_left_alone():
    x, weight = torch.randn(9, 1, 8, 8, requires_grad=True), torch.randn(4, 1, 3, 3)
    with torch.autocast("cpu", torch.bfloat16), faster_stem(x):
        assert F.conv2d(x, weight).dtype == torch.bfloat16


def test_attacks_use_it_and_nobody_else():
    kinds = []

    class Spy(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            out = super().forward(x)
            kinds.append(type(out.grad_fn).__name__)
            return out

    model = nn.Sequential(Spy(1, 3, 3), nn.Flatten(), nn.Linear(3 * 16, 4))
    x = samples(10, 1, 6, 6)
    PGD(0.1, 0.05, steps=2, random_start=0)(model, x, torch.zeros(10, dtype=torch.int64))
    assert kinds[:2] == ["_StemBackward"] * 2
    kinds.clear()
    model(x).sum().backward()
    assert kinds == ["ConvolutionBackward0"]
    assert model[0].weight.grad is not None


@pytest.mark.parametrize(
    "call",
    [
        lambda x, w: F.conv2d(input=x, weight=w),
        lambda x, w: F.conv2d(x, w, padding=(1,)),
        lambda x, w: F.conv2d(x, w, stride=np.int64(1), padding=[1, 1]),
        lambda x, w: F.conv2d(x, w, stride=np.int64(2), padding=(1, 0)),
        lambda x, w: F.conv2d(x, w, None, (1, 1), (0, 0), (1, 1), 1),
        lambda x, w: torch.vmap(lambda one: F.conv2d(x, one))(torch.stack((w, 2 * w))).sum(0),
        lambda x, w: torch.func.grad(lambda z: F.conv2d(z, w).square().sum())(x),
    ],
    ids=["keywords", "one number", "numpy", "stride", "positional", "vmap", "func.grad"],
)
def test_every_way_to_call_it(call):
    x, weight = torch.randn(9, 1, 8, 8, dtype=torch.float64), torch.randn(4, 1, 3, 3, dtype=torch.float64)
    found = []
    for within in (nullcontext, faster_stem):
        leaf = x.clone().requires_grad_()
        with within(leaf):
            out = call(leaf, weight)
        found.append(torch.autograd.grad(out.square().sum(), leaf)[0])
    torch.testing.assert_close(*found)


def test_models_with_gradients_inside():
    """A gradient that is differentiated again."""
    x, weight = torch.randn(9, 1, 8, 8, dtype=torch.float64), torch.randn(4, 1, 3, 3, dtype=torch.float64)
    found = []
    for within in (nullcontext, faster_stem):
        leaf = x.clone().requires_grad_()
        with within(leaf):
            out = F.conv2d(leaf, weight, padding=1)
            (inner,) = torch.autograd.grad(out.pow(3).sum(), leaf, create_graph=True)
        found.append(torch.autograd.grad(inner.square().sum(), leaf)[0])
    torch.testing.assert_close(*found)
