"""l2_step, l1_step and topp_step: steps in a ball, and its projections."""

import itertools
import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from fastadv import ops

from .cases import DEVICES, DTYPES, FLOATS, WIDE, Make, norms, randn, same

pytestmark = pytest.mark.numerics


# A step that moves every entry, and the norm that its sizes are in.
BALLS = [
    pytest.param(ops.l2_step, {}, 2, id="l2_step"),
    pytest.param(ops.l1_step, {}, 1, id="l1_step"),
    pytest.param(ops.topp_step, {"p": 1.0}, 1, id="topp_step radial"),
    pytest.param(ops.topp_step, {"p": 1.0, "projection": "simplex", "normalise": "kept"}, 1, id="topp_step simplex"),
]


balls = pytest.mark.parametrize(("step", "options", "order"), BALLS)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@balls
def test_a_step_from_the_origin_follows_the_gradient_as_far_as_asked(step, options, order, dtype, device):
    make = Make((40, 3, 9, 7), dtype, device)
    x, grad = make.samples(), randn(40, 3, 9, 7, dtype=dtype, device=device) * 1e-4
    size = make.column(0.5, 3.0, -0.5, 0.0, 100.0)
    x_adv = x.clone()
    step(x_adv, grad, x, size, math.inf, **options, **WIDE)
    moved, wanted = (x_adv - x).double(), (size / norms(grad, order)).view(-1, 1, 1, 1) * grad.double()
    torch.testing.assert_close(moved, wanted, rtol=0, atol=50 * torch.finfo(dtype).eps)
    torch.testing.assert_close(norms(moved, order), size.abs().double(), rtol=0, atol=1e4 * torch.finfo(dtype).eps)
    assert ((moved * grad).flatten(1).sum(1).sign() == size.sign()).all()  # a negative step descends


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@balls
def test_steps_stay_in_ball_and_box(step, options, order, dtype, device):
    make = Make((30, 65), dtype, device)
    x, eps = make.samples(), make.column(0.0, 0.1, 1.0, 5.0)
    x_adv = x.clone()
    for seed in range(4):
        step(x_adv, randn(30, 65, dtype=dtype, device=device, seed=seed), x, make.column(2.0, 0.3, 4.0), eps, **options)
        rounding = 65 ** (1 / order) * torch.finfo(dtype).eps / 2
        assert (norms(x_adv.double() - x.double(), order) <= eps.double() * (1 + 1e-6) + rounding).all()
        assert ((x_adv >= 0) & (x_adv <= 1)).all()
    assert same(x_adv[::4], x[::4])
    assert not torch.equal(x_adv[1], x[1])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@balls
def test_without_a_direction_nothing_moves(step, options, order, dtype, device):
    x = torch.full((4, 6), 0.5, dtype=dtype, device=device)
    x_adv = x.clone()
    x_adv[:, 2] = 0.75  # sums and differences are exact
    before = x_adv.clone()
    grad = torch.tensor([0.0, -0.0, math.nan, -math.inf], device=device)[:, None].expand(4, 6).to(dtype)
    step(x_adv, grad, x, 3.0, 0.5, **options)
    assert same(x_adv, before)


@pytest.mark.parametrize("device", DEVICES)
@balls
def test_gradient_entries_that_are_not_finite_count_as_0(step, options, order, device):
    x, grad = Make((3, 70), device=device).samples(), randn(3, 70, dtype=torch.float32, device=device)
    zeros, broken = grad.clone(), grad.clone()
    zeros[:, :3], broken[:, :3] = 0, torch.tensor([math.nan, math.inf, -math.inf])
    found, expected = x.clone(), x.clone()
    step(found, broken, x, 1.0, 0.7, **options)
    step(expected, zeros, x, 1.0, 0.7, **options)
    assert same(found, expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size", [1e-38, 1e-40, 1e-45, torch.finfo(torch.float32).max])
@balls
def test_a_gradient_of_any_size_shows_the_way(step, options, order, size, device):
    x = torch.full((2, 6), 0.5, device=device)
    x_adv = x.clone()
    grad = torch.tensor([size, -size, 0, size, 0, -size], device=device).expand(2, 6)
    step(x_adv, grad, x, 0.1, 1.0, **options)
    assert torch.equal((x_adv - x).sign(), grad.sign())
    assert (norms(x_adv - x, order) <= 0.1 + 1e-6).all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("step", "options"), [(ops.l2_step, {}), (ops.topp_step, {"p": 0.5})])
def test_the_radial_projection_shrinks_the_whole_perturbation(step, options, device):
    make = Make((9, 4, 5, 6), torch.float64, device)
    x, delta, eps = make.samples(), make.samples(-1, 1), make.column(1.0, 0.0, 3.0, 1e3)
    x_adv = x + delta
    step(x_adv, torch.zeros_like(x), x, 1.0, eps, **options, **WIDE)
    factor = (eps / norms(delta, 2 if step is ops.l2_step else 1)).clamp(max=1).view(-1, 1, 1, 1)
    torch.testing.assert_close(x_adv, x + factor * delta, rtol=0, atol=1e-14)


def nearest_in_l1_ball(delta: Sequence[float], eps: float) -> Tensor:
    """By trying every support: on it all magnitudes are less by the same theta."""
    best = torch.zeros(len(delta), dtype=torch.float64)
    goal = torch.tensor(delta, dtype=torch.float64)
    if goal.abs().sum() <= eps:
        return goal
    for count in range(1, len(delta) + 1):
        for support in map(list, itertools.combinations(range(len(delta)), count)):
            size = goal[support].abs() - (goal[support].abs().sum() - eps) / count
            if (size >= 0).all():
                candidate = torch.zeros_like(goal)
                candidate[support] = goal[support].sign() * size
                best = min(best, candidate, key=lambda point: float((point - goal).norm()))
    return best


simplex = pytest.mark.parametrize(
    ("step", "options"), [(ops.l1_step, {}), (ops.topp_step, {"p": 0.5, "projection": "simplex"})]
)


@pytest.mark.parametrize("device", DEVICES)
@simplex
def test_the_simplex_projection_is_the_nearest_point_of_the_l1_ball(step, options, device):
    delta = torch.cat((randn(60, 5), randn(20, 5).round(), torch.zeros(1, 5), torch.ones(1, 5))).to(device)
    x = torch.zeros_like(delta)
    for eps in (0.0, 0.01, 1.0, 2.5):
        x_adv = delta.clone()
        step(x_adv, torch.zeros_like(x), x, 1.0, eps, **options, **WIDE)
        expected = torch.stack([nearest_in_l1_ball(row, eps) for row in delta.tolist()])
        torch.testing.assert_close(x_adv.cpu(), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@simplex
def test_the_simplex_projection_meets_the_kkt_conditions_and_is_idempotent(step, options, dtype, device):
    make = Make((12, 3, 20, 21), dtype, device)
    delta, eps = make.samples(-1, 1), make.column(0.3, 30.0, 1e-3, 1e4)
    x, point = torch.zeros_like(delta), delta.clone()
    step(point, x, x, 1.0, eps, **options, **WIDE)
    outside = norms(delta, 1) > eps
    assert outside.tolist() == [True, True, True, False] * 3
    assert same(point[~outside], delta[~outside])
    tiny = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(norms(point, 1)[outside], eps[outside].double(), rtol=1e4 * tiny, atol=0)
    for before, after in zip(delta[outside].double(), point[outside].double(), strict=True):
        support = after != 0
        taken = before.abs() - after.abs()
        theta = taken[support].mean()
        assert (after.sign() == before.sign())[support].all()
        assert ((taken[support] - theta).abs() <= tiny).all()
        assert (before[~support].abs() <= theta + tiny).all()
    again = point.clone()
    step(again, x, x, 1.0, eps, **options, **WIDE)
    torch.testing.assert_close(again, point, rtol=0, atol=tiny)
