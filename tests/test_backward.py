"""fastadv.attacks._backward: its gradients equal PyTorch's."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from toys import samples

from fastadv.attacks import PGD, _backward
from fastadv.attacks._backward import faster_backward


def gradients(x: Tensor, weight: Tensor, direction: Tensor | None = None, **options) -> list[Tensor]:
    """Of the same function, without and within the mode; nonlinear, and walked through twice."""
    found = []
    for within in (False, True):
        leaf = x.detach().requires_grad_()
        if within:
            with faster_backward(leaf):
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
        (1, 32, 5, 2, (28, 28)),
        (1, 12, 3, 0, (9, 7)),
        (3, 36, 3, 1, (12, 10)),
        (2, 10, (1, 4), (0, 3), (5, 6)),
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
        plain, faster = gradients(x, torch.randn(32, 1, 5, 5), padding=2)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(faster, plain, rtol=1e-4, atol=1e-3)


def test_in_parts(monkeypatch):
    x, weight = torch.randn(11, 1, 8, 8), torch.randn(4, 1, 3, 3)
    (_, whole) = gradients(x, weight, padding=1)
    monkeypatch.setattr(_backward, "_PRODUCTS", 9 * 64 * 2)  # two samples at a time
    (_, parts) = gradients(x, weight, padding=1)
    torch.testing.assert_close(parts, whole)


@pytest.mark.parametrize(
    ("x", "weight", "options"),
    [
        (torch.randn(7, 1, 8, 8), torch.randn(4, 1, 3, 3), {}),
        (torch.randn(9, 4, 8, 8), torch.randn(48, 4, 3, 3), {}),
        (torch.randn(9, 3, 8, 8), torch.randn(24, 3, 3, 3), {}),
        (torch.randn(9, 8, 8, 1).permute(0, 3, 1, 2), torch.randn(6, 1, 3, 3), {}),
        (torch.randn(9, 1, 8, 8), torch.randn(4, 1, 3, 3), {"stride": 2}),
        (torch.randn(9, 1, 8, 8), torch.randn(4, 1, 3, 3), {"dilation": 2}),
        (torch.randn(9, 1, 8, 8), torch.randn(4, 1, 3, 3), {"padding": "same"}),
        (torch.randn(9, 2, 8, 8), torch.randn(4, 1, 3, 3), {"groups": 2}),
        (torch.randn(9, 1, 8, 8), torch.randn(4, 1, 3, 3).requires_grad_(), {}),
        (torch.randn(9, 1, 8, 8).bfloat16(), torch.randn(4, 1, 3, 3).bfloat16(), {}),
    ],
    ids=["few", "channels", "weights", "channels_last", "stride", "dilation", "same", "groups", "weight", "bf16"],
)
def test_others_are_pytorchs_to_the_bit(x, weight, options):
    plain, within = gradients(x, weight, direction=x, **options)
    assert torch.equal(plain, within)


def test_autocast_is_left_alone():
    x, weight = torch.randn(9, 1, 8, 8, requires_grad=True), torch.randn(4, 1, 3, 3)
    with torch.autocast("cpu", torch.bfloat16), faster_backward(x):
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
    for within in (nullcontext, faster_backward):
        leaf = x.clone().requires_grad_()
        with within(leaf):
            out = call(leaf, weight)
        found.append(torch.autograd.grad(out.square().sum(), leaf)[0])
    torch.testing.assert_close(*found)


def test_models_with_gradients_inside():
    """A gradient that is differentiated again."""
    x, weight = torch.randn(9, 1, 8, 8, dtype=torch.float64), torch.randn(4, 1, 3, 3, dtype=torch.float64)
    found = []
    for within in (nullcontext, faster_backward):
        leaf = x.clone().requires_grad_()
        with within(leaf):
            out = F.conv2d(leaf, weight, padding=1)
            (inner,) = torch.autograd.grad(out.pow(3).sum(), leaf, create_graph=True)
        found.append(torch.autograd.grad(inner.square().sum(), leaf)[0])
    torch.testing.assert_close(*found)


def normalised(leaf: Tensor, norm: nn.Module, faster: bool) -> tuple[Tensor, Tensor]:
    """The output for `leaf`, and a gradient of it that is walked through twice."""
    with faster_backward(leaf) if faster else nullcontext():
        out = norm(leaf)
    return out, *torch.autograd.grad(out.pow(3).sum(), leaf, retain_graph=True)


def batch_norm(channels: int, dimensions: int = 2, **options) -> nn.Module:
    """In eval mode, frozen, and with statistics that are not 0 and 1."""
    kind = {0: nn.BatchNorm1d, 1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[dimensions]
    norm = kind(channels, **options).eval().requires_grad_(False)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.1, 4)
    for parameter in norm.parameters():
        parameter.normal_()
    return norm


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batch_norm_equals_pytorchs(dtype, layout, affine):
    norm, x = batch_norm(5, affine=affine, eps=0.1).to(dtype), torch.randn(6, 5, 4, 3, dtype=dtype)
    leaf = x.to(memory_format=layout).requires_grad_()
    (plain_out, plain), (out, faster) = normalised(leaf, norm, False), normalised(leaf, norm, True)
    assert type(out.grad_fn).__name__ == "_FrozenBatchNormBackward"
    assert torch.equal(out, plain_out)
    torch.testing.assert_close(faster, plain, rtol=1e-5, atol=1e-5)
    assert faster.stride() == leaf.stride()


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 7), (6, 5, 2, 3, 4), (0, 5, 4, 4), (1, 5, 1, 1)])
def test_batch_norm_of_any_shape(shape):
    norm, leaf = batch_norm(5, max(0, len(shape) - 2)), torch.randn(shape, requires_grad=True)
    torch.testing.assert_close(normalised(leaf, norm, True), normalised(leaf, norm, False), rtol=1e-5, atol=1e-5)


def test_batch_norm_in_bf16():
    """Of float32 parameters, as under autocast: to bfloat16's last digits."""
    norm, leaf = batch_norm(8), torch.randn(6, 8, 4, 4, dtype=torch.bfloat16, requires_grad=True)
    (plain_out, plain), (out, faster) = normalised(leaf, norm, False), normalised(leaf, norm, True)
    assert torch.equal(out, plain_out)
    torch.testing.assert_close(faster, plain, rtol=2**-6, atol=0)


@pytest.mark.parametrize("spoil", [nn.Module.train, nn.Module.requires_grad_], ids=["train mode", "parameters"])
def test_other_batch_norms_are_pytorchs_to_the_bit(spoil):
    norm, leaf = spoil(batch_norm(5)), torch.randn(6, 5, 4, 3, requires_grad=True)
    (plain_out, plain), (out, faster) = normalised(leaf, norm, False), normalised(leaf, norm, True)
    assert type(out.grad_fn).__name__ == "NativeBatchNormBackward0"
    assert torch.equal(out, plain_out)
    assert torch.equal(faster, plain)


def test_batch_norm_does_not_keep_its_input():
    kept = []
    leaf = torch.randn(4, 5, 6, 6, requires_grad=True)
    with faster_backward(leaf), torch.autograd.graph.saved_tensors_hooks(kept.append, lambda one: one):
        batch_norm(5)(leaf)
    assert not kept


def test_batch_norm_differentiated_twice_and_vectorised():
    norm, x = batch_norm(5).double(), torch.randn(6, 5, 4, 3, dtype=torch.float64)
    found = []
    for within in (nullcontext, faster_backward):
        leaf = x.clone().requires_grad_()
        with within(leaf):
            out = norm(leaf)
            (inner,) = torch.autograd.grad(out.pow(3).sum(), leaf, create_graph=True)
            mapped = torch.vmap(norm)(torch.stack((leaf, 2 * leaf))).sum(0)
        found.append(torch.autograd.grad(inner.square().sum() + mapped.sum(), leaf)[0])
    torch.testing.assert_close(*found)
