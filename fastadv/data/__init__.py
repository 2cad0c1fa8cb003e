"""Data sets as tensors: ``load(name, split)`` gives a `Dataset`; ``DATASETS`` holds the names.

``load_halves(name)`` gives both halves, which ``check_halves`` has compared.

``AUGMENTATIONS`` holds the random changes that training may make to a batch of images (see `augment`), ``CORRUPTIONS``
those that tests of robustness make (see `corruptions`), of which ``load_cifar10_c`` reads the published images.

A new data set is one file here with a function ``(split) -> Dataset`` and one line in ``DATASETS``. A function that
reads files from the machine takes ``folder`` and ``download`` as well, and finds them by a ``Source``.
"""

import difflib
import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from .augment import AUGMENTATIONS, Augmentation, CropFlip, ShiftFlip
from .budgets import usual_eps
from .cifar import load_cifar10, load_cifar100
from .cifar_c import find_cifar10_c, load_cifar10_c
from .circles import load_two_circles
from .corruptions import CORRUPTIONS, EXTRA, corrupt, corrupted
from .dataset import Dataset, check_halves
from .fashion_mnist import load_fashion_mnist, load_fashion_mnist_mini
from .image_folder import load_image_folder
from .mnist import load_mnist
from .npz import load_npz
from .svhn import load_svhn

__all__ = [
    "AUGMENTATIONS",
    "CORRUPTIONS",
    "DATASETS",
    "EXTRA",
    "Augmentation",
    "CropFlip",
    "Dataset",
    "ShiftFlip",
    "check_halves",
    "corrupt",
    "corrupted",
    "find_cifar10_c",
    "load",
    "load_cifar10_c",
    "load_halves",
    "usual_eps",
]

DATASETS: dict[str, Callable[..., Dataset]] = {
    "cifar10": load_cifar10,
    "cifar100": load_cifar100,
    "fashion-mnist": load_fashion_mnist,
    "fashion-mnist-mini": load_fashion_mnist_mini,
    "mnist": load_mnist,
    "svhn": load_svhn,
    "two-circles": load_two_circles,
}


def load(
    name: str, split: Literal["train", "test"], *, folder: str | Path | None = None, download: bool = False
) -> Dataset:
    """The data set ``name``, on the CPU.

    Args:
        name: a key of ``DATASETS``, or the path of a file ending in ``.npz`` (see ``load_npz``), or
            of a folder of images (see ``load_image_folder``).
        split: ``train`` or ``test``.
        folder: where the data set's files are; None searches the usual places (see ``Source.locate``).
        download: permission to download what is found nowhere; unused by data sets that need no files.

    Raises ValueError for an unknown name or split, a folder that means nothing to this data set, and damaged files;
    FileNotFoundError for missing files, ConnectionError for a failed download, ImportError for SVHN without scipy.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test', got {split!r}")
    if name in DATASETS:
        read = DATASETS[name]
        if "folder" in inspect.signature(read).parameters:
            return read(split, folder=folder, download=download)
    elif Path(name).suffix == ".npz":
        read = functools.partial(load_npz, Path(name))
    elif Path(name).is_dir():
        read = functools.partial(load_image_folder, Path(name))
    else:
        nearest = difflib.get_close_matches(name, DATASETS, n=1)
        guess = f" Did you mean {nearest[0]!r}?" if nearest else ""
        known = f"Known: {', '.join(DATASETS)}, a path ending in .npz, or a folder of images"
        raise ValueError(f"unknown data set {name!r}.{guess} {known}")
    if folder is not None:
        raise ValueError(f"{name} reads no folder: leave folder={str(folder)!r} out")
    return read(split)


def load_halves(name: str, *, folder: str | Path | None = None, download: bool = False) -> tuple[Dataset, Dataset]:
    """The training and the test half of the data set ``name``, on the CPU, both of one kind.

    Raises the errors of ``load``, whose arguments these are, and those of ``check_halves``.
    """
    train, test = (load(name, split, folder=folder, download=download) for split in ("train", "test"))
    check_halves(train, test)
    return train, test
