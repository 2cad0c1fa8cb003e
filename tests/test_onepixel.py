"""OnePixel, against differential evolution of one sample at a time with the same numbers."""

import pytest
import torch
from torch import Tensor
from toys import Wavy, labels, linear, samples

from fastadv import ops
from fastadv.attacks import OnePixel
from fastadv.attacks._ascend import numbers
from fastadv.losses import lead

pytestmark = pytest.mark.usefixtures("seed_zero")
SHAPE = (3, 4, 5)


def painted(x: Tensor, member: Tensor) -> Tensor:
    image = x.clone()
    for row, column, *colour in member.tolist():
        image[0, :, int(row * 4), int(column * 5)] = torch.tensor(colour, dtype=x.dtype)
    return image


def plain(model: Wavy, x: Tensor, y: int, i: int, attack: OnePixel) -> tuple[Tensor, int]:
    """One sample, the `i` th, and the generations it took."""
    ids, size, count = torch.tensor([i]), attack.population, attack.pixels

    def judged(member: Tensor) -> float:
        z = model(painted(x, member))[0]
        if (z.argmax() == y) == attack.targeted:
            return float("inf")
        return z.log_softmax(0)[y].item() * (1 if attack.targeted else -1)

    shape = (size, count, 5)
    members = numbers(ids, shape, 3, 0)[0]
    members[..., 2:] = ops.random_start(torch.full((1, *shape), 0.5).double(), ids, 0.5, 3, 1, "gaussian", 0, 1)[
        0, ..., 2:
    ]
    fitness = [judged(member) for member in members]
    made = 0
    while made < attack.steps and max(fitness) < float("inf"):
        made += 1
        draws, children = numbers(ids, (size, 3), 3, made + 1)[0].tolist(), []
        for k in range(size):
            free = [*range(k + 1, size), *range(k)]
            a, b, c = (free.pop(int(u * len(free))) for u in draws[k])
            if attack.base == "best":
                a = fitness.index(max(fitness))
            child = members[a] + 0.5 * (members[b] - members[c])
            children.append(torch.cat((child[:, :2] % 1, child[:, 2:].clip(0, 1)), dim=1))
        rated = [judged(child) for child in children]
        members = torch.stack([n if f > g else m for m, n, f, g in zip(members, children, rated, fitness, strict=True)])
        fitness = [max(pair) for pair in zip(rated, fitness, strict=True)]
    return painted(x, members[fitness.index(max(fitness))]), made


@pytest.mark.parametrize("options", [{}, {"targeted": True}, {"base": "best", "pixels": 1}])
def test_steps_are_those_of_differential_evolution(options: dict) -> None:
    attack = OnePixel(**{"pixels": 2, "steps": 3, "population": 5, "seed": 3, **options})
    model, x = Wavy(60, 5), samples(12, *SHAPE, dtype=torch.float64)
    order = model(x).argsort(1, descending=True)
    y = order[:, 2] if attack.targeted else order[:, 0]
    found = attack.run(model, x, y)
    for i in range(12):
        point, made = plain(model, x[i : i + 1], int(y[i]), i, attack)
        assert torch.equal(found.x_adv[i : i + 1], point)
        assert found.steps[i] == made
    assert len(set(found.steps.tolist())) > 1
    assert found.grads.sum() == 0


@pytest.mark.parametrize(("base", "share"), [("random", 0.9), ("best", 0.6)])  # the second converges sooner
def test_on_a_linear_model_it_nears_the_best_pixel(base: str, share: float) -> None:
    model, x = linear(60, 2, torch.float64), samples(8, *SHAPE, dtype=torch.float64)
    with torch.no_grad():
        model[1].bias[0] += 100  # out of reach of one pixel
    y = torch.zeros(8, dtype=torch.int64)
    way = (model[1].weight[1] - model[1].weight[0]).view(SHAPE).detach()
    gain = torch.maximum(way * (1 - x), -way * x).sum(1).flatten(1).amax(1)
    x_adv = OnePixel(1, 30, 60, base=base)(model, x, y)
    assert ((x_adv != x).any(1).flatten(1).sum(1) == 1).all()
    assert ((lead(model(x), y) - lead(model(x_adv), y)) / gain).min() > share


def test_it_asks_each_member_once() -> None:
    calls, network = [], linear(60, 5)

    def model(x: Tensor) -> Tensor:
        assert not x.requires_grad
        calls.append(len(x))
        return network(x) + 1000 * torch.eye(5)[0]  # never fooled

    OnePixel(1, 3, 7)(model, samples(4, *SHAPE), torch.zeros(4, dtype=torch.int64))
    assert sum(calls) == 4 * (1 + 7 * (3 + 1))
    assert max(calls) <= 256


def test_parents_are_three_others() -> None:
    parents = OnePixel(population=6)._parents(numbers(torch.arange(500), (6, 3), 0, 0))
    chosen = torch.stack([torch.arange(6).expand(500, 6), *parents])
    for one in range(4):
        for other in range(one):
            assert (chosen[one] != chosen[other]).all()
    assert all(set(parent.flatten().tolist()) == {*range(6)} for parent in parents)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"pixels": 0}, "pixels must be a whole number of at least 1, got 0"),
        ({"population": 3}, "population must be a whole number of at least 4, got 3"),
        ({"base": "worst"}, "base must be one of random, best, got 'worst'"),
    ],
)
def test_wrong_options(option: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"OnePixel: {message}"):
        OnePixel(**option)
    with pytest.raises(ValueError, match=r"OnePixel: samples must be images \[B, C, H, W\], got shape \(2, 60\)"):
        OnePixel()(linear(60, 5), samples(2, 60), labels(2, 5))
    with pytest.raises(ValueError, match=r"OnePixel: bounds must be finite, .* got \(0.0, inf\)"):
        OnePixel(bounds=(0.0, torch.inf))(linear(60, 5), samples(2, *SHAPE), labels(2, 5))
