"""Blind adversarial training (Xie, Xiang, Liu and Dong: Blind Adversarial Training, Algorithm 1)."""

from dataclasses import dataclass

from torch import Tensor, nn

from .. import ops
from ._fit import Batch
from .deepfool import DeepFoolTraining


@dataclass
class Blind(DeepFoolTraining):
    """DeepFool samples cut off at their mean size and scaled: training without a prescribed budget.

    Not to be confused with bilateral adversarial training, which is also abbreviated BAT.

    Args:
        rho: the scale, in [0, 1]; 0.9 in the paper.
        eps: the cutoff, as an RMS norm (L2 over the root of the number of pixels); by default the mean over the batch.
    """

    rho: float = 0.9
    eps: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.rho <= 1:
            raise ValueError(f"rho must be in [0, 1], got {self.rho}")
        if self.eps is not None and not self.eps >= 0:
            raise ValueError(f"eps must not be negative, got {self.eps}")

    def examples(self, model: nn.Module, batch: Batch) -> Tensor:
        x_adv = super().examples(model, batch)
        norms = ops.row_norms(x_adv, "rms", batch.x)
        ops.cutoff_scale(x_adv, batch.x, norms, self.eps, self.rho)  # at eps, or at the mean norm; then rho
        batch.stats["mean_norm"] = norms.nan_to_num(0, 0, 0).mean()
        return x_adv
