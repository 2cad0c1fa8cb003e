"""Carlini and Wagner's attack in L-infinity."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .. import ops
from ._ascend import Rows
from ._attack import check_ranges
from ._carlini import CarliniWagner, Weighed


@dataclass
class _Bounded(Weighed):
    """Of each sample besides: the size of perturbation that is not penalised."""

    tau: Tensor | None = None


@dataclass(frozen=True)
class CWLinf(CarliniWagner):
    """The smallest L-infinity perturbation, below a bound tau that shrinks (Carlini and Wagner, 2017, VI.C).

    Adam minimises ``sum max(|delta_i| - tau, 0) + const * f`` for every sample until it succeeds within its tau, which
    then becomes `decrease` times the norm found. Where it does not, the const rises tenfold, until it is too large.
    Adam goes on from the best so far, cut off at tau. Samples that succeed at x are returned as they are; so are those
    never fooled.

    Args:
        kappa: the confidence, in logits, by which the other class must lead; 0 asks only for another prediction.
        steps: gradient steps for each tau and const at the most.
        lr: Adam's step size, as a share of tau, so that it suits perturbations of every size.
        initial_const: the const at first, for inputs of range 1.
        abort_early: a sample gives up a tau once its own loss is no lower than a tenth of the steps before.
        largest_const: the const beyond which a sample is finished.
        decrease: how much smaller the next tau is.
        targeted: towards the labels instead of away from them.
    """

    lr: float = 0.02
    initial_const: float = 0.01
    largest_const: float = 20.0
    decrease: float = 0.95

    norm: ClassVar[str] = "linf"
    state: ClassVar[type[Weighed]] = _Bounded
    degree: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, largest_const=f"[{self.initial_const}, 1e+30]", decrease="(0, 1)")

    def perturb(self, rows: Rows) -> None:
        state, active = self.start(rows)
        reach = self.bounds[1] - self.bounds[0]
        state.tau = torch.full_like(state.size, reach)
        while active.any():
            rows.x_adv = state.best.clone()
            ops.linf_step(rows.x_adv, rows.x, rows.x, 0.0, state.tau, *self.bounds)  # no step, only the projection
            self.minimise(rows, active, self.lr * state.tau)
            solved = state.size <= state.tau
            state.tau = torch.where(solved, self.decrease * state.size, state.tau)
            state.const = torch.where(solved, state.const, 10 * state.const)
            # Without the second, a model that is not quite the same function twice could go on for ever.
            active &= state.const <= self.weight(self.largest_const)
            active &= state.tau > torch.finfo(rows.x.dtype).eps * reach
        rows.x_adv = state.best

    def penalty(self, live: Rows) -> Tensor:
        return ops.row_norms((live.x_adv - live.x).abs().sub_(ops.as_rows(live.state.tau, live.x)).clamp_min_(0), "l1")

    def slope(self, live: Rows) -> Tensor:
        delta = live.x_adv - live.x
        return torch.where(delta.abs() > ops.as_rows(live.state.tau, delta), delta.sign(), 0)

    def _step(self, live: Rows, number: int, move: Callable) -> Tensor | None:
        falls, unsolved = super()._step(live, number, move), live.state.size > live.state.tau
        return unsolved if falls is None else unsolved & falls
