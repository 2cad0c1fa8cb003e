"""Self-adaptive margin defense (Ma and Liang: Adversarial Training with Self-adaptive Margins)."""

import dataclasses
import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import ops
from ..attacks import EPGD, Rows, isolated
from ..losses import LOSSES
from ._adversarial import AttackMethod
from ._method import Batch, Row, Source
from ._parallel import mean


@dataclass
class SMD(AttackMethod):
    """Every sample has a margin of its own, which grows until the attack crosses the boundary within it (Algorithm 1).

    ``(CE(z(x), y) + CE(z(x_adv), y)) / 2``, the second over samples that are classified correctly, taken to just before
    the boundary or to their margin. Where the attack never crossed the boundary, the margin grows, the less the larger
    it is and the steeper the loss (equations 13, 14); where it did, the margin is the way to the boundary. No budget is
    asked for: margins start at, and grow by, a step that leads across the range of the inputs within the epochs of the
    run (12), and are at most 128 grey levels. `margins` [N] has them in the order of the data, in `attack.norm`;
    `histogram` [epochs, 129] how many were how many grey levels after each epoch.

    Args:
        attack: how the way to the boundary is found; its `eps` is the margins, and `alpha` follows where it is None.
            The loss whose steepness slows growth is the attack's.
        rho: by how much growth shrinks at every grey level of the margin.
        misclassified: margins of samples that are misclassified without attack ``keep`` what they are or are ``reset``
            to what they start at; Algorithm 1 does not say.
    """

    attack: EPGD = field(default_factory=EPGD, kw_only=True)
    rho: float = 0.9
    misclassified: str = "keep"

    budget = None  # the margins are
    kept = ("margins", "histogram")
    per_sample = ("margins",)
    repeatable = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.rho <= 1:
            raise ValueError(f"rho must be in [0, 1], got {self.rho}")
        if self.misclassified not in ("keep", "reset"):
            raise ValueError(f"misclassified must be keep or reset, got {self.misclassified!r}")

    def begin(self, train: Source, seed: int, epochs: int) -> None:
        super().begin(train, seed, epochs)
        whole = (train.bounds[1] - train.bounds[0]) * (
            math.sqrt(math.prod(train.sample_shape)) if self.attack.norm == "l2" else 1
        )
        self.level = whole / 255  # h(x/255): one grey level everywhere
        self.step = math.ceil(255 / epochs) * self.level  # 12
        self.largest = 128 * self.level
        self.margins = torch.full((len(train),), min(self.step, self.largest), device=train.device)
        self.histogram = torch.zeros(epochs, 129, dtype=torch.int64)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        clean = model(batch.x)
        right = clean.argmax(1) == batch.y
        batch.stats["clean_accuracy"] = right.float().mean()
        loss = F.cross_entropy(clean, batch.y)
        if self.misclassified == "reset":
            self.margins[batch.index[~right]] = min(self.step, self.largest)
        index, share = batch.index[right], mean(right.float())
        batch.stats |= dict.fromkeys(("gradients", "adversarial_accuracy"), torch.zeros_like(loss))
        if len(index):
            attack = dataclasses.replace(self.attack, eps=self.margins[index].to(batch.x.dtype))
            rows = attack.rows(model, batch.x[right], batch.y[right], batch.ids[right])
            self.margins[index] = self.adapted(model, rows).to(self.margins.dtype)  # first: its pass needs memory, too
            loss = loss + F.cross_entropy(model(rows.x_adv), rows.y, reduction="sum") / (share * len(right))
            batch.stats["gradients"] = rows.grads.sum() / len(right)
            batch.stats["adversarial_accuracy"] = (~rows.crossed).sum() / len(right)
        batch.stats["margin"] = self.margins[batch.index].mean()
        return loss / 2

    def adapted(self, model: nn.Module, rows: Rows) -> Tensor:
        """The margins of attacked samples for the next epoch, [B]."""
        with isolated(model):
            steepness = ops.row_norms(rows.gradient(LOSSES[self.attack.loss]), self.attack.norm)
        levels = (rows.eps / self.level + 1e-4).floor()  # 7/255 in float32 are seven
        grown = rows.eps + self.step * self.rho**levels / (1 + steepness)  # 13, 14
        reached = ops.row_norms(rows.x_adv, self.attack.norm, rows.x)
        # Batch norm may see x on the wrong side in eval mode: nothing is reached from there.
        return torch.where(rows.crossed & (reached > 0), reached, torch.where(rows.crossed, rows.eps, grown)).clamp_max(
            self.largest
        )

    def end_epoch(self, row: Row) -> None:
        if row["epoch"] <= len(self.histogram):  # training for minutes may go on beyond the epochs planned
            levels = (self.margins / self.level).round().long().cpu()
            self.histogram[row["epoch"] - 1] = levels.bincount(minlength=129)
