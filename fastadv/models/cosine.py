"""A head of cosines for any network."""

import torch.nn.functional as F
from torch import Tensor, nn


class CosineHead(nn.Linear):
    """``scale * cos(angle between features and a class's weights)``, without bias: logits in [-scale, scale].

    Logits [B, classes] from features [B, features]. Raises ValueError for a `scale` that is not positive.
    """

    def __init__(self, features: int, classes: int, scale: float = 5.0):
        if not scale > 0:
            raise ValueError(f"CosineHead: scale must be positive, got {scale}")
        super().__init__(features, classes, bias=False)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * F.linear(F.normalize(x), F.normalize(self.weight))


def with_cosine_head(network: nn.Module, scale: float = 5.0) -> nn.Module:
    """`network` with a `CosineHead` of new weights in the place of its last linear layer, changed in place.

    Raises ValueError for a network without a linear layer inside it, or a `scale` that is not positive.
    """
    name, last = ([("", None)] + [pair for pair in network.named_modules() if isinstance(pair[1], nn.Linear)])[-1]
    if not name:
        raise ValueError(f"{type(network).__name__} has no linear layer inside it that a head of cosines could replace")
    network.set_submodule(name, CosineHead(last.in_features, last.out_features, scale).to(last.weight))
    return network
