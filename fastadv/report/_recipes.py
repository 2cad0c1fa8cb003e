"""Published experiments run again: measured figures beside the printed ones."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure as Canvas
from rich.table import Table

from ..recipes import Figure, Recipe
from ._plots import save


def _text(value: float, figure: Figure) -> str:
    """An accuracy in percent, or a norm or gradient as it is."""
    return f"{value:.4g}" if figure.name.endswith("norm") or figure.name.startswith("gradient") else f"{value:.1f}"


def figures_table(recipe: Recipe, figures: Sequence[Figure], settings: str) -> Table:
    """The figures of one recipe for a terminal: measured with `settings`, printed, and the difference."""
    caption = f"{settings}; printed: {recipe.paper}"
    shown = Table(title=f"{recipe.name}: {recipe.row}", caption=caption, title_justify="left", caption_justify="left")
    for head in ("", "measured", "printed", "difference"):
        shown.add_column(head, justify="left" if not head else "right")
    for figure in figures:
        printed, difference = "", ""
        if figure.printed is not None:
            printed, difference = f"{figure.printed:g}", _text(figure.measured - figure.printed, figure)
            difference = difference if difference.startswith("-") else f"+{difference}"
        shown.add_row(figure.name, _text(figure.measured, figure), printed, difference)
    return shown


def records_table(rows: Sequence[Any], title: str) -> Table:
    """Named tuples for a terminal."""
    shown = Table(title=title, title_justify="left")
    for name in rows[0]._fields:
        shown.add_column(name)
    for row in rows:
        shown.add_row(*("" if v is None else f"{v:.4g}" if isinstance(v, float) else str(v) for v in row))
    return shown


def write_records(rows: Sequence[Any], path: Path) -> Path:
    """Named tuples as CSV."""
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([rows[0]._fields, *rows])
    return path


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
            cells.append(_text(found.measured, found) + printed if found else "")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *notes]) + "\n"


def plot_variants(option: str, results: Mapping[float | None, Sequence[Figure]], title: str, path: Path) -> Path:
    """Every accuracy over the values of an option; where the option was left to the method (None), a dashed line."""
    canvas = Canvas(figsize=(6, 4))
    axes = canvas.subplots()
    values = sorted(value for value in results if value is not None)
    names = [figure.name for figure in next(iter(results.values())) if not figure.name.endswith("norm")]
    for i, name in enumerate(names):
        found = {value: next(f.measured for f in figures if f.name == name) for value, figures in results.items()}
        axes.plot(values, [found[value] for value in values], color=f"C{i}", marker=".", label=name)
        if None in found:
            axes.axhline(found[None], color=f"C{i}", linestyle="--", linewidth=1)
    if None in results:
        axes.plot([], [], color="0.5", linestyle="--", label=f"{option} by the method itself")
    axes.set(xlabel=option, ylabel="accuracy, %", ylim=(0, 100))
    axes.set_title(title, fontsize="medium", wrap=True)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.02, 1))
    return save(canvas, path)
