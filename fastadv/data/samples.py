"""What every kind of data is to those who walk over it: batches of samples, their labels and their ids."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from typing_extensions import Self


class Batch(NamedTuple):
    """Samples `x` [B, ...], labels `y` [B] int64, and `ids` [B] int64, by which random numbers are keyed.

    With a loss of the user's own, `y` is what that takes, [B, ...].
    """

    x: Tensor
    y: Tensor
    ids: Tensor

    def split(self, size: int) -> "list[Batch]":
        """The same in portions of at most `size`."""
        return [Batch(*part) for part in zip(*(column.split(size) for column in self), strict=True)]


class Samples(ABC):
    """Samples and labels that are walked over in batches: `Dataset` in memory, `Indexed` and `Stream` read as they go.

    `classes`: the name of each class; empty where they are not known. `bounds`: the least and the greatest value that a
    sample may hold. `name`: what messages and reports call the data.
    """

    classes: tuple[str, ...]
    bounds: tuple[float, float]
    name: str

    @property
    @abstractmethod
    def count(self) -> int | None:
        """How many samples there are; None where only a walk can tell."""

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """The shape of one sample, such as (1, 28, 28)."""
        return tuple(self.first(1).x.shape[1:])

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the samples of a walk are."""

    @abstractmethod
    def to(self, device: torch.device | str) -> "Self":
        """The same data on `device`, laid out as convolutions there want it: images are channels_last on the CPU."""

    @abstractmethod
    def first(self, n: int) -> Batch:
        """At most `n` samples, at least one, with which a walk begins; it gives them again."""

    @abstractmethod
    def named(self, classes: Sequence[str]) -> "Self":
        """The same data with these names of the classes."""

    @abstractmethod
    def with_own_labels(self) -> "Self":
        """The same data with labels as they are, [N, ...] of any type, which a loss of the user's own takes."""

    @abstractmethod
    def batches(self, size: int) -> Iterator[Batch]:
        """All samples in their order, `size` at a time, of which one batch is held; the last may be smaller.

        Every batch is checked as `Dataset` checks its samples, and raises the same errors.
        """

    @abstractmethod
    def take(self, n: int) -> "Self":
        """The first `n` samples; all of them where there are fewer. Raises ValueError for n < 1."""

    @abstractmethod
    def only(self, classes: Sequence[int]) -> "Self":
        """The samples of these classes, numbered from 0; the names of classes stay."""


class Placed(Samples):
    """Samples that can be read in any order, by their places 0..N-1, which are also their ids; `y` [N]: the labels."""

    y: Tensor

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def at(self, ids: Tensor) -> Batch:
        """The samples at the places `ids` [B] int64."""

    @abstractmethod
    def subset(self, index: Tensor | Sequence[int] | slice) -> "Self":
        """The samples that `index` names: positions [M] in the order given, a mask [N], or a slice."""

    @property
    def count(self) -> int:
        return len(self)

    def first(self, n: int) -> Batch:
        return self.at(torch.arange(min(n, len(self)), device=self.device))

    def batches(self, size: int) -> Iterator[Batch]:
        for ids in torch.arange(len(self), device=self.device).split(size):
            yield self.at(ids)

    def take(self, n: int) -> "Self":
        if n < 1:
            raise ValueError(f"{self.name}: take needs at least one sample, got {n}")
        return self.subset(slice(n))

    def only(self, classes: Sequence[int]) -> "Self":
        return self.subset(torch.isin(self.y, torch.tensor(classes, device=self.y.device)))

    def per_class(self, n: int) -> "Self":
        """The first `n` samples of each class, in the order of the data. Raises ValueError for n < 1."""
        if n < 1:
            raise ValueError(f"{self.name}: per_class needs at least one sample of each class, got {n}")
        own = torch.nn.functional.one_hot(self.y, len(self.classes))
        return self.subset((own.cumsum(0) * own).sum(1) <= n)


def checked(
    x: Tensor, y: Tensor, classes: Sequence[str] | None, bounds: tuple[float, float], name: str
) -> tuple[Tensor, Tensor]:
    """`x` as float32 and `y` as int64 [N], of [N] or [N, 1], which autograd can save; None allows any label from 0.

    With ``classes=()`` labels are what a loss of the user's own takes: [N, ...] of any type, kept as they are.

    Raises TypeError for other types and ValueError for everything else, each naming what was found and the fix.
    """
    for what, tensor in {"x": x, "y": y}.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name}: {what} must be a tensor, got {type(tensor).__name__}: use torch.from_numpy")
    if not x.is_floating_point():
        raise TypeError(f"{name}: x must be floating-point, got {x.dtype}: divide 0..255 pixels by 255")
    of_classes = classes is None or len(classes) > 0
    if of_classes and (y.is_floating_point() or y.is_complex() or y.dtype == torch.bool):
        raise TypeError(
            f"{name}: y must be integers, one class index a sample, got {y.dtype}: use y.long(). With other labels, "
            "say what an error is, fastadv.adapt(model, loss=...)"
        )
    if of_classes and y.dim() == 2 and y.shape[1] == 1:
        y = y.squeeze(1)
    if (y.dim() != 1 if of_classes else y.dim() == 0) or x.dim() == 0 or len(x) != len(y):
        shapes = f"x {list(x.shape)} and y {list(y.shape)}"
        raise ValueError(f"{name}: x [N, ...] and y [N] must hold the same number of samples, got {shapes}")
    if x.numel() == 0:
        raise ValueError(f"{name}: at least one sample is needed, got x {list(x.shape)}")
    if x.device != y.device:
        raise ValueError(f"{name}: x is on {x.device} and y on {y.device}: move both to one device")
    if not -math.inf < bounds[0] < bounds[1] < math.inf:
        raise ValueError(f"{name}: bounds must be two finite numbers, the lower first, got {bounds}")

    x, y = x.to(torch.float32), y.to(torch.int64) if of_classes else y
    x, y = (each.clone() if each.is_inference() else each for each in (x, y))
    low, high = x.aminmax()  # NaN if any value is
    if not (low.isfinite() and high.isfinite()):
        raise ValueError(f"{name}: x holds NaN or infinite values: remove or repair those samples")
    # Compared as tensors: bounds such as 0.1 are rounded to float32 first, as the samples are.
    if low < bounds[0] or high > bounds[1]:
        raise ValueError(
            f"{name}: x lies in [{low:g}, {high:g}], outside its bounds [{bounds[0]:g}, {bounds[1]:g}]: "
            "divide 0..255 pixels by 255; wrap a normalisation (mean, std) into the model; or give other bounds"
        )
    if not of_classes:
        return x, y
    wrong = (y < 0) | (y >= len(classes)) if classes is not None else y < 0
    if wrong.any():
        at = int(wrong.nonzero()[0])
        least = "labels begin at 0"
        allowed = least if classes is None else f"the labels of {len(classes)} classes are 0..{len(classes) - 1}"
        raise ValueError(
            f"{name}: y[{at}] is {y[at]}, but {allowed}: number the classes from 0, or name them all in classes"
        )
    return x, y


def laid_out_on(device: torch.device | str | None, x: Tensor) -> Tensor:
    """`x` on `device`, as convolutions there want it."""
    x = x if device is None else x.to(device)
    if x.device.type == "cpu" and x.dim() == 4:
        # Measured: a PGD step on LeNet-5 takes half the time, wider networks 0.6 to 0.85 of it.
        x = x.to(memory_format=torch.channels_last)
    return x
