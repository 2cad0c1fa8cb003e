"""Propositions 1 to 3 of the Blind AT paper (Xie et al., Appendix D): two points and a perceptron ``sigma(W1 x + b)``.

The points are x = -1 with label 0 and x = 1 with label 1; adversarial samples move `eta1` and `eta2` towards the other
point. Everything follows from one loss, in float64: gradients and second derivatives are autograd's, stationary points
are bisected.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ..runs import make_folder
from ._files import save_figure, write_rows

LAMBDA = 1e-5
"""The weight of the regularisation in the paper's figures."""

Number = float | Tensor


def loss(w: Number, b: Number, eta1: Number, eta2: Number, lam: Number = LAMBDA) -> Tensor:
    """``sum_i ((p_i - y_i)^2 + (p_adv_i - y_i)^2) / 2 + lam (|W1| + |b|)`` (eq. 19), elementwise over tensors.

    With eta1 = eta2 = 0 it is normal training's (eq. 6); eta1 = eta2 is restricted AT, eta1 + eta2 = 2 unrestricted AT.
    """
    w, b, eta1, eta2, lam = _broadcast(w, b, eta1, eta2, lam)
    points = ((-1, 0), (eta1 - 1, 0), (1, 1), (1 - eta2, 1))
    return sum(((w * x + b).sigmoid() - y) ** 2 for x, y in points) / 2 + lam * (w.abs() + b.abs())


def gradient(w: Number, b: Number, eta1: Number, eta2: Number, lam: Number = LAMBDA) -> tuple[Tensor, Tensor]:
    """``(dL/db, dL/dW1)`` (eqs. 20-23, 29-33), elementwise."""
    b, w, *rest = _broadcast(b, w, eta1, eta2, lam)
    return torch.func.grad(lambda b, w: loss(w, b, *rest).sum(), (0, 1))(b, w)


def curvature(w: Number, b: Number, eta1: Number, eta2: Number) -> tuple[Tensor, Tensor, Tensor]:
    """``(d2L/db2, d2L/db dW1, d2L/dW1^2)`` (eqs. 24-26, 35), elementwise."""
    b, w, *etas = _broadcast(b, w, eta1, eta2)
    bb, bw = torch.func.grad(lambda b, w: gradient(w, b, *etas)[0].sum(), (0, 1))(b, w)
    return bb, bw, torch.func.grad(lambda w: gradient(w, b, *etas)[1].sum())(w)


def _broadcast(*values: Number) -> tuple[Tensor, ...]:
    return torch.broadcast_tensors(*(torch.as_tensor(value, dtype=torch.float64) for value in values))


def bisect(slope: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Tensor:
    """Where the increasing `slope` crosses 0, between `low` and `high`, elementwise, to 1e-15 of the interval."""
    for _ in range(70):
        middle = (low + high) / 2
        falling = slope(middle) < 0
        low, high = torch.where(falling, middle, low), torch.where(falling, high, middle)
    return (low + high) / 2


def stationary_weight(eta: Tensor, lam: Number = LAMBDA) -> Tensor:
    """The W1 > 0 at which training with eta1 = eta2 = `eta` in [0, 2) rests with b = 0 (eq. 23; eq. 11 at eta = 0).

    There is no other: both of its terms fall with W1 as long as eta <= 1; beyond, the second is negative and soon
    outweighs the first. There is none, and the result is 0, where ``lam >= (2 - eta) / 4``.
    """
    low = torch.zeros_like(eta, dtype=torch.float64)
    return bisect(lambda w: gradient(w, 0.0, eta, eta, lam)[1], low, low + 1e6)


def stationary_bias(eta2: Tensor, eta1: float = 0.5, w: float = 5.0) -> Tensor:
    """The b at which training with a fixed W1 rests (eq. 29); the decision boundary is at ``-b / W1``."""
    high = torch.full_like(eta2, 4 * w, dtype=torch.float64)
    return bisect(lambda b: gradient(w, b, eta1, eta2)[0], -high, high)


ETAS = torch.cat((1 - torch.logspace(0, -6, 2001, dtype=torch.float64), torch.ones(1, dtype=torch.float64)))
"""Budgets from 0 to 1, dense where they approach 1."""


def proposition_1() -> dict[str, bool]:
    """Restricted AT rests where normal training does, and its loss is more curved there."""
    w = stationary_weight(ETAS)
    top = int(w.argmax())
    slope, (bb, bw, ww) = gradient(w, 0.0, ETAS, ETAS)[0], curvature(w, 0.0, ETAS, ETAS)
    rises_and_falls = (w[: top + 1].diff() > 0).all() and (w[top:].diff() < 0).all()
    return {
        "b = 0 is stationary at every eta": bool((slope.abs() < 1e-15).all()),
        "W1 grows up to an eta slightly below 1 and falls after it": bool(rises_and_falls and 0.999 < ETAS[top] < 1),
        "W1 is smaller at eta = 1 than at eta = 0": bool(w[-1] < w[0]),
        "d2L/db2 is larger than at eta = 0 for every eta": bool((bb[1:] > bb[0]).all()),
        "d2L/db2 is largest at an eta slightly below 1": bool(0.999 < ETAS[bb.argmax()] < 1),
        "d2L/db dW1 is 0 at every eta": bool((bw.abs() < 1e-15).all()),
        "d2L/dW1^2 is larger than at eta = 0 for every eta < 1": bool((ww[1:-1] > ww[0]).all()),
    }


def proposition_2() -> dict[str, bool]:
    """Adversarial samples on a boundary in the wrong place (W1 = 5, b = 2.5: at -0.5) hardly move it."""
    eta2 = torch.linspace(0, 2, 2001, dtype=torch.float64)
    pull = gradient(5.0, 2.5, 0.5, eta2)[0]
    on_boundary, normal = (gradient(5.0, 2.5, *etas, lam=0.0)[0] for etas in ((0.5, 1.5), (0.0, 0.0)))
    return {
        "on the boundary dL/db is half of normal training's": bool(((on_boundary - normal / 2).abs() < 1e-15).all()),
        "dL/db at eta2 = 1.5 is below 5 % of its maximum": bool(pull[1500] < 0.05 * pull.max()),
        "dL/db is largest at eta2 = 0": int(pull.argmax()) == 0,
        "dL/db at eta2 <= 1 is within 5 % of its maximum": bool((pull[:1001] > 0.95 * pull.max()).all()),
    }


def proposition_3() -> dict[str, bool]:
    """Cut off at their mean size, (eta1, eta2) = (0.5, 1.5) becomes (0.5, 1), which moves the boundary."""
    eta = torch.tensor([0.5, 1.5], dtype=torch.float64)
    uncut, cut = (gradient(5.0, 2.5, *etas)[0] for etas in (eta, eta.minimum(eta.mean())))
    return {"the cutoff makes dL/db more than 20 times as large": bool(cut > 20 * uncut)}


class Finding(NamedTuple):
    """A number or a claim of the paper, `printed`, and what is `computed` here."""

    what: str
    printed: float | bool
    computed: float | bool


def findings() -> list[Finding]:
    """All numbers and claims of Appendix D."""
    ends = stationary_weight(torch.tensor([0.0, 1.0]))
    largest = [ETAS[stationary_weight(ETAS, lam).argmax()].item() for lam in (LAMBDA, 10 * LAMBDA)]
    numbers = [
        Finding("W1 at eta = 0", 6.447, ends[0].item()),
        Finding("W1 at eta = 1", 6.100, ends[1].item()),
        Finding("eta of the largest W1", 0.9992, largest[0]),
        Finding("eta of the largest W1, lambda = 1e-4", 0.9992, largest[1]),
    ]
    claims = proposition_1() | proposition_2() | proposition_3()
    return numbers + [Finding(what, True, holds) for what, holds in claims.items()]


def reproduce(folder: Path, *, epochs: int | None = None, on_step: object = None) -> list[Finding]:
    """Writes ``findings.csv`` and the paper's figures 8 to 11 to `folder`, and returns what the former says.

    Raises ValueError where `epochs` are given: nothing is trained, and `on_step` is never called.
    """
    if epochs is not None:
        raise ValueError(f"the propositions train nothing: leave epochs out, got {epochs}")
    make_folder(folder)
    rows = findings()
    write_rows(rows, folder / "findings.csv")

    def draw(name: str, *panels: tuple[Tensor, Tensor, dict[str, str]]) -> None:
        figure = Figure(figsize=(4.5 * len(panels), 3.2), layout="constrained")
        for axes, (x, y, settings) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            axes.plot(x.numpy(), y.numpy())
            axes.grid(alpha=0.3)
            axes.set(**settings)
        save_figure(figure, folder / f"{name}.png")

    lam = torch.logspace(-8, -0.5, 301, dtype=torch.float64)
    weight = stationary_weight(torch.zeros_like(lam), lam)
    draw("figure8", (lam, weight, {"xscale": "log", "xlabel": "lambda", "ylabel": "W1"}))
    eta = torch.linspace(0, 1.2, 601, dtype=torch.float64)
    near, w = ETAS[:-1], stationary_weight(ETAS[:-1])
    logs, zoom = {"yscale": "log", "ylabel": "W1"}, {"xscale": "log", "xlabel": "1 - eta", "xlim": (1, 1e-6)}
    draw("figure9", (eta, stationary_weight(eta), logs | {"xlabel": "eta"}), (1 - near, w, logs | zoom))
    bb, _, ww = curvature(w, 0.0, near, near)
    draw("figure10", (1 - near, bb, zoom | {"ylabel": "d2L/db2"}), (1 - near, ww, zoom | {"ylabel": "d2L/dW1^2"}))
    eta2 = torch.linspace(0, 2, 401, dtype=torch.float64)
    draw(
        "figure11",
        (eta2, -stationary_bias(eta2) / 5, {"xlabel": "eta2", "ylabel": "decision boundary -b / W1"}),
        (eta2, gradient(5.0, 2.5, 0.5, eta2)[0], {"xlabel": "eta2", "ylabel": "dL/db at b = 2.5"}),
    )
    return rows
