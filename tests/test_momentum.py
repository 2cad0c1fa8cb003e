"""The attacks with momentum, against code of one sample at a time written from the papers' equations; TPGD, EOTPGD."""

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from test_attacks import corner
from torch import Tensor, nn
from toys import BatchNormNet, Wavy, labels, linear, samples

from fastadv import ops
from fastadv.attacks import (
    DIFGSM,
    EOTPGD,
    MIFGSM,
    NIFGSM,
    PGD,
    SINIFGSM,
    TIFGSM,
    TPGD,
    VMIFGSM,
    VNIFGSM,
    Attack,
    Noise,
)

pytestmark = pytest.mark.usefixtures("seed_zero")
SHAPE = (3, 4, 4)
EPS, ALPHA, STEPS, DECAY = 0.2, 0.03, 6, 0.9
GIVEN = (EPS, ALPHA, STEPS, DECAY)
FAMILY = (NIFGSM, SINIFGSM, VMIFGSM, VNIFGSM, DIFGSM, TIFGSM)

Gradient = Callable[[Tensor], Tensor]


def of_loss(model: nn.Module, y: int, sign: float = 1.0) -> Gradient:
    """The gradient of the cross-entropy of one sample [1, ...], which is ``log(1 + sum_{k != y} exp(z_k - z_y))``."""

    def gradient(x: Tensor) -> Tensor:
        leaf = x.clone().requires_grad_()
        z = model(leaf)[0]  # so that autograd rounds nothing away where the label is all but certain
        rivals = torch.cat([z[:y], z[y + 1 :]]).logsumexp(0)
        return torch.autograd.grad(sign * F.softplus(rivals - z[y], threshold=700), leaf)[0]

    return gradient


def iterated(x: Tensor, gradient: Callable[[Tensor, Tensor, int], Tensor]) -> Tensor:
    """Momentum steps of one sample up ``gradient(x_adv, momentum, step)``."""
    x_adv, g = x, torch.zeros_like(x)
    for t in range(1, STEPS + 1):
        new = gradient(x_adv, g, t)
        g = DECAY * g + new / new.abs().mean()
        x_adv = (x + (x_adv + ALPHA * g.sign() - x).clip(-EPS, EPS)).clip(0, 1)
    return x_adv


def nesterov(grad: Gradient) -> Callable[[Tensor, Tensor, int], Tensor]:
    return lambda x, g, t: grad(x + ALPHA * DECAY * g)


def scaled(grad: Gradient) -> Callable[[Tensor, Tensor, int], Tensor]:
    """The gradient with respect to x of the mean of J(x / 2^i): the chain rule divides once more."""

    def gradient(x: Tensor, g: Tensor, t: int) -> Tensor:
        ahead = x + ALPHA * DECAY * g
        return sum(grad(ahead / 2**i) / 2**i for i in range(3)) / 3

    return gradient


def smoothed(grad: Gradient) -> Callable[[Tensor, Tensor, int], Tensor]:
    """Convolved with a kernel of 3 x 3: entry by entry."""
    kernel = torch.tensor([[math.exp(-4.5 * (i * i + j * j)) for j in (-1, 0, 1)] for i in (-1, 0, 1)])
    kernel = kernel.double() / kernel.double().sum()

    def gradient(x: Tensor, g: Tensor, t: int) -> Tensor:
        raw = grad(x)
        padded, smooth = F.pad(raw, (1, 1, 1, 1)), torch.zeros_like(raw)
        for i in range(3):
            for j in range(3):
                smooth += kernel[i, j] * padded[..., i : i + raw.shape[2], j : j + raw.shape[3]]
        return smooth

    return gradient


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize(
    ("attack", "plain"),
    [
        (MIFGSM(*GIVEN), lambda grad: lambda x, g, t: grad(x)),
        (NIFGSM(*GIVEN), nesterov),
        (SINIFGSM(*GIVEN, scales=3), scaled),
        (SINIFGSM(*GIVEN, scales=1), nesterov),
        (TIFGSM(*GIVEN, probability=0.0, length=3), smoothed),
        (VMIFGSM(*GIVEN, neighbours=2, beta=0.0), lambda grad: lambda x, g, t: grad(x)),
        (DIFGSM(*GIVEN, probability=0.0), lambda grad: lambda x, g, t: grad(x)),
        (DIFGSM(*GIVEN, probability=1.0, resize=1.0), lambda grad: lambda x, g, t: grad(x)),
    ],
)
def test_steps_are_those_of_the_equations(attack: Attack, plain: Callable, targeted: bool) -> None:
    wavy, x, y = Wavy(48, 5), samples(24, *SHAPE, dtype=torch.float64), labels(24, 5)

    def model(x: Tensor) -> Tensor:
        return wavy(x) / 1000  # beyond the bounds, where a look-ahead may be, logits are so large that gradients are 0

    attack = dataclasses.replace(attack, targeted=targeted)
    found = attack(model, x, y)
    for i in range(24):
        grad = of_loss(model, int(y[i]), -1.0 if targeted else 1.0)
        torch.testing.assert_close(found[i : i + 1], iterated(x[i : i + 1], plain(grad)))


@pytest.mark.parametrize("kind", [VMIFGSM, VNIFGSM])
def test_variance_tuning_corrects_by_the_neighbours_of_the_step_before(kind: type[VMIFGSM]) -> None:
    model, x, y = Wavy(48, 5), samples(8, *SHAPE, dtype=torch.float64), labels(8, 5)
    attack = kind(*GIVEN, neighbours=3, beta=0.5, seed=5)
    found, far = attack.run(model, x, y), (-math.inf, math.inf)
    assert found.grads.tolist() == [4 * STEPS] * 8

    def plain(i: int) -> Callable[[Tensor, Tensor, int], Tensor]:
        grad, v = of_loss(model, int(y[i])), [torch.zeros_like(x[:1])]

        def gradient(x_adv: Tensor, g: Tensor, t: int) -> Tensor:
            own = grad(x_adv + ALPHA * DECAY * g if kind is VNIFGSM else x_adv)
            around = []
            for draw in range(3 * t, 3 * t + 3):
                unit = noise(i, draw)
                assert unit.abs().max() < 1
                around.append(grad(x_adv + 0.5 * EPS * unit))
            before, v[0] = v[0], sum(around) / 3 - own
            return own + before

        return gradient

    def noise(i: int, draw: int) -> Tensor:
        return ops.random_start(torch.zeros_like(x[:1]), torch.tensor([i]), 1.0, 5, draw, "uniform", *far)

    for i in range(8):
        torch.testing.assert_close(found.x_adv[i : i + 1], iterated(x[i : i + 1], plain(i)))
    assert not torch.equal(found.x_adv, MIFGSM(*GIVEN)(model, x, y))


class Seen(nn.Module):
    """A linear model of images of any size, which keeps those it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.images: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.images.append(x.detach().clone())
        weight = torch.linspace(-1, 1, x[0].numel(), dtype=x.dtype).sin().view(1, *x.shape[1:])
        score = (weight * x).flatten(1).sum(1)
        return torch.stack([score, -score], dim=1)


@pytest.mark.parametrize(("resize", "sizes", "canvas"), [(0.5, range(6, 12), 12), (1.5, range(12, 18), 18)])
def test_images_are_resized_and_padded(resize: float, sizes: range, canvas: int) -> None:
    """As PyTorch's own interpolation does it: which size and place it was is found by trying all."""
    model, x = Seen(), samples(3, 3, 12, 12, low=0.1, dtype=torch.float64)
    DIFGSM(1e-9, 1e-10, steps=40, resize=resize, probability=0.8, seed=1)(model, x, torch.tensor([0, 1, 0]))
    resized = {size: F.interpolate(x, size=(size, size), mode="bilinear", align_corners=False) for size in sizes}
    lengths, corners, kept = [], set(), 0
    for image in model.images[1:]:
        inside = (image > 0.05).all(dim=1)[0]
        down, across = inside.any(dim=1).nonzero().squeeze(1), inside.any(dim=0).nonzero().squeeze(1)
        top, left, size = int(down[0]), int(across[0]), len(down)
        if size == 12 == image.shape[-1]:
            kept += 1
            torch.testing.assert_close(image, x, atol=1e-6, rtol=0)
            continue
        assert image.shape[2:] == (canvas, canvas)
        lengths.append(size)
        corners.add((top, left))
        around = (left, canvas - size - left, top, canvas - size - top)
        torch.testing.assert_close(image, F.pad(resized[size], around), atol=1e-6, rtol=0)
    assert set(lengths) == {*sizes}
    assert len(corners) > 12
    assert 3 <= kept <= 14  # of 40, with a chance of 0.2


@pytest.mark.parametrize("resize", [0.5, 1.5])
def test_gradients_come_back_through_the_resizing(resize: float) -> None:
    """One step on a linear model moves every pixel along autograd's gradient of the image as it was resized."""
    model, x = Seen(), samples(2, 3, 12, 12, low=0.3, high=0.7, dtype=torch.float64)
    attack = DIFGSM(0.1, 0.1, steps=1, resize=resize, probability=1.0, seed=2)
    x_adv, y = attack(model, x, torch.tensor([0, 1])), (-1.0, 1.0)
    image, leaf = model.images[0], x.clone().requires_grad_()
    inside = (image > 0.05).all(dim=1)[0]
    down, across = inside.any(dim=1).nonzero().squeeze(1), inside.any(dim=0).nonzero().squeeze(1)
    top, left, size, canvas = int(down[0]), int(across[0]), len(down), image.shape[-1]
    moved = F.interpolate(leaf, size=(size, size), mode="bilinear", align_corners=False)
    moved = F.pad(moved, (left, canvas - size - left, top, canvas - size - top))
    torch.testing.assert_close(image, moved.detach())
    (grad,) = torch.autograd.grad((model(moved)[:, 0] * torch.tensor(y)).sum(), leaf)
    torch.testing.assert_close(x_adv, x + 0.1 * grad.sign())


@pytest.mark.parametrize("bounds", [(-1.0, 1.0), (2.0, 5.0)])
@pytest.mark.parametrize("attack", [DIFGSM(*GIVEN, resize=0.5), SINIFGSM(*GIVEN, scales=3)])
def test_dark_is_the_lowest_value(attack: Attack, bounds: tuple[float, float]) -> None:
    lo, hi = bounds
    model, x, y = Wavy(48, 5), samples(16, *SHAPE, dtype=torch.float64), labels(16, 5)
    attack = attack.seeded(3)
    there = attack.within(bounds)(lambda z: model((z - lo) / (hi - lo)), lo + (hi - lo) * x, y)
    torch.testing.assert_close((there - lo) / (hi - lo), attack(model, x, y))


def test_kernels() -> None:
    for kernel, expected in (
        ("uniform", [1.0] * 5),
        ("linear", [1.0, 2.0, 3.0, 2.0, 1.0]),
        ("gaussian", [math.exp(-2), math.exp(-0.5), 1.0, math.exp(-0.5), math.exp(-2)]),
    ):
        weights = torch.tensor(expected, dtype=torch.float64)
        torch.testing.assert_close(TIFGSM(kernel=kernel, length=5, reach=2.0).weights(), weights / weights.sum())
    assert TIFGSM(length=1).weights().tolist() == [1.0]


@pytest.mark.parametrize("kind", [k for k in FAMILY if k is not TIFGSM])
def test_the_corner_of_a_linear_model(kind: type[MIFGSM]) -> None:
    model, x, y = linear(48, 2), samples(32, *SHAPE), labels(32, 2)
    options = {"resize": 1.0} if kind is DIFGSM else {}
    torch.testing.assert_close(kind(0.1, 0.03, 7, **options)(model, x, y), corner(model, x, y, 0.1), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", [VMIFGSM, VNIFGSM, DIFGSM, TIFGSM, TPGD])
def test_noise_is_keyed_by_seed_and_sample(kind: type[Attack]) -> None:
    model, x, y, ids = Wavy(48, 5), samples(24, *SHAPE), labels(24, 5), torch.arange(24)
    options = {"length": 3, "resize": 0.5} if kind is TIFGSM else {"resize": 0.5} if kind is DIFGSM else {}
    attack = kind(0.2, 0.03, 5, seed=1, **options)
    whole = attack(model, x, y)
    parts = [attack(model, *part) for part in zip(x.split(7), y.split(7), ids.split(7), strict=True)]
    torch.testing.assert_close(torch.cat(parts), whole)
    assert not torch.equal(kind(0.2, 0.03, 5, seed=2, **options)(model, x, y), whole)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        *[(kind, {"decay": 1.5}, r"decay must be in \[0, 1\], got 1.5") for kind in FAMILY],
        (SINIFGSM, {"scales": 0}, "scales must be a whole number of at least 1, got 0"),
        (VMIFGSM, {"neighbours": 0}, "neighbours must be a whole number of at least 1, got 0"),
        (VNIFGSM, {"beta": -1.0}, r"beta must be in \[0, inf\), got -1"),
        (DIFGSM, {"resize": 0.0}, r"resize must be in \(0, 2\], got 0"),
        (DIFGSM, {"probability": 1.5}, r"probability must be in \[0, 1\], got 1.5"),
        (DIFGSM, {"random_start": 2}, "random_start must be a share of eps"),
        (TIFGSM, {"kernel": "box"}, "kernel must be one of gaussian, linear, uniform, got 'box'"),
        (TIFGSM, {"length": 4}, "length must be odd, got 4"),
        (TIFGSM, {"reach": -1.0}, r"reach must be in \[0, 100\), got -1"),
        (TPGD, {"targeted": True}, "loss kl knows no target"),
        (TPGD, {"random_start": 0.0}, "loss kl has no gradient at x"),
        (EOTPGD, {"samples": 0}, "samples must be a whole number of at least 1, got 0"),
    ],
)
def test_wrong_options(kind: type[Attack], options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"{kind.__name__}: {message}"):
        kind(**options)


@pytest.mark.parametrize("kind", [DIFGSM, TIFGSM])
def test_only_images_are_resized(kind: type[Attack]) -> None:
    with pytest.raises(
        ValueError, match=rf"{kind.__name__}: samples must be images \[B, C, H, W\], got shape \(4, 48\)"
    ):
        kind(0.1)(Wavy(48, 5), samples(4, 48))


# ------------------------------------------------------------------------------------------------------ TPGD and EOTPGD


def test_tpgd_follows_the_divergence() -> None:
    """Against steps of one sample, from the same noise; labels mean nothing to it."""
    model, x, y = Wavy(48, 5), samples(16, *SHAPE, dtype=torch.float64), labels(16, 5)
    attack = TPGD(EPS, ALPHA, STEPS, seed=4)
    found = attack(model, x, y)
    assert torch.equal(found, attack(model, x))
    begin = Noise(0.001, law="gaussian", seed=4)(model, x)
    for i in range(16):
        here, x_adv = x[i : i + 1], begin[i : i + 1]
        p = model(here).detach().softmax(1)
        for _ in range(STEPS):
            leaf = x_adv.clone().requires_grad_()
            divergence = (p * (p.log() - model(leaf).log_softmax(1))).sum()
            (grad,) = torch.autograd.grad(divergence, leaf)
            x_adv = (here + (x_adv + ALPHA * grad.sign() - here).clip(-EPS, EPS)).clip(0, 1)
        torch.testing.assert_close(found[i : i + 1], x_adv)


class Turning(nn.Module):
    """Linear models in turn, one a pass: random, but for the test's sake known."""

    def __init__(self, *models: nn.Module):
        super().__init__()
        self.models, self.passes = nn.ModuleList(models), 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        return self.models[(self.passes - 1) % len(self.models)](x)


def test_eotpgd_follows_the_mean_gradient() -> None:
    x, y = samples(16, *SHAPE, dtype=torch.float64), labels(16, 5)
    models = [Wavy(48, 5, seed=seed) for seed in range(3)]
    attack = EOTPGD(EPS, ALPHA, STEPS, random_start=0.0, samples=3)
    turning = Turning(*models)
    x_adv = attack(turning, x, y)
    assert turning.passes == 3 * STEPS
    assert attack.rows(Turning(*models), x, y).grads.tolist() == [3 * STEPS] * 16
    for i in range(16):
        here = there = x[i : i + 1]
        for _ in range(STEPS):
            grad = sum(of_loss(model, int(y[i]))(there) for model in models) / 3
            there = (here + (there + ALPHA * grad.sign() - here).clip(-EPS, EPS)).clip(0, 1)
        torch.testing.assert_close(x_adv[i : i + 1], there)
    model = BatchNormNet()
    image, label = samples(8, 3, 6, 6), labels(8, 5)
    torch.testing.assert_close(EOTPGD(0.1, seed=0)(model, image, label), PGD(0.1, seed=0)(model, image, label))
