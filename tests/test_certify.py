"""Lower bounds beside attacks: interval bounds in closed form, rounding included, and randomised smoothing."""

import copy
import math
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from toys import BatchNormNet, Wavy, labels, linear, quick, samples

import fastadv
from fastadv.attacks import APGDT, DDN, FAB, FGSM, PGD, DeepFool
from fastadv.data import Dataset
from fastadv.evaluation import IntervalBounds, RandomizedSmoothing, certify, evaluate
from fastadv.evaluation._certify import lower_bound
from fastadv.evaluation._intervals import Interval, enclosed
from fastadv.models import LeNet5, Normalize, SmallCNN, TwoCirclesNet

NORMS = {"linf": 1.0, "l2": 2.0, "l1": math.inf}  # and the order of their dual norms
every_norm = pytest.mark.parametrize("norm", NORMS)


def data_of(model: nn.Module, x: Tensor, bounds: tuple[float, float] = (0.0, 1.0)) -> Dataset:
    """`x` with the classes that `model` predicts for labels."""
    with torch.no_grad():
        logits = model.eval()(x)
    return Dataset(x, logits.argmax(1), tuple(map(str, range(logits.shape[1]))), bounds)


def spread(x: Tensor, eps: float, norm: str, seed: int) -> Tensor:
    """A point within `eps` of each of `x`, in [0, 1]: on the sphere, in the direction of a corner."""
    signs = samples(len(x), *x.shape[1:], seed=seed, dtype=x.dtype).sub(0.5).sign()
    size = torch.linalg.vector_norm(signs.flatten(1), {"linf": math.inf, "l2": 2.0, "l1": 1.0}[norm], dim=1)
    return (x + eps * signs / size.view(-1, *[1] * (x.dim() - 1))).clamp(0, 1)


# ----------------------------------------------------------------------------------------------------- interval bounds


@every_norm
@pytest.mark.parametrize("classes", [2, 5])
def test_radii_of_a_linear_network_are_exact(norm: str, classes: int):
    """The lead over a class by the dual norm of the difference of their weights; misclassified samples have none."""
    model, x = linear(48, classes, torch.float64), samples(20, 3, 4, 4, low=0.45, high=0.55)
    data = data_of(model, x.double())
    y = data.y.clone()
    y[0] = (y[0] + 1) % classes
    found = certify(model, Dataset(x, y, data.classes), IntervalBounds(norm))
    w, lead = model[1].weight.detach(), model(x.double()).detach()
    apart = torch.linalg.vector_norm(w[y].unsqueeze(1) - w, NORMS[norm], dim=2)
    radius = ((lead.gather(1, y.unsqueeze(1)) - lead) / apart).nan_to_num(math.inf).amin(1)
    assert found.radii[0] == 0
    assert found.predicted[0] == data.y[0]
    torch.testing.assert_close(found.radii[1:], radius[1:], rtol=5e-3, atol=3e-4 if norm == "l1" else 1e-5)
    assert (found.radii[1:] <= radius[1:]).all()


def test_of_a_linear_network_fgsm_and_bounds_are_one():
    model, x = linear(48, 2), samples(200, 3, 4, 4, low=0.4, high=0.6)
    data = Dataset(x, labels(200, 2), ("a", "b"))
    budgets = (0.002, 0.01, 0.02)
    attacks = {str(eps): FGSM(eps) for eps in budgets}
    found = evaluate(model, data, attacks, certificates={"interval": IntervalBounds()}, checks=0)
    proven = found.certificates["interval"]
    assert 0 < proven.certified(0.02) < proven.certified(0.002) < found.clean
    for eps in budgets:
        assert proven.certified(eps) == proven.upper(eps) == found.results[str(eps)].accuracy


def test_the_first_convolution_has_the_dual_norm():
    """As if it were written as a matrix, padding and channels of different scale included."""
    torch.manual_seed(0)
    convolution = nn.Conv2d(2, 3, 3, stride=2, padding=1).double()
    model = Normalize(nn.Sequential(convolution, nn.Flatten()), [0.4, 0.6], [0.25, 0.5])
    x, eps = samples(4, 2, 6, 6, low=0.4, high=0.6, dtype=torch.float64), torch.full((4,), 0.05, dtype=torch.float64)
    rows = torch.autograd.functional.jacobian(lambda x: model(x.unsqueeze(0))[0], x[0]).flatten(1)
    for norm, order in NORMS.items():
        found = enclosed(model, x, x - 0.05, x + 0.05, eps, norm)
        reach, exact = (found.high - found.low) / 2, 0.05 * torch.linalg.vector_norm(rows, order, dim=1)
        if norm != "l1":
            torch.testing.assert_close(reach, exact.expand_as(reach), rtol=1e-9, atol=1e-12)
            torch.testing.assert_close((found.high + found.low) / 2, model(x), rtol=1e-9, atol=1e-12)
        else:  # where a channel's largest weight is beyond the border, it counts
            inside = exact.view(3, 9)[:, 4:].amax(1).repeat_interleave(9)
            assert (reach >= exact - 1e-12).all()
            assert (reach <= inside + 1e-9).all()


class Residual(nn.Module):
    """What user's networks do: functions, sums, in place, shapes by hand."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1), nn.Linear(8, 4)
        self.norm, self.pad = nn.BatchNorm2d(8), nn.ZeroPad2d(1)
        nn.init.uniform_(self.norm.running_mean)
        nn.init.uniform_(self.norm.running_var, 0.5, 2.0)

    def forward(self, x: Tensor) -> Tensor:
        x = 2 * x - 1
        x = F.relu(self.norm(self.first(x)), inplace=True)
        x = x + F.leaky_relu(self.second(x), 0.1)
        x += 0.5
        x = F.avg_pool2d(self.pad(x), 2)
        x = F.adaptive_avg_pool2d(F.hardtanh(x, -3.0, 3.0), 1)
        return self.last(x.view(x.size(0), -1))


class Coloured(nn.Module):
    """A grey image as three channels: copies of an element are perturbed together."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(48, 4))
        self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1))
        nn.init.constant_(self.layers[1].weight, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers((x - self.mean) / 0.25)


def networks() -> Iterator[tuple[str, nn.Module, tuple[int, ...]]]:
    torch.manual_seed(0)
    small = SmallCNN((1, 16, 16))
    nn.init.normal_(small.classifier[-1].weight)
    yield "lenet", LeNet5(), (1, 28, 28)
    yield "small-cnn", small, (1, 16, 16)
    yield "batch-norm", BatchNormNet(), (3, 6, 6)
    yield "residual", Residual(), (3, 6, 6)
    yield "normalised", Normalize(Residual(), [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]), (3, 6, 6)
    yield "adapted", fastadv.adapt(LeNet5(), mean=0.3, std=0.4), (1, 28, 28)
    yield "coloured", Coloured(), (1, 4, 4)
    yield "circles", TwoCirclesNet(), (2,)


NETWORKS = {name: (model.eval(), shape) for name, model, shape in networks()}


def steepest(model: nn.Module, x: Tensor, norm: str) -> Iterator[Tensor]:
    """The directions of size 1 in which the last logit rises and falls most."""
    leaf = x.clone().requires_grad_()
    with torch.enable_grad():
        grad = torch.autograd.grad(model(leaf)[:, -1].sum(), leaf)[0].flatten(1)
    if norm == "linf":
        away = grad.sign()
    elif norm == "l2":
        away = F.normalize(grad)
    else:
        away = torch.zeros_like(grad).scatter(1, grad.abs().argmax(1, keepdim=True), 1.0) * grad.sign()
    yield from (away.view_as(x), -away.view_as(x))


@pytest.mark.parametrize("name", quick(NETWORKS, "residual", "normalised", "coloured", "circles"))
@every_norm
def test_no_point_of_the_ball_is_outside_of_the_bounds(name: str, norm: str):
    """At no distance, they are a point, but for what float64 rounds."""
    model, shape = copy.deepcopy(NETWORKS[name][0]).double(), NETWORKS[name][1]
    x = samples(6, *shape, dtype=torch.float64)
    for eps in (0.0, 0.02):
        size = torch.full((6,), eps, dtype=torch.float64)
        found = enclosed(model, x, (x.double() - eps).clamp_min(0), (x.double() + eps).clamp_max(1), size, norm)
        with torch.no_grad():
            points = [spread(x, 0.999999 * eps, norm, seed) for seed in range(6)]
            points += [(x + 0.999999 * eps * away).clamp(0, 1) for away in steepest(model, x, norm)]
            for point in points:
                assert (found.low <= model(point)).all()
                assert (model(point) <= found.high).all()
            if eps == 0:
                assert (found.high - found.low).max() <= 1e-6


@pytest.fixture(scope="module")
def ramps() -> tuple[nn.Module, Dataset]:
    """A perceptron of ``relu(d)`` and ``relu(-d)``, d being linear: interval bounds are exact where d keeps its sign.

    Every tenth sample has the wrong label.
    """
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(16, 2), nn.ReLU(), nn.Linear(2, 2)), samples(160, 1, 4, 4)
    a = torch.randn(16, generator=torch.Generator().manual_seed(0))
    model[1].load_state_dict({"weight": torch.stack((a, -a)), "bias": torch.tensor([-0.5, 0.5]) * a.sum()})
    model[3].load_state_dict({"weight": torch.eye(2), "bias": torch.zeros(2)})
    y = (x.flatten(1) @ a < a.sum() / 2).long()
    y[::10] = 1 - y[::10]
    return model, Dataset(x, y, ("more", "less"))


@every_norm
def test_a_certified_sample_is_never_fooled(norm: str, ramps: tuple[nn.Module, Dataset]):
    """Each is attacked at the edge of its radius, and by attacks that look for the nearest point."""
    model, data = ramps
    proven = certify(model, data, IntervalBounds(norm))
    sure = (proven.radii > 0).nonzero().squeeze(1)
    assert len(sure) > 100
    x, y, eps = data.x[sure], data.y[sure], proven.radii[sure].float()
    for attack in (
        PGD(eps, eps / 4, 20, norm=norm, random_start=1.0, seed=0),
        PGD(eps, eps, 20, norm=norm, random_start=0.0),
        *([APGDT(eps, steps=20, targets=1, candidates=1, norm=norm, seed=0)] if norm != "l1" else []),
    ):
        assert not attack.run(model, x, y).success.any()
    nearest = {
        "linf": {"fab": FAB(30), "df": DeepFool(30, norm="linf")},
        "l2": {"ddn": DDN(40), "df": DeepFool(30)},
        "l1": {"fab": FAB(30, norm="l1")},
    }[norm]
    found = evaluate(model, data, nearest, certificates={"it": IntervalBounds(norm)}, checks=0)
    both = found.certificates["it"]
    assert torch.equal(both.radii, proven.radii)
    assert both.broken == 0
    assert (both.attacked[sure] > both.radii[sure]).all()
    assert (both.attacked[sure] < 1.1 * both.radii[sure]).double().mean() > 0.5  # the band is narrow here
    right = found.natural.right
    assert (both.attacked[~right] == 0).all()
    assert (both.radii[~right] == 0).all()
    for eps in (0.0, 0.01, 0.05, 0.3):
        assert both.certified(eps) <= both.upper(eps)


class Deceiving(nn.Module):
    """What bounds see does not depend on the perturbation."""

    def __init__(self):
        super().__init__()
        self.linear = linear(48, 2)

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(x, Interval):
            x = Interval((x.low + x.high) / 2, (x.low + x.high) / 2)
        return self.linear(x)


def test_a_contradiction_is_a_finding():
    model, x = Deceiving(), samples(30, 3, 4, 4, low=0.4, high=0.6)
    found = evaluate(
        model,
        Dataset(x, torch.zeros(30, dtype=torch.int64), ("a", "b")),
        {"fgsm": FGSM(0.1)},
        certificates={"interval": IntervalBounds()},
        checks=0,
    )
    assert found.certificates["interval"].broken > 5
    assert [each.check for each in found.findings] == ["certificate"]
    assert "are fooled within the radius that is certified for them" in found.findings[0].text


def test_sizes_are_shares_of_the_range():
    model, x = linear(48, 3, torch.float64), samples(10, 3, 4, 4, low=0.4, high=0.6)
    wide = nn.Sequential(Normalize(nn.Identity(), -1.0, 2.0), model)
    here = certify(model, data_of(model, x.double()))
    there = certify(wide, data_of(wide, (2 * x.double() - 1), (-1.0, 1.0)))
    torch.testing.assert_close(there.radii, here.radii, rtol=5e-3, atol=1e-5)


def test_finished_batches_are_kept(ramps: tuple[nn.Module, Dataset], monkeypatch: pytest.MonkeyPatch):
    model, data = ramps
    kept: dict = {}
    how = {"certificates": {"interval": IntervalBounds()}, "checks": 0, "kept": kept}
    first = evaluate(model, data, {"fgsm": FGSM(0.1)}, **how, batch_size=50)
    monkeypatch.setattr(IntervalBounds, "measure", lambda *_: pytest.fail("measured again"))
    again = evaluate(model, data, {"fgsm": FGSM(0.1)}, **how, batch_size=50)
    assert torch.equal(first.certificates["interval"].radii, again.certificates["interval"].radii)
    assert torch.equal(first.certificates["interval"].attacked, again.certificates["interval"].attacked)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.GELU()),
            "no interval bounds of Sequential: there is no rule for gelu",
        ),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).half(),
            "for networks in float32 or float64, Sequential computes",
        ),
        (fastadv.adapt(linear(4, 3), output=lambda out: out), "they know no loss of your own, and no chosen output"),
        (
            nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 3)),
            "by the statistics",
        ),
    ],
)
def test_what_has_no_bounds_says_so_before_the_work(model: nn.Module, message: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(FGSM, "perturb", lambda *_: pytest.fail("attacked"))
    data = Dataset(samples(4, 1, 2, 2), labels(4, 3), ("a", "b", "c"))
    with pytest.raises(ValueError, match=message):
        evaluate(model, data, {"fgsm": FGSM(0.1)}, certificates={"interval": IntervalBounds()})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: IntervalBounds("l0"), "norm must be one of linf, l2, l1, got 'l0'"),
        (lambda: RandomizedSmoothing(sigma=0.0), "sigma must be positive"),
        (lambda: RandomizedSmoothing(n=0), "n must be at least 1, got 0"),
        (lambda: RandomizedSmoothing(alpha=1.0), "alpha must be between 0 and 1"),
        (lambda: evaluate(linear(4, 2), None, {}, certificates={"worst": IntervalBounds()}), "can be called 'worst'"),
    ],
)
def test_options_that_make_no_sense(make, message: str):
    with pytest.raises(ValueError, match=message):
        make()


# ------------------------------------------------------------------------------------------------ randomised smoothing


def test_the_lower_bound_is_clopper_and_pearsons():
    """At the bound p, so many hits or more have the chance alpha; all hits have alpha^(1/n), none 0."""
    n, alpha = 40, 0.01
    found = lower_bound(torch.tensor([0, 7, 39, 40]), n, alpha)
    for hits, p in zip((7, 39, 40), found[1:].tolist(), strict=True):
        tail = sum(math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(hits, n + 1))
        assert tail == pytest.approx(alpha, rel=1e-9)
    assert found[0] == 0
    assert found[3] == pytest.approx(alpha ** (1 / n))


def test_the_smoothed_linear_classifier_has_the_network_s_distance():
    """Its radius is the distance to the plane; what is proven is less, but for chance, and by as much as n allows."""
    model, x = linear(16, 2, torch.float64), samples(24, 1, 4, 4, low=0.4, high=0.6)
    data = data_of(model, x.double())
    w = model[1].weight.detach()
    logits = model(x.double()).detach()
    exact = (logits[:, 1] - logits[:, 0]).abs() / (w[1] - w[0]).norm()
    sigma, n, alpha = 0.1, 400, 0.01
    found = certify(model, Dataset(x, data.y, data.classes), RandomizedSmoothing(sigma=sigma, n0=20, n=n, alpha=alpha))
    assert ((found.radii > exact).double().mean()) <= 2 * alpha
    chance = torch.special.ndtr(exact / sigma)
    expected = sigma * torch.special.ndtri(lower_bound((n * chance).round(), n, alpha).clamp(0.5))
    assert (found.radii - expected).abs().mean() < 0.01
    assert ((found.predicted == data.y) | (found.predicted == -1)).all()
    assert (found.predicted == -1).any()
    assert found.radii.max() <= sigma * float(torch.special.ndtri(torch.tensor(alpha ** (1 / n), dtype=torch.float64)))
    assert "of the smoothed classifier, not the network" in repr(found)
    with pytest.raises(ValueError, match="no attack was tried on the classifier that this certificate is about"):
        found.upper(0.1)


def test_noise_does_not_depend_on_batches():
    model, x = Wavy(16, 3), samples(7, 1, 4, 4)
    data = data_of(model, x)
    method = RandomizedSmoothing(sigma=0.2, n0=5, n=30)
    whole, parts = certify(model, data, method, seed=3), certify(model, data, method, seed=3, batch_size=2)
    assert torch.equal(whole.radii, parts.radii)
    assert torch.equal(whole.predicted, parts.predicted)
    assert len(whole.radii.unique()) > 2
    assert not torch.equal(certify(model, data, method, seed=4).radii, whole.radii)


def test_nan_is_no_class():
    class Lost(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.full((len(x), 2), math.nan)

    data = Dataset(samples(3, 1, 2, 2), labels(3, 2), ("a", "b"))
    found = certify(Lost(), data, RandomizedSmoothing(n0=3, n=5))
    assert found.predicted.tolist() == [-1] * 3
    assert found.radii.tolist() == [0.0] * 3


def test_without_scipy(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "scipy.special", None)
    data = Dataset(samples(3, 1, 2, 2), labels(3, 2), ("a", "b"))
    with pytest.raises(ImportError, match="randomised smoothing needs scipy"):
        certify(linear(4, 2), data, RandomizedSmoothing())
