"""Numbers and masks a channel or a feature, laid over samples."""

from collections.abc import Sequence

import torch
from torch import Tensor

PerFeature = float | Sequence[float] | Tensor
"""A number; one a channel, [C]; or a tensor with the dimensions of a sample, such as [C, 1, 1] or [C, H, W]."""


def over_features(name: str, value: PerFeature, x: Tensor) -> Tensor:
    """`value` in float64, with the dimensions of `x` [B, ...].

    Dimensions alone say what it is, never a size that happens to fit: one dimension is that of channels, the second of
    `x`. Raises ValueError for any other shape.
    """
    given = torch.as_tensor(value, dtype=torch.float64, device=x.device)
    sample = x.shape[1:]
    laid = given.reshape(-1, *[1] * (len(sample) - 1)) if given.dim() == 1 else given
    if laid.dim() not in (0, len(sample)) or any(
        size not in (1, full) for size, full in zip(laid.shape, sample[: laid.dim()], strict=True)
    ):
        raise ValueError(
            f"ThreatModel: {name} must be a number, one a channel, ({sample[0]},), or a tensor that fits a sample, "
            f"{tuple(sample)}; got shape {tuple(given.shape)}"
        )
    return laid.reshape(1, *(laid.shape or [1] * len(sample)))


def over_samples(mask: Tensor, x: Tensor) -> Tensor:
    """`mask` as bool, with the dimensions of `x` [B, ...]: it has those of `x`, those of a sample, or [H, W].

    Dimensions alone say which. Raises ValueError for any other shape, and for values other than 0 and 1.
    """
    if not isinstance(mask, Tensor):
        raise TypeError(f"ThreatModel: mask must be a tensor, got {type(mask).__name__}")
    mask = mask.to(x.device)
    if mask.dtype != torch.bool:
        if not bool(((mask == 0) | (mask == 1)).all()):
            raise ValueError("ThreatModel: mask must hold True and False, or 1 and 0: 1 is what may change")
        mask = mask == 1
    missing = x.dim() - mask.dim()
    laid = {0: mask, 1: mask[None], 2: mask[None, None]}.get(missing if x.dim() > 2 or missing < 2 else -1)
    if (
        laid is None
        or any(size not in (1, full) for size, full in zip(laid.shape[1:], x.shape[1:], strict=True))
        or (missing == 0 and len(mask) != len(x))
    ):
        sample = tuple(x.shape[1:])
        places = f", {sample[1:]} for all channels" if len(sample) > 1 else ""
        raise ValueError(
            f"ThreatModel: mask must be {sample}{places}, or have one a sample, {tuple(x.shape)}; got "
            f"{tuple(mask.shape)}. Masks [B, H, W] are mask.unsqueeze(1)"
        )
    return laid
