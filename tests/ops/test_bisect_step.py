"""bisect_step: its case, and what it means."""

import pytest
import torch
from torch import Tensor

from fastadv import ops

from .cases import DEVICES, FLOATS, NOT_FINITE, Case, Make, always, randn, same

pytestmark = pytest.mark.numerics

SEGMENT = ("inner", "outer", "middle")
CASE = Case(
    lambda make: {
        **{name: make.samples(-1, 1, salt=NOT_FINITE[i:], written=True) for i, name in enumerate(SEGMENT)},
        "inside": make.mask(True, False, False),
        "active": make.mask(),
    },
    variants=({}, {"active": None}),
    refused=(
        ({"outer": torch.ones(3, 5)}, ValueError, r"outer .*\(3, 5\)"),
        ({"inside": torch.ones(3)}, ValueError, r"inside .*torch\.bool.*torch\.float32"),
    ),
    exact=always,
)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_bisection_closes_in_on_the_crossing(dtype, device):
    make = Make((8, 3, 4, 4), dtype, device)
    start, end = make.samples(), make.samples()
    crossing = torch.tensor([0.0, 1e-3, 0.3, 0.5, 0.75, 0.999, 1.0, 2.0], device=device)  # the last is never crossed
    inner, outer, middle = start.clone(), end.clone(), (start + end) / 2

    def place(t: Tensor) -> Tensor:
        return ((t - start) / (end - start)).flatten(1).double().median(1).values

    for k in range(1, 11):
        ops.bisect_step(inner, outer, middle, place(middle) < crossing)
        assert ((place(outer) - place(inner) - 2.0**-k).abs() < 1e-3 * 2.0**-k + 1e-6).all()
        assert (place(inner) <= crossing + 1e-6).all()
        assert (place(outer) >= crossing.clamp(max=1) - 1e-6).all()
        torch.testing.assert_close(middle, (inner + outer) / 2, rtol=0, atol=torch.finfo(dtype).eps)
    assert same(inner[0], start[0])
    assert same(outer[6:], end[6:])  # what is not crossed ends 2^-10 before the end


@pytest.mark.parametrize("device", DEVICES)
def test_bisection_is_that_of_plain_python(device):
    ends = randn(2, 5, 3)
    inner, outer, middle = (t.clone().to(device) for t in (ends[0], ends[1], (ends[0] + ends[1]) / 2))
    expected = [[(a, b) for a, b in zip(*row, strict=True)] for row in ends.transpose(0, 1).tolist()]
    for inside in torch.randint(2, (20, 5), generator=torch.Generator().manual_seed(0)).bool():
        ops.bisect_step(inner, outer, middle, inside.to(device))
        for i, keep in enumerate(inside.tolist()):
            middles = [(a + b) / 2 for a, b in expected[i]]
            expected[i] = [(m, b) if keep else (a, m) for (a, b), m in zip(expected[i], middles, strict=True)]
        assert torch.stack((inner, outer), dim=-1).tolist() == [[list(pair) for pair in row] for row in expected]
        assert middle.tolist() == [[(a + b) / 2 for a, b in row] for row in expected]
