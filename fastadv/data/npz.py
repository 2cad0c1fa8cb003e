"""A user's own data in one NumPy archive."""

import math
import zipfile
from pathlib import Path

import numpy as np
import torch

from .dataset import Dataset
from .files import reading

KEYS = ("x_train", "y_train", "x_test", "y_test")
MEDMNIST = {"x_train": "train_images", "y_train": "train_labels", "x_test": "test_images", "y_test": "test_labels"}
LAYOUTS = ("channels-first", "channels-last")
MOST_CLASSES = 100_000
FIX = "save plain arrays with numpy.savez"
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def load_npz(path: Path, split: str) -> Dataset:
    """One split of an ``.npz`` file that holds x_train, y_train, x_test and y_test, or of one of MedMNIST's.

    x: floating-point in [0, 1], or uint8, which is divided by 255; images are [N, H, W], which become [N, 1, H, W], or
    [N, C, H, W]; other shapes are kept. y: integers [N] or [N, 1]. The classes are named "0".."K-1", K - 1 being the
    largest label of both splits. Pickled objects are refused, so a file from elsewhere runs no code.

    Images [N, H, W, C] look like [N, C, H, W], so x of four dimensions, the last of them 1, 3 or 4, is refused unless
    the file says what it holds: ``numpy.savez(..., layout="channels-last")`` has x transposed to [N, C, H, W], and
    ``layout="channels-first"`` has it read as it is. MedMNIST's files hold train_images, train_labels, test_images and
    test_labels instead, channels last; their validation half is not read.

    Raises FileNotFoundError for a missing file, and ValueError for one that is not as above.
    """
    path = path.expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give a file written by numpy.savez, or the name of a data set")
    with reading(path, "no .npz archive", "one", FIX):
        archive = zipfile.ZipFile(path)
    with archive:
        held = {name.removesuffix(".npy"): name for name in archive.namelist()}
        medmnist = "x_train" not in held and set(MEDMNIST.values()) <= set(held)
        if medmnist:
            held = {key: held[name] for key, name in MEDMNIST.items()}
        arrays = {}
        for key in (f"x_{split}", "y_train", "y_test", "layout"):
            if key in held:
                with reading(path / held[key], "no plain array", "one", FIX):
                    arrays[key] = read_array(archive, held[key])
    missing = [key for key in KEYS if key not in held]
    if missing:
        names = ", ".join(name if name.isprintable() else ascii(name) for name in held)
        raise ValueError(f"{path}: lacks {', '.join(missing)}; it holds {names or 'nothing'}. {FIX}")

    for key in ("y_train", "y_test"):
        if arrays[key].dtype.kind not in "iu":
            raise ValueError(f"{path}: {key} is {arrays[key].dtype}: save labels as integers")
    layout = "channels-last" if medmnist else str(arrays.get("layout", ""))
    if "layout" in arrays and layout not in LAYOUTS:
        raise ValueError(f"{path}: layout is {layout!r}: save one of {', '.join(LAYOUTS)}")
    x = arrays[f"x_{split}"]
    if x.dtype == np.uint8:
        x = np.divide(x, 255, dtype=np.float32)
    elif x.dtype.kind == "f":
        with np.errstate(over="ignore"):  # infinite values are refused below
            x = x.astype(np.float32)
    else:
        raise ValueError(f"{path}: x_{split} is {x.dtype}: save pixels as uint8, or as floating-point in [0, 1]")
    if x.ndim == 3:
        x = x[:, None]
    elif x.ndim == 4 and layout == "channels-last":
        x = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    elif x.ndim == 4 and not layout and x.shape[3] in (1, 3, 4):
        raise ValueError(
            f"{path}: x_{split} is {list(x.shape)}, which looks like images with their channels last: save it as "
            f"[N, C, H, W], x_{split}.transpose(0, 3, 1, 2), or add layout='channels-last' to what numpy.savez saves; "
            "if it is [N, C, H, W] already, add layout='channels-first'"
        )

    labels = {key: arrays[key].astype(np.int64) for key in ("y_train", "y_test")}
    classes = 1 + max(int(y.max(initial=0)) for y in labels.values())
    # One stray label must not become a tuple of a billion names.
    if classes > MOST_CLASSES:
        raise ValueError(f"{path}: the largest label is {classes - 1}: number the classes from 0")
    y = labels[f"y_{split}"]
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    return Dataset(torch.from_numpy(x), torch.from_numpy(y), classes=tuple(map(str, range(classes))), name=path.stem)


def read_array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """One member of the archive; raises ValueError before memory is set aside for more than there is."""
    with archive.open(name) as stream:
        version = np.lib.format.read_magic(stream)
        if version not in _HEADERS:
            raise ValueError(f"{name} is of version {version[0]}.{version[1]} of the .npy format")
        shape, _, dtype = _HEADERS[version](stream)
        if dtype.hasobject:
            raise ValueError(f"{name} holds Python objects")
        told, there = stream.tell() + math.prod(shape) * dtype.itemsize, archive.getinfo(name).file_size
        if told != there:
            raise ValueError(f"{name} has {there} bytes, but its header tells of {told}")
        stream.seek(0)
        values = np.lib.format.read_array(stream, allow_pickle=False)
        stream.read(1)  # at its end the member's checksum is compared
    return values
