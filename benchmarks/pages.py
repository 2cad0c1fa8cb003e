"""What the pages and the README say of measured figures: blocks between markers, written from the files.

A block is ``<!-- generated: NAME -->`` to ``<!-- end -->``. Orderings stand in such blocks only.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from fastadv import recipes
from fastadv.report import figure_text, measured_text
from fastadv.trainers import METHODS

from . import front
from .runs import Ordering, Row, about, carried, chance, folders, is_percent, load, orderings, read, table_of
from .verdicts import CONFIRMED, CONTRADICTED, INCOMPARABLE, VERDICTS, WITHIN

DATA = {"fashion-mnist": "Fashion-MNIST", "mnist": "MNIST", "cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}
DATA |= {"svhn": "SVHN"}


@dataclass(frozen=True)
class Claim:
    """A paper's own tables: the recipes that hold them, its own `methods`, and the figures of which leads are told.

    Of these, `*` is any budget. `says`: what the paper claims for its methods, in plain words.
    """

    paper: str
    tables: str
    methods: tuple[str, ...]
    headlines: tuple[str, ...] = ()
    says: str = ""

    def its(self, row: Row) -> bool:
        return row.recipe.method in self.methods

    def holds(self, row: Row) -> bool:
        return fnmatch(row.name, self.tables)


BLIND = "Blind Adversarial Training"
LEADS = ("clean", "deepfool avg-AA(*)")
CLAIMS = {
    "baselines": Claim(BLIND, "blind-*", ("standard", "fgsm", "pgd", "deepfool")),
    "blind": Claim(
        BLIND,
        "blind-*",
        ("blind",),
        LEADS,
        "Blind AT keeps more clean accuracy than PGD- and DeepFool-AT, and the most or second most over small budgets.",
    ),
    "bilateral": Claim(
        "Bilateral Adversarial Training",
        "bilateral-table*",
        ("bilateral",),
        says="One step on images, with adversarial labels (R-MC-LA), leaves more accuracy, clean and mostly under PGD, "
        "than Madry's seven steps.",
    ),
    "friendly": Claim(
        "Attacks Which Do Not Kill Training",
        "friendly-table*",
        ("friendly", "friendly_trades", "friendly_mart"),
        says="At the same budget, each friendly variant keeps more clean accuracy than the method that it varies, at "
        "about the same robust accuracy.",
    ),
    "smd": Claim(
        "Self-adaptive Margin Defense",
        "smd-table*",
        ("smd",),
        ("average autoattack", "clean"),
        "SMD has the largest mean of clean accuracy and of accuracies under AutoAttack at three budgets.",
    ),
    "spat": Claim(
        "Hou's thesis, chapter 3",
        "spat-table*",
        ("spat",),
        says="SPAT leaves the most accuracy under PGD and AutoAttack, at a clean accuracy near that of Madry's "
        "training.",
    ),
    "dra": Claim(
        "Hou's thesis, chapter 4",
        "dra-table*",
        ("dra",),
        says="Fine-tuning with DRA makes a network more robust and leaves its clean accuracy as it is.",
    ),
}
"""By page. Other pages are of methods whose own papers' tables are no recipes."""
ALONE = ("alp", "cat", "dat", "dkl", "gairat", "madry", "mail", "mart", "mma", "single-step", "trades")
"""Pages of methods whose own papers' experiments were not run, though other papers' tables repeat figures of theirs."""


@dataclass(frozen=True)
class Measured:
    """A table: `columns` are recipes by head, `lines` a label, a figure and the folders to find it in.

    `marks`: whether the largest of a line is told, which makes sense where the columns compare methods. `corner`: the
    head of the labels. `turned`: whether recipes are the lines of the table, and figures its columns.
    """

    columns: Mapping[str, str]
    lines: Sequence[tuple[str, ...]]
    marks: bool = True
    corner: str = ""
    turned: bool = False


def _friendly(eps: str) -> Measured:
    names = {"Madry": "madry", "FAT": "friendly", "TRADES": "trades", "FAT for TRADES": "friendly-trades"}
    names |= {"MART": "mart", "FAT for MART": "friendly-mart"}
    columns = {head: f"friendly-fashion-mnist-{name}-{eps}" for head, name in names.items()}
    return Measured(columns, [(f"{label}, trained at {eps}", *rest) for label, *rest in FRIENDLY_LINES])


def _friendly_seeds() -> Measured:
    lines = [(f"{label}, trained at 0.1, three seeds", figure, FRIENDLY_SEEDS) for label, figure in SEEDS_LINES]
    return Measured(_friendly("0.1").columns, lines)


def _spat(**columns: str) -> Measured:
    return Measured({head: f"spat-fashion-mnist-{name}" for head, name in columns.items()}, SPAT_LINES)


def _smd(run: str = "", **columns: str) -> Measured:
    lines = [(label, figure, run or SMD_RUN) for label, figure in SMD_LINES]
    return Measured({head: f"smd-table2b-{name}" for head, name in columns.items()}, lines)


ROOT_OF = "root of "
"""Before a figure whose root is shown: mean squared gradients as norms."""
LESS = " less "
"""Between two figures of a run whose difference is shown."""
BLIND_RUN, BILATERAL_RUN = "2026-11-30-blind-fashion-mnist-70", "2026-11-21-bilateral-fashion-mnist"
BLIND_STRONGEST = f"{BLIND_RUN}-autoattack"
SPAT_RUN, SMD_RUN = "2026-11-30-spat-fashion-mnist", "2026-12-01-smd-fashion-mnist"
SMD_BEFORE = "2026-11-22-smd-fashion-mnist"
DRA_RUN = "2026-11-30-dra-fashion-mnist"
FRIENDLY_SEEDS = "2026-11-30-friendly-fashion-mnist-seeds"
FRIENDLY_RUN, TRADES_RUN = "2026-11-21-friendly-fashion-mnist", "2026-11-22-trades-fashion-mnist"
FRIENDLY_AUTOATTACK = (f"{FRIENDLY_RUN}-autoattack-0.1", f"{FRIENDLY_RUN}-autoattack-0.2")
BLIND_LINES = [
    ("clean", "clean", BLIND_RUN),
    ("DeepFool avg-AA(0.08)", "deepfool avg-AA(0.08)", BLIND_RUN),
    ("DeepFool avg-AA(0.04)", "deepfool avg-AA(0.04)", BLIND_RUN),
    ("PGD-20 at 0.1, true label", "pgd-true 0.1", BLIND_STRONGEST),
    ("AutoAttack at 0.1", "autoattack 0.1", BLIND_STRONGEST),
]
BILATERAL_LINES = [
    ("clean", "clean", BILATERAL_RUN),
    ("CE20", "ce20", BILATERAL_RUN),
    ("AutoAttack", "autoattack", BILATERAL_RUN),
    ("gradient norm, all samples", f"{ROOT_OF}gradient all mean", BILATERAL_RUN),
    ("gradient norm, correct samples", f"{ROOT_OF}gradient correct mean", BILATERAL_RUN),
]
FRIENDLY_LINES = [
    ("clean", "clean", FRIENDLY_RUN),
    ("PGD-20 at 0.1", "pgd20 0.1", FRIENDLY_RUN),
    ("AutoAttack at 0.1", "autoattack 0.1", *FRIENDLY_AUTOATTACK),
]
SEEDS_LINES = [("clean", "clean"), ("PGD-20 at 0.1", "pgd20 0.1"), ("C&W-inf at 0.1", "cw30 0.1")]
SPAT_LINES = [
    ("clean", "clean", SPAT_RUN),
    ("PGD-20", "pgd20 0.1", SPAT_RUN),
    ("C&W-inf", "cw30 0.1", SPAT_RUN),
    ("AutoAttack", "autoattack 0.1", SPAT_RUN),
]
SMD_LINES = [
    ("clean", "clean"),
    ("AutoAttack at 2/255", "autoattack 0.007843"),
    ("AutoAttack at 4/255", "autoattack 0.01569"),
    ("AutoAttack at 8/255", "autoattack 0.03137"),
    ("mean of these four", "average autoattack"),
]
BLIND_ROWS = {"standard": "nt", "fgsm": "fgsm", "pgd": "pgd", "deepfool": "df-at", "blind": "bat"}
BILATERAL_ROWS = {"R-FGSM": "r-fgsm", "R-MC": "r-mc", "R-MC-LS": "r-mc-ls", "R-MC-LA": "r-mc-la"}
BILATERAL_ROWS |= {"Madry, 7 steps": "madry", "undefended": "undefended"}
BLIND_TABLE = Measured({head: f"blind-fashion-mnist-{name}" for head, name in BLIND_ROWS.items()}, BLIND_LINES)
TABLES: dict[str, tuple[Measured, ...]] = {
    "alp": (_spat(ALP="alp"),),
    "baselines": (BLIND_TABLE,),
    "bilateral": (
        Measured({head: f"bilateral-fashion-mnist-{name}" for head, name in BILATERAL_ROWS.items()}, BILATERAL_LINES),
    ),
    "blind": (BLIND_TABLE,),
    "dra": (
        Measured(
            {
                "normal training": "dra-fashion-mnist-standard",
                "fine-tuned with DRA": "dra-fashion-mnist-dra",
                "fine-tuned with PGD": "dra-fashion-mnist-pgd",
                "TRADES, beta 0.1": "dra-fashion-mnist-trades-0.1",
            },
            [("clean", "clean", DRA_RUN), ("AutoAttack at 0.05", "autoattack 0.05", DRA_RUN)],
            marks=False,
        ),
    ),
    "friendly": (_friendly_seeds(), _friendly("0.1"), _friendly("0.2")),
    "gairat": (_spat(GAIRAT="gairat"),),
    "madry": (
        Measured({"LeNet-5": "friendly-fashion-mnist-madry-0.1"}, FRIENDLY_LINES),
        Measured({"LeNet-5 with batch norm, 7 steps": "bilateral-fashion-mnist-madry"}, BILATERAL_LINES[:3]),
    ),
    "mail": (_spat(**{"MAIL-AT": "mail"}),),
    "mart": (
        Measured(
            {f"trained at {eps}": f"friendly-fashion-mnist-mart-{eps}" for eps in ("0.1", "0.2")},
            FRIENDLY_LINES,
            marks=False,
        ),
    ),
    "mma": (_smd(SMD_BEFORE, **{"MMA, hinge 12/255": "mma12"}),),
    "smd": (_smd(SMD="smd", **{"TRADES, 8/255": "tr-b6-8", "AT, 8/255": "at8", "normal": "std"}),),
    "spat": (_spat(SPAT="spat", ALP="alp", TRADES="trades", MART="mart", Madry="madry", GAIRAT="gairat", MAIL="mail"),),
    "trades": (
        Measured(
            {f"trained at {eps}": f"friendly-fashion-mnist-trades-{eps}" for eps in ("0.1", "0.2")},
            [("clean", "clean", TRADES_RUN), ("PGD-20 at 0.1", "pgd20 0.1", TRADES_RUN)],
            marks=False,
        ),
        _smd(**{"LeNet-5 by SMD's recipe, beta 6, 8/255": "tr-b6-8"}),
    ),
}
"""By page."""


def pair(ordering: Ordering) -> str:
    return f"{short(ordering.first)}, {short(ordering.second)}"


def short(row: Row) -> str:
    """What tells a row from the others of its table."""
    table, data = table_of(row)
    return row.name.removeprefix(table).removeprefix(f"-{data}").removeprefix("-")


def listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def claimed(claim: Claim, places: Sequence[Path]) -> list[tuple[str, str, Path | None]]:
    """How the paper's claim stood up: on what it was run, the verdict in words, and the folder, a line a run.

    Of several runs on the same data, the one nearest to print comes first, and the leads are told of this one only.
    """
    own = [load(name) for name in recipes.names() if fnmatch(name, claim.tables)]
    printed = {recipe.training["data"] for recipe in own if _prints(recipe)}
    lines: list[tuple[str, str, Path | None]] = []
    for folder in sorted(places, key=_distance):
        rows = [row for row in read(folder) if claim.holds(row)]
        if found := [o for o in orderings(rows) if claim.its(o.first) or claim.its(o.second)]:
            data = {row.recipe.training["data"] for row in rows if "data" not in row.changed}
            where = listed([DATA[name] for name in sorted(data)])
            told = f"{_sentence(found, 'were contradicted')} {_figures([row for row in rows if claim.its(row)])}"
            lines.append((f"{where}; {_conditions(rows)}{_earlier(folder)}", told, folder))
            for pattern in claim.headlines if data & printed else ():
                for name in dict.fromkeys(o.figure for o in found if fnmatch(o.figure, pattern)) or [pattern]:
                    leads = _headline([ordering for ordering in found if ordering.figure == name], claim)
                    lines.append((f"`{name}` there", leads or "Not measured.", None))
            printed -= data
    if printed:
        lines.append((listed([DATA[name] for name in sorted(printed)]), "Not tested here: no row has been run.", None))
    for folder in places:
        rows = read(folder)
        likes = [row for row in carried(rows) if claim.holds(row)]
        if found := [o for o in orderings(likes) if claim.its(o.first) or claim.its(o.second)]:
            data = DATA[rows[0].recipe.training["data"]]
            others = listed(sorted({DATA[row.recipe.training["data"]] for row in likes}))
            words = f"Not comparable. On this data, {_sentence(found, 'came out the other way round')}"
            on = f"{data}, asked for what is printed for {others}; {_conditions(rows)}{_earlier(folder)}"
            lines.append((on, words, folder))
    return lines


def _distance(folder: Path) -> tuple[int, int]:
    """How far a run is from print: in how many settings, then the fewer test samples."""
    rows = read(folder)
    return min(len(row.deviations) for row in rows), -max(row.samples for row in rows)


def _conditions(rows: Sequence[Row]) -> str:
    epochs = "" if "epochs" in rows[0].changed else f"{rows[0].epochs} epochs"
    seeds = f"{rows[0].seeds} seeds" if rows[0].seeds > 1 else ""
    return ", ".join(filter(None, [epochs, seeds, about(rows)]))


def _earlier(folder: Path) -> str:
    """That something in a run's rows has changed since, which the note in its `folder` tells."""
    return "; some rows by an earlier version" if (folder / "note.txt").is_file() else ""


def _prints(recipe: recipes.Recipe) -> bool:
    figures = [figure for figure in recipe.printed.values() if not isinstance(figure, list)]
    return any(v is not None for f in figures for v in (f.values() if isinstance(f, dict) else [f]))


def _sentence(found: Sequence[Ordering], against: str) -> str:
    told = Counter(ordering.verdict for ordering in found)
    if set(told) == {INCOMPARABLE}:
        return "Not tested here: what was run is not comparable with print."
    words = f"{told[CONFIRMED]} of {len(found)} printed orderings held, {told[CONTRADICTED]} {against}"
    return f"{words}, {told[WITHIN]} are within chance."


def _headline(found: Sequence[Ordering], claim: Claim) -> str:
    """Above and below which rows the paper's own is printed in one column, and the verdicts."""
    groups: dict[tuple[str, str], list[str]] = {}
    for ordering in found:
        own_first = claim.its(ordering.first)
        above = (ordering.printed > 0) == own_first
        rival = ordering.second if own_first else ordering.first
        groups.setdefault(("above" if above else "below", ordering.verdict), []).append(short(rival))
    parts = [
        f"{where} {listed(groups[where, verdict])}: {verdict}"
        for where in ("above", "below")
        for verdict in VERDICTS
        if (where, verdict) in groups
    ]
    return f"Printed {'; '.join(parts)}." if parts else ""


def _figures(rows: Sequence[Row]) -> str:
    found = Counter(verdict for row in rows for figure in row.figures if (verdict := row.verdict(figure)))
    if set(found) <= {INCOMPARABLE}:
        return "Printed figures: not comparable."
    return f"Printed figures: {', '.join(f'{found[v]} {v}' for v in VERDICTS if found[v])}."


def verdict_block(name: str, results: Path) -> list[str]:
    """The first table of a method's page."""
    question = "Did the paper's claim stand up here?"
    if name in ALONE:
        return [f"| {question} |", "| --- |", "| Not tested here: no experiment of its own paper has been run. |"]
    claim = CLAIMS[name]
    lines = [f"| on | {question} |", "| --- | --- |"]
    if claim.says:
        lines.append(f"| **The claim** | {claim.says} |")
    for where, text, folder in claimed(claim, folders(results)):
        link = f" ([figures](../../REPRODUCTION.md#{_anchor(folder)}))" if folder else ""
        lines.append(f"| {where} | {text}{link} |")
    return lines


def _anchor(folder: Path) -> str:
    return folder.name.replace(".", "")


def so_far(results: Path) -> str:
    """What the front pages say of all runs: what came of printed figures that can be compared, of those that were
    measured twice on the larger test, and of the orderings in the same runs.
    """
    figures: dict[tuple[str, str], tuple[int, str]] = {}
    pairs: dict[tuple[str, str, str], tuple[int, str]] = {}
    for rows in map(read, folders(results)):
        told = {(row.name, f.name): (row.samples, row.verdict(f)) for row in rows for f in row.figures}
        told = {key: found for key, found in told.items() if found[1] not in ("", INCOMPARABLE)}
        of_pairs = {(o.first.name, o.second.name, o.figure): (o.first.samples, o.verdict) for o in orderings(rows)}
        for kept, new in ((figures, told), (pairs, of_pairs if told else {})):
            kept |= {key: f for key, f in new.items() if f[1] != INCOMPARABLE and f[0] > kept.get(key, (0, ""))[0]}
    of_figures, of_orderings = (Counter(verdict for _, verdict in kept.values()) for kept in (figures, pairs))
    return (
        f"{of_figures[CONFIRMED]} of {of_figures.total()} comparable printed figures are confirmed and "
        f"{of_figures[CONTRADICTED]} contradicted; {of_orderings[CONFIRMED]} of {of_orderings.total()} orderings held "
        f"and {of_orderings[CONTRADICTED]} were contradicted"
    )


def all_verdicts(results: Path) -> list[str]:
    """All papers in one table."""
    lines = ["| paper | on | Did its claims stand up here? |", "| --- | --- | --- |"]
    for name, claim in CLAIMS.items():
        if name != "baselines":
            plain = Claim(claim.paper, claim.tables, claim.methods)
            lines += [f"| {claim.paper} | {on} | {text} |" for on, text, _ in claimed(plain, folders(results))]
    return lines


def measured_block(name: str, results: Path) -> list[str]:
    """The figures of a page, the largest of a line bold, and marked where chance could have made it so."""
    lines: list[str] = []
    for table in TABLES[name]:
        lines += [*in_markdown(table, results), ""]
        if table.marks and len(table.columns) > 1:
            lines += ["Bold: the largest of a line. `~`: not below it by more than chance.", ""]
    return lines[:-1]


def in_markdown(table: Measured, results: Path) -> list[str]:
    """The lines of `table`."""
    grid = [[table.corner, *table.columns]]
    grid += [[label, *_line(table, figure, runs, results)] for label, figure, *runs in table.lines]
    head, *body = zip(*grid, strict=True) if table.turned else grid
    lines = [f"| {' | '.join(line)} |" for line in (head, *body)]
    return [lines[0].replace("|  |", "| |", 1), "| --- |" + " --: |" * (len(head) - 1), *lines[1:]]


def _line(table: Measured, figure: str, runs: Sequence[str], results: Path) -> list[str]:
    """The cells of one figure; empty are those of a recipe for samples made on its own network."""
    root, name = figure.startswith(ROOT_OF), figure.removeprefix(ROOT_OF)
    name, _, less = name.partition(LESS)
    columns = [recipe for recipe in table.columns.values() if f" from {recipe} " not in name]
    rows = [_row(recipe, name, runs, results) for recipe in columns]
    if root:
        cells = [f"{math.sqrt(row.get(name).measured):.3g}" for row in rows]
    elif less:
        cells = [f"{row.get(name).measured - row.get(less).measured:.1f}" for row in rows]
    else:
        cells = _cells(rows, name, table.marks and len(table.columns) > 1 and is_percent(name))
    shown = dict(zip(columns, cells, strict=True))
    return [shown.get(recipe, "") for recipe in table.columns.values()]


def _row(recipe: str, figure: str, runs: Sequence[str], results: Path) -> Row:
    for run in runs:
        for row in read(results / "reproduce" / run):
            if row.name == recipe and row.get(figure):
                return row
    raise LookupError(f"{', '.join(runs)}: no {figure} of {recipe}")


def _cells(rows: Sequence[Row], name: str, marked: bool) -> list[str]:
    best = max(rows, key=lambda row: row.get(name).measured)
    largest = best.get(name).measured
    cells = []
    for row in rows:
        figure = row.get(name)
        text = measured_text(figure)
        if marked and math.isclose(figure.measured, largest):
            text = f"**{text}**"
        elif marked and chance(best, row, name)[0] <= 0:
            text += " ~"
        cells.append(text if figure.printed is None else f"{text} ({figure.printed:g})")
    return cells


COSTS = "2026-11-22-costs.md"
AUTOATTACK = {BLIND_RUN: (BLIND_STRONGEST,), FRIENDLY_RUN: FRIENDLY_AUTOATTACK}
"""Where a run's AutoAttack is, if it is not in the run's own folder."""
CHOICES: dict[str, tuple[str, str, str]] = {
    **{name: (f"blind-fashion-mnist-{row}", BLIND_RUN, "autoattack 0.1") for name, row in BLIND_ROWS.items()},
    **{
        name.replace("-", "_"): (f"friendly-fashion-mnist-{name}-0.1", FRIENDLY_RUN, "autoattack 0.1")
        for name in ("madry", "trades", "mart", "friendly", "friendly-trades", "friendly-mart")
    },
    **{name: (f"spat-fashion-mnist-{name}", SPAT_RUN, "autoattack 0.1") for name in ("alp", "gairat", "mail", "spat")},
    "bilateral": ("bilateral-fashion-mnist-r-mc-la", BILATERAL_RUN, "autoattack"),
    "smd": ("smd-table2b-smd", SMD_RUN, "autoattack 0.03137"),
    "mma": ("smd-table2b-mma12", SMD_BEFORE, "autoattack 0.03137"),
    "dra": ("dra-fashion-mnist-dra", DRA_RUN, "autoattack 0.05"),
}
"""By method: a recipe, the run that trained it, and AutoAttack's figure at the budget of that run."""


REFERENCES = {
    BILATERAL_RUN: {"standard": "bilateral-fashion-mnist-undefended", "madry": "bilateral-fashion-mnist-madry"},
    SPAT_RUN: {"madry": "spat-fashion-mnist-madry"},
    **{run: {"standard": "smd-table2b-std", "madry": "smd-table2b-at8"} for run in (SMD_RUN, SMD_BEFORE)},
    DRA_RUN: {"standard": "dra-fashion-mnist-standard"},
}
"""By run: the recipes of baselines that were trained in it beside the methods of `CHOICES`."""
CHANGED = ("friendly_mart", "friendly_trades", "mart", "trades")
"""Methods whose code or recipe has changed since their run."""
SAME = 0.1
"""The budget of AutoAttack in most runs."""


def choices_block(results: Path) -> list[str]:
    """What every method cost and gave, in a group for each run: runs differ, so only rows of one group compare."""
    took = _took((results / COSTS).read_text(encoding="utf-8"))
    letters = dict(zip(dict.fromkeys(run for _, run, _ in CHOICES.values()), "ABCDEFG", strict=True))
    groups: dict[bool, list[str]] = {False: [], True: []}
    for run, letter in letters.items():
        chosen = {name: (recipe, attack) for name, (recipe, where, attack) in CHOICES.items() if where == run}
        attack = next(iter(chosen.values()))[1]
        baselines = {name: (recipe, attack) for name, recipe in REFERENCES.get(run, {}).items()}
        for place, (name, (recipe, attack)) in enumerate({**baselines, **chosen}.items()):
            row = _row(recipe, "clean", [run], results)
            strongest = _row(recipe, attack, [run, *AUTOATTACK.get(run, ())], results).get(attack)
            figures = [figure_text(figure.measured, figure) for figure in (row.get("clean"), strongest)]
            budget = float(attack.partition(" ")[2] or row.recipe.evaluation.rpartition("-")[2])
            cost = f"{took[name] / took['standard']:.0f} x" if name in took else ""
            shown = f"`{name.replace('_', '-')}`{' *' if name in CHANGED else ''}"
            cells = ["" if place else f"**{letter}**", shown, _budget(budget), cost, *figures]
            groups[budget < SAME].append(f"| {' | '.join(cells)} |")
    head = [
        "| run | method | budget | time of training | clean | AutoAttack |",
        "| :-: | --- | --: | --: | --: | --: |",
    ]
    missing = ", ".join(f"`{name.replace('_', '-')}`" for name in METHODS if name not in CHOICES)
    lines = [f"Attacked at {SAME}:", "", *head, *groups[False], ""]
    lines += ["Attacked at smaller budgets: **do not compare** with the table above.", "", *head, *groups[True], ""]
    return [*lines, f"`*`: the method has changed since. Not in these runs: {missing}."]


def _budget(eps: float) -> str:
    grey = eps * 255
    return f"{round(grey)}/255" if math.isclose(grey, round(grey), rel_tol=1e-3) else f"{eps:g}"


def _took(text: str) -> dict[str, float]:
    """Seconds of two epochs on LeNet-5, by method, from the table of estimates."""
    rows = re.findall(r"^\| (\w+) \| lenet5 \| [^|]+\|[^|]+\|[^|]+\| ([\d.]+) \|", text, re.MULTILINE)
    return {name: float(seconds) for name, seconds in rows}


def block(name: str, page: str, results: Path) -> list[str]:
    """The lines of the block called `name` on the page called `page`."""
    if name.startswith("measured"):
        return measured_block(name.removeprefix("measured").lstrip("_") or page, results)
    if name == "speed":
        whole = (*front.LIBRARIES, "as published"), [*front.MEASURED, *front.OWN]
        return front.speed_block(results) if page == "README" else front.speed_block(results, *whole)
    if name == "training":
        return front.training_block(results)
    if name == "choices":
        return choices_block(results)
    return all_verdicts(results) if page == "reproduction" else verdict_block(page, results)


def paths(root: Path) -> list[Path]:
    """The pages that have blocks."""
    docs = root / "docs"
    others = [root / "README.md", *(docs / f"{name}.md" for name in ("speed", "robustness", "reproduction"))]
    methods = [docs / "methods" / f"{name}.md" for name in ("index", *sorted({*CLAIMS, *ALONE}))]
    return [*others, *methods]


def rewritten(path: Path, results: Path) -> str:
    """A page with its blocks as the files under `results` have them."""
    return with_blocks(path.read_text(encoding="utf-8"), lambda name: block(name, path.stem, results))


def with_blocks(text: str, lines: Callable[[str], Sequence[str]]) -> str:
    """`text` with the `lines` of every block, by its name."""

    def written(found: re.Match[str]) -> str:
        return "\n".join([f"<!-- generated: {found[1]} -->", "", *lines(found[1]), "", "<!-- end -->"])

    return re.sub(r"<!-- generated: (\w+) -->.*?<!-- end -->", written, text, flags=re.DOTALL)
