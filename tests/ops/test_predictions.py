"""predictions: its case, and what it means."""

import itertools
import math

import pytest
import torch

from fastadv import ops

from .cases import DEVICES, DTYPES, NOT_FINITE, Case, always

pytestmark = pytest.mark.numerics

CASE = Case(
    lambda make: {"logits": make.logits(-1, 1, salt=NOT_FINITE)},
    variants=({},),
    refused=(
        ({"logits": torch.ones(3)}, ValueError, r"logits .*1 class,.*\(3,\)"),
        ({"logits": torch.ones(3, 0)}, ValueError, r"logits .*1 class,.*\(3, 0\)"),
    ),
    exact=always,
)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("classes", [1, 2, 3, 4])
def test_the_prediction_is_the_first_of_the_highest_and_none_with_a_nan(classes, dtype, device):
    rows = list(itertools.product([-math.inf, -1.0, 0.0, -0.0, 0.5, math.inf, math.nan], repeat=classes))
    found = ops.predictions(torch.tensor(rows, dtype=dtype, device=device))
    expected = []
    for row in rows:
        best = 0
        for k, z in enumerate(row):
            best = k if z > row[best] else best
        expected.append(-1 if any(map(math.isnan, row)) else best)
    assert found.tolist() == expected
