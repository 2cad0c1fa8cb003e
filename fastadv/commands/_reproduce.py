"""``fastadv reproduce``."""

import copy
import csv
import dataclasses
import functools
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from .. import recipes, report
from ..data import Dataset, check_halves
from ..evaluation import features, last_layers
from ..info import environment
from ..runs import BEST, CONFIG, Run, make_folder, replace_file, write_text
from ..trainers import Method, Stopped
from ._corruptions import CorruptionTest
from ._jobs import Job, check_executor, command_line, run_all
from ._networks import load_weights
from ._plan import TrainingPlan, plan_training, split
from ._settings import Data, Training, as_yaml, check_samples, defaults, listed, of_classes
from ._terminal import asked_to_stop, console, drawn, progress, say
from ._train import History, train_one


@dataclass
class Reproduction(Data):
    """How much of a published experiment to run, and what to change in it; by default nothing.

    Args:
        data: other data. No samples are held out then.
        model: another network.
        epochs: another number of epochs. Milestones, and options of methods that are epochs, keep their places in the
            schedule.
        batch_size: samples a step.
        per_class: training samples of each class, 0 for all. No samples are held out then.
        lr: another learning rate at the start.
        optimizer: another optimizer, see fastadv train.
        eps_warmup: epochs of this run over which the budget of training rises to the attack's. Networks that are
            trained without attacks are trained as ever.
        precision: another precision, see fastadv train.
        seed: added to the recipes' seeds. These are 0 but for networks trained twice.
        seeds: runs with successive seeds. Each has a folder within --out. Means and standard deviations are reported,
            or medians where the paper has medians.
        attacks: measure only these attacks or corruptions. The clean accuracy is measured, too.
        limit: test samples, 0 for all as in the papers. The first ones are taken.
        at_once: test samples attacked at a time. It changes memory and speed only.
        out: new folder for runs and results. By default one under runs/.
        resume: continue in the folder --out, where it exists.
        executor: where seeds are run: local, slurm or dask:ADDRESS, such as dask:tcp://host:8786. On a cluster each
            seed is a job. Its machines must see the same files and the same Python.
    """

    data: str | None = None
    model: str | None = None
    epochs: int | None = None
    batch_size: int | None = None
    per_class: int | None = None
    lr: float | None = None
    optimizer: str | None = None
    eps_warmup: int | None = None
    precision: str | None = None
    seed: int = 0
    seeds: int = 1
    attacks: str | None = None
    limit: int = 0
    at_once: int = 500
    out: str | None = None
    resume: bool = False
    executor: str = "local"

    def __post_init__(self) -> None:
        check_samples(self.limit, self.at_once)
        check_executor(self.executor)
        if self.seeds < 1:
            raise ValueError(f"seeds must be at least 1, got {self.seeds}")
        if self.resume and not self.out:
            raise ValueError("resume needs --out, the folder to continue in")
        if self.executor != "local" and self.seeds == 1:
            raise ValueError(f"executor {self.executor} runs a job a seed: give --seeds, or leave it out")

    def training(self, recipe: recipes.Recipe) -> Training:
        """The recipe's training, changed as asked."""
        names = ("data", "model", "epochs", "batch_size", "per_class", "lr", "optimizer", "precision")
        changed = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        settings = recipe.training | changed | {"seed": recipe.training.get("seed", 0) + self.seed}
        if self.data or self.per_class is not None:
            settings["held_out"] = 0
        for name in ("milestones", "keep_every", "warmup"):
            if name in settings:
                settings[name] = self.in_place(settings[name], recipe)
        place = {"folder": self.folder, "download": self.download, "device": self.device}
        return Training(**settings, **place)

    def method(self, recipe: recipes.Recipe) -> Method:
        """The recipe's method, in the changed schedule."""
        method = recipe.build_method()
        moved = {name: self.in_place(getattr(method, name), recipe) for name in method.in_epochs}
        if self.eps_warmup is not None and hasattr(method, "eps_warmup"):
            moved["eps_warmup"] = self.eps_warmup
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
    """``fastadv reproduce NAME ...``: trains the recipes, after the networks that they need, and measures.

    With several seeds, in a folder for each; what they found together is written beside them.
    """
    if not names:
        raise ValueError("give the name of a recipe, or several; fastadv reproduce --list has them")
    experiments = [name for name in names if name in recipes.EXPERIMENTS]
    chosen = recipes.select([name for name in names if name not in recipes.EXPERIMENTS])
    if options.attacks is not None:
        chosen = [recipe.only(listed(options.attacks)) for recipe in chosen]
    if experiments and dataclasses.replace(options, out=None, resume=False, epochs=None) != Reproduction():
        raise ValueError(f"{experiments[0]} takes only --epochs and --out: run it by itself")
    rows = [variant for recipe in chosen for variant in recipe.variants()]
    first = recipes.select([name for recipe in rows for name in recipe.before()])
    trainings = {recipe.name: options.training(recipe) for recipe in (*first, *rows)}
    place = {"folder": options.folder, "download": options.download, "device": options.device}

    @functools.cache
    def training_data(data: str, classes: str, per_class: int) -> Dataset:
        return Training(data=data, classes=classes, per_class=per_class, **place).training_data()

    @functools.cache
    def test_data(data: str, classes: str) -> Dataset:
        found = Training(data=data, classes=classes, **place).load("test")
        return found.take(options.limit) if options.limit else found

    for recipe in (*first, *rows):
        training = trainings[recipe.name]
        data = training_data(training.data, training.classes, training.per_class)
        check_halves(data, test_data(training.data, training.classes))
        plan_training(recipe.name, options.method(recipe), training, data)

    out = Path(options.out or Path("runs", f"reproduce-{time.strftime('%Y%m%d-%H%M%S')}"))
    whole = Run(out, as_yaml(options, names=list(names)), environment(), options.resume, defaults(options))
    folder = whole.folder
    for name in experiments:
        run_experiment(name, options.epochs, folder / name)
    seeds = {options.seed: folder}
    if options.seeds > 1:
        seeds = {seed: folder / f"seed-{seed}" for seed in range(options.seed, options.seed + options.seeds)}
    each = {seed: dataclasses.replace(options, seed=seed, seeds=1, executor="local") for seed in seeds}
    try:
        if options.executor != "local":  # what follows finds all of it done, and reads it
            own = {seeds[seed]: each[seed] for seed in seeds}
            run_seeds(names, [*networks_of((*first, *rows), trainings, options).values()], own, options, folder)
        runs = [
            run_recipes(chosen, first, rows, each[seed], own, training_data, test_data) for seed, own in seeds.items()
        ]
    except Stopped:
        raise Stopped(f"stopped and saved: continue with the same command, --resume true and --out {folder}") from None
    if options.seeds == 1:
        return
    results, settings = {}, {}
    for recipe in rows:
        name = recipe.name
        results[name] = recipes.averaged(recipe, [run[name] for run in runs])
        settings[name] = f"{settings_in_words(recipe, options)}: {recipe.average} ± standard deviation"
        console.print(report.figures_table(recipe, results[name], settings[name]))
        make_folder(folder / name)
        write_text(folder / name / "figures.csv", report.figures_csv(results[name]))
    conclude(chosen, results, settings, folder)


def run_seeds(
    names: Sequence[str],
    networks: Sequence[str],
    runs: Mapping[Path, Reproduction],
    options: Reproduction,
    folder: Path,
) -> None:
    """Runs the recipes of `names` with the options of each folder of `runs`, as jobs that train `networks`.

    `options` and `folder` are those of them all. Raises Stopped where it was asked to, ValueError where jobs failed.
    """
    jobs = []
    for own, settings in runs.items():
        if not (own / CONFIG).is_file():
            make_folder(own)
            write_text(own / CONFIG, as_yaml(settings, names=list(names)))
        flags = ["--config", str(own / CONFIG), "--out", str(own), "--resume", "true"]
        command = command_line("reproduce", *names, *flags)
        voices = {f"{network}: epoch": f"{own.name}/{network}: epoch" for network in networks}
        jobs.append(Job(own.name, command, own, "results.md", voices))
    with asked_to_stop() as stop:
        failed = run_all(jobs, options.executor, folder, [{}] * len(jobs), stop)
        if stop():
            raise Stopped
    if failed:
        names = ", ".join(job.name for job in failed)
        raise ValueError(
            f"{len(failed)} of {len(jobs)} seeds failed ({names}): continue with --resume true --out {folder}"
        )


def run_recipes(
    chosen: Sequence[recipes.Recipe],
    first: Sequence[recipes.Recipe],
    rows: Sequence[recipes.Recipe],
    options: Reproduction,
    folder: Path,
    training_data: Callable[[str, str, int], Dataset],
    test_data: Callable[[str, str], Dataset],
) -> dict[str, list[recipes.Figure]]:
    """Trains the networks of `first` and of `rows`, the variants of `chosen`, in `folder`; the figures of each row."""
    trainings = {recipe.name: options.training(recipe) for recipe in (*first, *rows)}
    names = networks_of((*first, *rows), trainings, options)
    trained: dict[str, nn.Module] = {}
    networks: dict[str, nn.Module] = {}  # by recipe, of the epoch that it asks for
    histories: dict[str, History] = {}
    calibrations: dict[str, recipes.Calibration] = {}
    for recipe in (*first, *rows):
        name, training = names[recipe.name], trainings[recipe.name]
        if recipe.calibrate:
            source = trainings[recipe.calibrate["network"]]
            test = test_data(source.data, source.classes)
            calibrations[recipe.name] = calibrate(recipe, networks[recipe.calibrate["network"]], test, options, folder)
        if name not in trained:
            found = calibrations.get(recipe.name)
            method = options.method(recipe.at(found.eps) if found else recipe)
            if recipe.weights:
                training = dataclasses.replace(training, weights=str(folder / names[recipe.weights]))
            run = Run(folder / name, as_yaml(method, training), environment(), True, defaults(method, training))
            data = training_data(training.data, training.classes, training.per_class)
            rules = recipes.protocol(recipe.evaluation)
            if not chooses(recipe, training):  # what is held out need not be measured every epoch
                data, training = split(data, training.held_out)[0], dataclasses.replace(training, held_out=0)
            halves = split(data, training.held_out)
            plan = TrainingPlan(name, method, training, *halves, rules.label, training.extra_data(data))
            trained[name], histories[name] = train_one(plan, run)
        networks[recipe.name] = at_epoch(recipe, trainings[recipe.name], trained[name], folder / name)
        histories[recipe.name] = histories[name]
    results = {}
    for recipe in rows:
        training = trainings[recipe.name]
        test = test_data(training.data, training.classes)
        results[recipe.name] = measure_recipe(recipe, training, networks, test, options, folder / recipe.name)
        if recipe.features:
            show_features(recipe, networks[recipe.name], test, options, folder / recipe.name)
        console.print(report.figures_table(recipe, results[recipe.name], settings_in_words(recipe, options)))
    settings = {recipe.name: settings_in_words(recipe, options) for recipe in rows}
    for name in calibrations.keys() & settings.keys():
        settings[name] += f"; calibrated, {calibrations[name]}"
    conclude(chosen, results, settings, folder)
    for recipe in (recipe for recipe in chosen if recipe.vary):
        if "gradients" in histories[recipe.variants()[0].name][0]:
            path = folder / f"{recipe.name}-gradients.png"
            written = drawn(report.plot_variant_gradients, recipe, histories, path)
            say("written: " + ", ".join(str(path) for path in written))
    return results


def networks_of(
    rows: Sequence[recipes.Recipe], trainings: Mapping[str, Training], options: Reproduction
) -> dict[str, str]:
    """By recipe, which one trains its network: it, its `network`, or an earlier one of `rows` that trains the same."""
    trained: dict[str, str] = {}
    found = {}
    for recipe in rows:
        training = trainings[recipe.name]
        label = recipes.protocol(recipe.evaluation).label if chooses(recipe, training) else ""
        settings = as_yaml(options.method(recipe), training)
        key = repr((recipe.method, settings, recipe.weights, recipe.calibrate, label))
        found[recipe.name] = trained.setdefault(key, recipe.network or recipe.name)
    return found


def chooses(recipe: recipes.Recipe, training: Training) -> bool:
    """Whether figures of samples held out choose the epoch, or the last one."""
    return bool(training.patience) or recipe.epoch == "best"


def at_epoch(recipe: recipes.Recipe, training: Training, network: nn.Module, folder: Path) -> nn.Module:
    """The network of the recipe's epoch, in the changed schedule, from the run in `folder`; `network` is its last."""
    if not recipe.epoch or (recipe.epoch == "best" and not training.held_out):
        return network
    path = folder / BEST
    if recipe.epoch != "best":
        kept = recipe.epoch // recipe.training["keep_every"]
        every = training.keep_every
        path = folder / f"epoch-{every * min(kept, training.epochs // every):04d}.pt"
    found = copy.deepcopy(network)
    load_weights(found, training.model, path)
    return found


def conclude(
    chosen: Sequence[recipes.Recipe],
    results: Mapping[str, list[recipes.Figure]],
    settings: Mapping[str, str],
    folder: Path,
) -> None:
    """Writes the table of all `results`, run with `settings`, and draws those of the recipes that vary an option."""
    if results:
        write_text(folder / "results.md", report.markdown(results, [f"{name}: {settings[name]}." for name in results]))
        say(f"written: {folder / 'results.md'}, and a folder a recipe beside it")
    for recipe in (recipe for recipe in chosen if recipe.vary):
        written = drawn(report.plot_variants, recipe, results, folder / f"{recipe.name}.png")
        say("written: " + ", ".join(str(path) for path in written))
    for recipe in chosen:
        plots = {"curves": report.plot_curves} if recipe.curves() else {}
        plots |= {"histograms": report.plot_histograms} if recipe.histograms() else {}
        plots |= {"landings": report.plot_landings} if recipe.landings() else {}
        for kind, plot in plots.items():
            written = drawn(plot, recipe, results, folder / f"{recipe.name}-{kind}.png")
            say("written: " + ", ".join(str(path) for path in written))


def calibrate(
    recipe: recipes.Recipe, network: nn.Module, test: Dataset, options: Reproduction, folder: Path
) -> recipes.Calibration:
    """The calibration of `recipe`, from ``calibrations.json`` where it is there already, or one of the same attacks."""
    path = folder / "calibrations.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    key = json.dumps(recipe.calibrate, sort_keys=True)
    if key not in before:
        found = recipes.calibrate(recipe, network, test, batch_size=options.at_once)
        say(f"calibrated: {found}")
        before[key] = dataclasses.asdict(found)
        write_text(path, json.dumps(before, indent=2) + "\n")
    return recipes.Calibration(**before[key])


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


def settings_in_words(recipe: recipes.Recipe, options: Reproduction) -> str:
    """How a recipe was run, for captions."""
    training = options.training(recipe)
    of_each = f", {training.per_class} training samples a class" if training.per_class else ""
    tested = f"{options.limit} test samples" if options.limit else "all test samples"
    changed = {"of": options.optimizer, "at": options.lr and f"lr {options.lr:g}", "in": options.precision}
    if options.eps_warmup and hasattr(options.method(recipe), "eps_warmup"):
        changed["with"] = f"eps_warmup {options.eps_warmup}"
    last = training.seed + options.seeds - 1
    seed = f"seed {training.seed}" if options.seeds == 1 else f"seeds {training.seed} to {last}"
    trained = " ".join([f"{training.epochs} epochs", *(f"{word} {value}" for word, value in changed.items() if value)])
    return f"{training.model} on {training.data}{of_each}, {trained}, {seed}, {tested}"


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
        write_outcomes(folder / "outcomes.npz", found)
        write_text(path, report.figures_csv(found))
    return found


def show_features(
    recipe: recipes.Recipe, network: nn.Module, test: Dataset, options: Reproduction, folder: Path
) -> None:
    """Writes ``mixing.csv`` and draws the outputs of layers; of another network than the recipe's, of its last ones."""
    if (folder / "mixing.csv").is_file():
        return
    chosen = recipe.features
    test = of_classes(test, chosen.get("classes", "")).take(chosen["limit"])
    layers = last_layers(network) if options.model else chosen["layers"]
    with progress(f"looking into {recipe.name}", "batches") as step:
        attacks = recipe.feature_attacks()
        found = features(network, test, attacks, layers, batch_size=options.at_once, on_step=step)
    console.print(report.records_table(found.rows, f"{len(test)} test samples of {test.name}"))
    written = []
    for method in chosen["reductions"]:
        written += drawn(report.plot_features, found, test.classes, method, folder / f"features_{method}.png")
    written.append(report.write_records(found.rows, folder / "mixing.csv"))
    say("written: " + ", ".join(str(path) for path in written))


def write_outcomes(path: Path, figures: Sequence[recipes.Figure]) -> None:
    """Every test sample's part in each figure, by its name, in half precision: what pairs two rows by sample."""
    kept = {figure.name: figure.outcomes.numpy().astype("float16") for figure in figures if figure.outcomes is not None}
    replace_file(path, lambda file: np.savez_compressed(file, **kept))


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
