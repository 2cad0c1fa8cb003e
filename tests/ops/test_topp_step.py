"""topp_step: its case, and which entries it moves. What all steps in a ball do is in test_balls.py."""

import math
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from fastadv import ops

from .cases import DEVICES, DTYPES, WIDE, Case, Make, channels_last, norms, randn, step_args, strided, transposed

pytestmark = pytest.mark.numerics

CASE = Case(
    lambda make: step_args(make) | {"p": 0.3},
    variants=(
        {},
        {"active": None, "nonfinite": None, "p": 1 / 3, "normalise": "kept"},
        {"projection": "simplex"},
        {"p": 1.0, "lo": -0.5, "hi": 0.7},
    ),
    refused=(
        *(({"p": p}, ValueError, f"p must .*{p}") for p in (0.0, -0.5, 1.5, math.nan)),
        ({"normalise": "none"}, ValueError, "normalise .*all, kept.*'none'"),
        ({"projection": "l1"}, ValueError, "projection .*radial, simplex.*'l1'"),
    ),
)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("cols", [1, 3, 7, 129, 1000])
def test_topp_step_moves_exactly_the_share_of_largest_entries(cols, device):
    order = torch.randperm(cols, generator=torch.Generator().manual_seed(cols))
    grad = ((order + 1) * (-1) ** order).double().to(device).expand(1, cols)
    x = torch.zeros_like(grad)
    for k in {1, 2, cols // 3, cols // 2, cols - 1, cols} - {0}:
        share = min(k, cols) / cols
        for p, count in ((share, k), (share * (1 - 1e-9), k), (min(1.0, share * (1 + 1e-9)), k + 1), (0.9 / cols, 1)):
            moved = x.clone()
            ops.topp_step(moved, grad, x, 1.0, math.inf, p=p, **WIDE)
            expected = (order >= cols - count).to(device)
            assert torch.equal(moved[0] != 0, expected), (p, count)


def test_topp_step_counts_as_exact_arithmetic_would():
    grad = torch.arange(1.0, 102).expand(1, 101)
    for cols in range(1, 102):
        for k in range(1, cols + 1):
            moved = torch.zeros(1, cols)
            ops.topp_step(moved, grad[:, :cols], torch.zeros(1, cols), 1.0, math.inf, p=k / cols, **WIDE)
            assert int((moved != 0).sum()) == k
    for p in (0.1, 0.3, 2 / 3, 0.07):
        moved = torch.zeros(1, 101)
        ops.topp_step(moved, grad, torch.zeros(1, 101), 1.0, math.inf, p=p, **WIDE)
        assert int((moved != 0).sum()) == math.ceil(Fraction(p) * 101)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("normalise", ["all", "kept"])
def test_topp_step_is_normalised_by_all_or_by_what_it_keeps(normalise, device):
    grad, size = randn(5, 3, 6, 7, device=device), torch.tensor([1.0, -2.0, 0.5, 30.0, 0.0], device=device)
    x = Make((5, 3, 6, 7), torch.float64, device).samples()
    x_adv = x.clone()
    ops.topp_step(x_adv, grad, x, size, math.inf, p=1 / 3, normalise=normalise, **WIDE)
    rows = grad.flatten(1)
    kept = torch.where(rows.abs() >= rows.abs().sort(1, descending=True).values[:, 41:42], rows, 0)
    share = size.double() / norms(grad if normalise == "all" else kept, 1)
    torch.testing.assert_close(x_adv, x + (share[:, None] * kept).view_as(x), rtol=0, atol=1e-14)
    if normalise == "kept":
        torch.testing.assert_close(norms(x_adv - x, 1), size.abs().double())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_topp_step_takes_equal_entries_by_index_in_any_memory_format(p, dtype, device):
    shape = (6, 3, 5, 8)
    grad = randn(*shape, dtype=dtype, device=device).round()  # few different values
    x = torch.full(shape, 0.5, dtype=dtype, device=device)
    contiguous = x.clone()

    def swapped(t: Tensor) -> Tensor:
        return t.transpose(2, 3).contiguous().transpose(2, 3)

    ops.topp_step(contiguous, grad, x, 2.0, 1.0, p=p)
    for layout in (channels_last, strided, transposed, swapped):
        x_adv = layout(x.clone())
        ops.topp_step(x_adv, layout(grad), layout(x), 2.0, 1.0, p=p)
        assert torch.equal(x_adv != x, contiguous != x)
        torch.testing.assert_close(x_adv, contiguous)
    for row, moved in zip(grad.flatten(1).tolist(), (contiguous != x).flatten(1).tolist(), strict=True):
        chosen = sorted(range(120), key=lambda i, row=row: (-abs(row[i]), i))[: math.ceil(p * 120)]
        assert {i for i in range(120) if moved[i]} == {i for i in chosen if row[i] != 0}


@pytest.mark.parametrize("device", DEVICES)
def test_topp_step_of_all_entries_is_an_l1_step(device):
    args = step_args(Make((21, 3, 8, 9), device=device)) | {"active": None}
    whole = args | {"x_adv": args["x_adv"].clone()}
    ops.l1_step(**args)
    for normalise in ("all", "kept"):
        found = whole | {"x_adv": whole["x_adv"].clone()}
        ops.topp_step(**found, p=1.0, normalise=normalise, projection="simplex")
        torch.testing.assert_close(found["x_adv"], args["x_adv"], rtol=0, atol=1e-6)
