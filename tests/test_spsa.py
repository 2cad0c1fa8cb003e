"""SPSA, against Adam on one sample at a time with the same signs."""

import pytest
import torch
from test_attacks import corner
from torch import Tensor
from toys import Wavy, labels, linear, samples

from fastadv import ops
from fastadv.attacks import SPSA
from fastadv.losses import lead

pytestmark = pytest.mark.usefixtures("seed_zero")
SHAPE = (3, 4, 4)


@pytest.mark.parametrize("targeted", [False, True])
def test_steps_are_those_of_the_algorithm(targeted: bool) -> None:
    model, x, y = Wavy(48, 5), samples(8, *SHAPE, dtype=torch.float64), labels(8, 5)
    attack = SPSA(0.1, steps=4, samples=3, delta=0.02, lr=0.03, seed=9, targeted=targeted)
    found = attack.run(model, x, y)
    assert found.grads.tolist() == [0] * 8
    assert found.steps.tolist() == [4] * 8
    for i in range(8):
        here, goal = x[i : i + 1], y[i : i + 1]
        dx = torch.zeros_like(here)
        adam = torch.optim.Adam([dx], lr=0.03)
        for t in range(1, 5):
            dx.grad = torch.zeros_like(dx)
            for k in range(3 * t, 3 * t + 3):
                v = ops.random_start(torch.zeros_like(here), torch.tensor([i]), 1.0, 9, k, "sign", -1.0, 1.0)
                assert set(v.unique().tolist()) == {-1.0, 1.0}
                ends = [lead(model(here + dx + s * 0.02 * v), goal).item() for s in (1, -1)]
                dx.grad += (ends[0] - ends[1]) / 0.04 * v / 3 * (-1 if targeted else 1)
            adam.step()
            dx.copy_((here + dx.clip(-0.1, 0.1)).clip(0, 1) - here)
        torch.testing.assert_close(found.x_adv[i : i + 1], here + dx)


def test_it_asks_for_logits_only() -> None:
    calls, network = [], linear(48, 5)

    def model(x: Tensor) -> Tensor:
        assert not x.requires_grad
        calls.append(len(x))
        return network(x).detach()

    SPSA(0.1, steps=3, samples=5)(model, samples(4, *SHAPE), labels(4, 5))
    assert calls == [4] * 30


def test_it_nears_the_corner_of_a_linear_model() -> None:
    model, x, y = linear(48, 2, torch.float64), samples(16, *SHAPE, dtype=torch.float64), labels(16, 2)
    natural, worst, found = (lead(model(at), y) for at in (x, corner(model, x, y, 0.1), SPSA(0.1, seed=0)(model, x, y)))
    assert ((natural - found) / (natural - worst)).min() > 0.9


def test_results_do_not_depend_on_the_batch() -> None:
    model, x, y, ids = Wavy(48, 5), samples(12, *SHAPE), labels(12, 5), torch.arange(12)
    attack = SPSA(0.1, steps=3, samples=4, seed=1)
    parts = [attack(model, *part) for part in zip(x.split(5), y.split(5), ids.split(5), strict=True)]
    assert torch.equal(torch.cat(parts), attack(model, x, y))


@pytest.mark.parametrize("option", [{"delta": 0.0}, {"lr": 2.0}])
def test_wrong_options(option: dict) -> None:
    with pytest.raises(ValueError, match=rf"SPSA: {next(iter(option))} must be in \(0, 1\], got"):
        SPSA(**option)
    with pytest.raises(ValueError, match="SPSA: samples must be a whole number of at least 1, got 0"):
        SPSA(samples=0)
