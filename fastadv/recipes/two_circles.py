"""The two-circles experiment of the Blind AT paper (Xie et al., section 1 and Appendix B, Figure 5 and Table 7).

How far from both circles can training move the decision boundary of the smallest network that separates them? All
starts are trained at once, as one tensor program, and robustness is exact: the boundary of a ReLU network is made of
straight pieces.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from .. import ops
from ..data import load
from ..data.circles import RADII
from ..runs import make_folder
from ._boundary import Boundary, relu_boundary
from ._files import write_rows
from ._two_circles_plots import plot_angles, plot_boundaries, plot_robustness, plot_training

HIDDEN = 6
_SIZES = (2 * HIDDEN, HIDDEN, HIDDEN, 1)


@dataclass(frozen=True)
class Nets:
    """S perceptrons 2-6-1 with ReLU side by side; a sigmoid of the score is the paper's output.

    `theta` [S, 25] holds a network a row, in the order of the parameters of `fastadv.models.TwoCirclesNet`.
    """

    theta: Tensor

    @classmethod
    def start(cls, seeds: int) -> "Nets":
        """`seeds` networks with Glorot-uniform weights and no biases; the first are the same whatever the number."""
        unit = torch.rand(seeds, 3 * HIDDEN, generator=torch.Generator().manual_seed(0)) * 2 - 1
        w, v = unit[:, : 2 * HIDDEN] * math.sqrt(6 / (2 + HIDDEN)), unit[:, 2 * HIDDEN :] * math.sqrt(6 / (HIDDEN + 1))
        return cls(torch.cat((w, torch.zeros(seeds, HIDDEN), v, torch.zeros(seeds, 1)), dim=1))

    def layers(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """w [S, 6, 2], b [S, 6], v [S, 6] and c [S] of ``score = v . relu(w x + b) + c``."""
        w, b, v, c = self.theta.split(_SIZES, dim=1)
        return w.unflatten(1, (HIDDEN, 2)), b, v, c.squeeze(1)

    def score(self, x: Tensor) -> Tensor:
        """The scores [S, B] of points [B, 2], the same for every network, or [S, B, 2]; above 0 is the outer circle."""
        return self._score(self._inputs(x))

    def linear(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The scores and their gradients [S, B, 2]."""
        (w, _, v, _), inputs = self.layers(), self._inputs(x)
        return self._score(inputs), ((inputs > 0) * v.unsqueeze(2)).mT @ w

    def _inputs(self, x: Tensor) -> Tensor:
        w, b, _, _ = self.layers()
        return torch.baddbmm(b.unsqueeze(2), w, x.mT.expand(len(w), -1, -1))

    def _score(self, inputs: Tensor) -> Tensor:
        _, _, v, c = self.layers()
        return torch.baddbmm(c[:, None, None], v.unsqueeze(1), inputs.relu()).squeeze(1)

    def boundary(self) -> Boundary:
        """The decision boundary within 0.95 of the origin: what ReLU networks draw further out is no concern of the
        circles, being farther from both than any boundary between them."""
        return relu_boundary(*self.layers(), radius=0.95)

    def robustness(self) -> Tensor:
        """eta [S]: the exact distance between the boundary and the circles; 0 unless they are told apart completely."""
        boundary, (inner, outer) = self.boundary(), RADII
        low, high = Nets(self.theta.double()).score(torch.tensor([[inner, 0.0], [outer, 0.0]]).double()).unbind(1)
        eta = torch.minimum(boundary.gap(inner), boundary.gap(outer))
        return torch.where((low < 0) & (high > 0), eta, 0)


def bound(corners: float) -> float:
    """The robustness of a regular polygon half-way between the circles: ``1 / (1 + sec(pi / n)) - r1`` (Table 7)."""
    return 1 / (1 + 1 / math.cos(math.pi / corners)) - RADII[0]


# ------------------------------------------------------------------------------------------------------------ training

Adversary = Callable[[Nets, Tensor, Tensor], Tensor]
"""Adversarial samples [S, B, 2] of points [B, 2] with labels [B]."""


def sign_step(nets: Nets, x: Tensor, y: Tensor, eps: float = 0.1) -> Tensor:
    """FGSM: a step of `eps` in each coordinate that raises the score of class 0 and lowers that of class 1."""
    return x + eps * (nets.linear(x)[1] * (1 - 2 * y).unsqueeze(1)).sign()


def deepfool(nets: Nets, x: Tensor, steps: int = 10, overshoot: float = 0.02) -> Tensor:
    """DeepFool on the score: ``-score * gradient / |gradient|^2`` again and again; see `fastadv.attacks.DeepFool`.

    After the first step only samples that are not across yet go on, as networks with one point each.
    """

    def step(nets: Nets, x: Tensor, delta: Tensor, label: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        score, slope = nets.linear((x + delta).clamp(-1, 1))
        delta = delta - (score / slope.square().sum(-1).clamp_min(1e-12)).unsqueeze(-1) * slope
        x_adv = (x + (1 + overshoot) * delta).clamp(-1, 1)
        return delta, x_adv, (nets.score(x_adv) > 0) == label

    x = x.expand(len(nets.theta), -1, -1)
    label = nets.score(x) > 0
    delta, x_adv, live = found = step(nets, x, torch.zeros_like(x), label)
    for _ in range(steps - 1):
        net, place = live.nonzero(as_tuple=True)
        few = (values[net, place].unsqueeze(1) for values in (x, delta, label))
        for values, moved in zip(found, step(Nets(nets.theta[net]), *few), strict=True):
            values[net, place] = moved.squeeze(1)
    return x_adv


def blind(nets: Nets, x: Tensor, y: Tensor, rho: float = 0.9) -> Tensor:
    """Blind AT's samples: DeepFool's, cut off at their mean size over the data and scaled (Algorithm 1)."""
    x_adv = deepfool(nets, x)
    rows, origin = x_adv.flatten(0, 1), x.expand_as(x_adv).flatten(0, 1)
    norms = ops.row_norms(rows, "l2", origin)
    eps = norms.unflatten(0, x_adv.shape[:2]).mean(1).repeat_interleave(len(x))
    ops.cutoff_scale(rows, origin, norms, eps, rho)
    return rows.view_as(x_adv)


ADVERSARIES: dict[str, Adversary | None] = {"NT": None, "AT": sign_step, "BAT": blind}


class Trained(NamedTuple):
    """A training of S networks: `theta` [T, S, 25] after each of `epochs` [T]; `stopped` [2, S, 25] when all training
    points were classified correctly for the first time, and when the adversarial ones were as well (NaN: never)."""

    epochs: Tensor
    theta: Tensor
    stopped: Tensor


def train(
    attack: Adversary | None, nets: Nets, x: Tensor, y: Tensor, epochs: int, on_epoch: Callable[[], None] = lambda: None
) -> Trained:
    """Full-batch gradient descent at rate 0.2 on ``(C(x) - y)^2``, to which `attack` adds the same on its samples."""
    kept = torch.logspace(0, math.log10(epochs), 60).round().long().unique()
    theta, history = nets.theta, []
    stopped = torch.full((2, *theta.shape), torch.nan)
    for epoch in range(1, epochs + 1):
        nets = Nets(theta.detach().requires_grad_())
        with torch.no_grad():
            samples = [x] if attack is None else [x, attack(nets, x, y)]
        scores = [nets.score(points) for points in samples]
        correct = torch.stack([((score > 0) == (y > 0)).all(1) for score in scores])
        now = torch.stack((correct[0], correct.all(0))).unsqueeze(2) & stopped.isnan()
        stopped = torch.where(now, nets.theta.detach(), stopped)
        loss = sum((score.sigmoid() - y).square().mean(1) for score in scores)
        theta = nets.theta.detach() - 0.2 * torch.autograd.grad(loss.sum(), nets.theta)[0]
        if epoch in kept:
            history.append(theta)
        on_epoch()
    return Trained(kept, torch.stack(history), stopped)


# ----------------------------------------------------------------------------------------------------------- the paper


class Row(NamedTuple):
    """A line of Table 7: robustness of the best and the median start, the share of starts with 100 % accuracy on the
    test points, and the paper's figure. Bounds have a best value only."""

    method: str
    stop: str
    best: float
    median: float | None = None
    accurate: float | None = None
    printed: float | None = None


def _row(method: str, stop: str, nets: Nets, printed: float) -> Row:
    test = load("two-circles", "test")
    eta, accurate = nets.robustness(), ((nets.score(test.x) > 0) == (test.y > 0)).all(1)
    return Row(method, stop, eta.max().item(), eta.quantile(0.5).item(), accurate.float().mean().item(), printed)


def reproduce(
    folder: Path,
    *,
    seeds: int = 64,
    epochs: int | None = None,
    points: int = 5000,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> list[Row]:
    """Trains by NT, AT(0.1) and BAT from the same `seeds` starts, and writes ``table.csv`` and the figures to `folder`.

    "AA" networks are those after `epochs` epochs (the paper's 6000, when avg-AA has converged), "Acc" networks those of
    the first epoch at which all `points` (5000 at the most) are classified correctly. `on_step` is called with the
    epochs done and those to do. Raises ValueError for numbers that are not positive.
    """
    epochs = 6000 if epochs is None else epochs
    for name, value in (("seeds", seeds), ("epochs", epochs), ("points", points)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    make_folder(folder)
    data, done, runs = load("two-circles", "train").take(points), 0, {}

    def on_epoch() -> None:
        nonlocal done
        done += 1
        on_step(done, len(ADVERSARIES) * epochs)

    for name, attack in ADVERSARIES.items():
        runs[name] = train(attack, Nets.start(seeds), data.x, data.y.float(), epochs, on_epoch)
    rows = table(runs)
    write_rows(rows, folder / "table.csv")
    draw(runs, folder)
    return rows


def table(runs: dict[str, Trained]) -> list[Row]:
    """Table 7, in its order, and the bounds that it leaves out."""
    final = {name: Nets(run.theta[-1]) for name, run in runs.items()}
    return [
        _row("NT", "Acc", Nets(runs["NT"].stopped[0]), 0.0),
        _row("AT", "Acc", Nets(runs["AT"].stopped[0]), 0.13),
        _row("AT", "Acc, adversarial too", Nets(runs["AT"].stopped[1]), 0.13),
        _row("NT", "AA", final["NT"], 0.162),
        _row("AT", "AA", final["AT"], 0.162),
        Row("hexagon", "bound", bound(6), printed=0.164),
        _row("BAT", "AA", final["BAT"], 0.175),
        Row("octagon", "bound", bound(8), printed=0.180),
        Row("12-gon", "bound", bound(12)),
        Row("circle", "bound", bound(math.inf)),
    ]


def draw(runs: dict[str, Trained], folder: Path) -> None:
    """The panels of Figure 5, each of the most robust network of its method; and the robustness of all of them.

    AT's "Acc" is here the first epoch without errors on adversarial samples as well.
    """

    def best(theta: Tensor) -> int:
        return int(Nets(theta).robustness().argmax())

    angle = torch.linspace(-math.pi, math.pi, 721)
    circle = torch.stack((angle.cos(), angle.sin()), dim=1)
    x, y = torch.cat([radius * circle for radius in RADII]), torch.arange(2.0).repeat_interleave(len(circle))
    test = load("two-circles", "test")

    chosen = {f"{name}, Acc": (name, runs[name].stopped[-1]) for name in ("NT", "AT")}
    chosen |= {f"{name}, AA": (name, run.theta[-1]) for name, run in runs.items()}
    panels, curves, gaps = {}, {}, {}
    for title, (name, theta) in chosen.items():
        nets, attack = Nets(theta[best(theta)].unsqueeze(0)), ADVERSARIES[name]
        samples = attack(nets, x, y)[0] if attack else x[:0]
        panels[f"{title}: {nets.robustness().item():.3f}"] = (nets.boundary().ends(0), samples)
        if title.endswith("AA"):
            gaps[name] = nets.boundary().distances(x).view(2, -1)
    for name, run in runs.items():
        nets = Nets(run.theta[:, best(run.theta[-1])])  # the epochs of one network in the place of seeds
        score, size = nets.score(test.x), nets.boundary().distances(test.x)
        curves[name] = {
            "accuracy": ((score > 0) == (test.y > 0)).float().mean(1),
            "loss": (score.sigmoid() - test.y).square().mean(1),
            "maximum": size.amax(1),
            "mean": size.mean(1),
            "minimum": size.amin(1),
        }
    epochs = runs["NT"].epochs
    eta = {name: Nets(run.theta.flatten(0, 1)).robustness().view(len(epochs), -1) for name, run in runs.items()}
    plot_boundaries(panels, RADII, folder / "boundaries.png")
    plot_training(epochs, curves, folder / "training.png")
    plot_robustness(epochs, eta, {n: bound(n) for n in (6, 8, 12)}, folder / "robustness.png")
    plot_angles(angle, gaps, RADII, folder / "angles.png")
