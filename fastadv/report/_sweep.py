"""Accuracy over the budget, of attacks run at each of several."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from ..evaluation import AACurve, wilson
from ._plots import save


class SweepRow(NamedTuple):
    """An accuracy in [0, 1], under an attack at a budget, and its 95% Wilson interval."""

    attack: str
    eps: float
    accuracy: float
    low: float
    high: float


def sweep_rows(curves: Mapping[str, AACurve], budgets: Iterable[float]) -> list[SweepRow]:
    """A row an attack and budget, from 0 on."""
    rows = []
    for name, curve in curves.items():
        n = len(curve.correct)
        accuracies = {eps: curve(eps) for eps in sorted({0.0, *budgets})}
        rows += [SweepRow(name, eps, value, *wilson(round(value * n), n)) for eps, value in accuracies.items()]
    return rows


def plot_sweep(rows: Sequence[SweepRow], path: Path) -> Path:
    """A line an attack through its accuracies, with their 95% intervals shaded."""
    figure = Figure(figsize=(6, 4))
    axes = figure.subplots()
    for name in dict.fromkeys(row.attack for row in rows):
        own = [row for row in rows if row.attack == name]
        eps = [row.eps for row in own]
        (line,) = axes.plot(eps, [100 * row.accuracy for row in own], marker=".", label=name)
        low, high = [100 * row.low for row in own], [100 * row.high for row in own]
        axes.fill_between(eps, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    axes.set(xlabel="budget eps", ylabel="accuracy under attack, %", xlim=(0, None), ylim=(0, 100))
    axes.grid(alpha=0.3)
    axes.legend()
    return save(figure, path)
