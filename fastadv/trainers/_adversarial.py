"""Training on adversarial samples, the frames that most methods fill."""

import dataclasses
import typing
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..attacks import FGSM, PGD, Attack, FriendlyPGD, Rows
from ..models.adapted import own_loss
from ._method import Batch, Method, Source, accuracy, altered, check_count, check_weight, error, forward


@dataclass
class AttackMethod(Method):
    """A method that trains on the samples an attack makes.

    Training moves the attack within the bounds of the data, with which its sizes scale (see `Attack.within`): 8/255 is
    8 grey levels also of data in [-1, 1]. It sets the attack's `seed` to that of the run. The history has
    ``gradients``: how many a sample took, on average.

    Args:
        attack: makes the adversarial samples. It leads away from the labels, with the same options for all samples.
        eps_warmup: epochs over which the budget rises to the attack's. Step sizes rise with it.
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
            raise ValueError(f"{name} has no budget to warm up: set eps_warmup to 0")
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
        if not (self.attack.has_budget and self.attack.norm == "linf"):
            return None
        return float(self.attack.eps) / self.attack.unit

    def check_own_loss(self) -> None:
        super().check_own_loss()
        loss = getattr(self.attack, "loss", None)
        if loss in ("kl", "spat"):
            raise ValueError(
                f"{type(self).__name__} cannot train with a loss of your own: its attack's loss {loss} compares "
                "predictions of classes. Leave that out"
            )

    def at(self, eps: float) -> "AttackMethod":
        if not self.attack.has_budget:
            return self
        return dataclasses.replace(self, attack=self.attack.at(eps * self.attack.unit))

    def steadier(self) -> "Method | None":
        """With a random start of FGSM, or a step more."""
        attack = steadier_attack(self.attack)
        return altered(self, attack=attack) if attack else None

    @property
    def in_units(self) -> tuple[str, ...]:
        """The options that are sizes in the units of the inputs, beside those of the attack."""
        return ()

    def begin(self, train: Source, seed: int | None, epochs: int) -> None:
        before = self.attack.unit
        self.attack = dataclasses.replace(self.attack.within(train.bounds), seed=seed)
        for name in self.in_units:
            setattr(self, name, getattr(self, name) * (self.attack.unit / before))

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


def steadier_attack(attack: Attack) -> Attack | None:
    """FGSM from a random start, as Wong et al.'s (2020); PGD with a step more; None for another attack.

    Steps longer than ``2.5 eps / steps``, Madry et al.'s (2018), are shortened to that: it reaches all of the ball from
    anywhere in it.
    """
    if isinstance(attack, FGSM):
        eps = float(attack.eps)
        return PGD(eps, min(1.25 * eps, attack.unit), 1, bounds=attack.bounds, seed=attack.seed)
    if not isinstance(attack, PGD | FriendlyPGD):
        return None
    steps = attack.steps + 1
    alpha = min(float(attack.alpha), 2.5 * float(attack.eps) / steps)
    return dataclasses.replace(attack, steps=steps, alpha=alpha)


@dataclass
class PairedTraining(AttackMethod):
    """A method whose loss compares what the network says of natural samples and of their adversarial ones."""

    needs_classes = "it compares predictions of classes"

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        clean, adversarial = both(model, batch.x, self.examples(model, batch))
        report(batch, clean, adversarial)
        return self.compare(clean, adversarial, batch.targets(clean))

    @abstractmethod
    def compare(self, clean: Tensor, adversarial: Tensor, y: Tensor) -> Tensor:
        """The loss, a scalar, from the logits [B, K] of either kind and the labels [B], or shares of classes [B, K]."""


def both(model: nn.Module, x: Tensor, x_adv: Tensor) -> tuple[Any, Any]:
    """The logits of `x` and of `x_adv`, from one forward pass.

    From one for each, as published, where a batch norm in train mode would mix the statistics of the two; and for a
    loss of the user's own, whose outputs can be anything.
    """
    if own_loss(model) or any(isinstance(module, _BatchNorm) and module.training for module in model.modules()):
        return forward(model, x), forward(model, x_adv)
    clean, adversarial = forward(model, torch.cat((x, x_adv))).chunk(2)
    return clean, adversarial


def report(batch: Batch, clean: Any, adversarial: Any, model: nn.Module | None = None) -> None:
    """Puts the accuracies of both kinds of logits [B, K] into the batch's `stats`; those of `model`, if it has its own
    loss.
    """
    batch.stats["clean_accuracy"] = accuracy(clean, batch.y, model)
    batch.stats["adversarial_accuracy"] = accuracy(adversarial, batch.y, model)


@dataclass
class AdversarialTraining(AttackMethod):
    """Clean loss plus loss on attacked samples, for any attack.

    The loss is ``L(x, y) + beta L(x_adv, y)``, with beta 1 that of Xie et al., section 2.1.

    Args:
        label_smoothing: share of the label spread over all classes. The Blind AT paper smooths labels, but does not
            print by how much.
        label: attack away from the true label or the prediction. The loss is on the true label either way. The Blind AT
            paper does not say which. Single-step attacks on the ``true`` label leak it: networks learn to read it off
            the perturbation (Kurakin et al., 2017). ``pred`` is the network's own prediction.
        beta: weight of the adversarial loss (Hou: thesis, equation 4.2). Goodfellow et al.'s ``alpha`` (2.11) is
            ``1 / (1 + beta)``, where the learning rate is multiplied by it, too.
    """

    label_smoothing: float = 0.1
    label: str = dataclasses.field(default="true", kw_only=True)
    beta: float = dataclasses.field(default=1.0, kw_only=True)

    needs_classes = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weight("beta", self.beta)
        if self.label not in ("true", "pred"):
            raise ValueError(f"label must be true or pred, got {self.label!r}")

    def examples(self, model: nn.Module, batch: Batch) -> Tensor:
        return self.attacked(model, batch, batch.y if self.label == "true" else None).x_adv

    def check_own_loss(self) -> None:
        super().check_own_loss()
        if self.label == "pred":
            raise ValueError(
                f"{type(self).__name__} cannot train with a loss of your own: its attack leads away from the class "
                "predicted. Leave label true"
            )

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        clean, adversarial = both(model, batch.x, self.examples(model, batch))
        report(batch, clean, adversarial, model)
        loss = error(model, adversarial, batch.y, self.label_smoothing)
        loss = loss if self.beta == 1 else self.beta * loss
        return error(model, clean, batch.y, self.label_smoothing) + loss
