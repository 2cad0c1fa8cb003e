"""REPRODUCTION.md, from what ``fastadv reproduce`` left in benchmarks/results: `python -m benchmarks.reproduction`."""

import csv
import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from fastadv import recipes
from fastadv.recipes import Figure, Recipe
from fastadv.report import figure_text, read_figures

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "REPRODUCTION.md"
POINTS = 1.5
"""So near to the printed figure a measured one passes."""

HEAD = f"""# Reproduction

Written by `python -m benchmarks.reproduction` from the files that `fastadv reproduce` left in `benchmarks/results/`; no
figure here was typed by hand. A row is a figure, a column a recipe: what was measured and, in brackets, what the paper
prints and the difference. Accuracies are in percent and differences in points; norms and gradients as they are.

- pass, `+`: within {POINTS} points of the printed figure.
- explained, `e`: further off, by a run that was not the printed one, or by a recipe that had to choose what print
  leaves open. What was changed and the recipe's note stand under the table: reasons why figures may differ, not a proof
  that they are the reason.
- open, `?`: further off, with nothing of that kind.

What has changed in fastadv since a run stands in bold below its table, from `note.txt` in its folder.
Norms and gradients, and figures that were not printed, have no mark. What the figures say is in the files of the same
date in `benchmarks/results/`.
"""
SIGNS = {"pass": "+", "explained": "e", "open": "?", "": ""}


@dataclass(frozen=True)
class Row:
    """A recipe that was run: its measured figures, and what of it was `changed`, in words."""

    name: str
    recipe: Recipe
    figures: list[Figure]
    changed: str

    def mark(self, figure: Figure) -> str:
        """``pass``, ``explained`` or ``open``, or nothing where there is nothing to compare."""
        if figure.printed is None or not is_accuracy(figure):
            return ""
        if round(abs(figure.measured - figure.printed), 9) <= POINTS:
            return "pass"
        return "explained" if self.changed or self.recipe.note else "open"

    def cell(self, name: str) -> str:
        """The figure called `name` in a table, or nothing."""
        for figure in self.figures:
            if figure.name == name:
                text = figure_text(figure.measured, figure)
                if figure.printed is None:
                    return text
                difference = figure_text(figure.measured - figure.printed, figure)
                sign = "" if difference.startswith("-") else "+"
                return f"{text} ({figure.printed:g}; {sign}{difference}) {SIGNS[self.mark(figure)]}".rstrip()
        return ""


def is_accuracy(figure: Figure) -> bool:
    return not (figure.name.endswith("norm") or figure.name.startswith("gradient"))


def read(folder: Path) -> list[Row]:
    """The recipes in a folder of ``fastadv reproduce``."""
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    names = sorted({path.relative_to(folder).parts[0] for path in folder.rglob("figures.csv")})
    variants = [recipe for name in names for recipe in recipes.load(name).variants()]
    files = [(recipe, folder / recipe.name / "figures.csv") for recipe in variants]
    return [
        Row(recipe.name, recipe, read_figures(path), changes(recipe, settings))
        for recipe, path in files
        if path.is_file()
    ]


def changes(recipe: Recipe, settings: dict) -> str:
    """What a run's `settings` changed of the training that `recipe` prints, and of how it is tested."""
    changed = []
    for name in ("data", "model", "epochs", "batch_size", "per_class", "lr", "optimizer", "precision"):
        value, printed = settings.get(name), recipe.training.get(name, "all" if name == "per_class" else "default")
        if value is not None and value != printed:
            changed.append(f"{name.replace('_', ' ')} {value} instead of {printed}")
    if settings["limit"]:
        changed.append(f"the first {settings['limit']} test samples instead of all")
    return ", ".join(changed)


def counts(rows: Iterable[Row]) -> Counter[str]:
    return Counter(mark for row in rows for figure in row.figures if (mark := row.mark(figure)))


def table(rows: Sequence[Row]) -> list[str]:
    """All figures of `rows`."""
    names = dict.fromkeys(figure.name for row in rows for figure in row.figures)
    heads = [row.name.partition("/")[2] or row.name for row in rows]
    lines = ["| figure | " + " | ".join(heads) + " |", "| --- |" + " --: |" * len(rows)]
    return lines + ["| " + " | ".join([name, *(row.cell(name) for row in rows)]) + " |" for name in names]


def section(folder: Path) -> list[str]:
    """The tables of one folder, of the values of an option in one of their own, and what was run."""
    rows = read(folder)
    tables: dict[str, list[Row]] = {}
    for row in rows:
        recipe, variant, _ = row.name.partition("/")
        tables.setdefault(recipe if variant else "", []).append(row)
    found = counts(rows)
    marks = ", ".join(f"{found[mark]} {mark}" for mark in ("pass", "explained", "open")) if found else "nothing printed"
    lines = [f"## {folder.name}", "", f"From `{folder.relative_to(ROOT).as_posix()}/`; {marks}.", ""]
    for recipe, columns in tables.items():
        lines += [*([f"`{recipe}`:", ""] if recipe else []), *table(columns), ""]
    about: dict[str, list[str]] = {}
    for row in rows:
        changed, note = row.changed and f"Changed: {row.changed}.", row.recipe.note and f"Note: {row.recipe.note}"
        for text in (f"{row.recipe.paper}.", changed, note):
            if text:
                about.setdefault(text, []).append(f"`{row.name}`")
    if (note := folder / "note.txt").is_file():
        lines.append(f"- **{note.read_text().strip()}**")
    everywhere = [text for text, names in about.items() if len(names) == len(rows)]
    lines += [f"- {text}" for text in everywhere]
    return lines + [f"- {', '.join(names)}: {text}" for text, names in about.items() if text not in everywhere]


def experiment(path: Path) -> list[str]:
    """The table of an experiment with a program of its own, as it stands."""
    with path.open(newline="") as file:
        head, *rows = csv.reader(file)
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return [f"## {path.parent.name}", "", f"From `{path.relative_to(ROOT).as_posix()}`.", "", *lines, *map(_line, rows)]


def _line(cells: Sequence[str]) -> str:
    """A row of a table, its numbers in four digits."""
    short = (re.sub(r"\d+\.\d+(e-?\d+)?", lambda number: f"{float(number[0]):.4g}", cell) for cell in cells)
    return f"| {' | '.join(short)} |"


def page(results: Path = RESULTS) -> str:
    """REPRODUCTION.md, from the folders under `results` that ``fastadv reproduce`` wrote."""
    folders = sorted({path.parent for path in results.rglob("config.yaml") if list(path.parent.rglob("figures.csv"))})
    summary = ["| run | recipes | pass | explained | open | not printed |", "| --- | --: | --: | --: | --: | --: |"]
    for folder in folders:
        rows = read(folder)
        found = counts(rows)
        silent = sum(figure.printed is None for row in rows for figure in row.figures)
        marks = " | ".join(str(found[mark]) for mark in ("pass", "explained", "open"))
        summary.append(f"| {folder.name} | {len(rows)} | {marks} | {silent} |")
    sections = [section(folder) for folder in folders]
    sections += [experiment(path) for path in sorted(results.glob("*/table.csv"))]
    return "\n".join([HEAD, *summary, "", *(line for lines in sections for line in [*lines, ""])]).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"written: {PAGE}\n")
