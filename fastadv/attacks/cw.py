"""Carlini and Wagner's attack in L2."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .. import ops
from ._ascend import Rows
from ._attack import check_counts
from ._carlini import CarliniWagner


@dataclass(frozen=True)
class CW(CarliniWagner):
    """The smallest L2 perturbation, by a binary search for the const of every sample (Carlini and Wagner, 2017, VI.A).

    Every step of the search minimises ``|delta|^2 + const * f`` by Adam, from x and without memory of the last. The
    const rises tenfold until it succeeds once, and then goes to the middle between the largest that failed and the
    smallest that did not. Samples that succeed at x are returned as they are; so are those never fooled.

    Args:
        kappa: the confidence, in logits, by which the other class must lead; 0 asks only for another prediction.
        steps: gradient steps for each const at the most.
        lr: Adam's step size, as a share of the inputs' range.
        initial_const: the const at first, for inputs of range 1.
        abort_early: a sample leaves a const once its own loss is no lower than a tenth of the steps before.
        binary_search_steps: how many consts are tried.
        targeted: towards the labels instead of away from them.
    """

    binary_search_steps: int = 9

    norm: ClassVar[str] = "l2"
    degree: ClassVar[int] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, binary_search_steps=1)

    def perturb(self, rows: Rows) -> None:
        state, active = self.start(rows)
        rate = torch.full_like(state.size, self.lr * self.unit)
        lower, upper = torch.zeros_like(rate), torch.full_like(rate, torch.inf)
        for _ in range(self.binary_search_steps):
            rows.x_adv = rows.x.clone()
            self.minimise(rows, active, rate)
            lower = torch.where(state.found, lower, state.const)
            upper = torch.where(state.found, state.const, upper)
            state.const = torch.where(upper.isinf(), 10 * state.const, (lower + upper) / 2)
        rows.x_adv = state.best

    def penalty(self, live: Rows) -> Tensor:
        return ops.row_norms(live.x_adv, "l2", live.x).square()

    def slope(self, live: Rows) -> Tensor:
        return 2 * (live.x_adv - live.x)
