"""Networks that compute in fewer bits: weights, losses and attacks stay in float32."""

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ..attacks._casts import casting_once
from ..models.adapted import logits_of

PRECISIONS: dict[str, torch.dtype | None] = {
    "float32": None,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}

SCALE = 2.0**10
"""What attacks multiply gradients by on their way through a float16 network, below whose range many fall."""


class Autocast(nn.Module):
    """`model` under autocast to `dtype`, with logits in the dtype of the samples.

    In float16, gradients of samples through a network in eval mode, which are those of attacks, are scaled by 1024
    inside it and back where they leave it. Gradients of parameters are a `torch.amp.GradScaler`'s matter.

    Args:
        model: samples to logits.
        dtype: torch.bfloat16 or torch.float16.
        attacks: whether attacks, in eval mode, see it so.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype, attacks: bool = True):
        super().__init__()
        self.model, self.dtype, self.attacks = model, dtype, attacks
        self.compiled = hasattr(model, "_orig_mod")

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training or self.attacks):
            return logits_of(self.model, x)
        scaled = self.dtype == torch.float16 and x.requires_grad and not self.training
        with torch.autocast(x.device.type, self.dtype), nullcontext() if self.training else casting_once(self.model, x):
            logits = logits_of(self.model, _Scaled.apply(x, 1 / SCALE) if scaled else x)
        logits = logits.to(x.dtype)
        return _Scaled.apply(logits, SCALE) if scaled else logits

    def extra_repr(self) -> str:
        return f"dtype={self.dtype}, attacks={self.attacks}"


class _Scaled(torch.autograd.Function):
    """Itself, with a gradient times `factor`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.factor, None
