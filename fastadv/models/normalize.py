"""Input normalisation inside the model, so that attacks work on pixels."""

from collections.abc import Sequence
from numbers import Real

import torch
from torch import Tensor, nn


class Normalize(nn.Module):
    """`model` behind ``(x - mean) / std``: attacks then see images in [0, 1], and budgets are in pixels.

    `mean` and `std` are a number, for samples of any shape, or hold one a channel of images [B, C, H, W]. They go where
    the model's parameters are. Raises ValueError where their lengths differ or a std is not positive, and when called
    on images with another number of channels.
    """

    def __init__(self, model: nn.Module, mean: float | Sequence[float], std: float | Sequence[float]):
        super().__init__()
        lengths = {len(value) for value in (mean, std) if not isinstance(value, Real)}
        if len(lengths) > 1 or not all(s > 0 for s in ((std,) if isinstance(std, Real) else std)):
            raise ValueError(f"Normalize: need as many mean as std, every std positive; got mean={mean}, std={std}")
        self.model = model
        like = next(self.parameters(), torch.empty(0))
        for name, value in {"mean": mean, "std": std}.items():
            shape = () if isinstance(value, Real) else (-1, 1, 1)
            self.register_buffer(name, torch.tensor(value).view(shape).to(like), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        channels = max(self.mean.numel(), self.std.numel())
        if channels > 1 and (x.dim() < 3 or x.shape[-3] != channels):
            raise ValueError(f"Normalize: mean and std are of {channels} channels, the samples {list(x.shape[1:])}")
        return self.model((x - self.mean) / self.std)
