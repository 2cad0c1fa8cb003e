"""``fastadv reproduce``."""

import csv
import dataclasses
import functools
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from .. import recipes, report
from ..data import Dataset, check_halves
from ..info import environment
from ..runs import Run, make_folder, write_text
from ..trainers import Method
from ._corruptions import CorruptionTest
from ._plan import TrainingPlan, plan_training, split
from ._settings import Data, Training, as_yaml, check_samples, listed
from ._terminal import console, drawn, progress, say
from ._train import History, train_one


@dataclass
class Reproduction(Data):
    """How much of a published experiment to run, and what to change in it; by default nothing.

    Args:
        data: other data than the recipes', of which none are held out.
        model: another network than the recipes'.
        epochs: other epochs than the recipes'; milestones, and options of methods that are epochs, keep their places
            in the schedule.
        batch_size: samples a step.
        per_class: how many training samples of each class; 0 takes all. None are held out then.
        lr: another learning rate at the start.
        optimizer: another than the recipes', see fastadv train.
        precision: another than the recipes', see fastadv train.
        seed: added to the recipes' seeds, which are 0 but for networks trained twice.
        attacks: measure only these of the recipes' attacks, or corruptions, with commas between, and the clean
            accuracy.
        limit: how many test samples, from the first on; 0 takes all, as the papers do.
        at_once: test samples attacked at a time; it decides memory and speed only.
        out: the folder for runs and results, which must not exist; by default one under runs/.
        resume: go on in the folder --out, where it exists.
    """

    data: str | None = None
    model: str | None = None
    epochs: int | None = None
    batch_size: int | None = None
    per_class: int | None = None
    lr: float | None = None
    optimizer: str | None = None
    precision: str | None = None
    seed: int = 0
    attacks: str | None = None
    limit: int = 0
    at_once: int = 500
    out: str | None = None
    resume: bool = False

    def __post_init__(self) -> None:
        check_samples(self.limit, self.at_once)
        if self.resume and not self.out:
            raise ValueError("resume needs --out, the folder to go on in")

    def training(self, recipe: recipes.Recipe) -> Training:
        """The recipe's training, changed as asked."""
        names = ("data", "model", "epochs", "batch_size", "per_class", "lr", "optimizer", "precision")
        changed = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        settings = recipe.training | changed | {"seed": recipe.training.get("seed", 0) + self.seed}
        if self.data or self.per_class is not None:
            settings["held_out"] = 0
        if "milestones" in settings:
            settings["milestones"] = self.in_place(settings["milestones"], recipe)
        place = {"folder": self.folder, "download": self.download, "device": self.device}
        return Training(**settings, **place)

    def method(self, recipe: recipes.Recipe) -> Method:
        """The recipe's method, in the changed schedule."""
        method = recipe.build_method()
        moved = {name: self.in_place(getattr(method, name), recipe) for name in method.in_epochs}
        return dataclasses.replace(method, **moved)

    def in_place(self, epochs: int | list[int], recipe: recipes.Recipe) -> int | list[int]:
        """Where an epoch of the recipe's schedule, or a list of them, is in the changed one: 1 at the least, or 0."""
        if isinstance(epochs, list):
            return [self.in_place(epoch, recipe) for epoch in epochs]
        share = self.epochs / recipe.training["epochs"] if self.epochs else 1
        return max(min(1, epochs), round(epochs * share))


def list_recipes() -> None:
    """``fastadv reproduce --list``."""
    for recipe in recipes.select(["*"]):
        say(f"{recipe.name}: {recipe.row} ({recipe.paper}; {recipe.training['data']}, {recipe.training['model']})")
    for name, experiment in recipes.EXPERIMENTS.items():
        say(f"{name}: {(sys.modules[experiment.__module__].__doc__ or name).splitlines()[0]}")


def reproduce(names: Sequence[str], options: Reproduction) -> None:
    """``fastadv reproduce NAME ...``: trains the recipes, after the networks that they need, and measures."""
    if not names:
        raise ValueError("give the name of a recipe, or several; fastadv reproduce --list has them")
    experiments = [name for name in names if name in recipes.EXPERIMENTS]
    chosen = recipes.select([name for name in names if name not in recipes.EXPERIMENTS])
    if options.attacks is not None:
        chosen = [recipe.only(listed(options.attacks)) for recipe in chosen]
    if experiments and dataclasses.replace(options, out=None, resume=False, epochs=None) != Reproduction():
        raise ValueError(f"{experiments[0]} can be changed by epochs and out only: run it by itself")
    first = recipes.select([name for recipe in chosen for name in recipe.before()])
    rows = [variant for recipe in chosen for variant in recipe.variants()]
    trainings = {recipe.name: options.training(recipe) for recipe in (*first, *rows)}
    place = {"folder": options.folder, "download": options.download, "device": options.device}

    @functools.cache
    def training_data(data: str, per_class: int) -> Dataset:
        return Training(data=data, per_class=per_class, **place).training_data()

    @functools.cache
    def test_data(data: str) -> Dataset:
        found = Data(data=data, **place).load("test")
        return found.take(options.limit) if options.limit else found

    for recipe in (*first, *rows):
        training = trainings[recipe.name]
        data = training_data(training.data, training.per_class)
        check_halves(data, test_data(training.data))
        plan_training(recipe.name, options.method(recipe), training, data)

    out = Path(options.out or Path("runs", f"reproduce-{time.strftime('%Y%m%d-%H%M%S')}"))
    whole = Run(out, as_yaml(options, names=list(names)), environment(), options.resume)
    folder = whole.folder
    for name in experiments:
        run_experiment(name, options.epochs, folder / name)
    networks: dict[str, nn.Module] = {}
    histories: dict[str, History] = {}
    for recipe in (*first, *rows):
        name, training = recipe.network or recipe.name, trainings[recipe.name]
        if name not in networks:
            method = options.method(recipe)
            if recipe.weights:
                training = dataclasses.replace(training, weights=str(folder / recipe.weights))
            run = Run(folder / name, as_yaml(method, training), environment(), resume=True)
            data = training_data(training.data, training.per_class)
            if not training.patience:  # what is held out chooses nothing: it need not be measured every epoch
                data, training = split(data, training.held_out)[0], dataclasses.replace(training, held_out=0)
            networks[name], histories[name] = train_one(
                TrainingPlan(name, method, training, *split(data, training.held_out)), run
            )
        networks[recipe.name], histories[recipe.name] = networks[name], histories[name]
    results = {}
    for recipe in rows:
        training = trainings[recipe.name]
        test = test_data(training.data)
        results[recipe.name] = measure_recipe(recipe, training, networks, test, options, folder / recipe.name)
        console.print(report.figures_table(recipe, results[recipe.name], settings_in_words(training, options)))
    if results:
        notes = [f"{name}: {settings_in_words(trainings[name], options)}." for name in results]
        write_text(folder / "results.md", report.markdown(results, notes))
        say(f"written: {folder / 'results.md'}, and a folder a recipe beside it")
    for recipe in (recipe for recipe in chosen if recipe.vary):
        written = drawn(report.plot_variants, recipe, results, folder / f"{recipe.name}.png")
        if "gradients" in histories[recipe.variants()[0].name][0]:
            written += drawn(report.plot_variant_gradients, recipe, histories, folder / f"{recipe.name}-gradients.png")
        say("written: " + ", ".join(str(path) for path in written))


def run_experiment(name: str, epochs: int | None, folder: Path) -> None:
    """Runs an experiment that has a program of its own, unless it has ended before: ``results.md`` is written last."""
    if (folder / "results.md").is_file():
        say(f"{folder} has the table of {name} already")
        return
    with progress(name, "epochs") as step:
        rows = recipes.EXPERIMENTS[name](folder, epochs=epochs, on_step=step)
    console.print(report.records_table(rows, name))
    write_text(folder / "results.md", records_markdown(rows))
    say("written: " + ", ".join(str(path) for path in sorted(folder.glob("[!.]*"))))


def records_markdown(rows: Sequence[Any]) -> str:
    """Named tuples as a Markdown table."""
    cells = [rows[0]._fields, ["---"] * len(rows[0]), *([_cell(value) for value in row] for row in rows)]
    return "".join(f"| {' | '.join(row)} |\n" for row in cells)


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def settings_in_words(training: Training, options: Reproduction) -> str:
    """How a recipe was run, for captions."""
    of_each = f", {training.per_class} training samples a class" if training.per_class else ""
    tested = f"{options.limit} test samples" if options.limit else "all test samples"
    changed = {"of": options.optimizer, "at": options.lr and f"lr {options.lr:g}", "in": options.precision}
    trained = " ".join([f"{training.epochs} epochs", *(f"{word} {value}" for word, value in changed.items() if value)])
    return f"{training.model} on {training.data}{of_each}, {trained}, seed {training.seed}, {tested}"


def measure_recipe(
    recipe: recipes.Recipe,
    training: Training,
    networks: Mapping[str, nn.Module],
    test: Dataset,
    options: Reproduction,
    folder: Path,
) -> list[recipes.Figure]:
    """The figures of a trained recipe, from ``figures.csv`` in its folder where they are there already."""
    path = folder / "figures.csv"
    make_folder(folder)  # not there where the network is another recipe's
    if (found := measured_before(path)) is None:
        place = {"data": training.data, "folder": options.folder, "device": options.device, "limit": options.limit}

        def sets(corruption: str) -> Iterator[tuple[str, int, Dataset]]:
            chosen = CorruptionTest(corruptions=corruption, at_once=options.at_once, **place)
            return chosen.sets(None if chosen.published() else test)

        with progress(f"measuring {recipe.name}", "figures") as step:
            settings = {"sets": sets, "batch_size": options.at_once, "on_step": step}
            found = recipes.measure(recipe, networks[recipe.name], test, networks, **settings)
        write_text(path, report.figures_csv(found))
    return found


def measured_before(path: Path) -> list[recipes.Figure] | None:
    """The figures in a ``figures.csv``; None where there is none, or, with a warning, none that can be read."""
    if not path.is_file():
        return None
    try:
        if found := report.read_figures(path):
            return found
        reason = "it holds none"
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        reason = f"{type(error).__name__}: {error}"
    warnings.warn(f"{path} is damaged ({reason}): its figures are measured again", stacklevel=2)
    return None
