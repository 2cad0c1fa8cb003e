"""Finished batches of an evaluation, in its folder."""

import hashlib
import warnings
from collections.abc import Iterator, MutableMapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .._version import __version__
from ..runs import digest, make_folder, replace_file

_DIGEST = "digest"


class Batches(MutableMapping[str, dict[str, Tensor]]):
    """Finished batches, an .npz file each in `folder`: it appears there complete, or not at all.

    A file that is damaged, or that another version of fastadv wrote, is as good as missing, with a warning.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        make_folder(folder)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.npz"

    def __getitem__(self, key: str) -> dict[str, Tensor]:
        path = self._path(key)
        if not path.is_file():
            raise KeyError(key)
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                part = {name: torch.from_numpy(array) for name, array in arrays.items() if name != _DIGEST}
                intact = str(arrays[_DIGEST]) == _digest(key, part)
        except Exception:  # numpy and zipfile raise whatever the bytes lead them to
            intact = False
        if not intact:
            warnings.warn(f"{path} is damaged or from another version of fastadv, and is measured again", stacklevel=2)
            raise KeyError(key)
        return part

    def __setitem__(self, key: str, part: dict[str, Tensor]) -> None:
        arrays = {name: tensor.numpy() for name, tensor in part.items()} | {_DIGEST: np.array(_digest(key, part))}
        replace_file(self._path(key), lambda file: np.savez(file, **arrays))

    def __delitem__(self, key: str) -> None:
        self._path(key).unlink()

    def __iter__(self) -> Iterator[str]:
        return (path.stem for path in self.folder.glob("*.npz"))

    def __len__(self) -> int:
        return len(list(iter(self)))


def _digest(key: str, part: dict[str, Tensor]) -> str:
    return digest([__version__, key, part])


def fingerprint(*models: nn.Module | None) -> str:
    """Of all weights: batches of another network are no part of an evaluation. Samples are stamped batch by batch."""
    digest = hashlib.blake2b(digest_size=8)
    state = [value for model in models if model for value in model.state_dict().values()]
    for tensor in (value for value in state if isinstance(value, Tensor)):
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
