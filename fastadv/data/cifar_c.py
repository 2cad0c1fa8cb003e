"""CIFAR-10-C (Hendrycks and Dietterich, 2019): the test images of CIFAR-10 under common corruptions."""

from pathlib import Path

import numpy as np

from .cifar import CIFAR10_CLASSES
from .corruptions import CORRUPTIONS
from .dataset import Dataset, from_pixels
from .files import reading, wrong

IMAGES = 10_000  # of each severity, in the order of CIFAR-10's test images
FIX = "extract it again from CIFAR-10-C.tar of https://zenodo.org/records/2535967"


def find_cifar10_c(folder: str | Path) -> Path | None:
    """The folder with the files of CIFAR-10-C, which is ``CIFAR-10-C`` in `folder` or `folder` itself; None without."""
    folder = Path(folder).expanduser()
    return next((place for place in (folder / "CIFAR-10-C", folder) if (place / "labels.npy").is_file()), None)


def load_cifar10_c(folder: str | Path, name: str, severity: int) -> Dataset:
    """The 10,000 images of one corruption at one severity, 1 to 5: x [10000, 3, 32, 32] in [0, 1], ten classes.

    folder: where CIFAR-10-C was extracted. Only these images are read of the file of all severities.

    Raises FileNotFoundError for missing files; ValueError for an unknown corruption or severity, and for a file that is
    not as published, naming what was found, what was expected and the fix.
    """
    if name not in CORRUPTIONS or severity not in range(1, 6):
        raise ValueError(
            f"CIFAR-10-C has the severities 1 to 5 of {', '.join(CORRUPTIONS)}; got {name!r} at {severity!r}"
        )
    place = find_cifar10_c(folder)
    if not place or not (place / f"{name}.npy").is_file():
        missing = f"{name}.npy" if place else "labels.npy"
        raise FileNotFoundError(f"CIFAR-10-C: {place or folder} holds no {missing}. To fix: {FIX}, into this folder")
    rows = slice(IMAGES * (severity - 1), IMAGES * severity)
    images = _rows(place / f"{name}.npy", rows, (32, 32, 3))
    labels = _rows(place / "labels.npy", rows, ())
    if labels.max() >= len(CIFAR10_CLASSES):
        raise wrong(place / "labels.npy", f"the label {labels.max()}", "0..9", FIX)
    return from_pixels(images.transpose(0, 3, 1, 2), labels, CIFAR10_CLASSES, f"CIFAR-10-C, {name} {severity}")


def _rows(path: Path, rows: slice, shape: tuple[int, ...]) -> np.ndarray:
    """Some of the 50,000 rows of a file of bytes; raises ValueError where it is another."""
    with reading(path, "no whole array", "one of unsigned bytes", FIX):
        values = np.lib.format.open_memmap(path, mode="r")  # takes nothing pickled
    expected = 5 * IMAGES, *shape
    if values.dtype != np.uint8 or values.shape != expected:
        raise wrong(path, f"{values.dtype} {[*values.shape]}", f"uint8 {[*expected]}", FIX)
    return np.array(values[rows])
