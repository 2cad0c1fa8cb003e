"""What a training method is to the loop."""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._processes import processes
from ..attacks import Rows, predicted
from ..attacks._passes import faster_passes
from ..models.adapted import expected, logits_of, own_loss

Stats = dict[str, Tensor]
Row = dict[str, float]
_M = TypeVar("_M", bound="Method")


class Source(Protocol):
    """What a method may know of the training data: how many samples, where, of which shape, between which `bounds`."""

    bounds: tuple[float, float]
    sample_shape: tuple[int, ...]
    device: torch.device

    def __len__(self) -> int: ...


@dataclass
class Batch:
    """What a method sees of the data at one step.

    `x` [B, ...] and `y` [B] on the model's device, or what a loss of the user's own takes; `index` [B], the samples'
    places in the data set; `ids` [B], which name the samples to random numbers: new every epoch in `fit`, by default
    their places; `epoch`, and the `step` in it, from 0. `stats`: scalars that the method reports; their means over the
    epoch go into the history. `made`: where it is a list, the attack that the first call of `loss` made goes into it,
    and the second call takes it. `size`: the samples of the whole batch, where several processes share it and `x` is
    the part of one; by default as many in each. `mix`: of images mixed from two, whose larger part has the label `y`,
    the labels of the smaller parts and the shares of the larger ones, [B] each.
    """

    x: Tensor
    y: Tensor
    index: Tensor
    ids: Tensor | None = None
    epoch: int = 0
    stats: Stats = field(default_factory=dict)
    made: list[Rows] | None = None
    size: int = 0
    step: int = 0
    mix: tuple[Tensor, Tensor] | None = None

    def __post_init__(self) -> None:
        self.ids = self.index if self.ids is None else self.ids
        self.size = self.size or len(self.y) * processes()

    def targets(self, logits: Any) -> Tensor:
        """What cross-entropy compares `logits` [B, K] with: `y` [B]; of mixed images, the shares of classes [B, K]."""
        if self.mix is None:
            return self.y
        other, share = self.mix
        larger, smaller = (F.one_hot(y, logits.shape[1]).to(logits.dtype) for y in (self.y, other))
        return smaller.lerp(larger, share.unsqueeze(1).to(logits.dtype))


@dataclass
class Method(ABC):
    """A training method: its options are its fields, and it says what is minimised.

    Args:
        label_smoothing: share of the label spread over all classes, in every cross-entropy with labels; none in a loss
            of the user's own.
    """

    label_smoothing: float = field(default=0.0, kw_only=True)

    in_epochs: ClassVar[tuple[str, ...]] = ()  # the options that are epochs, or lists of them
    kept: ClassVar[tuple[str, ...]] = ()  # attributes that `begin` sets and training changes: tensors or plain values
    repeatable: ClassVar[bool] = True  # whether `loss` may be called twice for a batch, and attacks once
    per_sample: ClassVar[tuple[str, ...]] = ()  # those of them that are tensors [N, ...], with an entry a sample
    second_order: ClassVar[bool] = False  # whether `loss` has gradients of samples in it, through which it is minimised
    replays: ClassVar[int] = 1  # how often each batch is trained on
    at_budget: ClassVar[bool] = True  # whether it trains at its budget from the first epoch on
    needs_classes: ClassVar[str] = "its loss compares logits with classes"  # why it takes no loss of the user's own

    def __post_init__(self) -> None:
        """Raises ValueError for options out of range."""
        check_share("label_smoothing", self.label_smoothing)

    @property
    def mixes(self) -> bool:
        """Whether `loss` takes images that are mixed from two, by `Batch.targets`."""
        return False

    def check_mixed(self, model: nn.Module) -> None:
        """Raises ValueError where the method cannot train `model` on images that are mixed from two."""
        if own_loss(model) or not self.mixes:
            why = "a loss of your own takes one label" if own_loss(model) else "its loss or its attack takes one label"
            raise ValueError(
                f"{type(self).__name__} takes no images with mixed labels: {why} a sample. Choose another augment, or "
                "the methods Standard, or TRADES with PGD of loss kl and no restarts"
            )

    def check_own_loss(self) -> None:
        """Raises ValueError where the method cannot minimise a loss of the user's own; see `fastadv.adapt`."""
        if self.needs_classes:
            raise ValueError(
                f"{type(self).__name__} cannot train with a loss of your own: {self.needs_classes}. Standard, "
                "FGSMTraining, PGDTraining, DeepFoolTraining, Blind, Madry, CAT, DAT, Friendly, FGSMRS, NFGSM, "
                "GradAlign and FreeAT can"
            )

    @property
    def budget(self) -> float | None:
        """The L-infinity budget that the method trains at, a share of the inputs' range; None where it has none."""
        return None

    @property
    def whole_batch(self) -> str:
        """Why the loss needs all samples of a batch at once, as a clause; empty where parts can come one by one.

        Methods that call `fastadv.trainers.mean` need them.
        """
        return ""

    def at(self, eps: float) -> "Method":
        """The method with another budget, a share of the inputs' range; itself where it has none."""
        return self

    def steadier(self) -> "Method | None":
        """The method, less prone to catastrophic overfitting from here on; None where it has nothing to change."""
        return None

    def begin(self, train: Source, seed: int | None, epochs: int) -> None:  # noqa: B027 - most have nothing to prepare
        """Called once, before the first epoch of a run of so many.

        `seed` None: attacks draw theirs from torch's default generator, as in a loop written by hand.
        """

    def end_epoch(self, row: Row) -> None:  # noqa: B027 - most methods have nothing to adapt
        """Called after every epoch with its row of the history."""

    def cross_entropy(self, logits: Tensor, y: Tensor, reduction: str = "mean") -> Tensor:
        """The cross-entropy of `logits` [B, K] with `y`: labels [B] or shares of classes [B, K], both smoothed.

        A scalar; [B] where `reduction` is none.
        """
        return F.cross_entropy(logits, y, reduction=reduction, label_smoothing=self.label_smoothing)

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The loss to minimise, a mean over `batch`: a scalar with a gradient in the model's parameters.

        Where several processes share a batch, each calls it with its part. What depends on the whole batch goes through
        `fastadv.trainers.mean`.
        """


def altered(method: _M, **options: Any) -> _M:
    """`method` in the midst of a run with other `options`, and with all that it keeps."""
    other = copy.copy(method)
    vars(other).update(options)
    other.__post_init__()
    return other


def forward(model: nn.Module, x: Tensor) -> Any:
    """The logits [B, K] of `model` at `x` [B, ...], with their history; what a loss takes that is the user's own."""
    with faster_passes(x, model):
        return logits_of(model, x)


def error(model: nn.Module, logits: Any, y: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """The cross-entropy of `logits` [B, K] with the labels `y` [B], or the loss of the user's own; a mean, a scalar."""
    if own_loss(model):
        return model.losses(logits, y).mean()
    return F.cross_entropy(logits, y, label_smoothing=label_smoothing)


def accuracy(logits: Any, y: Tensor, model: nn.Module | None = None) -> Tensor:
    """The share of `logits` [B, K] that are highest at the labels `y` [B], or right by `model`'s own loss, a scalar."""
    if own_loss(model):
        logits, y = model.judged(logits, y), expected(model, y)
    return (predicted(logits) == y).float().mean()


def check_share(name: str, value: float) -> None:
    """Raises ValueError unless `value` is in [0, 1)."""
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be in [0, 1), got {value}")


def check_weight(name: str, value: float) -> None:
    """Raises ValueError unless `value` is finite and not negative."""
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be finite and not negative, got {value}")


def check_count(name: str, value: int, least: int = 0) -> None:
    """Raises ValueError unless `value` is a whole number of at least `least`."""
    if not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value}")


def check_epochs(name: str, epochs: Sequence[int]) -> None:
    """Raises ValueError unless `epochs` are whole numbers from 1 on, in order."""
    listed = isinstance(epochs, Sequence) and all(isinstance(epoch, int) and epoch > 0 for epoch in epochs)
    if not listed or list(epochs) != sorted(epochs):
        raise ValueError(f"{name} must be a list of epochs from 1 on, in order, got {epochs}")
