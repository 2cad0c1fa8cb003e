"""Adam, as attacks use it."""

import torch
from torch import Tensor

ADAM = 0.9, 0.999
"""Its beta_1 and beta_2."""
TINY = 1e-8
"""Its epsilon, for inputs of range 1."""


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Adam's mean and mean square of the gradients at first, [B, ...], at least in float32."""
    wide = torch.promote_types(x.dtype, torch.float32)
    return torch.zeros_like(x, dtype=wide), torch.zeros_like(x, dtype=wide)
