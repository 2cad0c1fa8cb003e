"""adam_step: its case, and what it means."""

import math

import pytest
import torch
from torch import Tensor

from fastadv import ops

from .cases import DEVICES, FLOATS, NOT_FINITE, WIDE, Case, Make, randn, same

pytestmark = pytest.mark.numerics

CASE = Case(
    lambda make: {
        "x_adv": make.samples(-0.2, 1.2, written=True),
        "mean": make.samples(-1, 1, salt=(0.0, 1e-40), written=True, dtype=make.wide),
        "square": make.samples(salt=(0.0, 1e-40), written=True, dtype=make.wide),
        "grad": make.samples(-1, 1, salt=NOT_FINITE),
        "slope": make.samples(-1, 1),
        "weight": make.column(0.5, -2.0, 0.0, 1e30, 1e-30),
        "rate": make.column(0.01, 0.5, 0.0, -0.1),
        "count": 1,
        "active": make.mask(),
        "nonfinite": make.mask(False, True, False),
    },
    variants=(
        {},
        {"active": None, "nonfinite": None, "count": 7, "lo": -0.5, "hi": 0.7},
        {"count": 1000, "mean_decay": 0.5, "square_decay": 0.3, "tiny": 1e-3},
    ),
    refused=(
        ({"mean": torch.ones(3, 4, dtype=torch.float64)}, ValueError, r"mean .*torch\.float64"),
        ({"square": torch.ones(3, 5)}, ValueError, r"square .*\(3, 5\)"),
        ({"slope": torch.ones(3, 5)}, ValueError, r"slope .*\(3, 4\).*\(3, 5\)"),
        ({"weight": torch.ones(3, 1)}, ValueError, r"weight .*\(3, 1\)"),
        ({"rate": torch.ones(2)}, ValueError, r"rate .*\(2,\)"),
        ({"count": 0}, ValueError, "count must be at least 1, got 0"),
    ),
    # PyTorch's own square root may be off by its last bit, so nothing here is exact.
)


def moments(x: Tensor) -> dict[str, Tensor]:
    return {"mean": torch.zeros_like(x), "square": torch.zeros_like(x)}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("options", [{}, {"mean_decay": 0.5, "square_decay": 0.7, "tiny": 1e-3}])
def test_the_steps_are_those_of_torch(options, dtype, device):
    make = Make((5, 3, 4, 7), dtype, device)
    x, weight, rate = make.samples(), make.column(0.5, -2.0, 0.0, 30.0), make.column(0.01, 0.3)
    x_adv, state = x.clone(), moments(x)
    rows = [torch.nn.Parameter(row.double()) for row in x]
    adam = torch.optim.Adam(
        [{"params": [row], "lr": float(lr)} for row, lr in zip(rows, rate, strict=True)],
        betas=(options.get("mean_decay", 0.9), options.get("square_decay", 0.999)),
        eps=options.get("tiny", 1e-8),
    )
    for count in range(1, 8):
        grad, slope = (randn(*x.shape, dtype=dtype, device=device, seed=seed) for seed in (count, -count))
        for i, row in enumerate(rows):
            row.grad = slope[i].double() + weight[i].double() * grad[i].double()
        adam.step()
        ops.adam_step(x_adv, **state, grad=grad, slope=slope, weight=weight, rate=rate, count=count, **options, **WIDE)
        expected = torch.stack(rows).detach()
        torch.testing.assert_close(x_adv.double(), expected, rtol=0, atol=100 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("device", DEVICES)
def test_it_descends_to_a_minimum_and_stays_in_the_box(device):
    make = Make((4, 30), torch.float64, device)
    goal, x_adv = make.samples(-0.5, 1.5), make.samples()
    state = moments(x_adv)
    for count in range(1, 400):
        slope, grad = x_adv - goal, torch.zeros_like(x_adv)
        ops.adam_step(x_adv, **state, grad=grad, slope=slope, weight=1.0, rate=0.02, count=count)
        assert ((x_adv >= 0) & (x_adv <= 1)).all()
    torch.testing.assert_close(x_adv, goal.clamp(0, 1), rtol=0, atol=1e-3)


@pytest.mark.parametrize("device", DEVICES)
def test_gradient_entries_that_are_not_finite_count_as_0(device):
    x, slope = Make((3, 70), device=device).samples(), randn(3, 70, dtype=torch.float32, device=device)
    results = []
    for values in ([math.nan, math.inf, -math.inf], [0.0, 0.0, 0.0]):
        grad, x_adv = randn(3, 70, dtype=torch.float32, device=device, seed=1), x.clone()
        grad[:, :3] = torch.tensor(values)
        state = moments(x)
        ops.adam_step(x_adv, **state, grad=grad, slope=slope, weight=2.0, rate=0.1, count=1)
        results.append((x_adv, *state.values()))
    assert all(same(a, b) for a, b in zip(*results, strict=True))
