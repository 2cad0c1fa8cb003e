"""Random changes of a batch of images, every sample its own, where the batch is: no loop, no worker processes.

An augmentation is called as ``augment(x, ids, seed)`` with images x [B, C, H, W] and the int64 `ids` [B] that name them
to random numbers; it returns new images in the shape, dtype, device and memory layout of x. What happens to a sample is
a function of (`seed`, its id) and of nothing else: neither batch, order nor device; so ids must be new every epoch. It
raises ValueError for anything but a batch of images, and for ids that are not int64, one a sample, on the device of x.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import ops

Augmentation = Callable[[Tensor, Tensor, int], Tensor]

_MODES = {"reflect": "reflect", "edge": "replicate"}
_STREAM = -1  # of random numbers; attacks count theirs from 0


@dataclass(frozen=True)
class CropFlip:
    """Pads, crops to the old size at random and mirrors half of the images: the usual augmentation of CIFAR and SVHN.

    Args:
        padding: pixels on every side; each of the ``(2 * padding + 1) ** 2`` crops has the same chance.
        flip: whether an image is mirrored left to right with chance 1/2.
        fill: what is padded with: a number within the data's bounds, ``reflect`` or ``edge``.
    """

    padding: int = 4
    flip: bool = True
    fill: float | str = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.padding, int) or self.padding < 0:
            raise ValueError(f"CropFlip: padding must be a whole number of at least 0, got {self.padding}")
        if self.fill not in _MODES and not (isinstance(self.fill, float | int) and math.isfinite(self.fill)):
            raise ValueError(f"CropFlip: fill must be a finite number, {' or '.join(_MODES)}, got {self.fill!r}")

    def __call__(self, x: Tensor, ids: Tensor, seed: int) -> Tensor:
        """New images from `x` [B, C, H, W]; what happens to one depends on `seed` and its id in `ids` [B] alone."""
        across, down, side = _draw("CropFlip", x, ids, seed)
        size, sides = x.shape[2:], [self.padding] * 4
        if self.fill == "reflect" and self.padding >= min(size):
            raise ValueError(
                f"CropFlip: images of {size[0]} x {size[1]} have no {self.padding} pixels to reflect: pad less"
            )
        padded = F.pad(x, sides, _MODES[self.fill]) if self.fill in _MODES else F.pad(x, sides, value=self.fill)
        places = 2 * self.padding + 1
        return _mirrored(_crops(padded, down * places, across * places, *size), self.flip & (side < 0.5), x)


@dataclass(frozen=True)
class ShiftFlip:
    """Shifts by any distance, repeating the pixels at the edges, and mirrors half of the images.

    Between pixels, values are interpolated bilinearly. This is what Keras' ``ImageDataGenerator`` does given
    ``width_shift_range``, ``height_shift_range`` and ``horizontal_flip``, as in the Blind AT paper.

    Args:
        shift: the furthest shift, as a share of the height and of the width; shifts are uniform up to it.
        flip: whether an image is mirrored left to right with chance 1/2.
    """

    shift: float = 0.1
    flip: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.shift <= 1:
            raise ValueError(f"ShiftFlip: shift must be a share of the size, between 0 and 1, got {self.shift}")

    def __call__(self, x: Tensor, ids: Tensor, seed: int) -> Tensor:
        """New images from `x` [B, C, H, W]; what happens to one depends on `seed` and its id in `ids` [B] alone."""
        across, down, side = _draw("ShiftFlip", x, ids, seed)
        height, width = x.shape[2:]
        top, left = ((2 * share - 1) * self.shift * n for share, n in ((down, height), (across, width)))
        room = math.floor(self.shift * max(height, width)) + 1
        padded = F.pad(x, [room] * 4, "replicate")
        y0, x0 = top.floor(), left.floor()
        # One pixel more than the image each way, to interpolate between neighbours.
        image = _crops(padded, y0 + room, x0 + room, height + 1, width + 1)
        image = image[:, :, :-1].lerp(image[:, :, 1:], ops.as_rows(top - y0, x).to(x.dtype))
        image = image[..., :-1].lerp(image[..., 1:], ops.as_rows(left - x0, x).to(x.dtype))
        return _mirrored(image, self.flip & (side < 0.5), x)


AUGMENTATIONS: dict[str, Augmentation | None] = {
    "none": None,
    "crop-flip": CropFlip(),
    "crop-flip-grey": CropFlip(fill=0.5),  # which a network that sees [-1, 1] takes for 0
    "crop-flip-reflect": CropFlip(fill="reflect"),
    "crop-flip-edge": CropFlip(fill="edge"),
    "shift-flip": ShiftFlip(),
}


def _draw(name: str, x: Tensor, ids: Tensor, seed: int) -> tuple[Tensor, ...]:
    """Three numbers a sample, uniform in the open interval (0, 1), [B] each, float64."""
    if x.dim() != 4 or not x.is_floating_point():
        raise ValueError(f"{name}: x must be a floating-point batch of images [B, C, H, W], got {x.dtype} {[*x.shape]}")
    middle = torch.full((len(x), 3), 0.5, dtype=torch.float64, device=x.device)
    return ops.random_start(middle, ids, 0.5, seed, _STREAM).unbind(1)


def _crops(x: Tensor, top: Tensor, left: Tensor, height: int, width: int) -> Tensor:
    """Of every image the part of that size at `top` and `left` [B], rounded down: [B, C, height, width]."""
    windows = x.unfold(2, height, 1).unfold(3, width, 1)  # a view
    return windows[torch.arange(len(x), device=x.device), :, top.long(), left.long()]


def _mirrored(image: Tensor, flip: Tensor, x: Tensor) -> Tensor:
    """`image`, mirrored where `flip` [B] says so, laid out like x."""
    return torch.empty_like(x).copy_(torch.where(ops.as_rows(flip, x), image.flip(3), image))
