"""Free adversarial training (Shafahi et al.: Adversarial Training for Free!, 2019)."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..attacks import FGSM
from ._method import Batch, Source, check_count
from ._parallel import own_part, total
from .madry import Madry


@dataclass
class FreeAT(Madry):
    """Free AT: a training step moves the samples, too.

    Every batch is trained on `replays` times, and after each time its perturbations move by a step of eps along the
    sign of the gradient that the step has computed anyway. They stay for the next batch (Algorithm 1). An epoch takes
    the time of `replays` epochs of normal training, so divide the number of epochs by it. No gradient is taken for an
    attack alone.

    Args:
        attack: its `eps` is the budget and the step.
        replays: how often each batch is trained on, the paper's m.
    """

    attack: FGSM = field(default_factory=lambda: FGSM(eps=8 / 255), kw_only=True)
    replays: int = 8

    delta: ClassVar[Tensor | None] = None  # of the places in a batch
    kept = ("delta",)
    repeatable = False  # a step moves the samples

    whole_batch = "perturbations stay at their places in it"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("replays", self.replays, 1)

    def begin(self, train: Source, seed: int | None, epochs: int) -> None:
        super().begin(train, seed, epochs)
        self.delta = None

    def steadier(self) -> None:
        """Nothing: its samples move by the training steps alone."""

    def examples(self, model: nn.Module, batch: Batch) -> Tensor:
        self.delta = grown(self.delta, batch)
        eps, own = float(self.attack.eps), own_part(torch.arange(batch.size, device=batch.x.device))
        delta = self.delta[own]
        x_adv = (batch.x + delta).clamp(*self.attack.bounds).requires_grad_()

        def move(grad: Tensor) -> None:
            moved = torch.zeros_like(self.delta[: batch.size])
            moved[own] = (delta + eps * grad.sign().nan_to_num(0)).clamp(-eps, eps)
            self.delta[: batch.size] = total(moved)  # of all processes

        x_adv.register_hook(move)
        batch.stats["gradients"] = torch.zeros((), device=x_adv.device)
        return x_adv


def grown(delta: Tensor | None, batch: Batch) -> Tensor:
    """The perturbations of as many places as `batch` has, or more; of new ones, 0."""
    old = batch.x.new_zeros(0, *batch.x.shape[1:]) if delta is None else delta.to(batch.x)
    return torch.cat((old, old.new_zeros(max(0, batch.size - len(old)), *old.shape[1:])))
