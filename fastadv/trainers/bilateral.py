"""Bilateral adversarial training (Wang and Zhang, ICCV 2019: both image and label are adversarial)."""

import dataclasses
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import ops
from ..attacks import Attack, OneStepTargeted, Rows, isolated
from ._adversarial import AttackMethod
from ._method import Batch, Source, accuracy


@dataclass
class Bilateral(AttackMethod):
    """One-step targeted samples under adversarial labels; by default R-MC-LA.

    Not to be confused with blind adversarial training, which is also abbreviated BAT. The attack scales with the data:
    8/255 within its own `bounds` [0, 1] is 8 grey levels also where the data lie in [-1, 1]. Attack and labels see the
    network in eval mode. There is no clean term in the loss.

    Args:
        attack: `OneStepTargeted` for MC, LL and R-FGSM, with and without a random start; `PGD` of seven steps for the
            paper's Madry and Madry-LA.
        labels: ``adversarial`` (LA), ``smooth`` (LS), which is what equal gradients of the labels give (equation 15),
            or ``hard``.
        beta: how many times the largest wrong share the true class keeps, at least 1; 9 for 10 classes, 11 for 100.
        gamma: how much of the share of the most confusing class is left, positive; see equation 14.
        variant: ``main`` (equations 14 and 18) or ``sup`` (26 and 28, of the supplement).
        top_k: only so many of the least likely wrong classes take a share (LA9: ``sup`` with 9); 0, or as many as
            there are wrong classes, lets all.
    """

    attack: Attack = field(default_factory=lambda: OneStepTargeted(eps=8 / 255), kw_only=True)
    labels: str = "adversarial"
    beta: float = 9.0
    gamma: float = 0.01
    variant: str = "main"
    top_k: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, choices in (("labels", ("adversarial", "smooth", "hard")), ("variant", ("main", "sup"))):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")
        if not self.beta >= 1:
            raise ValueError(f"beta must be at least 1, got {self.beta}")
        if not self.gamma > 0:
            raise ValueError(f"gamma must be positive, got {self.gamma}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be a number of classes, or 0 for all, got {self.top_k}")

    def begin(self, train: Source, seed: int | None, epochs: int) -> None:
        ratio = (train.bounds[1] - train.bounds[0]) / (self.attack.bounds[1] - self.attack.bounds[0])
        sizes = {name: getattr(self.attack, name, None) for name in ("eps", "alpha")}
        scaled = {name: size * ratio for name, size in sizes.items() if size is not None}
        super().begin(train, seed, epochs)
        self.attack = dataclasses.replace(self.attack, **scaled)

    def soft_labels(self, logits: Tensor, y: Tensor) -> Tensor:
        """What the network is to predict instead of `y` [B], given its `logits` [B, K] at the natural samples.

        Only adversarial labels depend on their values.
        """
        if self.labels == "hard":
            return F.one_hot(y, logits.shape[1]).to(logits.dtype)
        logits = torch.zeros_like(logits) if self.labels == "smooth" else logits
        return ops.adversarial_labels(logits, y, self.beta, self.gamma, self.variant, self.top_k)

    def craft(self, model: nn.Module, batch: Batch, y: Tensor | None) -> Rows:
        rows = super().craft(model, batch, y)
        if self.labels == "adversarial":
            with isolated(model), torch.no_grad():
                rows.natural = model(batch.x)
        return rows

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        rows = self.attacked(model, batch, batch.y)
        logits = model(rows.x_adv)
        natural = logits.detach()
        if self.labels == "adversarial":
            natural = rows.natural
            batch.stats["clean_accuracy"] = accuracy(natural, batch.y)
        y_adv = self.soft_labels(natural, batch.y)
        batch.stats["adversarial_accuracy"] = accuracy(logits, batch.y)
        batch.stats["label_budget"] = 1 - y_adv.gather(1, batch.y.unsqueeze(1)).mean()  # eps_y
        return F.cross_entropy(logits, y_adv)
