"""Training on adversarial samples, the frames that most methods fill."""

import dataclasses
import typing
from abc import abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..attacks import Attack, Rows
from ._method import Batch, Method, Source, check_count, check_share


@dataclass
class AttackMethod(Method):
    """A method that trains on the samples an attack makes.

    Training sets the attack's `bounds` and `seed` to those of the data and the run. The history has ``gradients``: how
    many a sample took, on average.

    Args:
        attack: makes the adversarial samples, away from the labels; with the same options for all samples.
        eps_warmup: epochs over which the attack's budget, and with it the step size, rises to what it is.
    """

    attack: Attack = dataclasses.field(kw_only=True)
    eps_warmup: int = dataclasses.field(default=0, kw_only=True)

    in_epochs = ("eps_warmup",)

    def __post_init__(self) -> None:
        super().__post_init__()
        name, kind = type(self).__name__, typing.get_type_hints(type(self))["attack"]
        if not isinstance(self.attack, kind):
            raise TypeError(f"{name}: attack must be a {kind.__name__}, got {self.attack!r}")
        check_count("eps_warmup", self.eps_warmup)
        if self.eps_warmup and not (self.repeatable and self.attack.has_budget):
            raise ValueError(f"{name} has no budget that could rise: leave eps_warmup 0")
        if self.attack.targeted:
            raise ValueError(f"{name}: the attack must lead away from the labels: set targeted to False")
        for field in dataclasses.fields(self.attack):
            if isinstance(value := getattr(self.attack, field.name), Tensor) and value.numel() != 1:
                raise ValueError(
                    f"{name}: batches differ, so the attack's {field.name} must be one number for all samples, "
                    f"got {value.numel()}"
                )

    @property
    def budget(self) -> float | None:
        return float(self.attack.eps) if self.attack.has_budget and self.attack.norm == "linf" else None

    def at(self, eps: float) -> "AttackMethod":
        return dataclasses.replace(self, attack=self.attack.at(eps)) if self.attack.has_budget else self

    def begin(self, train: Source, seed: int, epochs: int) -> None:
        self.attack = dataclasses.replace(self.attack, bounds=train.bounds, seed=seed)

    def attack_in(self, epoch: int) -> Attack:
        """The attack of an epoch, which counts from 0."""
        return self.attack

    def warm(self, attack: Attack, epoch: int) -> Attack:
        """`attack` at its part of the budget in `epoch`."""
        return attack.at(attack.eps * (epoch + 1) / self.eps_warmup) if epoch + 1 < self.eps_warmup else attack

    def examples(self, model: nn.Module, batch: Batch) -> Tensor:
        """The adversarial samples to train on, [B, ...]."""
        return self.attacked(model, batch, batch.y).x_adv

    def attacked(self, model: nn.Module, batch: Batch, y: Tensor | None) -> Rows:
        """The batch after the attack, away from `y` or from the model's own predictions."""
        rows = batch.made[0] if batch.made else self.craft(model, batch, y)
        if batch.made == []:
            batch.made.append(rows)
        batch.stats["gradients"] = rows.grads.float().mean()
        return rows

    def craft(self, model: nn.Module, batch: Batch, y: Tensor | None) -> Rows:
        """Makes the attack."""
        return self.warm(self.attack_in(batch.epoch), batch.epoch).rows(model, batch.x, y, batch.ids)


@dataclass
class PairedTraining(AttackMethod):
    """A method whose loss compares what the network says of natural samples and of their adversarial ones."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        clean, adversarial = both(model, batch.x, self.examples(model, batch))
        report(batch, clean, adversarial)
        return self.compare(clean, adversarial, batch.y)

    @abstractmethod
    def compare(self, clean: Tensor, adversarial: Tensor, y: Tensor) -> Tensor:
        """The loss, a scalar, from the logits [B, K] of either kind and the labels [B]."""


def both(model: nn.Module, x: Tensor, x_adv: Tensor) -> tuple[Tensor, Tensor]:
    """The logits of `x` and of `x_adv`, from one forward pass.

    From one for each, as published, where a batch norm in train mode would mix the statistics of the two.
    """
    if any(isinstance(module, _BatchNorm) and module.training for module in model.modules()):
        return model(x), model(x_adv)
    clean, adversarial = model(torch.cat((x, x_adv))).chunk(2)
    return clean, adversarial


def report(batch: Batch, clean: Tensor, adversarial: Tensor) -> None:
    """Puts the accuracies of both kinds of logits [B, K] into the batch's `stats`."""
    batch.stats["clean_accuracy"] = (clean.argmax(1) == batch.y).float().mean()
    batch.stats["adversarial_accuracy"] = (adversarial.argmax(1) == batch.y).float().mean()


@dataclass
class AdversarialTraining(PairedTraining):
    """``L(x, y) + L(x_adv, y)``, the sum of clean and adversarial loss (Xie et al., section 2.1), for any attack.

    Args:
        label_smoothing: share of the label spread evenly over all classes; 0.1 in the Blind AT paper's baselines.
    """

    label_smoothing: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("label_smoothing", self.label_smoothing)

    def compare(self, clean: Tensor, adversarial: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(clean, y, label_smoothing=self.label_smoothing) + F.cross_entropy(
            adversarial, y, label_smoothing=self.label_smoothing
        )
