"""How to train, whatever the method: optimiser, schedule, averaging."""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypedDict

import torch
from torch import nn

from ..attacks._tuned import check_format
from ._method import check_count, check_epochs, check_share, check_weight
from ._precision import PRECISIONS


@dataclass
class Settings:
    """How to train, whatever the method.

    Args:
        epochs: passes over the training data.
        minutes: train for so many minutes, whatever `epochs` says. Validation is not counted. Methods that plan by
            epochs still go by `epochs`. 0 trains for `epochs`.
        batch_size: samples a step, in all processes together. The last batch of an epoch may be smaller.
        extra_share: share of each batch that comes from the extra data, 0 without any. Papers with generated images use
            0.5 to 0.8.
        accumulate: parts of a batch, attacked and passed backward one after the other. More parts take less memory.
            Batch norm sees a part at a time; otherwise it changes rounding only.
        lr: learning rate. The schedule starts at it, or rises to it.
        optimizer: one of adam, adamw and sgd. sgd has momentum 0.9.
        weight_decay: weight decay. Biases and normalisation layers have none.
        schedule: how lr falls: steps, cosine, linear, one-cycle. ``steps`` goes by `milestones` and `lr_decay`;
            ``cosine`` and ``linear`` fall to 0; ``one-cycle`` rises over the first 30 % of training and then falls to
            0.
        milestones: epochs after which `lr` is multiplied by `lr_decay`. They need the schedule ``steps``.
        lr_decay: factor of `lr` at all milestones, or one for each.
        warmup: epochs over which `lr` first rises linearly from 0. It works with every schedule.
        clip: largest norm of a step's gradient. Longer gradients are scaled down to it; 0 leaves them as they are.
        ema: decay of an exponential moving average of the weights. Buffers are averaged, too. The average is the
            network that is validated and kept. 0 keeps no average.
        ema_batch_norm: training batches from which batch norm's statistics are computed for the average, after every
            epoch. 0 averages the statistics like the weights.
        awp: size of adversarial weight perturbation, 0 for none. It is relative to the norm of each layer's weights;
            papers use 0.005 to 0.01.
        precision: number type of training: float32, bfloat16 or float16. Attacks on the divergence from the prediction
            at x (TRADES, SPAT) stay in float32.
        memory_format: layout of images: contiguous, channels_last, preserve or auto. On GPUs it is that of the weights,
            too. It changes speed and rounding only. ``preserve`` leaves images as the data set has them, which is
            channels_last on CPUs. ``auto`` times both where that takes at most 2 % of the run, and is ``preserve``
            otherwise.
        compiled: run torch.compile on the network.
        checkpointing: keep only the inputs of a network's blocks, and compute the rest again in backward passes. It
            takes less memory and more time, and changes nothing else.
        graphs: replay attack steps as CUDA graphs, on GPUs. They are recorded for eighths of a batch.
        sharded: train in shards, with FSDP, where several processes train. Gradients and what the optimiser remembers
            exist once in all of them together; every process has the weights.
        sync_batch_norm: batch norm over the batches of all processes, on GPUs.
        patience: stop after so many epochs without a better validation figure. 0 trains all epochs.
        collapse: stop when the validation figure falls below this share of its best. 0 never stops.
        guard: undo catastrophic overfitting within the epoch, and go on with a steadier method. PGD-10 accuracy on
            training samples tells it, eight times an epoch.
        seed: seed of weights, data order, augmentation and random starts.
    """

    epochs: int = 10
    minutes: float = 0.0
    batch_size: int = 128
    extra_share: float = 0.0
    accumulate: int = 1
    lr: float = 1e-3
    optimizer: str = "adam"
    weight_decay: float = 0.0
    schedule: str = "steps"
    milestones: list[int] = field(default_factory=list)
    lr_decay: float | list[float] = 0.1
    warmup: float = 0.0
    clip: float = 0.0
    ema: float = 0.0
    ema_batch_norm: int = 0
    awp: float = 0.0
    precision: str = "float32"
    memory_format: str = "auto"
    compiled: bool = False
    checkpointing: bool = False
    graphs: bool = False
    sharded: bool = False
    sync_batch_norm: bool = False
    patience: int = 0
    collapse: float = 0.0
    guard: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        counts = ("epochs", 1), ("batch_size", 1), ("accumulate", 1), ("patience", 0), ("ema_batch_norm", 0)
        for name, least in counts:
            check_count(name, getattr(self, name), least)
        for name in ("minutes", "lr", "weight_decay", "warmup", "clip", "awp"):
            check_weight(name, getattr(self, name))
        for name in ("extra_share", "ema", "collapse"):
            check_share(name, getattr(self, name))
        for name, known in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES), ("precision", PRECISIONS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        if self.ema_batch_norm and not self.ema:
            raise ValueError("ema_batch_norm is for the average: set ema, or leave ema_batch_norm 0")
        check_format(self.memory_format)
        for name in ("compiled", "graphs"):
            if self.checkpointing and getattr(self, name):
                raise ValueError(f"checkpointing and {name} exclude each other: leave out one of them")
        for name in ("ema", "awp", "compiled", "graphs", "guard"):
            if self.sharded and getattr(self, name):
                raise ValueError(f"sharded and {name} exclude each other: leave out one of them")
        if self.sharded and self.precision == "float16":
            raise ValueError("sharded and float16 exclude each other: leave out one of them, or take bfloat16")
        check_epochs("milestones", self.milestones)
        if self.milestones and self.schedule != "steps":
            raise ValueError(f"milestones need the schedule steps, got {self.schedule}: leave one of them out")
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


class SettingsDict(TypedDict, total=False):  # written out: type checkers compute none from a class; a test compares
    """The fields of `Settings`, as the keywords of `fit`, which has `optimizer` itself."""

    epochs: int
    minutes: float
    batch_size: int
    extra_share: float
    accumulate: int
    lr: float
    weight_decay: float
    schedule: str
    milestones: list[int]
    lr_decay: float | list[float]
    warmup: float
    clip: float
    ema: float
    ema_batch_norm: int
    awp: float
    precision: str
    memory_format: str
    compiled: bool
    checkpointing: bool
    graphs: bool
    sharded: bool
    sync_batch_norm: bool
    patience: int
    collapse: float
    guard: bool
    seed: int


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
