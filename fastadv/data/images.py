"""Images as files have them: upright, in one size, as numbers."""

import re
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

GREY = ("1", "L", "LA", "La")


@dataclass(frozen=True)
class Framing:
    """How images of mixed sizes become one size: the shorter side is scaled to `resize`, then the middle is cut out.

    `resize`: pixels of the shorter side, bilinear with antialiasing. `crop`: pixels of both sides of the square. 0
    leaves a step out. The sizes are those of torchvision's Resize and CenterCrop.
    """

    resize: int = 0
    crop: int = 0

    def __post_init__(self) -> None:
        for name in ("resize", "crop"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be a number of pixels, or 0 for none, got {getattr(self, name)}")
        if self.resize and self.crop > self.resize:
            raise ValueError(f"crop {self.crop} exceeds resize {self.resize}, the shorter side: choose a smaller")

    def __call__(self, image: Image.Image) -> Image.Image:
        """Raises ValueError for an image that is smaller than the crop."""
        if self.resize:
            shorter, longer = sorted(image.size)
            other = int(self.resize * longer / shorter)
            size = (self.resize, other) if image.width <= image.height else (other, self.resize)
            image = image.resize(size, Image.Resampling.BILINEAR)
        if self.crop:
            if min(image.size) < self.crop:
                raise ValueError(f"it has {image.size} pixels, fewer than crop {self.crop}: scale images with resize")
            left, top = (round((side - self.crop) / 2) for side in image.size)
            image = image.crop((left, top, left + self.crop, top + self.crop))
        return image


UNCHANGED = Framing()


def has_many_bits(image: Image.Image) -> bool:
    """Whether a channel has more than 8 bits, of which Pillow keeps all in grey images, and 8 in the others."""
    if image.format == "TIFF":
        return max(image.tag_v2.get(258, (1,))) > 8  # bits per sample
    decoder = image.tile[0][3] if getattr(image, "tile", None) else ""
    if image.format == "PPM" and isinstance(decoder, tuple):
        return decoder[1] > 255  # the maximum value
    return image.mode[0] in "IF" or re.search(";16[BLN]", str(decoder)) is not None


def as_tensor(image: Image.Image, mode: str = "") -> Tensor:
    """The image in [0, 1], float32 [C, H, W], in `mode` ``L`` or ``RGB``; by default in the one it has.

    Raises ValueError for more than 8 bits a channel.
    """
    if has_many_bits(image):
        raise ValueError("it has more than 8 bits a channel")
    pixels = np.asarray(image.convert(mode or ("L" if image.mode in GREY else "RGB")))
    pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return torch.from_numpy(np.divide(pixels, 255, dtype=np.float32))
