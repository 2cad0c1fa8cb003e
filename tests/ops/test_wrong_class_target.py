"""wrong_class_target: its case, and what it means."""

import itertools
import math

import pytest
import torch

from fastadv import ops

from .cases import DEVICES, DTYPES, LABELS, NOT_FINITE, Case, always

pytestmark = pytest.mark.numerics

CASE = Case(
    lambda make: {"logits": make.logits(-1, 1, salt=NOT_FINITE), "labels": make.integers(*LABELS)},
    variants=({}, {"which": "least_likely"}),
    refused=(
        ({"logits": torch.ones(3, 4, 2)}, ValueError, r"logits .*2 classes.*\(3, 4, 2\)"),
        ({"labels": torch.zeros(4, dtype=torch.int64)}, ValueError, r"labels .*\(3,\).*\(4,\)"),
        ({"which": "random"}, ValueError, "which .*most_confusing, least_likely.*'random'"),
    ),
    exact=always,
)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("which", ["most_confusing", "least_likely"])
def test_wrong_class_target_is_the_first_of_the_best_and_never_the_label(which, dtype, device):
    rows = list(itertools.product([-math.inf, -1.0, 0.0, math.inf, math.nan], repeat=3))
    logits = torch.tensor(rows, dtype=dtype, device=device)
    sign = 1 if which == "most_confusing" else -1
    for label in (0, 1, 2, -1, 3, 2**40):
        found = ops.wrong_class_target(logits, torch.full((len(rows),), label, device=device), which)
        wrong = [k for k in range(3) if k != label]
        expected = [max(wrong, key=lambda k, row=row: (math.isnan(row[k]), sign * row[k])) for row in rows]
        assert found.tolist() == expected
        assert (found != label).all()
