"""accept: its case, and what it means."""

import itertools
import math

import pytest
import torch

from fastadv import ops

from .cases import DEVICES, DTYPES, NOT_FINITE, Case, always

pytestmark = pytest.mark.numerics

CASE = Case(
    lambda make: {
        "best": make.column(-math.inf, 0.25, 1.0, *NOT_FINITE, dtype=make.dtype),
        "loss": make.column(-1.0, 0.25, 2.0, 3.0, math.nan, -2.0, 0.0, 1.0, dtype=make.dtype),
        "fooled": make.mask(False, False, False, True),
        "active": make.mask(),
    },
    variants=({}, {"active": None}),
    refused=(
        ({"best": torch.ones(3, 1), "loss": torch.ones(3, 1)}, ValueError, r"best .*\[B\], got \(3, 1\)"),
        ({"loss": torch.ones(4)}, ValueError, r"loss .*\(3,\).*\(4,\)"),
        ({"loss": torch.ones(3, dtype=torch.float64)}, ValueError, r"loss .*torch\.float64"),
        ({"fooled": torch.ones(3)}, ValueError, r"fooled .*torch\.bool.*torch\.float32"),
    ),
    exact=always,
)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("masked", [True, False])
def test_a_point_is_accepted_where_it_fools_or_its_loss_is_higher(masked, dtype, device):
    numbers = [-math.inf, -1.0, 0.0, -0.0, 0.5, math.inf, math.nan]
    rows = list(itertools.product(numbers, numbers, [False, True], [False, True] if masked else [True]))
    best, loss, fooled, active = (list(column) for column in zip(*rows, strict=True))
    found = torch.tensor(best, dtype=dtype, device=device)
    better, going = ops.accept(
        found,
        torch.tensor(loss, dtype=dtype, device=device),
        torch.tensor(fooled, device=device),
        torch.tensor(active, device=device) if masked else None,
    )
    accepted = [a and (f or z > b) for b, z, f, a in rows]
    assert better.tolist() == accepted
    assert going.tolist() == [a and not f for _, _, f, a in rows]
    expected = [z if taken else b for (b, z, *_), taken in zip(rows, accepted, strict=True)]
    assert list(map(str, found.tolist())) == list(map(str, expected))  # which tells 0 from -0, and NaN from all else
