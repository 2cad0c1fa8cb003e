"""Max-margin adversarial training (Ding et al., 2020: MMA)."""

import dataclasses
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..attacks import ANPGD
from ..losses import soft_margin
from ._adversarial import AttackMethod
from ._method import Batch, Source, accuracy, forward


@dataclass
class MMA(AttackMethod):
    """MMA: learns samples at the boundary until it is far enough.

    The loss is a third of the clean cross-entropy, and two thirds of that of x_adv where the boundary is nearer than
    the hinge and of x where that is beyond it, as a sum over B. The boundary is where the soft margin is 0. `distances`
    [N], in the order of the data, 0 for samples beyond the boundary, are where PGD looks next time.

    Args:
        attack: finds the boundary. Its `eps` follows the distances; it looks 1.05 times as far as the hinge, and its
            boundary is `soft`.
        hinge: margin that is enough, in the attack's norm. 12, 20 or 32 grey levels for CIFAR-10.
        nearest: smallest budget of PGD.
    """

    attack: ANPGD = field(default_factory=ANPGD, kw_only=True)
    hinge: float = 12 / 255
    nearest: float = 0.005

    kept = per_sample = ("distances",)
    repeatable = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.nearest <= self.hinge:
            raise ValueError(f"nearest must be between 0 and the hinge {self.hinge:g}, got {self.nearest}")

    @property
    def in_units(self) -> tuple[str, ...]:
        return ("hinge", "nearest")

    def attack_in(self, epoch: int) -> ANPGD:
        return dataclasses.replace(self.attack, longest=1.05 * self.hinge, soft=True)

    def begin(self, train: Source, seed: int | None, epochs: int) -> None:
        super().begin(train, seed, epochs)
        self.distances = torch.full((len(train),), self.nearest, device=train.device)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        clean = forward(model, batch.x)
        right = soft_margin(clean.detach(), batch.y) < 0
        batch.stats["clean_accuracy"] = accuracy(clean, batch.y)
        loss = self.cross_entropy(clean, batch.y)
        margin = self.cross_entropy(clean[~right], batch.y[~right], "sum")
        index = batch.index[right]
        before, self.distances[batch.index] = self.distances[batch.index], 0.0
        batch.stats |= dict.fromkeys(("gradients", "adversarial_accuracy"), torch.zeros_like(loss))
        if len(index):
            eps = before[right].clamp_min(self.nearest).to(batch.x.dtype)
            attack = dataclasses.replace(self.attack_in(batch.epoch), eps=eps)
            rows = attack.rows(model, batch.x[right], batch.y[right], batch.ids[right])
            near = rows.state.distance < self.hinge
            self.distances[index] = rows.state.distance.to(self.distances.dtype)
            if bool(near.any()):
                margin = margin + self.cross_entropy(forward(model, rows.x_adv[near]), rows.y[near], "sum")
            batch.stats["gradients"] = rows.grads.sum() / len(right)
            batch.stats["adversarial_accuracy"] = (~near).sum() / len(right)
        batch.stats["distance"] = self.distances[batch.index].mean()
        return loss / 3 + 2 / 3 * margin / len(right)
