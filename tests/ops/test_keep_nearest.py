"""keep_nearest: its case, and what it means."""

import math

import pytest
import torch

from fastadv import ops

from .cases import DEVICES, DTYPES, Case, Make, norms, randn, same

pytestmark = pytest.mark.numerics

CASE = Case(
    lambda make: {
        "best": make.samples(written=True),
        "size": make.column(math.inf, 0.0, 1e30, 0.2, math.nan, math.inf, -1.0),
        "x_adv": make.samples(salt=(0.5, -0.0, 1e-40)),
        "x": make.samples(),
        "fooled": make.mask(True, True, True, False),
        "norm": "l2",
        "active": make.mask(True, True, True, True, False),
    },
    variants=({}, {"norm": "linf", "active": None}, {"norm": "l1"}, {"norm": "rms"}, {"norm": "l0"}),
    refused=(
        ({"x_adv": torch.ones(3, 5)}, ValueError, r"x_adv .*\(3, 4\).*\(3, 5\)"),
        ({"size": torch.ones(4)}, ValueError, r"size .*\(3,\).*\(4,\)"),
        ({"size": torch.ones(3, dtype=torch.float64)}, ValueError, r"size .*torch\.float32.*torch\.float64"),
        ({"size": 0.5 * torch.ones(3, device="meta")}, ValueError, "size .*cpu.*meta"),
        ({"fooled": torch.ones(2, dtype=torch.bool)}, ValueError, r"fooled .*\(3,\).*\(2,\)"),
        ({"norm": "l3"}, ValueError, "norm .*l1, l2, linf, rms, l0.*'l3'"),
    ),
    atol=0,
)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("norm", ops.NORMS)
def test_what_is_kept_is_the_nearest_of_all_that_fooled(norm, dtype, device):
    make, order = Make((40, 3, 5, 4), dtype, device), {"l0": 0, "l1": 1, "linf": math.inf}.get(norm, 2)
    x, points = make.samples(), [make.samples() for _ in range(6)]
    points = [torch.where(make.samples() < 0.1 * k, x, point) for k, point in enumerate(points)]
    points[3][:, 0, 0, 0] = math.nan  # no point
    generator = torch.Generator().manual_seed(0)
    fooled, active = (torch.rand(6, 40, generator=generator).lt(share).to(device) for share in (0.5, 0.8))
    best, size = x.clone(), torch.full((40,), math.inf, dtype=make.wide, device=device)
    for point, hit, live in zip(points, fooled, active, strict=True):
        ops.keep_nearest(best, size, point, x, hit, norm, live)
    share = x[0].numel() ** -0.5 if norm == "rms" else 1
    away = torch.stack([norms(point.to(make.wide) - x.to(make.wide), order) * share for point in points])
    missed = torch.stack([point.isnan().flatten(1).any(1) for point in points])
    away = away.masked_fill(~(fooled & active) | missed, math.inf)
    nearest, found = away.min(0)
    assert 0 < nearest.isinf().sum() < 40
    torch.testing.assert_close(size.double(), nearest, rtol=2e-7, atol=0)
    expected = torch.stack(points)[found, torch.arange(40, device=device)]
    assert same(best, torch.where(nearest.isinf()[:, None, None, None], x, expected))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("norm", ops.NORMS)
def test_of_equally_near_points_the_first_is_kept(norm, device):
    x = torch.zeros(1, 4, device=device)
    first, second = torch.eye(4, device=device)[:2].unsqueeze(1)
    best, size = x.clone(), torch.full((1,), math.inf, device=device)
    hit = torch.ones(1, dtype=torch.bool, device=device)
    for point in (first, second, 2 * second):
        ops.keep_nearest(best, size, point, x, hit, norm)
        assert same(best, first)
        assert size.item() == (0.5 if norm == "rms" else 1)
    ops.keep_nearest(best, size, second / 2, x, hit, norm)
    assert same(best, first if norm == "l0" else second / 2)


def test_the_sizes_are_those_of_row_norms():
    x, x_adv = randn(9, 129, dtype=torch.float32), randn(9, 129, dtype=torch.float32, seed=1)
    for norm in ops.NORMS:
        size = torch.full((9,), math.inf)
        ops.keep_nearest(x.clone(), size, x_adv, x, torch.ones(9, dtype=torch.bool), norm)
        assert same(size, ops.row_norms(x_adv, norm, x))
