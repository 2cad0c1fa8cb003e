"""A user's own images, a folder a class."""

import io
import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageOps
from torch import Tensor

from .dataset import Dataset, by_turns
from .files import reading
from .images import GREY, UNCHANGED, Framing, as_tensor, has_many_bits
from .lazy import Indexed

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
# What files of these names may hold. Pillow hands other formats to other programs: EPS to Ghostscript.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
FIX = "save it again with 8 bits a channel, or move it away"


@dataclass(frozen=True)
class _Files:
    """Images on disk with their labels, decoded when they are asked for, several at a time."""

    paths: Sequence[Path]
    labels: Sequence[int]
    mode: str
    framing: Framing
    size: tuple[int, int] | None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        path = self.paths[place]
        image = _read(path, self.size, self.framing)
        if self.size and image.size != self.size:
            sizes = f"{image.size}, but {self.paths[0]} {self.size}"
            raise ValueError(f"{path} has {sizes} pixels: scale the images to one size (--resize and --crop)")
        return as_tensor(image, self.mode), self.labels[place]

    def __getitems__(self, places: Sequence[int]) -> Iterator[tuple[Tensor, int]]:
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # Pillow decodes without the interpreter's lock
            for start in range(0, len(places), 32):  # no more than these wait to be taken
                yield from pool.map(self.__getitem__, places[start : start + 32])


def open_image_folder(folder: Path, split: str, framing: Framing = UNCHANGED) -> Indexed:
    """One split of images that lie as ``FOLDER/train/CLASS/*.png`` and ``FOLDER/test/CLASS/*.png``, read when wanted.

    The classes are the names of the folders of both splits, in alphabetical order. Images come in the order of their
    paths within a class, and the classes by turns, each as often as its size says: so the first of them are of all
    classes, and the last.

    Images are of at most 8 bits a channel. Those of mixed sizes are brought to one by `framing`; without, all images of
    a split must have the same. They are grey where all images of both splits are, otherwise RGB; transparency is
    dropped, and of several frames the first is taken. An image that its EXIF data say is rotated or mirrored is set
    upright.

    Files and folders whose names begin with a dot are left out. A warning counts what else of the split is left out:
    names that end in none of `SUFFIXES`, and what lies deeper or less deep.

    Raises FileNotFoundError where the split has no images. Reading raises ValueError for an image that cannot be read,
    has more than 8 bits a channel, or is of another size than the first.
    """
    folder = folder.expanduser()
    paths, ignored = _images(folder / split)
    others, _ = _images(folder / {"train": "test", "test": "train"}[split])
    if ignored:
        warnings.warn(
            f"{folder / split}: files and folders ignored: {len(ignored)}, the first of them "
            f"{ignored[0].relative_to(folder)}. Images are CLASS/NAME with a suffix of {', '.join(SUFFIXES)}",
            stacklevel=4,
        )
    if not paths:
        raise FileNotFoundError(
            f"{folder} has no {split} images: put them into {folder / split}/CLASS/, as PNG or JPEG"
        )
    classes = sorted({path.parent.name for path in (*paths, *others)})
    of_class: dict[str, list[Path]] = {name: [] for name in classes}
    for path in paths:
        of_class[path.parent.name].append(path)
    in_classes = [path for own in of_class.values() for path in own]
    paths = [in_classes[place] for place in by_turns([len(own) for own in of_class.values()])]
    numbers = {name: k for k, name in enumerate(classes)}
    labels = [numbers[path.parent.name] for path in paths]
    size = None if framing.crop else _read(paths[0], None, framing).size
    mode = "L" if all(map(_is_grey, (*paths, *others))) else "RGB"  # the first in colour ends the search
    files = _Files(paths, labels, mode, framing, size)
    name = folder.name or folder.resolve().name
    return Indexed(files, tuple(classes), name=name, labels=torch.tensor(labels))


def load_image_folder(folder: Path, split: str) -> Dataset:
    """The same in memory; raises what `open_image_folder` and reading raise."""
    return open_image_folder(folder, split).held()


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


def _read(path: Path, size: tuple[int, int] | None, framing: Framing) -> Image.Image:
    """The image, upright and framed, in grey or else in RGB; its pixels are not read where it cannot be of `size`.

    A header that lies about the size would have memory set aside for it.
    """
    with _opened(path) as image:
        if has_many_bits(image):
            raise ValueError("it has more than 8 bits a channel")
        if size and framing == UNCHANGED and sorted(size) != sorted(image.size):
            return image
        ImageOps.exif_transpose(image, in_place=True)
        return framing(image.convert("L" if image.mode in GREY else "RGB"))
