"""One perturbation for all samples."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .. import ops
from ..attacks import Attack, Model, Rows, isolated
from ..attacks._ascend import STEPS
from ..attacks._attack import check_budget, check_choice, check_count
from ._batches import Batches, batches, bounds_of


@dataclass(frozen=True, eq=False)
class Universal(Attack):
    """One perturbation that is added to every sample (Moosavi-Dezfooli et al., 2017), and clipped; `fit` finds it.

    Args:
        delta: the perturbation, [C, H, W] or what samples are.
        eps: its size in `norm` at the most; `at` another, `delta` scales with it.
        norm: ``linf``, ``l2`` or ``l1``.
    """

    delta: Tensor
    eps: float = 8 / 255
    norm: str = field(default="linf", kw_only=True)

    in_units = ("eps", "delta")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "norm", self.norm, tuple(STEPS))
        check_budget(self, "eps", self.eps, whole=self.norm != "linf")

    @classmethod
    def fit(
        cls,
        model: Model,
        data: Batches,
        eps: float = 8 / 255,
        *,
        alpha: float | None = None,
        epochs: int = 5,
        batch_size: int = 128,
        cap: float = 9.0,
        norm: str = "linf",
        target: int | None = None,
        bounds: tuple[float, float] | None = None,
        seed: int = 0,
    ) -> "Universal":
        """The perturbation that the mean loss of `model` rises most along: projected ascent on batches.

        A step goes along the batch's summed gradient of the cross-entropy, in the steepest direction of `norm`, and
        back into the ball (Shafahi et al., 2020, who clip the loss: samples whose loss is above `cap` count no more).

        Args:
            model: samples to logits, left as it is found.
            data: a `Dataset`, or batches (x, y) that can be gone through `epochs` times.
            eps: the size in `norm`, in the units of the inputs.
            alpha: the step size; by default a tenth of eps.
            target: a class that samples are led to, instead of away from their labels; `cap` has no part in it.
            bounds: of the inputs; by default those of the data set, or [0, 1].
            seed: of the order of a data set's samples.
        """
        bounds = bounds_of(data, bounds)
        found = cls(torch.zeros(()), eps, norm=norm, bounds=bounds)
        check_count(found, "epochs", epochs, 1)
        check_count(found, "batch_size", batch_size, 1)
        if target is not None:
            check_count(found, "target", target, 0)
        delta, zero = None, None
        with isolated(model):
            for x, y in batches(data, model, epochs, batch_size, seed):
                if delta is None:
                    delta = torch.zeros_like(x[:1])
                    zero, step = delta.clone(), eps / 10 if alpha is None else alpha
                y = y if target is None else torch.full_like(y, target)
                x, y, ids, highest = found._checked(x, y, None)
                rows = Rows(model, x, y, ids, highest, targeted=target is not None)
                point = x + delta
                rows.x_adv = point.clamp(*bounds)
                grad, losses, _ = rows.ascent()
                counts = (point == rows.x_adv) & grad.isfinite()
                if target is None:
                    counts &= ops.as_rows(losses <= cap, grad)
                total = torch.where(counts, grad, 0).sum(dim=0, keepdim=True)
                STEPS[norm](delta, total, zero, step, eps, -math.inf, math.inf)
        return cls(delta[0], eps, norm=norm, bounds=bounds)

    def at(self, eps: float) -> "Universal":
        if not self.eps > 0:
            raise ValueError("Universal.at scales delta with eps, which needs a positive eps to start from; got 0")
        return type(self)(self.delta * (eps / self.eps), eps, norm=self.norm, bounds=self.bounds, seed=self.seed)

    def of_rows(self, index: Tensor, x: Tensor) -> "Universal":
        return self

    def perturb(self, rows: Rows) -> None:
        x, delta = rows.x, self.delta.to(rows.x.device)
        if delta.shape != x.shape[1:]:
            raise ValueError(f"Universal: delta is for samples {tuple(delta.shape)}, got {tuple(x.shape[1:])}")
        moved = torch.where(delta == 0, x, x + delta.to(x.dtype)).clamp(*self.bounds)
        rows.x_adv = torch.empty_like(x).copy_(moved)
