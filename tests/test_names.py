"""Names are text: in a terminal, in figures, in CSV files and in the page; no markup, no formula, no path."""

import csv
import dataclasses
import io
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import matplotlib.figure
import pytest
import torch
from rich.console import Console
from test_report import evaluation, page_of, run_folder, toys
from test_table import entry
from toys import linear, samples

from fastadv import report
from fastadv.attacks import PGD
from fastadv.commands import _terminal
from fastadv.data import Dataset
from fastadv.evaluation import (
    AACurve,
    CorruptionAccuracy,
    Features,
    Finding,
    LandingRow,
    MixingRow,
    TransferRow,
)
from fastadv.recipes import Figure
from fastadv.report import Entry, StepsRow, _plots

HOSTILE = [
    "[red]",
    "[/x]",
    "a[b]c",
    r"$\frac{$",
    "$x$ and $y_",
    "<script>alert(1)</script>",
    '"quote",comma',
    "two\nlines",
    "&lt;",
    "_under",
    ":smile:",
    r"back\slash",
    "=1+1",
]
hostile = pytest.mark.parametrize("name", HOSTILE)


def assert_printed(shown: object, *names: str) -> None:
    """A console that knows markup prints them as they are, but for lines, which are broken within a column."""
    console = Console(file=io.StringIO(), width=1000)
    console.print(shown)
    assert [line for name in names for line in name.splitlines() if line not in console.file.getvalue()] == []


@hostile
def test_tables(name: str) -> None:
    it = entry(name, (Finding(name, name),))
    recipe = SimpleNamespace(name=name, row=name, paper=name, over={})
    found = CorruptionAccuracy({name: {1: 0.5}}, 0.6)
    for shown in (
        report.table([it, entry("b")], 0.08),
        report.attacks_table([it]),
        report.corruptions_table(found, {f"mean of {name}": [name]}, f"title {name}"),
        report.records_table([LandingRow(name, 1, 1, name, 0.5, None)], f"title {name}"),
        report.figures_table(recipe, [Figure(name, 50.0, 40.0)], f"settings {name}"),
    ):
        assert_printed(shown, name)
    about = dataclasses.replace(it.evaluation, data=name)
    assert_printed(report.table([Entry("it", about)], 0.08), name)


@hostile
def test_lines_and_progress(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system=None)
    monkeypatch.setattr(_terminal, "console", console)
    _terminal.say(f"{name}: it was", "yellow")
    assert console.file.getvalue() == f"{name}: it was\n"
    with _terminal.progress(f"training {name}", "steps") as step:
        step(1, 2, {"loss": 1.0})
    assert name.splitlines()[0] in console.file.getvalue().replace("it was", "")


@pytest.mark.usefixtures("rendered")
def test_figures(tmp_path: Path) -> None:
    """All hostile names at once, in each place of each figure."""
    place = iter(tmp_path / f"{i}.png" for i in range(100))
    everything, history = r"[/x] $\frac{$ _", [{"epoch": 1, "clean_accuracy": 0.5, "gradients": 3.0}]
    curve = AACurve(torch.tensor([True, False]), torch.tensor([[0.05], [0.1]]))
    curves = dict.fromkeys(HOSTILE, curve)
    x, y = samples(26, 1, 4, 4), torch.arange(26) % 13
    data = Dataset(x, y, tuple(HOSTILE), name=everything)
    model = linear(16, 13)
    outputs = {kind: samples(26, 3) for kind in ("natural", everything)}
    rows = [MixingRow(everything, kind, 0.5, 0.5, 0.5) for kind in outputs]
    drawn = [
        _plots.plot_lines({name: {0.0: 1.0, 1.0: 2.0} for name in HOSTILE}, everything, everything, next(place)),
        _plots.plot_distances(curves, 0.1, everything, next(place)),
        _plots.plot_heat_map({everything: dict.fromkeys(HOSTILE, 1.0)}, next(place)),
        _plots.plot_bars({name: {everything: 1.0} for name in HOSTILE}, everything, next(place)),
        _plots.draw_gradients({everything: dict.fromkeys(HOSTILE, history)}, everything, next(place)),
        report.plot_aa_curves(curves, 0.08, everything, next(place)),
        report.plot_history(dict.fromkeys(HOSTILE, history), next(place)),
        report.plot_gradients(dict.fromkeys(HOSTILE, history), next(place)),
        report.plot_sweep([StepsRow(name, n, 0.5, 0.4, 0.6) for name in HOSTILE for n in (0, 1)], next(place)),
        report.plot_transfer([TransferRow(*three, 0.5, 0.4, 0.6) for three in triples()], everything, next(place)),
        report.plot_confusion(torch.ones(5, 5), HOSTILE[:5], everything, next(place)),
        report.plot_corruptions(CorruptionAccuracy({name: {1: 0.5} for name in HOSTILE}, 0.6), everything, next(place)),
        report.plot_examples({everything: model}, data, PGD(0.1, steps=1), next(place), count=5),
        report.plot_features(Features({everything: outputs}, y, rows), HOSTILE, "pca", next(place)),
    ]
    assert all(path.stat().st_size > 1000 for path in drawn)


def triples() -> list[tuple[str, str, str]]:
    few = HOSTILE[2:5]
    return [("clean", "", target) for target in few] + [(few[1], s, t) for s in few for t in few]


def test_an_underscore_keeps_its_place_in_the_legend(tmp_path: Path) -> None:
    figure = _plots.draw_panels({"panel": {"_under": {0.0: 1.0}, "over": {0.0: 2.0}}}, "x", "y")
    assert [text.get_text().strip("\u200b") for text in figure.legends[0].get_texts()] == ["_under", "over"]


@hostile
def test_csv(name: str, tmp_path: Path) -> None:
    def cells(path: Path) -> set[str]:
        with path.open(newline="") as file:
            return {cell for row in csv.reader(file) for cell in row}

    report.write_table([entry(name, (Finding("mode", name),))], 0.08, tmp_path / "table.csv")
    written = [tmp_path / f"{each}.csv" for each in ("table", "attacks", "findings")]
    written.append(report.write_records([LandingRow(name, 1, 1, name, 0.5, None)], tmp_path / "landing.csv"))
    written.append(report.write_confusion(torch.ones(1, 1), [name], tmp_path / "confusion.csv"))
    written.append(report.write_corruptions(CorruptionAccuracy({name: {1: 0.5}}), {}, tmp_path / "corruptions.csv"))
    for path in written:
        assert name in cells(path), path


class Texts(HTMLParser):
    """The texts and elements of a page."""

    def __init__(self, page: str):
        super().__init__()
        self.texts: list[str] = []
        self.tags: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert not any(name.startswith("on") for name, _ in attributes)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_page(tmp_path: Path) -> None:
    """Models, data and attacks with such names, on one page, all of whose files are in its folder."""
    names = [r"[/x] $\frac{$", "<script>alert(1)</script>", '_"quote",comma']
    models = {name: evaluation(180, 100) for name in names}
    for found in models.values():
        object.__setattr__(found, "data", '"><script>alert(2)</script>')
        found.results["../../up & <b>"] = found.results.pop("deepfool")
    run_folder(tmp_path / "[red] <i>" / "run", models, toys())
    page = Texts(page_of(tmp_path / "in" / "out", tmp_path / "[red] <i>" / "run"))
    assert page.tags.count("script") == 1
    assert {"b", "i"}.isdisjoint(page.tags)
    assert {name for name in names if name not in page.texts} == set()
    assert {path.parent for path in tmp_path.rglob("*.svg")} == {tmp_path / "in" / "out"}
    assert (tmp_path / "in" / "out" / "aa_.._.._up_b_.svg").is_file()


def test_comparisons(tmp_path: Path) -> None:
    """Over seeds and methods, in the terminal."""
    names = HOSTILE[:5]
    run_folder(tmp_path / "run", {name: evaluation(180, 100) for name in names}, toys())
    assert_printed(report.runs_table(report.read_run(tmp_path / "run")), *names)


@pytest.mark.usefixtures("rendered")
def test_ticks_of_a_logarithmic_axis_are_numbers(tmp_path: Path) -> None:
    """And no formulas, which names in figures must not be either."""
    figure = matplotlib.figure.Figure()
    axes = figure.add_subplot(xscale="log", xlim=(1e-4, 1))
    report._plots.save(figure, tmp_path / "figure.png")
    assert [label.get_text() for label in axes.get_xticklabels()][1:-1] == ["0.0001", "0.001", "0.01", "0.1", "1"]
