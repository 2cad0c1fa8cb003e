"""Per-sample losses on logits: ``(logits [B, K], y [B]) -> [B]``. Attacks maximise them.

Sums over a batch of per-sample losses give per-sample gradients, whatever the batch; means would not.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """``-log softmax(logits)[y]``, per sample, at least in float32."""
    return F.cross_entropy(_wide(logits), y, reduction="none")


def margin(logits: Tensor, y: Tensor, kappa: float = 50.0) -> Tensor:
    """Carlini and Wagner's margin ``-max(z_y - max_{j != y} z_j + kappa, 0)``, per sample, at least in float32.

    `kappa` is the confidence beyond which more is no better; 50, as everywhere in the literature, never saturates in
    practice, 0 stops at the decision boundary.
    """
    logits = _wide(logits)
    true = logits.gather(1, y.unsqueeze(1)).squeeze(1)
    others = logits.scatter(1, y.unsqueeze(1), -torch.inf).amax(dim=1)
    return -(true - others + kappa).clamp_min(0)


def _wide(logits: Tensor) -> Tensor:
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


LOSSES: dict[str, Loss] = {"ce": cross_entropy, "margin": margin}
