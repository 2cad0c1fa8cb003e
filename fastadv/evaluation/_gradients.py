"""How large the gradient of the loss is at the samples (Bilateral AT, Table 2)."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..attacks import Model, checked_logits, isolated, predicted
from ..data import Dataset
from ..losses import cross_entropy
from ._common import beside


class GradientRow(NamedTuple):
    """Squared norms of the gradients at some of the `samples`, which are so many."""

    samples: str
    number: int
    min: float
    mean: float
    max: float


@dataclass(frozen=True)
class GradientNorms:
    """``||dL/dx||_2^2`` of the cross-entropy with the true label, per sample, [N], in the units of the inputs.

    `correct` [N] bool: whether the sample is classified correctly.
    """

    squares: Tensor
    correct: Tensor

    @property
    def rows(self) -> list[GradientRow]:
        """Of ``all``, ``correct`` and ``wrong`` samples; NaN where there are none."""
        parts = {"all": torch.ones_like(self.correct), "correct": self.correct, "wrong": ~self.correct}
        rows = []
        for name, chosen in parts.items():
            squares = self.squares[chosen] if chosen.any() else self.squares.new_full((1,), torch.nan)
            figures = (float(each) for each in (squares.min(), squares.mean(), squares.max()))
            rows.append(GradientRow(name, int(chosen.sum()), *figures))
        return rows

    def summary(self) -> dict[str, float]:
        """``all min``, ``all mean`` and the other figures of `rows`, by name."""
        return {f"{row.samples} {name}": getattr(row, name) for row in self.rows for name in ("min", "mean", "max")}


@torch.inference_mode(False)
def gradient_norms(model: Model, data: Dataset, *, batch_size: int = 500) -> GradientNorms:
    """The squared norm of the loss gradient at every sample of `data`; the model is in eval mode and left as it was."""
    data = beside(model, data)
    squares, correct = [], []
    with isolated(model):
        for start in range(0, len(data), batch_size):
            x, y = data.x[start : start + batch_size].clone().requires_grad_(), data.y[start : start + batch_size]
            logits = checked_logits(model, x, len(data.classes) - 1)
            (grad,) = torch.autograd.grad(cross_entropy(logits, y).sum(), x)
            squares.append(grad.flatten(1).double().square().sum(1))
            correct.append(predicted(logits) == y)
    return GradientNorms(torch.cat(squares), torch.cat(correct))
