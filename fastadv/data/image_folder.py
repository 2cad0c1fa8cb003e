"""A user's own images, a folder a class."""

from pathlib import Path

import numpy as np
from PIL import Image

from .dataset import Dataset, from_pixels

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


def load_image_folder(folder: Path, split: str) -> Dataset:
    """One split of images that lie as ``FOLDER/train/CLASS/*.png`` and ``FOLDER/test/CLASS/*.png``.

    The classes are the names of the folders of both splits, in alphabetical order. Images come in the order of their
    paths within a class, and the classes by turns, each as often as its size says: so the first of them are of all
    classes, and the last. All are of one size: grey where all of the split are (8 bits), otherwise RGB. Names that end
    in none of `SUFFIXES` are left out.

    Raises FileNotFoundError where the split has no images, and ValueError for an image that cannot be read or is of
    another size than the first.
    """
    folder = folder.expanduser()
    found = sorted(
        path for half in ("train", "test") for path in (folder / half).glob("*/*") if path.suffix.lower() in SUFFIXES
    )
    classes = sorted({path.parent.name for path in found})
    of_class = [[p for p in found if p.parent.parent.name == split and p.parent.name == name] for name in classes]
    turns = [((place + 0.5) / len(own), path) for own in of_class for place, path in enumerate(own)]
    paths = [path for _, path in sorted(turns)]
    if not paths:
        raise FileNotFoundError(
            f"{folder} has no {split} images: put them into {folder / split}/CLASS/, as PNG or JPEG"
        )
    images = [_read(path) for path in paths]
    if any(image.mode != "L" for image in images):
        images = [image.convert("RGB") for image in images]
    for path, image in zip(paths, images, strict=True):
        if image.size != images[0].size:
            sizes = f"{image.size}, but {paths[0]} {images[0].size}"
            raise ValueError(f"{path} has {sizes} pixels: scale the images to one size first")
    pixels = np.stack([np.asarray(image) for image in images])
    pixels = pixels[:, None] if pixels.ndim == 3 else pixels.transpose(0, 3, 1, 2)
    labels = np.array([classes.index(path.parent.name) for path in paths])
    return from_pixels(pixels, labels, tuple(classes), folder.name)


def _read(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            if image.mode[0] in "IF":
                raise ValueError("it has more than 8 bits a channel")
            return image.copy() if image.mode == "L" else image.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as an image: {error}: repair it or move it away") from None
