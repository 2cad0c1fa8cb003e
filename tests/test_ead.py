"""EAD, against the closed form of a linear model and FISTA on one sample at a time."""

import math

import pytest
import torch
from test_attacks import nearest_hyperplane
from torch import Tensor
from toys import Wavy, linear, samples

from fastadv import ops
from fastadv.attacks import CW, EAD
from fastadv.losses import lead

pytestmark = pytest.mark.usefixtures("seed_zero")
SHAPE = (3, 4, 4)


@pytest.mark.parametrize("classes", [2, 5])
def test_on_a_linear_model_it_nears_the_nearest_hyperplane(classes: int) -> None:
    model, x = linear(48, classes, torch.float64), samples(32, *SHAPE, low=0.3, high=0.7, dtype=torch.float64)
    distance, _ = nearest_hyperplane(model, x, "l1")
    found = EAD(steps=300, initial_const=0.01, beta=0.05, lr=0.02, abort_early=False).run(model, x)
    assert found.success.all()
    assert (found.norm >= distance - 1e-9).all()
    fewest = ((found.x_adv - x).flatten(1) != 0).sum(1)
    assert fewest.double().mean() < 10, "L1 changes few entries"
    wide = CW(steps=200, initial_const=0.01).run(model, x)
    assert (found.norm < ops.row_norms(wide.x_adv, "l1", x)).double().mean() > 0.9


def plain(model: Wavy, x: Tensor, y: int, attack: EAD) -> Tensor:
    """One const of one sample [1, ...], as the paper's algorithm has it."""
    point, ahead, best, smallest = x, x, x, math.inf
    sign = -1.0 if attack.targeted else 1.0
    for k in range(attack.steps):
        leaf = ahead.clone().requires_grad_()
        f = (sign * lead(model(leaf), torch.tensor([y])) + attack.kappa).clamp(min=0).sum()
        (grad,) = torch.autograd.grad(attack.initial_const * f + (leaf - x).square().sum(), leaf)
        z = ahead - attack.lr * math.sqrt(1 - k / attack.steps) * grad
        new = torch.where(z - x > attack.beta, (z - attack.beta).clamp(max=1), x)
        new = torch.where(z - x < -attack.beta, (z + attack.beta).clamp(min=0), new)
        ahead, point = new + k / (k + 3) * (new - point), new
        size = (point - x).abs().sum().item()
        if attack.decision == "en":
            size = (point - x).square().sum().item() + attack.beta * size
        won = (sign * lead(model(point), torch.tensor([y]))).item() <= -attack.kappa
        won &= (model(point).argmax().item() == y) == attack.targeted
        if won and size < smallest:
            best, smallest = point, size
    return best


@pytest.mark.parametrize("decision", ["l1", "en"])
@pytest.mark.parametrize(("targeted", "kappa"), [(False, 0.0), (True, 0.5)])
def test_steps_are_those_of_the_algorithm(decision: str, targeted: bool, kappa: float) -> None:
    model, x = Wavy(48, 5), samples(24, *SHAPE, dtype=torch.float64)
    y = (model(x).argmax(1) + targeted) % 5
    how = {"beta": 0.005, "decision": decision, "targeted": targeted}
    attack = EAD(kappa, 12, 0.003, 1.0, abort_early=False, binary_search_steps=1, **how)
    found = attack.run(model, x, y)
    assert found.success.sum() > 8
    for i in range(24):
        expected = plain(model, x[i : i + 1], int(y[i]), attack)
        torch.testing.assert_close(found.x_adv[i : i + 1], expected, atol=1e-9, rtol=0)


def test_more_consts_never_find_larger_perturbations() -> None:
    model, x = Wavy(48, 5), samples(32, *SHAPE)
    one, nine = (EAD(lr=0.003, initial_const=0.1, binary_search_steps=n).run(model, x) for n in (2, 9))
    assert (nine.success >= one.success).all()
    assert nine.success.double().mean() > 0.9
    assert (nine.norm[one.success] <= one.norm[one.success]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"beta": -1.0}, r"beta must be in \[0, inf\), got -1.0"), ({"decision": "l2"}, "decision must be one of")],
)
def test_wrong_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"EAD: {message}"):
        EAD(**options)
