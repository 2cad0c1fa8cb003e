"""linf_step: its case, and what it means."""

import math

import pytest
import torch

from fastadv import ops

from .cases import DEVICES, DTYPES, FLOATS, Case, Make, randn, same, step_args

pytestmark = pytest.mark.numerics

CASE = Case(
    lambda make: step_args(make) | {"momentum": make.samples(-2, 2, salt=(0.0, math.nan, math.inf), written=True)},
    variants=(
        {"momentum": None},
        {"momentum": None, "active": None, "nonfinite": None},
        {"momentum": None, "lo": -0.5, "hi": 0.7},
        {},
        {"decay": 0.5, "active": None, "nonfinite": None},
    ),
    refused=(
        ({"x_adv": torch.ones(3, 4, dtype=torch.int64)}, TypeError, r"x_adv .*torch\.int64"),
        ({"x_adv": torch.tensor(1.0)}, ValueError, "x_adv .*scalar"),
        ({"grad": torch.ones(3, 5)}, ValueError, r"grad .*\(3, 4\).*\(3, 5\)"),
        ({"x": torch.ones(3, 4, dtype=torch.float64)}, ValueError, r"x must .*torch\.float64"),
        ({"grad": torch.ones(3, 4, device="meta")}, ValueError, "grad .*cpu.*meta"),
        ({"eps": torch.ones(2)}, ValueError, r"eps .*\(3,\).*\(2,\)"),
        ({"step_size": torch.ones(3, 1)}, ValueError, r"step_size .*\(3, 1\)"),
        ({"active": torch.ones(3)}, ValueError, r"active .*torch\.bool.*torch\.float32"),
        ({"active": torch.ones(2, dtype=torch.bool)}, ValueError, r"active .*\(3,\).*\(2,\)"),
        ({"active": torch.ones(3, dtype=torch.bool, device="meta")}, ValueError, "active .*cpu.*meta"),
        ({"nonfinite": torch.ones(3)}, ValueError, r"nonfinite .*torch\.bool.*torch\.float32"),
        ({"x_adv": torch.ones(3, 4, requires_grad=True)}, RuntimeError, "no gradient.*x_adv"),
        ({"grad": torch.ones(3, 4, requires_grad=True)}, RuntimeError, "no gradient.*grad"),
        ({"momentum": torch.ones(3, 5)}, ValueError, r"momentum .*\(3, 4\).*\(3, 5\)"),
    ),
    exact=lambda args: args.get("momentum") is None,
)


@pytest.mark.parametrize("device", DEVICES)
def test_linf_step_is_a_projected_sign_step(device):
    args = CASE.arguments({"active": None, "momentum": None}, device=device, shape=(65, 3, 5, 7))
    start, grad, x, step, eps = (args[name].double() for name in ("x_adv", "grad", "x", "step_size", "eps"))
    ops.linf_step(**args)
    sign = torch.where(grad.abs() < math.inf, grad.sign(), torch.zeros_like(grad))
    step, eps = step[:, None, None, None], eps[:, None, None, None]
    expected = (x + (start + step * sign - x).clip(-eps, eps)).clip(0, 1)
    torch.testing.assert_close(args["x_adv"].double(), expected, rtol=0, atol=1e-6)
    assert ((args["x_adv"] - x).abs() <= eps + 2**-24).all()
    assert ((args["x_adv"] >= 0) & (args["x_adv"] <= 1)).all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_linf_step_where_the_gradient_is_nan_infinite_or_zero_moves_nothing(dtype, device):
    x = Make((6, 5), dtype, device).samples()
    grad = torch.tensor([math.nan, -math.nan, math.inf, -math.inf, 0.0, -0.0], device=device)[:, None].expand(6, 5)
    x_adv = x.clone()
    ops.linf_step(x_adv, grad.to(dtype), x, 0.1, 0.3)
    assert same(x_adv, x)
    for size in (torch.finfo(dtype).smallest_normal / 4, torch.finfo(dtype).max):  # the ends of what is a direction
        x_adv = x.clone()
        ops.linf_step(x_adv, torch.full_like(x, size), x, 0.125, 1.0)
        assert (x_adv > x).all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("decay", [1.0, 0.5, 0.0])
def test_momentum_is_that_of_mim(decay, dtype, device):
    x = Make((4, 3, 5, 7), dtype, device).samples()
    x_adv, momentum = x.clone(), torch.zeros_like(x)
    point, sum_ = x.double(), torch.zeros_like(x, dtype=torch.float64)
    for step in range(5):
        grad = randn(4, 3, 5, 7, dtype=dtype, device=device, seed=step) * 10.0**-step
        grad[0] = 0 if step == 2 else grad[0]  # nothing to add: goes on as before
        grad[1, 0, 0, :2] = torch.tensor([math.nan, math.inf])
        clean = grad.double().nan_to_num(0, 0, 0)
        sum_ = decay * sum_ + clean / clean.abs().mean((1, 2, 3), keepdim=True).clamp(min=1e-30)
        point = (x + (point + 0.03 * sum_.sign() - x).clip(-0.1, 0.1)).clip(0, 1)
        ops.linf_step(x_adv, grad, x, 0.03, 0.1, momentum=momentum, decay=decay)
        torch.testing.assert_close(momentum.double(), sum_, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(x_adv.double(), point, rtol=0, atol=1e-6)
