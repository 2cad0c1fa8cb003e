"""Pixle, against one sample at a time with the same numbers."""

import pytest
import torch
from torch import Tensor
from toys import Wavy, labels, linear, samples

from fastadv.attacks import Pixle
from fastadv.attacks._ascend import numbers
from fastadv.attacks.pixle import MAPPINGS
from fastadv.losses import soft_margin

pytestmark = pytest.mark.usefixtures("seed_zero")
SHAPE = (3, 4, 5)


def goal(mapping: str, x: Tensor, base: Tensor, place: int, u: float) -> int:
    """Where the pixel at `place` of `x` [C, HW] goes in `base`."""
    if mapping == "random":
        return int(u * x.shape[1])
    score = (base - x[:, place : place + 1]).abs().mean(0)
    if "similarity" in mapping:
        score = torch.where(score == 0, 0, 1 / (1 + score))
    others = [k for k in range(len(score)) if k != place]
    if not mapping.endswith("random"):
        return max(others, key=lambda k: score[k].item())
    chances, total = score[others].softmax(0).tolist(), 0.0
    for k, chance in zip(others, chances, strict=True):
        total += chance
        if u <= total:
            return k
    return others[-1]


def plain(model: Wavy, x: Tensor, y: int, i: int, attack: Pixle) -> tuple[Tensor, int]:
    """One sample, the `i` th, and the patches it took."""
    sign = 1 if attack.targeted else -1

    def judged(image: Tensor) -> tuple[float, bool]:
        z = model(image)[0]
        return sign * z.softmax(0)[y].item(), (z.argmax() == y).item() == attack.targeted

    best, (value, won) = x, judged(x)
    made = 0
    while made < attack.restarts * attack.steps and not won:
        if made % attack.steps == 0:
            base = best
        made += 1
        u = numbers(torch.tensor([i]), (4 + 3 * 2,), 5, made)[0].tolist()
        tall, wide = 1 + int(u[0] * 3), 1 + int(u[1] * 2)
        top, left = int(u[2] * (4 - tall + 1)), int(u[3] * (5 - wide + 1))
        image, flat, old = base[0].flatten(1).clone(), x[0].flatten(1), base[0].flatten(1)
        for row in range(tall):
            for column in range(wide):
                place = (top + row) * 5 + left + column
                image[:, goal(attack.mapping, flat, old, place, u[4 + row * 2 + column])] = flat[:, place]
        found, won = judged(image.view_as(x))
        if won or found > value:
            best, value = image.view_as(x), found
    return best, made


@pytest.mark.parametrize("mapping", MAPPINGS)
@pytest.mark.parametrize("options", [{}, {"targeted": True}, {"steps": 1}])
def test_patches_are_those_of_the_algorithm(mapping: str, options: dict) -> None:
    attack = Pixle(
        **{"restarts": 3, "steps": 2, "tall": (1, 3), "wide": (0.2, 0.4), "seed": 5, **options}, mapping=mapping
    )
    model, x = Wavy(60, 5), samples(12, *SHAPE, dtype=torch.float64)
    order = model(x).argsort(1, descending=True)
    y = order[:, 3] if attack.targeted else order[:, 0]
    found = attack.run(model, x, y)
    for i in range(12):
        image, made = plain(model, x[i : i + 1], int(y[i]), i, attack)
        assert torch.equal(found.x_adv[i : i + 1], image)
        assert found.steps[i] == made
    assert found.grads.sum() == 0
    assert len(set(found.steps.tolist())) > 1


def test_colours_are_those_of_the_image() -> None:
    model, x = Wavy(300, 5), samples(8, 3, 10, 10)
    found = Pixle()(model, x)
    assert not torch.equal(found, x)
    for image, moved in zip(x.flatten(2), found.flatten(2), strict=True):
        colours = {tuple(pixel) for pixel in image.T.tolist()}
        assert {tuple(pixel) for pixel in moved.T.tolist()} <= colours


def test_more_rounds_never_help_the_label() -> None:
    model, x = linear(300, 5), samples(8, 3, 10, 10)
    with torch.no_grad():
        model[1].bias[0] += 30
    y = torch.zeros(8, dtype=torch.int64)
    losses = torch.stack([soft_margin(model(Pixle(rounds, 4, seed=0)(model, x, y)), y) for rounds in range(5)])
    assert (losses.diff(dim=0) >= 0).all()
    assert (losses[-1] > losses[0]).all()


def test_it_asks_once_a_patch() -> None:
    calls, network = [], linear(60, 5)

    def model(x: Tensor) -> Tensor:
        assert not x.requires_grad
        calls.append(len(x))
        return network(x) + 1000 * torch.eye(5)[0]  # never fooled

    Pixle(3, 4)(model, samples(4, *SHAPE), torch.zeros(4, dtype=torch.int64))
    assert calls == [4] * (1 + 3 * 4)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        ({"mapping": "far"}, "mapping must be one of random, similarity"),
        ({"tall": (0, 3)}, r"tall must be \(least, most\), .* got \(0, 3\)"),
        ({"wide": (4, 3)}, r"wide must be \(least, most\), .* got \(4, 3\)"),
        ({"wide": (0.1, 1.5)}, r"wide must be \(least, most\), .* got \(0.1, 1.5\)"),
    ],
)
def test_wrong_options(option: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"Pixle: {message}"):
        Pixle(**option)
    with pytest.raises(ValueError, match=r"Pixle: samples must be images \[B, C, H, W\], got shape \(2, 60\)"):
        Pixle()(linear(60, 5), samples(2, 60), labels(2, 5))
