"""Attacks that look for the smallest perturbation: closed forms, one sample at a time, other libraries' results."""

import copy
import math

import pytest
import torch
from test_attacks import SHAPE, every, nearest_hyperplane
from torch import Tensor, nn
from toys import Wavy, labels, linear, samples

from benchmarks.minimum_norm import network, pairs, sizes
from benchmarks.peers import adv_lib
from fastadv import ops
from fastadv.attacks import (
    ALMA,
    APGD,
    APGDT,
    DDN,
    FMN,
    PDGD,
    PDPGD,
    PGD,
    Attack,
    DeepFool,
    Ended,
    FriendlyPGD,
    Minimal,
    SigmaZero,
    Square,
    _ascend,
)
from fastadv.losses import lead

pytestmark = pytest.mark.usefixtures("seed_zero")
NORMS = ("linf", "l2", "l1")


@pytest.mark.parametrize(
    ("attack", "most"),
    [
        *((FMN(steps=300, norm=norm), 1.01) for norm in NORMS),
        (PDGD(steps=500), 1.02),
        *((PDPGD(steps=500, norm=norm), 1.03) for norm in NORMS),
        *((ALMA(steps=500, norm=norm), 1.03) for norm in ("l2", "l1")),
        *((Minimal(PGD(eps, eps / 4, 20, norm=norm), 14), 1.01) for norm, eps in (("linf", 0.05), ("l2", 0.3))),
        *((Minimal(kind(1.0, steps=50, norm="l1"), 14), 1.02) for kind in (APGD, APGDT)),
    ],
    ids=lambda value: f"{type(value).__name__} {value.norm}" if isinstance(value, Attack) else None,
)
def test_on_a_linear_model_it_is_the_nearest_hyperplane(attack: Attack, most: float) -> None:
    classes = 3 if isinstance(attack, ALMA) else 2
    model, x = linear(48, classes, torch.float64), samples(32, *SHAPE, low=0.3, high=0.7, dtype=torch.float64)
    distance, _ = nearest_hyperplane(model, x, attack.norm)
    found = attack.run(model, x)
    assert found.success.all()
    assert (found.norm >= distance * (1 - 1e-5)).all()
    assert (found.norm / distance).median() < most
    assert (found.norm / distance).quantile(0.9) < 1.05 * most


@pytest.mark.parametrize("attack", [FMN(steps=200, norm="l0"), SigmaZero(steps=500), PDPGD(steps=500, norm="l0")])
def test_on_a_linear_model_it_changes_the_fewest_entries(attack: Attack) -> None:
    """Those that can do most: weight times room in the box."""
    model, x = linear(48, 2, torch.float64), samples(32, *SHAPE, dtype=torch.float64)
    y, weight = model(x).argmax(1), model[1].weight.detach()
    way = weight[1 - y] - weight[y]
    gains = torch.where(way > 0, way * (1 - x.flatten(1)), -way * x.flatten(1)).sort(dim=1, descending=True).values
    fewest = 1 + (gains.cumsum(1) < lead(model(x), y).unsqueeze(1)).sum(1)
    found = attack.run(model, x)
    assert found.success.all()
    assert (found.norm >= fewest).all()
    assert (found.norm == fewest).double().mean() >= (0.5 if isinstance(attack, PDPGD) else 0.9)


def naive_fmn(attack: FMN, model: nn.Module, x: Tensor, y: int) -> Tensor:
    """One sample, as in the paper."""
    order = {"l0": 0, "l1": 1, "l2": 2, "linf": math.inf}[attack.norm]
    dual = {"l1": math.inf, "l2": 2, "linf": 1}.get(attack.norm)
    delta, best, size = torch.zeros_like(x), x, math.inf
    radius = 1.0 if attack.norm == "l0" else math.inf
    largest = torch.maximum(x, 1 - x).flatten().norm(order)
    for k in range(attack.steps + 1):
        point = (x + delta).requires_grad_()
        logits = model(point)
        fooled = (logits.argmax() == y) == attack.targeted
        if fooled and delta.flatten().norm(order) < size:
            best, size = point.detach(), delta.flatten().norm(order).item()
        if k == attack.steps:
            return best
        loss = -lead(logits, torch.tensor([y])) * (-1 if attack.targeted else 1)
        (grad,) = torch.autograd.grad(loss.sum(), point)
        share = (1 + math.cos(math.pi * k / attack.steps)) / 2
        alpha, gamma = attack.first * (0.01 + 0.99 * share), 0.001 + (attack.gamma - 0.001) * share
        if attack.norm == "l0":
            smaller = min(radius - 1, math.floor(radius * (1 - gamma)), size)
            radius = max(1, smaller) if fooled else max(radius + 1, math.floor(radius * (1 + gamma)))
        elif fooled:
            radius = min(radius * (1 - gamma), size)
        elif size < math.inf:
            radius = radius * (1 + gamma)
        else:
            radius = 1.001 * delta.flatten().norm(order).item() + abs(loss.item()) / grad.flatten().norm(dual).item()
        radius = min(radius, float(largest))
        delta = delta + alpha * grad / grad.norm()
        if attack.norm == "l0":
            least = delta.abs().flatten().sort(descending=True).values[int(radius) - 1]
            delta = torch.where(delta.abs() >= least, delta, 0)
        elif attack.norm == "linf":
            delta = delta.clamp(-radius, radius)
        elif attack.norm == "l2":
            delta = delta * min(1.0, radius / float(delta.norm()))
        elif delta.abs().sum() > radius:
            low, high = 0.0, float(delta.abs().max())
            for _ in range(200):
                theta = (low + high) / 2
                low, high = (theta, high) if (delta.abs() - theta).clamp(min=0).sum() > radius else (low, theta)
            delta = delta.sign() * (delta.abs() - high).clamp(min=0)
        delta = (x + delta).clamp(0, 1) - x
    return best


@pytest.mark.parametrize("norm", ["l0", *NORMS])
@pytest.mark.parametrize("targeted", [False, True])
def test_fmn_is_each_sample_by_itself(norm: str, targeted: bool) -> None:
    attack = FMN(steps=7, norm=norm, targeted=targeted, first=0.5)
    model, x, y = Wavy(48, 5), samples(12, *SHAPE, dtype=torch.float64), labels(12, 5)
    if not targeted:
        y[::2] = model(x).argmax(1)[::2]
    found = attack.run(model, x, y)
    for i in range(12):
        one = slice(i, i + 1)
        torch.testing.assert_close(found.x_adv[one], naive_fmn(attack, model, x[one], int(y[i])), atol=1e-8, rtol=0)
    assert (found.norm > 0).any()


def naive_sigma_zero(attack: SigmaZero, model: nn.Module, x: Tensor, y: int) -> Tensor:
    """One sample, as in the paper; the step size of a step is that of its threshold one step before."""
    delta, best, size, threshold, rate = torch.zeros_like(x), x, math.inf, attack.threshold, attack.lr
    mean, square = torch.zeros_like(x), torch.zeros_like(x)
    for k in range(attack.steps + 1):
        leaf = delta.clone().requires_grad_()
        logits = model(x + leaf)
        fooled = (logits.argmax() == y) == attack.targeted
        if fooled and (delta != 0).sum() < size:
            best, size = x + delta, int((delta != 0).sum())
        if k == attack.steps:
            return best
        ahead = lead(logits, torch.tensor([y])) * (-1 if attack.targeted else 1)
        loss = ahead.clamp(min=0) + (leaf.square() / (leaf.square() + attack.sigma)).mean()
        (grad,) = torch.autograd.grad(loss.sum(), leaf)
        grad = grad / grad.abs().max()
        mean, square = 0.9 * mean + 0.1 * grad, 0.999 * square + 0.001 * grad.square()
        scale = (square / (1 - 0.999 ** (k + 1))).sqrt() + 1e-8
        delta = (x + delta - rate * mean / (1 - 0.9 ** (k + 1)) / scale).clamp(0, 1) - x
        rate = attack.lr * (0.1 + 0.9 * (1 + math.cos(math.pi * k / attack.steps)) / 2)
        threshold = min(max(threshold + (0.01 if fooled else -0.01) * rate, 0), 1)
        delta = torch.where(delta.abs() < threshold, 0, delta)
    return best


@pytest.mark.parametrize("targeted", [False, True])
def test_sigma_zero_is_each_sample_by_itself(targeted: bool) -> None:
    attack = SigmaZero(steps=25, targeted=targeted)
    model, x = Wavy(48, 5), samples(12, *SHAPE, dtype=torch.float64)
    y = (model(x).argmax(1) + targeted) % 5
    found = attack.run(model, x, y)
    for i in range(12):
        one = slice(i, i + 1)
        torch.testing.assert_close(
            found.x_adv[one], naive_sigma_zero(attack, model, x[one], int(y[i])), atol=1e-8, rtol=0
        )
    assert (found.norm > 0).any()


@pytest.mark.parametrize("norm", NORMS)
def test_more_searches_never_find_larger_perturbations(norm: str) -> None:
    eps = {"linf": 0.01, "l2": 0.05, "l1": 0.3}[norm]
    model, x, y = Wavy(48, 5), samples(32, *SHAPE), labels(32, 5)
    runs = [Minimal(APGD(eps, steps=5, norm=norm), n, seed=0).run(model, x, y) for n in (1, 4, 8, 12)]
    norms = torch.stack([torch.where(found.success, found.norm, torch.inf) for found in runs])
    assert (norms[1:] <= norms[:-1]).all()
    assert norms[-1].isfinite().all()
    assert (norms[-1] < norms[1]).any()
    already = runs[0].ended == Ended.ALREADY
    assert already.any()
    assert (runs[-1].steps[already] == 0).all()


def test_a_search_needs_an_attack_with_one_budget() -> None:
    with pytest.raises(TypeError, match="Minimal: attack must have an eps that is a radius"):
        Minimal(DDN())
    with pytest.raises(ValueError, match="Minimal: the attack's eps must be one positive number"):
        Minimal(PGD(0.0))
    with pytest.raises(ValueError, match="Minimal: searches must be a whole number of at least 1"):
        Minimal(PGD(), 0)
    assert Minimal(APGD(1.0, norm="l1")).norm == "l1"
    assert Minimal(PGD(targeted=True)).targeted


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FMN(norm="l3"), "FMN: norm must be one of l0, linf, l2, l1, got 'l3'"),
        (lambda: FMN(first=0), r"FMN: first must be in \(0, inf\), got 0"),
        (lambda: FMN(gamma=1), r"FMN: gamma must be in \(0, 1\), got 1"),
        (lambda: PDPGD(lr=0), r"PDPGD: lr must be in \(0, inf\), got 0"),
        (lambda: PDGD(dual_lr=-1), r"PDGD: dual_lr must be in \(0, inf\), got -1"),
        (lambda: ALMA(norm="linf"), "ALMA: norm must be one of l2, l1, got 'linf'"),
        (lambda: ALMA(memory=1.0), r"ALMA: memory must be in \[0, 1\), got 1.0"),
        (lambda: ALMA(first=-1.0), r"ALMA: first must be in \(0, inf\), got -1.0"),
        (lambda: SigmaZero(sigma=0), r"SigmaZero: sigma must be in \(0, inf\), got 0"),
        (lambda: SigmaZero(threshold=2), r"SigmaZero: threshold must be in \[0, 1\], got 2"),
    ],
)
def test_wrong_options(make, message) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# ----------------------------------------------------------------------------------------- APGD in L1, Square's targets


@pytest.mark.parametrize("kind", [APGD, APGDT])
def test_apgd_in_l1_crosses_a_hyperplane_within_its_ball_and_no_other(kind: type[Attack]) -> None:
    model, x = linear(48, 2, torch.float64), samples(64, *SHAPE, low=0.3, high=0.7, dtype=torch.float64)
    distance, _ = nearest_hyperplane(model, x, "l1")
    eps = float(distance.median())
    found = kind(eps, steps=60, norm="l1", seed=0).run(model, x)
    assert found.norm.max() <= eps * (1 + 1e-9)
    assert found.success[distance < 0.98 * eps].all()
    assert not found.success[distance > eps].any()


def test_apgd_in_l1_keeps_to_ball_and_box() -> None:
    model, x = Wavy(48, 5), samples(32, *SHAPE)
    for eps in (0.5, 3.0, 12.0):
        found = APGD(eps, steps=20, norm="l1", loss="dlr", seed=0).run(model, x)
        assert found.norm.max() <= eps * (1 + 1e-6)
        assert found.x_adv.min() >= 0
        assert found.x_adv.max() <= 1
    few = APGD(3.0, steps=60, norm="l1", seed=0).run(model, x)
    pgd = PGD(3.0, 1.0, 60, norm="l1", seed=0).run(model, x)
    assert few.success.sum() >= pgd.success.sum()


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.3), ("l2", 3.0)])
def test_square_reaches_the_classes_it_is_given(norm: str, eps: float) -> None:
    model, x = linear(48, 5), samples(16, *SHAPE, low=0.3, high=0.7)
    goal = (model(x).argmax(1) + 1) % 5
    found = Square(eps, 300, norm=norm, targeted=True, seed=0).run(model, x, goal)
    assert found.success.double().mean() > 0.8
    assert torch.equal(found.success, model(found.x_adv).argmax(1) == goal)


# --------------------------------------------------------------------------------------------------- counts and reasons


class Asked(nn.Module):
    """Counts the rows that pass forwards through it, and those that pass back."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.forwards, self.backwards = model, 0, 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += len(x)
        if x.requires_grad:
            x = x * 1
            x.register_hook(lambda grad: setattr(self, "backwards", self.backwards + len(grad)))
        return self.model(x)


@every
def test_passes_are_counted(attack: Attack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_ascend, "_FEW", 0)  # else copies of a few samples share a pass
    x, y = samples(8, *SHAPE), labels(8, 5)
    for i in range(8):
        one, model = slice(i, i + 1), Asked(Wavy(48, 5))
        found = attack.run(model, x[one], y[one], torch.tensor([i]))
        assert int(found.queries) == model.forwards - 1  # one judges the result
        # The gradient at which FAT's attack stops is no part of a step.
        assert int(found.grads) == model.backwards or isinstance(attack, FriendlyPGD)


def test_results_say_how_a_sample_ended() -> None:
    model, x = Wavy(48, 5), samples(24, *SHAPE)
    y = model(x).argmax(1)
    y[::4] = (y[::4] + 1) % 5
    found = DeepFool(steps=2).run(model, x, y)
    assert found.reasons[::4] == ["already adversarial"] * 6
    assert {found.reasons[i] for i in range(24) if i % 4} == {"success", "steps"}
    assert [reason == "steps" for reason in found.reasons] == (~found.success).tolist()

    def broken(x: Tensor) -> Tensor:
        return model(x) + torch.where((x[:, :1, 0, 0] > 0.5) & (x[:, :1, 0, 0] != 0.75), torch.nan, 0.0)

    x[:, 0, 0, 0] = 0.4
    x[::3, 0, 0, 0] = 0.9
    with pytest.warns(RuntimeWarning, match="8 of 24"):
        found = PGD(0.01).run(broken, x, model(x).argmax(1))
    assert found.reasons[::3] == ["non-finite"] * 8
    assert [str(reason) for reason in Ended] == ["success", "steps", "already adversarial", "non-finite"]


# ------------------------------------------------------------------------------------------------------ other libraries


@pytest.fixture(scope="module")
def lenet() -> tuple[nn.Module, Tensor, Tensor]:
    """LeNet-5 after a short training, and 32 test images that it is right about."""
    model, x, y = network(4)
    return model, x[:32], y[:32]


@pytest.mark.thorough
@pytest.mark.parametrize("name", pairs(1))
def test_norms_are_no_larger_than_adv_lib_s(name: str, lenet: tuple[nn.Module, Tensor, Tensor]) -> None:
    pytest.importorskip("adv_lib", reason="adv-lib")
    (model, x, y), (attack, theirs, options) = lenet, pairs(100)[name]
    own = sizes(model, attack(model, x, y), x, y, attack.norm)
    peer = sizes(model, adv_lib(theirs, **options)(model)(x, y), x, y, attack.norm)
    assert own.isfinite().sum() >= peer.isfinite().sum() - 1
    both = own.isfinite() & peer.isfinite()
    # Entries are whole, and sigma-zero and ALMA amplify the last bits: single samples go another way.
    assert own[both].median() <= 1.01 * peer[both].median() + (attack.norm == "l0")
    assert own[both].mean() <= 1.03 * peer[both].mean()


@pytest.mark.thorough
def test_sigma_zero_is_adv_lib_s_in_float64(lenet: tuple[nn.Module, Tensor, Tensor]) -> None:
    """Where numbers are rounded less, the two go the same way, but for the look that fastadv has at the last point."""
    pytest.importorskip("adv_lib", reason="adv-lib")
    model, x, y = lenet
    model, x, y = copy.deepcopy(model).double(), x[:12].double(), y[:12]
    own = SigmaZero(80)(model, x, y)
    peer = adv_lib("sigma_zero", num_steps=80)(model)(x, y)
    fewer = ops.row_norms(own, "l0", x) < ops.row_norms(peer, "l0", x)
    same = torch.isclose(own, peer, atol=1e-6, rtol=0).flatten(1).all(1)
    assert (same | fewer).all()
    assert same.sum() >= 10
