"""The two-circles experiment: exact distances, and a training of many networks that is a training of each."""

import csv
import math

import pytest
import torch
from torch import nn

from fastadv.attacks import DeepFool
from fastadv.data import load
from fastadv.models import TwoCirclesNet
from fastadv.recipes import two_circles
from fastadv.recipes._boundary import Boundary
from fastadv.recipes.two_circles import ADVERSARIES, Nets, blind, bound, deepfool, train

DATA = load("two-circles", "train").take(200)
X, Y = DATA.x, DATA.y.float()


def random_nets(count: int, seed: int = 0) -> Nets:
    return Nets(torch.randn(count, 25, generator=torch.Generator().manual_seed(seed)))


def module(nets: Nets, i: int) -> TwoCirclesNet:
    model = TwoCirclesNet()
    nn.utils.vector_to_parameters(nets.theta[i].clone(), model.parameters())
    return model


def twelve_corners(inradius: float) -> Nets:
    """A unit every 60 degrees: one alone draws an edge, two together the edge between theirs. A regular 12-gon."""
    angle = torch.arange(6, dtype=torch.float64) * math.pi / 3
    c = inradius * (2 - math.sqrt(3))  # from inradius = b + c = (2 b + c) / sqrt(3)
    b = inradius - c
    w = torch.stack((angle.cos(), angle.sin()), dim=1).flatten()
    six = torch.ones(6, dtype=torch.float64)
    return Nets(torch.cat((w, -b * six, six, torch.tensor([-c], dtype=torch.float64))).unsqueeze(0))


@pytest.fixture(scope="module")
def trained() -> two_circles.Trained:
    return train(None, Nets.start(8), X, Y, 3000)


# ------------------------------------------------------------------------------------------------------------ networks


def test_networks_are_those_of_the_library():
    nets, x = random_nets(3), torch.rand(7, 2, requires_grad=True)
    score, slope = nets.linear(x)
    assert torch.equal(score, nets.score(x))
    torch.testing.assert_close(nets.score(x.expand(3, 7, 2)), score)
    for i in range(3):
        expected = module(nets, i).score(x)
        torch.testing.assert_close(score[i], expected)
        torch.testing.assert_close(slope[i], torch.autograd.grad(expected.sum(), x)[0])


def test_start_is_glorot_uniform_and_the_same_whatever_the_number():
    w, b, v, c = Nets.start(2000).layers()
    assert (b == 0).all()
    assert (c == 0).all()
    for weight, fans in ((w, 2 + 6), (v, 6 + 1)):
        limit = math.sqrt(6 / fans)
        assert 0.99 * limit < weight.abs().max() <= limit
        assert weight.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.02)
    assert torch.equal(Nets.start(3).theta, Nets.start(64).theta[:3])


# ------------------------------------------------------------------------------------------------------------ geometry


def test_distances_equal_those_from_a_densely_sampled_boundary():
    """Zeros between neighbours of a fine grid, found linearly: exact but for the cells that a kink goes through."""
    nets, side = random_nets(32), torch.linspace(-0.95, 0.95, 501, dtype=torch.float64)
    grid = torch.cartesian_prod(side, side).view(501, 501, 2)
    scores = Nets(nets.theta.double()).score(grid.flatten(0, 1)).view(-1, 501, 501)
    x, boundary = X[:40], nets.boundary()
    gaps, found = torch.stack([boundary.gap(r) for r in (0.3, 0.7)], dim=1), boundary.distances(x)
    seen = 0
    for i, score in enumerate(scores):
        zeros = []
        for values, points in ((score, grid), (score.T, grid.transpose(0, 1))):
            a, b, p, q = values[1:], values[:-1], points[1:], points[:-1]
            crossed = (a > 0) != (b > 0)
            t = (a / (a - b))[crossed].unsqueeze(1)
            zeros.append(p[crossed] + t * (q[crossed] - p[crossed]))
        zeros = torch.cat(zeros)
        zeros = zeros[zeros.norm(dim=1) <= 0.95]
        if len(zeros) == 0:
            assert gaps[i].isinf().all()
            continue
        seen += 1
        torch.testing.assert_close(found[i], torch.cdist(x.double(), zeros).amin(1), rtol=0, atol=3e-3)
        radii = zeros.norm(dim=1)
        for gap, r in zip(gaps[i], (0.3, 0.7), strict=True):
            assert gap.item() == pytest.approx((radii - r).abs().min().item(), abs=3e-3)
    assert seen >= 8


def test_distances_from_one_piece():
    foot, along = torch.tensor([[[[0.0, 0.2]]], [[[1.0, 0.0]]]], dtype=torch.float64)
    boundary = Boundary(foot, along, *torch.tensor([[[-0.5]], [[0.1]]], dtype=torch.float64))
    gaps = [boundary.gap(radius).item() for radius in (0.1, 0.2, 0.5, 0.7)]
    assert gaps == pytest.approx([0.1, 0, 0, 0.7 - math.hypot(0.5, 0.2)])
    distances = boundary.distances(torch.tensor([[0.0, 0.0], [-0.9, 0.5], [0.4, 0.2]]))[0]
    assert distances.tolist() == pytest.approx([0.2, 0.5, 0.3])
    assert boundary.ends(0).flatten().tolist() == pytest.approx([-0.5, 0.2, 0.1, 0.2])


@pytest.mark.parametrize("inradius", [0.35, 0.5, 0.65])
def test_distances_from_a_regular_polygon(inradius):
    nets = twelve_corners(inradius)
    boundary, corner = nets.boundary(), inradius / math.cos(math.pi / 12)
    ends = boundary.ends(0)
    assert len(ends) == 12
    torch.testing.assert_close(ends.norm(dim=-1), torch.full((12, 2), corner, dtype=torch.float64))
    assert boundary.gap(0.3).item() == pytest.approx(inradius - 0.3)
    assert boundary.gap(0.7).item() == pytest.approx(0.7 - corner)
    assert boundary.gap((inradius + corner) / 2).item() == 0
    assert nets.robustness().item() == pytest.approx(min(inradius - 0.3, 0.7 - corner))
    direction = torch.tensor([[1.0, 0.0], [math.cos(math.pi / 12), math.sin(math.pi / 12)]])
    distances = boundary.distances(0.7 * direction)[0]
    assert distances.tolist() == pytest.approx([abs(0.7 - inradius), 0.7 - corner], abs=1e-6)


def test_six_units_reach_the_bound_of_twelve_corners():
    assert twelve_corners(1 / (1 + 1 / math.cos(math.pi / 12))).robustness().item() == pytest.approx(bound(12))


def test_bounds():
    found = [bound(corners) for corners in (6, 8, 12, math.inf)]
    assert found == pytest.approx([0.1641, 0.1802, 0.1913, 0.2], abs=5e-5)


def test_no_robustness_without_separation():
    good = twelve_corners(0.5).theta
    swapped, across, none = good.clone(), twelve_corners(0.7).theta, torch.zeros(1, 25, dtype=torch.float64)
    swapped[:, 18:] *= -1
    nets = Nets(torch.cat((good, swapped, across, none, torch.full_like(none, torch.nan))))
    eta = nets.robustness()
    assert eta[0] > 0.18
    assert (eta[1:] == 0).all()
    assert nets.boundary().gap(0.3)[3].isinf()


def test_no_network_is_more_robust_than_twelve_corners(trained):
    eta = Nets(trained.theta.flatten(0, 1)).robustness()
    assert (eta > 0.1).sum() > 50
    assert eta.max() <= bound(12)


# ------------------------------------------------------------------------------------------------------------- attacks


def test_deepfool_is_the_librarys(trained):
    nets = Nets(torch.cat((trained.theta[-1], random_nets(2).theta)))
    x_adv = deepfool(nets, X)
    attack = DeepFool(steps=10, overshoot=0.02, bounds=(-1.0, 1.0))
    for i in range(len(nets.theta)):
        torch.testing.assert_close(x_adv[i], attack(module(nets, i), X), rtol=0, atol=2e-4)


def test_blind_cuts_off_at_the_mean_of_each_network(trained):
    nets = Nets(trained.theta[-1])
    whole, cut = ((f - X).norm(dim=2) for f in (deepfool(nets, X), blind(nets, X, Y)))
    expected = 0.9 * whole.minimum(whole.mean(1, keepdim=True))
    torch.testing.assert_close(cut, expected, rtol=1e-4, atol=1e-6)
    assert (whole.amax(1) > 1.2 * whole.mean(1)).all()


# ------------------------------------------------------------------------------------------------------------ training


def single(name: str, model: TwoCirclesNet, epochs: int) -> torch.Tensor:
    """One network, by autograd and the library's DeepFool."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)

    def error(x: torch.Tensor) -> torch.Tensor:
        return nn.functional.mse_loss(model.score(x).sigmoid(), Y)

    for _ in range(epochs):
        total = error(X)
        if name == "AT":
            x = X.clone().requires_grad_()
            total = total + error(X + 0.1 * torch.autograd.grad(error(x), x)[0].sign())
        elif name == "BAT":
            delta = DeepFool(steps=10, overshoot=0.02, bounds=(-1.0, 1.0))(model, X) - X
            size = delta.norm(dim=1, keepdim=True)
            total = total + error(X + 0.9 * delta * (size.mean() / size).clamp_max(1))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    return nn.utils.parameters_to_vector(model.parameters()).detach()


@pytest.mark.parametrize("name", ADVERSARIES)
def test_training_of_many_is_the_training_of_each(name):
    nets = Nets(train(None, Nets.start(3), X, Y, 300).theta[-1])
    run = train(ADVERSARIES[name], nets, X, Y, 25)
    for i in range(3):
        expected = single(name, module(nets, i), 25)
        torch.testing.assert_close(run.theta[-1, i], expected, rtol=0, atol=1e-4)
        assert (expected - nets.theta[i]).abs().max() > 0.02


def test_normal_training_gets_far(trained):
    eta = Nets(trained.theta[-1]).robustness()
    assert eta.max() > 0.13


@pytest.mark.parametrize(("name", "before"), [("NT", 545), ("AT", 415)])  # shortly before one of the 8 stops
def test_stopped_networks_are_the_first_without_errors(name, before):
    attack, start = ADVERSARIES[name], Nets(train(ADVERSARIES[name], Nets.start(8), X, Y, before).theta[-1])
    run = train(attack, start, X, Y, 20)
    assert run.epochs.tolist() == list(range(1, 21))
    seen = torch.cat((start.theta.unsqueeze(0), run.theta[:-1]))
    some = 0
    for i in range(8):
        for also, stopped in zip((False, True), run.stopped[:, i], strict=True):
            first = torch.full((25,), torch.nan)
            for theta in reversed(seen[:, i].unsqueeze(1)):
                nets = Nets(theta)
                points = [X, attack(nets, X, Y)] if also and attack else [X]
                if all(((nets.score(x) > 0) == (Y > 0)).all() for x in points):
                    first = theta[0]
            some += not first.isnan().any() and not torch.equal(first, start.theta[i])
            assert torch.equal(first.nan_to_num(9), stopped.nan_to_num(9))
    assert some > 0


# ------------------------------------------------------------------------------------------------------------- results


@pytest.mark.usefixtures("rendered")
def test_reproduce_writes_table_and_figures(tmp_path):
    steps = []
    rows = two_circles.reproduce(
        tmp_path / "new", seeds=3, epochs=20, points=100, on_step=lambda *step: steps.append(step)
    )
    assert steps == [(i, 60) for i in range(1, 61)]
    with (tmp_path / "new" / "table.csv").open() as file:
        written = list(csv.DictReader(file))
    assert [row["method"] for row in written] == [row.method for row in rows]
    assert {row["method"]: row["printed"] for row in written}["BAT"] == "0.175"
    assert all(row.median <= row.best and 0 <= row.accurate <= 1 for row in rows if row.stop != "bound")
    figures = {path.name for path in (tmp_path / "new").glob("*.png")}
    assert figures == {"boundaries.png", "training.png", "robustness.png", "angles.png"}


@pytest.mark.parametrize("name", ["seeds", "epochs", "points"])
def test_reproduce_refuses(tmp_path, name):
    with pytest.raises(ValueError, match=f"^{name} must be at least 1, got 0$"):
        two_circles.reproduce(tmp_path, **{name: 0})
