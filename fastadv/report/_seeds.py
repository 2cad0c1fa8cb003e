"""Runs that differ in method and seed: one table of all, means and standard deviations."""

from collections.abc import Mapping
from pathlib import Path
from statistics import mean, stdev

from rich.table import Table

from ._compare import Cell, Grid, Tested, comparison
from ._folders import RunFolder, labels
from ._table import LOWER_IS_BETTER, cell_above, cell_text, write_rows
from ._text import text_table

SEEDS = "The mean over seeds and, after ±, the standard deviation of one seed's figure (of n - 1), from summary.csv."


def write_seeds(runs: Mapping[tuple[str, int], RunFolder], folder: Path) -> None:
    """``table.csv`` of all runs, by method and seed, and ``summary.csv`` of methods, where one has several seeds.

    The latter has, beside the mean of each column, in COLUMN_std its standard deviation (of n - 1) over `seeds` runs;
    of one run there is none.
    """
    rows = [{"method": method, "seed": seed} | run.table[0] for (method, seed), run in runs.items()]
    columns = [column for column in rows[0] if column not in ("method", "seed")]
    write_rows(folder / "table.csv", rows[0], rows)
    summary = []
    for method in dict.fromkeys(method for method, _ in runs):
        own = [row for row in rows if row["method"] == method]
        summary.append({"method": method, "seeds": len(own)})
        for column in columns:
            values = [float(row[column]) for row in own]
            summary[-1] |= {column: mean(values), f"{column}_std": stdev(values) if len(values) > 1 else ""}
    if len(rows) > len(summary):
        write_rows(folder / "summary.csv", summary[0], summary)


def over_seeds(run: RunFolder) -> Grid:
    """The ``summary.csv`` of a comparison."""
    grid, columns = Grid("Means over seeds"), {}
    named = tested(run)[0]
    for row in run.summary:
        cells = grid.rows.setdefault(f"{row['method']}, n = {row['seeds']}", {})
        for column, deviation in ((name.removesuffix("_std"), text) for name, text in row.items() if "_std" in name):
            value, head = float(row[column]), named.head(column)
            beside = f"± {cell_text(column, float(deviation))}" if deviation else ""
            file = run.folder / "summary.csv"
            cells[head] = Cell(cell_text(column, value), value, file, row["method"], column, beside)
            columns[head] = column
    for head, column in columns.items():
        grid.mark_best(head, lowest=column in LOWER_IS_BETTER)
    return grid


def tested(run: RunFolder) -> list[Tested]:
    """The networks that were trained and evaluated in runs within a run."""
    names = labels([run])
    return [Tested(names[each.home(name)], each, name) for each in run.all for name in each.evaluations]


def runs_table(run: RunFolder) -> Table:
    """A comparison for a terminal: means over seeds, or, of one seed, accuracies above their 95% Wilson intervals.

    The best of each column is bold.
    """
    models = tested(run)
    grid = over_seeds(run) if run.summary else comparison("", models)
    about = models[0].about
    note = f"accuracy in %, {len(models[0].right)} test samples of {about['data']}; attacked label: {about['label']}"
    seeds = "; mean ± standard deviation over n seeds" if run.summary else ""
    lines = [
        (name, *(cell_above(row[head].text, row[head].beside, row[head].mark == "best") for head in grid.heads))
        for name, row in grid.rows.items()
    ]
    return text_table(["method", *grid.heads], lines, left=["method"], caption=note + seeds)
