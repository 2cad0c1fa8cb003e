"""What the adapters ask of a model, and of PyTorch's random numbers."""

from typing import Any

import torch
from torch import Tensor, nn

from ..attacks import Attack, Model, checked_logits, isolated
from ..attacks._attack import drawn_seed
from ..models import Normalize


def of_model(model: Model) -> Tensor | None:
    """A parameter, which shows device and dtype; None where there is none to be seen."""
    return next(model.parameters(), None) if isinstance(model, nn.Module) else None


def normalised(model: Model, mean: Any, std: Any) -> Model:
    """`model` behind ``(x - mean) / std``, numbers or one a channel; itself where that changes nothing."""
    mean, std = (torch.as_tensor(value).flatten().tolist() for value in (mean, std))
    return model if set(mean) <= {0} and set(std) <= {1} else Normalize(model, mean, std)


def logits_at(model: Model, x: Tensor) -> Tensor:
    """The logits [B, K] that attacks see."""
    with isolated(model), torch.no_grad():
        return checked_logits(model, x)


def drawn(seed: int | None) -> int:
    """`seed`, or a number from PyTorch's generator where it is None."""
    return drawn_seed() if seed is None else seed


def seeded(attack: Attack) -> Attack:
    """`attack`, with a number from PyTorch's generator for its seed where it has none and needs one."""
    return attack.seeded(drawn_seed()) if attack.seed is None and attack.is_random else attack


def in_range(size: float, norm: str, bounds: tuple[float, float]) -> float:
    """`size`; in L-infinity no more than the width of the `bounds`, further than which no value moves."""
    return min(size, bounds[1] - bounds[0]) if norm == "linf" else size
