"""The one training loop, and what a training method is to it."""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..data import Dataset

Stats = dict[str, Tensor]


@dataclass
class Batch:
    """What a method sees of the data at one step.

    `x` [B, ...] and `y` [B] on the model's device; `index` [B], the samples' places in the data set; `ids` [B], which
    name the samples to random numbers and are new every epoch; `epoch`, from 0. `stats`: scalars that the method
    reports; their means over the epoch go into the history.
    """

    x: Tensor
    y: Tensor
    index: Tensor
    ids: Tensor
    epoch: int
    stats: Stats = field(default_factory=dict)


@dataclass
class Method(ABC):
    """A training method: its options are its fields, and it says what is minimised.

    Args:
        label_smoothing: share of the label spread evenly over all classes; 0.1 in the Blind AT paper's baselines.
    """

    label_smoothing: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1), got {self.label_smoothing}")

    def begin(self, train: Dataset, seed: int) -> None:  # noqa: B027 - most methods have nothing to prepare
        """Called once, before the first epoch."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The loss to minimise on `batch`, a scalar with a gradient in the model's parameters."""


def check_settings(epochs: int, batch_size: int, lr: float) -> None:
    """Raises ValueError for settings that `fit` cannot train with."""
    for name, count in (("epochs", epochs), ("batch_size", batch_size)):
        if not isinstance(count, int) or count < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {count}")
    if not 0 <= lr < math.inf:
        raise ValueError(f"lr must be finite and not negative, got {lr}")


def fit(
    model: nn.Module,
    method: Method,
    train: Dataset,
    *,
    epochs: int = 10,
    batch_size: int = 128,
    lr: float = 1e-3,
    seed: int = 0,
    on_step: Callable[[int, int], None] | None = None,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
) -> list[dict[str, float]]:
    """Trains `model` in place by `method` on `train`, with Adam at a constant rate, and returns the history.

    The history has a row an epoch: ``epoch`` from 1, ``loss``, ``seconds``, ``images_per_second`` and what the method
    reports. Data order and random starts depend on `seed` alone; torch's global generator is left to the model
    (dropout).

    Args:
        model: any network from samples to logits; it is trained on the device it is on, and left in train mode.
        method: what is minimised, one of `fastadv.trainers`.
        train: the samples.
        epochs: passes over the data.
        batch_size: samples a step; the last batch of an epoch may be smaller.
        lr: Adam's learning rate.
        seed: of data order and random starts.
        on_step: called after every step with (steps done, steps in all).
        on_epoch: called after every epoch with its row of the history.

    Raises:
        ValueError: for epochs, batch_size or lr out of range.
        FloatingPointError: when the mean loss of an epoch is NaN or infinite.
    """
    check_settings(epochs, batch_size, lr)
    parameter = next(model.parameters(), None)
    train = train.to(parameter.device if parameter is not None else train.x.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    method.begin(train, seed)
    model.train()
    batches = -(-len(train) // batch_size)
    history = []
    for epoch in range(epochs):
        started = time.perf_counter()
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
        totals: Stats = {}
        for step, index in enumerate(order.to(train.x.device).split(batch_size)):
            batch = Batch(train.x[index], train.y[index], index, index + epoch * len(train), epoch)
            loss = method.loss(model, batch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            for name, value in {"loss": loss, **batch.stats}.items():
                totals[name] = totals.get(name, 0) + value.detach() * (len(index) / len(train))
            if on_step:
                on_step(epoch * batches + step + 1, epochs * batches)
        means = {name: float(value) for name, value in totals.items()}
        seconds = time.perf_counter() - started
        row = {"epoch": epoch + 1, **means, "seconds": seconds, "images_per_second": len(train) / seconds}
        if not math.isfinite(means["loss"]):
            raise FloatingPointError(
                f"the loss became {means['loss']} in epoch {epoch + 1}; try a smaller lr than {lr:g}"
            )
        history.append(row)
        if on_epoch:
            on_epoch(row)
    return history
