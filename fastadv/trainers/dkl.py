"""Training with the improved Kullback-Leibler divergence (Cui et al., NeurIPS 2024: Decoupled ... Divergence Loss)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..losses import wide
from ._adversarial import both, report
from ._method import Batch, Row, Source, check_weight
from ._parallel import total
from .trades import TRADES


@dataclass
class DKL(TRADES):
    """TRADES with its divergence taken apart, weighted by class.

    By its gradients, the divergence is a weighted square error of differences of logits, at x, and a cross-entropy with
    soft labels, at x_adv. Here the first has a gradient at x_adv, too, and mean predictions of the class as weights
    (improved KL, IKL). The loss is ``CE(z(x), y) + alpha CE(p(x), z(x_adv)) + beta / 4 sum_jk w_j w_k (d_j - d_k)^2``
    with ``d = z(x) - z(x_adv)``. No gradient flows through p(x) in it, nor through the weights.

    `weights` [K, K] has a row a class: the mean, over its samples in the epoch before, of the prediction at x at a
    `temperature`; equal shares in the first epoch. Defaults are those of the authors' code for CIFAR-10
    (https://github.com/jiequancui/DKL), which takes 5 steps of eps / 2, raises eps over the whole run (`eps_warmup`),
    and has `awp` 0.005 from its tenth epoch on.

    Args:
        attack: PGD on the divergence, as TRADES has it.
        alpha: weight of the cross-entropy with soft labels.
        beta: weight of the square error.
        temperature: what logits are divided by, for the weights.
    """

    beta: float = 20.0
    alpha: float = 4.0
    temperature: float = 4.0

    weights: ClassVar[Tensor | None] = None
    sums: ClassVar[Tensor | None] = None  # of predictions in this epoch, by class, [K, K]
    kept = ("weights", "sums")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weight("alpha", self.alpha)
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}")

    @property
    def mixes(self) -> bool:
        return False

    def begin(self, train: Source, seed: int | None, epochs: int) -> None:
        super().begin(train, seed, epochs)
        self.weights = self.sums = None

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        first = not batch.made  # of two calls for a batch
        clean, adversarial = both(model, batch.x, self.examples(model, batch))
        report(batch, clean, adversarial)
        if first:
            self.see(clean, batch.y)
        return self.compare(clean, adversarial, batch.y)

    def see(self, clean: Tensor, y: Tensor) -> None:
        """Adds the predictions of `clean` logits [B, K] to the sums of their classes `y` [B]."""
        p = (wide(clean.detach()) / self.temperature).softmax(1)
        of_class = torch.arange(p.shape[1], device=y.device).unsqueeze(1) == y
        sums = total(of_class.to(p.dtype) @ p)
        self.sums = sums if self.sums is None else self.sums.to(sums) + sums

    def end_epoch(self, row: Row) -> None:
        counts, known = self.sums.sum(1, keepdim=True), self.of_classes(self.sums)
        self.weights = torch.where(counts > 0, self.sums / counts, known)  # a class without samples keeps its own
        self.sums = torch.zeros_like(self.sums)

    def of_classes(self, like: Tensor) -> Tensor:
        """The weights of all classes, [K, K], in the type and on the device of `like` [B, K]."""
        classes = like.shape[1]
        return like.new_full((classes, classes), 1 / classes) if self.weights is None else self.weights.to(like)

    def compare(self, clean: Tensor, adversarial: Tensor, y: Tensor) -> Tensor:
        moved = wide(clean) - wide(adversarial)
        weights = self.of_classes(moved)[y]
        # Weights add up to 1, so half of the double sum is the variance.
        square = weights * (moved - (weights * moved).sum(1, keepdim=True)).square()
        soft = F.cross_entropy(adversarial, clean.detach().softmax(1))
        return self.cross_entropy(clean, y) + self.alpha * soft + self.beta / 2 * square.sum(1).mean()
