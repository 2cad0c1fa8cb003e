"""Indicators of attack failure: broken models with what must be found of them, and healthy ones that trip nothing."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_broken_models import quietly
from test_honesty import dead_at_bounds
from torch import Tensor, nn
from toys import quick, samples

from fastadv.attacks import ALMA, APGD, DDN, FGSM, FMN, PDGD, PDPGD, PGD, Attack, AutoAttack, SigmaZero, Square
from fastadv.data import Dataset
from fastadv.evaluation import Evaluation, evaluate
from fastadv.losses import lead
from fastadv.models import Normalize, WideResNet, build, with_cosine_head

pytestmark = [pytest.mark.numerics, pytest.mark.usefixtures("seed_zero")]

Network = Callable[[Tensor], Tensor]
SHAPE, CLASSES, EPS = (1, 8, 8), 4, 0.1
ATTACKS: dict[str, Attack] = {"pgd": PGD(EPS, EPS / 4, 10)}
BLIND: dict[str, Attack] = {"square": Square(EPS, queries=30)}


def noisy_patterns(n: int, seed: int) -> Dataset:
    """A pattern a class, under noise that makes a tenth of the pixels black or white."""
    patterns = samples(CLASSES, *SHAPE, seed=5).round() - 0.5
    y = torch.arange(n) % CLASSES
    x = 0.5 + 0.3 * patterns[y] + 0.3 * torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(seed))
    return Dataset(x.clamp(0, 1), y, tuple("abcd"))


TRAIN, TEST = noisy_patterns(512, 1), noisy_patterns(48, 2)


def layers(*between: Callable[[], nn.Module]) -> nn.Sequential:
    """A dense network with layers of these kinds in between."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), *(make() for make in between), nn.Linear(64, CLASSES))


def images(*between: Callable[[], nn.Module]) -> nn.Sequential:
    """A convolution, layers of these kinds on 8 channels of 8x8, and a dense layer."""
    inner = [make() for make in between]
    size = nn.Sequential(*inner).eval()(torch.zeros(2, 8, 8, 8)).flatten(1).shape[1]
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), *inner, nn.Flatten(), nn.Linear(size, CLASSES))


class Winners(nn.Module):
    """k-WTA (Xiao et al., 2020): the largest tenth of the activations of a sample stay, the others are 0."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        least = flat.topk(flat.shape[1] // 10, dim=1).values[:, -1:]
        return torch.where(flat >= least, flat, 0.0).view_as(x)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class ViT(nn.Module):
    """Patches of 4x4, one layer of self-attention, their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 16, 4, 4)
        self.places = nn.Parameter(0.02 * torch.randn(4, 16))
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, activation="gelu", norm_first=True)
        self.head = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.patches(x).flatten(2).mT + self.places).mean(1))


class Rows(nn.Module):
    """An LSTM over the rows of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.LSTM(8, 32, batch_first=True), nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inner(x.squeeze(1))[0][:, -1])


def trained(model: nn.Module, steps: int = 40, attack: Attack | None = None, soft: Network | None = None) -> nn.Module:
    """`model` after Adam on TRAIN, on what `attack` makes of it, or towards the probabilities of `soft`."""
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    model.train()
    for step in range(steps):
        part = torch.arange(64 * step, 64 * (step + 1)) % len(TRAIN)
        x, y = TRAIN.x[part], TRAIN.y[part]
        x = attack(model, x, y) if attack else x
        target = soft(x).detach().softmax(1) if soft else y
        optimiser.zero_grad()
        F.cross_entropy(model(x), target).backward()
        optimiser.step()
    return model.eval()


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "dense": lambda: trained(layers(nn.ReLU)),
    "hardened": lambda: trained(layers(nn.ReLU), attack=PGD(EPS, EPS / 2, 4)),
    "k-WTA": lambda: trained(images(Winners, lambda: nn.Conv2d(8, 8, 3, padding=1), Winners)),
    "student": lambda: trained(layers(nn.ReLU), soft=network("dense")),
    "linear": lambda: trained(nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES))),
}


@functools.cache
def network(name: str) -> nn.Module:
    """Trained once for all tests."""
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(0)
        return NETWORKS[name]()


def measured(model: Network, attacks: dict[str, Attack] = ATTACKS, data: Dataset = TEST, **how: Any) -> Evaluation:
    return evaluate(model, data, attacks, **how)


def names(found: Evaluation) -> list[str]:
    return [finding.check for finding in found.findings]


# -------------------------------------------------------------------------------------------------------------- broken

COSINES = torch.cos(torch.pi / 8 * torch.outer(torch.arange(8), torch.arange(8) + 0.5)) / 2
COSINES[0] /= math.sqrt(2)


def jpeg(x: Tensor) -> Tensor:
    """Blocks of 8x8 with rounded coefficients of the cosine transform."""
    return COSINES.T @ ((COSINES @ x @ COSINES.T) * 8).round() / 8 @ COSINES


class Backwards(torch.autograd.Function):
    """The identity, with noise for a gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad + grad.abs().mean() * torch.randn_like(grad)


def quantised(x: Tensor) -> Tensor:
    flatten, first, relu, last = network("dense")
    return last((4 * relu(first(flatten(x)))).round() / 4)


def sometimes_nan(x: Tensor) -> Tensor:
    return network("dense")(x).masked_fill(x[:, 0, :1, 0] > 0.8, torch.nan)


def in_memory(x: Tensor) -> Tensor:
    return network("dense")(x.data.sub_(0.1))


FLAT = {"zero gradients", "unbounded"}
BROKEN: dict[str, tuple[Network, dict[str, Attack], set[str]]] = {
    "clamp": (lambda x: network("dense")(dead_at_bounds(x)), ATTACKS, {"clamped inputs"}),
    "hardtanh": (lambda x: network("dense")(F.hardtanh(x, 0.0, 1.0)), ATTACKS, {"clamped inputs"}),
    "k-WTA": (lambda x: network("k-WTA")(x), ATTACKS, {"unstable predictions"}),
    "distilled": (lambda x: 100 * network("student")(x), ATTACKS, FLAT | {"weak loss"}),
    "JPEG": (lambda x: network("dense")(jpeg(x)), ATTACKS, FLAT),
    "quantised": (quantised, ATTACKS, FLAT),
    "hot": (lambda x: 1e3 * network("dense")(x), ATTACKS, FLAT | {"weak loss"}),
    "cold": (lambda x: 1e-3 * network("dense")(x), ATTACKS, {"weak loss"}),
    "stochastic": (lambda x: network("dense")(x + 0.1 * torch.randn_like(x)), ATTACKS, {"random"}),
    "NaN": (sometimes_nan, ATTACKS, {"nan"}),
    "root": (lambda x: network("dense")(x.sqrt().square()), ATTACKS, {"gradients not finite"}),
    "detached": (lambda x: network("dense")(x.detach()), BLIND, {"zero gradients"}),
    "data": (lambda x: network("dense")(x.data), BLIND, {"zero gradients"}),
    "copied": (lambda x: network("dense")(x.detach().clone().requires_grad_()), BLIND, {"zero gradients"}),
    "in memory": (in_memory, BLIND, {"zero gradients"}),
    "half detached": (
        lambda x: network("dense")(x.detach()) + 0.01 * network("linear")(x),
        ATTACKS,
        {"unstable predictions"},
    ),
    "noisy backward": (lambda x: network("dense")(Backwards.apply(x)), ATTACKS, {"gradient noise"}),
}
"""By name: the model, the attacks of its evaluation, and all that fires."""
UNSURE = {"k-WTA": {"silent success of pgd"}, "stochastic": {"weak attacks"}}
"""What rounding or chance may add or take away: the first is at three of 47 samples, and two are too few."""


@quietly
@pytest.mark.parametrize("name", quick(BROKEN, "hardtanh", "cold", "root", "copied"))
def test_a_broken_model_is_found_out(name: str) -> None:
    model, attacks, fires = BROKEN[name]
    found = names(measured(model, attacks))
    assert len(found) == len(set(found))
    assert set(found) - UNSURE.get(name, set()) == fires


# ------------------------------------------------------------------------------------------------------------- healthy


def larger(name: str, side: int) -> nn.Module:
    """A network of the package, behind a layer that makes images as large as it takes them."""
    return nn.Sequential(nn.Upsample((side, side)), build(name, (1, side, side), CLASSES))


def convolution() -> nn.Module:
    return nn.Conv2d(8, 8, 3, padding=1)


HEALTHY: dict[str, Callable[[], nn.Module | Network]] = {
    "linear": lambda: network("linear"),
    "dense": lambda: network("dense"),
    "PGD-trained": lambda: network("hardened"),
    "GELU": lambda: trained(layers(nn.GELU)),
    "SiLU": lambda: trained(layers(nn.SiLU)),
    "tanh": lambda: trained(layers(nn.Tanh)),
    "sigmoid": lambda: trained(layers(nn.Sigmoid)),
    "ELU, dropout": lambda: trained(layers(nn.ELU, lambda: nn.Dropout(0.5))),
    "maxout": lambda: trained(layers(lambda: nn.Unflatten(1, (1, 64)), lambda: nn.MaxPool1d(3, 1, 1), nn.Flatten)),
    "batch norm": lambda: trained(images(lambda: nn.BatchNorm2d(8), nn.ReLU, convolution, nn.ReLU)),
    "group norm": lambda: trained(images(lambda: nn.GroupNorm(2, 8), nn.ReLU, convolution, nn.ReLU)),
    "layer norm": lambda: trained(images(lambda: nn.LayerNorm((8, 8, 8)), nn.GELU, convolution)),
    "max pool": lambda: trained(images(nn.ReLU, lambda: nn.MaxPool2d(2), convolution, nn.ReLU)),
    "mean pool": lambda: trained(images(nn.LeakyReLU, lambda: nn.AvgPool2d(2), convolution, nn.Softplus)),
    "residual": lambda: trained(images(Residual, Residual)),
    "ViT": lambda: trained(ViT()),
    "LSTM": lambda: trained(Rows()),
    "LeNet-5": lambda: trained(larger("lenet5", 28)),
    "LeNet-5, batch norm": lambda: trained(larger("lenet5-bn", 28)),
    "small CNN": lambda: trained(larger("small-cnn", 16)),
    "wide ResNet": lambda: trained(WideResNet(SHAPE, CLASSES, depth=10, widen=1)),
    "normalised": lambda: Normalize(network("dense"), [0.1], [0.9]),
    "in place": lambda: Shifted(network("dense")),
    "cosine head": lambda: trained(with_cosine_head(layers(nn.ReLU), 4.0)),
    "straight through": lambda: lambda x: network("dense")(x + ((16 * x).round() / 16 - x).detach()),
    "bfloat16": lambda: layers_in(torch.bfloat16),
    "float64": lambda: layers_in(torch.float64),
}


class Shifted(nn.Module):
    """Changes its input in place, and is given copies."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.sub_(0.1))


def layers_in(dtype: torch.dtype) -> nn.Module:
    model = layers(nn.ReLU).to(dtype)
    model.load_state_dict(network("dense").state_dict())
    return model.eval()


@pytest.mark.parametrize("name", quick(HEALTHY, "PGD-trained", "straight through"))
def test_a_healthy_model_trips_nothing(name: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = HEALTHY[name]()
    assert names(measured(model)) == []


@pytest.mark.thorough
def test_other_attacks_on_healthy_models_trip_nothing() -> None:
    attacks = {"pgd": PGD(EPS, EPS / 10, 20, 0.5), "apgd": APGD(EPS, steps=20), "fgsm": FGSM(EPS)}
    for name in ("dense", "hardened"):
        assert names(measured(network(name), attacks)) == []
        assert names(measured(network(name), {"aa": AutoAttack(EPS, "custom", ("apgd-ce", "apgd-dlr"))})) == []
        nearest = {kind.__name__: kind() for kind in (FMN, DDN, PDGD, PDPGD, ALMA, SigmaZero)}
        assert names(measured(network(name), nearest)) == []


# ------------------------------------------------------------------------------------------------------ each by itself


def text(found: Evaluation, check: str) -> str:
    (finding,) = (finding for finding in found.findings if finding.check == check)
    return finding.text


def test_steps_that_end_on_the_way() -> None:
    """On a linear model of two classes, n steps of a take the lead down by n * a * ||w||_1, and twice as many twice."""
    weight = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
    x = 0.5 + (samples(40, *SHAPE) - 0.5) / 8

    def model(x: Tensor) -> Tensor:
        return (x - 0.5).flatten(1) @ weight.T

    y = model(x).argmax(1)
    each = lead(model(x), y) / (weight[0] - weight[1]).abs().sum()  # the step that reaches the boundary
    alpha = float(each.quantile(0.75)) / 8
    halfway = PGD(0.3, alpha, 4, random_start=0.0)
    found = measured(
        model, {"halfway": halfway, "whole": PGD(0.3, 2 * alpha, 40, random_start=0.0)}, Dataset(x, y, ("a", "b"))
    )
    assert names(found) == ["incomplete optimisation of halfway"]
    left, more = int((each > 4 * alpha).sum()), int(((each > 4 * alpha) & (each < 8 * alpha)).sum())
    assert more > 5
    said = text(found, "incomplete optimisation of halfway")
    assert said.startswith(f"{left} of 40 samples are left right while the loss still rises in the last 4 of 4 steps")
    assert f"twice the steps fool {more} more" in said


@pytest.mark.parametrize("short", quick((FMN(5), DDN(10), ALMA(5), SigmaZero(10)), DDN(10)))
def test_perturbations_that_still_shrink(short: Attack) -> None:
    """With enough steps none does; nor does a finding need them all to be without a budget."""
    attacks = {"pgd": ATTACKS["pgd"], "short": short, "long": dataclasses.replace(short, steps=400)}
    assert names(measured(network("dense"), attacks)) == ["incomplete optimisation of short"]


def test_on_a_linear_model_ddn_needs_more_steps_the_nearer_the_boundary_is() -> None:
    """The radius shrinks by 5 % a step from 1 on, and in n steps to 0.95^n, whatever the distance."""
    weight = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))

    def model(x: Tensor) -> Tensor:
        return (x - 0.5).flatten(1) @ weight.T

    x = 0.5 + (samples(40, *SHAPE) - 0.5) / 8
    y = model(x).argmax(1)
    assert (lead(model(x), y) / (weight[0] - weight[1]).norm() < 0.95**24).all()
    found = measured(model, {"ddn": DDN(12)}, Dataset(x, y, ("a", "b")))
    assert names(found) == ["incomplete optimisation of ddn"]
    said = text(found, "incomplete optimisation of ddn")
    assert said.startswith(
        "for 40 of 40 samples the perturbation is found, or shrinks by more than 5%, in the last 10 of 12 steps"
    )
    assert "twice the steps find 40 more that are smaller" in said


@pytest.mark.thorough
def test_a_loss_that_rises_where_more_steps_do_not_help_is_no_finding() -> None:
    assert names(measured(network("dense"), {"pgd": PGD(EPS, EPS / 20, 20, random_start=0.0)})) == []


def test_gradients_that_are_noise_are_measured() -> None:
    found = measured(BROKEN["noisy backward"][0])
    assert text(found, "gradient noise").startswith("at 48 of 48 samples the gradient was another a second time, by ")


def test_jumps_are_counted() -> None:
    """At every second sample, a wave that the gradient knows nothing of."""

    def model(x: Tensor) -> Tensor:
        flat = x.flatten(1)
        steep = flat[:, 0] > 0.7
        height = torch.where(steep, 10 * (flat[:, 1] * 1e4).sin().detach(), 0.0)
        return torch.stack((flat.sum(1) / 64 + height, 0.4 + 0 * height), 1)

    x = samples(40, *SHAPE, low=0.45, high=0.55)
    x[::2, 0, 0, 0] = 0.9
    data = Dataset(x, torch.zeros(40, dtype=torch.int64), ("a", "b"))
    said = text(measured(model, {}, data, checks=64), "unstable predictions")
    assert said.startswith("for 20 of 40 samples the logits jump")


@quietly
def test_samples_without_logits_are_counted_once() -> None:
    found = measured(sometimes_nan)
    assert names(found) == ["nan"]
    assert "NaN" in text(found, "nan")


def test_a_copy_of_the_input_has_no_gradient() -> None:
    with pytest.raises(ValueError, match=r"no gradient with respect to its input: .* x\.data"):
        measured(BROKEN["copied"][0])


def test_what_the_checks_cost() -> None:
    """Of all samples, logits; of 64 at most, four gradients, and four and a half passes without."""
    passes = []

    def model(x: Tensor) -> Tensor:
        passes.append((len(x), x.requires_grad))
        return network("dense")(x)

    network("dense")
    measured(model, {})
    plain, grad, half = (48, False), (48, True), (24, False)
    assert passes == [plain, grad, plain, plain, half, grad, grad, plain, plain, grad]
