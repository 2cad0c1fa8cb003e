"""Adversarial fine-tuning with a dynamically regulated adversary (Hou: thesis, chapter 4)."""

import copy
import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..attacks import DRA, Attack, Rows, isolated
from ._adversarial import AttackMethod, report
from ._method import Batch, Source, accuracy, check_weight, forward
from ._parallel import bare, mean


@dataclass
class DRAFineTuning(AttackMethod):
    """Fine-tuning on clean and DRA samples, then on clean ones.

    The loss is cross-entropy, on clean and attacked samples one to one in one forward pass. This is the second phase of
    training: the first is normal training, whose network this starts from. The budget falls in a line, from the
    attack's to `last_eps` in the last of the epochs with an attack.

    Printed and chosen: the thesis says that the network iteratively updates upon clean and adversarial samples. Whether
    they share a step is not printed; `alternate` has it either way. Equation 4.5 weighs clean samples by lambda, the
    multiplier of the constraint that the clean loss stays at that of the network training started from. How lambda
    was found is not printed. `lam_lr` ascends on it. Equation 4.6 minimises over lambda, which takes the constraint
    away.

    Args:
        attack: DRA, or any with a budget. Its budget is that of the first epoch; step sizes fall with it.
        last_eps: budget of the last epoch with an attack. None keeps the attack's.
        attack_epochs: epochs with an attack.
        beta: how many times as much attacked samples weigh as clean ones. It is the beta of equation 4.2 and
            ``1 / lambda`` of 4.5. The loss is the weighted mean.
        alternate: take turns instead: a batch of clean samples, then a batch of attacked ones. An epoch attacks every
            other batch. The history has one ``accuracy``, on what was learnt.
        lam_lr: step of lambda, 0 to keep it. It begins at ``1 / beta``. Every attacked batch makes it ``max(0, lam +
            lam_lr (L - L_std))``, with the clean losses of the network and of a copy of the one that training started
            from, in eval mode. The history has ``lam``.
    """

    attack: Attack = field(default_factory=lambda: DRA(eps=2 / 255, p=1 / 3, steps=5), kw_only=True)
    last_eps: float | None = 0.5 / 255
    attack_epochs: int = 50
    beta: float = 1.0
    alternate: bool = False
    lam_lr: float = 0.0

    in_epochs = ("eps_warmup", "attack_epochs")
    kept = ("lam", "standard")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weight("last_eps", self.last_eps or 0.0)
        check_weight("beta", self.beta)
        check_weight("lam_lr", self.lam_lr)
        if self.attack_epochs < 1:
            raise ValueError(f"attack_epochs must be at least 1, got {self.attack_epochs}")
        if self.lam_lr and not self.beta:
            raise ValueError("beta 0 starts at an infinite lambda: give a positive beta, or lam_lr 0")
        if not self.attack.has_budget:
            raise ValueError(f"the attack must have a budget, which falls to last_eps; got {self.attack!r}")
        self._start()

    def _start(self) -> None:
        self.lam: float | Tensor = 1 / self.beta if self.beta else math.inf
        self.standard: dict[str, Tensor] = {}  # the weights that training started from
        self._standard: nn.Module | None = None  # the network with them

    @property
    def whole_batch(self) -> str:
        return "lambda follows its mean loss, unless lam_lr is 0" if self.lam_lr else ""

    @property
    def in_units(self) -> tuple[str, ...]:
        return () if self.last_eps is None else ("last_eps",)

    def begin(self, train: Source, seed: int | None, epochs: int) -> None:
        super().begin(train, seed, epochs)
        self._start()

    def attack_in(self, epoch: int) -> Attack:
        if self.last_eps is None:
            return self.attack
        share = min(epoch / max(self.attack_epochs - 1, 1), 1.0)
        return self.attack.at(self.attack.eps + share * (self.last_eps - self.attack.eps))

    def craft(self, model: nn.Module, batch: Batch, y: Tensor | None) -> Rows:
        if self.lam_lr:
            with isolated(model), torch.no_grad():
                now, before = (
                    self.cross_entropy(network(batch.x), batch.y, "none") for network in (model, self.start_of(model))
                )
            self.lam = (self.lam + self.lam_lr * mean(now - before)).clamp_min(0)
        return super().craft(model, batch, y)

    def start_of(self, model: nn.Module) -> nn.Module:
        """The network that training started from, in eval mode; at the first call, `model` is."""
        if self._standard is None:
            own = bare(model)
            self._standard = copy.deepcopy(own).eval()
            self._standard.load_state_dict(self.standard or own.state_dict())
            self.standard = self._standard.state_dict()
        return self._standard

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        both = batch.epoch < self.attack_epochs
        loss = self.in_turn(model, batch, both) if self.alternate else self.at_once(model, batch, both)
        if self.lam_lr:
            batch.stats["lam"] = torch.as_tensor(self.lam, dtype=loss.dtype, device=loss.device)
        return loss

    @property
    def share(self) -> float | Tensor:
        """The share of attacked samples in the loss."""
        return 1 / (1 + self.lam)

    def at_once(self, model: nn.Module, batch: Batch, both: bool) -> Tensor:
        """The loss on clean samples, and on attacked ones if `both` are learnt in this epoch."""
        if not both:
            logits = forward(model, batch.x)
            batch.stats["clean_accuracy"] = accuracy(logits, batch.y)
            batch.stats |= {"gradients": logits.new_zeros(()), "adversarial_accuracy": logits.new_tensor(math.nan)}
            return self.cross_entropy(logits, batch.y)
        logits = forward(model, torch.cat((batch.x, self.examples(model, batch))))
        report(batch, *logits.chunk(2))
        if self.beta == 1 and not self.lam_lr:
            return self.cross_entropy(logits, batch.y.repeat(2))
        clean, adversarial = (self.cross_entropy(half, batch.y) for half in logits.chunk(2))
        return (1 - self.share) * clean + self.share * adversarial

    def in_turn(self, model: nn.Module, batch: Batch, both: bool) -> Tensor:
        """The loss on clean samples or, every other time if `both` are learnt in this epoch, on attacked ones.

        Odd epochs begin with attacked samples, so that an epoch of one batch has its turn.
        """
        attacked = both and (batch.epoch + batch.step) % 2 == 1
        logits = forward(model, self.examples(model, batch) if attacked else batch.x)
        batch.stats["accuracy"] = accuracy(logits, batch.y)
        batch.stats.setdefault("gradients", logits.new_zeros(()))
        loss = self.cross_entropy(logits, batch.y)
        return 2 * (self.share if attacked else 1 - self.share) * loss if both else loss
