"""fastadv.evaluation: AA curves against brute force and closed forms, evaluate against direct computation."""

import dataclasses
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from toys import BatchNormNet, Wavy, labels, linear, partly_frozen, samples, traces

from fastadv.attacks import DRA, FGSM, PGD, Attack, AutoAttack, DeepFool, Noise
from fastadv.data import Dataset
from fastadv.evaluation import (
    PROTOCOL,
    AACurve,
    anytime,
    calibrated,
    evaluate,
    features,
    landing,
    radial_curve,
    swept_curve,
    transfer,
    wilson,
)

pytestmark = [pytest.mark.numerics, pytest.mark.usefixtures("seed_zero")]

INF = torch.inf
ATTACKS: dict[str, Attack] = {
    "deepfool": DeepFool(steps=10),
    "fgsm": FGSM(0.02),
    "noise": Noise(0.3),
    "pgd": PGD(0.02, alpha=0.005, steps=5),
}


def curve(correct: list[bool], flips: list[list[float]]) -> AACurve:
    return AACurve(torch.tensor(correct), torch.tensor(flips))


def rms(delta: Tensor) -> Tensor:
    return delta.flatten(1).square().mean(1).sqrt()


# --------------------------------------------------------------------------------------------------------- AA curve


@pytest.mark.parametrize(
    ("correct", "flips", "theta", "average"),
    [
        ([True], [[0.25]], 1.0, 0.25),
        ([True], [[0.25]], 0.5, 0.5),
        ([True], [[0.25]], 0.125, 1.0),
        ([False], [[0.25]], 1.0, 0.75),
        ([True], [[INF]], 2.0, 1.0),
        ([False], [[INF]], 2.0, 0.0),
        ([True], [[0.25, 0.5, INF]], 1.0, 0.75),  # right, wrong, right again
        ([True], [[0.25, 0.5, 0.75]], 1.0, 0.5),
        ([True, False], [[0.25, INF], [0.5, 0.75]], 1.0, 0.25),
        ([True, True, False], [[0.5], [INF], [INF]], 1.0, 0.5),
    ],
)
def test_average_by_hand(correct, flips, theta, average):
    assert curve(correct, flips).average(theta) == pytest.approx(average, abs=1e-12)


def random_curve(n: int = 200, width: int = 6, seed: int = 0) -> AACurve:
    """Flips at multiples of 1/1024 in [0, 2], a random number of them for each sample."""
    generator = torch.Generator().manual_seed(seed)
    flips = torch.randint(1, 2048, (n, width), generator=generator) / 1024
    flips[torch.rand(n, width, generator=generator) < 0.4] = INF
    return AACurve(torch.rand(n, generator=generator) < 0.8, flips.sort(dim=1).values)


def brute_force(curve: AACurve, eps: float) -> float:
    right = 0
    for correct, flips in zip(curve.correct.tolist(), curve.flips.tolist(), strict=True):
        for flip in flips:
            if flip <= eps:
                correct = not correct
        right += correct
    return right / len(curve.correct)


def test_curve_against_brute_force():
    curve = random_curve()
    values = [curve(eps) for eps in torch.linspace(0, 2, 33).tolist()]
    assert values == pytest.approx([brute_force(curve, eps) for eps in torch.linspace(0, 2, 33).tolist()])
    assert any(later > earlier for earlier, later in pairwise(values)), "not one rise"
    assert curve(0) == pytest.approx(curve.correct.double().mean().item())
    flip = curve.flips[curve.flips.isfinite()][0].item()
    assert curve(flip) != curve(flip - 1e-6), "a sample has flipped at the size of its flip"


@pytest.mark.parametrize("theta", [0.5, 1.0, 2.0, 3.0])
def test_average_is_the_integral(theta):
    """The midpoints of a grid finer than that of the flips integrate exactly."""
    curve, cells = random_curve(), int(theta * 1024)
    integral = sum(curve((i + 0.5) / 1024) for i in range(cells)) / cells
    assert curve.average(theta) == pytest.approx(integral, abs=1e-9)


def test_average_tends_to_clean_accuracy():
    assert random_curve().average(1e-4) == pytest.approx(random_curve()(0))


@pytest.mark.parametrize("theta", [0, -1, float("nan")])
def test_average_refuses(theta):
    with pytest.raises(ValueError, match="theta must be positive"):
        random_curve().average(theta)


def test_join():
    parts = [random_curve(50, 2), random_curve(30, 5, seed=1), random_curve(20, 3, seed=2)]
    joined = AACurve.join(parts)
    assert len(joined.correct) == len(joined.flips) == 100
    for value in (lambda c: c(0), lambda c: c(0.7), lambda c: c.average(1.5)):
        expected = sum(len(part.correct) * value(part) for part in parts) / 100
        assert value(joined) == pytest.approx(expected)


# ----------------------------------------------------------------------------------------------------- radial curve


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_radial_curve_finds_the_boundary_of_a_linear_model(dtype):
    model, x = linear(48, 5, dtype), samples(32, 3, 4, 4, low=0.4, high=0.6, dtype=dtype)
    logits, weight = model(x).detach(), model[1].weight.detach()
    y = logits.argmax(1)
    distances = (logits.amax(1, keepdim=True) - logits) / (weight[y].unsqueeze(1) - weight).norm(dim=2)
    nearest = distances.scatter(1, y.unsqueeze(1), INF).amin(1) / 48**0.5

    found = radial_curve(model, x, DeepFool(overshoot=0.5)(model, x), y)
    assert found.correct.all()
    torch.testing.assert_close(found.flips[:, 0], nearest, atol=1e-4 * nearest.max().item(), rtol=1e-4)
    assert (found.flips[:, 1:] == INF).all()
    assert found(nearest.max().item() * 1.01) == 0
    assert found(nearest.min().item() * 0.99) == found(0) == 1
    assert found.average(1.0) == pytest.approx(nearest.mean().item(), rel=1e-3)


@pytest.mark.parametrize(("norm", "size"), [("rms", 1.0), ("l2", 48**0.5), ("l1", 48.0), ("linf", 1.0)])
def test_norms_of_a_radial_curve(norm, size):
    """A uniform shift: the norms of all-ones scale the flip."""
    x = torch.zeros(1, 3, 4, 4)
    found = radial_curve(Ray(0.3), x, x + 1, torch.zeros(1, dtype=torch.int64), norm)
    assert found.flips[0, 0].item() == pytest.approx(0.3 * size, rel=1e-4)


class Ray(nn.Module):
    """Two classes that take turns along the diagonal: class 1 after the first of `places`, 0 after the next ..."""

    def __init__(self, *places: float):
        super().__init__()
        self.places = places

    def forward(self, x: Tensor) -> Tensor:
        at = x.double().flatten(1).mean(1)
        score = torch.ones_like(at)
        for place in self.places:
            score = score * (place - at)
        return torch.stack((score, torch.zeros_like(score)), dim=1)


def test_several_flips_along_one_ray():
    places = (0.1, 0.35, 0.4, 0.75)
    x, y = torch.zeros(2, 3, 4, 4), torch.tensor([0, 1])
    found = radial_curve(Ray(*places), x, x + 1, y)
    assert found.correct.tolist() == [True, False]
    torch.testing.assert_close(found.flips[:, :4], torch.tensor([places, places]), atol=2e-5, rtol=0)
    assert (found.flips[:, 4:] == INF).all()
    assert [found(eps) for eps in (0.0, 0.2, 0.5)] == [0.5] * 3
    assert AACurve(found.correct[:1], found.flips[:1]).average(1.0) == pytest.approx(0.1 + 0.05 + 0.25, abs=1e-4)


def test_a_cut_beyond_the_norm_changes_nothing():
    model, x, y = Wavy(48, 5), samples(32, 3, 4, 4), labels(32, 5)
    x_adv = PGD(0.1, 0.02, steps=5)(model, x)
    found = radial_curve(model, x, x_adv, y)
    full = (model(x_adv).argmax(1) == y).double().mean().item()
    largest = rms(x_adv - x).max().item()
    assert found(largest * 1.0001) == found(1.0) == found(1e9) == full
    assert found(0) == (model(x).argmax(1) == y).double().mean().item()
    assert found(0) != full


def test_a_curve_agrees_with_perturbations_that_are_cut():
    model, x, y = Wavy(48, 5), samples(32, 3, 4, 4), labels(32, 5)
    y[::2] = model(x[::2]).argmax(1)
    x_adv = DeepFool()(model, x)
    found, delta = radial_curve(model, x, x_adv, y), x_adv - x
    for eps in torch.linspace(0.001, 0.03, 12).tolist():
        cut = (eps / rms(delta)).clamp(max=1).view(-1, 1, 1, 1) * delta
        assert found(eps) == (model(x + cut).argmax(1) == y).double().mean().item()


def test_no_perturbation_no_flips():
    model, x, y = Wavy(48, 5), samples(8, 3, 4, 4), labels(8, 5)
    found = radial_curve(model, x, x, y)
    assert (found.flips == INF).all()
    assert found.average(1.0) == pytest.approx(found(0))


# --------------------------------------------------------------------------------------------------------- evaluate


def data(bounds: tuple[float, float] = (0.0, 1.0), n: int = 40) -> tuple[Wavy, Dataset]:
    """Three quarters of the samples are classified correctly."""
    model, x = Wavy(48, 5), samples(n, 3, 4, 4, low=bounds[0], high=bounds[1])
    y = model(x).argmax(1)
    y[::4] = (y[::4] + 1) % 5
    return model, Dataset(x, y, classes=tuple("abcde"), bounds=bounds)


def values(found) -> dict[str, tuple[float, float]]:
    return {name: (result.accuracy, result.norm) for name, result in found.results.items()}


@pytest.mark.parametrize("label", ["true", "pred"])
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 1.0)])
def test_evaluate_against_direct_computation(bounds, label):
    model, given = data(bounds)
    found = evaluate(model, given, ATTACKS, label=label)
    assert (found.samples, found.label, found.clean) == (40, label, 0.75)
    assert list(found.results) == list(ATTACKS)
    for name, attack in ATTACKS.items():
        unit = bounds[1] - bounds[0]
        sizes = {size: getattr(attack, size) * unit for size in ("eps", "alpha") if hasattr(attack, size)}
        attack = dataclasses.replace(attack, bounds=bounds, seed=0, **sizes)
        result = found.results[name]
        assert result.attack == attack
        assert not attack.has_budget or result.eps == ATTACKS[name].eps
        x_adv = attack(model, given.x, given.y if label == "true" else None)
        assert result.accuracy == (model(x_adv).argmax(1) == given.y).double().mean().item()
        assert result.norm == pytest.approx(rms(x_adv - given.x).mean().item() / unit, rel=1e-5)
        assert result.seconds > 0
        if name == "deepfool":
            expected = radial_curve(model, given.x, x_adv, given.y)
            assert torch.equal(result.curve.correct, expected.correct)
            assert torch.equal(result.curve.flips, expected.flips / unit)
            assert result.curve(0) == found.clean
            assert result.curve(1e9) == result.accuracy
        else:
            assert result.curve is None
            assert result.accuracy < found.clean


@pytest.mark.parametrize("label", ["true", "pred"])
def test_evaluate_whatever_the_batch(label):
    model, given = data()
    whole = evaluate(model, given, ATTACKS, label=label)
    for batch_size in (1, 7, 40):
        found = evaluate(model, given, ATTACKS, label=label, batch_size=batch_size)
        assert found.clean == whole.clean
        assert values(found).keys() == values(whole).keys()
        for name, (accuracy, norm) in values(found).items():
            assert (accuracy, norm) == (whole.results[name].accuracy, pytest.approx(whole.results[name].norm))
        curves = [run.results["deepfool"].curve for run in (found, whole)]
        assert torch.equal(curves[0].correct, curves[1].correct)
        assert torch.equal(curves[0].flips, curves[1].flips)


def test_predictions_as_labels_push_misclassified_samples_into_their_class():
    """With two classes every error is repaired, so that the accuracy left is the error of before."""
    model, x = linear(48, 2), samples(40, 3, 4, 4)
    y = model(x).argmax(1)
    y[::4] = 1 - y[::4]
    given = Dataset(x, y, classes=("a", "b"))
    attacks = {"deepfool": DeepFool(), "pgd": PGD(0.5, 0.1, 20)}
    true, pred = (evaluate(model, given, attacks, label=label) for label in ("true", "pred"))
    assert true.clean == pred.clean == 0.75
    for name in attacks:
        assert true.results[name].accuracy == 0
        assert pred.results[name].accuracy == 0.25
    assert true.results["deepfool"].norm < pred.results["deepfool"].norm
    assert true.results["deepfool"].curve(1e9) == 0
    assert pred.results["deepfool"].curve(1e9) == 0.25
    assert evaluate(model, given, attacks).label == "true"


def test_evaluate_with_samples_of_another_model():
    model, given = data()
    source, attacks = Wavy(48, 5, seed=5), {"pgd": PGD(0.02, 0.005)}
    found = evaluate(model, given, attacks, batch_size=7, source=source)
    x_adv = attacks["pgd"](source, given.x, given.y)
    assert found.results["pgd"].accuracy == (model(x_adv).argmax(1) == given.y).double().mean()
    assert found.clean == 0.75
    assert found.results["pgd"].accuracy > evaluate(model, given, attacks).results["pgd"].accuracy


@pytest.mark.parametrize("label", ["true", "pred"])
def test_transfer_is_evaluate_with_every_source(label):
    model, given = data()
    models = {"wavy": model, "other": Wavy(48, 5, seed=5), "third": Wavy(48, 5, seed=7)}
    attacks, ticks = {"pgd": PGD(0.02, 0.005), "fgsm": FGSM(0.03)}, []
    rows = transfer(models, given, attacks, label=label, batch_size=15, on_step=lambda *tick: ticks.append(tick))
    assert ticks == [(done, 21) for done in range(1, 22)]
    found = {row[:3]: row[3:] for row in rows}
    assert len(found) == len(rows) == 3 + 2 * 9
    for target, judge in models.items():
        clean = evaluate(judge, given, {}).natural
        assert found["clean", "", target] == (clean.accuracy, *clean.interval)
        for source, maker in models.items():
            results = evaluate(judge, given, attacks, label=label, source=maker, checks=0).results
            for name, result in results.items():
                assert found[name, source, target] == (result.accuracy, *result.interval)
    with pytest.raises(ValueError, match="give at least two, got 1"):
        transfer({"one": model}, given, attacks)
    with pytest.raises(ValueError, match="label must be 'true' or 'pred', got 'both'"):
        transfer(models, given, attacks, label="both")


def test_transfer_leaves_no_trace():
    model, other = partly_frozen(BatchNormNet()), linear(108, 5)
    given = Dataset(samples(8, 3, 6, 6), labels(8, 5), classes=tuple("abcde"))
    before = traces(model, given.x, given.y)
    transfer({"a": model, "b": other}, given, {"pgd": PGD()})
    assert traces(model, given.x, given.y) == before


def test_evaluate_leaves_no_trace():
    model = partly_frozen(BatchNormNet())
    given = Dataset(samples(8, 3, 6, 6), labels(8, 5), classes=tuple("abcde"))
    before = traces(model, given.x, given.y)
    evaluate(model, given, ATTACKS)
    assert traces(model, given.x, given.y) == before
    expected = evaluate(model.eval(), given, ATTACKS)
    model.train()
    assert values(evaluate(model, given, ATTACKS)) == values(expected)


def test_a_model_that_fails_is_left_as_it_was():
    given = Dataset(samples(8, 3, 6, 6), labels(8, 5), classes=tuple("abcde"))
    model = BatchNormNet()
    evaluate(model, given, {"deepfool": DeepFool(steps=2)})
    for forward in range(1, model.forwards + 1, 5):
        model = partly_frozen(BatchNormNet(fails_at=forward))
        before = traces(model, given.x, given.y)
        with pytest.raises(RuntimeError, match="out of memory"):
            evaluate(model, given, {"deepfool": DeepFool(steps=2)})
        assert traces(model, given.x, given.y) == before


def test_evaluate_reports_progress():
    model, given = data()
    ticks = []
    evaluate(model, given, {"fgsm": FGSM(), "noise": Noise()}, batch_size=15, on_step=lambda *tick: ticks.append(tick))
    assert ticks == [(done, 9) for done in range(1, 10)]


def test_evaluate_without_attacks():
    model, given = data()
    found = evaluate(model, given, {})
    assert (found.clean, found.results) == (0.75, {})


def test_evaluate_refuses():
    model, given = data()
    with pytest.raises(ValueError, match="label must be 'true' or 'pred', got 'predicted'"):
        evaluate(model, given, label="predicted")
    with pytest.raises(ValueError, match="no attack can be called 'clean'"):
        evaluate(model, given, {"clean": FGSM()})
    with pytest.raises(ValueError, match=r"label \d is out of range: the model has 3 classes"):
        evaluate(Wavy(48, 3), given, ATTACKS)


class Counting(Wavy):
    seen = 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        return super().forward(x)


def test_what_a_result_says():
    model, given = data()
    found = evaluate(model, given, ATTACKS, batch_size=16)
    right = model(given.x).argmax(1) == given.y
    assert torch.equal(found.natural.right, right)
    for name, attack in ATTACKS.items():
        result, run = found.results[name], attack.run(model, given.x, given.y)
        assert torch.equal(result.right, run.target == given.y)
        assert torch.equal(result.grads, run.grads)
        assert result.median_norm == pytest.approx(float(rms(run.x_adv - given.x).double().quantile(0.5)))
        if attack.has_budget:
            right &= result.right
    assert torch.equal(found.worst.right, right)
    assert found.worst.accuracy < min(r.accuracy for r in found.results.values() if r.attack.has_budget)
    assert evaluate(model, given, {"fgsm": FGSM(), "deepfool": DeepFool(steps=2)}).worst is None


@pytest.mark.parametrize(("count", "n"), [(0, 10), (10, 10), (77, 100), (5, 1000), (1, 1)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_wilson(count, n, confidence):
    stats = pytest.importorskip("scipy.stats")
    expected = stats.binomtest(count, n).proportion_ci(confidence, method="wilson")
    assert wilson(count, n, confidence) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_intervals_are_of_the_counts():
    """Newcombe (1998), table I: 81 of 263 has the Wilson interval 0.2553 to 0.3662."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    model, given = data()
    assert evaluate(model, given, {}).natural.interval == wilson(30, 40)


def test_an_evaluation_goes_on_where_it_was_stopped():
    model, given = data()
    kept, whole = {}, evaluate(model, given, ATTACKS, batch_size=15)

    def stop(done: int, in_all: int) -> None:
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(model, given, ATTACKS, batch_size=15, kept=kept, on_step=stop)
    assert len(kept) == 8
    counting, ticks = Counting(48, 5), []
    found = evaluate(counting, given, ATTACKS, batch_size=15, kept=kept, on_step=lambda *tick: ticks.append(tick))
    assert len(kept) == len(ticks) == 15
    assert values(found) == values(whole)
    assert torch.equal(found.results["deepfool"].curve.flips, whole.results["deepfool"].curve.flips)
    counting.seen = 0
    assert values(evaluate(counting, given, ATTACKS, batch_size=15, kept=kept, checks=0)) == values(whole)
    assert counting.seen == 0
    evaluate(counting, given, {}, batch_size=14, kept=kept, checks=0)
    assert counting.seen == 40  # other batches


class Small(Counting):
    """Memory for 6 samples."""

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 6:
            raise torch.OutOfMemoryError
        return super().forward(x)


def test_batches_shrink_to_what_fits():
    model, given = data()
    found = evaluate(Small(48, 5), given, ATTACKS)
    assert values(found) == values(evaluate(model, given, ATTACKS, batch_size=5))
    model = Small(48, 5)
    evaluate(model, given, {}, checks=0)
    assert model.seen == 40  # what fits is found once
    budgets = [0.005, 0.02]
    curves = [swept_curve(Small(48, 5), given, PGD(), budgets), swept_curve(model, given, PGD(), budgets, batch_size=5)]
    assert [curve(0.02) for curve in curves] == [curves[0](0.02)] * 2
    rows = [transfer({"a": Small(48, 5), "b": model}, given, {"pgd": PGD()}, batch_size=size) for size in (500, 5)]
    assert rows[0] == rows[1]
    with pytest.raises(torch.OutOfMemoryError):
        evaluate(lambda x: Small(48, 5)(x.repeat(7, 1, 1, 1))[: len(x)], given, {})


def test_protocol_of_the_paper():
    expected = {
        "fgsm": FGSM(eps=0.1),
        "noise": Noise(eps=0.1, law="uniform"),
        "pgd": PGD(eps=0.1, alpha=0.01, steps=20, random_start=0.5, loss="ce"),
        "deepfool": DeepFool(steps=50, overshoot=0.02, candidates=10),
    }
    assert expected == PROTOCOL
    model, given = data(n=8)
    assert evaluate(model, given).results.keys() == PROTOCOL.keys()


@pytest.mark.parametrize("label", ["true", "pred"])
def test_the_bound_falls_to_what_evaluate_finds(label):
    model, x = Wavy(48, 5), samples(12, 3, 4, 4, low=-1)
    data = Dataset(x, labels(12, 5), tuple("abcde"), (-1.0, 1.0))
    attack = AutoAttack(0.012, "custom", ("step-pm", "apgd-ce", "fab-t"))
    names, found = zip(*anytime(model, data, attack, label=label, batch_size=5), strict=True)
    assert names[0] == "clean"
    assert set(names[1:]) == {"step-pm", "apgd-ce", "fab-t"}
    whole = evaluate(model, data, {"autoattack": attack}, label=label, checks=0).results["autoattack"]
    last = found[-1].results["autoattack"]
    for column in ("right", "sizes", "grads"):
        assert torch.equal(getattr(last, column), getattr(whole, column))
    assert last.attack == whole.attack
    for before, after in pairwise(found):
        assert torch.equal(before.natural.right, after.natural.right)
        if label == "true":
            assert (after.results["autoattack"].right <= before.results["autoattack"].right).all()
    with pytest.raises(TypeError, match="anytime is for AutoAttack"):
        next(anytime(model, data, PGD()))
    with pytest.raises(ValueError, match="label must be 'true' or 'pred'"):
        next(anytime(model, data, attack, label="other"))


def test_swept_curve():
    """With true labels, a sample is right at a budget if it is at all smaller ones, too; brute force."""
    model, given = data()
    budgets = [0.03, 0.0, 0.005, 0.01]
    found = swept_curve(model, given, PGD(0.1, 0.02, steps=5), budgets, batch_size=16)
    assert found(0) == 0.75
    left = model(given.x).argmax(1) == given.y
    for eps in sorted(budgets)[1:]:
        x_adv = PGD(eps, eps / 5, steps=5)(model, given.x, given.y)
        left &= model(x_adv).argmax(1) == given.y
        assert found(eps) == left.double().mean()
    assert 0 < found(0.03) < found(0.005) < 0.75
    assert found.average(0.01) == pytest.approx((0.75 + found(0.005)) / 2)


def test_swept_curve_away_from_predictions():
    model, given = data()
    found = swept_curve(model, given, PGD(0.1, 0.02, steps=5), [0.005, 0.03], label="pred", batch_size=16)
    for eps in (0.005, 0.03):
        attacks = {"pgd": PGD(eps, eps / 5, steps=5)}
        assert found(eps) == evaluate(model, given, attacks, label="pred").results["pgd"].accuracy


def test_a_sweep_attacks_no_sample_twice_that_is_fooled():
    _, given = data()
    model = Counting(48, 5)
    found = swept_curve(model, given, FGSM(), [0.3, 0.31, 0.32, 0.33])
    attacked = round(40 * (found(0) + found(0.3) + found(0.31) + found(0.32)))
    assert model.seen == 40 + 2 * attacked  # a step and the verdict
    assert attacked < 60


def test_a_sweep_of_samples_of_another_model():
    model, given = data()
    source = Wavy(48, 5, seed=5)
    found = swept_curve(model, given, PGD(0.1, 0.02, steps=5), [0.02], label="pred", batch_size=16, source=source)
    attacks = {"pgd": PGD(0.02, 0.004, steps=5)}
    assert found(0.02) == evaluate(model, given, attacks, label="pred", source=source).results["pgd"].accuracy
    assert found(0.02) > swept_curve(model, given, PGD(0.1, 0.02, steps=5), [0.02], label="pred")(0.02)


def test_a_sweep_needs_a_budget():
    model, given = data()
    with pytest.raises(TypeError, match="DeepFool has no budget"):
        swept_curve(model, given, DeepFool(), [0.1])
    with pytest.raises(ValueError, match="label must be 'true' or 'pred', got 'ture'"):
        swept_curve(model, given, PGD(), [0.1], label="ture")


MEASURES = {
    "evaluate": lambda model, given, attack: evaluate(model, given, {"it": attack}),
    "swept_curve": lambda model, given, attack: swept_curve(model, given, attack, [0.1]),
    "transfer": lambda model, given, attack: transfer({"a": model, "b": model}, given, {"it": attack}),
    "features": lambda model, given, attack: features(model, given, {"it": attack}, ["0"]),
    "landing": landing,
}


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
def test_what_cannot_be_measured(measure):
    model, given = data()
    with pytest.raises(ValueError, match="PGD is targeted, and would lead towards the labels: set targeted to False"):
        measure(model, given, PGD(targeted=True))
    with pytest.raises(TypeError, match=r"attacks must be of fastadv.attacks, such as PGD\(\)"):
        measure(model, given, PGD)
    with pytest.raises(TypeError, match=r"data must be a fastadv.Dataset, .* got Tensor"):
        measure(model, given.x, PGD())


def on_a_line() -> tuple[nn.Module, Tensor, Dataset]:
    """A linear network, its weights, and samples of one class at 400 distances from the boundary, in L-infinity."""
    model, y = linear(48, 2), torch.zeros(400, dtype=torch.int64)
    w = (model[1].weight[1] - model[1].weight[0]).detach()
    away = torch.linspace(0.001, 0.02, 400)
    return model, w, Dataset(0.5 - away.view(-1, 1) * w.sign(), y, classes=("a", "b"))


def test_dra_is_calibrated_to_leave_what_pgd_leaves():
    """On a linear model PGD moves a lead by eps |w|_1, DRA of all entries by eps n |w|_2^2 / |w|_1."""
    model, w, data = on_a_line()
    pgd = PGD(eps=0.01, alpha=0.001, steps=20, random_start=0.0)
    dra = calibrated(model, data, DRA(eps=0.02, p=1.0, steps=1), pgd)
    eps = 0.01 * float(w.abs().sum() ** 2 / (48 * w.square().sum()))
    assert dra == DRA(eps=dra.eps, p=1.0, steps=1)
    assert dra.eps == pytest.approx(eps, rel=0.01)
    found = evaluate(model, data, {"dra": dra, "pgd": pgd})
    assert found.results["dra"].accuracy == pytest.approx(found.results["pgd"].accuracy, abs=0.005)
    back = calibrated(model, data, PGD(eps=0.1, alpha=0.01, steps=20, random_start=0.0), dra)  # the other way
    assert (back.eps, back.alpha) == (pytest.approx(0.01, rel=0.01), pytest.approx(back.eps / 10))


def test_what_cannot_be_calibrated():
    model, _, data = on_a_line()
    strong = PGD(eps=0.5, alpha=0.1, steps=10)
    with pytest.raises(ValueError, match=r"no budget from 3.125e-05 to 0.008 makes DRA as strong as PGD, .* 0.0%"):
        calibrated(model, data, DRA(eps=0.0005), strong)
    with pytest.raises(ValueError, match=r"no budget from 0.0625 to 1 makes PGD as strong as FGSM"):
        calibrated(model, data, PGD(eps=1.0, alpha=0.1, random_start=0.0), FGSM(eps=0.001))
    for attack in (DeepFool(), PGD(eps=0.0)):
        with pytest.raises(ValueError, match="only an attack with a budget above 0 can be calibrated"):
            calibrated(model, data, attack, strong)
