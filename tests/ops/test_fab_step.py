"""fab_step: its case, and what it means."""

import math

import pytest
import torch

from fastadv import ops

from .cases import DEVICES, DTYPES, NOT_FINITE, Case, Make, norms, randn, same

pytestmark = pytest.mark.numerics

CASE = Case(
    lambda make: {
        "x_adv": make.samples(written=True),
        "x": make.samples(),
        "normal": make.samples(-1, 1, salt=NOT_FINITE),
        "lead": make.column(-0.3, 0.2, -1.5, 0.0, math.nan, 1e30, -math.inf),
        "norm": "linf",
        "alpha_max": 0.1,
        "eta": 1.05,
        "active": make.mask(),
        "nonfinite": make.mask(False, True, False),
    },
    variants=(
        {},
        {"norm": "l2"},
        {"norm": "l1", "active": None, "nonfinite": None, "lo": -0.5, "hi": 1.3},
        {"norm": "l2", "alpha_max": 0.7, "eta": 1.0, "active": None},
    ),
    refused=(
        ({"normal": torch.ones(3, 5)}, ValueError, r"normal .*\(3, 5\)"),
        ({"x": torch.ones(3, 4, dtype=torch.float64)}, ValueError, r"x must .*torch\.float64"),
        ({"lead": torch.ones(3, 1)}, ValueError, r"lead .*\(3, 1\)"),
        ({"norm": "rms"}, ValueError, "norm .*linf, l2, l1.*'rms'"),
    ),
)
FAR = {"lo": -1e3, "hi": 1e3}
ORDERS = {"linf": math.inf, "l2": 2, "l1": 1}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("box", [{}, FAR], ids=["box", "far box"])
@pytest.mark.parametrize("alpha_max", [0.1, 0.45, 1.0])
@pytest.mark.parametrize("norm", ORDERS)
def test_the_step_is_a_mean_of_two_projections(norm, alpha_max, box, device):
    """FAB's Algorithm 1, written with `hyperplane_projection`."""
    make = Make((40, 3, 5, 4), torch.float64, device)
    x, x_adv, normal = make.samples(), make.samples(), randn(40, 3, 5, 4, device=device)
    lead = make.column(-0.3, 0.2, -20.0, 1.0, -1e9)  # the last is out of reach
    offset = (normal * x_adv).flatten(1).sum(1) - lead
    here, start = (ops.hyperplane_projection(point, normal, offset, norm, **box) for point in (x_adv, x))
    a, b = norms(here, ORDERS[norm]), norms(start, ORDERS[norm])
    share = (a / (a + b)).clamp(max=alpha_max)
    assert (alpha_max == 1) == bool((share < alpha_max).all())
    share = share.view(-1, 1, 1, 1)
    expected = (1 - share) * (x_adv + 1.05 * here) + share * (x + 1.05 * start)
    ops.fab_step(x_adv, x, normal, lead, norm, alpha_max, 1.05, **box)
    expected = expected.clamp(box.get("lo", 0), box.get("hi", 1))
    torch.testing.assert_close(x_adv, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("norm", ORDERS)
def test_without_a_box_and_overshoot_it_ends_on_the_boundary(norm, dtype, device):
    x, start, normal = (randn(30, 3, 5, 4, dtype=dtype, device=device, seed=seed) for seed in range(3))
    lead, x_adv = randn(30, dtype=dtype, device=device, seed=3), start.clone()
    ops.fab_step(x_adv, x, normal, lead, norm, 0.5, 1.0, **FAR)
    gained = (normal.double() * (x_adv.double() - start.double())).flatten(1).sum(1)
    torch.testing.assert_close(gained, -lead.double(), rtol=0, atol=300 * torch.finfo(dtype).eps)
    assert (norms(x_adv - x, 2) < norms(start - x, 2)).float().mean() > 0.5  # towards x


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("norm", ORDERS)
def test_without_a_lead_nothing_moves_and_without_a_way_neither(norm, dtype, device):
    make = Make((4, 3, 5), dtype, device)
    x, x_adv, normal = make.samples(), make.samples(), randn(4, 3, 5, dtype=dtype, device=device)
    x[1] = x_adv[1]  # on the boundary, both of them
    normal[2] = 0
    before, flags = x_adv.clone(), torch.zeros(4, dtype=torch.bool, device=device)
    lead = torch.tensor([math.nan, 0.0, 0.0, 0.5], device=device)
    ops.fab_step(x_adv, x, normal, lead, norm, 0.1, 1.05, nonfinite=flags)
    assert same(x_adv[:3], before[:3])
    assert not same(x_adv[3], before[3])
    assert flags.tolist() == [True, False, False, False]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("norm", ORDERS)
def test_normal_entries_that_are_not_finite_count_as_0(norm, device):
    make = Make((3, 70), device=device)
    x, start, lead = make.samples(), make.samples(), make.column(0.3, -0.2, 5.0)
    results = []
    for values in ([math.nan, math.inf, -math.inf], [0.0, 0.0, 0.0]):
        normal, x_adv = randn(3, 70, dtype=torch.float32, device=device), start.clone()
        normal[:, :3] = torch.tensor(values)
        ops.fab_step(x_adv, x, normal, lead, norm, 0.1, 1.05)
        results.append(x_adv)
    assert same(*results)
