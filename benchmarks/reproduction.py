"""REPRODUCTION.md and the verdicts on other pages, from what ``fastadv reproduce`` left in benchmarks/results.

`python -m benchmarks.reproduction` writes all of them.
"""

import csv
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from fastadv.recipes import Calibration
from fastadv.report import figure_text, measured_text, printed_text

from . import dated, pages
from .runs import Ordering, Row, about, carried, counts, folders, in_words, orderings, read
from .verdicts import CONFIRMED, CONTRADICTED, INCOMPARABLE, MUCH_SHORTER, NORMS, POINTS, VERDICTS, WITHIN

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "REPRODUCTION.md"

HEAD = f"""# Reproduction

Written by `python -m benchmarks.reproduction` from the files that `fastadv reproduce` left in `benchmarks/results/`; no
figure or verdict here was typed by hand. Accuracies are in percent and differences in points; norms and gradients as
they are.

There are two kinds of claims. A printed **figure** is one number of a paper's table. A printed **ordering** is a pair
of rows in one column of a table: which of the two is larger. Each has a verdict:

| sign | verdict | a figure | an ordering |
| --- | --- | --- | --- |
| `+` | confirmed | within chance and close: {POINTS} points, of a norm {NORMS:.0%} | beyond chance, as printed |
| `~` | within chance | within chance, but not close | within chance |
| `x` | contradicted | beyond chance | beyond chance, the other way round |
| `/` | not comparable | see below | see below |

In a table of orderings, `>` and `<` are print's: the first row of a pair is above or below the second.

**Chance** has two parts, which are added as independent errors. One is the choice of the test images, of the run and of
print, at 95 %: a paired bootstrap of two rows where a run kept every image's outcome, else the interval of two
independent shares, which is too wide for rows that saw the same images. The other is training again with another
seed: Student's t over the seeds of the run and the printed deviation, or, where neither is there, an allowance of
{POINTS} points ({NORMS:.0%} of a norm). So most differences of a few points stay open on 1,000 images. Tables are long:
of many orderings that are ties in truth, a few are decided by chance alone.

**Not comparable** follows from what a run changed, never from a note. Other data make figures and orderings not
comparable. Another network, fewer training images, another batch size, optimiser, learning rate or precision, or fewer
than {MUCH_SHORTER:.0%} of the printed epochs make figures not comparable, except where a recipe names other values that
print leaves open (`also`): "LeNet-5" in the Blind AT paper may be either of two. An ordering on the paper's data still
has a verdict, which holds for training at this length only. Fewer test images make nothing incomparable: they widen the
interval.

What has changed in fastadv since a run stands in bold below its tables, from `note.txt` in its folder.

"""
SIGNS = {CONFIRMED: "+", WITHIN: "~", CONTRADICTED: "x", INCOMPARABLE: "/", "": ""}


def cell(row: Row, name: str) -> str:
    """The figure called `name` in a table, beside the printed one and with its verdict, or nothing."""
    figure = row.get(name)
    if figure is None:
        return ""
    text = measured_text(figure)
    if figure.printed is None:
        return text
    difference = figure_text(figure.measured - figure.printed, figure)
    sign = "" if difference.startswith("-") else "+"
    return f"{text} ({printed_text(figure)}; {sign}{difference}) {SIGNS[row.verdict(figure)]}"


def markdown(heads: Sequence[str], lines: Sequence[Sequence[str]], align: str = "--:") -> list[str]:
    """A Markdown table, its first column aligned left."""
    rule = "| --- |" + f" {align} |" * (len(heads) - 1)
    return [f"| {' | '.join(heads)} |", rule, *(f"| {' | '.join(line)} |" for line in lines)]


def figures_table(rows: Sequence[Row]) -> list[str]:
    """All figures of `rows`."""
    names = dict.fromkeys(figure.name for row in rows for figure in row.figures)
    heads = ["figure", *(row.name.partition("/")[2] or row.name for row in rows)]
    return markdown(heads, [[name, *(cell(row, name) for row in rows)] for name in names])


def orderings_table(found: Sequence[Ordering], signs: dict[str, str]) -> list[str]:
    """All orderings, pairs by columns of the printed table: ``>`` where the first of a pair is printed larger."""
    by_place = {(pages.pair(o), o.figure): f"{'>' if o.printed > 0 else '<'} {signs[o.verdict]}" for o in found}
    pairs = list(dict.fromkeys(name for name, _ in by_place))
    columns = {name for _, name in by_place}
    figures = [name for name in dict.fromkeys(f.name for o in found for f in o.first.figures) if name in columns]
    if len(pairs) > len(figures):
        return markdown(["pair", *figures], [[p, *(by_place.get((p, f), "") for f in figures)] for p in pairs], ":-:")
    return markdown(["figure", *pairs], [[f, *(by_place.get((p, f), "") for p in pairs)] for f in figures], ":-:")


def section(folder: Path) -> list[str]:
    """The tables of one folder, of the values of an option in one of their own, and what was run."""
    rows = read(folder)
    tables: dict[str, list[Row]] = {}
    for row in rows:
        recipe, variant, _ = row.name.partition("/")
        tables.setdefault(recipe if variant else "", []).append(row)
    lines = [f"## {folder.name}", "", f"From `{folder.relative_to(ROOT).as_posix()}/`.", ""]
    for recipe, columns in tables.items():
        lines += [*([f"`{recipe}`:", ""] if recipe else []), *figures_table(columns), ""]
    figures, of_orderings = counts(rows)
    if figures:
        lines += [f"Printed figures: {in_words(figures)}.", ""]
    if found := orderings(rows):
        lines += [f"Printed orderings: {in_words(of_orderings)}.", "", *orderings_table(found, SIGNS), ""]
    if found := orderings(carried(rows)):
        lines += [
            "Not comparable, because the paper prints them for other data. The sign says whether this data would "
            "confirm (`+`), leave open (`~`) or contradict (`x`) them:",
            "",
            *orderings_table(found, SIGNS),
            "",
        ]
    if (note := folder / "note.txt").is_file():
        lines.append(f"- **{note.read_text().strip()}**")
    if (path := folder / "calibrations.json").is_file():
        lines += [f"- Calibrated: {Calibration(**found)}." for found in json.loads(path.read_text()).values()]
    return lines + notes(rows)


def notes(rows: Sequence[Row]) -> list[str]:
    """Where the rows were printed, what was changed and what print leaves open, each once."""
    told: dict[str, list[str]] = {}
    for row in rows:
        changed, note = about([row]), row.recipe.note and f"Note: {row.recipe.note}"
        for text in (f"{row.recipe.paper}.", changed and f"Changed: {changed}.", note):
            if text:
                told.setdefault(text, []).append(f"`{row.name}`")
    everywhere = [text for text, names in told.items() if len(names) == len(rows)]
    rest = [f"- {', '.join(names)}: {text}" for text, names in told.items() if text not in everywhere]
    return [f"- {text}" for text in everywhere] + rest


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


def summary(places: Sequence[Path]) -> list[str]:
    """How many claims of every run have which verdict."""
    heads = ["run", "recipes", *(f"orderings {verdict}" for verdict in VERDICTS)]
    heads += [*(f"figures {verdict}" for verdict in VERDICTS), "figures not printed"]
    lines = []
    for folder in places:
        rows = read(folder)
        figures, found = counts(rows)
        silent = sum(figure.printed is None for row in rows for figure in row.figures)
        numbers = [len(rows), *(found[v] for v in VERDICTS), *(figures[v] for v in VERDICTS), silent]
        lines.append([folder.name, *map(str, numbers)])
    return markdown(heads, lines)


def page(results: Path = RESULTS) -> str:
    """REPRODUCTION.md, from the folders under `results` that ``fastadv reproduce`` wrote."""
    places = folders(results)
    sections = [summary(places), *map(section, places)]
    sections += [experiment(path) for path in sorted(results.glob("*/table.csv"))]
    return HEAD + "\n".join(line for lines in sections for line in [*lines, ""]).rstrip() + "\n"


def main() -> None:
    """Writes REPRODUCTION.md and the blocks of all pages and dated records."""
    PAGE.write_text(page(), encoding="utf-8")
    for path in pages.paths(ROOT):
        path.write_text(pages.rewritten(path, RESULTS), encoding="utf-8")
    for path in dated.paths(RESULTS):
        path.write_text(dated.rewritten(path, RESULTS), encoding="utf-8")
    told = f"the blocks of {len(pages.paths(ROOT))} pages and {len(dated.paths(RESULTS))} records"
    sys.stdout.write(f"written: {PAGE} and {told}\n")


if __name__ == "__main__":
    main()
