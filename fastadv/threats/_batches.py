"""Data in batches, epoch after epoch, for what is trained on a whole data set."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from ..attacks import Model
from ..data import Dataset

Batches = Dataset | Iterable[tuple[Tensor, Tensor]]
"""A data set, or batches (x, y) that can be gone through again and again: a list, or a DataLoader."""


def batches(data: Batches, model: Model, epochs: int, batch_size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches (x [B, ...], y [B]) of all epochs, where `model` is. Those of a data set are shuffled with `seed`."""
    generator = torch.Generator().manual_seed(seed)
    where = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    for epoch in range(epochs):
        if isinstance(data, Dataset):
            order = torch.randperm(len(data), generator=generator).to(data.device).split(batch_size)
            found: Iterable[tuple[Tensor, Tensor]] = ((data.x[ids], data.y[ids]) for ids in order)
        else:
            found = data
        empty = True
        for x, y in found:
            empty = False
            yield (x, y) if where is None else (x.to(where.device), y.to(where.device))
        if empty:
            raise ValueError(f"data gave no batches in epoch {epoch + 1}: give a Dataset, a DataLoader or a list")


def bounds_of(data: Batches, bounds: tuple[float, float] | None) -> tuple[float, float]:
    """`bounds`, by default those of the data set; [0, 1] of what is none."""
    return bounds or (data.bounds if isinstance(data, Dataset) else (0.0, 1.0))
