"""A user's own data in one NumPy archive."""

import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch

from .dataset import Dataset

KEYS = ("x_train", "y_train", "x_test", "y_test")
MOST_CLASSES = 100_000


def load_npz(path: Path, split: str) -> Dataset:
    """One split of an ``.npz`` file that holds x_train, y_train, x_test and y_test.

    x: floating-point in [0, 1], or uint8, which is divided by 255; images are [N, H, W], which become [N, 1, H, W], or
    [N, C, H, W]; other shapes are kept. y: integers [N]. The classes are named "0".."K-1", K - 1 being the largest
    label of both splits. Pickled objects are refused, so a file from elsewhere runs no code.

    Raises FileNotFoundError for a missing file, and ValueError (or ``Dataset``'s errors) for one that is not as above.
    """
    path = path.expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path}: not an .npz archive: write it with numpy.savez")
    try:
        with np.load(path, allow_pickle=False) as archive:
            held = archive.files
            x, *labels = (archive[key] if key in held else None for key in (f"x_{split}", "y_train", "y_test"))
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: {error}: write plain arrays with numpy.savez") from error
    missing = [key for key in KEYS if key not in held]
    if missing:
        raise ValueError(f"{path}: lacks {', '.join(missing)}; it holds {', '.join(held) or 'nothing'}")

    for key, y in zip(("y_train", "y_test"), labels, strict=True):
        if y.dtype.kind not in "iu":
            raise ValueError(f"{path}: {key} is {y.dtype}: save labels as integers")
    if x.dtype == np.uint8:
        x = np.divide(x, 255, dtype=np.float32)
    elif x.dtype.kind == "f":
        x = x.astype(np.float32)
    else:
        raise ValueError(f"{path}: x_{split} is {x.dtype}: save pixels as uint8, or as floating-point in [0, 1]")
    if x.ndim == 3:
        x = x[:, None]
    if x.ndim == 4 and x.shape[3] in (1, 3, 4) and x.shape[1] == x.shape[2] > 4:
        raise ValueError(
            f"{path}: x_{split} is {list(x.shape)}, images with their channels last: save them as [N, C, H, W], "
            f"x_{split}.transpose(0, 3, 1, 2)"
        )

    train, test = (y.astype(np.int64) for y in labels)
    classes = 1 + max(int(y.max(initial=0)) for y in (train, test))
    # One stray label must not become a tuple of a billion names.
    if classes > MOST_CLASSES:
        raise ValueError(f"{path}: the largest label is {classes - 1}: number the classes from 0")
    y = torch.from_numpy(train if split == "train" else test)
    return Dataset(torch.from_numpy(x), y, classes=tuple(map(str, range(classes))), name=path.stem)
