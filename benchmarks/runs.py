"""What ``fastadv reproduce`` left in a folder, and the verdicts on what was printed."""

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import yaml

from fastadv import recipes
from fastadv.commands._settings import Training
from fastadv.recipes import Figure, Recipe, figure_name
from fastadv.report import read_figures

from . import verdicts
from .verdicts import INCOMPARABLE, MUCH_SHORTER, NORMS, POINTS, VERDICTS, Interval

TEST_SAMPLES = {"fashion-mnist": 10_000, "mnist": 10_000, "cifar10": 10_000, "cifar100": 10_000, "svhn": 26_032}
"""Of the data sets that papers print figures of; all are taken to be in print."""
PARTS = {"mnist-10k": ("mnist", 8_000, 2_000)}
"""Data that are part of such a set: of which, and how many training and test samples they have."""
DEFAULTS = {setting.name: setting.default for setting in dataclasses.fields(Training)}

load = cache(recipes.load)


@dataclass(frozen=True)
class Row:
    """A recipe that was run: its `figures`, over all seeds if there are several, and what of the training `changed`.

    `samples`: of the test. `changed`: by the setting's name, as run and as printed. `seeds`: how many trainings.
    `epochs`: of each, as run.
    `outcomes`: every test sample's part in a figure, in the figure's unit, where the run kept them; means over seeds.
    """

    name: str
    recipe: Recipe
    figures: list[Figure]
    samples: int
    changed: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    seeds: int = 1
    outcomes: Mapping[str, np.ndarray] = field(default_factory=dict)
    epochs: int = 0

    def get(self, name: str) -> Figure | None:
        return next((figure for figure in self.figures if figure.name == name), None)

    @property
    def deviations(self) -> list[str]:
        """What of the training `changed` that print does not leave open."""
        return [name for name, (value, _) in self.changed.items() if value not in self.recipe.also.get(name, ())]

    def verdict(self, figure: Figure) -> str:
        """That on a figure, or nothing where none was printed."""
        if figure.printed is None:
            return ""
        if verdicts.bearing(self.deviations, "figure"):
            return INCOMPARABLE
        difference = figure.measured - figure.printed
        tolerance = POINTS if is_percent(figure.name) else NORMS * abs(figure.printed)
        chance = (difference, difference)
        if is_gap(figure.name) and figure.name in self.outcomes:
            outcomes = self.outcomes[figure.name]
            low, high = verdicts.paired(outcomes, np.zeros_like(outcomes))
            chance = low - figure.printed, high - figure.printed
        elif is_percent(figure.name) and not is_gap(figure.name):
            samples = TEST_SAMPLES[self.recipe.training["data"]]
            chance = verdicts.independent(figure.measured, self.samples, figure.printed, samples)
        printed = next(iter(self.recipe.over.values()), 1), figure.deviation
        half = verdicts.of_seeds((self.seeds, figure.spread), printed, default=tolerance)
        return verdicts.of_figure(difference, verdicts.widened(difference, chance, half), tolerance)


@dataclass(frozen=True)
class Ordering:
    """What was printed of two rows in one column: `printed` and `measured` are first less second."""

    figure: str
    first: Row
    second: Row
    printed: float
    measured: float
    verdict: str


def is_percent(name: str) -> bool:
    return not (name.endswith("norm") or name.startswith("gradient"))


def is_gap(name: str) -> bool:
    """Whether a figure is the difference of two accuracies, which may be negative."""
    return name.startswith("gap ")


def chance(first: Row, second: Row, name: str) -> Interval:
    """What chance leaves of the measured difference of two rows in the figure called `name`."""
    a, b = first.get(name), second.get(name)
    difference = a.measured - b.measured
    percent = is_percent(name)
    if name in first.outcomes and name in second.outcomes:
        interval = verdicts.paired(first.outcomes[name], second.outcomes[name])
    elif percent and not is_gap(name):
        interval = verdicts.independent(a.measured, first.samples, b.measured, second.samples)
    else:
        interval = difference, difference
    default = POINTS if percent else NORMS * max(abs(a.measured), abs(b.measured))
    half = verdicts.of_seeds((first.seeds, a.spread), (second.seeds, b.spread), default=default)
    return verdicts.widened(difference, interval, half)


def table_of(row: Row) -> tuple[str, str]:
    """Which printed table a row belongs to: rows of one are ordered."""
    return re.match(r"[a-z]+(-table[\d.]+[a-z]?)?", row.name)[0], row.recipe.training["data"]


def orderings(rows: Sequence[Row]) -> list[Ordering]:
    """Every pair of rows of one printed table, in every column in which both are printed and differ."""
    found = []
    for first, second in combinations(rows, 2):
        if table_of(first) != table_of(second):
            continue
        bearing = verdicts.bearing([*first.deviations, *second.deviations], "ordering")
        for a in first.figures:
            b = second.get(a.name)
            if b is None or a.printed is None or b.printed is None or a.printed == b.printed:
                continue
            printed = a.printed - b.printed
            verdict = INCOMPARABLE if bearing else verdicts.of_ordering(printed, chance(first, second, a.name))
            found.append(Ordering(a.name, first, second, printed, a.measured - b.measured, verdict))
    return found


def counts(rows: Sequence[Row]) -> tuple[Counter[str], Counter[str]]:
    """How many figures, and how many orderings, have which verdict."""
    figures = Counter(verdict for row in rows for figure in row.figures if (verdict := row.verdict(figure)))
    return figures, Counter(ordering.verdict for ordering in orderings(rows))


def in_words(found: Counter[str]) -> str:
    return ", ".join(f"{found[verdict]} {verdict}" for verdict in VERDICTS if found[verdict])


def folders(results: Path) -> list[Path]:
    """What ``fastadv reproduce`` wrote and finished: the folders in `results`/reproduce."""
    return sorted(path.parent for path in (results / "reproduce").glob("*/config.yaml"))


@cache
def read(folder: Path) -> tuple[Row, ...]:
    """The recipes in a folder of ``fastadv reproduce``; of several seeds, outcomes are in seed-N/RECIPE."""
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    found = {path.relative_to(folder).parts[0] for path in folder.rglob("figures.csv")}
    names = sorted(name for name in found if not name.startswith("seed-"))
    rows = []
    for recipe in (variant for name in names for variant in load(name).variants()):
        if (path := folder / recipe.name / "figures.csv").is_file():
            data = settings.get("data") or recipe.training["data"]
            whole = PARTS[data][2] if data in PARTS else TEST_SAMPLES[data]
            samples, seeds = settings["limit"] or whole, settings.get("seeds", 1)
            runs = [folder, *folder.glob("seed-*")][seeds > 1 :]
            outcomes = _outcomes([run / recipe.name / "outcomes.npz" for run in runs])
            changed = changes(recipe, settings)
            figures = with_averages(recipe, read_figures(path))
            epochs = settings.get("epochs") or recipe.training.get("epochs", 0)
            rows.append(Row(recipe.name, recipe, figures, samples, changed, seeds, outcomes, epochs))
    return tuple(rows)


def with_averages(recipe: Recipe, figures: list[Figure]) -> list[Figure]:
    """`figures` of a run from before recipes had averages, with those of which all parts are there."""
    have = {figure.name: figure for figure in figures}
    added = []
    for what, printed in recipe.printed.get("average", {}).items():
        attacks = [key for key in recipe.printed if key == what or key.startswith(f"{what}-")]
        names = ["clean", *(figure_name(key, budget) for key in attacks for budget in recipe.printed[key])]
        name = figure_name("average", what)
        if name not in have and all(part in have and have[part].spread is None for part in names):
            added.append(Figure(name, fmean(have[part].measured for part in names), printed))
    return [*figures, *added]


def _outcomes(paths: Sequence[Path]) -> dict[str, np.ndarray]:
    """Means over several files, or nothing where one is missing."""
    if not all(path.is_file() for path in paths):
        return {}
    files = [_arrays(path) for path in paths]
    return {name: np.mean([file[name] for file in files], axis=0) for name in files[0]}


def _arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return {name: array.astype(float) for name, array in file.items()}


def changes(recipe: Recipe, settings: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What a run's `settings` changed of what `recipe` prints, by the setting's name: as run and as printed.

    Epochs are left out where they are nearly those in print, see `MUCH_SHORTER`.
    """
    changed: dict[str, tuple[Any, Any]] = {}
    for name in ("data", "model", "epochs", "batch_size", "per_class", "lr", "optimizer", "precision"):
        value, printed = settings.get(name), recipe.training.get(name, DEFAULTS[name])
        if name == "data" and value in PARTS and PARTS[value][0] == printed:
            changed["part"] = PARTS[value][1], 0
            continue
        if value is None or value == printed or (name == "epochs" and value >= MUCH_SHORTER * printed):
            continue
        changed[name] = value, printed
    if (rise := settings.get("eps_warmup")) and hasattr(recipe.build_method(), "eps_warmup"):
        changed["eps_warmup"] = rise, recipe.options.get("eps_warmup", 0)
    if settings["limit"]:
        changed["limit"] = settings["limit"], 0
    return changed


def about(rows: Sequence[Row]) -> str:
    """What was changed for all of `rows`, in words."""
    words = []
    for name in rows[0].changed:
        pairs = [row.changed[name] for row in rows if name in row.changed]
        values, printed = {value for value, _ in pairs}, sorted({before for _, before in pairs})
        if len(pairs) < len(rows) or len(values) > 1:
            continue
        before = f"{printed[0]}" if len(printed) == 1 else f"{printed[0]} to {printed[-1]}"
        words.append(_changed(name, pairs[0][0], before))
    return ", ".join(words)


def _changed(name: str, value: Any, before: str) -> str:
    if name == "limit":
        return f"{value:,} test images"
    if name == "part":
        return f"{value:,} training images"
    if name == "eps_warmup":
        return f"budgets that rise over {value} epochs"
    if name == "per_class":
        return f"{value:,} training images of each class"
    if name == "epochs":
        return f"{value} epoch{'s' * (value != 1)} instead of {before}"
    words = {"lr": "learning rate", "model": "network", "batch_size": "batch size", "optimizer": "optimiser"}
    return f"{words.get(name, name)} {value} instead of {before}"


LIKE = {
    "bilateral-fashion-mnist-madry": "bilateral-table5-madry",
    "bilateral-fashion-mnist-r-fgsm": "bilateral-table5-r-fgsm",
    "bilateral-fashion-mnist-r-mc": "bilateral-table5-r-mc",
    "bilateral-fashion-mnist-r-mc-la": "bilateral-table5-r-mc-la",
    "bilateral-fashion-mnist-r-mc-ls": "bilateral-table5-r-mc-ls",
    "friendly-fashion-mnist-friendly-0.1": "friendly-table1-fat-8",
    "friendly-fashion-mnist-friendly-mart-0.1": "friendly-table4-fat-8",
    "friendly-fashion-mnist-friendly-trades-0.1": "friendly-table2-fat-6-8",
    "friendly-fashion-mnist-madry-0.1": "friendly-table1-madry",
    "friendly-fashion-mnist-mart-0.1": "friendly-table4-mart",
    "friendly-fashion-mnist-trades-0.1": "friendly-table2-trades-6",
    "spat-fashion-mnist-alp": "spat-table3.4-alp",
    "spat-fashion-mnist-gairat": "spat-table3.4-gairat",
    "spat-fashion-mnist-madry": "spat-table3.4-madry",
    "spat-fashion-mnist-mail": "spat-table3.4-mail",
    "spat-fashion-mnist-mart": "spat-table3.4-mart",
    "spat-fashion-mnist-spat": "spat-table3.4-spat",
    "spat-fashion-mnist-trades": "spat-table3.4-trades",
}
"""Recipes on data that a paper does not have, and the printed row of the same method on data that it has. Budgets are
0.1 and 8/255, the usual ones of the two. DRA's are missing: they compare two attacks of unequal strength."""


def carried(rows: Sequence[Row]) -> list[Row]:
    """Those of `rows` that have a printed row in `LIKE`, beside its figures: same attack, the usual budget."""
    found = []
    for row in rows:
        if row.name not in LIKE:
            continue
        like = load(LIKE[row.name])
        printed = {key: next(iter(v.values())) if isinstance(v, dict) else v for key, v in like.printed.items()}
        figures = [replace(figure, printed=printed.get(figure.name.removesuffix(" 0.1"))) for figure in row.figures]
        found.append(replace(row, name=like.name, recipe=like, figures=figures, changed={}))
    return found
