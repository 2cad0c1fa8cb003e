"""row_norms: its case, and what it means."""

import math

import pytest
import torch

from fastadv import ops

from .cases import DEVICES, DTYPES, Case

pytestmark = pytest.mark.numerics

CASE = Case(
    lambda make: {"x": make.samples(-1, 1, salt=(0.0, 1e-40)), "origin": make.samples()},
    variants=tuple({"norm": norm, **more} for norm in ops.NORMS for more in ({}, {"origin": None})),
    refused=(
        ({"norm": "l3"}, ValueError, "norm .*l1, l2, linf, rms, l0.*'l3'"),
        ({"origin": torch.ones(4)}, ValueError, r"origin .*\(4,\)"),
    ),
    atol=0,
)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_row_norms_are_the_norms(dtype, device):
    x, origin = (
        torch.randn(4, 3, 9, 11, generator=torch.Generator().manual_seed(seed)).to(device, dtype) for seed in (0, 1)
    )
    difference = (x.double() - origin.double()).flatten(1)
    expected = {
        "l1": difference.abs().sum(1),
        "l2": difference.square().sum(1).sqrt(),
        "linf": difference.abs().amax(1),
        "rms": difference.square().mean(1).sqrt(),
        "l0": (difference != 0).sum(1).double(),
    }
    for norm, values in expected.items():
        found = ops.row_norms(x, norm, origin)
        assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        torch.testing.assert_close(found.double(), values, rtol=2e-7, atol=0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("norm", ops.NORMS)
def test_row_norms_of_special_values(norm, device):
    x = torch.zeros(6, 129, device=device)
    x[1, 128] = math.nan
    x[2, 3] = -math.inf
    x[3, 0], x[3, 1] = math.inf, math.nan
    x[4, 127] = -1e-40
    x[5, 64] = 3e38
    scale = 129**-0.5 if norm == "rms" else 1.0
    expected = torch.tensor([0.0, math.nan, math.inf, math.nan, 1e-40 * scale, 3e38 * scale], device=device)
    if norm == "l0":
        expected = torch.tensor([0.0, math.nan, 1.0, math.nan, 1.0, 1.0], device=device)
    torch.testing.assert_close(ops.row_norms(x, norm), expected, rtol=1e-6, atol=3e-45, equal_nan=True)
    assert ops.row_norms(x[:, :0], norm).tolist() == [0.0] * 6
