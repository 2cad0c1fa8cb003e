"""Blind adversarial training (Xie, Xiang, Liu and Dong: Blind Adversarial Training, Algorithm 1)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .. import ops
from ..attacks import Rows
from ._method import Batch
from ._parallel import mean
from .deepfool import DeepFoolTraining


@dataclass
class Blind(DeepFoolTraining):
    """Blind AT: scaled DeepFool samples, with no budget to choose.

    Not to be confused with bilateral adversarial training, which is also abbreviated BAT. With `rho` 1 only the cutoff
    is left, with `cutoff` infinite only the scale, with both DeepFool training; with either of them 0 normal training,
    whose loss counts twice. Under ``torch.distributed``, the mean size is that over all processes' batches. The paper
    would try ``DDN`` as the attack: with few steps it needs a large gamma, ``DDN(steps=20, gamma=0.2)``.

    Args:
        rho: scale of the perturbations, in [0, 1].
        cutoff: size at which perturbations are cut off. By default the mean over the batch. It is in `norm`, for inputs
            in the attack's own `bounds`.
        norm: of sizes: rms, l2 or rel. ``rms`` is L2 over the root of the number of pixels,
            which fits the norms that the paper prints without a unit; ``rel`` is L2
            relative to that of the sample, which weighs the samples of a batch differently.
    """

    rho: float = 0.9
    cutoff: float | None = None
    norm: str = "rms"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.rho <= 1:
            raise ValueError(f"rho must be in [0, 1], got {self.rho}")
        if self.cutoff is not None and not self.cutoff >= 0:
            raise ValueError(f"cutoff must not be negative, got {self.cutoff}")
        if self.norm not in ("rms", "l2", "rel"):
            raise ValueError(f"norm must be one of rms, l2, rel, got {self.norm!r}")

    @property
    def whole_batch(self) -> str:
        return "perturbations are cut off at their mean size, unless a cutoff is given" if self.cutoff is None else ""

    @property
    def in_units(self) -> tuple[str, ...]:
        return () if self.cutoff is None or self.norm == "rel" else ("cutoff",)

    def sizes(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """The size of each perturbation, [B]."""
        if self.norm == "rel":
            return ops.row_norms(x_adv, "l2", x) / ops.row_norms(x, "l2").clamp_min(torch.finfo(x.dtype).tiny)
        return ops.row_norms(x_adv, self.norm, x)

    def craft(self, model: nn.Module, batch: Batch, y: Tensor | None) -> Rows:
        rows = super().craft(model, batch, y)  # delta = x_adv - x
        sizes = self.sizes(rows.x_adv, batch.x)
        mean_size = mean(sizes.nan_to_num(0, 0, 0).double()).to(sizes.dtype)
        cutoff = mean_size if self.cutoff is None else self.cutoff
        ops.cutoff_scale(rows.x_adv, batch.x, sizes, cutoff, self.rho)  # x + rho * cut(delta, cutoff)
        batch.stats["mean_norm"] = mean_size
        return rows
