"""Figures of the two-circles experiment, from plain tensors."""

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from torch import Tensor

from ._files import save_figure

COLOURS = ("tab:blue", "tab:red")
"""Of the inner and the outer circle."""


def plot_boundaries(panels: Mapping[str, tuple[Tensor, Tensor]], radii: tuple[float, float], path: Path) -> None:
    """A panel for every title: the pieces [P, 2, 2] of a decision boundary between the circles, and samples [B, 2] that
    the network was trained on beside them, the first half of them of the inner circle."""
    figure = Figure(figsize=(2.6 * len(panels), 3), layout="constrained")
    for axes, (title, (pieces, samples)) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        angle = torch.linspace(0, 2 * math.pi, 361)
        for radius, colour, some in zip(radii, COLOURS, samples.chunk(2), strict=True):
            axes.plot((radius * angle.cos()).numpy(), (radius * angle.sin()).numpy(), color=colour, linewidth=2)
            axes.plot(*some.numpy().T, ".", color=colour, markersize=1.5)
        axes.add_collection(LineCollection(pieces.numpy(), color="0.3", linewidth=1.5))
        axes.set(title=title, aspect="equal", xlim=(-0.85, 0.85), ylim=(-0.85, 0.85), xticks=[], yticks=[])
    save_figure(figure, path)


def plot_training(epochs: Tensor, curves: Mapping[str, Mapping[str, Tensor]], path: Path) -> None:
    """A column a method: accuracy and loss, and the exact perturbations of the test points, over the epochs [T]."""
    figure = Figure(figsize=(3.6 * len(curves), 5), layout="constrained")
    grid = figure.subplots(2, len(curves), sharex=True, sharey="row", squeeze=False)
    for (above, below), (name, values) in zip(grid.T, curves.items(), strict=True):
        for axes, keys in ((above, ("accuracy", "loss")), (below, ("maximum", "mean", "minimum"))):
            for key in keys:
                axes.plot(epochs.numpy(), values[key].numpy(), label=key)
            axes.grid(alpha=0.3)
        above.set(title=name, ylim=(0, 1.05))
        below.set(xlabel="epoch", xscale="log", ylim=(0, 0.6))
    grid[1, 0].set_ylabel("distance from the boundary")
    for axes, place in zip(grid[:, -1], ("center right", "upper right"), strict=True):
        axes.legend(loc=place, fontsize="small")
    save_figure(figure, path)


def plot_robustness(epochs: Tensor, eta: Mapping[str, Tensor], bounds: Mapping[int, float], path: Path) -> None:
    """Robustness [T, S] over the epochs: the median of all starts, the middle half of them, and the best, dashed."""
    figure = Figure(figsize=(6.5, 4), layout="constrained")
    axes, x = figure.subplots(), epochs.tolist()
    for i, (name, values) in enumerate(eta.items()):
        low, median, high = values.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=values.dtype), dim=1).numpy()
        axes.plot(x, median, color=f"C{i}", label=name)
        axes.fill_between(x, low, high, color=f"C{i}", alpha=0.2, linewidth=0)
        axes.plot(x, values.amax(1).numpy(), color=f"C{i}", linestyle="--")
    first = max(1, x[-1] // 100)
    for corners, value in bounds.items():
        axes.axhline(value, color="0.6", linewidth=1, linestyle=":")
        axes.annotate(f" {corners} corners", (first, value), fontsize="small", color="0.4", va="bottom")
    axes.set(xlabel="epoch", ylabel="robustness eta", xscale="log", ylim=(0, 0.2), xlim=(first, x[-1] + 1))
    axes.legend(title="median, middle half;\nbest dashed", loc="lower right", fontsize="small", title_fontsize="small")
    save_figure(figure, path)


def plot_angles(angle: Tensor, gaps: Mapping[str, Tensor], radii: tuple[float, float], path: Path) -> None:
    """The distances [2, B] of both circles from the boundaries, at every `angle` [B]."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    for axes, circle, radius in zip(figure.subplots(1, 2, sharey=True), (0, 1), radii, strict=True):
        for name, distance in gaps.items():
            axes.plot(angle.numpy(), distance[circle].numpy(), label=name)
        axes.set(xlabel="angle", title=f"circle of radius {radius:g}", xlim=(-math.pi, math.pi))
        axes.set_xticks([-math.pi, 0, math.pi], ["-pi", "0", "pi"])
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("distance from the boundary")
    figure.legend(list(gaps), loc="outside right upper", fontsize="small")
    save_figure(figure, path)
