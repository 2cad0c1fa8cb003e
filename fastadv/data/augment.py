"""Random changes of a batch of images, every sample its own, where the batch is: no loop, no worker processes.

An augmentation is called as ``augment(x, ids, seed)`` with images x [B, C, H, W] and the int64 `ids` [B] that name them
to random numbers; it returns new images in the shape, dtype, device and memory layout of x. What happens to a sample is
a function of (`seed`, its id) and of nothing else: neither batch, order nor device; so ids must be new every epoch. It
raises ValueError for anything but a batch of images, and for ids that are not int64, one a sample, on the device of x.

Where images are mixed with others of the batch, it returns `Mixed`: then a sample depends on the batch, too.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import ops

_MODES = {"reflect": "reflect", "edge": "replicate"}
_STREAM, _CUTOUT, _CUTMIX = -1, -2, -3  # of random numbers; attacks count theirs from 0


class Mixed(NamedTuple):
    """Images `x` [B, C, H, W] of which a part is another's: the one at `partner` [B] in the batch; `share` [B] is what
    remains of an image's own, from 0 to 1.
    """

    x: Tensor
    partner: Tensor
    share: Tensor

    def labels(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of the labels `y` [B] of the images before: those of the larger parts, of the smaller ones, and how large the
        larger ones are, [B] each.
        """
        swap = self.share < 0.5
        other = y[self.partner]
        return (
            torch.where(swap, other, y),
            torch.where(swap, y, other),
            torch.where(swap, 1 - self.share, self.share),
        )


Augmentation = Callable[[Tensor, Tensor, int], Tensor | Mixed]


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


@dataclass(frozen=True)
class Cutout:
    """Covers a square of each image (DeVries and Taylor: Improved Regularization of CNNs with Cutout, 2017).

    The middle of the square is any pixel with the same chance, so a part of it may be outside the image.

    Args:
        size: sides of the square, as a share of the image's; 0.5 is 16 of 32 pixels.
        fill: value that covers it, within the data's bounds; 0.5 is what 0 is after a normalisation.
    """

    size: float = 0.5
    fill: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.size <= 1:
            raise ValueError(f"Cutout: size must be a share of the sides, above 0 and at most 1, got {self.size}")
        if not math.isfinite(self.fill):
            raise ValueError(f"Cutout: fill must be a finite number, got {self.fill}")

    def __call__(self, x: Tensor, ids: Tensor, seed: int) -> Tensor:
        """New images from `x` [B, C, H, W]; what happens to one depends on `seed` and its id in `ids` [B] alone."""
        down, across, _ = _draw("Cutout", x, ids, seed, _CUTOUT)
        height, width = (torch.full_like(down, math.floor(self.size * n)) for n in x.shape[2:])
        inside = _boxes(x, down, across, height, width)
        return torch.empty_like(x).copy_(x.masked_fill(inside.unsqueeze(1), self.fill))


@dataclass(frozen=True)
class CutMix:
    """Pastes a part of another image of the batch into each, and mixes their labels as the areas are.

    Of Yun et al. (CutMix, 2019), with the beta distribution of both parameters 1: the area of the part is a share of
    the image's that is uniform in (0, 1), of its shape, around any pixel with the same chance; what is outside the
    image is lost. The partner is the next one in a random order of the batch; of a single image, itself. Training takes
    mixed labels by `Standard` and `TRADES`.
    """

    def __call__(self, x: Tensor, ids: Tensor, seed: int) -> Mixed:
        """`Mixed` images from `x` [B, C, H, W]; the part depends on `seed` and the id in `ids` [B] alone."""
        down, across, area, rank = _draw("CutMix", x, ids, seed, _CUTMIX, 4)
        height, width = x.shape[2:]
        inside = _boxes(x, down, across, *((area.sqrt() * n).floor() for n in (height, width)))
        order = rank.argsort()
        partner = torch.empty_like(order).scatter_(0, order, order.roll(1))
        mixed = torch.empty_like(x).copy_(torch.where(inside.unsqueeze(1), x[partner], x))
        return Mixed(mixed, partner, 1 - inside.flatten(1).float().mean(1))


@dataclass(frozen=True)
class Chain:
    """One augmentation after another; only the last may mix images.

    Args:
        steps: the augmentations, in their order.
    """

    steps: tuple[Augmentation, ...]

    def __call__(self, x: Tensor, ids: Tensor, seed: int) -> Tensor | Mixed:
        """What the last of `steps` returns."""
        for step in self.steps:
            if isinstance(x, Mixed):
                raise ValueError(f"Chain: only the last augmentation may mix images, and {step} follows one that does")
            x = step(x, ids, seed)
        return x


AUGMENTATIONS: dict[str, Augmentation | None] = {
    "none": None,
    "crop-flip": CropFlip(),
    "crop-flip-grey": CropFlip(fill=0.5),  # which a network that sees [-1, 1] takes for 0
    "crop-flip-reflect": CropFlip(fill="reflect"),
    "crop-flip-edge": CropFlip(fill="edge"),
    "crop-flip-cutout": Chain((CropFlip(), Cutout())),
    "crop-flip-cutmix": Chain((CropFlip(), CutMix())),
    "shift-flip": ShiftFlip(),
}


def _draw(name: str, x: Tensor, ids: Tensor, seed: int, stream: int = _STREAM, count: int = 3) -> tuple[Tensor, ...]:
    """`count` numbers a sample, uniform in the open interval (0, 1), [B] each, float64."""
    if x.dim() != 4 or not x.is_floating_point():
        raise ValueError(f"{name}: x must be a floating-point batch of images [B, C, H, W], got {x.dtype} {[*x.shape]}")
    middle = torch.full((len(x), count), 0.5, dtype=torch.float64, device=x.device)
    return ops.random_start(middle, ids, 0.5, seed, stream).unbind(1)


def _crops(x: Tensor, top: Tensor, left: Tensor, height: int, width: int) -> Tensor:
    """Of every image the part of that size at `top` and `left` [B], rounded down: [B, C, height, width]."""
    windows = x.unfold(2, height, 1).unfold(3, width, 1)  # a view
    return windows[torch.arange(len(x), device=x.device), :, top.long(), left.long()]


def _boxes(x: Tensor, down: Tensor, across: Tensor, height: Tensor, width: Tensor) -> Tensor:
    """Which pixels are in a box of that size [B] around the pixel at those shares of each image's sides: [B, H, W]."""
    covered = []
    for share, size, n in ((down, height, x.shape[2]), (across, width, x.shape[3])):
        first = ((share * n).floor() - (size / 2).floor()).unsqueeze(1)
        places = torch.arange(n, device=x.device)
        covered.append((first <= places) & (places < first + size.unsqueeze(1)))
    return covered[0].unsqueeze(2) & covered[1].unsqueeze(1)


def _mirrored(image: Tensor, flip: Tensor, x: Tensor) -> Tensor:
    """`image`, mirrored where `flip` [B] says so, laid out like x."""
    return torch.empty_like(x).copy_(torch.where(ops.as_rows(flip, x), image.flip(3), image))
