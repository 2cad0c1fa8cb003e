"""Data in memory, the type that every reader returns."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from .samples import Batch, Placed, Samples, checked, laid_out_on


# eq=False: equality of tensors has no single truth value, so two data sets are equal only when they are the same one.
@dataclass(frozen=True, eq=False)
class Dataset(Placed):
    """Samples and labels in memory, both on one device; checked when made.

    Args:
        x: samples [N, ...] as the model takes them, images [N, C, H, W] where they are to be augmented; any
            floating-point type in, float32 kept; finite and inside ``bounds``.
        y: labels [N] or [N, 1], any integer type in, int64 kept; 0..len(classes)-1. Without classes, what a loss of
            your own compares outputs with (see `fastadv.adapt`), [N, ...] of any type.
        classes: the name of each class; ``()`` where labels are not classes.
        bounds: the least and the greatest value a sample may hold, which attacks respect too.
        name: what messages and reports call it.

    Raises TypeError for other types and ValueError for everything else, each naming what was found and the fix.
    """

    x: Tensor
    y: Tensor
    classes: tuple[str, ...]
    bounds: tuple[float, float] = (0.0, 1.0)
    name: str = "data"

    def __post_init__(self):
        x, y = checked(self.x, self.y, self.classes, self.bounds, self.name)
        object.__setattr__(self, "x", x)
        object.__setattr__(self, "y", y)

    def __len__(self) -> int:
        return len(self.y)

    def __repr__(self) -> str:
        lo, hi = self.bounds
        labels = f"{len(self.classes)} classes" if self.classes else f"labels {list(self.y.shape[1:])}"
        return f"Dataset({self.name}: {len(self)} samples {list(self.sample_shape)} in [{lo:g}, {hi:g}], {labels})"

    @property
    def sample_shape(self) -> tuple[int, ...]:
        return tuple(self.x.shape[1:])

    @property
    def device(self) -> torch.device:
        return self.x.device

    def to(self, device: torch.device | str) -> "Dataset":
        return replace(self, x=laid_out_on(device, self.x), y=self.y.to(device))

    def named(self, classes: Sequence[str]) -> "Dataset":
        return replace(self, classes=tuple(classes))

    def with_own_labels(self) -> "Dataset":
        return self.named(()) if self.classes else self

    def at(self, ids: Tensor) -> Batch:
        return Batch(self.x[ids], self.y[ids], ids)

    def batches(self, size: int) -> Iterator[Batch]:
        ids = torch.arange(len(self), device=self.device)
        yield from map(Batch, self.x.split(size), self.y.split(size), ids.split(size))

    def subset(self, index: Tensor | Sequence[int] | slice) -> "Dataset":
        return replace(self, x=self.x[index], y=self.y[index])


def check_halves(train: Samples, test: Samples) -> None:
    """Raise ValueError unless a network that is trained on ``train`` can be tested on ``test``.

    Both need the same shape of a sample, the same bounds, and the same classes in the same order; the message names the
    first that differs, in both halves, and the fix. Numbers of samples and devices may differ.
    """
    named = dict(enumerate(train.classes)), dict(enumerate(test.classes))
    first = next((k for k in range(max(map(len, named))) if named[0].get(k) != named[1].get(k)), None)
    for what, here, there, fix in (
        ("samples of shape", [*train.sample_shape], [*test.sample_shape], "save both in one size and colour mode"),
        ("the bounds", tuple(train.bounds), tuple(test.bounds), "scale both to one range"),
        (f"as class {first}", *(half.get(first, "nothing") for half in named), "name the classes of both alike"),
    ):
        if here != there:
            raise ValueError(f"{test.name}: the test half has {what} {there}, the training half {here}: {fix}")


def by_turns(sizes: Sequence[int]) -> np.ndarray:
    """The order in which samples that lie class by class, `sizes` of each, come by turns.

    Each class comes as often as its size says, the k-th of its n samples at (k + 1/2) / n, equal places in the order of
    the classes: so the first samples are of all classes, and the last.
    """
    places = [(np.arange(size) + 0.5) / size for size in sizes]
    return np.argsort(np.concatenate(places), kind="stable")


def from_pixels(images: np.ndarray, labels: np.ndarray, classes: tuple[str, ...], name: str) -> Dataset:
    """Images of 0..255, [N, C, H, W], as a data set in [0, 1]; raises ``Dataset``'s errors."""
    x = torch.from_numpy(np.divide(images, 255, dtype=np.float32))
    return Dataset(x, torch.from_numpy(labels.astype(np.int64)), classes=classes, name=name)
