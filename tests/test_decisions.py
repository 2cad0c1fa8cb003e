"""Boundary and HopSkipJump: the closed form of a linear model, one sample at a time, and what they ask for."""

import math

import pytest
import torch
from test_attacks import nearest_hyperplane
from torch import Tensor, nn
from toys import Wavy, labels, linear, samples

from fastadv import ops
from fastadv.attacks import Boundary, HopSkipJump
from fastadv.attacks._ascend import Rows, numbers
from fastadv.attacks._decisions import to_boundary
from fastadv.attacks.hopskipjump import _Probe

pytestmark = pytest.mark.usefixtures("seed_zero")
SHAPE = (3, 4, 4)
both = pytest.mark.parametrize("attack", [Boundary(40), HopSkipJump(2, 20), HopSkipJump(2, 20, norm="linf")])


@pytest.mark.parametrize(
    ("attack", "times"),
    [(Boundary(1200, 0.2, 0.03), 1.15), (HopSkipJump(8, 200), 1.05), (HopSkipJump(8, 200, norm="linf"), 1.4)],
)
def test_on_a_linear_model_they_near_the_hyperplane(attack: Boundary | HopSkipJump, times: float) -> None:
    model, x = linear(48, 2, torch.float64), samples(5, *SHAPE, low=0.3, high=0.7, dtype=torch.float64)
    distance, _ = nearest_hyperplane(model, x, attack.norm)
    found = attack.run(model, x)
    assert found.success.all()
    assert found.grads.sum() == 0
    assert (found.norm >= distance * (1 - 1e-9)).all()
    assert (found.norm / distance).median() < times


class Counted(nn.Module):
    """Counts what it is asked for, by a mark that each sample has in its last entry, and asks for no gradient."""

    def __init__(self, network: nn.Module, count: int):
        super().__init__()
        self.network, self.asked = network, torch.zeros(count, dtype=torch.int64)

    def forward(self, x: Tensor) -> Tensor:
        assert not x.requires_grad
        self.asked[0] += len(x)
        return self.network(x)


def test_hopskipjump_asks_for_what_its_algorithm_does() -> None:
    """Alone, so that all it is asked for is one sample's: one leap a step at least."""
    network, x = linear(48, 2, torch.float64), samples(1, *SHAPE, low=0.3, high=0.7, dtype=torch.float64)
    model = Counted(network, 1)
    found = HopSkipJump(6, 50, gamma=4.0, seed=0, starts=network[1].weight[:0].new_zeros(1, *SHAPE))(
        model, x, network(x).argmax(1)
    )
    halvings = math.ceil(1.5 * math.log2(48) - 2)
    estimates = sum(int(50 * math.sqrt(t)) for t in range(1, 7))
    start = next(k for k in range(200) if wins(network, x, k))
    least = 1 + start + 10 + (6 + 1) * halvings + estimates + 6
    assert least <= model.asked[0] <= least + 6
    assert not torch.equal(found, x)


def wins(network: nn.Module, x: Tensor, asked: int) -> bool:
    """Whether the start is found when so many were asked for: zeros, then noise."""
    if asked == 0:
        return False
    noise = numbers(torch.arange(1), SHAPE, 0, asked - 2) if asked > 1 else torch.zeros_like(x)
    return bool(network(noise.to(x)).argmax() != network(x).argmax())


def test_boundary_asks_for_eleven_points_in_ten_steps() -> None:
    network, x = linear(48, 2, torch.float64), samples(1, *SHAPE, low=0.3, high=0.7, dtype=torch.float64)
    asked = []
    for steps in (10, 60):
        model = Counted(network, 1)
        Boundary(steps, seed=0)(model, x, network(x).argmax(1))
        asked.append(int(model.asked[0]))
    assert asked[1] - asked[0] == 55


def walk(model: Wavy, x: Tensor, y: int, start: Tensor, i: int, attack: Boundary) -> tuple[Tensor, int]:
    """The boundary attack of one sample, the `i` th, from `start`."""
    best, sphere, source, spheres, walks, made = start, attack.sphere, attack.source, [], [], 0

    def won(point: Tensor) -> bool:
        return (model(point)[0].argmax() == y).item() == attack.targeted

    while made < attack.steps and source >= attack.least:
        made += 1
        noise = ops.random_start(
            torch.zeros_like(x), torch.tensor([i]), 1.0, 7, attack.tries + made, "gaussian", -math.inf, math.inf
        )
        away = best - x
        size = away.norm()
        noise = noise - (noise * away).sum() / size**2 * away
        noise = sphere * size * noise / noise.norm()
        around = (x + (away + noise) / math.sqrt(1 + sphere**2)).clip(0, 1)
        left = (x - around).norm()
        length = max(source * size + left - size, 0)
        point = (around + length / left * (x - around)).clip(0, 1)
        success = won(point)
        if success and (point - x).norm() < size:
            best = point
        if made % 10 == 0:
            spheres, walks = [*spheres, won(around)][-100:], [*walks, success][-30:]
            for past, count, few, many in ((spheres, 100, 0.2, 0.5), (walks, 30, 0.1, 0.25)):
                share = sum(past) / len(past)
                if len(past) == count and not few <= share <= many:
                    factor = attack.adaptation if share > many else 1 / attack.adaptation
                    source *= factor
                    sphere *= factor if past is spheres else 1
                    past.clear()
    return best, made


@pytest.mark.parametrize("targeted", [False, True])
def test_boundary_is_the_walk_of_one_sample(targeted: bool) -> None:
    model, x = Wavy(48, 3), samples(3, *SHAPE, dtype=torch.float64)
    y = (model(x).argmax(1) + targeted) % 3
    attack = Boundary(500, sphere=0.2, source=0.2, seed=7, targeted=targeted, least=0.15)
    starts = Boundary(0, seed=7, targeted=targeted)(model, x, y)
    found = attack.run(model, x, y)
    for i in range(3):
        one = slice(i, i + 1)
        point, made = walk(model, x[one], int(y[i]), starts[one], i, attack)
        torch.testing.assert_close(found.x_adv[one], point, rtol=0, atol=1e-6)
        assert found.steps[i] == made
    assert found.success.all()
    assert found.steps.min() < 500


def test_the_way_to_the_boundary_is_bisected() -> None:
    """To 2^-20 of it: a linear model is met where the way crosses its hyperplane."""
    model, x = linear(48, 2, torch.float64), samples(16, *SHAPE, low=0.4, high=0.6, dtype=torch.float64)
    y, far = model(x).argmax(1), samples(16, *SHAPE, dtype=torch.float64, seed=1)
    rows = Rows(model, x, y, torch.arange(16))
    rows.x_adv = torch.where((model(far).argmax(1) == y).view(-1, 1, 1, 1), 1 - far, far)
    rows = rows.take(model(rows.x_adv).argmax(1) != y)
    assert len(rows.x) > 8
    for norm in ("l2", "linf"):
        near = to_boundary(rows, (0.0, 1.0), norm, 20)
        z = model(near)
        assert (z.argmax(1) != rows.y).all()
        assert (z[:, 0] - z[:, 1]).abs().max() < 1e-3
    share = (near - rows.x).flatten(1).abs().amax(1) / (rows.x_adv - rows.x).flatten(1).abs().amax(1)
    assert (share < 1).all()


def test_the_estimated_gradient_is_the_normal_of_the_boundary() -> None:
    model, x = linear(48, 2, torch.float64), samples(4, *SHAPE, low=0.4, high=0.6, dtype=torch.float64)
    y = model(x).argmax(1)
    rows = Rows(model, x, y, torch.arange(4))
    normal = (model[1].weight[1 - y] - model[1].weight[y]).detach()
    distance, _ = nearest_hyperplane(model, x, "l2")
    rows.x_adv = x + (distance.view(-1, 1) * normal / normal.norm(dim=1, keepdim=True)).view_as(x)
    rows.state = _Probe(x, distance.detach(), torch.full_like(distance, 0.01).detach())
    way = HopSkipJump(seed=0)._gradient(rows, range(3000))
    torch.testing.assert_close(way.flatten(1).norm(dim=1), torch.ones(4, dtype=torch.float64))
    assert torch.nn.functional.cosine_similarity(way.flatten(1), normal).min() > 0.97


@both
def test_starts_that_are_given_are_taken(attack: Boundary | HopSkipJump) -> None:
    model, x = Wavy(48, 5), samples(24, *SHAPE)
    own = model(x).argmax(1)
    goal = own.roll(1)
    aimed = type(attack)(**{**vars(attack), "targeted": True, "tries": 0, "starts": x.roll(1, 0), "seed": 0})
    found = aimed.run(model, x, goal)
    assert found.success.all()
    moved = own != goal
    assert torch.equal(found.x_adv[~moved], x[~moved])
    order = 2 if attack.norm == "l2" else torch.inf
    assert (found.norm < (x.roll(1, 0) - x).flatten(1).norm(order, dim=1))[moved].all()
    without = type(attack)(**{**vars(aimed), "starts": None}).run(model, x, goal)
    assert torch.equal(without.x_adv, x)
    with pytest.raises(ValueError, match=r"starts must hold a start a sample, \(4, 3, 4, 4\), got \(24, 3, 4, 4\)"):
        aimed(model, x[:4], goal[:4])


@pytest.mark.parametrize(
    ("kind", "option", "message"),
    [
        (Boundary, {"steps": -1}, "steps must be a whole number of at least 0, got -1"),
        (Boundary, {"sphere": 2.0}, r"sphere must be in \[0, 1\], got 2.0"),
        (Boundary, {"adaptation": 0.5}, r"adaptation must be in \[1, 100\], got 0.5"),
        (HopSkipJump, {"queries": 0}, "queries must be a whole number of at least 1, got 0"),
        (HopSkipJump, {"norm": "l1"}, "norm must be one of l2, linf, got 'l1'"),
        (HopSkipJump, {"gamma": 0.0}, r"gamma must be in \(0, inf\), got 0.0"),
        (HopSkipJump, {"bounds": (-math.inf, math.inf)}, "bounds must be finite"),
    ],
)
def test_wrong_options(kind: type, option: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"{kind.__name__}: {message}"):
        kind(**option)(linear(48, 5), samples(2, *SHAPE), labels(2, 5))
