"""How large the gradient of the loss is at the samples (Bilateral AT, Table 2)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..attacks import Model, isolated
from ..data import Dataset
from ..losses import cross_entropy


@dataclass(frozen=True)
class GradientNorms:
    """``||dL/dx||_2^2`` of the cross-entropy with the true label, per sample, [N], in the units of the inputs.

    `correct` [N] bool: whether the sample is classified correctly.
    """

    squares: Tensor
    correct: Tensor

    def summary(self) -> dict[str, float]:
        """``all``, ``correct`` and ``wrong`` samples, each with ``min``, ``mean`` and ``max``; NaN where none is."""
        parts = {"all": torch.ones_like(self.correct), "correct": self.correct, "wrong": ~self.correct}
        found = {}
        for name, chosen in parts.items():
            squares = self.squares[chosen]
            none = squares.new_full((1,), torch.nan)
            squares = squares if len(squares) else none
            found |= {f"{name} min": float(squares.min()), f"{name} mean": float(squares.mean())}
            found[f"{name} max"] = float(squares.max())
        return found


def gradient_norms(model: Model, data: Dataset, *, batch_size: int = 500) -> GradientNorms:
    """The squared norm of the loss gradient at every sample of `data`; the model is in eval mode and left as it was."""
    parameter = next(model.parameters(), data.x) if isinstance(model, torch.nn.Module) else data.x
    data = data.to(parameter.device)
    squares, correct = [], []
    with isolated(model):
        for start in range(0, len(data), batch_size):
            x, y = data.x[start : start + batch_size].clone().requires_grad_(), data.y[start : start + batch_size]
            logits = model(x)
            (grad,) = torch.autograd.grad(cross_entropy(logits, y).sum(), x)
            squares.append(grad.flatten(1).double().square().sum(1))
            correct.append(logits.argmax(1) == y)
    return GradientNorms(torch.cat(squares), torch.cat(correct))
