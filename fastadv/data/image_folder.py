"""A user's own images, a folder a class."""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from .dataset import Dataset, from_pixels
from .files import reading

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
# What files of these names may hold. Pillow hands other formats to other programs: EPS to Ghostscript.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
GREY = ("1", "L", "LA", "La")
FIX = "save it again with 8 bits a channel, or move it away"


def load_image_folder(folder: Path, split: str) -> Dataset:
    """One split of images that lie as ``FOLDER/train/CLASS/*.png`` and ``FOLDER/test/CLASS/*.png``.

    The classes are the names of the folders of both splits, in alphabetical order. Images come in the order of their
    paths within a class, and the classes by turns, each as often as its size says: so the first of them are of all
    classes, and the last.

    All images of a split are of one size, and of at most 8 bits a channel. They are grey where all images of both
    splits are, otherwise RGB; transparency is dropped, and of several frames the first is taken. An image that its EXIF
    data say is rotated or mirrored is set upright.

    Files and folders whose names begin with a dot are left out. A warning counts what else of the split is left out:
    names that end in none of `SUFFIXES`, and what lies deeper or less deep.

    Raises FileNotFoundError where the split has no images, and ValueError for an image that cannot be read, has more
    than 8 bits a channel, or is of another size than the first.
    """
    folder = folder.expanduser()
    paths, ignored = _images(folder / split)
    others, _ = _images(folder / {"train": "test", "test": "train"}[split])
    if ignored:
        warnings.warn(
            f"{folder / split}: files and folders ignored: {len(ignored)}, the first of them "
            f"{ignored[0].relative_to(folder)}. Images are CLASS/NAME with a suffix of {', '.join(SUFFIXES)}",
            stacklevel=3,
        )
    if not paths:
        raise FileNotFoundError(
            f"{folder} has no {split} images: put them into {folder / split}/CLASS/, as PNG or JPEG"
        )
    classes = sorted({path.parent.name for path in (*paths, *others)})
    of_class = [[path for path in paths if path.parent.name == name] for name in classes]
    turns = [((place + 0.5) / len(own), path) for own in of_class for place, path in enumerate(own)]
    paths = [path for _, path in sorted(turns)]

    images: list[Image.Image] = []
    for path in paths:
        size = images[0].size if images else None
        images.append(_read(path, size))
        if size and images[-1].size != size:
            sizes = f"{images[-1].size}, but {paths[0]} {size}"
            raise ValueError(f"{path} has {sizes} pixels: scale the images to one size first")
    mode = "L" if all(image.mode == "L" for image in images) and all(map(_is_grey, others)) else "RGB"
    pixels = np.stack([np.asarray(image.convert(mode)) for image in images])
    pixels = pixels[:, None] if pixels.ndim == 3 else pixels.transpose(0, 3, 1, 2)
    labels = np.array([classes.index(path.parent.name) for path in paths])
    return from_pixels(pixels, labels, tuple(classes), folder.name or folder.resolve().name)


def _images(half: Path) -> tuple[list[Path], list[Path]]:
    """The images of one split, and what else is there; both sorted, and without what is hidden."""
    first = [path for path in half.glob("*") if path.name[0] != "."]
    second = [path for parent in first for path in parent.glob("*") if path.name[0] != "."]
    images = {path for path in second if path.suffix.lower() in SUFFIXES and not path.is_dir()}
    ignored = {*second, *(path for path in first if not path.is_dir())} - images
    return sorted(images), sorted(ignored)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The image at ``path``, its header read and its pixels not yet.

    Of bytes in memory, unlike of a file, Pillow reads no more than there are, whatever lengths they claim. Of a file
    given by name, Pillow 13 also garbles uncompressed grey TIFFs that have to be turned.
    """
    with (
        reading(path, "no readable image", "one with at most 8 bits a channel", FIX),
        Image.open(io.BytesIO(path.read_bytes()), formats=FORMATS) as image,
    ):
        yield image


def _is_grey(path: Path) -> bool:
    with _opened(path) as image:
        return image.mode in GREY


def _read(path: Path, size: tuple[int, int] | None) -> Image.Image:
    """The image, upright, in grey or else in RGB; its pixels are not read where they cannot be of the ``size`` given.

    A header that lies about the size would have memory set aside for it.
    """
    with _opened(path) as image:
        if _has_many_bits(image):
            raise ValueError("it has more than 8 bits a channel")
        if size and sorted(size) != sorted(image.size):
            return image
        ImageOps.exif_transpose(image, in_place=True)
        return image.convert("L" if image.mode in GREY else "RGB")


def _has_many_bits(image: Image.Image) -> bool:
    """Whether a channel has more than 8 bits, of which Pillow keeps all in grey images, and 8 in the others."""
    if image.format == "TIFF":
        return max(image.tag_v2.get(258, (1,))) > 8  # bits per sample
    decoder = image.tile[0][3] if image.tile else ""
    if image.format == "PPM" and isinstance(decoder, tuple):
        return decoder[1] > 255  # the maximum value
    return image.mode[0] in "IF" or re.search(";16[BLN]", str(decoder)) is not None
