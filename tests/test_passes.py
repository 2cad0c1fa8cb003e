"""fastadv.attacks._passes and its kernels: their results equal PyTorch's."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from ops.cases import same
from torch import Tensor, nn
from toys import samples

from fastadv import ops
from fastadv.attacks import PGD, Square, _passes
from fastadv.attacks._passes import faster_passes
from fastadv.trainers import Standard, fit

pytestmark = pytest.mark.numerics

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
LAYOUTS = [torch.contiguous_format, torch.channels_last]
kernels = torch.ops.fastadv
compiled_only = pytest.mark.skipif(bool(ops.MISSING["cpu"]), reason=f"no compiled kernels: {ops.MISSING['cpu']}")


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def gradients(x: Tensor, function: Callable[[Tensor], Tensor], node: str) -> list[Tensor]:
    """Of the same function, without and within the mode, which calls `node`; nonlinear, and walked through twice."""
    found = []
    for within in (nullcontext, faster_passes):
        leaf = x.detach().requires_grad_()
        with within(leaf):
            out = function(leaf)
        assert (type(out.grad_fn).__name__ == node) == (within is faster_passes and node != "")
        first = torch.autograd.grad(out.square().sum(), leaf, retain_graph=True)[0]
        assert torch.equal(torch.autograd.grad(out.square().sum(), leaf)[0], first)
        found.append(first)
    return found


# ------------------------------------------------------------------------------------------------ first convolutions


STEMS = [
    (1, 32, 5, 2, (28, 28)),
    (1, 12, 3, 0, (9, 7)),
    (3, 36, 3, 1, (12, 10)),
    (2, 10, (1, 4), (0, 3), (5, 6)),
    (3, 5, 1, 0, (4, 4)),
    (1, 9, (5, 2), (4, 0), (6, 33)),
    (3, 1, (2, 6), (1, 2), (3, 17)),
]


@compiled_only
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("channels", "out", "kernel", "padding", "size"), STEMS)
def test_stem_backward_is_pytorchs(dtype, layout, channels, out, kernel, padding, size, threads):
    """Next to the gradient of the same numbers in float64, to the last digits of the type."""
    kernel, padding = np.broadcast_to(kernel, 2).tolist(), np.broadcast_to(padding, 2).tolist()
    x, weight = torch.randn(11, channels, *size, dtype=dtype), torch.randn(out, channels, *kernel, dtype=dtype)
    leaf = x.double().requires_grad_()
    made = F.conv2d(leaf, weight.double(), padding=padding)
    grad = torch.randn(made.shape, dtype=dtype)
    (expected,) = torch.autograd.grad(made, leaf, grad.double())
    x, grad = x.to(memory_format=layout), grad.to(memory_format=layout)
    found = kernels.stem_backward(grad, x, weight, *padding)
    assert found.dtype == dtype
    assert found.stride() == x.stride()
    rtol = {torch.float64: 1e-12, torch.float32: 1e-6, torch.float16: 2**-10, torch.bfloat16: 2**-7}[dtype]
    size = F.conv_transpose2d(grad.double().abs(), weight.double().abs(), padding=padding).max()  # what sums cancel in
    torch.testing.assert_close(found.double(), expected, rtol=rtol, atol=float(size) * min(rtol, 1e-6))
    alone = kernels.stem_backward(grad[3:4], x[3:4], weight, *padding)
    assert torch.equal(alone, found[3:4])
    for other in (grad.contiguous(), grad.transpose(2, 3).contiguous().transpose(2, 3)):
        assert torch.equal(kernels.stem_backward(other, x, weight, *padding), found)


@compiled_only
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("channels", "out", "kernel", "padding", "size"), STEMS)
def test_stem_weight_backward_is_pytorchs(dtype, layout, channels, out, kernel, padding, size):
    """Next to that in float64; the same whatever the threads and layouts; a batch's is the sum of its parts'."""
    kernel, padding = np.broadcast_to(kernel, 2).tolist(), np.broadcast_to(padding, 2).tolist()
    x = torch.randn(19, channels, *size, dtype=dtype).to(memory_format=layout)
    leaf = torch.zeros(out, channels, *kernel, dtype=torch.float64, requires_grad=True)
    made = F.conv2d(x.double(), leaf, padding=padding)
    grad = torch.randn(made.shape, dtype=dtype).to(memory_format=layout)
    (expected,) = torch.autograd.grad(made, leaf, grad.double())
    before, of_threads = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        of_threads.append(kernels.stem_weight_backward(grad, x, *kernel, *padding))
    torch.set_num_threads(before)
    found = of_threads[0]
    assert torch.equal(*of_threads)
    assert found.dtype == dtype
    rtol = {torch.float64: 1e-12, torch.float32: 1e-6, torch.float16: 2**-10, torch.bfloat16: 2**-7}[dtype]
    largest = float(grad.double().abs().sum((0, 2, 3)).max() * x.double().abs().max())  # what sums cancel in
    torch.testing.assert_close(found.double(), expected, rtol=rtol, atol=largest * min(rtol, 1e-6))
    for other in (grad.contiguous(), grad.transpose(2, 3).contiguous().transpose(2, 3)):
        assert torch.equal(kernels.stem_weight_backward(other, x, *kernel, *padding), found)
    parts = [
        kernels.stem_weight_backward(g, of, *kernel, *padding) for g, of in zip(grad.split(7), x.split(7), strict=True)
    ]
    torch.testing.assert_close(
        sum(part.double() for part in parts), found.double(), rtol=4 * rtol, atol=4 * largest * rtol
    )


@compiled_only
def test_no_samples_make_no_gradient_of_weights():
    found = kernels.stem_weight_backward(torch.ones(0, 4, 3, 3), torch.ones(0, 1, 5, 5), 3, 3, 0, 0)
    assert torch.equal(found, torch.zeros(4, 1, 3, 3))


@compiled_only
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("of_x", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_of_first_weights_are_pytorchs(layout, of_x, bias):
    x = torch.randn(11, 2, 9, 8, dtype=torch.float64).to(memory_format=layout).requires_grad_(of_x)
    layer = nn.Conv2d(2, 5, 3, padding=1, bias=bias).double()
    leaves = [*layer.parameters(), *([x] if of_x else [])]
    found = []
    for within in (nullcontext(), faster_passes(x)):
        with within:
            out = layer(x)
        found.append(torch.autograd.grad(out.pow(3).sum(), leaves))
    assert type(out.grad_fn).__name__ == "_StemBackward"
    for plain, faster in zip(*found, strict=True):
        torch.testing.assert_close(faster, plain)


@compiled_only
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("channels", "out", "kernel", "padding", "size"), STEMS)
def test_gradients_through_first_convolutions_are_pytorchs(dtype, layout, channels, out, kernel, padding, size):
    x = torch.randn(11, channels, *size, dtype=dtype).to(memory_format=layout)
    kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
    weight, bias = torch.randn(out, channels, *kernel, dtype=dtype), torch.randn(out, dtype=dtype)
    plain, faster = gradients(x, lambda leaf: F.conv2d(leaf, weight, bias, padding=padding), "_StemBackward")
    torch.testing.assert_close(faster, plain, rtol=1e-4, atol=1e-3 if dtype is torch.float32 else 1e-10)
    assert faster.stride() == x.stride()


LAST = torch.randn(9, 2, 8, 8).to(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("x", "weight", "options"),
    [
        (torch.randn(9, 4, 8, 8), torch.randn(48, 4, 3, 3), {}),
        (torch.randn(9, 3, 8, 8), torch.randn(48, 3, 7, 7), {"padding": 3}),
        (LAST.bfloat16(), torch.randn(4, 2, 3, 3).bfloat16(), {}),
        (torch.randn(9, 1, 8, 8), torch.randn(4, 1, 3, 3), {"stride": 2}),
        (torch.randn(9, 1, 8, 8), torch.randn(4, 1, 3, 3), {"dilation": 2}),
        (torch.randn(9, 1, 8, 8), torch.randn(4, 1, 3, 3), {"padding": "same"}),
        (torch.randn(9, 1, 8, 8), torch.randn(4, 1, 3, 3), {"padding": 3}),
        (torch.randn(9, 2, 8, 8), torch.randn(4, 1, 3, 3), {"groups": 2}),
        (torch.randn(1, 8, 8), torch.randn(4, 1, 3, 3), {}),
    ],
    ids=["channels", "taps", "bf16 last", "stride", "dilation", "same", "padding", "groups", "unbatched"],
)
def test_other_convolutions_are_pytorchs_to_the_bit(x, weight, options):
    plain, within = gradients(x, lambda leaf: F.conv2d(leaf, weight, **options), "")
    assert torch.equal(plain, within)


@compiled_only
@pytest.mark.parametrize("bias", [True, False])
def test_autocast_computes_the_convolution_in_its_type(bias):
    """The gradient is next to that in float64: PyTorch's own is further off on some processors."""
    x, weight = torch.randn(9, 1, 8, 8), torch.randn(4, 1, 3, 3)
    offset = torch.randn(4) if bias else None

    def convolved(leaf: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return F.conv2d(leaf, weight, offset)

    with faster_passes(x):
        assert torch.equal(convolved(x.clone().requires_grad_()), convolved(x))
    _, faster = gradients(x, convolved, "_StemBackward")
    assert faster.dtype == torch.float32
    leaf = x.double().requires_grad_()
    made = F.conv2d(leaf, weight.bfloat16().double())
    (expected,) = torch.autograd.grad(made, leaf, 2 * convolved(x).double())
    torch.testing.assert_close(faster.double(), expected, rtol=2**-7, atol=1e-3)


# ------------------------------------------------------------------------------------------------------- max-pooling


def windows(shape: tuple[int, ...], dtype: torch.dtype, layout: torch.memory_format) -> Tensor:
    """With ties, zeros of either sign, infinities and NaN."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).mul(2).round().div(2)
    flat = x.view(-1)
    for every, value in ((7, -0.0), (11, torch.inf), (13, torch.nan), (17, -torch.inf)):
        flat[::every] = value
    return x.to(dtype).to(memory_format=layout)


POOLS = [(2, 3, 4, 6), (3, 5, 7, 9), (1, 1, 2, 2), (2, 6, 28, 28), (2, 17, 10, 34), (3, 1, 5, 4), (2, 3, 64, 70)]


@compiled_only
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [*POOLS, (0, 3, 4, 4), (2, 0, 4, 4), (130, 6, 28, 28)])
def test_max_pool_is_pytorchs_to_the_bit(dtype, layout, shape, threads):
    x = windows(shape, dtype, layout)
    expected = F.max_pool2d(x, 2) if x.numel() else x[..., :2, :2]
    found = kernels.max_pool(x)
    assert same(found, expected)
    assert found.stride() == expected.stride() or not x.numel() or shape[1] == 1
    leaf = x.detach().requires_grad_()
    grad = torch.randn(expected.shape).to(dtype)
    if x.numel():
        (expected,) = torch.autograd.grad(F.max_pool2d(leaf, 2), leaf, grad)
        for given in (grad, grad.to(memory_format=layout), grad.transpose(2, 3).contiguous().transpose(2, 3)):
            assert same(kernels.max_pool_backward(given, x), expected)
        constant = torch.ones((), dtype=dtype).expand(grad.shape)
        (expected,) = torch.autograd.grad(F.max_pool2d(leaf, 2), leaf, constant)
        assert same(kernels.max_pool_backward(constant, x), expected)
    else:
        assert kernels.max_pool_backward(grad, x).shape == x.shape


@pytest.mark.parametrize("shape", [(2, 3, 1, 4), (2, 3, 4, 1), (2, 3, 4, 0), (2, 0, 4, 4)])
def test_pools_that_pytorch_refuses_are_refused(shape):
    x = torch.ones(shape, requires_grad=True)
    with pytest.raises(RuntimeError), faster_passes(x):
        F.max_pool2d(x, 2)
    if not ops.MISSING["cpu"]:
        made = kernels.max_pool(x.detach())
        assert made.numel() == 0
        assert torch.equal(kernels.max_pool_backward(made, x.detach()), torch.zeros(shape))


@compiled_only
@pytest.mark.parametrize("place", [lambda t: t[:, :, 1:], lambda t: t[1:], lambda t: t.transpose(0, 1)])
def test_max_pool_of_parts_of_tensors(place):
    x = place(windows((4, 3, 9, 8), torch.float32, torch.contiguous_format))
    leaf = x.detach().clone().requires_grad_()
    out = F.max_pool2d(leaf, 2)
    assert same(kernels.max_pool(x), out.detach())
    grad = torch.randn(out.shape)
    assert same(kernels.max_pool_backward(grad, x), torch.autograd.grad(out, leaf, grad)[0])


@compiled_only
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", POOLS)
def test_gradients_through_pools_are_pytorchs_to_the_bit(dtype, layout, shape):
    x = torch.randn(shape).to(dtype).to(memory_format=layout)
    plain, faster = gradients(x, lambda leaf: F.max_pool2d(leaf, 2), "_MaxPoolBackward")
    assert torch.equal(faster, plain)


@compiled_only
@pytest.mark.parametrize(
    "call",
    [
        nn.MaxPool2d(2),
        nn.MaxPool2d((2, 2), stride=[2, 2]),
        lambda x: torch.max_pool2d(x, 2),
        lambda x: F.max_pool2d(kernel_size=np.int64(2), input=x, stride=None),
        lambda x: F.max_pool2d(x, [2], [2], (0, 0), 1, False),
    ],
)
def test_every_way_to_pool_by_two(call):
    gradients(torch.randn(2, 3, 4, 4), call, "_MaxPoolBackward")


@pytest.mark.parametrize(
    "call",
    [
        nn.MaxPool2d(3),
        nn.MaxPool2d(2, stride=1),
        nn.MaxPool2d((2, 1)),
        nn.MaxPool2d(2, padding=1),
        nn.MaxPool2d(2, dilation=2),
        nn.MaxPool2d(2, ceil_mode=True),
        lambda x: F.max_pool2d(x, 2, return_indices=True)[0],
        lambda x: F.max_pool2d(x[0], 2),
        lambda x: F.max_pool1d(x[0], 2),
        lambda x: torch.vmap(lambda one: F.max_pool2d(one, 2))(torch.stack((x, 2 * x))).sum(0),
    ],
)
def test_other_pools_are_pytorchs(call):
    plain, within = gradients(torch.randn(2, 3, 5, 7), call, "")
    assert torch.equal(plain, within)


@compiled_only
def test_a_pool_keeps_its_input_alone():
    kept = []
    leaf = torch.randn(4, 5, 6, 6, requires_grad=True)
    with faster_passes(leaf), torch.autograd.graph.saved_tensors_hooks(kept.append, lambda one: one):
        F.max_pool2d(leaf, 2)
    assert [each.data_ptr() for each in kept] == [leaf.data_ptr()]


@compiled_only
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: kernels.max_pool(torch.ones(3, 4)), "max_pool: x must be"),
        (lambda: kernels.max_pool(torch.ones(1, 1, 4, 4, dtype=torch.int32)), "max_pool: samples must be float32"),
        (lambda: kernels.max_pool_backward(torch.ones(1, 1, 1, 2), torch.ones(1, 1, 4, 4)), "of what max_pool makes"),
        (
            lambda: kernels.max_pool_backward(torch.ones(1, 1, 2, 2).double(), torch.ones(1, 1, 4, 4)),
            "of what max_pool",
        ),
        (lambda: stem(x=torch.ones(2, 4, 5, 5)), "1 to 3 channels"),
        (lambda: stem(x=torch.ones(2, 1, 5, 6)), "of what the convolution makes"),
        (lambda: stem(x=torch.ones(3, 1, 5, 5)), "of what the convolution makes"),
        (lambda: stem(x=torch.ones(2, 2, 5, 5)), "of what the convolution makes"),
        (lambda: stem(grad=torch.ones(2, 5, 3, 3)), "of what the convolution makes"),
        (lambda: stem(padding=(3, 0)), "padding must be smaller"),
        (lambda: stem(padding=(0, -1)), "padding must be smaller"),
        (lambda: stem(weight=torch.ones(4, 1, 3, 3, dtype=torch.float64)), "one dtype"),
        (lambda: stem(weight=torch.ones(4, 9)), "weight must be"),
        (lambda: stem_weight(x=torch.ones(2, 4, 5, 5)), "1 to 3 channels"),
        (lambda: stem_weight(x=torch.ones(2, 1, 5, 6)), "of what the convolution makes"),
        (lambda: stem_weight(x=torch.ones(3, 1, 5, 5)), "of what the convolution makes"),
        (lambda: stem_weight(padding=(3, 0)), "padding must be smaller"),
        (lambda: stem_weight(x=torch.ones(2, 1, 5, 5, dtype=torch.float64)), "one dtype"),
    ],
)
def test_bare_passes_refuse_what_they_would_misread(call, words):
    with pytest.raises(RuntimeError, match=words):
        call()


def stem(
    grad: Tensor | None = None,
    x: Tensor | None = None,
    weight: Tensor | None = None,
    padding: tuple[int, int] = (0, 0),
) -> Tensor:
    """What fits: a 3x3 kernel of 4 channels on 2 images of 1x5x5; but for what is given."""
    grad = torch.ones(2, 4, 3, 3) if grad is None else grad
    x = torch.ones(2, 1, 5, 5) if x is None else x
    weight = torch.ones(4, 1, 3, 3) if weight is None else weight
    return kernels.stem_backward(grad, x, weight, *padding)


def stem_weight(x: Tensor | None = None, padding: tuple[int, int] = (0, 0)) -> Tensor:
    x = torch.ones(2, 1, 5, 5) if x is None else x
    return kernels.stem_weight_backward(torch.ones(2, 4, 3, 3), x, 3, 3, *padding)


# ---------------------------------------------------------------------------------------------------- where it is used


def test_without_kernels_all_is_pytorchs(monkeypatch):
    monkeypatch.setitem(ops.MISSING, "cpu", "a reason")
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.MaxPool2d(2)).requires_grad_(False)
    gradients(torch.randn(2, 1, 6, 6), model, "")


@compiled_only
def test_attacks_and_training_use_it_and_nobody_else():
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
    fit(model, Standard(), (x, torch.zeros(10, dtype=torch.int64)), epochs=1, batch_size=5)
    assert kinds == ["_StemBackward"] * 2
    kinds.clear()
    model(x).sum().backward()
    assert kinds == ["ConvolutionBackward0"]  # and nobody else
    assert model[0].weight.grad is not None


@compiled_only
def test_passes_without_gradients_use_it_too(monkeypatch):
    pooled = []

    class Spy:
        @staticmethod
        def apply(x: Tensor) -> Tensor:
            pooled.append(x.requires_grad)
            return kernels.max_pool(x)

    monkeypatch.setattr(_passes, "_MaxPool", Spy)
    model = nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(9, 4))
    x = samples(10, 1, 6, 6)
    Square(0.1, queries=2)(model, x, torch.zeros(10, dtype=torch.int64))
    assert pooled
    assert not any(pooled)


@pytest.mark.parametrize(
    "call",
    [
        lambda x, w: F.max_pool2d(F.conv2d(x, w), 2),
        lambda x, w: F.conv2d(input=x, weight=w),
        lambda x, w: F.conv2d(x, w, padding=(1,)),
        lambda x, w: F.conv2d(x, w, stride=np.int64(1), padding=[1, 1]),
        lambda x, w: F.conv2d(x, w, stride=np.int64(2), padding=(1, 0)),
        lambda x, w: F.conv2d(x, w, None, (1, 1), (0, 0), (1, 1), 1),
        lambda x, w: torch.vmap(lambda one: F.conv2d(x, one))(torch.stack((w, 2 * w))).sum(0),
        lambda x, w: torch.func.grad(lambda z: F.conv2d(z, w).square().sum())(x),
    ],
    ids=["pool", "keywords", "one number", "numpy", "stride", "positional", "vmap", "func.grad"],
)
def test_every_way_to_call_it(call):
    x, weight = torch.randn(9, 1, 8, 8, dtype=torch.float64), torch.randn(4, 1, 3, 3, dtype=torch.float64)
    found = []
    for within in (nullcontext, faster_passes):
        leaf = x.clone().requires_grad_()
        with within(leaf):
            out = call(leaf, weight)
        found.append(torch.autograd.grad(out.square().sum(), leaf)[0])
    torch.testing.assert_close(*found)


def test_models_with_gradients_inside():
    """A gradient that is differentiated again."""
    x, weight = torch.randn(9, 1, 8, 8, dtype=torch.float64), torch.randn(4, 1, 3, 3, dtype=torch.float64)
    found = []
    for within in (nullcontext, faster_passes):
        leaf = x.clone().requires_grad_()
        with within(leaf):
            out = F.max_pool2d(F.conv2d(leaf, weight, padding=1), 2)
            (inner,) = torch.autograd.grad(out.pow(3).sum(), leaf, create_graph=True)
        found.append(torch.autograd.grad(inner.square().sum(), leaf)[0])
    torch.testing.assert_close(*found)


# --------------------------------------------------------------------------------------------------------- batch norm


def normalised(leaf: Tensor, norm: nn.Module, faster: bool) -> tuple[Tensor, Tensor]:
    """The output for `leaf`, and a gradient of it that is walked through twice."""
    with faster_passes(leaf) if faster else nullcontext():
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
    with faster_passes(leaf), torch.autograd.graph.saved_tensors_hooks(kept.append, lambda one: one):
        batch_norm(5)(leaf)
    assert not kept


def test_batch_norm_differentiated_twice_and_vectorised():
    norm, x = batch_norm(5).double(), torch.randn(6, 5, 4, 3, dtype=torch.float64)
    found = []
    for within in (nullcontext, faster_passes):
        leaf = x.clone().requires_grad_()
        with within(leaf):
            out = norm(leaf)
            (inner,) = torch.autograd.grad(out.pow(3).sum(), leaf, create_graph=True)
            mapped = torch.vmap(norm)(torch.stack((leaf, 2 * leaf))).sum(0)
        found.append(torch.autograd.grad(inner.square().sum() + mapped.sum(), leaf)[0])
    torch.testing.assert_close(*found)
