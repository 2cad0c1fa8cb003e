"""Data sets as tensors: ``load(name, split)`` gives a `Dataset`; ``DATASETS`` holds the names.

``load_halves(name)`` gives both halves, which ``check_halves`` has compared.

Data of any size are `Samples`, which evaluations walk over in batches: a `Dataset` is in memory, `Indexed` reads
samples by their places, and `Stream` takes what a loader gives. ``samples_of(data)`` makes one of these of a
DataLoader, an iterable of batches, or a data set of PyTorch or Hugging Face; ``open_samples(name, split)`` of a folder
of images.

``AUGMENTATIONS`` holds the random changes that training may make to a batch of images (see `augment`), ``CORRUPTIONS``
those that tests of robustness make (see `corruptions`), of which ``load_cifar10_c`` reads the published images.

A new data set is one file here with a function ``(split) -> Dataset`` and one line in ``DATASETS``. A function that
reads files from the machine takes ``folder`` and ``download`` as well, and finds them by a ``Source``.
"""

import difflib
import functools
import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from .augment import AUGMENTATIONS, Augmentation, Chain, CropFlip, CutMix, Cutout, Mixed, ShiftFlip
from .budgets import usual_eps
from .cifar import load_cifar10, load_cifar100
from .cifar_c import find_cifar_c, load_cifar10_c, load_cifar100_c
from .circles import load_two_circles
from .corruptions import CORRUPTIONS, EXTRA, corrupt, corrupted
from .dataset import Dataset, check_halves
from .extra import load_extra
from .fashion_mnist import load_fashion_mnist, load_fashion_mnist_mini
from .image_folder import load_image_folder, open_image_folder
from .images import UNCHANGED, Framing
from .lazy import AnyData, Indexed, Stream, samples_of
from .mnist import load_mnist
from .mnist_10k import load_mnist_10k
from .npz import load_npz
from .samples import Batch, Placed, Samples
from .svhn import load_svhn

__all__ = [
    "AUGMENTATIONS",
    "CORRUPTIONS",
    "DATASETS",
    "EXTRA",
    "AnyData",
    "Augmentation",
    "Batch",
    "Chain",
    "CropFlip",
    "CutMix",
    "Cutout",
    "Dataset",
    "Framing",
    "Indexed",
    "Mixed",
    "Placed",
    "Samples",
    "ShiftFlip",
    "Stream",
    "check_halves",
    "corrupt",
    "corrupted",
    "find_cifar_c",
    "load",
    "load_cifar10_c",
    "load_cifar100_c",
    "load_extra",
    "load_halves",
    "open_samples",
    "samples_of",
    "usual_eps",
]

IN_MEMORY = 2**30
"""Images that take no more bytes, as float32, are held in memory by `open_samples`."""

DATASETS: dict[str, Callable[..., Dataset]] = {
    "cifar10": load_cifar10,
    "cifar100": load_cifar100,
    "fashion-mnist": load_fashion_mnist,
    "fashion-mnist-mini": load_fashion_mnist_mini,
    "mnist": load_mnist,
    "mnist-10k": load_mnist_10k,
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
    elif Path(name).expanduser().is_dir():
        read = functools.partial(load_image_folder, Path(name))
    else:
        nearest = difflib.get_close_matches(name, DATASETS, n=1)
        guess = f" Did you mean {nearest[0]!r}?" if nearest else ""
        known = f"Known: {', '.join(DATASETS)}, a path ending in .npz, or a folder of images"
        raise ValueError(f"unknown data set {name!r}.{guess} {known}")
    if folder is not None:
        raise ValueError(f"{name} reads no folder: leave folder={str(folder)!r} out")
    return read(split)


def open_samples(
    name: str,
    split: Literal["train", "test"],
    *,
    folder: str | Path | None = None,
    download: bool = False,
    framing: Framing = UNCHANGED,
) -> Placed | Stream:
    """The data that `load` knows by `name`, on the CPU, and held in memory only where they are small.

    Args:
        name: as of `load`, or ``hf:NAME``, a data set that Hugging Face's `datasets` finds in its cache, in a folder of
            this name, or on the hub.
        split: ``train`` or ``test``.
        folder: as of `load`.
        download: as of `load`.
        framing: how images of a folder, or of Hugging Face, are brought to one size.

    Images of which all fit into `IN_MEMORY` bytes are read at once, others when they are wanted: results are the same.
    Raises the errors of `load`, and ValueError for a `framing` of other data.
    """
    path = Path(name).expanduser()
    of_folder = name not in DATASETS and path.suffix != ".npz" and path.is_dir()
    if name.startswith("hf:"):
        found = _from_hub(name.removeprefix("hf:"), split, framing)
    elif of_folder and folder is None and split in ("train", "test"):
        found = open_image_folder(path, split, framing)
    elif framing != UNCHANGED:
        raise ValueError(f"resize and crop are for folders of images and hf:NAME, not for {name}: leave them out")
    else:
        return load(name, split, folder=folder, download=download)
    small = isinstance(found, Indexed) and 4 * len(found) * math.prod(found.sample_shape) <= IN_MEMORY
    return found.held() if small else found


def _from_hub(name: str, split: str, framing: Framing) -> Indexed | Stream:
    try:
        import datasets
    except ImportError:
        raise ImportError("hf:NAME needs the package datasets. To fix: pip install datasets") from None
    if int(datasets.__version__.partition(".")[0]) < 4:
        raise ImportError(
            f"hf:NAME needs datasets 4 or later, which runs no scripts of data sets; got {datasets.__version__}. "
            "To fix: pip install -U datasets"
        )
    try:
        found = datasets.load_dataset(name, split=split)
    except Exception as error:  # of files, the network, or a name that is unknown there
        reason = " ".join(str(error).split())
        where = datasets.config.HF_DATASETS_CACHE
        raise ValueError(f"hf:{name} has no {split} data in {where}, as a folder or on the hub: {reason}") from error
    return samples_of(found, framing, name.rpartition("/")[2])


def load_halves(name: str, *, folder: str | Path | None = None, download: bool = False) -> tuple[Dataset, Dataset]:
    """The training and the test half of the data set ``name``, on the CPU, both of one kind.

    Raises the errors of ``load``, whose arguments these are, and those of ``check_halves``.
    """
    train, test = (load(name, split, folder=folder, download=download) for split in ("train", "test"))
    check_halves(train, test)
    return train, test
