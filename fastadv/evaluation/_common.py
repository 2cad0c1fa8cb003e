"""What evaluations have in common: data where the model is, attacks that fit them, and batches that fit into memory."""

import dataclasses
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..attacks import Attack, Model
from ..data import Dataset

T = TypeVar("T")


def device_of(model: Model, data: Dataset) -> torch.device:
    """Where the parameters of `model` are; of one that has none, where `data` are."""
    return next(model.parameters(), data.x).device if isinstance(model, nn.Module) else data.device


def beside(model: Model, data: Dataset) -> Dataset:
    """`data` on the device of `model`, as tensors that autograd can save. Raises TypeError for anything but a data set.

    Call it under ``torch.inference_mode(False)``: what is computed within inference mode cannot be saved either.
    """
    if not isinstance(data, Dataset):
        raise TypeError(f"data must be a fastadv.Dataset, got {type(data).__name__}: make one, Dataset(x, y, classes)")
    if data.x.is_inference() or data.y.is_inference():
        data = dataclasses.replace(data, x=data.x.clone(), y=data.y.clone())
    return data.to(device_of(model, data))


def fitted(attack: Attack, data: Dataset, seed: int) -> Attack:
    """`attack` within the bounds of `data`, with `seed` if it has none of its own.

    Raises TypeError for what is no attack, ValueError for a targeted one.
    """
    if not isinstance(attack, Attack):
        raise TypeError(f"attacks must be of fastadv.attacks, such as PGD(), got {attack!r}")
    if attack.targeted:
        raise ValueError(
            f"{type(attack).__name__} is targeted, and would lead towards the labels: set targeted to False, or call "
            "the attack itself with the classes to reach"
        )
    return dataclasses.replace(attack, bounds=data.bounds).seeded(seed)


def check_label(label: str) -> None:
    """Raises ValueError unless attacks can move away from it."""
    if label not in ("true", "pred"):
        raise ValueError(f"label must be 'true' or 'pred', got {label!r}")


class Portions:
    """Samples in portions that fit into memory: of `size`, and of half of that wherever the last did not."""

    def __init__(self, size: int):
        self.size = size

    def __call__(self, measure: Callable[[Tensor], T], ids: Tensor) -> list[T]:
        """``measure(portion)`` of the samples `ids` [B], in their order."""
        while True:
            try:
                return [measure(portion) for portion in ids.split(self.size)]
            except torch.OutOfMemoryError:
                if self.size == 1:
                    raise
                self.size = -(-self.size // 2)
