"""fastadv.ops: each op against its own definition, in closed form, by its invariants or by brute force.

Agreement with the references over layouts, types and shapes is test_ops.py's.
"""

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction
from statistics import NormalDist

import pytest
import torch
from test_ops import DEVICES, DTYPES, Make, arguments, channels_last, same, strided, transposed
from torch import Tensor

from fastadv import ops

pytestmark = pytest.mark.numerics

WIDE = {"lo": -math.inf, "hi": math.inf}
FLOATS = [torch.float32, torch.float64]


def randn(*shape: int, dtype: torch.dtype = torch.float64, device: str = "cpu", seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(device, dtype)


def norms(t: Tensor, order: float) -> Tensor:
    return torch.linalg.vector_norm(t.double().flatten(1), order, dim=1)


# ---------------------------------------------------------------------------------------------------------- linf_step


@pytest.mark.parametrize("device", DEVICES)
def test_linf_step_is_a_projected_sign_step(device):
    args = arguments("linf_step", {"active": None, "momentum": None}, device=device, shape=(65, 3, 5, 7))
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


# ------------------------------------------------------------------------------------------ l2_step, l1_step, topp_step

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
    args = arguments("l1_step", {"active": None}, device=device, shape=(21, 3, 8, 9))
    whole = args | {"x_adv": args["x_adv"].clone()}
    ops.l1_step(**args)
    for normalise in ("all", "kept"):
        found = whole | {"x_adv": whole["x_adv"].clone()}
        ops.topp_step(**found, p=1.0, normalise=normalise, projection="simplex")
        torch.testing.assert_close(found["x_adv"], args["x_adv"], rtol=0, atol=1e-6)


# ---------------------------------------------------------------------------------------------------------- row_norms


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
    torch.testing.assert_close(ops.row_norms(x, norm), expected, rtol=1e-6, atol=3e-45, equal_nan=True)
    assert ops.row_norms(x[:, :0], norm).tolist() == [0.0] * 6


# ------------------------------------------------------------------------------------------------------- cutoff_scale


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("norm", ops.NORMS)
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


# --------------------------------------------------------------------------------------------------------- early_stop


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("samples", "steps", "dtype"),
    [(37, 10, dtype) for dtype in DTYPES]
    # In the CUDA kernel: one row; more than a warp's lanes, and than one round of the block's 16 warps.
    + [(count, 2, torch.float32) for count in (1, 513, 512 * 32 + 37)],
)
def test_early_stop_keeps_the_books_of_pgd_k_tau(samples, steps, dtype, device):
    """FAT's Algorithm 1, sample by sample."""
    generator = torch.Generator().manual_seed(samples)
    labels, tau = (torch.randint(high, (samples,), generator=generator) for high in (3, steps + 1))
    found_tau, active = tau.to(device), None
    left, live = tau.tolist(), [True] * samples
    for step in range(steps):
        logits = randn(samples, 3, dtype=dtype, device=device, seed=step)
        found, active, order, count = ops.early_stop(logits, labels.to(device), found_tau, active)
        predictions = logits.cpu().argmax(1).tolist()  # where the first of equal ones wins
        for i in range(samples):
            if live[i] and predictions[i] != labels[i]:
                live[i] = left[i] > 0
                left[i] -= live[i]
        assert (found.tolist(), found_tau.tolist(), active.tolist()) == (predictions, left, live)
        going, stopped = ([i for i in range(samples) if live[i] == wanted] for wanted in (True, False))
        assert order.tolist() == going + stopped[::-1]
        assert count.tolist() == [len(going)]


@pytest.mark.parametrize("device", DEVICES)
def test_early_stop_is_pgd_k_where_tau_is_k_and_stops_at_once_where_it_is_0(device):
    logits = randn(50, 4, device=device)
    wrong = (logits.argmax(1) + 1) % 4
    for tau, goes_on in ((3, True), (0, False), (-1, False)):
        left, active = torch.full((50,), tau, device=device), None
        for _ in range(3):
            _, active, _, count = ops.early_stop(logits, wrong, left, active)
            assert (active == goes_on).all()
            assert count.item() == 50 * goes_on
        assert left.tolist() == [0 if goes_on else tau] * 50
    tau = torch.zeros(50, dtype=torch.int64, device=device)
    _, active, order, _ = ops.early_stop(logits, logits.argmax(1), tau)  # none is wrong
    assert active.all()
    assert order.tolist() == list(range(50))


# ------------------------------------------------------------------------------------------------------ deepfool_step


def linear(dtype: torch.dtype, device: str, samples: int = 30, classes: int = 6) -> dict[str, Tensor]:
    """deepfool_step's arguments at random points of a linear model."""
    weight, x = randn(classes, 3, 4, 5, dtype=dtype, device=device), Make((samples, 3, 4, 5), dtype, device).samples()
    logits = (x.double().flatten(1) @ weight.double().flatten(1).T).to(dtype)
    return {
        "x_adv": x.clone(),
        "delta": torch.zeros_like(x),
        "x": x,
        "logits": logits,
        "grads": weight.expand(samples, *weight.shape),
        "labels": logits.argmax(1),
    }


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(("norm", "order", "dual"), [("l2", 2, 2), ("linf", math.inf, 1)])
def test_deepfool_step_of_a_linear_model_goes_straight_to_the_nearest_boundary(norm, order, dual, dtype, device):
    args = linear(dtype, device)
    target, distance = ops.deepfool_step(**args, norm=norm, overshoot=0.02, **WIDE)
    weight, logits, labels, rows = args["grads"].double(), args["logits"].double(), args["labels"], torch.arange(30)
    w = weight - weight[rows, labels].unsqueeze(1)
    gap = logits[rows, labels].unsqueeze(1) - logits
    away = (gap + 1e-5) / torch.linalg.vector_norm(w.flatten(2), dual, dim=2)
    away[rows, labels] = math.inf
    assert torch.equal(target, away.argmin(1))
    torch.testing.assert_close(distance.double(), away.amin(1), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(norms(args["delta"], order), distance.double(), rtol=1e-5, atol=0)
    after = logits + torch.einsum("bchw,bkchw->bk", args["delta"].double(), weight)
    won = after[rows, target] - after[rows, labels]
    torch.testing.assert_close(won, torch.full_like(won, 1e-5), rtol=0, atol=100 * torch.finfo(dtype).eps)
    torch.testing.assert_close(args["x_adv"], args["x"] + 1.02 * args["delta"], rtol=0, atol=4 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_deepfool_steps_add_up_and_stay_in_the_box(norm, device):
    args = linear(torch.float64, device)
    ops.deepfool_step(**args, norm=norm, overshoot=0.5)
    first, box = args["delta"].clone(), args["x_adv"].clone()
    torch.testing.assert_close(box, (args["x"] + 1.5 * first).clamp(0, 1))
    assert ((args["x"] + 1.5 * first - box) != 0).any()
    ops.deepfool_step(**args, norm=norm, overshoot=0.5)
    torch.testing.assert_close(args["delta"], 2 * first)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_deepfool_step_goes_beyond_the_boundary(norm, device):
    args = linear(torch.float64, device)
    _, distance = ops.deepfool_step(**args, norm=norm, beyond=0.25)
    torch.testing.assert_close(norms(args["delta"], 2 if norm == "l2" else math.inf), distance + 0.25)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_deepfool_step_skips_classes_without_a_boundary(norm, device):
    args = linear(torch.float32, device, samples=4, classes=4)
    grads, logits = args["grads"].clone(), args["logits"]
    args["labels"] = torch.zeros(4, dtype=torch.int64, device=device)
    grads[0] = 0  # no class can be told from the label's
    grads[0, 1, 0, 0, 0] = 1e-9
    grads[1, 1], logits[1, 1] = grads[1, 0], logits[1, 0]  # as near as can be, and no boundary to go to
    grads[2, 2:, 0, 0, 0] = torch.tensor([math.nan, math.inf])  # one left
    grads[3, 0, 0, 0, 0] = math.nan  # the label's own: none left
    before = args["delta"].clone()
    target, distance = ops.deepfool_step(**args | {"grads": grads}, norm=norm)
    assert target[0] == 0
    assert target[1] in (2, 3)
    assert target[2] == 1
    assert target[3] == 0
    assert [value > 0 for value in distance.tolist()] == [False, True, True, False]
    moved = (args["delta"] != before).flatten(1).any(1)
    assert moved.tolist() == [False, True, True, False]
    assert args["delta"].isfinite().all()


@pytest.mark.parametrize("device", DEVICES)
def test_deepfool_step_leaves_unknown_labels_and_inactive_samples_where_they_are(device):
    args = linear(torch.float64, device, samples=7, classes=3)
    args["labels"] = torch.tensor([-1, 3, 2**40, -(2**40), 2, 1, 0], device=device)
    args["delta"] += 0.0625
    active = torch.tensor([True] * 5 + [False] * 2, device=device)
    before, start = args["delta"].clone(), args["x_adv"].clone()
    target, distance = ops.deepfool_step(**args, active=active)
    still = torch.tensor([True] * 4 + [False] + [True] * 2, device=device)
    assert same(args["delta"][still], before[still])
    assert (args["delta"][4] != before[4]).any()
    assert torch.equal(target[still], args["labels"][still])
    assert (distance[still] == 0).all()
    assert torch.equal(args["x_adv"][:4], (args["x"] + before).clamp(0, 1)[:4])
    assert same(args["x_adv"][5:], start[5:])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("samples", [1, 4])
def test_deepfool_step_reads_gradients_wherever_they_lie(samples, device):
    args = linear(torch.float32, device, samples=samples, classes=3)
    start = args["delta"].clone()
    places = [
        torch.Tensor.contiguous,
        lambda t: t.repeat_interleave(2, dim=1)[:, ::2],
        lambda t: t.transpose(0, 1).contiguous().transpose(0, 1),  # stacked class by class
        lambda t: t.movedim(2, -1).contiguous().movedim(-1, 2),
    ]
    for place in places:
        for x_place in (torch.Tensor.contiguous, channels_last):
            found = args | {"delta": x_place(start.clone()), "x_adv": x_place(args["x"].clone())}
            ops.deepfool_step(**found | {"grads": place(args["grads"])})
            if place is x_place is torch.Tensor.contiguous:
                expected = found["delta"]
                assert (expected != start).flatten(1).any(1).all()
            torch.testing.assert_close(found["delta"], expected, rtol=1e-6, atol=0)


# -------------------------------------------------------------------------------------------------------- bisect_step


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_bisection_closes_in_on_the_crossing(dtype, device):
    make = Make((8, 3, 4, 4), dtype, device)
    start, end = make.samples(), make.samples()
    crossing = torch.tensor([0.0, 1e-3, 0.3, 0.5, 0.75, 0.999, 1.0, 2.0], device=device)  # the last is never crossed
    inner, outer, middle = start.clone(), end.clone(), (start + end) / 2

    def place(t: Tensor) -> Tensor:
        return ((t - start) / (end - start)).flatten(1).double().median(1).values

    for k in range(1, 11):
        ops.bisect_step(inner, outer, middle, place(middle) < crossing)
        assert ((place(outer) - place(inner) - 2.0**-k).abs() < 1e-3 * 2.0**-k + 1e-6).all()
        assert (place(inner) <= crossing + 1e-6).all()
        assert (place(outer) >= crossing.clamp(max=1) - 1e-6).all()
        torch.testing.assert_close(middle, (inner + outer) / 2, rtol=0, atol=torch.finfo(dtype).eps)
    assert same(inner[0], start[0])
    assert same(outer[6:], end[6:])  # what is not crossed ends 2^-10 before the end


@pytest.mark.parametrize("device", DEVICES)
def test_bisection_is_that_of_plain_python(device):
    ends = randn(2, 5, 3)
    inner, outer, middle = (t.clone().to(device) for t in (ends[0], ends[1], (ends[0] + ends[1]) / 2))
    expected = [[(a, b) for a, b in zip(*row, strict=True)] for row in ends.transpose(0, 1).tolist()]
    for inside in torch.randint(2, (20, 5), generator=torch.Generator().manual_seed(0)).bool():
        ops.bisect_step(inner, outer, middle, inside.to(device))
        for i, keep in enumerate(inside.tolist()):
            middles = [(a + b) / 2 for a, b in expected[i]]
            expected[i] = [(m, b) if keep else (a, m) for (a, b), m in zip(expected[i], middles, strict=True)]
        assert torch.stack((inner, outer), dim=-1).tolist() == [[list(pair) for pair in row] for row in expected]
        assert middle.tolist() == [[(a + b) / 2 for a, b in row] for row in expected]


# ------------------------------------------------------------------------------------------------------- random_start


def philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x32-10, from the paper: Salmon et al., SC 2011, section 3.3."""
    (left, other_left, right, other_right), (k0, k1) = counter, key
    for _ in range(10):
        p, q = left * 0xD2511F53, right * 0xCD9E8D57
        left, other_left = (q >> 32) ^ other_left ^ k0, q % 2**32
        right, other_right = (p >> 32) ^ other_right ^ k1, p % 2**32
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return [left, other_left, right, other_right]


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ("0 0 0 0", "0 0", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff " * 4, "ffffffff " * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            "243f6a88 85a308d3 13198a2e 03707344",
            "a4093822 299f31d0",
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_gives_the_known_answers(counter, key, answer):
    assert philox(words(counter), words(key)) == words(answer)


def noise(
    ids: Sequence[int], seed: int = 0, restart: int = 0, cols: int = 10, device: str = "cpu", **options
) -> Tensor:
    """The noise of size 1 around 0."""
    x = torch.zeros(len(ids), cols, dtype=options.pop("dtype", torch.float64), device=device)
    return ops.random_start(x, torch.tensor(ids, device=device), 1.0, seed, restart, **WIDE, **options)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("seed", [0, 1, -1, -(2**63), 2**63 - 1, 2**32])
@pytest.mark.parametrize("restart", [0, 5, 2**32 - 1])
def test_random_start_is_philox_by_seed_id_and_restart(seed, restart, device):
    ids = [0, 1, 2**32 - 1, 2**32, 2**32 + 1, 2**62, -1]
    found = noise(ids, seed, restart, device=device).cpu()
    drawn = ((found * 2**24 + 2**24 - 1) / 2).long()
    signs = noise(ids, seed, restart, device=device, law="sign").cpu()
    for row, sample in enumerate(ids):
        random = [
            word >> 8
            for block in range(3)
            for word in philox(
                [block, restart, sample % 2**32, (sample >> 32) % 2**32], [seed % 2**32, (seed >> 32) % 2**32]
            )
        ]
        assert drawn[row].tolist() == random[:10]
        assert signs[row].tolist() == [1.0 if word >= 2**23 else -1.0 for word in random[:10]]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("law", ops.LAWS)
def test_random_start_depends_on_nothing_else(law, device):
    ids = list(range(50))
    alone = torch.cat([noise([i], device=device, law=law) for i in ids])
    together = noise(ids, device=device, law=law)
    assert same(together, alone)
    assert same(noise(ids[::-1], device=device, law=law), together.flip(0))
    for dtype in DTYPES:
        found = noise(ids, dtype=dtype, device=device, law=law)
        if law in ("l2", "l1"):  # scaled in the type that the sample is computed in
            torch.testing.assert_close(found, together.to(dtype), rtol=torch.finfo(dtype).eps, atol=1e-7)
        else:
            assert same(found, together.to(dtype))
            assert same(noise(ids, cols=7, device=device, law=law), together[:, :7])
    x = Make((5, 3, 4, 6), device=device).samples()
    args = (torch.arange(5, device=device), 0.1, 7)
    start = ops.random_start(x, *args, law=law)
    for layout in (channels_last, strided, transposed):
        assert same(ops.random_start(layout(x), *args, law=law), start)
    assert ops.random_start(channels_last(x), *args, law=law).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("law", ops.LAWS)
def test_random_starts_differ_by_seed_id_and_restart(law):
    draws = [
        noise([i], seed, restart, cols=64, law=law) for i in (0, 1, 2**32) for seed in (0, 1, -1) for restart in (0, 1)
    ]
    assert len({tuple(draw.flatten().tolist()) for draw in draws}) == len(draws)
    correlation = torch.corrcoef(torch.cat([noise([i], cols=4096, law=law) for i in range(8)])).fill_diagonal_(0)
    assert correlation.abs().max() < 5 / 4096**0.5


def test_uniform_starts_are_uniform():
    sample = noise(range(100), seed=11, cols=1001).flatten()
    n = sample.numel()
    assert sample.abs().max() < 1
    assert abs(sample.mean()) < 5 * (1 / 3 / n) ** 0.5
    assert abs(sample.var() - 1 / 3) < 5 * (4 / 45 / n) ** 0.5
    observed = torch.histc(sample, 256, -1, 1)
    chi_square = ((observed - n / 256) ** 2 / (n / 256)).sum()
    assert abs(chi_square - 255) < 5 * (2 * 255) ** 0.5


def assert_uniform(probabilities: Tensor) -> None:
    """Kolmogorov and Smirnov's test; one sample in 10 million is further from the uniform law."""
    sample, n = probabilities.double().flatten().sort().values, probabilities.numel()
    steps = torch.arange(n + 1) / n
    distance = max(float((steps[1:] - sample).max()), float((sample - steps[:-1]).max()))
    assert distance * n**0.5 < 2.9


def test_gaussian_starts_are_gaussian():
    sample = noise(range(100), seed=11, cols=1001, law="gaussian").flatten()
    n = sample.numel()
    assert_uniform(torch.special.ndtr(sample))
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((sample**power).mean() - moment) < 5 * (variance / n) ** 0.5
    for beyond in (3.0, 3.5, 4.0):
        expected = 2 * n * NormalDist().cdf(-beyond)
        assert abs((sample.abs() > beyond).sum() - expected) < 5 * expected**0.5


@pytest.mark.parametrize("device", DEVICES)
def test_gaussian_starts_are_quantiles_of_the_uniform_ones(device):
    unit, found = (noise(range(200), cols=5000, device=device, law=law) for law in ("uniform", "gaussian"))
    torch.testing.assert_close(found, torch.erfinv(unit) * 2**0.5, rtol=2e-6, atol=0)
    assert unit.abs().max() > 1 - 1e-5  # far into the tails


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("law", "order"), [("l2", 2), ("l1", 1)])
@pytest.mark.parametrize("cols", [1, 2, 3, 8, 129])
def test_starts_in_a_ball_are_uniform_in_it(law, order, cols, device):
    sample = noise(range(4000), seed=5, cols=cols, device=device, law=law).cpu()
    n, radius = len(sample), norms(sample, order)
    assert radius.max() <= 1 + 1e-6
    assert_uniform(radius**cols)
    direction = sample / radius[:, None]
    share = direction.abs() ** order  # of squares or sizes, all of which sum to 1: a beta distribution
    a, b = (0.5, (cols - 1) / 2) if order == 2 else (1, cols - 1)
    assert abs(direction.mean()) < 5 * (cols * n) ** -0.5
    assert ((direction.sign().mean(0)).abs() < 5 * n**-0.5).all()
    variance = a * b / (a + b) ** 2 / (a + b + 1)
    assert ((share.mean(0) - 1 / cols).abs() <= 5 * (variance / n) ** 0.5 + 1e-6).all()
    assert abs(share.var(0).mean() - variance) <= 0.1 * variance
    if cols == 3:  # Archimedes: a coordinate on the sphere; and the share of one of three sizes
        assert_uniform((direction[:, 0] + 1) / 2 if order == 2 else 1 - (1 - share[:, 0]) ** 2)
    assert abs(torch.corrcoef(torch.stack((radius, share[:, 0])))[0, 1]) < 5 * n**-0.5 or cols == 1


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_random_starts_lie_in_ball_and_box(dtype, device):
    make = Make((64, 33), dtype, device)
    x, eps = make.samples(), make.column(0.0, 0.125, 0.5, 2.0)
    for law, order in {"uniform": math.inf, "sign": math.inf, "gaussian": None, "l2": 2, "l1": 1}.items():
        start = ops.random_start(x, torch.arange(64, device=device), eps, 0, law=law)
        assert ((start >= 0) & (start <= 1)).all()
        assert same(start[::4], x[::4])
        if order is not None:
            size = torch.linalg.vector_norm(start.double() - x.double(), order, dim=1)
            rounding = 33 ** (1 / order) * torch.finfo(dtype).eps / 4 + 2e-6
            assert (size <= eps.double() + rounding).all()
    x, eps = torch.full_like(x, 0.5), 0.125
    corner = ops.random_start(x, torch.arange(64, device=device), eps, 0, law="sign")
    assert ((corner == x - eps) | (corner == x + eps)).all()
    assert abs((corner > x).double().mean() - 0.5) < 5 * 0.5 / x.numel() ** 0.5


# ------------------------------------------------------------------------------------------------- adversarial_labels


def by_hand(logits: list[float], label: int, beta: float, gamma: float, variant: str, top_k: int) -> list[float]:
    """Bilateral's equations (14) and (18), or (26) and (28), as they are printed."""
    total = sum(map(math.exp, logits))
    v = [-math.log(math.exp(z) / total) for z in logits]
    wrong = sorted((k for k in range(len(v)) if k != label), key=lambda k: (-v[k], k))[: top_k or None]
    least, most = min(v[k] for k in wrong), max(v[k] for k in wrong)
    soft = [0.0] * len(v)
    if variant == "main":
        denominator = sum(v[k] for k in wrong) - len(wrong) * (least - gamma)
        eps_y = 1 / (1 + beta * (most - least + gamma) / denominator)
        for k in wrong:
            soft[k] = eps_y * (v[k] - least + gamma) / denominator
    else:
        denominator = sum(v[k] for k in wrong)
        eps_y = 1 / (1 + beta * most / denominator)
        for k in wrong:
            soft[k] = eps_y * v[k] / denominator
    soft[label] = 1 - eps_y
    return soft


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("variant", ["main", "sup"])
@pytest.mark.parametrize("top_k", [0, 1, 9, 18])
def test_adversarial_labels_are_those_of_the_paper(top_k, variant, dtype, device):
    logits, labels = 3 * randn(20, 20, dtype=dtype, device=device), torch.arange(20, device=device)
    for beta, gamma in ((9.0, 0.01), (11.0, 0.5)):
        soft = ops.adversarial_labels(logits, labels, beta, gamma, variant, top_k)
        rows = zip(logits.tolist(), labels.tolist(), strict=True)
        expected = torch.tensor([by_hand(z, label, beta, gamma, variant, top_k) for z, label in rows])
        torch.testing.assert_close(soft.cpu(), expected.to(soft.dtype), rtol=2e-5, atol=1e-7)
        own = soft[labels, labels]
        wrong = soft.scatter(1, labels[:, None], 0)
        count = top_k or 19
        assert ((soft >= 0) & (soft <= 1)).all()
        assert ((wrong > 0).sum(1) == count).all()
        torch.testing.assert_close(soft.sum(1), torch.ones_like(own))
        torch.testing.assert_close(own, beta * wrong.amax(1))  # (16), with equality
        assert ((1 - own > 1 / (1 + beta)) & (1 - own <= 1 / (1 + beta / count) + 1e-6) | (count == 1)).all()  # (21)
        if top_k:  # the support is the least likely of the wrong classes
            order = logits.double().scatter(1, labels[:, None], math.inf).argsort(1)
            assert (wrong.gather(1, order[:, :count]) > 0).all()
        elif variant == "main":  # (31): the likeliest wrong class keeps gamma's share
            v = -logits.double().log_softmax(1)
            u = v - v.scatter(1, labels[:, None], math.inf).amin(1, keepdim=True) + gamma
            least = (1 - own) * gamma / u.scatter(1, labels[:, None], 0).sum(1)
            smallest = soft.scatter(1, labels[:, None], 1).amin(1)
            torch.testing.assert_close(smallest.double(), least.double(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("variant", ["main", "sup"])
@pytest.mark.parametrize(("beta", "eps_y"), [(81.0, 0.1), (9.0, 0.5), (1.0, 0.9)])
def test_adversarial_labels_of_equal_wrong_classes_are_smoothed_ones(beta, eps_y, variant, device):
    labels = torch.arange(10, device=device)
    for logits in (torch.zeros(10, 10, device=device), 5 * torch.eye(10, device=device)):
        soft = ops.adversarial_labels(logits, labels, beta, variant=variant)
        smooth = torch.full((10, 10), eps_y / 9, device=device).fill_diagonal_(1 - eps_y)
        torch.testing.assert_close(soft, smooth)
        if beta == 9:  # of the equally unlikely, the first
            some = ops.adversarial_labels(logits, labels, beta, variant=variant, top_k=3)
            support = [[k for k in range(10) if k != label][:3] for label in range(10)]
            assert [[k for k in range(10) if some[i, k] > 0 and k != i] for i in range(10)] == support


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("variant", ["main", "sup"])
def test_adversarial_labels_depend_on_differences_of_logits_alone(variant, device):
    logits = (randn(50, 10, dtype=torch.float32, device=device) * 8).round() / 8  # sums are exact
    labels = torch.arange(50, device=device) % 10
    soft = ops.adversarial_labels(logits, labels, variant=variant)
    for offset in (-300, 4096):
        shifted = ops.adversarial_labels(logits + offset, labels, variant=variant)
        torch.testing.assert_close(shifted, soft, rtol=1e-6, atol=0)


@pytest.mark.parametrize("device", DEVICES)
def test_adversarial_labels_at_the_edges(device):
    two, labels = randn(8, 2, dtype=torch.float32, device=device), torch.tensor([0, 1] * 4, device=device)
    for variant, gamma in (
        ("main", 0.01),
        ("main", 1e-44),
        ("main", 0.0),
        ("sup", 0.0),
    ):  # one wrong class has all of eps_y
        soft = ops.adversarial_labels(two, labels, 9.0, gamma, variant)
        torch.testing.assert_close(soft[torch.arange(8), labels], torch.full((8,), 0.9, device=device))
    # (20): a dominating wrong class, all others' v equal.
    logits = torch.tensor([[0.0, 30.0, 0.0, 0.0]], device=device)
    soft = ops.adversarial_labels(logits, torch.zeros(1, dtype=torch.int64, device=device), 9.0, 0.01)
    eps_y = 1 / (1 + 9 * 30.01 / (2 * 30.01 + 0.01))
    torch.testing.assert_close(soft[0, 0].item(), 1 - eps_y, rtol=1e-5, atol=0)
    assert soft[0, 1] < 1e-3 * soft[0, 2]


# ------------------------------------------------------------------------------------------------- wrong_class_target


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("variant", ["main", "sup"])
def test_adversarial_labels_of_broken_logits_are_nan(variant, device):
    logits = randn(4, 10, dtype=torch.float32, device=device)
    whole = ops.adversarial_labels(logits, torch.arange(4, device=device), variant=variant)
    for value in (math.nan, math.inf, -math.inf):
        for place in (1, 7):  # the label's, and another
            broken = logits.clone()
            broken[1, place] = value
            soft = ops.adversarial_labels(broken, torch.arange(4, device=device), variant=variant)
            assert soft[1].isnan().all()
            assert same(soft[[0, 2, 3]], whole[[0, 2, 3]])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("which", ["most_confusing", "least_likely"])
def test_wrong_class_target_is_the_first_of_the_best_and_never_the_label(which, dtype, device):
    rows = list(itertools.product([-math.inf, -1.0, 0.0, math.inf, math.nan], repeat=3))
    logits = torch.tensor(rows, dtype=dtype, device=device)
    sign = 1 if which == "most_confusing" else -1
    for label in (0, 1, 2, -1, 3, 2**40):
        found = ops.wrong_class_target(logits, torch.full((len(rows),), label, device=device), which)
        wrong = [k for k in range(3) if k != label]
        expected = [max(wrong, key=lambda k, row=row: (math.isnan(row[k]), sign * row[k])) for row in rows]
        assert found.tolist() == expected
        assert (found != label).all()


# ---------------------------------------------------------------------------------------------- hyperplane_projection

DUALS = {"linf": (math.inf, 1), "l2": (2, 2), "l1": (1, math.inf)}  # a norm's own order, and its dual's


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("norm", DUALS)
def test_the_way_to_a_hyperplane_is_the_closed_form_where_the_box_is_far(norm, device):
    x, normal, offset = randn(30, 3, 5, 4, device=device), randn(30, 3, 5, 4, device=device, seed=1), randn(30, seed=2)
    offset = offset.to(device) * 10
    delta = ops.hyperplane_projection(x, normal, offset, norm, lo=-1e3, hi=1e3)
    gap, rows = offset - (normal * x).flatten(1).sum(1), normal.flatten(1)
    torch.testing.assert_close((normal * delta).flatten(1).sum(1), gap)
    order, dual = DUALS[norm]
    torch.testing.assert_close(norms(delta, order), gap.abs() / norms(normal, dual))
    step = {
        "linf": rows.sign() / norms(rows, 1)[:, None],
        "l2": rows / rows.square().sum(1, keepdim=True),
        "l1": torch.where(rows.abs() == rows.abs().amax(1, keepdim=True), 1 / rows, 0),
    }[norm]
    torch.testing.assert_close(delta.flatten(1), gap[:, None] * step)


def least_norm(weight: list[float], room: list[float], distance: float, order: float) -> float:
    """By trying which coordinates stop at their limit: the least norm that covers the distance. `weight` > 0."""
    best = math.inf
    for limits in itertools.product([False, True], repeat=len(weight)):
        free = [i for i, limited in enumerate(limits) if not limited]
        rest = distance - sum(weight[i] * room[i] for i, limited in enumerate(limits) if limited)
        ways = (
            {  # how the free ones may share the rest
                2: [{i: rest * weight[i] / sum(weight[j] ** 2 for j in free) for i in free}],
                math.inf: [{i: rest / sum(weight[j] for j in free) for i in free}],
                1: [{i: rest / weight[i] if i == j else 0.0 for i in free} for j in free],
            }[order]
            if free
            else [{}]
        )
        for way in ways:
            move = [room[i] if limited else way[i] for i, limited in enumerate(limits)]
            covered = sum(w * m for w, m in zip(weight, move, strict=True))
            if abs(covered - distance) < 1e-9 and all(
                -1e-12 <= m <= r + 1e-12 for m, r in zip(move, room, strict=True)
            ):
                best = min(best, float(torch.linalg.vector_norm(torch.tensor(move, dtype=torch.float64), order)))
    return best


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("norm", DUALS)
def test_the_way_to_a_hyperplane_is_the_shortest_in_the_box(norm, device):
    x = Make((60, 4), torch.float64, device).samples()
    normal = randn(60, 4, device=device)
    normal[40:] = normal[40:].round() + 0.5  # equal weights
    start, side = (normal * x).sum(1), torch.where(torch.arange(60, device=device) % 2 == 0, 1.0, -1.0).double()
    room = torch.where(normal * side[:, None] > 0, 1 - x, x)
    reach = (normal.abs() * room).sum(1)
    share = torch.linspace(0.01, 0.99, 60, dtype=torch.float64, device=device)
    delta = ops.hyperplane_projection(x, normal, start + side * share * reach, norm)
    assert ((x + delta >= -1e-12) & (x + delta <= 1 + 1e-12)).all()
    torch.testing.assert_close((normal * delta).sum(1), side * share * reach, rtol=0, atol=1e-12)
    order, _ = DUALS[norm]
    rows = zip(normal.abs().tolist(), room.tolist(), (share * reach).tolist(), strict=True)
    best = torch.tensor([least_norm(*row, order) for row in rows], dtype=torch.float64)
    torch.testing.assert_close(norms(delta, order).cpu(), best, rtol=0, atol=1e-9)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("norm", DUALS)
def test_a_hyperplane_out_of_reach_is_approached_as_far_as_the_box_allows(norm, dtype, device):
    x = Make((6, 3, 4, 5), dtype, device).samples()
    normal = randn(6, 3, 4, 5, dtype=dtype, device=device)
    normal[:, 0, 0, :2] = 0
    offset = torch.tensor([1e6, -1e6, math.inf, -math.inf, 1e30, -1e30], device=device)
    delta = ops.hyperplane_projection(x, normal, offset, norm)
    corner = (normal.sign() * offset.sign().to(dtype).view(-1, 1, 1, 1) > 0).to(dtype)
    expected = torch.where(normal == 0, 0, corner - x)
    torch.testing.assert_close(delta, expected, rtol=0, atol=torch.finfo(dtype).eps)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("norm", DUALS)
def test_hyperplane_projection_of_special_values(norm, device):
    x = torch.full((5, 6), 0.5, device=device)
    normal = torch.tensor([1.0, -2.0, 4.0, -4.0, 0.5, 0.0], device=device).repeat(5, 1)
    normal[0] = 0  # no hyperplane
    broken = normal.clone()
    broken[3, :3] = torch.tensor([math.nan, math.inf, -math.inf])
    normal[3, :3] = 0
    offset = torch.tensor([1.0, -0.25, 0.0, 0.1, math.nan], device=device)  # that of x: -0.25
    delta = ops.hyperplane_projection(x, broken, offset, norm)
    assert (delta[:2] == 0).all()
    assert (delta[2] != 0).any()
    assert same(delta[3], ops.hyperplane_projection(x, normal, offset, norm)[3])
    assert delta[4].isnan().all()


@pytest.mark.parametrize("device", DEVICES)
def test_in_l1_the_heaviest_move_first_and_equal_ones_share_alike(device):
    x = torch.tensor([[0.5, 0.25, 0.75, 0.9, 0.5]], dtype=torch.float64, device=device)
    normal = torch.tensor([[1.0, -3.0, 3.0, 3.0, 2.0]], dtype=torch.float64, device=device)
    room = torch.tensor([[0.5, 0.25, 0.25, 0.1, 0.5]], dtype=torch.float64, device=device)
    start, heavy = (normal * x).sum(), 3 * (0.25 + 0.25 + 0.1)
    for part in (0.0, 0.3, 1.0):  # of the room of the three
        delta = ops.hyperplane_projection(x, normal, start + part * heavy, "l1")
        share = torch.tensor([0, part, part, part, 0], device=device)
        torch.testing.assert_close(delta, normal.sign() * room * share)
    delta = ops.hyperplane_projection(x, normal, start + heavy + 2 * 0.2, "l1")
    torch.testing.assert_close(delta, normal.sign() * room * torch.tensor([0, 1, 1, 1, 0.4], device=device))
