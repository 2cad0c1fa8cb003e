"""One HTML page of many runs, with nothing outside it, and its figures as files."""

import base64
import itertools
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ..runs import names_apart, write_text
from ._captions import (
    AA,
    BAND,
    CORRUPTIONS,
    MARGINS,
    OVER,
    SMOOTHED,
    TRANSFER,
    attack_notes,
    own_caption,
    training_caption,
)
from ._certified import Band, plot_band, plot_smoothed
from ._compare import (
    Grid,
    Published,
    Tested,
    comparison,
    corruptions,
    every_attack,
    is_number,
    plain,
    published,
    settings,
)
from ._folders import RunFolder, folder_of, labels
from ._plots import plot_aa_curves, plot_bars, plot_distances, plot_heat_map, plot_lines
from ._seeds import SEEDS, over_seeds
from ._verdict import verdict

_NO_CURVE = ("epoch", "seconds", "images_per_second")
_MIME = {".png": "image/png", ".svg": "image/svg+xml"}


@dataclass(frozen=True)
class Picture:
    """A figure in the page: its caption, what to `read` from it, the files of its numbers, and itself as a data URI."""

    caption: str
    read: str
    sources: list[Path]
    uri: str


@dataclass
class Section:
    """A part of the page; its `verdict` stands at the top of it all. `findings`: model, check and what it found."""

    title: str
    note: str = ""
    verdict: str = ""
    grids: list[Grid] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    findings: list[tuple[str, str, str]] = field(default_factory=list)


def write_report(runs: Sequence[RunFolder], folder: Path) -> Path:
    """``report.html`` of `runs`, and every figure drawn for it as PNG and SVG beside it.

    The page holds its figures, style and script, and asks for nothing from elsewhere. Raises ValueError where files of
    a run do not fit each other.
    """
    page = Page(runs, folder)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    path = folder / "report.html"
    write_text(path, environment.get_template("page.html").render(page=page))
    return path


class Page:
    """What ``page.html`` shows."""

    def __init__(self, runs: Sequence[RunFolder], folder: Path):
        self.runs = [each for run in runs for each in run.all]
        self.tops, self.folder, self.names = runs, folder, labels(runs)
        shown = [self.label(run) for run in self.runs if run.history or run.figures or run.corruptions]
        self.order = list(dict.fromkeys([*(tested.label for tested in self.tested()), *shown]))
        self.files = {run.folder / name: digest for run in self.runs for name, digest in run.files.items()}
        self.drawn: set[str] = set()
        parts = (self.seeds, self.compared, self.published, self.transferred, self.corrupted, self.trained, self.own)
        self.sections = [section for part in parts for section in part() if section.grids or section.pictures]

    def draw(self, name: str, caption: str, read: str, sources: Sequence[Path], plot: Callable[[Path], Any]) -> Picture:
        """Draws a figure as SVG, which the page holds, and as PNG, in files called `name` as far as that can be."""
        name = re.sub(r"[^\w.-]+", "_", name)
        stem = next(each for i in itertools.count() if (each := f"{name}-{i}" if i else name) not in self.drawn)
        self.drawn.add(stem)
        plot(self.folder / f"{stem}.png")
        plot(self.folder / f"{stem}.svg")
        return Picture(caption, read, list(dict.fromkeys(sources)), _uri(self.folder / f"{stem}.svg"))

    def number(self, path: Path) -> int:
        """The place of a file among those that were read."""
        return list(self.files).index(path) + 1

    def label(self, run: RunFolder) -> str:
        """What the network is called that a run folder is about."""
        return self.called(run.config.get("checkpoint") or run.folder)

    def called(self, checkpoint: str | Path) -> str:
        """What the network of a checkpoint is called: as its run is, where that is reported too."""
        return self.names.get(folder_of(checkpoint), folder_of(checkpoint).name)

    def tested(self) -> list[Tested]:
        """Every model of every evaluation.json."""
        return [
            Tested(self.names[run.home(name)], run, name, self.called(source) if source else "")
            for run in self.runs
            for name in run.evaluations
            for source in [run.config.get("transfer_from")]
        ]

    def seeds(self) -> list[Section]:
        """A section for each comparison of methods that were trained several times."""
        runs = [run for run in self.runs if run.summary]
        return [Section(f"Means over seeds: {run.folder}", SEEDS, grids=[over_seeds(run)]) for run in runs]

    def compared(self) -> list[Section]:
        """A section for each test set: its table, AA curves, margins, and accuracies over budgets and steps."""
        groups: dict[str, list[Tested]] = {}
        for tested in self.tested():
            groups.setdefault(settings(tested), []).append(tested)
        sections = []
        for models in groups.values():
            about = models[0].about
            title = f"{len(models[0].right)} test samples of {about['data']}"
            away = "true label" if about["label"] == "true" else "model's own prediction"
            note = f"Attacks move away from the {away}. Below an accuracy, its 95 % Wilson interval, from attacks.csv."
            grids = [comparison(f"Accuracy in % on {title}", models), every_attack(models)]
            section = Section(f"Models on {title}", note, verdict(models), grids)
            section.findings = [
                (model.label, each["check"], each["text"]) for model in models for each in model.about["findings"]
            ]
            direct = [model for model in models if not model.source]
            for attack in dict.fromkeys(name for model in direct for name in model.curves):
                having = [model for model in direct if attack in model.curves]
                curves, files = {m.label: m.curves[attack] for m in having}, _files(having, "evaluation.npz")
                theta = about["theta"]
                caption = f"Accuracy where the perturbations of {attack} are cut off at eps"
                plot = partial(plot_aa_curves, curves, theta, attack, among=self.order)
                section.pictures.append(self.draw(f"aa_{attack}", caption, AA, files, plot))
                caption = f"Margins under {attack} of correctly classified samples, up to {2 * theta:g}"
                plot = partial(plot_distances, curves, 2 * theta, attack, among=self.order)
                section.pictures.append(self.draw(f"margins_{attack}", caption, MARGINS, files, plot))
            section.pictures += [*self.over_budgets(direct), *self.over_steps(direct), *self.certified(direct)]
            sections.append(section)
        return sections

    def over_budgets(self, models: Sequence[Tested]) -> list[Picture]:
        """Accuracy over eps, of attacks that were run at several; at 0 the clean accuracy."""
        lines: dict[str, dict[str, dict[float, float]]] = {}
        for model in models:
            for name, result in model.results.items():
                if "eps" in result["attack"]:
                    points = lines.setdefault(name, {}).setdefault(model.label, {0.0: 100 * model.accuracy("clean")})
                    points[result["attack"]["eps"]] = 100 * model.accuracy(name)
            for row in model.run.sweep:
                points = lines.setdefault(row["attack"], {}).setdefault(model.label, {})
                points[float(row["eps"])] = 100 * float(row["accuracy"])
        swept = [model.run.folder / "sweep.csv" for model in models if model.run.sweep]
        return self.draw_over("eps", "budget", lines, [*_files(models, "table.csv"), *swept])

    def over_steps(self, models: Sequence[Tested]) -> list[Picture]:
        """Accuracy over the steps of attacks; at 0 the clean accuracy."""
        lines: dict[str, dict[str, dict[float, float]]] = {}
        for model in models:
            for row in model.run.steps:
                points = lines.setdefault(row["attack"], {}).setdefault(model.label, {})
                points[float(row["steps"])] = 100 * float(row["accuracy"])
        files = [model.run.folder / "steps.csv" for model in models if model.run.steps]
        return self.draw_over("steps", "steps", lines, files)

    def certified(self, models: Sequence[Tested]) -> list[Picture]:
        """The band of robust accuracy of each norm, and the certified accuracy of smoothed classifiers."""
        bands: dict[str, dict[str, Band]] = {}
        smoothed: dict[str, np.ndarray] = {}
        for model in models:
            for norm, radii, attacked in model.certificates("the network").values():
                bands.setdefault(norm, {})[model.label] = Band(radii, attacked)
            for _, radii, _ in model.certificates("smoothed").values():
                smoothed[model.label] = radii
        files = _files([model for model in models if model.about.get("certificates")], "evaluation.npz")
        pictures = [
            self.draw(
                f"certified_{norm}",
                f"Both sides of the robust accuracy in {norm}: certified and attacked",
                BAND,
                files,
                partial(plot_band, each, norm, among=self.order),
            )
            for norm, each in bands.items()
        ]
        if smoothed:
            caption, plot = (
                "Certified accuracy of the smoothed classifier",
                partial(plot_smoothed, smoothed, among=self.order),
            )
            pictures.append(self.draw("certified_smoothed", caption, SMOOTHED, files, plot))
        return pictures

    def draw_over(
        self, axis: str, what: str, lines: dict[str, dict[str, dict[float, float]]], files: Sequence[Path]
    ) -> list[Picture]:
        """A picture for each attack of accuracies by model and place on the `axis`, where there are two besides 0."""
        return [
            self.draw(
                f"{axis}_{attack}",
                f"Accuracy under {attack} over its {what}",
                OVER[axis],
                files,
                partial(plot_lines, of_models, axis, f"accuracy under {attack}, %", percent=True, among=self.order),
            )
            for attack, of_models in lines.items()
            if any(len(points) > 2 for points in of_models.values())
        ]

    def published(self) -> list[Section]:
        """A section for each folder of ``fastadv reproduce`` and the data of its recipes."""
        groups: dict[tuple[str, str], list[Published]] = {}
        for top in self.tops:
            for run in (run for run in top.all if run.figures):
                key = str(top.folder), run.config.get("data") or ""
                groups.setdefault(key, []).append(Published(self.label(run), run))
        sections = []
        for (folder, data), models in groups.items():
            note = "Percent; norms and gradients as they are."
            section = Section(f"Published experiments{data and f' on {data}'}: {folder}", note)
            section.grids = [published(models)]
            lines: dict[str, dict[str, dict[float, float]]] = {}
            for model in models:
                clean = next((figure.measured for figure in model.run.figures if figure.name == "clean"), math.nan)
                for attack, figures in model.by_attack().items():
                    points = {float(what): figure.measured for what, figure in figures if is_number(what)}
                    if points and not re.search(" from |^gradient$| margin$", attack):
                        lines.setdefault(attack, {})[model.label] = {0.0: clean} | points
            section.pictures = self.draw_over(
                "eps", "budget", lines, [model.run.folder / "figures.csv" for model in models]
            )
            sections.append(section)
        return sections

    def transferred(self) -> list[Section]:
        """The heat map of accuracies under samples made on other networks."""
        values: dict[str, dict[str, float]] = {}
        files = []
        for model in (model for model in self.tested() if model.source):
            files.append(model.run.folder / "table.csv")
            for name in (name for name in model.results if name not in model.curves):
                values.setdefault(model.head(name), {})[model.label] = 100 * model.accuracy(name)
        for run in self.runs:
            models = run.config.get("models", []) if run.transfer else []
            called = {name: self.called(given) for name, given in zip(names_apart(models), models, strict=True)}
            for row in (row for row in run.transfer if row["source"]):
                attack = f"{row['attack']} from {called.get(row['source'], row['source'])}"
                target = called.get(row["target"], row["target"])
                values.setdefault(attack, {})[target] = 100 * float(row["accuracy"])
            files += [run.folder / "transfer.csv"] if run.transfer else []
            made = [figure for figure in run.figures if " from " in figure.name and "norm" not in figure.name]
            files += [run.folder / "figures.csv"] if made else []
            for figure in made:
                values.setdefault(figure.name, {})[self.label(run)] = figure.measured
        if not values:
            return []
        plot = partial(plot_heat_map, values)
        caption = "Accuracy in % under samples made on another network: a row an attack, a column a model"
        return [Section("Transfer", pictures=[self.draw("transfer", caption, TRANSFER, files, plot)])]

    def corrupted(self) -> list[Section]:
        """Accuracies under common corruptions, as a table and as bars."""
        runs = {self.label(run): run for run in self.runs if run.corruptions}
        if not runs:
            return []
        grid = corruptions(runs)
        bars = {label: {head: cell.value for head, cell in row.items()} for label, row in grid.rows.items()}
        plot = partial(plot_bars, bars, "accuracy, %, mean over severities", among=self.order)
        files = [run.folder / "corruptions.csv" for run in runs.values()]
        picture = self.draw("corruptions", grid.title, CORRUPTIONS, files, plot)
        return [Section("Common corruptions", grids=[grid], pictures=[picture])]

    def trained(self) -> list[Section]:
        """What training reported after every epoch, a figure a quantity."""
        runs = {self.label(run): run for run in self.runs if run.history}
        section = Section("Training")
        for key in dict.fromkeys(key for run in runs.values() for key in run.history[0] if key not in _NO_CURVE):
            having = {label: run for label, run in runs.items() if key in run.history[0]}
            if key == "lr" and len({row[key] for run in having.values() for row in run.history}) == 1:
                continue  # the same all the time
            percent = key.endswith("accuracy")
            lines = {
                label: {row["epoch"]: row[key] * (100 if percent else 1) for row in run.history}
                for label, run in having.items()
            }
            attacks = {label: _attack_of(run) for label, run in having.items()}
            notes = attack_notes(attacks) if key == "adversarial_accuracy" else {}
            unit = ", %" if percent else " per sample" if key == "gradients" else ""
            ylabel = _words(key).lower() + unit + ("\n(each run under its own attack)" if notes else "")
            plot = partial(plot_lines, lines, "epoch", ylabel, percent=percent, among=self.order, notes=notes)
            files = [run.folder / "metrics.jsonl" for run in having.values()]
            caption = f"{_words(key)} in training"
            section.pictures.append(self.draw(f"training_{key}", caption, training_caption(key, attacks), files, plot))
        return [section]

    def own(self) -> list[Section]:
        """What runs drew, such as example images and margins in training, and tables of other experiments."""
        pictures = [
            Picture(f"{_words(path.stem)} in {run.folder}", own_caption(path.stem), [path], _uri(path))
            for run in self.runs
            for path in run.pictures
        ]
        grids = [plain(run) for run in self.runs if run.table and not any(each.evaluations for each in run.all)]
        return [Section("Figures and tables of single runs", grids=grids, pictures=pictures)]

    def about(self, run: RunFolder) -> dict[str, str]:
        """Configuration, environment and full evaluation of a run, as text."""
        parts = {"config.yaml": run.config, "evaluation.json": run.evaluations}
        shown = {name: yaml.safe_dump(part, sort_keys=False) for name, part in parts.items() if part}
        return shown | ({"environment.json": json.dumps(run.environment, indent=2)} if run.environment else {})


def _attack_of(run: RunFolder) -> dict[str, Any]:
    """The class and the options of the attack that a run was trained with; empty where its settings name none."""
    attack = run.config.get("attack") or {}
    return {"class": attack["class_path"].rpartition(".")[2]} | attack.get("init_args", {}) if attack else {}


def _words(name: str) -> str:
    return name.capitalize().replace("_", " ")


def _files(models: Sequence[Tested], name: str) -> list[Path]:
    return [model.run.folder / name for model in models]


def _uri(path: Path) -> str:
    return f"data:{_MIME[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"
