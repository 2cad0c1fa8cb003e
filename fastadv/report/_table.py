"""One line a model: its accuracies, its average over budgets, its cost; and one line an attack: all that it did."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Group
from rich.table import Table
from rich.text import Text

from ..evaluation import Evaluation, Outcome
from ._text import text_table, write_csv

Row = Mapping[str, float | str]
LOWER_IS_BETTER = {"seconds_per_epoch"}


@dataclass(frozen=True)
class Entry:
    """A model in a comparison: its `name`, how it fared, and the `seconds` an epoch of its training took."""

    name: str
    evaluation: Evaluation
    seconds: float | None = None


def outcomes(evaluation: Evaluation) -> dict[str, Outcome]:
    """Clean, under each attack, and, of several with a budget, in the worst case."""
    return evaluation.outcomes


def rows(entries: Sequence[Entry], theta: float) -> list[dict[str, float | str]]:
    """The table as plain values, a row a model: accuracies in [0, 1], norms as RMS, ``avg_aa`` over [0, `theta`]."""
    table = []
    for entry in entries:
        row: dict[str, float | str] = {"method": entry.name}
        for name, outcome in outcomes(entry.evaluation).items():
            if curve := getattr(outcome, "curve", None):
                row[f"{name}_avg_aa"] = curve.average(theta)
                row[f"{name}_norm"] = outcome.norm
            else:
                row[name] = outcome.accuracy
        if entry.seconds is not None:
            row["seconds_per_epoch"] = entry.seconds
        table.append(row)
    return table


def cell_text(column: str, value: float) -> str:
    """A value of `rows` as it is shown: accuracies in percent."""
    if column.endswith("_norm"):
        return f"{value:.4f}"
    return f"{value:.1f}" if column == "seconds_per_epoch" else f"{100 * value:.1f}"


def cell_above(text: str, beside: str, best: bool) -> Text:
    """A figure, bold where it is the `best`, above what stands beside it."""
    return Text.assemble((text, "bold" if best else ""), (f"\n{beside}" if beside else "", "dim"))


def attack_rows(entries: Sequence[Entry]) -> list[dict[str, float | str]]:
    """Every attack on every model, clean samples before them and the worst case after.

    Accuracies in [0, 1] and their 95% Wilson intervals, the budget and the norm it is in, perturbations in RMS, the
    gradients that a sample took, and the seconds of all; empty where there is no such figure.
    """
    table = []
    for entry in entries:
        found = entry.evaluation
        for name, outcome in outcomes(found).items():
            low, high = outcome.interval
            row: dict[str, float | str] = dict.fromkeys(COLUMNS, "")
            row |= {"method": entry.name, "attack": name, "accuracy": outcome.accuracy, "low": low, "high": high}
            if result := found.results.get(name):
                row |= {"norm": result.attack.norm, "mean_rms": result.norm, "median_rms": result.median_norm}
                row |= {"gradients": float(result.grads.double().mean()), "seconds": result.seconds}
                if result.attack.has_budget:
                    row["eps"] = result.eps
            table.append(row)
    return table


COLUMNS = {
    "method": "method",
    "attack": "attack",
    "eps": "eps",
    "norm": "norm",
    "accuracy": "accuracy",
    "low": "95% from",
    "high": "to",
    "mean_rms": "mean RMS",
    "median_rms": "median RMS",
    "gradients": "gradients",
    "seconds": "seconds",
}
"""Of `attack_rows`, with their heads."""


def write_table(entries: Sequence[Entry], theta: float, path: Path) -> None:
    """The table as CSV; beside it, ``attacks.csv`` has a line an attack, ``findings.csv`` one for what checks found."""
    found = [
        {"method": entry.name, "check": finding.check, "text": finding.text}
        for entry in entries
        for finding in entry.evaluation.findings
    ]
    values = rows(entries, theta)
    write_rows(path, values[0], values)
    write_rows(path.with_name("attacks.csv"), COLUMNS, attack_rows(entries))
    write_rows(path.with_name("findings.csv"), ("method", "check", "text"), found)


def write_rows(path: Path, columns: Iterable[str], values: Sequence[Row]) -> None:
    """Rows as CSV; what a row lacks is empty. Raises ValueError for a row with a column that is not in `columns`."""
    heads = list(columns)
    for row in values:
        if unknown := row.keys() - set(heads):
            raise ValueError(f"{path}: a row has {', '.join(sorted(unknown))}, which the first row lacks")
    write_csv(path, [heads, *([row.get(head, "") for head in heads] for row in values)])


def attacks_table(entries: Sequence[Entry]) -> Table:
    """`attack_rows` for a terminal: accuracies in percent."""
    lines = ([attack_text(column, value) for column, value in row.items()] for row in attack_rows(entries))
    return text_table(list(COLUMNS.values()), lines, left=("method", "attack", "norm"))


def attack_text(column: str, value: float | str) -> str:
    """A value of `attack_rows` as it is shown."""
    if isinstance(value, str):
        return value
    if column in ("accuracy", "low", "high"):
        return f"{100 * value:.1f}"
    return f"{value:.4g}" if column == "eps" else f"{value:.4f}" if column.endswith("rms") else f"{value:.1f}"


def table(entries: Sequence[Entry], theta: float) -> Group:
    """The table for a terminal, and what the checks found.

    Accuracies in percent, above their 95% Wilson intervals; the best of each column in bold.
    """
    values = rows(entries, theta)
    first = entries[0].evaluation
    heads = {"method": "method", "clean": "clean", "worst": "worst\nof these", "seconds_per_epoch": "s/epoch"}
    for name, result in first.results.items():
        title = f"{name}-{result.attack.steps}" if hasattr(result.attack, "steps") else name
        heads[name] = f"{title}\neps {result.eps:g}" if result.curve is None else title
        heads[f"{name}_avg_aa"] = f"{title}\navg-AA({theta:g})"
        heads[f"{name}_norm"] = f"{title}\nnorm (RMS)"
    note = f"accuracy in %, {first.samples} test samples of {first.data}; attacked label: {first.label}"
    lines = []
    for entry, row in zip(entries, values, strict=True):
        accuracies, cells = outcomes(entry.evaluation), []
        for column, value in row.items():
            if isinstance(value, str):
                cells.append(value)
                continue
            numbers = [other[column] for other in values]
            best = min(numbers) if column in LOWER_IS_BETTER else max(numbers)
            ends = accuracies[column].interval if column in accuracies else ()
            interval = "-".join(f"{100 * end:.1f}" for end in ends)
            cells.append(cell_above(cell_text(column, value), interval, value == best and len(values) > 1))
        lines.append(cells)
    shown = text_table([heads[column] for column in values[0]], lines, left=["method"], caption=note)
    return Group(shown, *findings(entries))


def findings(entries: Sequence[Entry]) -> list[Text]:
    """What the checks found in the evaluations, a line each, with the model's name."""
    return [
        Text(f"{entry.name}: {finding.check}: {finding.text}", "yellow")
        for entry in entries
        for finding in entry.evaluation.findings
    ]
