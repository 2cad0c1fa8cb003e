"""REPRODUCTION.md is what the result files say, and its marks are what they claim."""

import csv
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from benchmarks import reproduction
from benchmarks.reproduction import PAGE, RESULTS, Row, changes, page
from fastadv import recipes
from fastadv.recipes import Figure
from fastadv.report import figures_csv

BAT = recipes.load("blind-fashion-mnist-bat")


def test_the_page_is_what_the_program_writes() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m benchmarks.reproduction"


def test_every_measured_figure_is_in_the_page() -> None:
    shown = set(re.findall(r"\d+\.\d+", PAGE.read_text(encoding="utf-8")))
    files = list(RESULTS.rglob("figures.csv"))
    assert len(files) > 50
    for path in files:
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                value = float(row["measured"])
                assert {f"{value:.1f}", f"{value:.4g}"} & shown, (path, row)


def test_printed_figures_are_those_of_the_recipes() -> None:
    for folder in sorted({path.parent for path in RESULTS.rglob("config.yaml")}):
        for row in reproduction.read(folder):
            printed = {}
            for key, figure in row.recipe.printed.items():
                for what, value in recipes._items(key, figure):
                    budget = f"{what:.4g}" if isinstance(what, float) else what
                    printed[key if what is None else f"{key} {budget}"] = value
            assert {figure.name: figure.printed for figure in row.figures}.items() <= printed.items()


@pytest.mark.parametrize(
    ("measured", "printed", "changed", "note", "mark"),
    [
        (88.5, 90.0, "", "", "pass"),
        (91.5, 90.0, "epochs", "note", "pass"),
        (88.4, 90.0, "", "", "open"),
        (91.6, 90.0, "", "", "open"),
        (88.4, 90.0, "epochs 1 instead of 70", "", "explained"),
        (88.4, 90.0, "", "a note", "explained"),
        (88.4, None, "", "", ""),
    ],
)
def test_marks(measured: float, printed: float | None, changed: str, note: str, mark: str) -> None:
    row = Row("it", replace(BAT, note=note), [Figure("clean", measured, printed)], changed)
    assert row.mark(row.figures[0]) == mark


def test_norms_have_no_points() -> None:
    row = Row("it", BAT, [Figure("deepfool norm", 0.0974, 0.081)], "")
    assert row.mark(row.figures[0]) == ""
    assert row.cell("deepfool norm") == "0.0974 (0.081; +0.0164)"


def test_what_was_changed_is_told() -> None:
    as_printed = {"model": "lenet5-wide", "epochs": None, "limit": 0}
    assert changes(BAT, as_printed) == ""
    shorter = {"model": "lenet5", "epochs": 8, "per_class": 600, "limit": 1000}
    assert changes(BAT, shorter) == (
        "model lenet5 instead of lenet5-wide, epochs 8 instead of 70, per class 600 instead of all, "
        "the first 1000 test samples instead of all"
    )


def test_a_new_result_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reproduction, "ROOT", tmp_path)
    folder = tmp_path / "results" / "new"
    (folder / BAT.name).mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"limit": 0}))
    (folder / BAT.name / "figures.csv").write_text(
        figures_csv([Figure("clean", 88.0, 88.8), Figure("pgd 0.1", 50.0, 42.3)])
    )
    text = page(tmp_path / "results")
    assert "| new | 1 | 1 | 1 | 0 | 0 |" in text
    assert "| clean | 88.0 (88.8; -0.8) + |" in text
    assert "| pgd 0.1 | 50.0 (42.3; +7.7) e |" in text
