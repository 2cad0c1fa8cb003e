"""The one training loop, and what a training method is to it."""

import copy
import functools
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..data import Dataset
from ._precision import PRECISIONS, Autocast

Stats = dict[str, Tensor]
Row = dict[str, float]
Augment = Callable[[Tensor, Tensor, int], Tensor]


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
    """A training method: its options are its fields, and it says what is minimised."""

    in_epochs: ClassVar[tuple[str, ...]] = ()  # the options that are epochs, or lists of them
    kept: ClassVar[tuple[str, ...]] = ()  # attributes that `begin` sets and training changes: tensors or plain values

    def __post_init__(self) -> None:  # noqa: B027 - not every method has options that can be wrong
        """Raises ValueError for options out of range."""

    def begin(self, train: Dataset, seed: int, epochs: int) -> None:  # noqa: B027 - most have nothing to prepare
        """Called once, before the first epoch of a run of so many."""

    def end_epoch(self, row: Row) -> None:  # noqa: B027 - most methods have nothing to adapt
        """Called after every epoch with its row of the history."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The loss to minimise on `batch`, a scalar with a gradient in the model's parameters."""


def check_share(name: str, value: float) -> None:
    """Raises ValueError unless `value` is in [0, 1)."""
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be in [0, 1), got {value}")


def check_weight(name: str, value: float) -> None:
    """Raises ValueError unless `value` is finite and not negative."""
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be finite and not negative, got {value}")


def check_epochs(name: str, epochs: Sequence[int]) -> None:
    """Raises ValueError unless `epochs` are whole numbers from 1 on, in order."""
    listed = isinstance(epochs, Sequence) and all(isinstance(epoch, int) and epoch > 0 for epoch in epochs)
    if not listed or list(epochs) != sorted(epochs):
        raise ValueError(f"{name} must be a list of epochs from 1 on, in order, got {epochs}")


def check_settings(
    epochs: int,
    batch_size: int,
    lr: float,
    optimizer: str = "adam",
    weight_decay: float = 0.0,
    milestones: Sequence[int] = (),
    lr_decay: float | Sequence[float] = 0.1,
    patience: int = 0,
    precision: str = "float32",
) -> None:
    """Raises ValueError for settings that `fit` cannot train with."""
    for name, count, least in (("epochs", epochs, 1), ("batch_size", batch_size, 1), ("patience", patience, 0)):
        if not isinstance(count, int) or count < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, got {count}")
    for name, value in (("lr", lr), ("weight_decay", weight_decay)):
        check_weight(name, value)
    for name, value, known in (("optimizer", optimizer, OPTIMIZERS), ("precision", precision, PRECISIONS)):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    check_epochs("milestones", milestones)
    _decays(lr_decay, milestones)


def _decays(lr_decay: float | Sequence[float], milestones: Sequence[int]) -> list[float]:
    """What the learning rate is multiplied by at each milestone. Raises ValueError where that cannot be."""
    if not isinstance(lr_decay, Sequence):
        check_weight("lr_decay", lr_decay)
        return [lr_decay] * len(milestones)
    if len(lr_decay) != len(milestones):
        raise ValueError(
            f"lr_decay must be one number, or one for each of {len(milestones)} milestones, got {lr_decay}"
        )
    for value in lr_decay:
        check_weight("lr_decay", value)
    return list(lr_decay)


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "sgd": functools.partial(torch.optim.SGD, momentum=0.9),
}


def make_optimizer(model: nn.Module, name: str, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """The optimiser called `name`; weights of layers decay, biases and normalisation (of one dimension) do not."""
    weights = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": weights, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return OPTIMIZERS[name]([group for group in groups if group["params"]], lr=lr)


def fit(
    model: nn.Module,
    method: Method,
    train: Dataset,
    *,
    epochs: int = 10,
    batch_size: int = 128,
    lr: float = 1e-3,
    optimizer: str = "adam",
    weight_decay: float = 0.0,
    milestones: Sequence[int] = (),
    lr_decay: float | Sequence[float] = 0.1,
    augment: Augment | None = None,
    precision: str = "float32",
    seed: int = 0,
    validate: Callable[[nn.Module], dict[str, float]] | None = None,
    patience: int = 0,
    resume: Mapping[str, Any] | None = None,
    on_step: Callable[[int, int], None] | None = None,
    on_epoch: Callable[[Row, dict[str, Any]], None] | None = None,
) -> list[Row]:
    """Trains `model` in place by `method` on `train` and returns the history.

    The history has a row an epoch: ``epoch`` from 1, ``loss``, ``seconds``, ``images_per_second``, what the method
    reports and what `validate` finds. Data order, augmentation and random starts depend on `seed` alone; torch's global
    generator is left to the model (dropout).

    Args:
        model: any network from samples to logits; it is trained on the device it is on, and left in train mode.
        method: what is minimised, one of `fastadv.trainers`.
        train: the samples.
        epochs: passes over the data.
        batch_size: samples a step; the last batch of an epoch may be smaller.
        lr: learning rate at the start.
        optimizer: ``adam``, or ``sgd`` with momentum 0.9.
        weight_decay: factor of half the squared weights in the loss; biases and normalisation layers have none.
        milestones: after each of these epochs the learning rate is multiplied by `lr_decay`.
        lr_decay: one factor for all milestones, or one for each.
        augment: called with (x, ids, seed) for every batch before the method sees it, one of `fastadv.data`.
        precision: what the network computes in, ``float32``, ``bfloat16`` or ``float16`` (autocast); weights, losses,
            attacks and `validate` stay in float32.
        seed: of data order, augmentation and random starts.
        validate: called with the model after every epoch; gives figures for the history, the first of them the one
            that `patience` watches, the higher the better.
        patience: training stops when so many epochs have not raised that figure; 0 never stops early.
        resume: what `on_epoch` was given last by a run with the same arguments. Training goes on from there to the same
            bits, and for that sets the state of torch's global generator on the CPU.
        on_step: called after every step with (steps done, steps in all).
        on_epoch: called after every epoch with its row of the history and the state to resume from: tensors on the CPU
            and plain values, of which ``state`` are the model's weights.

    Raises:
        ValueError: for settings out of range, `patience` with nothing to watch, a `validate` whose figures
            have taken names, or a `resume` of another network or optimiser.
        FloatingPointError: when the mean loss of an epoch is NaN or infinite.
    """
    check_settings(epochs, batch_size, lr, optimizer, weight_decay, milestones, lr_decay, patience, precision)
    decays = _decays(lr_decay, milestones)
    if patience and not validate:
        raise ValueError(f"patience {patience} needs a figure to watch: give validate, or patience 0")
    parameter = next(model.parameters(), None)
    train = train.to(parameter.device if parameter is not None else train.x.device)
    descent = make_optimizer(model, optimizer, lr, weight_decay)
    method.begin(train, seed, epochs)
    dtype = PRECISIONS[precision]
    network = model if dtype is None else Autocast(model, dtype)
    scaler = torch.amp.GradScaler(train.x.device.type, enabled=precision == "float16")
    network.train()
    history = _resume(resume, model, method, descent, scaler) if resume else []
    batches = -(-len(train) // batch_size)
    for epoch in range(len(history), epochs):
        if patience and history and _stale(history, patience):
            break
        started = time.perf_counter()
        for group in descent.param_groups:
            group["lr"] = lr * math.prod(decays[: sum(epoch >= milestone for milestone in milestones)])
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
        totals: Stats = {}
        for step, index in enumerate(order.to(train.x.device).split(batch_size)):
            x, ids = train.x[index], index + epoch * len(train)
            batch = Batch(augment(x, ids, seed) if augment else x, train.y[index], index, ids, epoch)
            loss = method.loss(network, batch)
            descent.zero_grad(set_to_none=True)
            scaler.scale(loss).backward()
            scaler.step(descent)
            scaler.update()
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
        method.end_epoch(row)
        history.append(row | (_checked(validate(model), row) if validate else {}))
        if on_epoch:
            on_epoch(history[-1], _state(model, method, descent, scaler, history))
    return history


def _state(
    model: nn.Module,
    method: Method,
    descent: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    history: list[Row],
) -> dict[str, Any]:
    """All that the next epoch depends on, as a copy."""
    kept = {name: getattr(method, name) for name in method.kept}
    return {
        "epoch": len(history),
        "state": {name: _copy(value) for name, value in model.state_dict().items()},
        "kept": {name: _copy(value) if isinstance(value, Tensor) else value for name, value in kept.items()},
        "optimizer": copy.deepcopy(descent.state_dict()),
        "scaler": scaler.state_dict(),
        "history": [dict(row) for row in history],
        "generator": torch.get_rng_state(),
    }


def _copy(value: Tensor) -> Tensor:
    return value.detach().to("cpu", copy=True)


def _resume(
    state: Mapping[str, Any],
    model: nn.Module,
    method: Method,
    descent: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> list[Row]:
    """Puts model, method, optimiser and torch's generator where `state` says, and returns the history until then."""
    try:
        for name in method.kept:
            now, value = getattr(method, name), state["kept"][name]
            if isinstance(now, Tensor):
                if now.shape != value.shape:
                    raise ValueError(f"{name} was {tuple(value.shape)}, and would be {tuple(now.shape)}")
                value = value.to(now)
            setattr(method, name, value)
        model.load_state_dict(state["state"])
        now, before = (each["param_groups"] for each in (descent.state_dict(), state["optimizer"]))
        if [group | {"lr": 0} for group in now] != [group | {"lr": 0} for group in before]:
            raise ValueError("its optimiser had other settings")
        descent.load_state_dict(copy.deepcopy(state["optimizer"]))
        scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["generator"])
        return [dict(row) for row in state["history"]]
    except (KeyError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"cannot resume from this state, which is of another training or incomplete: {type(error).__name__} {error}"
        ) from None


def _checked(found: dict[str, float], row: Row) -> dict[str, float]:
    """What `validate` gave. Raises ValueError where that has the name of a figure in `row`, or nothing in it."""
    taken = [name for name in found if name in row]
    if taken or not found:
        raise ValueError(f"validate must give figures with names of their own, got {taken[0] if taken else 'none'!r}")
    return found


def _stale(history: list[Row], patience: int) -> bool:
    """Whether the first figure of `validate` has not risen for `patience` epochs."""
    names = list(history[0])
    watched = names[names.index("images_per_second") + 1]  # after the loop's own
    figures = [row[watched] for row in history]
    return len(figures) - 1 - figures.index(max(figures)) >= patience
