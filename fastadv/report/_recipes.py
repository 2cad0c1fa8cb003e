"""Published experiments run again: measured figures beside the printed ones."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from ..recipes import Figure, Recipe
from ._plots import History, draw_gradients, draw_panels, save
from ._text import text_table, write_csv


def figure_text(value: float, figure: Figure) -> str:
    """An accuracy in percent, or a norm or gradient as it is."""
    return f"{value:.4g}" if figure.name.endswith("norm") or figure.name.startswith("gradient") else f"{value:.1f}"


def figures_table(recipe: Recipe, figures: Sequence[Figure], settings: str) -> Table:
    """The figures of one recipe for a terminal: measured with `settings`, printed, and the difference."""
    lines = []
    for figure in figures:
        printed, difference = "", ""
        if figure.printed is not None:
            printed, difference = f"{figure.printed:g}", figure_text(figure.measured - figure.printed, figure)
            difference = difference if difference.startswith("-") else f"+{difference}"
        lines.append((figure.name, figure_text(figure.measured, figure), printed, difference))
    heads, caption = ("", "measured", "printed", "difference"), f"{settings}; printed: {recipe.paper}"
    return text_table(heads, lines, left=heads[:1], title=f"{recipe.name}: {recipe.row}", caption=caption)


def records_table(rows: Sequence[Any], title: str) -> Table:
    """Named tuples for a terminal."""
    heads = rows[0]._fields
    lines = (["" if v is None else f"{v:.4g}" if isinstance(v, float) else str(v) for v in row] for row in rows)
    return text_table(heads, lines, left=heads, title=title)


def write_records(rows: Sequence[Any], path: Path) -> Path:
    """Named tuples as CSV."""
    return write_csv(path, [rows[0]._fields, *rows])


def figures_csv(figures: Sequence[Figure]) -> str:
    """The figures of one recipe as CSV; what was not printed is empty."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("figure", "measured", "printed"))
    writer.writerows((f.name, repr(f.measured), "" if f.printed is None else f"{f.printed:g}") for f in figures)
    return file.getvalue()


def read_figures(path: Path) -> list[Figure]:
    """What `figures_csv` wrote."""
    with path.open(newline="") as file:
        return [
            Figure(row["figure"], float(row["measured"]), float(row["printed"]) if row["printed"] else None)
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
            printed = f" ({found.printed:g})" if found and found.printed is not None else ""
            cells.append(figure_text(found.measured, found) + printed if found else "")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *notes]) + "\n"


def plot_variants(recipe: Recipe, results: Mapping[str, Sequence[Figure]], path: Path) -> Path:
    """Every accuracy over the option that varies; of two, in a panel each, with a line a value of the second.

    Where the option was left to the method (None), a dashed line. `results` has the figures of every variant, by name.
    """
    options = list(recipe.vary)
    panels: dict[str, dict[str, dict[float | None, float]]] = {}
    for (x, *second), variant in zip(recipe.points(), recipe.variants(), strict=True):
        for figure in results[variant.name]:
            if not figure.name.endswith("norm"):
                panel, line = (figure.name, _named(options[1], *second)) if second else ("", figure.name)
                panels.setdefault(panel, {}).setdefault(line, {})[x] = figure.measured
    by_itself = " (dashed: by the method itself)" if None in recipe.vary[options[0]] else ""
    where = "of the attack" if options[0].startswith("attacks.") else "in training"
    canvas = draw_panels(panels, f"{_label(options[0])} {where}{by_itself}", "accuracy, %", recipe.row)
    for axes in canvas.axes:
        axes.set_ylim(0, 100)
    return save(canvas, path)


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
    return f"{_label(option)} {shown}"
