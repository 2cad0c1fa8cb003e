"""How to train, whatever the method: optimiser, schedule, averaging."""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from ._method import check_count, check_epochs, check_share, check_weight
from ._precision import PRECISIONS


@dataclass
class Settings:
    """How to train, whatever the method.

    Args:
        epochs: passes over the training data.
        minutes: training stops at the first step after so many minutes of its own, validation not counted, however many
            epochs these are; `epochs` is then only what methods plan with. 0 trains for `epochs`.
        batch_size: samples a step, of all processes together; the last batch of an epoch may be smaller.
        lr: learning rate; where the schedule starts, or its peak.
        optimizer: adam, adamw, or sgd with momentum 0.9.
        weight_decay: of weights; biases and normalisation layers have none.
        schedule: of the learning rate; steps at milestones, cosine or linear to 0, or one-cycle, which rises over the
            first 30 % of training and falls to 0.
        milestones: with the schedule steps, after each of these epochs the learning rate is multiplied by lr_decay.
        lr_decay: one factor for all milestones, or one for each.
        warmup: epochs over which the learning rate rises from 0 in a line, whatever the schedule.
        clip: the largest norm of a step's gradient, to which longer ones are shortened; 0 leaves them as they are.
        ema: of weights and buffers, an exponential moving average is kept, which loses 1 - ema of itself every step;
            it is the network that is validated and kept. 0 keeps none.
        awp: size of adversarial weight perturbation, relative to a layer's weights, 0.005 to 0.01 in print; 0 is none.
        precision: what the network computes in while it is trained, float32, bfloat16 or float16; attacks on the
            divergence from the prediction at x (TRADES, SPAT) stay in float32.
        channels_last: whether the network's weights and images are laid out so; on CPUs images always are, and it was
            measured to gain nothing more.
        compiled: whether torch.compile runs on the network.
        graphs: on GPUs, whether gradients of attacks are replayed from CUDA graphs, captured for eighths of a batch.
        sync_batch_norm: batch norm over the batches of all processes; on GPUs only.
        patience: training stops when so many epochs have not raised the validation figure; 0 trains all epochs.
        collapse: training stops when the validation figure falls below this share of its best; 0 never stops.
        seed: of the initial weights, the order of the data, augmentation and random starts.
    """

    epochs: int = 10
    minutes: float = 0.0
    batch_size: int = 128
    lr: float = 1e-3
    optimizer: str = "adam"
    weight_decay: float = 0.0
    schedule: str = "steps"
    milestones: list[int] = field(default_factory=list)
    lr_decay: float | list[float] = 0.1
    warmup: float = 0.0
    clip: float = 0.0
    ema: float = 0.0
    awp: float = 0.0
    precision: str = "float32"
    channels_last: bool = False
    compiled: bool = False
    graphs: bool = False
    sync_batch_norm: bool = False
    patience: int = 0
    collapse: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 1), ("patience", 0)):
            check_count(name, getattr(self, name), least)
        for name in ("minutes", "lr", "weight_decay", "warmup", "clip", "awp"):
            check_weight(name, getattr(self, name))
        for name in ("ema", "collapse"):
            check_share(name, getattr(self, name))
        for name, known in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES), ("precision", PRECISIONS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        check_epochs("milestones", self.milestones)
        if self.milestones and self.schedule != "steps":
            raise ValueError(f"milestones are of the schedule steps, not of {self.schedule}: leave one out")
        if self.minutes and (self.milestones or self.schedule != "steps"):
            raise ValueError(
                f"the learning rate cannot follow epochs whose number is not known: leave out minutes, or "
                f"{'milestones' if self.milestones else f'the schedule {self.schedule}'}"
            )
        if isinstance(self.lr_decay, Sequence) and len(self.lr_decay) != len(self.milestones):
            raise ValueError(
                f"lr_decay must be one number, or one for each of {len(self.milestones)} milestones, "
                f"got {self.lr_decay}"
            )
        for value in self.lr_decay if isinstance(self.lr_decay, Sequence) else [self.lr_decay]:
            check_weight("lr_decay", value)
        if self.warmup > self.epochs:
            raise ValueError(f"warmup must be at most the {self.epochs} epochs of training, got {self.warmup}")

    def decays(self) -> list[float]:
        """What the learning rate is multiplied by at each milestone."""
        if isinstance(self.lr_decay, Sequence):
            return list(self.lr_decay)
        return [self.lr_decay] * len(self.milestones)

    def lr_at(self, epoch: float) -> float:
        """The learning rate after so many epochs, of which a part may be done."""
        warm = min(epoch / self.warmup, 1.0) if self.warmup else 1.0
        return self.lr * warm * SCHEDULES[self.schedule](self, epoch)

    def make_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimiser of the model's parameters; weights of layers decay, what has one dimension does not."""
        weights = [p for p in model.parameters() if p.dim() > 1]
        others = [p for p in model.parameters() if p.dim() <= 1]
        groups = [{"params": weights, "weight_decay": self.weight_decay}, {"params": others, "weight_decay": 0.0}]
        return OPTIMIZERS[self.optimizer]([group for group in groups if group["params"]], lr=self.lr)


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    # Fused, a step of Adam takes a sixth of the time: 8 ms instead of 49 for ResNet-18, on one thread.
    "adam": functools.partial(torch.optim.Adam, fused=True),
    "adamw": functools.partial(torch.optim.AdamW, fused=True),
    "sgd": functools.partial(torch.optim.SGD, momentum=0.9, fused=True),
}


def _steps(settings: Settings, epoch: float) -> float:
    return math.prod(settings.decays()[: sum(epoch >= milestone for milestone in settings.milestones)])


def _cosine(settings: Settings, epoch: float) -> float:
    return (1 + math.cos(math.pi * min(epoch / settings.epochs, 1))) / 2


def _linear(settings: Settings, epoch: float) -> float:
    return max(1 - epoch / settings.epochs, 0)


def _one_cycle(settings: Settings, epoch: float) -> float:
    """Smith and Topin, 2018: from 1/25 up and down again, both along cosines."""
    share = min(epoch / settings.epochs, 1)
    if share < 0.3:
        return 0.04 + 0.96 * (1 - math.cos(math.pi * share / 0.3)) / 2
    return (1 + math.cos(math.pi * (share - 0.3) / 0.7)) / 2


SCHEDULES: dict[str, Callable[[Settings, float], float]] = {
    "steps": _steps,
    "cosine": _cosine,
    "linear": _linear,
    "one-cycle": _one_cycle,
}
