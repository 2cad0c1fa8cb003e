"""Bilateral adversarial training (Wang and Zhang, ICCV 2019: both image and label are adversarial)."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import ops
from ..attacks import Attack, OneStepTargeted, Rows, isolated
from ..attacks._state import Natural
from ._adversarial import AttackMethod
from ._method import Batch, accuracy, check_weight, forward


@dataclass
class Bilateral(AttackMethod):
    """Bilateral AT: one-step attacks, adversarial labels (R-MC-LA).

    Not to be confused with blind adversarial training, which is also abbreviated BAT. Attack and labels see the network
    in eval mode. There is no clean term in the loss.

    Args:
        attack: one-step attack. `OneStepTargeted` gives MC, LL and R-FGSM, with and without a random start; `PGD` of
            seven steps gives the paper's Madry and Madry-LA.
        labels: kind of labels: adversarial, smooth or hard. They are LA, LS and the given ones. ``smooth`` is what
            equal gradients of the labels give (equation 15).
        beta: bound on the true class's share, at least 1. It keeps this many times the largest wrong share; 9 for 10
            classes, 11 for 100.
        gamma: share of the most confusing class, positive. It is what is left of it; see equation 14.
        variant: equations of the labels: main, sup or step. ``main`` is 14 and 18, ``sup`` is 26 and 28, of the
            supplement. ``step`` is 12, which the paper starts from: a step along the gradient, then the nearest label
            whose shares differ by at most eps_y from the given one. Neither eps_y nor the step is printed; eps_y is
            that of 19 here, which gives the true class at least what smooth labels give it.
        top_k: least likely wrong classes with a share, 0 for all. LA9 is ``sup`` with 9.
        alpha: length of the step of equation 12.
        label_smoothing: share of the label spread over all classes, where labels are ``hard``. The others are soft
            already, by `beta`.
    """

    attack: Attack = field(default_factory=lambda: OneStepTargeted(eps=8 / 255), kw_only=True)
    labels: str = "adversarial"
    beta: float = 9.0
    gamma: float = 0.01
    variant: str = "main"
    top_k: int = 0
    alpha: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, choices in (("labels", ("adversarial", "smooth", "hard")), ("variant", ("main", "sup", "step"))):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")
        if not self.beta >= 1:
            raise ValueError(f"beta must be at least 1, got {self.beta}")
        if not self.gamma > 0:
            raise ValueError(f"gamma must be positive, got {self.gamma}")
        check_weight("alpha", self.alpha)
        if self.label_smoothing and self.labels != "hard":
            raise ValueError(
                f"labels {self.labels} are soft already, by beta: set label_smoothing to 0, or labels to hard"
            )
        if self.top_k < 0:
            raise ValueError(f"top_k must be a number of classes, or 0 for all, got {self.top_k}")
        if self.top_k and self.variant == "step":
            raise ValueError(f"a step gives every class a share: set top_k to 0 or variant to sup, got {self.top_k}")

    def soft_labels(self, logits: Tensor, y: Tensor) -> Tensor:
        """What the network is to predict instead of `y` [B], given its `logits` [B, K] at the natural samples.

        Only adversarial labels depend on their values.
        """
        if self.labels == "hard":
            return F.one_hot(y, logits.shape[1]).to(logits.dtype)
        if self.labels == "smooth":
            return ops.adversarial_labels(torch.zeros_like(logits), y, self.beta, self.gamma, top_k=self.top_k)
        if self.variant == "step":
            eps_y = 1 / (1 + self.beta / (logits.shape[1] - 1))
            given, slope = F.one_hot(y, logits.shape[1]).double(), -logits.double().log_softmax(1)  # 13
            return nearest_label(given + self.alpha * slope, given - eps_y, given + eps_y).to(logits.dtype)
        return ops.adversarial_labels(logits, y, self.beta, self.gamma, self.variant, self.top_k)

    def craft(self, model: nn.Module, batch: Batch, y: Tensor | None) -> Rows:
        rows = super().craft(model, batch, y)
        if self.labels == "adversarial":
            with isolated(model), torch.no_grad():
                rows.state = Natural(forward(model, batch.x))
        return rows

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        rows = self.attacked(model, batch, batch.y)
        logits = forward(model, rows.x_adv)
        natural = logits.detach()
        if self.labels == "adversarial":
            natural = rows.state.natural
            batch.stats["clean_accuracy"] = accuracy(natural, batch.y)
        y_adv = self.soft_labels(natural, batch.y)
        batch.stats["adversarial_accuracy"] = accuracy(logits, batch.y)
        batch.stats["label_budget"] = 1 - y_adv.gather(1, batch.y.unsqueeze(1)).mean()  # eps_y
        return self.cross_entropy(logits, y_adv)


def nearest_label(point: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The probabilities nearest to `point`, all [B, K], with shares of at least `low` and at most `high`.

    It is `point` less one number a sample, cut to the bounds. The sum of the shares falls with that number, in a line
    between the numbers at which one of them meets a bound.
    """
    low, high = low.clamp_min(0), high.clamp_max(1)
    knots = torch.cat((point - low, point - high), dim=1).sort(dim=1).values
    sums = (point.unsqueeze(1) - knots.unsqueeze(2)).clamp(low.unsqueeze(1), high.unsqueeze(1)).sum(2)
    left = ((sums >= 1).sum(1, keepdim=True) - 1).clamp(0, knots.shape[1] - 2)
    (before, after), (more, less) = ((each.gather(1, left), each.gather(1, left + 1)) for each in (knots, sums))
    off = before + (after - before) * ((more - 1) / (more - less).clamp_min(1e-12)).clamp(0, 1)
    return torch.minimum(torch.maximum(point - off, low), high)
