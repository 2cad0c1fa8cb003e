"""How large the gradient of the loss is at the samples (Bilateral AT, Table 2)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from .._frames import frame_of_rows
from ..attacks import Model, checked_logits, isolated, predicted
from ..data import AnyData
from ..losses import cross_entropy
from ._common import beside, measuring

if TYPE_CHECKING:
    import pandas


class GradientRow(NamedTuple):
    """Squared L2 norms of the gradients at a group of samples: least, mean and largest, as in Table 2 (bilateral AT).

    `samples`: how many the group has. `rms`: the root of the mean, a norm, by which sizes of gradients compare.
    """

    samples: str
    number: int
    min: float
    mean: float
    max: float
    rms: float


@dataclass(frozen=True)
class GradientNorms:
    """``||dL/dx||_2^2`` of the cross-entropy with the true label, per sample, [N], in the units of the inputs.

    `correct` [N] bool: whether the sample is classified correctly.
    """

    squares: Tensor
    correct: Tensor

    @property
    def rows(self) -> list[GradientRow]:
        """A row for ``all``, ``correct`` and ``wrong`` samples; NaN where there are none."""
        parts = {"all": torch.ones_like(self.correct), "correct": self.correct, "wrong": ~self.correct}
        rows = []
        for name, chosen in parts.items():
            squares = self.squares[chosen] if chosen.any() else self.squares.new_full((1,), torch.nan)
            mean = squares.mean()
            figures = (float(each) for each in (squares.min(), mean, squares.max(), mean.sqrt()))
            rows.append(GradientRow(name, int(chosen.sum()), *figures))
        return rows

    def to_dataframe(self) -> "pandas.DataFrame":
        """The `rows`. Raises ImportError without pandas."""
        return frame_of_rows(self.rows)

    def summary(self, unit: float = 1.0) -> dict[str, float]:
        """``all min``, ``all mean`` and the other figures of `rows`, by name; for inputs measured in `unit` instead."""
        scale = {"min": unit**2, "mean": unit**2, "max": unit**2, "rms": unit}
        return {f"{row.samples} {name}": each * getattr(row, name) for row in self.rows for name, each in scale.items()}


@measuring()
def gradient_norms(model: Model, data: AnyData, *, batch_size: int = 500) -> GradientNorms:
    """The squared L2 norm of the gradient of the cross-entropy at every sample of `data`.

    The model is in eval mode, and left as it was. `data` are what `evaluate` takes; `batch_size` decides memory and
    speed only. Raises TypeError for what is no data, and what is wrong with the logits.
    """
    data = beside(model, data)
    squares, correct = [], []
    with isolated(model):
        for batch in data.batches(batch_size):
            x, y = batch.x.clone().requires_grad_(), batch.y
            logits = checked_logits(model, x, len(data.classes) - 1)
            (grad,) = torch.autograd.grad(cross_entropy(logits, y).sum(), x)
            squares.append(grad.flatten(1).double().square().sum(1))
            correct.append(predicted(logits) == y)
    return GradientNorms(torch.cat(squares), torch.cat(correct))
