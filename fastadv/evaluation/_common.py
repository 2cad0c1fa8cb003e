"""What evaluations have in common: data where the model is, attacks that fit them, and batches that fit into memory."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..attacks import Attack, Model, checked_logits, isolated
from ..data import AnyData, Batch, Samples, samples_of
from ..float32 import exact_float32
from ..models.adapted import own_loss

T = TypeVar("T")
_NUMBERS, _SHARE = 2.0**-23, 1e-5
"""What rounding to float32 may change in a value, as a share of the width of the bounds; and of a size, of itself."""


@contextmanager
def measuring() -> Iterator[None]:
    """How all evaluations compute: float32 exactly, on GPUs too, and tensors that autograd can save."""
    with torch.inference_mode(False), exact_float32():
        yield


def device_of(model: Model) -> torch.device | None:
    """Where the parameters of `model` are; None for one that has none."""
    parameter = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    return None if parameter is None else parameter.device


def beside(model: Model, data: AnyData) -> Samples:
    """`data` (see `samples_of`) on the device of `model`, as tensors that autograd can save.

    Where they do not name their classes, these are the numbers of the model's outputs. Where the model has a loss of
    its own, labels are what that takes, and no classes. Call it within `measuring`: what is computed in inference mode
    cannot be saved either. Raises TypeError for what is no data.
    """
    data = samples_of(data)
    data = data.with_own_labels() if own_loss(model) else data
    data = data.to(device_of(model) or data.device)
    if not (data.classes or own_loss(model)):
        with isolated(model), torch.no_grad():
            outputs = checked_logits(model, data.first(1).x).shape[1]
        data = data.named([str(k) for k in range(outputs)])
    return data


def fitted(attack: Attack, data: Samples, seed: int) -> Attack:
    """`attack` within the bounds of `data`, with which its sizes scale, and with `seed` if it has none of its own.

    Raises TypeError for what is no attack, ValueError for a targeted one.
    """
    if not isinstance(attack, Attack):
        raise TypeError(f"attacks must be of fastadv.attacks, such as PGD(), got {attack!r}")
    if attack.targeted:
        raise ValueError(
            f"{type(attack).__name__} is targeted, and would lead towards the labels: set targeted to False, or call "
            "the attack itself with the classes to reach"
        )
    return attack.within(data.bounds).seeded(seed)


def check_label(label: str, *models: Model) -> None:
    """Raises ValueError unless attacks on `models` can move away from it."""
    if label not in ("true", "pred"):
        raise ValueError(f"label must be 'true' or 'pred', got {label!r}")
    if label == "pred" and any(map(own_loss, models)):
        raise ValueError("label 'pred' is the class that the model predicts: with a loss of your own, leave it 'true'")


class Portions:
    """Samples in portions that fit into memory: of `size`, and of half of that wherever the last did not."""

    def __init__(self, size: int):
        self.size = size

    def __call__(self, measure: Callable[[Batch], T], batch: Batch) -> list[T]:
        """``measure(portion)`` of the samples of `batch`, in their order."""
        while True:
            try:
                return [measure(portion) for portion in batch.split(self.size)]
            except torch.OutOfMemoryError:
                if self.size == 1:
                    raise
                self.size = -(-self.size // 2)


def leeway(norm: str, eps: float | Tensor, bounds: tuple[float, float], count: int) -> float | Tensor:
    """How much larger than `eps` the perturbation of a sample of `count` elements may be measured and still be within
    it: what rounding to float32 may add. All are in the units of the inputs, in `bounds`.
    """
    return _SHARE * eps + _NUMBERS * (bounds[1] - bounds[0]) * _elements(norm, count)


def without_leeway(norm: str, size: Tensor, bounds: tuple[float, float], count: int) -> Tensor:
    """The smallest eps that a perturbation measured as of `size` [B] is within; see `leeway`."""
    rounding = _NUMBERS * (bounds[1] - bounds[0]) * _elements(norm, count)
    return ((size - rounding) / (1 + _SHARE)).clamp_min(0)


def _elements(norm: str, count: int) -> float:
    return {"l1": count, "l2": math.sqrt(count)}.get(norm, 1)
