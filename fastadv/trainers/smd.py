"""Self-adaptive margin defense, SMD.

Ma and Liang: Improving Adversarial Robustness of Deep Neural Networks via Self-adaptive Margin Defense.
"""

import dataclasses
import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .. import ops
from ..attacks import EPGD, Rows, isolated, predicted
from ._adversarial import AttackMethod
from ._method import Batch, Row, Source, forward
from ._parallel import mean


@dataclass
class SMD(AttackMethod):
    """SMD: a margin for every sample, which grows with training.

    The margin grows until the attack crosses the boundary within it (Algorithm 1). The loss is ``(CE(z(x), y) +
    CE(z(x_adv), y)) / 2``, the second over samples that are classified correctly, taken to just before the boundary or
    to their margin. Where the attack never crossed the boundary, the margin grows, the less the larger it is and the
    steeper the loss (equations 13, 14). Where it did, the margin is the way to the boundary: 0 where the attack returns
    x itself. No budget is asked for: margins start at, and grow by, a step that leads across the range of the inputs
    within the epochs of the run (12), and are at most 128 grey levels.

    After each epoch `margins` [N] has them in the order of the data, in `attack.norm`, `correct` [N] is 1 where the
    clean sample was classified correctly and 0 elsewhere, and `histogram` [epochs, 129] and `histogram_correct` count
    the grey levels of all margins and of those of correct samples. The history has the means ``margin`` and
    ``margin_correct``.

    Misclassified samples: line 12 of Algorithm 1 sets their margins, too, to the distance from x to x_adv, and Appendix
    A says that they are refined to smaller ones. Neither says what x_adv is, since the attack runs on the others only.
    ``refine`` takes x itself, so that the margin is 0, and grows again once the sample is correct.

    Args:
        attack: finds the way to the boundary. Its `eps` is the margins, and `alpha` follows where it is None. The loss
            whose steepness slows growth is the attack's.
        rho: how much slower margins grow with every grey level.
        misclassified: refine, reset or keep their margins. ``refine`` sets the margins of misclassified clean samples
            to 0, ``reset`` to what margins start at, and ``keep`` leaves them, as the authors' later code does.
    """

    attack: EPGD = field(default_factory=EPGD, kw_only=True)
    rho: float = 0.9
    misclassified: str = "refine"

    budget = None  # the margins are
    kept = ("margins", "correct", "histogram", "histogram_correct")
    per_sample = ("margins", "correct")
    repeatable = False

    whole_batch = "its loss is a mean over those of its samples that are classified correctly"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.rho <= 1:
            raise ValueError(f"rho must be in [0, 1], got {self.rho}")
        if self.misclassified not in ("refine", "reset", "keep"):
            raise ValueError(f"misclassified must be one of refine, reset, keep, got {self.misclassified!r}")

    def begin(self, train: Source, seed: int | None, epochs: int) -> None:
        super().begin(train, seed, epochs)
        whole = (train.bounds[1] - train.bounds[0]) * (
            math.sqrt(math.prod(train.sample_shape)) if self.attack.norm == "l2" else 1
        )
        self.level = whole / 255  # h(x/255): one grey level everywhere
        self.step = math.ceil(255 / epochs) * self.level  # 12
        self.largest = 128 * self.level
        self.margins = torch.full((len(train),), min(self.step, self.largest), device=train.device)
        self.correct = torch.zeros_like(self.margins)  # a number: processes take its mean, as of margins
        self.histogram = torch.zeros(epochs, 129, dtype=torch.int64)
        self.histogram_correct = torch.zeros_like(self.histogram)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        clean = forward(model, batch.x)
        right = predicted(clean) == batch.y
        batch.stats["clean_accuracy"] = right.float().mean()
        loss = self.cross_entropy(clean, batch.y)
        self.correct[batch.index] = right.to(self.correct.dtype)
        if self.misclassified != "keep":
            self.margins[batch.index[~right]] = 0.0 if self.misclassified == "refine" else min(self.step, self.largest)
        index, share = batch.index[right], mean(right.float())
        batch.stats |= dict.fromkeys(("gradients", "adversarial_accuracy"), torch.zeros_like(loss))
        if len(index):
            attack = dataclasses.replace(self.attack, eps=self.margins[index].to(batch.x.dtype))
            rows = attack.rows(model, batch.x[right], batch.y[right], batch.ids[right])
            self.margins[index] = self.adapted(model, rows).to(self.margins.dtype)  # first: its pass needs memory, too
            loss = loss + self.cross_entropy(forward(model, rows.x_adv), rows.y, "sum") / (share * len(right))
            batch.stats["gradients"] = rows.grads.sum() / len(right)
            batch.stats["adversarial_accuracy"] = (~rows.state.crossed).sum() / len(right)
        return loss / 2

    def adapted(self, model: nn.Module, rows: Rows) -> Tensor:
        """The margins of attacked samples for the next epoch, [B]."""
        with isolated(model):
            steepness = ops.row_norms(rows.ascent(self.attack.loss)[0], self.attack.norm) * self.attack.unit
        levels = (rows.eps / self.level + 1e-4).floor()  # 7/255 in float32 are seven
        grown = rows.eps + self.step * self.rho**levels / (1 + steepness)  # 13, 14
        reached = ops.row_norms(rows.x_adv, self.attack.norm, rows.x)
        return torch.where(rows.state.crossed, reached, grown).clamp_max(self.largest)

    def end_epoch(self, row: Row) -> None:
        correct = self.correct > 0.5
        row |= {"margin": float(self.margins.mean()), "margin_correct": float(self.margins[correct].mean())}
        if row["epoch"] <= len(self.histogram):  # training for minutes may go on beyond the epochs planned
            levels = (self.margins / self.level).round().long()
            self.histogram[row["epoch"] - 1] = levels.cpu().bincount(minlength=129)
            self.histogram_correct[row["epoch"] - 1] = levels[correct].cpu().bincount(minlength=129)
