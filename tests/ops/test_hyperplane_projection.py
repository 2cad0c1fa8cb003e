"""hyperplane_projection: its case, and what it means."""

import itertools
import math

import pytest
import torch

from fastadv import ops

from .cases import DEVICES, DTYPES, NOT_FINITE, Case, Make, norms, randn, same

pytestmark = pytest.mark.numerics

CASE = Case(
    lambda make: {
        "x": make.samples(),
        "normal": make.samples(-1, 1, salt=NOT_FINITE),
        "offset": make.column(0.0, 1.0, -1.5, 0.3, 1e30, -math.inf, -0.0),
    },
    variants=({"norm": "linf"}, {"norm": "l2"}, {"norm": "l1"}, {"norm": "l1", "lo": -0.5, "hi": 0.7}),
    refused=(
        ({"normal": torch.ones(3, 5)}, ValueError, r"normal .*\(3, 5\)"),
        ({"offset": torch.ones(3, 1)}, ValueError, r"offset .*\(3, 1\)"),
        ({"norm": "rms"}, ValueError, "norm .*linf, l2, l1.*'rms'"),
    ),
)


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
