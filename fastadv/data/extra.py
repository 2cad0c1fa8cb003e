"""Samples beside those of a data set, such as generated ones, in one file."""

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .dataset import Dataset
from .files import reading
from .lazy import Indexed
from .npz import FIX, read_array
from .samples import Placed

NAMES = (("image", "label"), ("x_train", "y_train"), ("x", "y"))
"""What samples and their labels are called in a file; the first pair as Rebuffi et al. and Wang et al. publish them."""


@dataclass(frozen=True, eq=False)
class _Pixels:
    """Images of 0..255, which stay so in memory, a quarter of what they take as float32."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor]:
        return self.images[place], self.labels[place]


def load_extra(path: str | Path, like: Placed) -> Placed:
    """The samples in `path`, of the shape, range and classes of the data set `like`, on its device.

    The file is an ``.npz`` archive or a ``.safetensors`` file that holds image and label, x_train and y_train, or x and
    y. Samples are uint8 pixels, which are read when they are wanted, or floating-point in the bounds of `like`; images
    are [N, C, H, W], [N, H, W, C], or [N, H, W] of one channel. Labels are integers [N], numbered as the classes of
    `like`. Pickled objects are refused, so a file from elsewhere runs no code.

    Raises FileNotFoundError for a missing file, ImportError where safetensors is missing, and ValueError for a file
    that is not as above.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give an .npz or a .safetensors file of samples and labels")
    x, y = _arrays(path)
    if y.is_floating_point() or y.dtype == torch.bool or y.dim() != 1 or len(x) != len(y) or not len(y):
        raise ValueError(
            f"{path}: samples [N, ...] and integer labels [N] are wanted, got {[*x.shape]} and {y.dtype} {[*y.shape]}"
        )
    y, shape = y.long(), list(like.sample_shape)
    if list(x.shape[1:]) != shape:
        if x.dim() == 4 and [x.shape[3], *x.shape[1:3]] == shape:
            x = x.permute(0, 3, 1, 2)
        elif x.dim() == 3 and [1, *x.shape[1:]] == shape:
            x = x.unsqueeze(1)
        else:
            raise ValueError(f"{path}: samples are {[*x.shape[1:]]}, those of {like.name} {shape}: bring them to that")
    classes = like.classes
    if int(y.min()) < 0 or (classes and int(y.max()) >= len(classes)):
        raise ValueError(
            f"{path}: labels are from {int(y.min())} to {int(y.max())}, the classes of {like.name} from 0 to "
            f"{len(classes) - 1}: number them alike"
        )
    if x.dtype == torch.uint8 and tuple(like.bounds) == (0, 1):
        found: Placed = Indexed(_Pixels(x, y), classes, name=path.stem, labels=y)
    elif x.is_floating_point():
        found = Dataset(x, y, classes, like.bounds, path.stem)
    else:
        raise ValueError(
            f"{path}: samples are {x.dtype}: save uint8 pixels for data in [0, 1], or floating-point in "
            f"[{like.bounds[0]:g}, {like.bounds[1]:g}]"
        )
    return found.to(like.device)


def _arrays(path: Path) -> tuple[Tensor, Tensor]:
    """Samples and labels as the file has them."""
    if path.suffix == ".safetensors":
        try:
            from safetensors import safe_open
        except ImportError:
            raise ImportError("safetensors is missing. To fix: pip install safetensors, or save as npz") from None
        with reading(path, "no .safetensors file", "one", "save tensors with safetensors.torch.save_file"):
            archive = safe_open(path, "pt")
        with archive:
            first, second = _names(path, archive.keys())
            return archive.get_tensor(first), archive.get_tensor(second)
    with reading(path, "no .npz archive", "one", FIX):
        archive = zipfile.ZipFile(path)
    with archive:
        held = [name.removesuffix(".npy") for name in archive.namelist()]
        found = []
        for name in _names(path, held):
            with reading(path / name, "no plain array", "one", FIX):
                found.append(np.ascontiguousarray(read_array(archive, f"{name}.npy")))
        x, y = found
        if x.dtype.kind not in "iuf" or y.dtype.kind not in "iu":
            raise ValueError(
                f"{path}: samples are {x.dtype} and labels {y.dtype}: save numbers, and labels as integers"
            )
        return torch.from_numpy(x), torch.from_numpy(y.astype(np.int64))


def _names(path: Path, held: list[str]) -> tuple[str, str]:
    for pair in NAMES:
        if set(pair) <= set(held):
            return pair
    wanted = "; or ".join(" and ".join(pair) for pair in NAMES)
    raise ValueError(f"{path}: it holds {', '.join(map(ascii, held)) or 'nothing'}, but {wanted} are wanted")
