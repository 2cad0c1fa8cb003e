"""The self-paced loss over the cosine: against its equations, and what is written."""

import csv
import math
from pathlib import Path

import pytest
import torch

from fastadv.recipes import EXPERIMENTS
from fastadv.recipes.self_paced_loss import BETAS, SCALES, curve, reproduce


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("beta", [None, *BETAS])
@pytest.mark.parametrize("clamped", [False, True])
def test_the_curves_are_the_equations(scale, beta, clamped):
    """3.10 and 3.11 of two classes, and their derivative with the factors as constants."""
    cosines = torch.tensor([-1.0, -0.4, 0.1, 0.3, 0.6, 1.0], dtype=torch.float64)
    found = curve(cosines, scale, beta, clamped)
    for c, loss, slope in zip(cosines.tolist(), *(each.tolist() for each in found), strict=True):
        own, other = (1, 1) if beta is None else (1 - c + beta, -c + beta)
        own, other = (max(own, 0), max(other, 0)) if clamped else (own, other)
        gap = scale * (own * c - other * -c)
        assert loss == pytest.approx(math.log1p(math.exp(-gap)))
        assert slope == pytest.approx(-scale * (own + other) / (1 + math.exp(gap)), abs=1e-12)


def test_the_clamp_matters_where_the_other_class_is_far():
    """At a cosine of 0.8 and beta 0.2, log(1 + exp(0.8)) as printed, and log(1 + exp(-1.6)) clamped."""
    cosine = torch.tensor([0.8], dtype=torch.float64)
    printed, clamped = (float(curve(cosine, 5.0, 0.2, clamp)[0]) for clamp in (False, True))
    assert printed == pytest.approx(math.log1p(math.exp(0.8)))
    assert clamped == pytest.approx(math.log1p(math.exp(-1.6)))
    near = torch.linspace(-1, 0.2, 9, dtype=torch.float64)
    torch.testing.assert_close(curve(near, 5.0, 0.2, False), curve(near, 5.0, 0.2, True))


@pytest.mark.parametrize("clamped", [False, True])
def test_pairs_that_are_hard_weigh_more_and_easy_ones_not_less(clamped):
    cosine = torch.linspace(-1, 1, 41, dtype=torch.float64)
    for scale in SCALES:
        plain, _ = curve(cosine, scale, None)
        for beta in BETAS:
            loss, _ = curve(cosine, scale, beta, clamped)
            easy = cosine > beta
            assert (loss[easy] > plain[easy]).all()
            assert (loss[cosine < -0.5] > plain[cosine < -0.5]).all()


@pytest.mark.usefixtures("rendered")
def test_what_is_written(tmp_path: Path) -> None:
    assert EXPERIMENTS["self-paced-loss"] is reproduce
    points = reproduce(tmp_path)
    assert {point.cosine for point in points} == {-1, -0.5, 0, 0.5, 1}
    with (tmp_path / "losses.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(SCALES) * (1 + 2 * len(BETAS)) * 81
    assert list(rows[0]) == ["scale", "beta", "clamped", "cosine", "loss", "slope"]
    assert list(rows[0].values())[:4] == ["5.0", "", "", "-1.0"]
    kinds = {(row["scale"], row["beta"], row["clamped"]) for row in rows}
    assert {("5.0", "0.2", "False"), ("5.0", "0.2", "True"), ("10.0", "", "")} <= kinds
    assert len(kinds) == len(SCALES) * (1 + 2 * len(BETAS))
    assert (tmp_path / "losses.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="only drawn: leave epochs out, got 2"):
        reproduce(tmp_path, epochs=2)
