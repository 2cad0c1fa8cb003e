"""Normal training (NT)."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from ._fit import Batch, Method


@dataclass
class Standard(Method):
    """Cross-entropy on clean data."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        logits = model(batch.x)
        batch.stats["clean_accuracy"] = (logits.argmax(1) == batch.y).float().mean()
        return F.cross_entropy(logits, batch.y, label_smoothing=self.label_smoothing)
