"""Input normalisation inside the model, so that attacks work on pixels."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normalize(nn.Module):
    """`model` behind ``(x - mean) / std``: attacks then see images in [0, 1], and budgets are in pixels.

    `mean` and `std` hold one number a channel; they go where the model's parameters are. Raises ValueError where their
    lengths differ or a std is not positive.
    """

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        if len(mean) != len(std) or not all(s > 0 for s in std):
            raise ValueError(f"Normalize: need as many mean as std, every std positive; got mean={mean}, std={std}")
        self.model = model
        like = next(self.parameters(), torch.empty(0))
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1).to(like), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1).to(like), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.model((x - self.mean) / self.std)
