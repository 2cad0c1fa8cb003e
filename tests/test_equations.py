"""Equations of the papers in numbers: what holds, what does not, and that either side is watched."""

import csv
import itertools
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from fastadv.__main__ import main
from fastadv.attacks import PGD
from fastadv.commands._reproduce import records_markdown
from fastadv.recipes import EXPERIMENTS, equations
from fastadv.recipes.equations import Row, alternating, holds
from fastadv.trainers import Batch, DRAFineTuning, FGSMTraining
from fastadv.trainers.bilateral import nearest_label


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return equations.findings()


def failing(rows: list[Row]) -> set[tuple[str, str]]:
    return {(row.equation, row.what) for row in rows if not row.holds}


def test_what_does_not_hold(rows):
    """All of it is understood, see the notes on the pages of the methods."""
    found = [(row.paper, row.equation) for row in rows if not row.holds]
    assert found == [
        ("Bilateral AT", "12"), ("Bilateral AT", "33"), ("Friendly AT", "Section 3.1"), ("SMD", "Theorem 3.1"),
        ("SMD", "15"), ("SMD", "17"), ("SMD", "18"),
        *[("Hou's thesis", "Lemma 1, 3.7"), ("Hou's thesis", "Lemma 1, proof")] * 2,
        ("Hou's thesis", "4.6"), ("Hou's thesis", "4.4"),
    ]  # fmt: skip


def test_the_record_is_what_is_computed(rows):
    text = (Path(__file__).parents[1] / "benchmarks/results/2026-11-29-equations.md").read_text()
    assert text.endswith(records_markdown(rows))
    assert f"{len(failing(rows))} of {len(rows)} rows do not hold" in text


def test_a_changed_side_is_seen(rows):
    for row in rows:
        assert row.holds == holds(row.left, row.relation, row.right, 1 if row.equation == "17" else 2)
        if row.holds and row.relation == "=":
            assert not holds(row.left * 1.001, "=", row.right)
            assert not holds(row.left, "=", row.right * 1.001)
        elif row.holds and row.relation == "~":
            assert not holds(row.left + 0.06, "~", row.right)
        elif row.holds and row.left != row.right:
            assert not holds(row.right, row.relation, row.left)


@pytest.mark.parametrize(
    ("part", "place", "changed", "equation"),
    [
        (equations.bilateral, "ops.adversarial_labels", lambda z, y, *_: torch.full_like(z, 0.1), "14"),
        (equations.bilateral, "nearest_label", lambda point, low, high: (low + high) / 2, "12"),
        (equations.bilateral, "FGSM", lambda eps: PGD(eps, eps / 2, 1, random_start=0), "7"),
        (equations.friendly, "FriendlyPGD", lambda eps, alpha, steps, tau, random_start, rho=0.0: PGD(
            eps, alpha, steps, random_start=0), "Section 3.1"),
        (equations.friendly, "PGD", lambda eps, *_, **__: PGD(eps / 2, eps / 8, 20, random_start=0), "Lemma 1"),
        (equations.smd, "EPGD", lambda eps: PGD(eps, eps, 1, random_start=0), "9"),
        (equations.thesis, "FGSMTraining.loss", lambda self, model, batch: nn.functional.cross_entropy(
            model(batch.x), batch.y) + nn.functional.cross_entropy(model(self.examples(model, batch)), batch.y),
            "2.11"),
    ],
)  # fmt: skip
def test_rows_fail_where_the_package_is_changed(rows, monkeypatch, part, place, changed, equation):
    monkeypatch.setattr(f"fastadv.recipes.equations.{place}", changed)
    new = {equation for equation, _ in failing(part()) - failing(rows)}
    assert equation in new


def test_the_projection_is_the_nearest_point():
    """Of three classes, by trying all points of a fine grid."""
    step = 0.005
    grid = [(a, b, 1 - a - b) for a, b in itertools.product(torch.arange(0, 1 + step, step).tolist(), repeat=2)]
    grid = torch.tensor([point for point in grid if point[2] > -1e-9], dtype=torch.float64)
    y, eps = torch.tensor([[1.0, 0, 0]]).double(), torch.tensor([0.3]).double()
    allowed = grid[((grid - y).abs() <= 0.3 + 1e-9).all(1)]
    for point in ([1.1, 0.4, 0.05], [1.0, 2.0, 0.1], [0.6, 0.5, 0.4], [3.0, 0.0, 0.0]):
        point = torch.tensor([point]).double()
        best = allowed[(allowed - point).square().sum(1).argmin()]
        for found in (nearest_label(point, y - 0.3, y + 0.3), alternating(point, y, eps)):
            torch.testing.assert_close(found[0], best, rtol=0, atol=2 * step)


def test_the_second_term_of_theorem_1_by_brute_force(rows):
    """Over a grid of points within the ball, for every sample."""
    line, eps, rho = torch.tensor([4.0, -3.0]).double(), 0.1, 0.1
    x = 0.5 + 0.3 * equations.draw(500, 2).tanh()
    y = (x @ line - 0.5 + 0.5 * equations.draw(500, seed=1) > 0).double()
    offsets = torch.linspace(-eps, eps, 81).double()
    points = torch.cartesian_prod(offsets, offsets)
    total, largest, wrong = 0.0, 0.0, 0
    for sample, label in zip(x, y, strict=True):
        p = ((sample + points) @ line - 0.5).sigmoid()
        p = p if label else 1 - p
        losses, other = -p.log2(), -(1 - p).log2()
        confident = losses - other >= rho
        total += float(losses[confident].min() + rho if confident.any() else losses.max())
        largest += float(losses.max())
        wrong += bool((p < 0.5).any())
    found = {row.what: row for row in rows if row.paper == "Friendly AT"}
    second = found["the second term, and that of TRADES, the largest loss"]
    assert second.left == pytest.approx(total / 500, abs=0.01)
    assert second.right == pytest.approx(largest / 500, abs=1e-6)
    assert found["adversarial risk, and its bound"].left == pytest.approx(wrong / 500)


def test_rho_by_hand(rows):
    """1 - 2/128 to the power of 255/64, and of 1/64."""
    found = [row.right for row in rows if (row.paper, row.equation) == ("SMD", "17")]
    assert found == pytest.approx([(126 / 128) ** (255 / 64), (126 / 128) ** (1 / 64)])
    assert round(found[0], 3) == 0.939


@pytest.mark.parametrize("method", [FGSMTraining, DRAFineTuning])
def test_weights_of_the_adversarial_loss(method):
    with pytest.raises(ValueError, match="beta must be"):
        method(beta=-1.0)
    network, x, y = nn.Linear(4, 3), torch.rand(8, 4), torch.arange(8) % 3
    losses = {
        beta: float(method(beta=beta).loss(network, Batch(x, y, torch.arange(8))).detach()) for beta in (0.0, 1.0, 4.0)
    }
    other = {"label_smoothing": 0.1} if method is FGSMTraining else {}
    assert losses[0] == pytest.approx(float(nn.functional.cross_entropy(network(x), y, **other).detach()))
    scaled = {beta: (loss if other else (1 + beta) * loss) - losses[0] for beta, loss in losses.items()}
    assert scaled[4] == pytest.approx(4 * scaled[1], rel=1e-4)


def test_what_is_written(tmp_path, capsys):
    assert EXPERIMENTS["equations"] is equations.reproduce
    assert main(["reproduce", "equations", "--out", str(tmp_path / "out")]) == 0
    with (tmp_path / "out" / "equations" / "equations.csv").open() as file:
        written = list(csv.DictReader(file))
    assert list(written[0]) == ["paper", "equation", "what", "left", "relation", "right", "holds"]
    assert {row["paper"] for row in written} == {"Bilateral AT", "Friendly AT", "SMD", "Hou's thesis"}
    assert all(math.isfinite(float(row["left"])) and math.isfinite(float(row["right"])) for row in written)
    assert "Lemma 1" in capsys.readouterr().out
    with pytest.raises(ValueError, match="equations train nothing: leave epochs out, got 2"):
        equations.reproduce(tmp_path, epochs=2)
