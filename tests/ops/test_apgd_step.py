"""apgd_step: its case, and what it means."""

import math

import pytest
import torch
from torch import Tensor

from fastadv import ops

from .cases import DEVICES, DTYPES, FLOATS, Case, Make, randn, same, step_args

pytestmark = pytest.mark.numerics

CASE = Case(
    lambda make: {"previous": make.samples(written=True)} | step_args(make),
    variants=(
        {},
        {"active": None, "nonfinite": None, "share": 0.6},
        {"share": 1.0, "lo": -0.5, "hi": 0.7},
        {"norm": "l2"},
        {"norm": "l2", "active": None, "nonfinite": None, "share": 1.0},
        {"norm": "l2", "share": 0.3, "lo": -0.5, "hi": 0.7},
    ),
    refused=(
        ({"x_adv": torch.ones(3, 5)}, ValueError, r"x_adv .*\(3, 4\).*\(3, 5\)"),
        ({"grad": torch.ones(3, 4, dtype=torch.float64)}, ValueError, r"grad .*torch\.float64"),
        ({"eps": torch.ones(2)}, ValueError, r"eps .*\(3,\).*\(2,\)"),
        ({"norm": "l1"}, ValueError, "norm .*linf, l2.*'l1'"),
    ),
    exact=lambda args: args.get("norm", "linf") == "linf",
)
STEPS = {"linf": ops.linf_step, "l2": ops.l2_step}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("norm", STEPS)
def test_with_share_1_it_is_the_step_of_pgd(norm, dtype, device):
    args = CASE.arguments({"norm": norm, "share": 1.0, "active": None}, shape=(33, 131), dtype=dtype, device=device)
    pgd = {name: args[name].clone() for name in ("x_adv", "grad", "x", "step_size", "eps", "nonfinite")}
    STEPS[norm](**pgd)
    ops.apgd_step(**args)
    assert same(args["previous"], pgd["x_adv"])
    assert same(args["nonfinite"], pgd["nonfinite"])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("share", [0.75, 0.6, 0.0])
@pytest.mark.parametrize("norm", STEPS)
def test_it_is_a_step_a_mean_and_the_projection_of_a_step_that_stays(norm, share, dtype, device):
    args = CASE.arguments({"norm": norm, "share": share, "active": None}, shape=(33, 131), dtype=dtype, device=device)
    step, (x_adv, x, eps) = STEPS[norm], (args[name] for name in ("x_adv", "x", "eps"))
    point = x_adv.clone()
    step(point, args["grad"], x, args["step_size"], eps)
    point = x_adv + share * (point - x_adv) + (1 - share) * (x_adv - args["previous"])
    step(point, torch.zeros_like(x), x, 0.0, eps)
    ops.apgd_step(**args)
    torch.testing.assert_close(args["previous"], point, rtol=0, atol=4 * torch.finfo(dtype).eps)
    assert norm == "l2" or same(args["previous"], point)


def published(x: Tensor, x_adv: Tensor, x_adv_old: Tensor, grad: Tensor, step: Tensor, eps: float, a: float, norm: str):
    """The update of the authors' apgd_attack.py, in its names, without the 1e-12 beside norms."""
    ones = [-1, *[1] * (x.dim() - 1)]

    def length(t: Tensor) -> Tensor:
        return t.flatten(1).norm(dim=1).view(ones)

    grad2, step = x_adv - x_adv_old, step.view(ones)
    if norm == "linf":
        x_adv_1 = x_adv + step * torch.sign(grad)
        x_adv_1 = torch.clamp(torch.min(torch.max(x_adv_1, x - eps), x + eps), 0.0, 1.0)
        x_adv_1 = x_adv + (x_adv_1 - x_adv) * a + grad2 * (1 - a)
        return torch.clamp(torch.min(torch.max(x_adv_1, x - eps), x + eps), 0.0, 1.0)

    def within(t: Tensor) -> Tensor:
        return torch.clamp(x + (t - x) / length(t - x) * length(t - x).clamp(max=eps), 0.0, 1.0)

    x_adv_1 = within(x_adv + step * grad / length(grad))
    return within(x_adv + (x_adv_1 - x_adv) * a + grad2 * (1 - a))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.1), ("l2", 1.5)])
def test_steps_in_turn_are_those_of_the_authors(norm, eps, device):
    x = Make((20, 3, 5, 7), torch.float64, device).samples()
    x_adv, before = x.clone(), x.clone()
    here, old = x.clone(), x.clone()
    for i in range(6):
        grad, step = randn(20, 3, 5, 7, device=device, seed=i), torch.full((20,), 2 * eps * 0.7**i, device=device)
        share = 0.75 if i else 1.0
        ops.apgd_step(before, x_adv, grad, x, step, eps, norm, share)
        x_adv, before = before, x_adv
        here, old = published(x, here, old, grad, step.double(), eps, share, norm), here
        torch.testing.assert_close(x_adv, here, rtol=0, atol=1e-13)
        torch.testing.assert_close(before, old, rtol=0, atol=1e-13)
    assert ((x_adv - x).abs() > eps / 100).any()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("norm", STEPS)
def test_samples_that_are_not_active_stay_where_they_are(norm, dtype, device):
    args = CASE.arguments({"norm": norm}, shape=(8, 3, 4, 5), dtype=dtype, device=device)
    start, active = args["previous"].clone(), args["active"]
    ops.apgd_step(**args)
    assert same(args["previous"][~active], args["x_adv"][~active])
    assert not (args["previous"][~active] == start[~active]).all()
    assert (args["previous"][active] != args["x_adv"][active]).flatten(1).any(1).any()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("norm", STEPS)
def test_gradient_entries_that_are_not_finite_count_as_0(norm, device):
    args = CASE.arguments({"norm": norm, "active": None}, shape=(3, 70), device=device)
    args["grad"] = randn(3, 70, dtype=torch.float32, device=device)
    args["grad"][:, :3] = 0
    other = {name: value.clone() if isinstance(value, Tensor) else value for name, value in args.items()}
    other["grad"][:, :3] = torch.tensor([math.nan, math.inf, -math.inf])
    ops.apgd_step(**args)
    ops.apgd_step(**other)
    assert same(args["previous"], other["previous"])
