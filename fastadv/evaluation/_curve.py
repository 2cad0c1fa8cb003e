"""Adversarial accuracy AA(eps) and its average over budgets (Blind AT, equations 3 and 4)."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .. import ops
from .._frames import frame
from ..attacks import Model, checked_logits, isolated, predicted
from ..models.adapted import expected
from ._common import measuring

if TYPE_CHECKING:
    import pandas

POINTS = 32
BISECTIONS = 12


@dataclass(frozen=True, repr=False)
class AACurve:
    """``AA(eps)``: the accuracy on ``x + cut(delta, eps)``, a step function of eps.

    `correct` [N] bool: whether each clean sample is classified correctly. `flips` [N, F]: the perturbation sizes at
    which a sample's correctness changes, ascending, padded with infinity.
    """

    correct: Tensor
    flips: Tensor

    def __call__(self, eps: float) -> float:
        """The accuracy in [0, 1] with perturbations cut off at size `eps`; at 0 the clean accuracy."""
        return float(self.right(eps).double().mean())

    def right(self, eps: float) -> Tensor:
        """Which samples, [N] bool, are classified correctly with perturbations cut off at size `eps`."""
        return self.correct ^ ((self.flips <= eps).sum(dim=1) % 2 == 1)

    def average(self, theta: float) -> float:
        """``avg-AA(theta)``: the mean of AA over [0, theta], exact for these flips.

        Raises ValueError unless theta is positive.
        """
        return float(self.averages(theta).mean())

    def averages(self, theta: float) -> Tensor:
        """For every sample [N], the share of [0, theta] at which it is classified correctly; see `average`."""
        if not 0 < theta < math.inf:
            raise ValueError(f"avg-AA: theta must be positive, got {theta}")
        edges = self.flips.double().clamp(max=theta)
        ends = edges.new_full((len(edges), 1), theta)
        lengths = torch.cat((edges, ends), 1).diff(dim=1, prepend=torch.zeros_like(ends))
        lengths[:, 0::2] *= self.correct.unsqueeze(1)  # as classified clean
        lengths[:, 1::2] *= ~self.correct.unsqueeze(1)  # after an odd number of flips
        return lengths.sum(dim=1) / theta

    def __repr__(self) -> str:
        flipped = self.flips[self.flips.isfinite()]
        most = f", {100 * self(float(flipped.max())):.1f} % from {float(flipped.max()):.4g} on" if len(flipped) else ""
        return f"AACurve({len(self.correct)} samples, {100 * self(0.0):.1f} % at 0{most})"

    def to_dataframe(self) -> "pandas.DataFrame":
        """The steps of the curve: from ``eps`` on, the ``accuracy`` in [0, 1]. Raises ImportError without pandas."""
        budgets = [0.0, *self.flips[self.flips.isfinite()].unique().tolist()]
        return frame({"eps": budgets, "accuracy": [self(eps) for eps in budgets]})

    @staticmethod
    def join(parts: "list[AACurve]") -> "AACurve":
        """The curve of several batches together, in the order of `parts`."""
        width = max(part.flips.shape[1] for part in parts)
        padded = [torch.nn.functional.pad(p.flips, (0, width - p.flips.shape[1]), value=torch.inf) for p in parts]
        return AACurve(torch.cat([p.correct for p in parts]), torch.cat(padded))


@measuring()
def radial_curve(model: Model, x: Tensor, x_adv: Tensor, y: Tensor, norm: str = "rms") -> AACurve:
    """The AA curve of perturbations ``x_adv - x`` that are cut off, [B, ...], judged by the labels `y` [B].

    Correctness is looked up at 32 points along each perturbation, and every change between two of them is located by
    12 bisections, to 1/131072 of the perturbation; a sample may change several times. `norm` is what eps is measured
    in: ``rms`` (L2 over the root of the number of elements) is the paper's.
    """
    with isolated(model), torch.no_grad():
        sizes, right = ops.row_norms(x_adv, norm, x), expected(model, y)

        def correct(rows: Tensor, t: Tensor) -> Tensor:
            weight = ops.as_rows(t.to(x.dtype), x)
            points = torch.lerp(x[rows], x_adv[rows], weight)
            return predicted(checked_logits(model, points, y=y[rows])) == right[rows]

        everyone = torch.arange(len(x), device=x.device)
        grid = torch.linspace(0, 1, POINTS + 1, dtype=torch.float64).tolist()
        seen = torch.stack([correct(everyone, sizes.new_full((len(x),), t, dtype=torch.float64)) for t in grid], dim=1)
        rows, places = (seen[:, 1:] != seen[:, :-1]).nonzero(as_tuple=True)
        before, low = seen[rows, places], places.double() / POINTS
        high = low + 1 / POINTS
        for _ in range(BISECTIONS if len(rows) else 0):
            middle = (low + high) / 2
            same = correct(rows, middle) == before
            low, high = torch.where(same, middle, low), torch.where(same, high, middle)
        flips = sizes.new_full((len(x), POINTS), torch.inf)
        flips[rows, places] = (high * sizes[rows]).to(sizes.dtype)
    return AACurve(seen[:, 0], flips.sort(dim=1).values)
