"""JSMA, against its algorithm on one sample at a time, with all pairs looked at."""

import math

import pytest
import torch
from torch import Tensor
from toys import Wavy, labels, linear, samples

from fastadv.attacks import JSMA
from fastadv.attacks.jsma import best_pair

pytestmark = pytest.mark.usefixtures("seed_zero")
SHAPE = (3, 4, 4)


def products(u: Tensor, v: Tensor) -> Tensor:
    """``(u_p + u_q) (v_p + v_q)`` of all pairs of columns, 0 where a sum is not positive, [D, D]."""
    gains, sums = (t.unsqueeze(0) + t.unsqueeze(1) for t in (u, v))
    return torch.where((gains > 0) & (sums > 0), gains * sums, 0).fill_diagonal_(0)


@pytest.mark.parametrize("alike", [-0.9, 0.0, 0.9])
@pytest.mark.parametrize("whole", [False, True])
def test_the_best_pair_is_that_of_all(alike: float, whole: bool) -> None:
    u, v = torch.randn(2, 200, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    v = alike * u + math.sqrt(1 - alike**2) * v - 0.7
    if whole:
        u, v = u.round(), v.round()
    u[:, ::7] = v[:, ::7] = -torch.inf
    v[:20] = -3.0
    pair, found = best_pair(u, v)
    every = torch.stack([products(*row) for row in zip(u, v, strict=True)])
    assert torch.equal(found, every.flatten(1).amax(1) > 0)
    assert 0 < found.sum() < 200
    best = every[torch.arange(200), pair[:, 0], pair[:, 1]]
    assert torch.equal(best[found], every.flatten(1).amax(1)[found])
    assert (pair[:, 0] != pair[:, 1])[found].all()


def plain(model: Wavy, x: Tensor, goal: int, left: int, attack: JSMA) -> tuple[Tensor, int]:
    """One sample of two classes of pixels, and the steps it made."""
    point, made, sign = x.clone(), 0, math.copysign(1, attack.theta)
    while True:
        z = model(point)[0]
        if (z.argmax() == goal) if attack.targeted else (z.argmax() != left):
            return point, made
        slopes = torch.autograd.functional.jacobian(model, point)[0].flatten(2)[:, 0]
        u, v = sign * slopes[goal], -sign * (slopes.sum(0) - slopes[goal])
        out = (point >= 1 if sign > 0 else point <= 0).flatten()
        if (point != x).sum() + 2 > int(attack.gamma * x.numel()):
            out |= (point == x).flatten()
        u, v = u.masked_fill(out, -torch.inf), v.masked_fill(out, -torch.inf)
        every = products(u, v)
        if every.max() <= 0:
            return point, made
        pair = divmod(int(every.argmax()), x.numel())
        flat = point.flatten().clone()
        for place in pair:
            flat[place] = (flat[place] + attack.theta).clamp(0, 1)
        point, made = flat.view_as(x), made + 1


@pytest.mark.parametrize("theta", [1.0, -1.0, 0.3, -0.4])
@pytest.mark.parametrize("targeted", [False, True])
def test_steps_are_those_of_the_algorithm(theta: float, targeted: bool) -> None:
    model, x = Wavy(48, 5), samples(16, *SHAPE, dtype=torch.float64)
    order = model(x).argsort(1, descending=True)
    attack = JSMA(theta, gamma=0.25, targeted=targeted)
    y = order[:, 2] if targeted else order[:, 0]
    found = attack.run(model, x, y)
    for i in range(16):
        goal = int(y[i] if targeted else order[i, 1])
        point, made = plain(model, x[i : i + 1], goal, int(order[i, 0]), attack)
        torch.testing.assert_close(found.x_adv[i : i + 1], point, rtol=0, atol=1e-12)
        assert abs(found.steps[i] - made) <= 1  # a step that finds no pair is one
        assert found.grads[i] == 2 * found.steps[i]
    assert found.norm.max() <= 12
    assert len(set(found.steps.tolist())) > 1


def test_on_a_linear_model_it_changes_the_pixels_of_most_weight() -> None:
    model, x = linear(48, 2, torch.float64), samples(16, *SHAPE, low=0.3, high=0.6, dtype=torch.float64)
    y = model(x).argmax(1)
    moved = (JSMA(1.0, 2 / 48, saliency="target")(model, x, y) - x).flatten(1)
    best = model[1].weight[1 - y].topk(2, dim=1).indices
    assert torch.equal((moved != 0).sum(1), torch.full((16,), 2))
    torch.testing.assert_close(moved.gather(1, best), 1 - x.flatten(1).gather(1, best))


def test_where_a_pair_is_missing_it_ends() -> None:
    """Both logits rise with every pixel: no pair favours one class alone."""
    model = linear(48, 2)
    with torch.no_grad():
        model[1].weight.abs_()
    x, y = samples(8, *SHAPE), labels(8, 2)
    found = JSMA().run(model, x, y)
    assert torch.equal(found.x_adv, x)
    assert found.steps.max() <= 1
    assert (JSMA(saliency="target").run(model, x, y).steps > 1).any()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"theta": 0.0}, r"theta must be a share of the inputs' range, in \[-1, 1\] and not 0, got 0"),
        ({"theta": 1.5}, "got 1.5"),
        ({"gamma": -0.1}, r"gamma must be in \[0, 1\], got -0.1"),
        ({"saliency": "all"}, "saliency must be one of pair, target, got 'all'"),
    ],
)
def test_wrong_options(option: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"JSMA: .*{message}"):
        JSMA(**option)
