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
def test_the_curves_are_the_equations(scale, beta):
    """3.10 and 3.11 of two classes, and their derivative with the factors as constants."""
    cosines = torch.tensor([-1.0, -0.4, 0.1, 0.3, 0.6, 1.0], dtype=torch.float64)
    for c, loss, slope in zip(cosines.tolist(), *(each.tolist() for each in curve(cosines, scale, beta)), strict=True):
        own, other = (1, 1) if beta is None else (1 - c + beta, max(-c + beta, 0))
        gap = scale * (own * c - other * -c)
        assert loss == pytest.approx(math.log1p(math.exp(-gap)))
        assert slope == pytest.approx(-scale * (own + other) / (1 + math.exp(gap)), abs=1e-12)


def test_pairs_that_are_hard_weigh_more_and_easy_ones_not_less():
    cosine = torch.linspace(-1, 1, 41, dtype=torch.float64)
    for scale in SCALES:
        plain, _ = curve(cosine, scale, None)
        for beta in BETAS:
            loss, _ = curve(cosine, scale, beta)
            easy = cosine > beta
            assert (loss[easy] > plain[easy]).all()
            assert (loss[cosine < -0.5] > plain[cosine < -0.5]).all()


def test_what_is_written(tmp_path: Path) -> None:
    assert EXPERIMENTS["self-paced-loss"] is reproduce
    points = reproduce(tmp_path)
    assert {point.cosine for point in points} == {-1, -0.5, 0, 0.5, 1}
    with (tmp_path / "losses.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(SCALES) * (1 + len(BETAS)) * 81
    assert rows[0] == {"scale": "5.0", "beta": "", "cosine": "-1.0", "loss": rows[0]["loss"], "slope": rows[0]["slope"]}
    assert (tmp_path / "losses.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="only drawn: leave epochs out, got 2"):
        reproduce(tmp_path, epochs=2)
