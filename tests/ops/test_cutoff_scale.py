"""cutoff_scale: its case, and what it means."""

import math

import pytest
import torch

from fastadv import ops

from .cases import BUDGETS, DEVICES, DTYPES, Case, Make, same

pytestmark = pytest.mark.numerics

CASE = Case(
    lambda make: {
        "x_adv": make.samples(-0.2, 1.2, salt=(0.3, 1e-40), written=True),
        "x": make.samples(),
        "norms": make.column(0.3, 0.1, math.nan, 0.0, math.inf, 1e-40, 0.7),
        "eps": make.column(*BUDGETS),
        "active": make.mask(),
    },
    variants=(
        {},
        {"active": None, "rho": 0.3},
        {"rho": 0.0},
        {"rho": 1.7},
        {"eps": None},
        {"eps": None, "active": None, "rho": 0.3},
    ),
    refused=(
        ({"x": torch.ones(3, 4, dtype=torch.float16)}, ValueError, r"x must .*torch\.float16"),
        ({"norms": torch.ones(4)}, ValueError, r"norms .*\(4,\)"),
    ),
    exact=lambda args: args["eps"] is not None,
)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("norm", [norm for norm in ops.NORMS if norm != "l0"])  # no factor changes that
def test_cutoff_brings_every_norm_within_its_budget_once(norm, dtype, device):
    make = Make((40, 3, 16, 16), dtype, device)
    x, x_adv = make.samples(), make.samples()
    norms = ops.row_norms(x_adv, norm, x)
    eps = norms * torch.linspace(0.1, 1.9, 40, device=device, dtype=dtype)
    before = x_adv.clone()
    ops.cutoff_scale(x_adv, x, norms, eps)
    kept = norms <= eps
    assert 0 < kept.sum() < 40
    assert same(x_adv[kept], before[kept])
    after = ops.row_norms(x_adv, norm, x)
    assert (after <= eps * (1 + 1e-6)).all()
    torch.testing.assert_close(after[~kept], eps[~kept], rtol=1e-6, atol=0)
    straight = x + (eps / norms).clamp(max=1).view(-1, 1, 1, 1) * (before - x)
    torch.testing.assert_close(x_adv, straight, rtol=0, atol=4 * torch.finfo(dtype).eps)
    once = x_adv.clone()
    ops.cutoff_scale(x_adv, x, after, eps)
    torch.testing.assert_close(x_adv, once, rtol=0, atol=16 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_cutoff_scale_special_cases(dtype, device):
    make = Make((6, 5), dtype, device)
    x, x_adv = make.samples(), make.samples(salt=(math.nan, math.inf))
    before = x_adv.clone()
    norms = make.column(math.nan, math.inf, -math.inf, 0.5, 0.5, 0.5)
    ops.cutoff_scale(x_adv, x, norms, make.column(1.0, math.inf, 1.0, 0.0, 0.5, math.inf))
    assert same(x_adv[:4], x[:4])  # norms that are not finite, or no budget
    assert same(x_adv[4:], before[4:])  # at the budget, or no bound
    ops.cutoff_scale(x_adv, x, norms, 1.0, rho=0.0)
    assert same(x_adv, x)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("active", [None, [True, False, True, True, False, True]])
def test_without_eps_the_cutoff_is_the_mean_of_all_norms(active, dtype, device):
    make = Make((6, 5), dtype, device)
    x, x_adv = make.samples(), make.samples()
    measured = make.column(0.5, 3.0, math.nan, 1.25, math.inf, 0.25)  # whose sum is exact: 5
    mask = None if active is None else torch.tensor(active, device=device)
    found, expected = x_adv.clone(), x_adv.clone()
    ops.cutoff_scale(found, x, measured, rho=0.5, active=mask)
    ops.cutoff_scale(expected, x, measured, 5 / 6, rho=0.5, active=mask)
    assert same(found, expected)
    assert not same(found, x_adv)
