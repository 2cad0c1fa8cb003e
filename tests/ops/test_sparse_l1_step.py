"""sparse_l1_step: its case; which entries move, and that the nearest point of ball and box is found."""

import math

import pytest
import torch
from torch import Tensor

from fastadv import ops

from .cases import (
    DEVICES,
    DTYPES,
    FLOATS,
    WIDE,
    Case,
    Make,
    channels_last,
    norms,
    randn,
    step_args,
    strided,
    transposed,
)

pytestmark = pytest.mark.numerics

CASE = Case(
    lambda make: step_args(make) | {"entries": make.column(5.0, 0.0, 1.5, 60.0, math.inf), "x": make.samples()},
    variants=({}, {"active": None, "nonfinite": None}, {"lo": -0.5, "hi": 0.7}, WIDE),
    refused=(
        ({"eps": torch.ones(4)}, ValueError, r"eps .*\(3,\).*\(4,\)"),
        ({"entries": torch.ones(2)}, ValueError, r"entries .*\(3,\).*\(2,\)"),
    ),
)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_the_largest_entries_of_the_gradient_move_alike(dtype, device):
    make = Make((5, 3, 5, 6), dtype, device)
    x, grad = make.samples(0.4, 0.6), make.samples(-1, 1)
    grad[3] = 0
    grad[4, 0, 0, :3] = torch.tensor([math.nan, math.inf, -math.inf])
    x_adv = x.clone()
    ops.sparse_l1_step(x_adv, grad, x, 0.3, math.inf, torch.tensor([1.0, 4.5, 0.0, 8.0, 200.0], dtype=dtype))
    moved = (x_adv - x).flatten(1)
    for row, slope, entries in zip(moved, grad.flatten(1).nan_to_num(0, 0, 0), (1, 5, 1, 0, 87), strict=True):
        largest = slope.abs().sort(descending=True).indices[:entries]
        expected = torch.zeros_like(slope).index_copy_(0, largest, 0.3 / max(1, entries) * slope[largest].sign())
        torch.testing.assert_close(row, expected, rtol=0, atol=4 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_a_budget_of_nothing_leaves_nothing(dtype, device):
    make = Make((30, 3, 9, 9), dtype, device)
    x, x_adv = make.samples(), make.samples()
    ops.sparse_l1_step(x_adv, make.samples(-1, 1), x, 0.3, 0.0, 5.0)
    assert torch.equal(x_adv, x)


def nearest(delta: Tensor, x: Tensor, eps: float, lo: float, hi: float) -> Tensor:
    """The nearest point of ball and box, by bisection for the multiplier of the ball's constraint."""
    low, high = 0.0, float(delta.abs().max())
    for _ in range(200):
        theta = (low + high) / 2
        point = (delta.sign() * (delta.abs() - theta).clamp(min=0)).clamp(lo - x, hi - x)
        low, high = (theta, high) if point.abs().sum() > eps else (low, theta)
    return (delta.sign() * (delta.abs() - high).clamp(min=0)).clamp(lo - x, hi - x)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("lo", "hi"), [(0.0, 1.0), (-math.inf, math.inf), (0.2, 0.9)])
def test_the_result_is_the_nearest_point_of_ball_and_box(lo, hi, device):
    x = Make((40, 57), torch.float64, device).samples(max(lo, 0), min(hi, 1))
    x_adv, none = (
        x + randn(40, 57, device=device) * torch.linspace(0.01, 3, 40, device=device).view(-1, 1),
        torch.zeros_like(x),
    )
    eps = torch.tensor([0.1, 1.0, 5.0, 20.0, 0.0], dtype=torch.float64, device=device).repeat(8)
    expected = torch.stack([nearest(a - b, b, float(e), lo, hi) for a, b, e in zip(x_adv, x, eps, strict=True)])
    ops.sparse_l1_step(x_adv, none, x, 0.0, eps, 1.0, lo, hi)
    torch.testing.assert_close(x_adv - x, expected, rtol=0, atol=1e-12)
    assert (norms(x_adv - x, 1) <= eps + 1e-12).all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_without_a_box_it_is_the_projection_of_l1_step(dtype, device):
    make = Make((21, 3, 4, 9), dtype, device)
    x, x_adv, none = make.samples(), make.samples(-2, 3), torch.zeros(21, 3, 4, 9, dtype=dtype, device=device)
    eps, other = make.column(0.5, 3.0, 20.0, 0.0), x_adv.clone()
    ops.sparse_l1_step(x_adv, none, x, 0.0, eps, 1.0, **WIDE)
    ops.l1_step(other, none, x, 0.0, eps, **WIDE)
    torch.testing.assert_close(x_adv, other, rtol=0, atol=2**8 * torch.finfo(dtype).eps)  # of the reference: sums


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equal_entries_are_taken_by_index_in_any_memory_format(dtype, device):
    x = torch.full((5, 3, 4, 8), 0.5, dtype=dtype, device=device)
    grad = randn(*x.shape, dtype=dtype, device=device).round()

    def moved(layout) -> Tensor:
        found = layout(x.clone())
        ops.sparse_l1_step(found, layout(grad), layout(x), 1.0, math.inf, 20.0)
        return found

    contiguous = moved(Tensor.contiguous)
    for layout in (channels_last, strided, transposed):
        assert torch.equal(moved(layout), contiguous)
    for row, slope in zip((contiguous != x).flatten(1).tolist(), grad.flatten(1).tolist(), strict=True):
        chosen = sorted(range(96), key=lambda i, slope=slope: (-abs(slope[i]), i))[:20]
        assert {i for i in range(96) if row[i]} == {i for i in chosen if slope[i]}
