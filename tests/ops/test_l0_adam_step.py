"""l0_adam_step: its case, and that it is sigma-zero's step."""

import math

import pytest
import torch

from fastadv import ops

from .cases import DEVICES, FLOATS, NOT_FINITE, Case, Make, same

pytestmark = pytest.mark.numerics

CASE = Case(
    lambda make: {
        "x_adv": make.samples(-0.2, 1.2, written=True),
        "mean": make.samples(-1, 1, salt=(0.0, 1e-40), written=True, dtype=make.wide),
        "square": make.samples(0.1, 1, written=True, dtype=make.wide),
        "grad": make.samples(-1, 1, salt=NOT_FINITE),
        "x": make.samples(),
        "threshold": make.column(0.3, 0.0, 1.0),
        "rate": make.column(0.01, 0.5, 0.0, 1.0),
        "count": 1,
        "active": make.mask(),
        "nonfinite": make.mask(False, True, False),
    },
    variants=(
        {},
        {"active": None, "nonfinite": None, "count": 7, "lo": -0.5, "hi": 0.7, "sigma": 0.1},
        {"count": 1000, "unit": 4.0, "mean_decay": 0.5, "square_decay": 0.3, "tiny": 1e-3},
    ),
    refused=(
        ({"mean": torch.ones(3, 4, dtype=torch.float64)}, ValueError, r"mean .*torch\.float64"),
        ({"threshold": torch.ones(2)}, ValueError, r"threshold .*\(2,\)"),
        ({"count": 0}, ValueError, "count must be at least 1, got 0"),
    ),
)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("unit", [1.0, 255.0])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_it_descends_what_autograd_says(dtype, unit, device):
    make = Make((6, 3, 4, 5), dtype, device)
    x, slope = unit * make.samples(), make.samples(-1, 1) / unit
    x_adv, sigma = x + 0.1 * unit * make.samples(-1, 1), 0.01
    leaf = x_adv.clone().requires_grad_()
    delta = (leaf - x) / unit
    loss = (delta.square() / (delta.square() + sigma)).flatten(1).mean(1).sum() - (slope * leaf).sum()
    (down,) = torch.autograd.grad(loss, leaf)
    down = down / down.flatten(1).abs().amax(1).view(-1, 1, 1, 1)
    moments = torch.zeros_like(x), torch.zeros_like(x)
    adam = torch.optim.Adam([point := torch.nn.Parameter(x_adv.clone())], lr=0.2 * unit)
    for count in (1, 2):
        point.grad = down if count == 1 else torch.zeros_like(down)
        adam.step()
    ops.l0_adam_step(x_adv, *moments, slope, x, 0.0, 0.2 * unit, 1, sigma, unit, lo=-math.inf, hi=math.inf)
    torch.testing.assert_close(moments[0], 0.1 * down, rtol=1e-4, atol=1e-6)
    still = -0.9 * moments[0] / 0.1 * 0.1 / 0.19 / (0.999 * moments[1] / (1 - 0.999**2)).sqrt().clamp(min=1e-8)
    torch.testing.assert_close(x_adv + 0.2 * unit * still, point.detach(), rtol=1e-3, atol=2e-3 * unit)


@pytest.mark.parametrize("device", DEVICES)
def test_entries_nearer_than_the_threshold_return_to_x(device):
    x = torch.full((2, 5), 0.5, device=device)
    delta = torch.tensor([0.0, 0.1, -0.2, 0.3, -0.4], device=device)
    x_adv, moments = x + delta, (torch.zeros_like(x), torch.zeros_like(x))
    how = {"count": 1, "lo": 0.0, "hi": 1.0}
    ops.l0_adam_step(x_adv, *moments, torch.zeros_like(x), x, torch.tensor([0.25, 0.0], device=device), 0.0, **how)
    assert same(x_adv[0], torch.where(delta.abs() < 0.25, x[0], x[0] + delta))
    assert same(x_adv[1], x[1] + delta)
