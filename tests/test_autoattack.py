"""APGD, Square, AutoAttack and the worst case of several attacks: published schedules, closed forms, plain forms."""

import dataclasses
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from test_attacks import SHAPE, assert_equal, away, corner, middle
from torch import Tensor, nn
from toys import Wavy, labels, linear, samples

from fastadv import adapt, load
from fastadv.attacks import (
    APGD,
    APGDT,
    FABT,
    FGSM,
    PGD,
    APGDRounds,
    Attack,
    AutoAttack,
    MultiAttack,
    Noise,
    Rows,
    Square,
)
from fastadv.attacks.apgd import checkpoints
from fastadv.attacks.square import _bumps, _Margin, _size, _window
from fastadv.hub import load_weights
from fastadv.losses import cross_entropy, dlr
from fastadv.ops import sparse_l1_step

pytestmark = pytest.mark.usefixtures("seed_zero")
PUBLISHED = Path(__file__).parents[1] / "benchmarks" / "results" / "reproduce"

# ------------------------------------------------------------------------------------------------------------ Auto-PGD


def test_checkpoints_are_the_published_ones():
    assert list(checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert list(checkpoints(100).values()) == [22, 19, 16, 13, 10, 7, 6, 6]
    for steps in (1, 5, 10, 20, 33, 1000):
        found = checkpoints(steps)
        assert sum(found.values()) == max(found) <= steps
        assert min(found.values()) >= 1
    assert checkpoints(0) == {}


def plain_apgd(model: nn.Module, x: Tensor, y: Tensor, start: Tensor, eps: float, steps: int) -> tuple[Tensor, int]:
    """Algorithm 1 of the AutoAttack paper for one sample, in L-infinity, on the cross-entropy: the point, gradients."""

    def look(point: Tensor) -> tuple[float, Tensor, bool]:
        leaf = point.clone().requires_grad_()
        logits = model(leaf)
        loss = cross_entropy(logits, y).sum()
        return loss.item(), torch.autograd.grad(loss, leaf)[0], bool(logits.argmax() != y)

    def projected(point: Tensor) -> Tensor:
        return (x + (point - x).clip(-eps, eps)).clip(0, 1)

    if model(x).argmax() != y:
        return x, 0
    before, here = start, start
    loss, grad, fooled = look(here)
    best = (loss, here, grad)
    size, reduced, judged, losses = 2 * eps, True, loss, [loss]
    for k in range(1, steps + 1):
        if fooled:
            return here, k
        ahead = projected(here + size * grad.sign())
        if k > 1:
            ahead = projected(here + 0.75 * (ahead - here) + 0.25 * (here - before))
        before, here = here, ahead
        loss, grad, fooled = look(here)
        losses.append(loss)
        if loss > best[0]:
            best = (loss, here, grad)
        if k in checkpoints(steps):
            interval = checkpoints(steps)[k]
            rises = sum(losses[i] > losses[i - 1] for i in range(k - interval + 1, k + 1))
            reduced = rises <= 0.75 * interval or (not reduced and best[0] == judged)
            judged = best[0]
            if reduced and not fooled:
                size, (_, here, grad) = size / 2, best
    return (here if fooled else best[1]), steps + 1


def test_apgd_is_algorithm_1():
    model, x = Wavy(48, 5), samples(48, *SHAPE, dtype=torch.float64)
    y = model(x).argmax(1)
    y[::8] = (y[::8] + 1) % 5
    eps = 0.012
    found = APGD(eps, steps=60).run(model, x, y)
    starts = PGD(eps, 0, steps=0)(model, x, y)
    gradients = set()
    for i in range(48):
        one = slice(i, i + 1)
        point, count = plain_apgd(model, x[one], y[one], starts[one], eps, 60)
        torch.testing.assert_close(found.x_adv[one], point, atol=1e-12, rtol=0)
        assert found.grads[i] == count
        gradients.add(count)
    assert {0, 61} < gradients
    assert len(gradients) > 3


@pytest.mark.parametrize("loss", ["ce", "dlr"])
def test_apgd_finds_its_step_size(loss):
    """PGD with the step that it begins with jumps from side to side; PGD with a good one gets where it does."""
    model, x = Wavy(48, 5), samples(64, *SHAPE, dtype=torch.float64)
    y = model(x).argmax(1)
    attacks = APGD(0.01, loss=loss), PGD(0.01, 0.02, 100, loss=loss), PGD(0.01, 0.0005, 100, loss=loss)
    points = [attack(model, x, y) for attack in attacks]
    robust = torch.stack([model(point).argmax(1) == y for point in points]).all(0)
    assert robust.sum() > 15
    measure = cross_entropy if loss == "ce" else dlr
    apgd, jumping, tuned = (measure(model(point), y)[robust].detach() for point in points)
    assert (apgd > jumping + 1e-4).double().mean() > 0.3
    assert (apgd < jumping - 1e-4).double().mean() < 0.05
    assert (apgd >= tuned - 0.02 * tuned.abs() - 1e-6).double().mean() > 0.95


@pytest.mark.parametrize("attack", [APGD(0.03, steps=20), APGDT(0.03, steps=20), Square(0.03, queries=3000)])
def test_robust_samples_of_a_linear_model_end_in_the_corner(attack):
    """Square, too: its last windows are single pixels, and it tries each with both signs many times."""
    model, x = linear(48, 2, torch.float64), samples(64, 48, dtype=torch.float64)
    y = model(x).argmax(1)
    expected = corner(model, x, y, 0.03)
    robust = model(expected).argmax(1) == y
    assert 10 < robust.sum() < 60
    found = attack.run(model, x, y)
    assert torch.equal(found.success, ~robust)
    torch.testing.assert_close(found.x_adv[robust], expected[robust], atol=1e-9, rtol=0)


@pytest.mark.parametrize("attack", [APGD(0.03, steps=40, norm="l2"), APGDT(0.03, steps=40, norm="l2")])
def test_apgd_in_l2_goes_straight_away_from_the_boundary(attack):
    model, x = linear(48, 2, torch.float64), middle()
    y = model(x).argmax(1)
    w = away(model, y)
    expected = x + 0.03 * w / w.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    robust = model(expected).argmax(1) == y
    assert 3 < robust.sum() < 16
    torch.testing.assert_close(attack(model, x, y)[robust], expected[robust], atol=1e-3, rtol=0)


def furthest_in_l1(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """The worst point for a linear model in L1 ball and box: the pixels of most weight, each as far as it may go."""
    weight = away(model, y).flatten(1)
    room = torch.where(weight > 0, 1 - x.flatten(1), x.flatten(1))
    order = weight.abs().argsort(dim=1, descending=True)
    before = room.gather(1, order).cumsum(1) - room.gather(1, order)
    moved = torch.minimum((eps - before).clamp(min=0), room.gather(1, order))
    return x + (torch.zeros_like(room).scatter(1, order, moved) * weight.sign()).view_as(x)


@pytest.mark.parametrize("kind", [APGD, APGDT])
def test_apgd_in_l1_fills_the_pixels_of_most_weight(kind):
    model, x = linear(48, 2, torch.float64), samples(32, *SHAPE, dtype=torch.float64)
    y, eps = model(x).argmax(1), 1.0
    expected = furthest_in_l1(model, x, y, eps)
    robust = model(expected).argmax(1) == y
    assert 3 < robust.sum() < 29
    found = kind(eps, norm="l1", large_eps=True).run(model, x, y)
    assert torch.equal(found.success, ~robust)
    gain, most = (cross_entropy(model(point), y) - cross_entropy(model(x), y) for point in (found.x_adv, expected))
    assert (gain[robust] > 0.95 * most[robust]).all()


def test_larger_budgets_come_first(monkeypatch):
    """Three and two times eps for three tenths of the steps each, which samples that are fooled there make as well."""
    model, x = Wavy(48, 5), samples(32, *SHAPE)
    eps, seen = torch.linspace(0.1, 1.0, 32), []
    search = APGD._search

    def spy(self, rows):
        before = rows.steps.clone()
        search(self, rows)
        sizes = (rows.x_adv - rows.x).abs().flatten(1).sum(1)
        assert (sizes <= rows.eps * (1 + 1e-5)).all()
        assert rows.x_adv.min() >= 0
        assert rows.x_adv.max() <= 1
        seen.append(((rows.eps / eps[rows.ids]).round().unique().tolist(), self.steps, rows.steps - before))

    monkeypatch.setattr("fastadv.attacks.apgd._AutoPGD._search", spy)
    found = APGD(eps, 12, norm="l1", large_eps=True).run(model, x)
    assert [(factors, steps) for factors, steps, _ in seen] == [([3], 4), ([2], 4), ([1], 4)]
    assert all((made == 4).all() for _, _, made in seen[:2])
    assert 0 < found.success.sum() < 32
    assert seen[2][2][found.success].min() < 4
    assert set(found.grads[~found.success].tolist()) == {12 + 3}
    assert (found.norm <= eps * (1 + 1e-5)).all()
    seen.clear()
    APGD(eps, 4, norm="l1", large_eps=True)(model, x)
    assert [steps for _, steps, _ in seen] == [2, 2, 0]


def test_apgd_t_tries_the_likeliest_classes_in_turn():
    """A class that only a target reaches: the runner-up at x cannot be reached, the third can."""

    class Third(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            t = x.flatten(1)[:, :1]
            flat = torch.zeros_like(t)
            return torch.cat([flat + 1, 0.9 + 0 * t, 0.5 + 2 * (t - 0.5), flat - 1, flat - 2], dim=1)

    x, y = torch.full((1, *SHAPE), 0.5), torch.zeros(1, dtype=torch.int64)
    assert not APGDT(0.4, steps=5, targets=1).run(Third(), x, y).success.any()
    found = APGDT(0.4, steps=5, targets=2).run(Third(), x, y)
    assert found.target.tolist() == [2]


@pytest.mark.parametrize("classes", [2, 3])
def test_apgd_t_of_few_classes(classes):
    model, x = linear(48, classes), samples(32, *SHAPE)
    y = model(x).argmax(1)
    fgsm = FGSM(0.05).run(model, x, y)
    assert (APGDT(0.05, steps=10).run(model, x, y).success >= fgsm.success).all()


def test_restarts_of_apgd_take_only_those_that_none_has_fooled():
    model, x = Wavy(48, 5), samples(64, *SHAPE)
    one, three = (APGD(0.1, steps=0, restarts=restarts).run(model, x) for restarts in (1, 3))
    assert 0 < one.success.double().mean() < 1
    assert three.success.sum() > one.success.sum()
    assert torch.equal(three.x_adv[one.success], one.x_adv[one.success])
    assert set(three.grads[~three.success].tolist()) == {3}


def test_expectation_over_transformations_sums_gradients():
    """A model that is random by a coin of its own: one gradient sees one side of it, the sum of many both."""

    class Coin(nn.Module):
        flips = 0

        def forward(self, x: Tensor) -> Tensor:
            self.flips += 1
            t = x.flatten(1)
            seen = t[:, :24] if self.flips % 2 else t[:, 24:]
            return torch.stack([0 * t[:, 0] + 9, (seen - 0.5).sum(1)], dim=1)

    x, y = torch.full((4, *SHAPE), 0.5), torch.zeros(4, dtype=torch.int64)
    found = APGD(0.1, steps=1, eot=20).run(Coin(), x, y)
    assert found.grads.tolist() == [40] * 4
    torch.testing.assert_close(found.x_adv - x, torch.full_like(x, 0.1))
    assert not torch.allclose(APGD(0.1, steps=1, eot=1)(Coin(), x, y) - x, torch.full_like(x, 0.1))


# -------------------------------------------------------------------------------------------------------------- Square


def windows(attack: Square, x: Tensor, queries: int) -> list[tuple[float, list[float], Tensor]]:
    numbers = attack.seeded(0)._numbers(x, 1)
    return [next(numbers) for _ in range(queries)]


def test_the_share_of_pixels_is_halved_as_published():
    shares = [share for share, _, _ in windows(Square(queries=9000, p=0.8), samples(1, 1, 8, 8), 9000)]
    table = {0: 1, 10: 1, 11: 2, 50: 2, 51: 4, 200: 4, 201: 8, 500: 8, 501: 16, 1000: 16, 1001: 32, 2000: 32, 2001: 64}
    table |= {4000: 64, 4001: 128, 6000: 128, 6001: 256, 8000: 256, 8001: 512}
    assert {query: 0.8 / shares[query] for query in table} == table


def test_windows_are_squares_everywhere_in_the_image():
    x = samples(1, 3, 12, 20)
    assert _size(x) == (12, 20)
    places = [place for _, place, _ in windows(Square(queries=3000), x, 3000)]
    corners = {(w[1].start, w[2].start) for w in (_window(p[0], p[1], 5, 5, x) for p in places)}
    assert corners == {(top, left) for top in range(8) for left in range(16)}
    signs = torch.stack([signs.flatten() for _, _, signs in windows(Square(queries=3000), x, 3000)])
    assert signs.shape == (3000, 3)
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    assert signs.mean(0).abs().max() < 0.1


def test_every_query_of_square_paints_one_window_or_none():
    model, x = Wavy(3 * 64, 5), samples(8, 3, 8, 8, dtype=torch.float64)
    y, eps = model(x).argmax(1), 0.004
    points = [Square(eps, queries=k)(model, x, y) for k in range(30)]
    accepted = 0
    for k, (before, after) in enumerate(pairwise(points)):
        changed = (before != after).any(1)  # [B, H, W]
        side = max(round((0.8 / (1 if k <= 10 else 2) * 64) ** 0.5), 1)
        for image in changed:
            if image.any():
                accepted += 1
                rows, columns = image.any(1).nonzero(), image.any(0).nonzero()
                assert rows.max() - rows.min() < side
                assert columns.max() - columns.min() < side
    assert accepted > 10
    delta = (points[-1] - x).abs()
    inside = (x > eps) & (x < 1 - eps)
    torch.testing.assert_close(delta[inside], torch.full_like(delta[inside], eps), rtol=0, atol=1e-12)
    losses = torch.stack([cross_entropy_margin(model, point, y) for point in points])
    assert (losses.diff(dim=0) <= 0).all()


def cross_entropy_margin(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    logits = model(x).detach()
    true = logits.gather(1, y.unsqueeze(1)).squeeze(1)
    return (true - logits.scatter(1, y.unsqueeze(1), -torch.inf).amax(1)).clamp(min=0)


@pytest.mark.parametrize("shape", [(48,), (3, 16), (1, 5, 9), (1, 9, 5), (2, 1, 7)])
def test_square_takes_samples_of_any_shape(shape):
    features = torch.Size(shape).numel()
    model, x = Wavy(features, 5), samples(32, *shape)
    few, many = (Square(0.02, queries=queries).run(model, x) for queries in (1, 200))
    assert many.success.sum() > few.success.sum()
    assert many.grads.sum() == 0
    assert many.steps[~many.success].tolist() == [200] * int((~many.success).sum())


def test_square_in_l2_spends_its_budget():
    model, x = Wavy(3 * 81, 5), samples(32, 3, 9, 9, low=0.2, high=0.8)
    few, many = (Square(0.1, queries=queries, norm="l2").run(model, x) for queries in (0, 300))
    torch.testing.assert_close(many.norm, torch.full((32,), 0.1))
    assert many.success.sum() > few.success.sum() + 3


def test_square_in_l1_stays_in_ball_and_box():
    model, x = Wavy(3 * 81, 5), samples(32, 3, 9, 9)
    eps = torch.linspace(0, 1.5, 32)
    few, many = (Square(eps, queries=queries, norm="l1").run(model, x) for queries in (0, 300))
    assert (many.norm <= eps * (1 + 1e-6)).all()
    assert (many.norm[1:] > eps[1:] / 3).all()
    assert many.x_adv.min() >= 0
    assert many.x_adv.max() <= 1
    assert many.success.sum() > few.success.sum() + 3


def test_square_in_l1_puts_what_is_left_into_one_window():
    """A query by the formulas of Croce and Hein (2021), for one sample of two channels, from a given point."""
    x = samples(1, 2, 9, 9, low=0.4, high=0.6, dtype=torch.float64)
    rows = Rows(linear(162, 2, torch.float64), x, torch.zeros(1, dtype=torch.int64), torch.arange(1))
    rows.eps, rows.state = torch.tensor([2.0], dtype=torch.float64), _Margin(torch.full((1,), -torch.inf).double())
    delta = 0.01 * (samples(1, 2, 9, 9, dtype=torch.float64) - 0.5)
    rows.x_adv, tall, wide = x + delta, slice(0, 3), slice(0, 3)
    attack, bumps = Square(2.0, norm="l1"), _bumps(3, False, 1)
    signs = torch.tensor([1.0, -1.0], dtype=torch.float64).view(2, 1, 1)
    attack._carry(lambda *_: bumps, rows, 9 / 81, [0.0, 0.0, 0.99, 0.99, 0.3], signs)
    expected, left = delta.clone(), 2.0 - delta.abs().sum()
    for channel in range(2):
        there, here = delta[0, channel, 6:, 6:], delta[0, channel, tall, wide]
        new = bumps * signs[channel] + here / here.abs().sum()
        carried = there.abs().sum() + here.abs().sum()
        expected[0, channel, tall, wide] = new / new.abs().sum() * (left + 2 * carried)
    expected[:, :, 6:, 6:] = 0
    point, none = x + expected, torch.zeros(1, dtype=torch.float64)
    sparse_l1_step(point, torch.zeros_like(x), x, none, rows.eps, none)
    torch.testing.assert_close(rows.x_adv, point)
    assert expected.abs().sum() > 2.0
    torch.testing.assert_close((point - x).abs().sum(), torch.tensor(2.0, dtype=torch.float64))


@pytest.mark.parametrize("order", [1, 2])
def test_bumps_of_square(order):
    for side in (3, 7, 12):
        bumps = _bumps(side, False, order)
        torch.testing.assert_close(bumps.norm(order), torch.tensor(1.0, dtype=torch.float64))
        assert (bumps[: side // 2] > 0).all()
        assert (bumps[side // 2 :] < 0).all()
        assert torch.equal(_bumps(side, True, order), bumps.T)
    upper = _bumps(12, False, order)[:6]
    rings = [ring ** (-4.0 if order == 1 else -2.0) for ring in range(1, 8)]
    assert upper.argmax() == 3 * 12 + 6
    assert float(upper[3, 7] / upper[3, 6]) == pytest.approx(sum(rings[1:]) / sum(rings))


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_square_in_l2_and_l1_needs_images(norm):
    with pytest.raises(ValueError, match=rf"Square: norm {norm} needs images .* got \(4, 48\)"):
        Square(norm=norm)(Wavy(48, 5), samples(4, 48))


# ---------------------------------------------------------------------------------------- the worst case of several


def test_the_versions_of_autoattack():
    standard = AutoAttack(0.1).attacks
    assert list(standard) == ["apgd-ce", "apgd-t", "fab-t", "square"]
    assert (standard["apgd-ce"].loss, standard["apgd-ce"].steps, standard["apgd-ce"].restarts) == ("ce", 100, 1)
    assert (standard["apgd-t"].targets, standard["apgd-t"].steps) == (9, 100)
    assert (standard["fab-t"].targets, standard["fab-t"].steps, standard["fab-t"].enough) == (9, 100, 0.1)
    assert (standard["square"].queries, standard["square"].p) == (5000, 0.8)
    plus = AutoAttack(0.1, "plus", norm="l2").attacks
    assert list(plus) == ["apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"]
    assert [attack.restarts for attack in plus.values()] == [5, 5, 5, 1, 1, 1]
    assert {attack.norm for attack in plus.values()} == {"l2"}
    rand = AutoAttack(0.1, "rand", bounds=(-1.0, 1.0)).attacks
    assert {name: attack.eot for name, attack in rand.items()} == {"apgd-ce": 20, "apgd-dlr": 20}
    assert {attack.bounds for attack in rand.values()} == {(-1.0, 1.0)}
    assert list(AutoAttack(0.1, "custom", ("square", "fab")).attacks) == ["square", "fab"]
    sparse = AutoAttack(8.0, norm="l1").attacks
    assert list(sparse) == ["apgd-ce", "apgd-t", "fab-t", "square"]
    assert (sparse["apgd-ce"].restarts, sparse["apgd-ce"].large_eps) == (5, True)
    assert (sparse["apgd-t"].restarts, sparse["apgd-t"].targets, sparse["apgd-t"].large_eps) == (1, 5, True)
    assert (sparse["fab-t"].targets, sparse["fab-t"].enough) == (9, 8.0)
    assert {attack.norm for attack in sparse.values()} == {"l1"}
    plus = AutoAttack(8.0, "plus", norm="l1").attacks
    assert (plus["apgd-ce"].large_eps, plus["apgd-t"].targets, plus["apgd-t"].large_eps) == (False, 9, False)


def test_the_fast_version_takes_less_than_a_fifth_of_the_gradients():
    """Counted by hand for robust samples of 5 and of 10 classes: of each attack one at the start and one a step."""
    model, x = Wavy(48, 5), samples(24, *SHAPE)
    y, eps = model(x).argmax(1), 0.012
    standard = AutoAttack(eps, "custom", ("apgd-ce", "apgd-t", "fab-t")).run(model, x, y)
    fast = AutoAttack(eps, "fast").run(model, x, y)
    assert 5 < fast.success.sum() < 20
    assert (fast.success >= standard.success).all()
    targets = 4
    assert fast.grads[~fast.success].unique().tolist() == [1 + 31 + 2 * targets * 11 + 3 * 41]
    assert standard.grads[~standard.success].unique().tolist() == [101 + targets * 101 + targets * 100]
    wide = linear(48, 10)
    y = wide(x).argmax(1)
    robust = AutoAttack(1e-4, "fast").run(wide, x, y)
    assert robust.grads[~robust.success].unique().tolist() == [353]
    assert 5 * 353 < 101 + 9 * 101 + 9 * 100
    ten = AutoAttack(0.1, "fast").attacks
    assert 5 * ten["square-1000"].queries == AutoAttack(0.1).attacks["square"].queries


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_rounds_of_apgd_fool_a_linear_network_exactly_where_a_boundary_is_in_the_ball(norm):
    model, x = linear(48, 12), samples(200, *SHAPE)
    y, weight = model(x).argmax(1), model[1].weight.detach()
    logits = model(x).detach()
    leads = logits.gather(1, y[:, None]) - logits
    apart = weight[y][:, None] - weight
    sizes = apart.abs().sum(2) if norm == "linf" else apart.norm(dim=2)
    nearest = (leads / sizes).masked_fill(leads == 0, torch.inf).min(1).values
    eps = float(nearest.median())
    clear = (nearest / eps - 1).abs() > 0.01
    attack = APGDRounds(eps, norm=norm, bounds=(-10.0, 10.0), seed=0)
    found = attack.run(model, x, y)
    assert torch.equal(found.success[clear], nearest[clear] < eps)
    assert (found.norm <= eps + 1e-6).all()


def test_rounds_of_apgd_fool_more_than_as_many_steps_of_apgd_t_on_a_steep_network():
    """Trained normally for 70 epochs."""
    weights = "2026-11-30-blind-fashion-mnist-70/blind-fashion-mnist-nt/model.safetensors"
    test = load("fashion-mnist-mini", "test").take(100)
    model = load_weights(PUBLISHED / weights, test.sample_shape, 10)
    rounds, usual = (
        attack.run(model, test.x, test.y) for attack in (APGDRounds(0.02, seed=0), APGDT(0.02, 35, seed=0))
    )
    assert rounds.success.sum() > usual.success.sum()
    assert rounds.grads.max() == 2 * 9 * 11 + 3 * 41 < usual.grads.max()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_nearest_boundaries_come_first(norm):
    """Of a linear model the distances are known; its likeliest classes are far away, for their weights are small."""
    model, x = linear(48, 6, torch.float64), samples(32, *SHAPE, dtype=torch.float64)
    with torch.no_grad():
        model[1].weight[:3] *= 0.1
        model[1].bias.copy_(-model[1].weight.sum(1) / 2 + torch.tensor([3.0, 2.0, 1.0, 0.0, 0.0, 0.0]))
    logits = model(x)
    y = logits.argmax(1)
    rows = Rows(model, x, y, torch.arange(32))
    found = APGDT(0.1, candidates=5, norm=norm)._nearest(rows)
    apart = model[1].weight - model[1].weight[y].unsqueeze(1)  # [B, K, features]
    sizes = apart.abs().sum(2) if norm == "linf" else apart.norm(dim=2)
    distances = ((logits.gather(1, y.unsqueeze(1)) - logits) / sizes).scatter(1, y.unsqueeze(1), torch.inf)
    assert torch.equal(found, distances.argsort(dim=1)[:, :5])
    assert not torch.equal(found, rows.ranked(logits))
    rows.settle()
    assert rows.grads.tolist() == [5] * 32
    few = APGDT(0.1, candidates=2, norm=norm)._nearest(rows)
    assert torch.equal(few.sort(1).values, rows.ranked(logits)[:, :2].sort(1).values)


class Boasting(nn.Module):
    """Says that a sample is fooled wherever it is asked for gradients, and is right about it for every third."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        logits = self.inner(x)
        return -logits if x.requires_grad else logits


@pytest.mark.parametrize("bf16", [False, True])
def test_the_fast_version_reports_what_is_verified(bf16):
    model, x = linear(48, 5), samples(64, *SHAPE)
    y = model(x).argmax(1)
    for tried in (model, Boasting(model)):
        found = AutoAttack(0.02, "fast", bf16=bf16).run(tried, x, y)
        assert torch.equal(found.success, model(found.x_adv).argmax(1) != y)
        assert torch.equal(found.x_adv[~found.success], x[~found.success])
        assert (found.norm <= 0.02 + 1e-7).all()
        assert 0 < found.success.sum() < 64


def test_the_fast_version_does_not_depend_on_order_or_batch():
    model, x = Wavy(48, 5), samples(10, *SHAPE)
    y, ids, attack = model(x).argmax(1), torch.arange(10), AutoAttack(0.012, "fast", seed=3)
    whole, order = attack.run(model, x, y, ids), torch.randperm(10)
    turned = attack.run(model, x[order], y[order], ids[order])
    assert torch.equal(turned.x_adv, whole.x_adv[order])
    assert torch.equal(turned.grads, whole.grads[order])
    parts = [attack.run(model, x[part], y[part], ids[part]) for part in (slice(0, 3), slice(3, 10))]
    assert torch.equal(torch.cat([part.x_adv for part in parts]), whole.x_adv)


def test_bf16_is_for_logits():
    model = adapt(linear(48, 5), loss=lambda output, y: cross_entropy(output, y))
    with pytest.raises(ValueError, match="bf16 is for models without a loss of their own"):
        AutoAttack(0.1, "fast", bf16=True)(model, samples(4, *SHAPE), labels(4, 5))


@pytest.mark.parametrize("how", [("custom", ("apgd-ce", "fab-t")), ("fast",)])
def test_every_bound_of_anytime_is_a_whole_result(how):
    model, x = Wavy(48, 5), samples(8, *SHAPE)
    y = model(x).argmax(1)
    y[0] = (y[0] + 1) % 5
    attack = AutoAttack(0.012, *how, seed=1)
    names, found = zip(*attack.anytime(model, x, y), strict=True)
    assert names == ("clean", *attack.attacks)
    assert found[0].success.tolist() == [True, *[False] * 7]
    assert_equal(found[-1], attack.run(model, x, y))
    for before, after in pairwise(found):
        assert (after.success >= before.success).all()
        assert (after.grads >= before.grads).all()
    for each in found:
        assert torch.equal(each.success, model(each.x_adv).argmax(1) != y)
    easy = AutoAttack(0.4, *how, seed=1)
    assert len(list(easy.anytime(model, x, y))) < len(easy.attacks) + 1  # nothing is left to attack


def quick(eps: float | Tensor) -> AutoAttack:
    return AutoAttack(eps, "custom", ("apgd-ce", "apgd-t"))


def test_autoattack_is_never_weaker_than_its_attacks():
    model, x = Wavy(48, 5), samples(48, *SHAPE)
    y = model(x).argmax(1)
    y[::8] = (y[::8] + 1) % 5
    whole = quick(0.012).run(model, x, y)
    assert 0.3 < whole.success.double().mean() < 0.95
    for attack in quick(0.012).attacks.values():
        assert (whole.success >= attack.run(model, x, y).success).all()
    assert torch.equal(whole.x_adv[::8], x[::8])
    assert whole.grads[::8].sum() == 0
    assert torch.equal(whole.x_adv[~whole.success], x[~whole.success])
    assert (whole.norm <= 0.012 + 1e-7).all()


def test_one_budget_a_sample_of_autoattack():
    model, x = Wavy(48, 5), samples(12, *SHAPE)
    eps = torch.linspace(0, 0.03, 12)
    together = quick(eps).run(model, x)
    for i in (0, 5, 11):
        alone = quick(eps[i].item()).run(model, x[i : i + 1], ids=torch.tensor([i]))
        assert torch.equal(alone.x_adv, together.x_adv[i : i + 1])


@dataclasses.dataclass(frozen=True)
class Counted(PGD):
    """PGD that notes which samples it was given."""

    seen: ClassVar[list[list[int]]] = []

    def perturb(self, rows) -> None:
        self.seen.append(rows.ids.tolist())
        super().perturb(rows)


def test_the_worst_case_gives_each_attack_what_is_left():
    model, x = Wavy(48, 5), samples(32, *SHAPE)
    y = model(x).argmax(1)
    weak, strong = FGSM(0.02), Counted(0.03, 0.005, 20)
    found = MultiAttack((Noise(0.02), weak, strong)).run(model, x, y)
    noise, fgsm = (attack.run(model, x, y).success for attack in (Noise(0.02), weak))
    assert noise.any()
    assert (fgsm & ~noise).any()
    assert Counted.seen == [(~(noise | fgsm)).nonzero().squeeze(1).tolist()]
    assert torch.equal(found.success, noise | fgsm | strong.run(model, x, y).success)
    assert torch.equal(found.x_adv[noise], Noise(0.02)(model, x, y)[noise])
    assert torch.equal(found.x_adv[fgsm & ~noise], weak(model, x, y)[fgsm & ~noise])


def test_seeds_are_added():
    model, x = Wavy(48, 5), samples(32, *SHAPE)
    y = model(x).argmax(1)
    found = MultiAttack((Noise(0.02, seed=2),), seed=3)(model, x, y)
    assert torch.equal(found, MultiAttack((Noise(0.02, seed=5),))(model, x, y))
    assert not torch.equal(found, MultiAttack((Noise(0.02, seed=2),))(model, x, y))


def test_minimal_perturbations_count_within_the_budget_only():
    """FAB crosses the boundary wherever it is."""
    model, x = linear(48, 2, torch.float64), samples(64, *SHAPE, low=0.3, high=0.7, dtype=torch.float64)
    y = model(x).argmax(1)
    distance = FABT(steps=20).run(model, x).norm
    eps = distance.median().item()
    found = AutoAttack(eps, "custom", ("fab-t",)).run(model, x, y)
    assert torch.equal(found.success, found.norm > 0)
    assert (found.norm <= eps).all()
    clear = (distance - eps).abs() > 0.03 * eps
    assert torch.equal(found.success[clear], (distance < eps)[clear])


def test_autoattack_of_two_classes_and_vectors():
    model, x = linear(48, 2), samples(48, 48)
    y = model(x).argmax(1)
    reached = model(corner(model, x, y, 0.05)).argmax(1) != y
    attack = AutoAttack(0.05)
    assert 0.2 < reached.double().mean() < 0.8
    assert torch.equal(attack.run(model, x, y).success, reached)


def test_autoattack_repeats():
    model, x = Wavy(48, 5), samples(16, *SHAPE)
    before = torch.get_rng_state()
    one, two = (quick(0.01).run(model, x) for _ in range(2))
    assert_equal(one, two)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: APGD(loss="kl"), "APGD: loss must be one of ce, dlr, pm, got 'kl'"),
        (lambda: APGD(rho=2), r"APGD: rho must be in \[0, 1\], got 2"),
        (lambda: APGD(eot=0), "APGD: eot must be a whole number of at least 1, got 0"),
        (lambda: APGD(norm="l0"), "APGD: norm must be one of linf, l2, l1, got 'l0'"),
        (lambda: APGD(large_eps=True), "APGD: large_eps is for norm l1, got linf"),
        (lambda: APGDT(targets=0), "APGDT: targets must be a whole number of at least 1"),
        (lambda: APGDT(candidates=-1), "APGDT: candidates must be a whole number of at least 0"),
        (lambda: Square(p=0), r"Square: p must be in \(0, 1\], got 0"),
        (lambda: Square(queries=-1), "Square: queries must be a whole number of at least 0"),
        (
            lambda: AutoAttack(version="quick"),
            "AutoAttack: version must be one of standard, plus, rand, fast, custom, got 'qui",
        ),
        (lambda: AutoAttack(version="fast", norm="l1"), "AutoAttack: version fast is for norms linf and l2"),
        (
            lambda: AutoAttack(0.1, "custom", ("apgd-rounds",), norm="l1"),
            "AutoAttack: apgd-rounds is for norms linf and",
        ),
        (lambda: AutoAttack(bf16=True), "AutoAttack: bf16 is for version fast, got standard"),
        (lambda: AutoAttack(version="custom"), "AutoAttack: attacks_to_run are for version custom, which needs some"),
        (lambda: AutoAttack(attacks_to_run=("square",)), "AutoAttack: attacks_to_run are for version custom"),
        (lambda: AutoAttack(0.1, "custom", ("pgd",)), "AutoAttack: attacks_to_run must be one of .*, got 'pgd'"),
        (lambda: MultiAttack(()), "MultiAttack: attacks must be a tuple of attacks, at least one"),
        (lambda: MultiAttack((PGD(targeted=True),)), "MultiAttack: attacks must not be targeted"),
    ],
)
def test_wrong_options(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_dlr_needs_three_classes():
    with pytest.raises(ValueError, match="DLR loss needs at least 3 classes, the model has 2"):
        APGD(loss="dlr")(linear(48, 2), samples(4, *SHAPE), labels(4, 2))


def test_every_attack_is_an_attack():
    assert all(isinstance(attack, Attack) for attack in AutoAttack(version="plus").attacks.values())
