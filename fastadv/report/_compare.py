"""The tables of a report: models in rows, the best of every column, and whether the others differ from it."""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..evaluation import AACurve
from ..recipes import Figure
from ._bootstrap import paired_bootstrap
from ._certified import CLASSIFIERS
from ._folders import RunFolder
from ._recipes import figure_text, printed_text
from ._table import COLUMNS, LOWER_IS_BETTER, attack_text, cell_text


@dataclass
class Cell:
    """A number in a table, and the CSV file, row and column that it is from; `beside` stands next to it.

    `mark`: ``best`` of its column; ``tied`` where it does not differ from the best by more than chance.
    """

    text: str
    value: float
    file: Path
    row: str
    column: str
    beside: str = ""
    mark: str = ""


@dataclass
class Grid:
    """A table: rows by the name of the model, in them cells by the head of the column.

    `folded`: shown when it is asked for. `differences`: model, column, by how much the best is ahead of it, and the
    interval of that, as text.
    """

    title: str
    folded: bool = False
    rows: dict[str, dict[str, Cell]] = field(default_factory=dict)
    differences: list[tuple[str, str, str, str]] = field(default_factory=list)

    @property
    def heads(self) -> list[str]:
        return list(dict.fromkeys(head for row in self.rows.values() for head in row))

    def mark_best(self, head: str, lowest: bool = False) -> str:
        """Marks the best of a column, and returns its row; where all are equal, nothing is marked."""
        column = {name: row[head] for name, row in self.rows.items() if head in row}
        best = (min if lowest else max)(column, key=lambda name: column[name].value)
        for cell in column.values():
            if cell.value == column[best].value and len({other.value for other in column.values()}) > 1:
                cell.mark = "best"
        return best


@dataclass(frozen=True)
class Tested:
    """An evaluated model: its `label` in the report, the run folder that says how it fared, and its name there."""

    label: str
    run: RunFolder
    name: str
    source: str = ""

    @property
    def about(self) -> dict[str, Any]:
        """Its part of ``evaluation.json``."""
        return self.run.evaluations[self.name]

    @property
    def results(self) -> dict[str, Any]:
        return self.about["results"]

    @cached_property
    def curves(self) -> dict[str, AACurve]:
        """The AA curves of attacks that look for the smallest perturbation."""
        arrays = {name: f"{self.name}/results/{name}/curve/" for name in self.results}
        return {
            name: AACurve(*(torch.from_numpy(self.run.samples[start + part]) for part in ("correct", "flips")))
            for name, start in arrays.items()
            if start + "flips" in self.run.samples
        }

    def certificates(self, about: str) -> dict[str, tuple[str, np.ndarray, np.ndarray | None]]:
        """Norm, radii and attacked sizes of the certificates about ``the network`` or the ``smoothed`` one, by name."""
        start = f"{self.name}/certificates/"
        return {
            name: (
                each["method"]["norm"],
                *(self.run.samples.get(f"{start}{name}/{key}") for key in ("radii", "attacked")),
            )
            for name, each in self.about.get("certificates", {}).items()
            if CLASSIFIERS[each["method"]["class"]] == about
        }

    @property
    def right(self) -> np.ndarray:
        """Whether each sample is classified correctly without any attack."""
        return self.run.samples[f"{self.name}/natural/right"]

    def accuracy(self, column: str) -> float:
        """A number of ``table.csv``."""
        return float(self.run.row(self.name)[column])

    def interval(self, column: str) -> str:
        """The Wilson interval of an accuracy, from ``attacks.csv``, in percent."""
        for row in self.run.attacks:
            if (row["method"], row["attack"]) == (self.name, column):
                return f"{100 * float(row['low']):.1f}-{100 * float(row['high']):.1f}"
        return ""

    def attack(self, column: str) -> str:
        """The attack that a column of ``table.csv`` is about, or nothing."""
        return max((name for name in self.results if column == name or column.startswith(f"{name}_")), default="")

    def kind(self, column: str) -> Any:
        """The settings of the attack or attacks that a column is about."""
        attacks = {name: result["attack"] for name, result in self.results.items()}
        if column == "worst":
            return [attack for name, attack in attacks.items() if name not in self.curves]
        return attacks.get(self.attack(column))

    def head(self, column: str) -> str:
        """What a column is called, with the settings in which attacks of one name may differ."""
        name = self.attack(column)
        if not name:
            return {"seconds_per_epoch": "s/epoch", "worst": "worst of these"}.get(column, column.replace("_", " "))
        attack = self.results[name]["attack"]
        title = f"{name}-{attack['steps']}" if "steps" in attack else name
        rest = column.removeprefix(name).removeprefix("_")
        rest = {"avg_aa": f"avg-AA({self.about['theta']:g})", "norm": "norm (RMS)"}.get(rest, rest.replace("_", " "))
        budget = f"eps {attack['eps']:g}" if "eps" in attack else ""
        return " ".join(filter(None, (title, budget, rest, self.source and f"from {self.source}")))

    def each(self, column: str) -> np.ndarray | None:
        """The number of every sample whose mean a column of ``table.csv`` is, where it is such a mean."""
        name = self.attack(column)
        if column == f"{name}_avg_aa":
            return self.curves[name].averages(self.about["theta"]).numpy()
        rights = {key: f"{self.name}/results/{key}/right" for key in self.results}
        if column == "worst":
            budgeted = [self.run.samples[key] for attack, key in rights.items() if attack not in self.curves]
            return np.all([self.right, *budgeted], axis=0)
        keys = {"clean": f"{self.name}/natural/right", f"{name}_norm": f"{self.name}/results/{name}/sizes"} | rights
        return self.run.samples.get(keys.get(column, ""))


def comparison(title: str, models: Sequence[Tested]) -> Grid:
    """The rows of the ``table.csv`` of each of `models`, which were evaluated on the same samples."""
    grid, columns = Grid(title), {}
    each: dict[str, dict[str, np.ndarray | None]] = {}
    variants: dict[str, list[Any]] = {}  # attacks of one head that differ in other settings
    for model in sorted(models, key=lambda model: -len(model.results)):
        for column, text in model.run.row(model.name).items():
            if column == "method" or not text:
                continue
            head, kind = model.head(column), model.kind(column)
            kinds = variants.setdefault(head, [])
            if kind not in kinds:
                kinds.append(kind)
            head += f" ({kinds.index(kind) + 1})" if kinds[0] != kind else ""
            value, file = float(text), model.run.folder / "table.csv"
            cell = Cell(cell_text(column, value), value, file, model.name, column, model.interval(column))
            grid.rows.setdefault(model.label, {}).setdefault(head, cell)
            each.setdefault(head, {}).setdefault(model.label, model.each(column))
            columns[head] = column
    for head, column in columns.items():
        best = grid.mark_best(head, column in LOWER_IS_BETTER)
        for label, values in each[head].items():
            if label == best or values is None:
                continue
            low, high = paired_bootstrap(each[head][best], values)
            cell, top = grid.rows[label][head], grid.rows[best][head]
            if low <= 0 <= high and top.mark and not cell.mark:
                cell.mark = "tied"
            shown = [cell_text(column, value) for value in (top.value - cell.value, low, high)]
            grid.differences.append((label, head, shown[0], f"{shown[1]} to {shown[2]}"))
    return grid


def every_attack(models: Iterable[Tested]) -> Grid:
    """The rows of each ``attacks.csv``: intervals, budgets, sizes of perturbations, gradients and time."""
    grid = Grid("Every attack", folded=True)
    for model in models:
        for row in (row for row in model.run.attacks if row["method"] == model.name):
            cells = {
                COLUMNS.get(column, column): Cell(
                    attack_text(column, float(text)), float(text), model.run.folder / "attacks.csv", model.name, column
                )
                for column, text in row.items()
                if is_number(text)
            }
            made_on = f" from {model.source}" if model.source and row["attack"] != "clean" else ""
            name = f"{model.label}: {row['attack']}{made_on}"
            if row["eps"]:
                name += f" {row['norm']} eps {float(row['eps']):g}"
            grid.rows.setdefault(name, cells)
    return grid


@dataclass(frozen=True)
class Published:
    """The figures of a recipe: its `label` in the report, and its run folder."""

    label: str
    run: RunFolder

    def by_attack(self) -> dict[str, list[tuple[str, Figure]]]:
        """What each figure says, and the figure, by the attack, `` from NAME`` where samples were made on that."""
        found: dict[str, list[tuple[str, Figure]]] = {}
        for figure in self.run.figures:
            attack, source, what = re.fullmatch(r"(\S+)( from \S+)?(?: (.+))?", figure.name).groups(default="")
            found.setdefault(attack + source, []).append((what or figure.name, figure))
        return found


def published(models: Iterable[Published]) -> Grid:
    """What was measured, with what was printed beside it."""
    grid = Grid("Measured (printed; difference)")
    for model in models:
        for attack, figures in model.by_attack().items():
            for what, figure in figures:
                text, beside = figure_text(figure.measured, figure), ""
                if figure.printed is not None:
                    difference = figure_text(figure.measured - figure.printed, figure)
                    beside = f"({printed_text(figure)}; {'' if difference.startswith('-') else '+'}{difference})"
                file = model.run.folder / "figures.csv"
                cell = Cell(text, figure.measured, file, figure.name, "measured", beside)
                head = attack if what in ("", attack) else f"{attack} {what}"
                grid.rows.setdefault(model.label, {})[head] = cell
    for head in grid.heads:
        if not head.startswith("gradient"):
            grid.mark_best(head)
    return grid


def corruptions(runs: Mapping[str, RunFolder]) -> Grid:
    """The means over severities of ``corruptions.csv``, by the name of the model."""
    grid = Grid("Accuracy in %, the mean over severities")
    for label, run in runs.items():
        for row in sorted(run.corruptions, key=lambda row: "" not in row.values()):  # clean and the means first
            value = float(row["mean"])
            cell = Cell(f"{value:.1f}", value, run.folder / "corruptions.csv", row["corruption"], "mean")
            grid.rows.setdefault(label, {})[row["corruption"]] = cell
    for head in grid.heads:
        grid.mark_best(head)
    return grid


def plain(run: RunFolder) -> Grid:
    """The ``table.csv`` of a run without an evaluation, as it stands; what is no number names the row."""
    grid, file = Grid(f"{run.folder.name}/table.csv"), run.folder / "table.csv"
    for row in run.table:
        values = {column: float(text) for column, text in row.items() if is_number(text)}
        name = ", ".join(text for column, text in row.items() if column not in values)
        cells = {column: Cell(f"{value:.4g}", value, file, name, column) for column, value in values.items()}
        grid.rows[name] = cells
    return grid


def is_number(text: str) -> bool:
    """Whether `text` is a number."""
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def settings(tested: Tested) -> str:
    """What models must share to be compared: the samples, the label that attacks move away from, and theta."""
    return json.dumps([tested.about[key] for key in ("test_sha256", "label", "theta")])
