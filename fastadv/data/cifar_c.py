"""CIFAR-10-C and CIFAR-100-C (Hendrycks and Dietterich, 2019): CIFAR's test images under common corruptions."""

from pathlib import Path

import numpy as np

from .cifar import CIFAR10_CLASSES, CIFAR100_CLASSES
from .corruptions import CORRUPTIONS
from .dataset import Dataset, from_pixels
from .files import reading, wrong

IMAGES = 10_000  # of each severity, in the order of the test images
KINDS = {"cifar10": ("CIFAR-10-C", CIFAR10_CLASSES, 2535967), "cifar100": ("CIFAR-100-C", CIFAR100_CLASSES, 3555552)}
"""What the corrupted images of a data set are called, its classes, and the record at Zenodo."""


def find_cifar_c(data: str, folder: str | Path) -> Path | None:
    """The folder with the corrupted images of `data`, ``cifar10`` or ``cifar100``; None where there is none.

    It is ``CIFAR-10-C`` or ``CIFAR-100-C`` in `folder`, or `folder` itself.
    """
    folder = Path(folder).expanduser()
    return next((place for place in (folder / KINDS[data][0], folder) if (place / "labels.npy").is_file()), None)


def load_cifar10_c(folder: str | Path, name: str, severity: int) -> Dataset:
    """The 10,000 images of one corruption at one severity, 1 to 5: x [10000, 3, 32, 32] in [0, 1], ten classes.

    folder: where CIFAR-10-C was extracted. Only these images are read of the file of all severities.

    Raises FileNotFoundError for missing files; ValueError for an unknown corruption or severity, and for a file that is
    not as published, naming what was found, what was expected and the fix.
    """
    return _load("cifar10", folder, name, severity)


def load_cifar100_c(folder: str | Path, name: str, severity: int) -> Dataset:
    """The same of CIFAR-100-C, in a hundred classes; see `load_cifar10_c`."""
    return _load("cifar100", folder, name, severity)


def _load(data: str, folder: str | Path, name: str, severity: int) -> Dataset:
    called, classes, record = KINDS[data]
    fix = f"extract it again from {called}.tar of https://zenodo.org/records/{record}"
    if name not in CORRUPTIONS or severity not in range(1, 6):
        raise ValueError(
            f"{called} has the severities 1 to 5 of {', '.join(CORRUPTIONS)}; got {name!r} at {severity!r}"
        )
    place = find_cifar_c(data, folder)
    if not place or not (place / f"{name}.npy").is_file():
        missing = f"{name}.npy" if place else "labels.npy"
        raise FileNotFoundError(f"{called}: {place or folder} holds no {missing}. To fix: {fix}, into this folder")
    rows = slice(IMAGES * (severity - 1), IMAGES * severity)
    images = _rows(place / f"{name}.npy", rows, (32, 32, 3), fix)
    labels = _rows(place / "labels.npy", rows, (), fix)
    if labels.max() >= len(classes):
        raise wrong(place / "labels.npy", f"the label {labels.max()}", f"0..{len(classes) - 1}", fix)
    return from_pixels(images.transpose(0, 3, 1, 2), labels, classes, f"{called}, {name} {severity}")


def _rows(path: Path, rows: slice, shape: tuple[int, ...], fix: str) -> np.ndarray:
    """Some of the 50,000 rows of a file of bytes; raises ValueError where it is another."""
    with reading(path, "no whole array", "one of unsigned bytes", fix):
        values = np.lib.format.open_memmap(path, mode="r")  # takes nothing pickled
    expected = 5 * IMAGES, *shape
    if values.dtype != np.uint8 or values.shape != expected:
        raise wrong(path, f"{values.dtype} {[*values.shape]}", f"uint8 {[*expected]}", fix)
    return np.array(values[rows])
