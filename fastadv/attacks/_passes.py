"""Passes through networks that PyTorch is slow at on the CPU: first convolutions, max-pooling, batch norm in eval."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .. import ops
from ._kept import kept

_TAPS = 25  # of a first convolution's kernel: with more, ours is slower
COMPILED = ("_orig_mod", "_compiled_call_impl", "_torchdynamo_orig_callable", "compiled")  # the last: Tuned, Autocast


def faster_passes(x: Tensor, model: Callable[[Tensor], Tensor] | None = None) -> AbstractContextManager[Any]:
    """Within it, `x` [B, ...] passes faster through a `model`, and gradients back, if both are on the CPU.

    A compiled `model` is left to its compiler, which would compile it once more. Where an attack's first pass had
    nothing to replace, the next ones do not look again. The first two kinds need the compiled kernels (`csrc/cpu`).

    - Convolutions of images with up to three channels: their input's gradient takes PyTorch up to 10 times as long as
      our kernel; that of their weights is alike. Ours round otherwise.
    - Max-pooling of 2x2 windows, to the bit: PyTorch's is not vectorised where channels are outermost or few, and keeps
      64 bits a window. The forward pass on 128x32x24x24 takes it 31 times as long as our kernel on two threads.
    - Batch norm in eval mode whose parameters are frozen: PyTorch also sums up the gradients of those and keeps the
      input for it. A product is enough, which rounds otherwise.
    """
    compiled = any(getattr(model, name, None) for name in COMPILED)
    key = "nothing to replace", id(model), x.requires_grad
    return nullcontext() if compiled or not x.is_cpu or key in (kept() or ()) else _FasterPasses(key, model)


class _FasterPasses(TorchFunctionMode):
    """One pass. Where it replaces nothing, which `key` names, the attack's next ones are spared the looking."""

    def __init__(self, key: tuple[str, int, bool], model: Callable[[Tensor], Tensor] | None):
        super().__init__()
        self.key, self.model, self.replaced = key, model, False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        faster, kwargs = _FASTER.get(func), kwargs or {}
        output = None if faster is None else faster(*args, **kwargs)
        if output is None:
            return func(*args, **kwargs)
        self.replaced = True
        return output

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        super().__exit__(kind, *rest)
        memory = kept()
        if memory is not None and kind is None and not self.replaced:
            memory[self.key] = self.model


def _convolved(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor | None:
    """``torch.conv2d`` by `_Stem`, where that can take its place and is faster."""
    fits = (
        _has_kernels(input)
        and (input.requires_grad or weight.requires_grad)
        and 1 <= weight.shape[1] <= 3
        and weight[0, 0].numel() <= _TAPS
        and (weight.shape[1] == 1 or input.stride(1) != 1 or _cast(input).element_size() > 2)  # others: ours is slower
        and _cast(input).dtype == _cast(weight).dtype
        and set(_numbers(stride) + _numbers(dilation)) == {1}
        and groups == 1
        and not isinstance(padding, str)
        and all(p < size for p, size in zip(_two(padding), weight.shape[2:], strict=True))
        and not _transformed()
    )
    if not fits:
        return None
    return _Stem.apply(_cast(input), _cast(weight), None if bias is None else _cast(bias), _two(padding))


def _has_kernels(input: Tensor) -> bool:
    """Whether there are compiled kernels for such images."""
    return ops.MISSING["cpu"] is None and input.is_cpu and input.dim() == 4 and input.is_floating_point()


def _transformed() -> bool:
    """Whether torch.compile or torch.func is looking, which know nothing of the functions here."""
    return torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is not None


def _cast(t: Tensor) -> Tensor:
    """`t` in the type that autocast has convolutions computed in."""
    casts = torch.is_autocast_enabled("cpu") and t.dtype != torch.float64
    return t.to(torch.get_autocast_dtype("cpu")) if casts else t


def _numbers(value: Any) -> tuple[int, ...]:
    """One number, one in a sequence, or two."""
    return tuple(value) if isinstance(value, Sequence) else (value,)


def _two(value: Any) -> tuple[int, ...]:
    return (2 * _numbers(value))[:2]


class _Stem(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.padding = padding
        return F.conv2d(x, weight, bias, padding=padding)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias, _ = ctx.needs_input_grad
        kernels = torch.ops.fastadv

        def pytorchs(*wanted: bool) -> tuple[Tensor | None, ...]:
            own = [len(weight)], [1, 1], ctx.padding, [1, 1], False, [0, 0], 1
            return torch.ops.aten.convolution_backward(grad, x, weight, *own, wanted)

        if torch.is_grad_enabled():  # it is to be differentiated again
            return *pytorchs(of_x, of_weight, of_bias), None
        by_x = kernels.stem_backward(grad, x, weight, *ctx.padding) if of_x else None
        innermost = grad.is_contiguous(memory_format=torch.channels_last) and not grad.is_contiguous()
        if of_weight and innermost and grad.element_size() > 2:  # ours is slower
            return by_x, *pytorchs(False, True, of_bias)[1:], None
        by_weight = kernels.stem_weight_backward(grad, x, *weight.shape[2:], *ctx.padding) if of_weight else None
        return by_x, by_weight, grad.sum((0, 2, 3)) if of_bias else None, None


def _pooled(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor | None:
    """``F.max_pool2d`` by `_MaxPool`, where that can take its place."""
    fits = (
        _has_kernels(input)
        and min(input.shape[1:]) > 0
        and min(input.shape[2:]) > 1  # PyTorch refuses others
        and set(_numbers(kernel_size) + (_numbers(stride) if stride not in (None, [], ()) else ())) == {2}
        and set(_numbers(padding)) == {0}
        and set(_numbers(dilation)) == {1}
        and not (ceil_mode or return_indices)
        and not _transformed()
    )
    return _MaxPool.apply(input) if fits else None


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.ops.fastadv.max_pool(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        if torch.is_grad_enabled():
            places = F.max_pool2d(x.detach(), 2, return_indices=True)[1]
            own = [2, 2], [2, 2], [0, 0], [1, 1], False
            return torch.ops.aten.max_pool2d_with_indices_backward(grad, x, *own, places)
        return torch.ops.fastadv.max_pool_backward(grad, x)


def _normed(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor | None:
    """``F.batch_norm`` by `_FrozenBatchNorm`, where that can take its place."""
    fits = (
        not training
        and running_var is not None
        and input.requires_grad
        and not any(each is not None and each.requires_grad for each in (running_mean, running_var, weight, bias))
        and not _transformed()
    )
    return _FrozenBatchNorm.apply(input, running_mean, running_var, weight, bias, eps) if fits else None


class _FrozenBatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> Tensor:
        scale = (var.double() + eps).rsqrt()
        ctx.scale = scale if weight is None else weight * scale
        return F.batch_norm(x, mean, var, weight, bias, eps=eps)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        of_one = torch.empty_like(grad[:1])  # products with a number for a few others are slow in bfloat16
        of_one.copy_(ctx.scale.view(-1, *[1] * (grad.dim() - 2)))
        return grad * of_one, None, None, None, None, None


_FASTER: dict[Any, Callable[..., Tensor | None]] = {
    torch.conv2d: _convolved,
    F.max_pool2d: _pooled,
    torch.max_pool2d: _pooled,
    F.batch_norm: _normed,
}
"""What gives the output of a function faster, of the same arguments; None where it does not."""
