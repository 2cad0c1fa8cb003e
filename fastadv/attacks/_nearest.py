"""What attacks share that look for the smallest perturbation: the best they have met is what they give."""

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

from .. import ops
from ._ascend import Rows, ascend
from ._attack import Attack, check_counts
from ._state import Nearest

Found = TypeVar("Found", bound=Nearest)


@dataclass(frozen=True)
class MinimumNorm(Attack):
    """An attack without a budget, which keeps the nearest adversarial point that it meets."""

    has_budget: ClassVar[bool] = False

    def begin(self, rows: Rows, kind: type[Found] = Nearest) -> Found:
        """Gives `rows` their state, a `kind` that has met nothing yet."""
        rows.state = kind(rows.x.clone(), ops.row_norms(rows.x, self.norm).fill_(torch.inf))
        return rows.state

    def keep(self, live: Rows, fooled: Tensor) -> None:
        """Notes `x_adv` where that is `fooled`, and nearer to x than the best so far."""
        nearest: Nearest = live.state
        ops.keep_nearest(nearest.best, nearest.size, live.x_adv, live.x, fooled, self.norm, live.active)


@dataclass(frozen=True)
class Descent(MinimumNorm):
    """One that takes a fixed number of steps, a gradient each.

    Nobody knows when a sample has come to its nearest point, so that all make all steps, but those that are adversarial
    at x, which are returned as they are; so are those that are never fooled.
    """

    steps: int = 100
    targeted: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, steps=0)

    @abstractmethod
    def descent(self, rows: Rows) -> Callable[[Rows, int], None]:
        """Begins; gives the step, which keeps what fools where it looks, and moves `x_adv`."""

    def share(self, number: int) -> float:
        """What is left at step `number` of what falls from 1 to 0 by half a cosine."""
        return (1 + math.cos(math.pi * (number - 1) / self.steps)) / 2

    def perturb(self, rows: Rows) -> None:
        step, active = self.descent(rows), rows.unwon()
        ascend(self, rows, self.steps, step, active)
        fooled = rows.fooled(rows.predictions())
        self.keep(rows, fooled if active is None else fooled & active)
        rows.x_adv = rows.state.best
