"""Training on adversarial samples, the frame that most methods fill."""

import dataclasses
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attacks import Attack
from ..data import Dataset
from ._fit import Batch, Method, check_share


@dataclass
class AttackMethod(Method):
    """A method that trains on the samples an attack makes.

    Training sets the attack's `bounds` and `seed` to those of the data and the run.

    Args:
        attack: makes the adversarial samples.
    """

    attack: Attack = dataclasses.field(kw_only=True)

    def begin(self, train: Dataset, seed: int) -> None:
        self.attack = dataclasses.replace(self.attack, bounds=train.bounds, seed=seed)

    def examples(self, model: nn.Module, batch: Batch) -> Tensor:
        """The adversarial samples to train on, [B, ...]."""
        return self.attack(model, batch.x, batch.y, batch.ids)


@dataclass
class AdversarialTraining(AttackMethod):
    """``L(x, y) + L(x_adv, y)``, the sum of clean and adversarial loss (Xie et al., section 2.1), for any attack.

    Clean and adversarial halves go through one forward pass.

    Args:
        label_smoothing: share of the label spread evenly over all classes; 0.1 in the Blind AT paper's baselines.
    """

    label_smoothing: float = 0.1

    def __post_init__(self) -> None:
        check_share("label_smoothing", self.label_smoothing)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        x_adv = self.examples(model, batch)
        clean, adversarial = model(torch.cat((batch.x, x_adv))).chunk(2)
        batch.stats["clean_accuracy"] = (clean.argmax(1) == batch.y).float().mean()
        batch.stats["adversarial_accuracy"] = (adversarial.argmax(1) == batch.y).float().mean()
        return F.cross_entropy(clean, batch.y, label_smoothing=self.label_smoothing) + F.cross_entropy(
            adversarial, batch.y, label_smoothing=self.label_smoothing
        )
