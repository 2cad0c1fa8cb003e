"""FGSM training from starts that hide the label, LIET.

Mitigating Catastrophic Overfitting in Fast Adversarial Training via Label Information Elimination. Its rule is that of
the authors' code, https://github.com/fzjcdt/LIET.
"""

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import ops
from ..attacks import FGSM
from ..attacks._ascend import isolated
from ..attacks._attack import drawn_seed
from ..losses import wide
from ._method import Batch, Source, accuracy, altered, check_count, check_weight, forward
from ._parallel import total
from .madry import Madry


@dataclass
class LIET(Madry):
    """FGSM training from starts that hide the label.

    A class has a mark: eps times the sign of its loss's gradient at a grey sample, which gives the label away in any
    image. A sample starts from its class's mark, added or subtracted, with a share of the pixels replaced by noise;
    sign and share are drawn for the batch. From there one step of eps gives the sample to train on. The loss is
    ``CE(z(x_adv), y) + lam JS(p(start), p(x_adv))``, with JS the Jensen-Shannon divergence; `lam` rises linearly over
    the epochs. Both passes are in train mode, and the first one's gradient serves attack and loss.

    The authors average weights with `ema` 0.9995. For CIFAR-10 at 16/255 they have noise 2, shares from 0 to 1, a
    smoothing of 0.4, a lam of 20 and new marks every 10 steps.

    Args:
        attack: its `eps` is the budget, the size of marks and the step.
        label_smoothing: share of the label spread over the other classes, by other random parts each time.
        lam: weight of the divergence in the last epoch.
        every: steps between new marks, from the first of an epoch on.
        least: least share of pixels that are noise.
        most: largest one.
        noise: radius of the noise, as a multiple of eps. Beyond 1, samples are clipped to the range of the inputs only.
    """

    attack: FGSM = field(default_factory=lambda: FGSM(eps=8 / 255), kw_only=True)
    label_smoothing: float = field(default=0.6, kw_only=True)
    lam: float = 100.0
    every: int = 20
    least: float = 0.1
    most: float = 0.5
    noise: float = 1.0

    marks: ClassVar[Tensor | None] = None  # of the classes, [K, ...]
    epochs: ClassVar[int] = 1
    kept = ("marks",)
    repeatable = False
    needs_classes = "it compares predictions of classes"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("lam", "noise"):
            check_weight(name, getattr(self, name))
        check_count("every", self.every, 1)
        if not 0 <= self.least <= self.most <= 1:
            raise ValueError(
                f"least and most must be shares, the former not above the latter, got {self.least} and {self.most}"
            )

    def steadier(self) -> "LIET":
        """With noise that reaches one eps farther."""
        return altered(self, noise=self.noise + 1)

    def begin(self, train: Source, seed: int | None, epochs: int) -> None:
        super().begin(train, seed, epochs)
        self.marks, self.epochs = None, epochs

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        before, x_adv, seed = self.step(model, batch)
        logits = forward(model, x_adv)
        batch.stats["adversarial_accuracy"] = accuracy(logits, batch.y)
        lam = self.lam * min((batch.epoch + 1) / self.epochs, 1)
        loss = F.cross_entropy(logits, self.soft(logits, batch.y, batch.ids, seed, 3))
        return loss + lam * jensen_shannon(before, logits).mean()

    def examples(self, model: nn.Module, batch: Batch) -> Tensor:
        return self.step(model, batch)[1]

    def step(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, int]:
        """The logits [B, K] at the start, the samples to train on [B, ...], and the seed that both were drawn by."""
        x, seed = batch.x, drawn_seed() if self.attack.seed is None else self.attack.seed
        start = self.start(model, batch, seed).requires_grad_()
        before = forward(model, start)
        loss = F.cross_entropy(before, self.soft(before, batch.y, batch.ids, seed, 2))
        grad = torch.autograd.grad(loss * len(x), start, retain_graph=True)[0]
        x_adv, ball = start.detach().clone(), self.attack.eps if self.noise <= 1 else self.attack.unit
        eps, ball = (ops.per_sample("LIET", "eps", each, x) for each in (self.attack.eps, ball))
        ops.linf_step(x_adv, grad, x, eps, ball, *self.attack.bounds)
        batch.stats["gradients"] = torch.ones((), device=x.device)
        return before, x_adv, seed

    def start(self, model: nn.Module, batch: Batch, seed: int) -> Tensor:
        """Where the samples' step begins, [B, ...]."""
        x, number = batch.x, (batch.epoch << 32) + batch.step  # which is that of the batch, in all processes
        drawn = uniform(x.new_zeros(1, 2), torch.tensor([number], device=x.device), seed, 4)[0]
        share, side = self.least + (self.most - self.least) * drawn[0], torch.where(drawn[1] < 0.5, -1, 1)
        if self.marks is None or batch.step % self.every == 0:
            self.marks = self.marked(model, x[:1], number, seed)
        radius = self.noise * float(self.attack.eps)
        noise = radius * (2 * uniform(x, batch.ids, seed, 0) - 1)
        delta = torch.where(uniform(x, batch.ids, seed, 1) < share, noise, self.marks.to(x)[batch.y])
        return (x + side * delta).clamp(*self.attack.bounds)

    def marked(self, model: nn.Module, like: Tensor, number: int, seed: int) -> Tensor:
        """The marks of all classes, [K, ...], for samples such as `like` [1, ...]."""
        with isolated(model):
            grey = torch.full_like(like, sum(self.attack.bounds) / 2)
            with torch.no_grad():
                classes = torch.arange(forward(model, grey).shape[1], device=like.device)
            x = grey.repeat_interleave(len(classes), 0).requires_grad_()
            logits = forward(model, x)
            loss = F.cross_entropy(logits, self.soft(logits, classes, number * len(classes) + classes, seed, 5))
            grad = torch.autograd.grad(loss * len(classes), x)[0]
        return float(self.attack.eps) * total(grad).sign().nan_to_num(0)

    def soft(self, logits: Tensor, y: Tensor, ids: Tensor, seed: int, stream: int) -> Tensor:
        """The labels `y` [B] as probabilities [B, K]: the other classes share the smoothing at random."""
        parts = uniform(logits.detach(), ids, seed, stream).scatter(1, y.unsqueeze(1), 0)
        parts = self.label_smoothing * parts / parts.sum(1, keepdim=True)
        return parts.scatter(1, y.unsqueeze(1), 1 - self.label_smoothing)


def uniform(like: Tensor, ids: Tensor, seed: int, stream: int) -> Tensor:
    """Random numbers in (0, 1) of the shape of `like` [B, ...], by seed, sample and stream."""
    half = like.new_full((len(like),), 0.5)
    return ops.random_start(torch.full_like(like, 0.5), ids, half, seed, stream)


def jensen_shannon(logits: Tensor, others: Tensor) -> Tensor:
    """The Jensen-Shannon divergence of the predictions from two sets of logits [B, K], [B]."""
    log_p, log_q = wide(logits).log_softmax(1), wide(others).log_softmax(1)
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    return sum((each.exp() * (each - log_m)).sum(1) for each in (log_p, log_q)) / 2
