"""Gradients of inputs that PyTorch computes slowly on the CPU: of first convolutions, and of batch norm in eval."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

_PRODUCTS = 1 << 19  # numbers held at a time, which caches hold
_FEW = 8  # samples, below which PyTorch is as fast
_SHARE = 0.8  # of the output's channels: with more weights for each PyTorch is as fast, but not on one plain channel
_COMPILED = ("_orig_mod", "_compiled_call_impl", "_torchdynamo_orig_callable", "compiled")  # the last is Tuned's


def faster_backward(x: Tensor, model: Callable[[Tensor], Tensor] | None = None) -> AbstractContextManager[Any]:
    """Within it, what a `model` makes of `x` [B, ...] has a faster backward pass, if both are on the CPU.

    Compiled models are left to their compiler, which would compile them once more.

    - Convolutions of images with few channels: their input's gradient takes PyTorch 3 to 12 times as long as their
      forward pass, 13 ms against 2 for 128x1x28x28, 32 channels and a 5x5 kernel, on one thread. As products folded
      together, which rounds otherwise, it takes 4.
    - Batch norm in eval mode whose parameters are frozen: PyTorch also sums up the gradients of those and keeps the
      input for it. 64x64x28x28 take 2.5 ms in float32 and 1.4 in bfloat16; a product, which rounds otherwise, 0.5.
    """
    compiled = any(getattr(model, name, None) for name in _COMPILED)
    return nullcontext() if compiled or x.device.type != "cpu" else _FasterBackward()


class _FasterBackward(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.conv2d and _suits(*args, **kwargs):
            return _Stem.apply(*_stem_arguments(*args, **kwargs))
        if func is F.batch_norm and _frozen(*args, **kwargs):
            return _FrozenBatchNorm.apply(*_norm_arguments(*args, **kwargs))
        return func(*args, **kwargs)


def _suits(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> bool:
    """Whether ``torch.conv2d`` with these arguments is one that `_Stem` can take the place of, and is faster."""
    return (
        input.dim() == 4
        and len(input) >= _FEW
        and (weight[0].numel() <= _SHARE * len(weight) or (weight.shape[1] == 1 and input.stride(1) != 1))
        and weight.shape[1] <= 3
        and input.dtype == weight.dtype
        and input.dtype in (torch.float32, torch.float64)
        and input.requires_grad
        and not (weight.requires_grad or (bias is not None and bias.requires_grad))
        and set(_numbers(stride) + _numbers(dilation)) == {1}
        and groups == 1
        and not isinstance(padding, str)
        and not torch.is_autocast_enabled("cpu")
        and not _transformed()
    )


def _transformed() -> bool:
    """Whether torch.compile or torch.func is looking, which know nothing of the functions here."""
    return torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is not None


def _stem_arguments(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0, *_: Any, **__: Any
) -> tuple[Tensor, Tensor, Tensor | None, tuple[int, int]]:
    return input, weight, bias, (2 * _numbers(padding))[:2]


def _numbers(value: Any) -> tuple[int, ...]:
    """One number, one in a sequence, or two."""
    return tuple(value) if isinstance(value, Sequence) else (value,)


class _Stem(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.padding = padding
        return F.conv2d(x, weight, bias, padding=padding)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        if torch.is_grad_enabled():  # it is to be differentiated again
            own = [1, 1], ctx.padding, [1, 1], False, [0, 0], 1, (True, False, False)
            return torch.ops.aten.convolution_backward(grad, x, weight, None, *own)[0], None, None, None
        per_weight = weight.flatten(1).t()
        some = max(1, _PRODUCTS // (weight[0].numel() * grad.shape[2] * grad.shape[3]))
        gradient = torch.empty_like(x)
        for part, into in zip(grad.split(some), gradient.split(some), strict=True):
            into.copy_(F.fold(per_weight @ part.flatten(2), x.shape[2:], weight.shape[2:], padding=ctx.padding))
        return gradient, None, None, None


def _frozen(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    *_: Any,
    **__: Any,
) -> bool:
    """Whether ``F.batch_norm`` with these arguments is one that `_FrozenBatchNorm` can take the place of."""
    return (
        not training
        and running_var is not None
        and input.requires_grad
        and not any(each is not None and each.requires_grad for each in (running_mean, running_var, weight, bias))
        and not _transformed()
    )


def _norm_arguments(
    input: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None, float]:
    return input, running_mean, running_var, weight, bias, eps


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
