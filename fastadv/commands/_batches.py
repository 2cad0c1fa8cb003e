"""Finished batches of an evaluation, in its folder."""

import hashlib
from collections.abc import Iterator, MutableMapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..data import Dataset
from ..runs import replace_file


class Batches(MutableMapping[str, dict[str, Tensor]]):
    """Finished batches, an .npz file each in `folder`: it appears there complete, or not at all."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.npz"

    def __getitem__(self, key: str) -> dict[str, Tensor]:
        if not self._path(key).is_file():
            raise KeyError(key)
        with np.load(self._path(key), allow_pickle=False) as arrays:
            return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def __setitem__(self, key: str, part: dict[str, Tensor]) -> None:
        replace_file(self._path(key), lambda file: np.savez(file, **{name: t.numpy() for name, t in part.items()}))

    def __delitem__(self, key: str) -> None:
        self._path(key).unlink()

    def __iter__(self) -> Iterator[str]:
        return (path.stem for path in self.folder.glob("*.npz"))

    def __len__(self) -> int:
        return len(list(iter(self)))


def fingerprint(test: Dataset, *models: nn.Module | None) -> str:
    """Of the samples and of all weights: batches of another network, or of other data, are no part of an evaluation."""
    digest = hashlib.blake2b(digest_size=8)
    state = [value for model in models if model for value in model.state_dict().values()]
    for tensor in (test.x, test.y, *(value for value in state if isinstance(value, Tensor))):
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
