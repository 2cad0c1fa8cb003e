"""The one type that every reader returns."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor


# eq=False: equality of tensors has no single truth value, so two data sets are equal only when they are the same one.
@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples and labels in memory, both on one device; checked when made.

    Args:
        x: samples [N, ...], any floating-point type in, float32 kept; finite and inside ``bounds``.
        y: labels [N], any integer type in, int64 kept; 0..len(classes)-1.
        classes: the name of each class.
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
        x, y, name = self.x, self.y, self.name
        for what, tensor in {"x": x, "y": y}.items():
            if not isinstance(tensor, Tensor):
                raise TypeError(f"{name}: {what} must be a tensor, got {type(tensor).__name__}: use torch.from_numpy")
        if not x.is_floating_point():
            raise TypeError(f"{name}: x must be floating-point, got {x.dtype}: divide 0..255 pixels by 255")
        if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
            raise TypeError(f"{name}: y must be integers, one class index a sample, got {y.dtype}: use y.long()")
        if y.dim() != 1 or x.dim() == 0 or len(x) != len(y):
            shapes = f"x {list(x.shape)} and y {list(y.shape)}"
            raise ValueError(f"{name}: x [N, ...] and y [N] must hold the same number of samples, got {shapes}")
        if x.numel() == 0:
            raise ValueError(f"{name}: at least one sample is needed, got x {list(x.shape)}")
        if x.device != y.device:
            raise ValueError(f"{name}: x is on {x.device} and y on {y.device}: move both to one device")
        if not -math.inf < self.bounds[0] < self.bounds[1] < math.inf:
            raise ValueError(f"{name}: bounds must be two finite numbers, the lower first, got {self.bounds}")

        x, y = x.to(torch.float32), y.to(torch.int64)
        low, high = x.aminmax()  # NaN if any value is
        if not (low.isfinite() and high.isfinite()):
            raise ValueError(f"{name}: x holds NaN or infinite values: remove or repair those samples")
        # Compared as tensors: bounds such as 0.1 are rounded to float32 first, as the samples are.
        if low < self.bounds[0] or high > self.bounds[1]:
            raise ValueError(
                f"{name}: x lies in [{low:g}, {high:g}], outside its bounds [{self.bounds[0]:g}, {self.bounds[1]:g}]: "
                "divide 0..255 pixels by 255; wrap a normalisation (mean, std) into the model; or give other bounds"
            )
        wrong = (y < 0) | (y >= len(self.classes))
        if wrong.any():
            at = int(wrong.nonzero()[0])
            raise ValueError(
                f"{name}: y[{at}] is {y[at]}, but the labels of {len(self.classes)} classes are "
                f"0..{len(self.classes) - 1}: number the classes from 0, or name them all in classes"
            )
        object.__setattr__(self, "x", x)
        object.__setattr__(self, "y", y)

    def __len__(self) -> int:
        return len(self.y)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """The shape of one sample, such as (1, 28, 28)."""
        return tuple(self.x.shape[1:])

    @property
    def device(self) -> torch.device:
        """Where the samples are."""
        return self.x.device

    def to(self, device: torch.device | str) -> "Dataset":
        """The same data on ``device``, laid out as convolutions there want it: images are channels_last on the CPU."""
        x = self.x.to(device)
        if x.device.type == "cpu" and x.dim() == 4:
            # Measured: a PGD step on LeNet-5 takes half the time, wider networks 0.6 to 0.85 of it.
            x = x.to(memory_format=torch.channels_last)
        return replace(self, x=x, y=self.y.to(device))

    def take(self, n: int) -> "Dataset":
        """The first ``n`` samples; all of them where there are fewer. Raises ValueError for n < 1."""
        if n < 1:
            raise ValueError(f"{self.name}: take needs at least one sample, got {n}")
        return self.subset(slice(n))

    def per_class(self, n: int) -> "Dataset":
        """The first ``n`` samples of each class, in the order of the data. Raises ValueError for n < 1."""
        if n < 1:
            raise ValueError(f"{self.name}: per_class needs at least one sample of each class, got {n}")
        own = torch.nn.functional.one_hot(self.y, len(self.classes))
        return self.subset((own.cumsum(0) * own).sum(1) <= n)

    def subset(self, index: Tensor | Sequence[int] | slice) -> "Dataset":
        """The samples that ``index`` names: positions [M] in the order given, a mask [N], or a slice."""
        return replace(self, x=self.x[index], y=self.y[index])


def check_halves(train: Dataset, test: Dataset) -> None:
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


def from_pixels(images: np.ndarray, labels: np.ndarray, classes: tuple[str, ...], name: str) -> Dataset:
    """Images of 0..255, [N, C, H, W], as a data set in [0, 1]; raises ``Dataset``'s errors."""
    x = torch.from_numpy(np.divide(images, 255, dtype=np.float32))
    return Dataset(x, torch.from_numpy(labels.astype(np.int64)), classes=classes, name=name)
