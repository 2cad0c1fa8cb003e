"""fastadv.threats: masks, ranges, shares, the 8-bit grid, random models, universal perturbations and patches."""

import csv
import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from counting import Counting
from PIL import Image
from test_attacks import CASES, SHAPE, assert_equal, linf
from test_launches import Sure, images
from torch import Tensor, nn
from toys import BatchNormNet, Wavy, labels, linear, samples, traces

import fastadv
from fastadv import evaluate, ops
from fastadv.__main__ import main
from fastadv.attacks import (
    APGD,
    CW,
    DDN,
    DIFGSM,
    DRA,
    FAB,
    FGSM,
    PGD,
    Attack,
    AutoAttack,
    DeepFool,
    MultiAttack,
    Noise,
    Square,
)
from fastadv.commands._networks import load_model
from fastadv.data import Dataset, open_samples
from fastadv.threats import Patch, ThreatModel, Universal

pytestmark = [pytest.mark.numerics, pytest.mark.usefixtures("seed_zero")]
every = pytest.mark.parametrize("attack", [pytest.param(attack, id=name) for name, attack in CASES.items()])

HALF = torch.zeros(4, 4, dtype=torch.bool)
HALF[:, :2] = True


def bits(t: Tensor) -> Tensor:
    return t.contiguous().view(torch.int32)


# -------------------------------------------------------------------------------------------------------------- masks


@every
def test_pixels_outside_a_mask_keep_their_bits(attack):
    model, x, y = Wavy(48, 5), samples(16, *SHAPE), labels(16, 5)
    x[0, 0, 0, 3] = -0.0
    found = ThreatModel(attack, mask=HALF).run(model, x, y)
    assert torch.equal(bits(found.x_adv)[..., 2:], bits(x)[..., 2:])
    assert not torch.equal(found.x_adv[..., :2], x[..., :2])
    assert torch.equal(found.target, model(found.x_adv).argmax(1))
    torch.testing.assert_close(found.norm, attack.sizes(found.x_adv, x))


@every
def test_a_mask_of_everything_changes_nothing(attack):
    model, x, y = Wavy(48, 5), samples(8, *SHAPE), labels(8, 5)
    for seed in (None, 3):
        plain = dataclasses.replace(attack, seed=seed).run(model, x, y)
        for kwargs in ({"mask": torch.ones(4, 4)}, {}):
            assert_equal(dataclasses.replace(ThreatModel(attack, **kwargs), seed=seed).run(model, x, y), plain)


@every
def test_a_mask_of_nothing_leaves_the_samples(attack):
    x = samples(4, *SHAPE)
    assert torch.equal(ThreatModel(attack, mask=torch.zeros(SHAPE))(Wavy(48, 5), x, labels(4, 5)), x)


@every
def test_masks_of_one_a_sample_leave_with_it(attack):
    model, x, ids = Wavy(48, 5), samples(24, *SHAPE), torch.arange(24)
    mask = samples(24, *SHAPE, seed=5) < 0.6
    y = model(x).argmax(1)
    whole = ThreatModel(
        attack,
        mask=mask,
    ).run(model, x, y, ids)
    assert torch.equal(whole.x_adv[~mask], x[~mask])
    order = torch.randperm(24, generator=torch.Generator().manual_seed(4))
    for part in order.split(7):
        found = ThreatModel(attack, mask=mask[part]).run(model, x[part], y[part], ids[part])
        for field in dataclasses.fields(found):
            assert torch.equal(getattr(found, field.name), getattr(whole, field.name)[part]), field.name


def test_the_dimensions_of_a_mask_say_what_it_is():
    """Also where batch, channels, height and width are the same number."""
    model, x, y = Wavy(27, 5), samples(3, 3, 3, 3, low=0.3, high=0.7), labels(3, 5)
    rows = torch.zeros(3, 3, dtype=torch.bool)
    rows[0] = True
    changed = ThreatModel(FGSM(0.1), mask=rows)(model, x, y) != x
    assert torch.equal(changed, rows.expand(3, 3, 3, 3))
    first = torch.zeros(3, 3, 3, dtype=torch.bool)
    first[0] = True
    changed = ThreatModel(FGSM(0.1), mask=first)(model, x, y) != x
    assert torch.equal(changed, first.expand(3, 3, 3, 3))
    changed = ThreatModel(FGSM(0.1), mask=first.unsqueeze(1))(model, x, y) != x
    assert torch.equal(changed, first.unsqueeze(1).expand(3, 3, 3, 3))
    mask = first.unsqueeze(1) & rows
    assert torch.equal(ThreatModel(FGSM(0.1), mask=mask.long())(model, x, y) != x, mask.expand(3, 3, 3, 3))


def test_the_fewest_entries_within_a_mask():
    model, x = linear(48, 2), samples(16, *SHAPE, low=0.45, high=0.55)
    found = ThreatModel(CASES["ead"], mask=HALF).run(model, x)
    logits, weight = model(x).detach(), model[1].weight.detach()
    distance = (logits[:, 1] - logits[:, 0]).abs() / (weight[1] - weight[0]).view(SHAPE)[:, HALF].abs().max()
    near = distance < 0.2  # where one entry has room enough
    assert near.sum() >= 4
    assert (found.norm[near] >= distance[near] - 1e-5).all()
    assert (found.norm[near] / distance[near]).median() < 1.5


@pytest.mark.parametrize("random_start", [0.0, 1.0])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_whole_budget_goes_into_the_mask(norm, random_start):
    model, x, y = linear(48, 2), samples(16, *SHAPE, low=0.4, high=0.6), labels(16, 2)
    found = ThreatModel(PGD(0.05, 0.02, 20, random_start, norm=norm), mask=HALF).run(model, x, y)
    weight = model[1].weight.detach()
    slope = torch.where(HALF, (weight[1 - y] - weight[y]).view(16, *SHAPE), 0)
    way = slope.sign() if norm == "linf" else slope / slope.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    torch.testing.assert_close(found.x_adv - x, 0.05 * way, atol=2e-4, rtol=0)


@pytest.mark.parametrize("attack", [DeepFool(overshoot=0.0), FAB(), DDN(steps=300), CW(steps=300, lr=0.003)])
def test_the_nearest_boundary_within_a_mask(attack):
    model, x = linear(48, 2), samples(16, *SHAPE, low=0.4, high=0.6)
    attack = dataclasses.replace(attack, norm="l2") if isinstance(attack, DeepFool | FAB) else attack
    found = ThreatModel(attack, mask=HALF).run(model, x)
    logits, weight = model(x).detach(), model[1].weight.detach()
    slope = torch.where(HALF, (weight[1] - weight[0]).view(SHAPE), 0).norm()
    distance = (logits[:, 1] - logits[:, 0]).abs() / slope
    assert found.success.all() or isinstance(attack, DeepFool)
    torch.testing.assert_close(found.norm, distance, rtol=0.02, atol=0.006)


def test_masked_square_asks_only_for_what_it_may_do():
    model, x = Wavy(48, 5), samples(32, *SHAPE)
    asked = []

    def watched(point: Tensor) -> Tensor:
        asked.append(point.detach().clone())
        return model(point)

    found = ThreatModel(Square(0.3, 60), mask=HALF).run(watched, x)
    assert found.success.sum() > 3
    assert all(any(torch.equal(row[..., 2:], each[..., 2:]) for each in x) for point in asked for row in point)


# ---------------------------------------------------------------------------------------------------- ranges and shares

MEAN, STD = torch.tensor([[0.5, 0.4, 0.3], [0.2, 0.25, 0.5]], dtype=torch.float64).view(2, 3, 1, 1)
RANGES = ((0 - MEAN) / STD, (1 - MEAN) / STD)


@pytest.mark.parametrize("name", [name for name in CASES if name != "cwlinf"])  # which doubles a last bit at each step
def test_normalised_images_are_attacked_as_those_that_they_were(name):
    attack, plain, x = CASES[name], Wavy(48, 5), samples(16, *SHAPE, dtype=torch.float64)
    y, normalised = plain(x).argmax(1), (x - MEAN) / STD
    under = ThreatModel(attack, ranges=RANGES)
    found = under.run(lambda z: plain(z * STD + MEAN), normalised, y)
    expected = attack.run(plain, x, y)
    torch.testing.assert_close(found.x_adv * STD + MEAN, expected.x_adv, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.norm, expected.norm, atol=1e-5, rtol=1e-5)
    assert torch.equal(found.success, expected.success)
    assert under.bounds == pytest.approx((float(RANGES[0].min()), float(RANGES[1].max())))


def test_ranges_of_columns_of_a_table():
    ends = torch.tensor([0.0, -1.0, 10.0]), torch.tensor([1.0, 1.0, 1000.0])
    x = ends[0] + samples(3, 3) * (ends[1] - ends[0])  # as many samples as columns
    model = linear(3, 2)
    found = ThreatModel(FGSM(0.1), ranges=ends).run(lambda t: model((t - ends[0]) / (ends[1] - ends[0])), x)
    assert ((found.x_adv >= ends[0]) & (found.x_adv <= ends[1])).all()
    assert ((found.x_adv - x).abs() <= 0.1 * (ends[1] - ends[0]) + 1e-4).all()
    assert found.norm.max() == pytest.approx(0.1, abs=1e-6)


def test_shares_are_of_channels_whatever_the_batch():
    model, x, y = Wavy(48, 5), samples(3, *SHAPE, low=0.3, high=0.7), labels(3, 5)
    found = ThreatModel(PGD(0.1, 0.02, 20), shares=(1, 0.5, 0.1)).run(model, x, y)
    sizes = (found.x_adv - x).abs().amax(dim=(2, 3))
    torch.testing.assert_close(sizes, torch.tensor([0.1, 0.05, 0.01]).expand(3, 3), atol=1e-6, rtol=0)
    assert found.norm.max() == pytest.approx(0.1, abs=1e-5)
    a_sample = ThreatModel(PGD(torch.tensor([0.1, 0.05, 0.01]), 0.02, 20), shares=(1, 0.5, 0.1))(model, x, y)
    sizes = (a_sample - x).abs().amax(dim=(2, 3))
    budgets = torch.tensor([0.1, 0.05, 0.01])
    torch.testing.assert_close(sizes, budgets.view(-1, 1) * torch.tensor([1, 0.5, 0.1]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 1.0)])
@pytest.mark.parametrize("name", [name for name, attack in CASES.items() if attack.has_budget])
def test_shares_keep_ball_and_box(name, bounds):
    shares = torch.tensor([1.0, 0.5, 0.1]).view(3, 1, 1)
    attack = ThreatModel(dataclasses.replace(CASES[name], bounds=bounds), shares=shares)
    model, x = Wavy(48, 5), samples(16, *SHAPE, low=bounds[0], high=bounds[1])
    if bounds[0] == 0:
        assert attack.at(0.05).eps == 0.05
    found = attack.run(model, x, labels(16, 5))
    assert bounds[0] <= found.x_adv.min() < found.x_adv.max() <= bounds[1]
    far = ((found.x_adv - x).abs() / shares).flatten(1)
    size = far.mean(1) if name == "dra" else far.amax(1)
    assert size.max() <= 0.1 + 1e-5
    assert torch.equal(found.target, model(found.x_adv).argmax(1))


def test_shares_of_one_are_the_attack_itself():
    model, x, y = Wavy(48, 5), samples(16, *SHAPE), labels(16, 5)
    for attack in (PGD(0.1, 0.03, 5), APGD(0.1, 5), Square(0.1, 30), PGD(0.5, 0.1, 5, norm="l2")):
        expected = attack.run(model, x, y)
        found = ThreatModel(attack, shares=1.0).run(model, x, y)
        torch.testing.assert_close(found.x_adv, expected.x_adv, atol=1e-6, rtol=0)


# --------------------------------------------------------------------------------------------------------- 8-bit grid


def on_grid(n: int, *shape: int, low: int = 0, high: int = 255) -> Tensor:
    levels = torch.randint(low, high + 1, (n, *shape), generator=torch.Generator().manual_seed(7))
    return levels.to(torch.uint8) / 255


@every
def test_quantised_results_are_whole_grey_levels(attack):
    model, x, y = Wavy(48, 5), on_grid(24, *SHAPE), labels(24, 5)
    y[::2] = model(x[::2]).argmax(1)
    attack = attack.at(0.1) if attack.has_budget else attack  # 25.5 grey levels
    found = ThreatModel(attack, quantise=True).run(model, x, y)
    written = (found.x_adv * 255).round().to(torch.uint8)
    assert torch.equal(written / 255, found.x_adv)  # to the bit
    assert torch.equal(found.target, model(written / 255).argmax(1))
    assert torch.equal(found.success, found.target != y)
    if attack.has_budget:
        size = linf(found.x_adv - x) if not isinstance(attack, DRA) else (found.x_adv - x).abs().flatten(1).mean(1)
        assert size.max() <= 0.1 + 1e-6


def test_rounding_costs_little_success():
    model, x = Wavy(48, 5), on_grid(200, *SHAPE)
    for attack in (
        PGD(8 / 255),
        PGD(0.2, 0.05, norm="l2"),
        DeepFool(),
        CW(initial_const=0.1),
        FAB(),
        AutoAttack(8 / 255),
    ):
        if isinstance(attack, AutoAttack):
            attack = dataclasses.replace(attack, version="custom", attacks_to_run=("apgd-ce",))
        plain = attack.run(model, x)
        found = ThreatModel(attack, quantise=True).run(model, x)
        assert plain.success.sum() >= found.success.sum() > 0.9 * plain.success.sum()
        if attack.has_budget:
            assert (found.norm <= attack.eps + 1e-6).all()
        else:
            assert found.norm[found.success].median() < 1.3 * plain.norm[found.success].median()
            assert torch.equal(found.x_adv[~found.success], x[~found.success])


def test_a_perturbation_too_small_for_the_grid_fails_honestly():
    x = on_grid(16, *SHAPE, low=100, high=150)
    found = ThreatModel(PGD(0.9 / 255, 0.5 / 255), quantise=True).run(linear(48, 5), x)
    assert torch.equal(found.x_adv, x)
    assert not found.success.any()


def test_a_grid_with_mask_ranges_and_shares():
    x, y = on_grid(16, *SHAPE), labels(16, 5)
    plain = Wavy(48, 5)
    attack = ThreatModel(PGD(8 / 255), mask=HALF, ranges=RANGES, shares=(1, 0.5, 0.25), quantise=True, samples=2)
    normalised = ((x - MEAN) / STD).float()
    found = attack.run(lambda z: plain(z * STD + MEAN), normalised, y)
    moved = ((found.x_adv * STD + MEAN) - x) * 255
    torch.testing.assert_close(moved, moved.round(), atol=1e-3, rtol=0)
    assert moved.abs().round().amax(dim=(0, 2, 3)).tolist() == [8, 4, 2]
    assert torch.equal(found.x_adv[..., 2:], normalised[..., 2:])


# ------------------------------------------------------------------------------------------------------ random models


@every
def test_samples_are_passes_and_gradients(attack):
    model, x = BatchNormNet().eval(), samples(6, 3, 6, 6)
    y = model(x).argmax(1)
    model.forwards = 0
    plain = attack.run(model, x, y)
    passes = model.forwards
    averaged = ThreatModel(attack, samples=2).run(model, x, y)  # of two equal logits the mean is exact
    assert_equal(averaged, dataclasses.replace(plain, queries=2 * plain.queries, grads=2 * plain.grads))
    assert passes == 1 or model.forwards - passes > 1.5 * passes - 2


def test_the_mean_of_many_passes_is_attacked():
    weight = torch.randn(2, 48, generator=torch.Generator().manual_seed(0))

    def model(x: Tensor) -> Tensor:
        return x.flatten(1) @ (weight + 3 * torch.randn(2, 48)).T

    x, y = samples(64, *SHAPE, low=0.3, high=0.7), labels(64, 2)
    slope = (weight[1 - y] - weight[y]).view(64, *SHAPE)

    def agreement(attack: Attack) -> float:
        return float((((attack(model, x, y) - x) * slope.sign()) > 0).double().mean())

    torch.manual_seed(1)
    one, many = agreement(FGSM(0.1)), agreement(ThreatModel(FGSM(0.1), samples=64))
    assert one < 0.75
    assert many > one + 0.2


def test_a_model_that_changes_its_input_in_place():
    plain, x, y = Wavy(48, 5), samples(8, *SHAPE), labels(8, 5)

    def model(z: Tensor) -> Tensor:
        return plain(z.mul_(0.5))

    expected = FGSM(0.1)(lambda z: plain(z * 0.5), x, y)
    for how in ({"samples": 3}, {"ranges": (0.0, 1.0), "samples": 3}):
        torch.testing.assert_close(ThreatModel(FGSM(0.1), **how)(model, x, y), expected, atol=1e-6, rtol=0)


# ------------------------------------------------------------------------------------------------ as any other attack


@pytest.mark.parametrize(
    "how", [{"mask": HALF}, {"ranges": RANGES}, {"shares": (1, 0.5, 0.25)}, {"samples": 2}, {"quantise": True}]
)
def test_it_leaves_no_trace_and_keeps_the_layout(how):
    model = BatchNormNet()
    x = on_grid(8, 3, 4, 4).to(memory_format=torch.channels_last)
    x = ((x - MEAN) / STD).float() if "ranges" in how else x
    net = nn.Sequential(nn.ZeroPad2d(1), model).train()
    before = traces(net, x)
    found = ThreatModel(PGD(0.1), **how).run(net, x)
    assert traces(net, x) == before
    assert found.x_adv.is_contiguous(memory_format=torch.channels_last)
    assert found.x_adv.dtype == x.dtype
    assert ThreatModel(PGD(0.1), **how)(net, x[:0]).shape == (0, 3, 4, 4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types(dtype):
    model, x, y = linear(48, 5, dtype), samples(8, *SHAPE, dtype=dtype), labels(8, 5)
    for attack in (PGD(0.1), DeepFool(), Square(0.1, 20), CASES["cw"]):
        found = ThreatModel(attack, mask=HALF).run(model, x, y)
        assert found.x_adv.dtype == dtype
        assert torch.equal(found.x_adv[..., 2:], x[..., 2:])
    assert ThreatModel(PGD(0.1), shares=(1, 0.5, 0.1))(model, x, y).dtype == dtype


def test_within_other_attacks_and_evaluations():
    model, x = Wavy(48, 5), samples(40, *SHAPE)
    y = model(x).argmax(1)
    masked = ThreatModel(PGD(0.1, 0.03, 5), mask=HALF)
    per_sample = ThreatModel(PGD(0.1, 0.03, 5), mask=HALF.expand(40, 1, 4, 4))
    for attack in (masked, per_sample):
        worst = MultiAttack((FGSM(0.02), attack))(model, x, y)
        spent = linf(worst - x)
        assert ((spent <= 0.02 + 1e-6) | (worst == x)[..., 2:].flatten(1).all(1)).all()
        assert spent.max() > 0.05
    data = Dataset(x, y, tuple("abcde"))
    found = evaluate(
        model, data, {"pgd": PGD(0.1, 0.03, 5), "masked": masked, "nearest": ThreatModel(DeepFool(), mask=HALF)}
    )
    assert found.results["masked"].accuracy >= found.results["pgd"].accuracy
    assert found.results["masked"].eps == 0.1
    assert found.results["nearest"].curve is not None
    alone = evaluate(model, data, {"masked": ThreatModel(PGD(0.1, 0.02, 20), mask=torch.zeros(4, 4))})
    assert "weak attacks" not in [
        finding.kind if hasattr(finding, "kind") else str(finding) for finding in alone.findings
    ]
    wide = Dataset(2 * x - 1, y, tuple("abcde"), bounds=(-1.0, 1.0))
    scaled = evaluate(lambda z: model((z + 1) / 2), wide, {"masked": masked})
    assert scaled.results["masked"].eps == pytest.approx(0.1)
    assert scaled.results["masked"].accuracy == pytest.approx(found.results["masked"].accuracy, abs=0.05)


@pytest.mark.skipif(bool(ops.MISSING["cpu"]), reason=f"no compiled kernels: {ops.MISSING['cpu']}")
def test_a_plain_attack_asks_nothing_more_and_a_masked_one_three_launches():
    model, (x, y) = Sure(), images(16)
    base = PGD(1e-4, 1e-5, seed=0)

    def launches(attack: Attack) -> float:
        counts = []
        for steps in (10, 10, 20):
            inner = dataclasses.replace(base, steps=steps)
            with Counting() as counting:
                (inner if attack is base else dataclasses.replace(attack, attack=inner))(model, x, y)
            counts.append(counting.total)
        return (counts[2] - counts[1]) / 10

    plain = launches(base)
    assert launches(ThreatModel(base)) == launches(ThreatModel(base, quantise=False, samples=1)) == plain
    assert launches(ThreatModel(base, mask=torch.ones(8, 8))) <= plain + 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ThreatModel(PGD), "attack must be a plain attack"),
        (lambda: ThreatModel(ThreatModel(PGD())), "attack must be a plain attack"),
        (lambda: ThreatModel(DeepFool(), shares=(1, 0.5, 0.1)), "DeepFool has no budget to share out.*PGD"),
        (lambda: ThreatModel(PGD(), shares=(1, 0, 1)), "shares must be positive.*mask"),
        (lambda: ThreatModel(PGD(), ranges=(1.0, 0.0)), "ranges must be finite, the lowest first"),
        (lambda: ThreatModel(PGD(), samples=0), "samples must be a whole number"),
        (lambda: ThreatModel(PGD(bounds=(-math.inf, math.inf)), quantise=True), "quantise needs finite bounds"),
    ],
)
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"mask": torch.full((4, 4), 0.5)}, "mask must hold True and False"),
        (
            {"mask": torch.ones(5, 4, 4)},
            r"mask must be \(3, 4, 4\), \(4, 4\) for all channels, or have one a sample.*unsq",
        ),
        ({"mask": torch.ones(4, 3, 4, 4)}, r"\(5, 3, 4, 4\); got \(4, 3, 4, 4\)"),
        ({"mask": [[1]]}, "mask must be a tensor"),
        ({"shares": (1.0, 0.5)}, r"shares must be a number, one a channel, \(3,\)"),
        ({"shares": torch.ones(5, 1, 1, 1)}, r"shares must be a number.*got shape \(5, 1, 1, 1\)"),
        ({"ranges": (torch.zeros(4, 4), 1.0)}, "ranges must be a number, one a channel"),
        ({"ranges": ((0.5, 0.0, 0.0), 1.0)}, "values of x lie outside their ranges"),
        ({"quantise": True}, r"x on the grid.*round them first, \(x \* 255\).round\(\) / 255"),
    ],
)
def test_what_does_not_fit_the_samples_is_refused(how, message):
    with pytest.raises((TypeError, ValueError), match=message):
        ThreatModel(PGD(), **how)(Wavy(48, 5), samples(5, *SHAPE), labels(5, 5))


def test_a_budget_a_channel_is_pointed_to_shares():
    with pytest.raises(ValueError, match=r"one value a sample, \(5,\); got \(3,\).*threats.ThreatModel"):
        PGD(torch.tensor([0.1, 0.05, 0.01]))(Wavy(48, 5), samples(5, *SHAPE), labels(5, 5))


# ------------------------------------------------------------------------------------------------------------ universal


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_best_universal_perturbation_of_a_linear_model(norm):
    model, x = linear(48, 2), samples(64, *SHAPE, low=0.4, high=0.6)
    y = torch.zeros(64, dtype=torch.int64)
    weight = model[1].weight.detach()
    slope = (weight[1] - weight[0]).view(SHAPE)
    found = Universal.fit(model, [(x[:32], y[:32]), (x[32:], y[32:])], 0.05, epochs=10, cap=math.inf, norm=norm)
    best = slope.sign() if norm == "linf" else slope / slope.norm()
    torch.testing.assert_close(found.delta, 0.05 * best, atol=1e-5, rtol=1e-3)
    assert torch.equal(found(model, x, y), (x + found.delta).clamp(0, 1))
    towards = Universal.fit(model, Dataset(x, y, ("a", "b")), 0.05, epochs=10, target=1, norm=norm)
    torch.testing.assert_close(towards.delta, found.delta, atol=1e-5, rtol=1e-3)


def test_a_universal_perturbation_is_one_for_all_and_an_attack():
    model, x = linear(48, 5), samples(200, *SHAPE, low=0.2, high=0.8)
    data = Dataset(x, model(x).argmax(1), tuple("abcde"))
    before = traces(model, x)
    found = Universal.fit(model, data, 0.2, epochs=3, batch_size=50)
    assert traces(model, x) == before
    assert torch.equal(found.delta, Universal.fit(model, data, 0.2, epochs=3, batch_size=50).delta)
    assert found.delta.abs().max() == pytest.approx(0.2)
    result = evaluate(model, data, {"it": found, "noise": Noise(0.2)}).results
    assert result["it"].accuracy < result["noise"].accuracy - 0.1
    assert result["it"].eps == 0.2
    torch.testing.assert_close(found.at(0.1).delta, found.delta / 2)
    wide = found.within((-1.0, 1.0))
    torch.testing.assert_close(wide(lambda z: model((z + 1) / 2), 2 * x - 1), 2 * found(model, x) - 1)
    half = ThreatModel(found, mask=HALF)(model, x)
    assert torch.equal(half[..., 2:], x[..., 2:])
    with pytest.raises(ValueError, match=r"delta is for samples \(3, 4, 4\), got \(48,\)"):
        found(model, x.flatten(1))
    with pytest.raises(ValueError, match="data gave no batches in epoch 2"):
        Universal.fit(model, iter([(x, data.y)]))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_budget_of_a_universal_perturbation_is_a_share_of_the_range(norm):
    """As in evaluations; in the units of the inputs where their bounds are given."""
    model, x = linear(48, 5), samples(60, *SHAPE, low=0.2, high=0.8)
    narrow = Dataset(x, model(x).argmax(1), tuple("abcde"))
    wide = Dataset(2 * x - 1, narrow.y, narrow.classes, bounds=(-1.0, 1.0))
    behind = lambda z: model((z + 1) / 2)  # noqa: E731
    how = {"norm": norm, "epochs": 2, "batch_size": 20}
    for alpha in (None, 0.03):
        found = Universal.fit(model, narrow, 0.2, alpha=alpha, **how)
        same = Universal.fit(behind, wide, 0.2, alpha=alpha, **how)
        assert (same.eps, same.bounds) == (0.4, (-1.0, 1.0))
        torch.testing.assert_close(same.delta, 2 * found.delta)
        units = Universal.fit(behind, wide, 0.4, alpha=alpha and 2 * alpha, bounds=(-1.0, 1.0), **how)
        assert torch.equal(units.delta, same.delta)
        measured = [
            evaluate(*pair, {"it": it}).results["it"] for *pair, it in ((model, narrow, found), (behind, wide, same))
        ]
        assert measured[0].accuracy == measured[1].accuracy
        assert [result.eps for result in measured] == pytest.approx([0.2, 0.2])


# -------------------------------------------------------------------------------------------------------------- patches


class Brightness(nn.Module):
    """Two classes: whether the image is more red than blue, wherever it is."""

    def forward(self, x: Tensor) -> Tensor:
        red, blue = x[:, 0].mean(dim=(1, 2)), x[:, 2].mean(dim=(1, 2))
        return 20 * torch.stack([red - blue, blue - red], dim=1)


@pytest.mark.parametrize("shape", ["circle", "square"])
def test_a_patch_learns_its_colour(shape):
    x = samples(64, 3, 16, 16, low=0.3, high=0.7)
    y = torch.zeros(64, dtype=torch.int64)
    x[:, 0] += 0.1
    for target in (1, None):
        losses = []
        found = Patch.fit(
            Brightness(),
            [(x, y)],
            target,
            epochs=60,
            shape=shape,
            size=8,
            on_step=lambda n, loss, w=losses: w.append(loss),
        )
        assert (losses[-1] < losses[0]) == (target is not None)
        assert found.image[0, 4, 4] < 0.1
        assert found.image[2, 4, 4] > 0.9
    result = found.run(Brightness(), x, y)
    assert result.success.double().mean() > 0.8
    touched = (result.x_adv != x).any(dim=1)
    share = touched.double().mean(dim=(1, 2))
    area = {"circle": math.pi / 4, "square": 1.0}[shape]
    assert 0.8 * area * 0.3**2 < share.min() < share.max() < 1.3 * area * 0.5**2


def test_places_are_a_samples_own_and_stay_inside():
    x = torch.full((200, 1, 24, 32), 0.5)
    patch = Patch(torch.ones(1, 5, 5), (0.25, 0.5), angle=30.0, seed=3)
    x_adv = patch.pasted(x, torch.arange(200))
    part = patch.pasted(x[50:60], torch.arange(50, 60))
    assert torch.equal(part, x_adv[50:60])
    touched = x_adv[:, 0] != 0.5
    torch.testing.assert_close(x_adv[:, 0][touched], torch.ones(int(touched.sum())))
    rows, columns = touched.any(2), touched.any(1)
    heights, widths = rows.sum(1), columns.sum(1)
    assert ((heights - widths).abs() <= 2).all()
    assert 5 <= heights.min() <= 7
    assert 11 <= heights.max() <= 13
    assert columns.double().argmax(1).unique().numel() > 10
    assert rows.double().argmax(1).unique().numel() > 6
    square = Patch(torch.ones(1, 5, 5), (0.5, 0.5), angle=0.0, shape="square", seed=3).pasted(x, torch.arange(200))
    assert ((square != 0.5).sum(dim=(1, 2, 3)) == 12 * 12).all()


def test_a_patch_is_an_attack():
    x = samples(20, 3, 16, 16)
    y = labels(20, 2)
    image = torch.stack([torch.zeros(8, 8), samples(8, 8), torch.ones(8, 8)])
    patch = Patch(image, shape="square")
    result = evaluate(Brightness(), Dataset(x, y, ("a", "b")), {"patch": patch}).results["patch"]
    assert result.accuracy <= 1
    wide = patch.within((-1.0, 1.0))
    one = patch(Brightness(), x, y)
    other = wide(lambda z: Brightness()(z), 2 * x - 1, y)
    torch.testing.assert_close(other, 2 * one - 1, atol=1e-5, rtol=0)
    assert wide.within((-1.0, 1.0)) is not None


@pytest.mark.parametrize(("shape", "channels"), [("circle", 3), ("square", 1)])
def test_a_patch_is_printed_at_its_size(shape, channels, tmp_path):
    image = torch.zeros(channels, 4, 4)
    image[0] = 1
    Patch(image, shape=shape).save(tmp_path / "patch.png", mm=50.8, dpi=150)
    with Image.open(tmp_path / "patch.png") as written:
        assert written.size == (300, 300)
        assert written.info["dpi"] == pytest.approx((150, 150), abs=0.02)
        colour = (255, 0, 0) if channels == 3 else (255, 255, 255)
        assert written.getpixel((150, 150)) == (*colour, 255)
        assert written.getpixel((0, 0))[3] == (0 if shape == "circle" else 255)
        assert written.getpixel((150, 0))[3] == 255


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Patch(torch.ones(3, 4, 5)), r"image must be a tensor \[C, n, n\], got \(3, 4, 5\)"),
        (lambda: Patch(torch.ones(3, 4, 4), (0.5, 0.3)), "scale must be"),
        (lambda: Patch(torch.ones(3, 4, 4), angle=200), "angle must be"),
        (lambda: Patch(torch.ones(3, 4, 4), shape="star"), "shape must be one of circle, square"),
        (lambda: Patch(torch.ones(3, 4, 4)).pasted(torch.ones(2, 1, 8, 8), torch.arange(2)), r"images must be \[B, 3"),
        (lambda: Patch(torch.ones(2, 4, 4)).save("x.png"), "only images of 1 or 3 channels"),
        (lambda: Patch(torch.ones(3, 4, 4)).save("x.png", mm=0), "at least one dot"),
        (lambda: Patch.fit(Brightness(), [(torch.ones(2, 8), torch.zeros(2).long())]), r"samples must be images"),
    ],
)
def test_wrong_patches(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a run on 200 images."""
    folder = tmp_path_factory.mktemp("patch")
    train, test = (fastadv.load("fashion-mnist-mini", split) for split in ("train", "test"))
    arrays = {"x_train": train.x[:200], "y_train": train.y[:200], "x_test": test.x[:50], "y_test": test.y[:50]}
    np.savez(folder / "small.npz", **{name: array.numpy() for name, array in arrays.items()})
    flags = ["--data", str(folder / "small.npz"), "--epochs", "1", "--test.attacks", "noise", "--test.limit", "20"]
    assert main(["train", "standard", *flags, "--out", str(folder / "run")]) == 0
    return str(folder / "run")


@pytest.mark.parametrize("target", ["3", None])
def test_the_command_trains_a_patch_and_prints_it(run, target, tmp_path, capsys):
    out = tmp_path / "out"
    flags = [] if target is None else ["--target", target]
    command = ["patch", run, *flags, "--epochs", "1", "--mm", "25.4", "--dpi", "100", "--out", str(out)]
    assert main([*command, "--limit", "40", "--at-once", "16"]) == 0
    assert "40 test samples of" in capsys.readouterr().out
    with Image.open(out / "patch.png") as written:
        assert written.size == (100, 100)
    with (out / "patch.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["samples"] for row in rows] == ["without the patch", "with the patch"]
    assert all(0 <= float(row["right"]) <= 1 for row in rows)
    assert float(rows[0]["changed"]) == 0 <= float(rows[1]["changed"])
    assert all((row["target"] == "") == (target is None) for row in rows)
    assert main(command) == 2
    assert "never overwritten" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "kind"), [([], "npz"), (["--target", "3", "--delta-as", "safetensors"], "safetensors")]
)
def test_the_command_finds_a_universal_perturbation(run, flags, kind, tmp_path, capsys):
    """What it writes is the perturbation that its table is of."""
    if kind == "safetensors":
        pytest.importorskip("safetensors")
    out = tmp_path / "out"
    command = ["universal", run, "--eps", "0.3", *flags, "--epochs", "2", "--batch-size", "50", "--out", str(out)]
    assert main([*command, "--limit", "40", "--at-once", "16"]) == 0
    told = capsys.readouterr().out
    led = "towards class 3" if flags else "away from the labels"
    assert f"universal perturbation, linf 0.3, {led}: 2 epochs of 200 training samples, then tried on 40 test" in told
    found = Universal.load(out / f"universal.{kind}")
    assert (found.eps, found.norm, found.bounds) == (0.3, "linf", (0.0, 1.0))
    train, test = (open_samples(str(Path(run).parent / "small.npz"), split) for split in ("train", "test"))
    model = load_model(run, test)[0]
    how = {"epochs": 2, "batch_size": 50, "target": 3 if flags else None}
    assert torch.equal(found.delta, Universal.fit(model, train, 0.3, **how).delta)
    test = test.take(40)
    before, after = (model(x).argmax(1) for x in (test.x, found(model, test.x, test.y)))
    with (out / "universal.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["samples"] for row in rows] == ["without the perturbation", "with the perturbation"]
    for row, classes in zip(rows, (before, after), strict=True):
        assert float(row["right"]) == pytest.approx(float((classes == test.y).double().mean()))
        assert float(row["changed"]) == pytest.approx(float((classes != before).double().mean()))
        assert row["target"] == "" if not flags else float(row["target"]) == float((classes == 3).double().mean())
    with Image.open(out / "universal.png") as picture:
        levels = torch.from_numpy(np.array(picture)).double()
    assert ((levels / 255 * 2 - 1) * found.delta.abs().max() - found.delta[0]).abs().max() <= 0.3 / 255 + 1e-6
    assert main(command) == 2
    assert "never overwritten" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--target", "cat"], "unknown class 'cat'"),
        (["--eps", "2"], "Universal: eps must be between 0 and 1, got 2"),
        (["--norm", "l2"], "usual budgets are L-infinity ones: give --eps with --norm l2"),
        (["--alpha", "0"], "alpha must be positive and finite, got 0"),
        (["--epochs", "0"], "epochs must be a whole number of at least 1"),
    ],
)
def test_bad_flags_of_universal_get_one_clear_line_and_no_folder(run, flags, message, tmp_path, capsys):
    assert main(["universal", run, *flags, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("fastadv: ")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["npz", "safetensors"])
def test_saved_universal_perturbations(kind, tmp_path):
    if kind == "safetensors":
        pytest.importorskip("safetensors")
    delta = torch.linspace(-0.2, 0.1, 48).view(SHAPE)
    found, path = Universal(delta, 0.2, norm="l2", bounds=(-1.0, 1.0)), tmp_path / f"it.{kind}"
    found.save(path)
    again = Universal.load(path)
    assert torch.equal(again.delta, delta)
    assert (again.eps, again.norm, again.bounds) == (0.2, "l2", (-1.0, 1.0))
    found.save(tmp_path / "it.png")
    with Image.open(tmp_path / "it.png") as picture:
        levels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    assert torch.equal(levels, ((delta.double() + 0.2) / 0.4 * 255).round().byte())  # grey for 0, black for -0.2
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="holds no universal perturbation"):
        Universal.load(path)
    with pytest.raises(ValueError, match=r"saved as .npz, .safetensors or .png, got 'it.jpg'"):
        found.save("it.jpg")
    with pytest.raises(ValueError, match=r"only images of 1 or 3 channels are PNG, got \(48,\)"):
        Universal(delta.flatten()).save("it.png")
    with pytest.raises(FileNotFoundError):
        Universal.load(tmp_path / "none.npz")


def test_every_step_of_a_universal_perturbation_is_told():
    model, x = linear(48, 5), samples(30, *SHAPE, low=0.4, high=0.6)
    told, y = [], labels(30, 5)
    Universal.fit(model, [(x[:20], y[:20]), (x[20:], y[20:])], 0.1, epochs=2, on_step=lambda *step: told.append(step))
    assert [number for number, _ in told] == [1, 2, 3, 4]
    assert told[0][1] == pytest.approx(float(F.cross_entropy(model(x[:20]).detach(), y[:20])), rel=1e-5)
    assert told[2][1] > told[0][1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--target", "cat"], "unknown class 'cat'"),
        (["--target", "1,2"], "target must be one class, got '1,2'"),
        (["--mm", "0"], "mm and dpi must make at least one dot"),
        (["--least", "0.6"], "scale must be (least, greatest)"),
        (["--epochs", "0"], "epochs must be a whole number of at least 1"),
        (["--data", "two-circles"], "a patch is for images"),
    ],
)
def test_bad_flags_get_one_clear_line_and_no_folder(run, flags, message, tmp_path, capsys):
    assert main(["patch", run, *flags, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("fastadv: ")
    assert not (tmp_path / "out").exists()


def test_difgsm_under_a_mask_moves_the_mask_along():
    model, x = Wavy(48, 5), samples(16, *SHAPE)
    x_adv = ThreatModel(DIFGSM(0.1, 0.03, probability=1.0, resize=0.5), mask=HALF)(model, x)
    assert torch.equal(x_adv[..., 2:], x[..., 2:])
