"""Tables of evaluations: what their figures are, and what a terminal and a file have of them."""

import csv
import io
from pathlib import Path

import pytest
import torch
from rich.console import Console

from fastadv.attacks import PGD, DeepFool, Noise
from fastadv.evaluation import AACurve, Evaluation, Finding, Outcome, Result, wilson
from fastadv.report import Entry, attacks_table, table, write_table


def rights(*places: int) -> torch.Tensor:
    return torch.isin(torch.arange(10), torch.tensor(places))


def entry(name: str, findings: tuple[Finding, ...] = ()) -> Entry:
    """Ten samples: 8 right clean, 5 under PGD, 6 under noise, 4 under both, 0 under DeepFool."""
    sizes, grads = torch.tensor([0.1] * 9 + [1.0]), torch.tensor([20] * 5 + [0] * 5)
    flips = torch.full((10, 1), 0.04)
    results = {
        "pgd": Result(rights(0, 1, 2, 3, 9), PGD(0.1), sizes, grads, 2.5),
        "noise": Result(rights(0, 1, 2, 3, 4, 5), Noise(0.1), sizes, 0 * grads, 0.5),
        "deepfool": Result(rights(), DeepFool(), sizes, grads, 1.0, AACurve(rights(*range(8)), flips)),
    }
    return Entry(name, Evaluation("toys", "true", Outcome(rights(*range(8))), results, findings), 3.0)


def read(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_files(tmp_path: Path) -> None:
    finding = Finding("mode", "it was asleep, and dreamt")
    write_table([entry("a"), entry("b", (finding,))], 0.08, tmp_path / "table.csv")
    assert read(tmp_path / "findings.csv") == [{"method": "b", "check": "mode", "text": finding.text}]
    one, two = read(tmp_path / "table.csv")
    assert {**one, "method": "b"} == two
    assert {name: float(value) for name, value in one.items() if name != "method"} == pytest.approx(
        {"clean": 0.8, "pgd": 0.5, "noise": 0.6, "worst": 0.4, "deepfool_avg_aa": 0.5, "deepfool_norm": 0.19}
        | {"seconds_per_epoch": 3.0}
    )
    lines = read(tmp_path / "attacks.csv")
    assert [(line["method"], line["attack"]) for line in lines[:6]] == [
        ("a", "clean"),
        ("a", "pgd"),
        ("a", "noise"),
        ("a", "deepfool"),
        ("a", "worst"),
        ("b", "clean"),
    ]
    clean, pgd, _, deepfool, worst = lines[:5]
    assert (float(clean["low"]), float(clean["high"])) == pytest.approx(wilson(8, 10))
    assert (float(worst["accuracy"]), float(worst["low"])) == pytest.approx((0.4, wilson(4, 10)[0]))
    assert [float(pgd[name]) for name in ("eps", "mean_rms", "median_rms", "gradients", "seconds")] == pytest.approx(
        [0.1, 0.19, 0.1, 10, 2.5]
    )
    assert (deepfool["eps"], deepfool["norm"], clean["seconds"], worst["gradients"]) == ("", "l2", "", "")


def test_terminal() -> None:
    entries = [entry("a", (Finding("mode", "it was asleep"),)), entry("b")]
    shown = Console(file=io.StringIO(), width=150)
    shown.print(table(entries, 0.08))
    shown.print(attacks_table(entries))
    text = shown.file.getvalue()
    for part in (
        "80.0",
        "49.0-94.3",
        "worst",
        "a: mode: it was asleep",
        "DeepFool"[:4].lower(),
        "median RMS",
        "0.1900",
    ):
        assert part in text
    assert text.count("asleep") == 1
