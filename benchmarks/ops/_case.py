"""What the benchmark of an op consists of, and arguments that several take."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..timing import DEVICE

CLASSES = 10
OF_LOGITS = CLASSES / 3072  # of the samples' bytes
BOX = (0.0, 1.0, None)


@dataclass(frozen=True)
class Case:
    """A call of an op: the op's arguments for samples of a shape, the bytes it has to move, and how people write it."""

    name: str  # the op's, and what tells the call from others of it
    arguments: Callable[[tuple[int, ...]], tuple]
    moves: tuple[float, float]  # how many times the samples' bytes are read, and written
    usual: Callable | None = None
    random: bool = False  # the usual form draws other numbers

    @property
    def op(self) -> str:
        return self.name.split()[0]


def samples(shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator(DEVICE).manual_seed(0)
    x, grad, noise = (torch.randn(shape, generator=generator, device=DEVICE) for _ in range(3))
    x = x.sigmoid()
    return (x + 0.05 * noise).clamp(0, 1), 1e-3 * grad, x


def columns(shape: tuple[int, ...], *values: float) -> tuple[Tensor, ...]:
    return tuple(torch.full(shape[:1], value, device=DEVICE) for value in values)


def logits(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator(DEVICE).manual_seed(1)
    scores = torch.randn(shape[0], CLASSES, generator=generator, device=DEVICE)
    return scores, torch.randint(CLASSES, shape[:1], generator=generator, device=DEVICE)
