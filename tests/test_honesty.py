"""The checks of an evaluation: for each a model or data that trip it, and a plain model that trips none."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from toys import BatchNormNet, linear, samples

from fastadv.attacks import APGD, FGSM, PGD, Attack, AutoAttack, DeepFool, Noise, Square
from fastadv.data import Dataset
from fastadv.evaluation import evaluate
from fastadv.models import LeNet5

pytestmark = [pytest.mark.numerics, pytest.mark.usefixtures("seed_zero")]

EPS = 0.05
ATTACKS: dict[str, Attack] = {
    "fgsm": FGSM(EPS),
    "pgd": PGD(EPS, EPS / 8, 20),
    "noise": Noise(EPS),
    "square": Square(EPS, queries=50),
}
PLAIN = linear(48, 5)


def data(n: int = 80, model: Callable[[Tensor], Tensor] = PLAIN) -> Dataset:
    """Nine tenths of the samples are classified correctly by `model`."""
    x = samples(n, 3, 4, 4, low=0.3, high=0.7)
    y = model(x).argmax(1)
    y[::10] = (y[::10] + 1) % 5
    return Dataset(x, y, classes=tuple("abcde"))


def found(model: Callable[[Tensor], Tensor], given: Dataset, attacks: dict[str, Attack] = ATTACKS, **how) -> list[str]:
    return [finding.check for finding in evaluate(model, given, attacks, **how).findings]


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_a_plain_model_trips_none(norm: str) -> None:
    eps = {"linf": EPS, "l2": 0.3, "l1": 2.0}[norm]
    attacks = ATTACKS if norm == "linf" else {"pgd": PGD(eps, eps / 8, 20, norm=norm), "deepfool": DeepFool()}
    assert found(PLAIN, data(), attacks) == []
    assert found(PLAIN, data(), attacks, label="pred", train=Dataset(samples(9, 3, 4, 4, seed=7), *rest(9))) == []
    assert found(PLAIN, data(), {"deepfool": DeepFool()}) == []


def rest(n: int) -> tuple[Tensor, tuple[str, ...]]:
    return torch.zeros(n, dtype=torch.int64), tuple("abcde")


def test_autoattack_on_a_plain_model_trips_none() -> None:
    assert found(PLAIN, data(16), {"aa": AutoAttack(EPS)}) == []


MASKED = ["black-box stronger than white-box", "random search", "unbounded"]


def quantised(x: Tensor) -> Tensor:
    return PLAIN((x * 16).round() / 16)


def saturated(x: Tensor) -> Tensor:
    return 1e5 * PLAIN(x)


@pytest.mark.parametrize(("model", "more"), [(quantised, []), (saturated, ["weak loss"])])
def test_gradients_that_are_zero(model: Callable[[Tensor], Tensor], more: list[str]) -> None:
    assert found(model, data(), {"pgd": PGD(EPS)}) == ["zero gradients", *more, *MASKED]
    assert found(model, data(), {"pgd": PGD(EPS)}, checks=0) == []
    with pytest.raises(ValueError, match="checks must be a number of samples, or 0 for none, got -1"):
        evaluate(model, data(), checks=-1)


class Narrow(nn.Module):
    """The other class wins within a narrow ring around x, over which steps of half the budget jump forth and back."""

    def forward(self, x: Tensor) -> Tensor:
        away = (x - 0.5).flatten(1).mean(1, keepdim=True)
        other = 0.2 * EPS - (away - 0.45 * EPS).abs()
        return torch.cat([torch.zeros_like(other), other], dim=1)


def test_adversarial_points_on_the_way() -> None:
    given = Dataset(torch.full((40, 3, 4, 4), 0.5), torch.zeros(40, dtype=torch.int64), ("a", "b"))

    def silent(**attacks: Attack) -> list[str]:
        whole = evaluate(Narrow(), given, attacks)
        return [each.text for each in whole.findings if each.check.startswith("silent success of")]

    jumping = PGD(EPS, EPS / 2, 20, random_start=0.0)
    (text,) = silent(jumping=jumping)
    assert text.startswith("for 40 of 40 samples the attack met an adversarial point")
    assert silent(jumping=dataclasses.replace(jumping, steps=21)) == []  # it ends within the ring
    assert silent(apgd=APGD(EPS)) == []  # it stops there
    assert silent(small=dataclasses.replace(jumping, alpha=EPS / 20)) == []


def test_findings_say_how_many() -> None:
    whole = evaluate(quantised, data(), {"pgd": PGD(EPS)})
    texts = {finding.check: finding.text for finding in whole.findings}
    right = int(whole.natural.right[torch.linspace(0, 79, 64, dtype=torch.float64).round().long()].sum())
    assert texts["zero gradients"].startswith("at 64 of 64 samples")
    assert f"leaves {right} of {right} samples right" in texts["unbounded"]


@pytest.mark.parametrize(("count", "names"), [(3, []), (4, ["zero gradients"])])
def test_one_sample_in_twenty_is_no_accident(count: int, names: list[str]) -> None:
    given = data(64)
    given.x[:count, 0, 0, 0] = 0.7

    def model(x: Tensor) -> Tensor:
        return PLAIN(torch.where(x[:, :1, :1, :1] == given.x[0, 0, 0, 0], x.detach(), x))

    assert found(model, given, {}) == names


def test_a_model_without_gradients() -> None:
    def model(x: Tensor) -> Tensor:
        return PLAIN(x).detach()

    assert found(model, data(), {"square": Square(EPS, queries=50)}) == ["zero gradients"]


def dead_at_bounds(x: Tensor) -> Tensor:
    """A clamp as torch.clamp is from PyTorch 2.14 on: without a gradient at its bounds."""
    return torch.where((x > 0) & (x < 1), x, x.detach().clamp(0, 1))


@pytest.mark.parametrize(
    ("clamp", "ends"),
    [
        (lambda x: nn.functional.hardtanh(x, 0.0, 1.0), "0 or 1"),
        (dead_at_bounds, "0 or 1"),
        (lambda x: dead_at_bounds(x.bfloat16()).float(), "0 or 1"),
        (torch.relu, "0"),
        (lambda x: 1 - (1 - x).relu(), "1"),
    ],
)
def test_a_clamped_input(clamp: Callable[[Tensor], Tensor], ends: str) -> None:
    given = black_and_white()
    whole = evaluate(lambda x: PLAIN(clamp(x)), given, {})
    (finding,) = whole.findings
    count = sum(int((given.x[::2] == float(end)).sum()) for end in ends.split(" or "))
    assert finding.check == "clamped inputs"
    assert finding.text.startswith(f"0 of the {count} values that are exactly {ends} have a gradient. ")
    assert "Remove the clamp" in finding.text


def black_and_white(n: int = 127) -> Dataset:
    """A quarter of the values are black, a quarter white. 64 of the samples, every second, are looked at."""
    x = (2 * samples(n, 3, 4, 4) - 0.5).clamp(0, 1)
    return Dataset(x, PLAIN(x).argmax(1), tuple("abcde"))


def test_clamped_pixels_hide_from_attacks() -> None:
    """What the finding is for: half the pixels do not move, and the model seems more robust than it is."""
    given, attacks = black_and_white(), {"pgd": PGD(0.1, 0.02, 10, random_start=0.0)}
    plain = evaluate(PLAIN, given, attacks).results["pgd"].accuracy
    clamped = evaluate(lambda x: PLAIN(nn.functional.hardtanh(x, 0.0, 1.0)), given, attacks)
    assert clamped.results["pgd"].accuracy > plain + 0.1
    assert "clamped inputs" in [finding.check for finding in clamped.findings]


@pytest.mark.parametrize(
    "model",
    [
        PLAIN,
        lambda x: PLAIN(x + (nn.functional.hardtanh(x, 0.0, 1.0) - x).detach()),  # straight through
        lambda x: PLAIN(nn.functional.hardtanh(x, -1.0, 2.0)),
        lambda x: PLAIN(nn.functional.interpolate(nn.functional.max_pool2d(x, 2), scale_factor=2)),
        lambda x: PLAIN(nn.functional.interpolate(-nn.functional.max_pool2d(-x, 2), scale_factor=2)),
        lambda x: PLAIN(torch.cat((x[:, :, :2], x[:, :, 2:].detach()), 2)),  # half of the pixels change nothing
    ],
)
def test_inputs_that_are_not_clamped(model: Callable[[Tensor], Tensor]) -> None:
    given = black_and_white()
    assert "clamped inputs" not in found(model, given, {})


@pytest.mark.parametrize("bias", [False, True])
def test_layers_that_are_dead_on_black(bias: bool) -> None:
    """ReLUs without a bias have no gradient where all is black, and get one with the first pixel that is not."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Conv2d(3, 8, 3, padding=1, bias=bias), nn.ReLU(), nn.Conv2d(8, 8, 3, bias=bias), nn.ReLU()
        model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * 6 * 6, 5)).eval()
    x = samples(64, 3, 8, 8)
    x[:, :, :4] = 0
    for given in (x, 0 * x):
        assert "clamped inputs" not in found(model, Dataset(given, model(x).argmax(1), tuple("abcde")), {})


@pytest.mark.parametrize("first", ["quantised", "integer", "steep"])
def test_layers_without_gradients_are_not_clamps(first: str) -> None:
    layers = {
        "quantised": quantised,
        "integer": lambda x: PLAIN((255 * x).long().float()),
        "steep": lambda x: PLAIN(torch.sigmoid(300 * (x - 0.5))),
    }
    assert "clamped inputs" not in found(layers[first], black_and_white(), {})
    assert found(layers["integer"], data(), {}) == ["zero gradients"]


NARROW = (0.45, 0.6)


def narrow(attacks: dict[str, Attack]) -> dict[str, Attack]:
    """The same budgets, meant in the units of data within NARROW."""
    return {name: dataclasses.replace(attack, bounds=NARROW) for name, attack in attacks.items()}


class Rugged(nn.Module):
    """The margin falls, rises and falls again on the way to the boundary, all within the budget."""

    def forward(self, x: Tensor) -> Tensor:
        u = (x.flatten(1).mean(1) - 0.5) / EPS
        margin = 1 - 2.5 * u + 5 * (u - 0.2).relu() - 8.75 * (u - 0.6).relu()
        return torch.stack((margin, torch.zeros_like(margin)), dim=1)


@pytest.mark.parametrize("attacks", [ATTACKS, {"noise": Noise(EPS)}])
def test_iterative_weaker_than_one_step(attacks: dict[str, Attack]) -> None:
    x = samples(80, 3, 4, 4, low=0.499, high=0.501)
    names = found(Rugged(), Dataset(x, torch.zeros(80, dtype=torch.int64), ("a", "b"), NARROW), narrow(attacks))
    assert "iterative weaker than one-step" in names


class Overfitted(nn.Module):
    """The whole step of FGSM leads beyond the region where the model is wrong, as after catastrophic overfitting."""

    def forward(self, x: Tensor) -> Tensor:
        u = (x.flatten(1).mean(1) - 0.5) / EPS
        margin = 1 - 5 * u + 25 / 3 * (u - 0.4).relu()
        return torch.stack((margin, torch.zeros_like(margin)), dim=1)


def test_attacks_that_are_too_weak() -> None:
    x = samples(80, 3, 4, 4, low=0.499, high=0.501)
    given = Dataset(x, torch.zeros(80, dtype=torch.int64), ("a", "b"), NARROW)
    fgsm = narrow({"fgsm": FGSM(EPS)})
    assert "weak attacks" in found(Overfitted(), given, fgsm)
    assert "weak attacks" not in found(Overfitted(), given, narrow(ATTACKS))
    assert "weak attacks" not in found(Overfitted(), given, fgsm, source=Rugged())


def test_a_whole_evaluation_is_compared_too() -> None:
    """Square fools, beyond the 64 samples looked at, those where gradients are zero."""
    given = data(640)
    looked_at = given.x[::8]  # among which they are

    def model(x: Tensor) -> Tensor:
        near = (x.flatten(1).unsqueeze(1) - looked_at.flatten(1)).abs().amax(2).amin(1) < 2 * EPS
        return torch.where(near.unsqueeze(1), PLAIN(x), quantised(x))

    attacks = {"pgd": PGD(EPS), "square": Square(EPS, queries=50)}
    assert found(model, given, {"pgd": attacks["pgd"]}) == []
    assert found(model, given, attacks) == ["black-box stronger than white-box"]


def test_transfer_stronger_than_white_box() -> None:
    """At a budget at which noise and a few queries of Square fool nobody, and another model's gradients do."""
    x = samples(80, 3, 4, 4, low=0.3, high=0.7)
    given = Dataset(x, PLAIN(x).argmax(1), classes=tuple("abcde"))
    lead = PLAIN(x).topk(2).values
    given = given.subset(lead[:, 0] - lead[:, 1] > 1.6)
    attacks = {"pgd": PGD(EPS, EPS / 8, 20)}
    assert MASKED[0] not in found(saturated, given, attacks)
    assert MASKED[0] in found(saturated, given, attacks, source=PLAIN)
    assert MASKED[0] not in found(PLAIN, given, attacks, source=linear(48, 5, seed=5))


def test_square_lowers_autoattack() -> None:
    names = found(quantised, data(24), {"aa": AutoAttack(EPS), "pgd": PGD(EPS)})
    assert "square lowers aa" in names
    for bf16 in (False, True):
        assert "square lowers aa" in found(quantised, data(24), {"aa": AutoAttack(EPS, "fast", bf16=bf16)})
    assert "square lowers aa" not in found(quantised, data(24), {"aa": AutoAttack(EPS, "custom", ("square",))})


def test_random_outputs() -> None:
    def model(x: Tensor) -> Tensor:
        return PLAIN(nn.functional.dropout(x, 0.1, training=True))

    assert "random" in found(model, data(), {})
    assert "batch" not in found(model, data(), {})


def test_outputs_that_depend_on_the_batch() -> None:
    x = samples(20, 3, 6, 6)
    model = BatchNormNet().eval()
    given = Dataset(x, model(x).argmax(1), classes=tuple("abcde"))
    assert found(model, given, {}) == []
    for place in (1, 4):
        model[place].track_running_stats = False
        model[place].running_mean = model[place].running_var = None
    assert found(model, given, {}) == ["batch"]
    half = linear(48, 5, torch.bfloat16)
    assert found(lambda x: half(x.bfloat16()), data(), {}) == []  # rounding is not that


def test_train_mode() -> None:
    model = BatchNormNet().train()
    x = samples(20, 3, 6, 6)
    assert found(model, Dataset(x, model.eval()(x).argmax(1), tuple("abcde")), {}) == []
    assert found(model.train(), Dataset(x, torch.zeros(20, dtype=torch.int64), tuple("abcde")), {}) == ["train mode"]
    mini = Dataset(samples(4, 1, 28, 28), torch.zeros(4, dtype=torch.int64), tuple("0123456789"))
    assert found(LeNet5().train(), mini, {}) == []  # nothing in it changes


def test_probabilities() -> None:
    assert found(lambda x: PLAIN(x).softmax(1), data(), {}) == ["probabilities"]


def test_inputs_of_another_range() -> None:
    given = data()
    assert found(PLAIN, Dataset(given.x / 255, given.y, given.classes), {}) == ["inputs"]
    assert found(lambda x: PLAIN(x / 255), Dataset(255 * given.x, given.y, given.classes, (0.0, 255.0)), {}) == []


def test_samples_that_lack_a_class() -> None:
    whole = data(200)
    given = whole.subset(whole.y != 3)
    (finding,) = evaluate(PLAIN, given, {}).findings
    assert finding.check == "classes"
    assert finding.text.startswith(f"none of the {len(given)} samples is of class d: ")
    assert found(PLAIN, given.take(49), {}) == []  # chance might do it


def test_test_samples_that_were_trained_on() -> None:
    given = data()
    train = Dataset(torch.cat((samples(30, 3, 4, 4, seed=9), given.x[20:25])), *rest(35))
    (finding,) = evaluate(PLAIN, given, {}, train=train).findings
    assert (finding.check, finding.text[:25]) == ("overlap", "5 of 80 test samples are ")
