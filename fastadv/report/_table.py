"""One line a model: its accuracies, its average over budgets, its cost."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from ..evaluation import Evaluation

LOWER_IS_BETTER = {"seconds_per_epoch"}


@dataclass(frozen=True)
class Entry:
    """A model in a comparison: its `name`, how it fared, and the `seconds` an epoch of its training took."""

    name: str
    evaluation: Evaluation
    seconds: float | None = None


def rows(entries: Sequence[Entry], theta: float) -> list[dict[str, float | str]]:
    """The table as plain values; accuracies in [0, 1], norms as RMS, ``avg_aa`` over [0, theta]."""
    table = []
    for entry in entries:
        row: dict[str, float | str] = {"method": entry.name, "clean": entry.evaluation.clean}
        for name, result in entry.evaluation.results.items():
            if result.curve is None:
                row[name] = result.accuracy
            else:
                row[f"{name}_avg_aa"] = result.curve.average(theta)
                row[f"{name}_norm"] = result.norm
        if entry.seconds is not None:
            row["seconds_per_epoch"] = entry.seconds
        table.append(row)
    return table


def cell_text(column: str, value: float) -> str:
    """A value of the table as it is shown: accuracies in percent."""
    if column.endswith("_norm"):
        return f"{value:.4f}"
    return f"{value:.1f}" if column == "seconds_per_epoch" else f"{100 * value:.1f}"


def write_table(entries: Sequence[Entry], theta: float, path: Path) -> None:
    """The table as CSV."""
    values = rows(entries, theta)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(values[0]))
        writer.writeheader()
        writer.writerows(values)


def table(entries: Sequence[Entry], theta: float) -> Table:
    """The table for a terminal: accuracies in percent, the best of each column in bold."""
    values = rows(entries, theta)
    first = entries[0].evaluation
    heads = {"method": "method", "clean": "clean", "seconds_per_epoch": "s/epoch"}
    for name, result in first.results.items():
        title = f"{name}-{result.attack.steps}" if hasattr(result.attack, "steps") else name
        heads[name] = f"{title}\neps {result.attack.eps:g}" if result.curve is None else title
        heads[f"{name}_avg_aa"] = f"{title}\navg-AA({theta:g})"
        heads[f"{name}_norm"] = f"{title}\nnorm (RMS)"
    note = f"accuracy in %, {first.samples} test samples of {first.data}; attacked label: {first.label}"
    shown = Table(caption=note, caption_justify="left")
    for column in values[0]:
        shown.add_column(heads[column], justify="left" if column == "method" else "right")
    for row in values:
        cells = []
        for column, value in row.items():
            if isinstance(value, str):
                cells.append(value)
                continue
            numbers = [other[column] for other in values]
            best = min(numbers) if column in LOWER_IS_BETTER else max(numbers)
            text = cell_text(column, value)
            cells.append(f"[bold]{text}[/bold]" if value == best and len(values) > 1 else text)
        shown.add_row(*cells)
    return shown
