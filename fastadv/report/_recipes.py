"""Published experiments run again: measured figures beside the printed ones."""

import csv
import io
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure as MatplotlibFigure
from rich.table import Table

from ..recipes import Figure, Recipe, figure_name
from ._plots import History, draw_gradients, draw_panels, in_legend, plot_bars, save
from ._text import text_table, write_csv


def figure_text(value: float, figure: Figure) -> str:
    """`value` as a table shows it where `figure` stands: percent to one decimal, norms and gradients to four digits."""
    return f"{value:.4g}" if figure.name.endswith("norm") or figure.name.startswith("gradient") else f"{value:.1f}"


def measured_text(figure: Figure) -> str:
    """The measured figure, and after ± its standard deviation over seeds."""
    beside = "" if figure.spread is None else f" ± {figure_text(figure.spread, figure)}"
    return figure_text(figure.measured, figure) + beside


def printed_text(figure: Figure) -> str:
    """The printed figure, and after ± its deviation; nothing where none was printed."""
    if figure.printed is None:
        return ""
    return f"{figure.printed:g}" + ("" if figure.deviation is None else f" ± {figure.deviation:g}")


def figures_table(recipe: Recipe, figures: Sequence[Figure], settings: str) -> Table:
    """The figures of one recipe for a terminal: measured with `settings`, printed, and the difference."""
    lines = []
    for figure in figures:
        difference = ""
        if figure.printed is not None:
            difference = figure_text(figure.measured - figure.printed, figure)
            difference = difference if difference.startswith("-") else f"+{difference}"
        lines.append((figure.name, measured_text(figure), printed_text(figure), difference))
    over = "".join(f", {average} of {count} trainings" for average, count in recipe.over.items())
    heads, caption = ("", "measured", "printed", "difference"), f"{settings}; printed: {recipe.paper}{over}"
    return text_table(heads, lines, left=heads[:1], title=f"{recipe.name}: {recipe.row}", caption=caption)


def records_table(rows: Sequence[Any], title: str) -> Table:
    """`rows`, at least one named tuple, as a table for a terminal; None is an empty cell."""
    heads = rows[0]._fields
    lines = (["" if v is None else f"{v:.4g}" if isinstance(v, float) else str(v) for v in row] for row in rows)
    return text_table(heads, lines, left=heads, title=title)


def write_records(rows: Sequence[Any], path: Path) -> Path:
    """Writes `rows`, at least one named tuple, as CSV at `path`, and returns that."""
    return write_csv(path, [rows[0]._fields, *rows])


def figures_csv(figures: Sequence[Figure]) -> str:
    """The figures of one recipe as CSV; what was not printed, or has no deviation, is empty."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("figure", "measured", "printed", "deviation", "spread"))
    for figure in figures:
        printed = ["" if value is None else f"{value:g}" for value in (figure.printed, figure.deviation)]
        spread = "" if figure.spread is None else repr(figure.spread)
        writer.writerow((figure.name, repr(figure.measured), *printed, spread))
    return file.getvalue()


def read_figures(path: Path) -> list[Figure]:
    """What `figures_csv` wrote; older files have no deviations."""
    with path.open(newline="") as file:
        return [
            Figure(
                row["figure"],
                float(row["measured"]),
                float(row["printed"]) if row["printed"] else None,
                *(float(row[name]) if row.get(name) else None for name in ("deviation", "spread")),
            )
            for row in csv.DictReader(file)
        ]


def markdown(results: Mapping[str, Sequence[Figure]], notes: Sequence[str]) -> str:
    """All recipes in one Markdown table, a column a recipe: measured, and printed in brackets; `notes` below it."""
    names = dict.fromkeys(figure.name for figures in results.values() for figure in figures)
    lines = ["| measured (printed) | " + " | ".join(results) + " |", "| --- |" + " --: |" * len(results)]
    for name in names:
        cells = []
        for figures in results.values():
            found = next((figure for figure in figures if figure.name == name), None)
            printed = f" ({printed_text(found)})" if found and found.printed is not None else ""
            cells.append(measured_text(found) + printed if found else "")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *notes]) + "\n"


def plot_variants(recipe: Recipe, results: Mapping[str, Sequence[Figure]], path: Path) -> Path:
    """Every accuracy over the option that varies; of two, in a panel each, with a line a value of the second.

    Where the option was left to the method (None), a dashed line. `results` has the figures of every variant, by name.
    Curves are left to `plot_curves`.
    """
    options = list(recipe.vary)
    lists = recipe.curves() | recipe.histograms()
    drawn = {figure_name(key, value) for key, values in lists.items() for value in values}
    panels: dict[str, dict[str, dict[float | None, float]]] = {}
    for (x, *second), variant in zip(recipe.points(), recipe.variants(), strict=True):
        for figure in results[variant.name]:
            if not figure.name.endswith("norm") and figure.name not in drawn:
                panel, line = (figure.name, _named(options[1], *second)) if second else ("", figure.name)
                panels.setdefault(panel, {}).setdefault(line, {})[x] = figure.measured
    by_itself = " (dashed: by the method itself)" if None in recipe.vary[options[0]] else ""
    where = "of the attack" if options[0].startswith("attacks.") else "in training"
    canvas = draw_panels(panels, f"{_label(options[0])} {where}{by_itself}", "accuracy, %", recipe.row)
    for axes in canvas.axes:
        axes.set_ylim(0, 100)
    return save(canvas, path)


def plot_curves(recipe: Recipe, results: Mapping[str, Sequence[Figure]], path: Path) -> Path:
    """Accuracy over the budget of the attack: a panel an attack, in it a line a variant; at 0 the clean accuracy."""
    panels: dict[str, dict[str, dict[float | None, float]]] = {key: {} for key in recipe.curves()}
    for line, found in _lines(recipe, results):
        for key, budgets in recipe.curves().items():
            panels[key][line] = {0.0: found["clean"]} | {eps: found[figure_name(key, eps)] for eps in budgets}
    canvas = draw_panels(panels, "budget of the attack", "accuracy, %", recipe.row)
    for axes in canvas.axes:
        axes.set_ylim(0, 100)
    return save(canvas, path)


def plot_histograms(recipe: Recipe, results: Mapping[str, Sequence[Figure]], path: Path) -> Path:
    """How many samples have a squared gradient norm, or a margin, between which of the bounds of `recipe`.

    A panel for each of `Recipe.histograms`, a line a variant. What is below the first bound or above the last is not
    drawn.
    """
    lists = recipe.histograms()
    figure = MatplotlibFigure(figsize=(5 * len(lists), 4), layout="constrained")
    for axes, (key, bounds) in zip(figure.subplots(1, len(lists), squeeze=False)[0], lists.items(), strict=True):
        for line, found in _lines(recipe, results):
            shares = [found[figure_name(key, bound)] for bound in bounds]
            axes.stairs([after - before for before, after in itertools.pairwise(shares)], bounds, label=in_legend(line))
        axes.set(xlabel="squared norm of the gradient of the loss" if key == "gradient" else key, ylim=(0, None))
        axes.set(ylabel="test samples, %", xscale="log" if key == "gradient" else "linear")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    return save(figure, path)


def plot_landings(recipe: Recipe, results: Mapping[str, Sequence[Figure]], path: Path) -> Path:
    """What samples of a class are taken for under attack: a group of bars for each class, a bar for a class before."""
    bars: dict[str, dict[str, float]] = {}
    for line, found in _lines(recipe, results):
        for key, shares in recipe.landings().items():
            for before, after in (share.split(" into ") for share in shares):
                label = f"class {before}, {key}" + (f", {line}" if recipe.vary else "")
                bars.setdefault(label, {})[f"class {after}"] = found[figure_name(key, f"{before} into {after}")]
    return plot_bars(bars, "share of the class that is taken for it, %", path)


def _lines(recipe: Recipe, results: Mapping[str, Sequence[Figure]]) -> Iterator[tuple[str, dict[str, float]]]:
    """What figures call a variant, and its measured figures by name; of all variants."""
    for point, variant in zip(recipe.points(), recipe.variants(), strict=True):
        line = ", ".join(_named(option, value) for option, value in zip(recipe.vary, point, strict=True))
        yield line or recipe.name, {figure.name: figure.measured for figure in results[variant.name]}


def plot_variant_gradients(recipe: Recipe, histories: Mapping[str, History], path: Path) -> Path:
    """What training took for every variant, as `plot_gradients`; with two options, in a panel a value of the first."""
    panels: dict[str, dict[str, History]] = {}
    for point, variant in zip(recipe.points(), recipe.variants(), strict=True):
        *panel, line = (_named(option, value) for option, value in zip(recipe.vary, point, strict=True))
        panels.setdefault("".join(panel), {})[line] = histories[variant.name]
    return draw_gradients(panels, recipe.row, path)


def _label(option: str) -> str:
    """An option as figures call it, without the path to it."""
    name = option.rpartition(".")[2]
    return "eps" if name == "at" else name


def _named(option: str, value: Any) -> str:
    shown = "by the method itself" if value is None else f"{value:g}" if isinstance(value, int | float) else value
    return shown if option == "network" else f"{_label(option)} {shown}"
