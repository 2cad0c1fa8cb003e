"""Accuracy over the budget, or over the steps, of attacks run at each of several."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from ..evaluation import AACurve, Evaluation, wilson
from ._plots import in_legend, save


class SweepRow(NamedTuple):
    """An accuracy in [0, 1], under an attack at a budget, and its 95% Wilson interval."""

    attack: str
    eps: float
    accuracy: float
    low: float
    high: float


class StepsRow(NamedTuple):
    """An accuracy in [0, 1], under an attack of so many steps, and its 95% Wilson interval."""

    attack: str
    steps: int
    accuracy: float
    low: float
    high: float


def steps_rows(found: Mapping[int, Evaluation]) -> list[StepsRow]:
    """A row for each attack and number of steps, by which `found` has evaluations; at 0 the clean accuracy."""
    rows = []
    for name in dict.fromkeys(name for evaluation in found.values() for name in evaluation.results):
        outcomes = {0: next(iter(found.values())).natural} | {n: found[n].results[name] for n in sorted(found)}
        rows += [StepsRow(name, n, outcome.accuracy, *outcome.interval) for n, outcome in outcomes.items()]
    return rows


def sweep_rows(curves: Mapping[str, AACurve], budgets: Iterable[float]) -> list[SweepRow]:
    """A row for each attack and budget, from `curves` by attack; the first is at budget 0, the clean accuracy."""
    rows = []
    for name, curve in curves.items():
        n = len(curve.correct)
        accuracies = {eps: curve(eps) for eps in sorted({0.0, *budgets})}
        rows += [SweepRow(name, eps, value, *wilson(round(value * n), n)) for eps, value in accuracies.items()]
    return rows


def plot_sweep(rows: Sequence[SweepRow] | Sequence[StepsRow], path: Path) -> Path:
    """A line an attack through its accuracies over budgets, or over steps, with their 95% intervals shaded."""
    figure = Figure(figsize=(6, 4))
    axes = figure.subplots()
    for name in dict.fromkeys(row.attack for row in rows):
        own = [row for row in rows if row.attack == name]
        x = [row[1] for row in own]
        (line,) = axes.plot(x, [100 * row.accuracy for row in own], marker=".", label=in_legend(name))
        low, high = [100 * row.low for row in own], [100 * row.high for row in own]
        axes.fill_between(x, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    xlabel = "budget eps" if isinstance(rows[0], SweepRow) else "steps of the attack"
    axes.set(xlabel=xlabel, ylabel="accuracy under attack, %", xlim=(0, None), ylim=(0, 100))
    axes.grid(alpha=0.3)
    axes.legend()
    return save(figure, path)
