"""Adversarial fine-tuning with a dynamically regulated adversary (Hou: thesis, chapter 4)."""

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attacks import DRA, Attack
from ._adversarial import AttackMethod, report
from ._method import Batch, accuracy, check_weight


@dataclass
class DRAFineTuning(AttackMethod):
    """Cross-entropy on clean and attacked samples, one to one, in one forward pass; then on clean samples alone.

    The second phase of training: the first is normal training, whose network this starts from. The budget falls in a
    line, from the attack's to `last_eps` in the last of the epochs with an attack.

    Args:
        attack: DRA, or any with a budget, which is that of the first epoch; step sizes fall with it.
        last_eps: the budget of the last epoch with an attack; the attack's, for one that stays.
        attack_epochs: how many epochs have an attack.
    """

    attack: Attack = field(default_factory=lambda: DRA(eps=2 / 255, p=1 / 3, steps=5), kw_only=True)
    last_eps: float = 0.5 / 255
    attack_epochs: int = 50

    in_epochs = ("eps_warmup", "attack_epochs")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weight("last_eps", self.last_eps)
        if self.attack_epochs < 1:
            raise ValueError(f"attack_epochs must be at least 1, got {self.attack_epochs}")
        if not self.attack.has_budget:
            raise ValueError(f"the attack must have a budget, which falls to last_eps; got {self.attack!r}")

    def attack_in(self, epoch: int) -> Attack:
        share = min(epoch / max(self.attack_epochs - 1, 1), 1.0)
        return self.attack.at(self.attack.eps + share * (self.last_eps - self.attack.eps))

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        if batch.epoch >= self.attack_epochs:
            logits = model(batch.x)
            batch.stats["clean_accuracy"] = accuracy(logits, batch.y)
            batch.stats |= {"gradients": logits.new_zeros(()), "adversarial_accuracy": logits.new_tensor(math.nan)}
            return F.cross_entropy(logits, batch.y)
        logits = model(torch.cat((batch.x, self.examples(model, batch))))
        report(batch, *logits.chunk(2))
        return F.cross_entropy(logits, batch.y.repeat(2))
