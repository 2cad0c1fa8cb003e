"""Prior-guided FGSM training (Jia et al.: Prior-Guided Adversarial Initialization for Fast Adversarial Training, 2022).

Its variant with momentum over all epochs, FGSM-MEP.
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import ops
from ..attacks import FGSM
from ..attacks._attack import drawn_seed
from ._method import Batch, Source, accuracy, altered, check_count, check_weight, error, forward
from .madry import Madry


@dataclass
class FGSMPGI(Madry):
    """FGSM training that starts where earlier epochs have led.

    A sample's start is its prior, the sum of steps of eps along the sign of a running sum of its gradients. From there
    one step of eps gives the sample to train on. The loss is ``CE(z(x_adv), y) + lam MSE(z(x_adv), z(start))``, with
    the mean square over batch and classes. Both passes are in train mode, as the authors' are, and the first one's
    gradient serves attack and loss.

    `prior` [N, ...] and `momentum` [N, ...] are those of the samples in the order of the data, in half precision: four
    bytes a pixel of the whole set. An augmentation that moves pixels does not move them.

    Args:
        attack: its `eps` is the budget and both steps.
        label_smoothing: share of the label spread over all classes. The authors' code spreads 0.4 over the nine wrong
            ones of ten, which is 0.444 here.
        lam: weight of the squared difference.
        decay: what the sum of gradients is multiplied with before each, divided by its mean size, is added.
        reset: epochs after which priors are drawn anew, each plus or minus eps, and sums are 0 again. The authors' code
            has 40.
    """

    attack: FGSM = field(default_factory=lambda: FGSM(eps=8 / 255), kw_only=True)
    label_smoothing: float = field(default=0.4, kw_only=True)
    lam: float = 10.0
    decay: float = 0.3
    reset: int = 10

    in_epochs = ("reset",)
    kept = ("prior", "momentum")
    per_sample = ("prior", "momentum")
    repeatable = False
    needs_classes = "it compares logits"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weight("lam", self.lam)
        check_weight("decay", self.decay)
        check_count("reset", self.reset, 1)

    def begin(self, train: Source, seed: int | None, epochs: int) -> None:
        super().begin(train, seed, epochs)
        shape = len(train), *train.sample_shape
        self.prior = torch.zeros(shape, dtype=torch.float16, device=train.device)
        self.momentum = torch.zeros_like(self.prior)

    def steadier(self) -> "FGSMPGI | None":
        """With twice the weight of the squared difference."""
        return altered(self, lam=2 * self.lam) if self.lam else None

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        before, x_adv = self.step(model, batch)
        logits = forward(model, x_adv)
        batch.stats["adversarial_accuracy"] = accuracy(logits, batch.y)
        return error(model, logits, batch.y, self.label_smoothing) + self.lam * F.mse_loss(logits, before)

    def examples(self, model: nn.Module, batch: Batch) -> Tensor:
        return self.step(model, batch)[1]

    def step(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """The logits [B, K] at the start, and the samples to train on [B, ...]; priors and sums move on."""
        x, eps = batch.x, ops.per_sample("FGSMPGI", "eps", self.attack.eps, batch.x)
        start, momentum = self.start(batch, eps)
        before = forward(model, start.requires_grad_())
        loss = error(model, before, batch.y, self.label_smoothing)
        grad = torch.autograd.grad(loss * len(x), start, retain_graph=True)[0]
        x_adv, ahead = start.detach().clone(), start.detach().clone()
        ops.linf_step(x_adv, grad, x, eps, eps, *self.attack.bounds)
        ops.linf_step(ahead, grad, x, eps, eps, *self.attack.bounds, momentum=momentum, decay=self.decay)
        self.prior[batch.index] = (ahead - x).to(self.prior.dtype)
        self.momentum[batch.index] = momentum.to(self.momentum.dtype)
        batch.stats["gradients"] = torch.ones((), device=x.device)
        return before, x_adv

    def start(self, batch: Batch, eps: Tensor) -> tuple[Tensor, Tensor]:
        """Where the samples' step begins and the sums of their gradients, both [B, ...]."""
        x, bounds = batch.x, self.attack.bounds
        if batch.epoch % self.reset == 0:
            seed = drawn_seed() if self.attack.seed is None else self.attack.seed
            return ops.random_start(x, batch.ids, eps, seed, 0, "sign", *bounds), torch.zeros_like(x)
        prior = (
            self.prior[batch.index].to(x.dtype).clamp(-self.attack.eps, self.attack.eps)
        )  # rounded, it may be longer
        return (x + prior).clamp(*bounds), self.momentum[batch.index].to(x.dtype)
