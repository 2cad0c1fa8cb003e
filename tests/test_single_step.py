"""Methods that take one gradient, or none, to attack, against their formulas written a sample at a time."""

import dataclasses
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from toys import Wavy, labels, samples

from fastadv import Dataset, fit, load, ops
from fastadv.attacks import FGSM, PGD, AutoAttack
from fastadv.trainers import DKL, FGSMPGI, FGSMRS, LIET, NFGSM, Batch, FreeAT, GradAlign, Method, Standard
from fastadv.trainers._source import Shuffled
from fastadv.trainers.liet import jensen_shannon

pytestmark = pytest.mark.numerics

EPS = 0.1


@pytest.fixture
def batch(seed_zero) -> tuple[Wavy, Batch]:
    x, y = samples(6, 3, 4, 4, dtype=torch.float64), labels(6, 5)
    return Wavy(48, 5), Batch(x, y, torch.arange(6), torch.arange(6) + 1000)


def slope(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The gradient of one sample's loss."""
    x = x.clone().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(model(x[None]), y[None]), x)[0]


def noise(batch: Batch, radius: float, law: str = "uniform") -> Tensor:
    return ops.random_start(batch.x, batch.ids, torch.full((len(batch.x),), radius), 5, 0, law)


def test_fgsm_rs(batch):
    model, batch = batch
    found = FGSMRS(attack=PGD(EPS, 1.25 * EPS, 1, seed=5)).examples(model, batch)
    for x, y, start, x_adv in zip(batch.x, batch.y, noise(batch, EPS), found, strict=True):
        step = start + 1.25 * EPS * slope(model, start, y).sign()
        torch.testing.assert_close(x_adv, (x + (step - x).clamp(-EPS, EPS)).clamp(0, 1))


def test_the_step_of_fgsm_rs_is_longer_than_its_budget_by_a_quarter():
    attack = FGSMRS().attack
    assert attack.alpha == pytest.approx(1.25 * attack.eps)


@pytest.mark.parametrize("k", [0.0, 1.0, 2.0])
def test_n_fgsm(k, batch):
    model, batch = batch
    found = NFGSM(attack=PGD(EPS, 0.8 * EPS, 1, seed=5), noise=k).examples(model, batch)
    starts = noise(batch, k * EPS) if k else batch.x
    for y, start, x_adv in zip(batch.y, starts, found, strict=True):
        torch.testing.assert_close(x_adv, (start + 0.8 * EPS * slope(model, start, y).sign()).clamp(0, 1))
    assert ((found - batch.x).abs().amax() > EPS) == (k > 0)


def test_n_fgsm_has_no_ball_beyond_the_range(batch):
    """With three times its budget, half of the range, an attack would be refused."""
    model, batch = batch
    found = NFGSM(attack=PGD(0.5, 0.5, 1, seed=5)).examples(model, batch)
    assert 0 <= found.min() <= found.max() <= 1


@pytest.mark.parametrize("attack", [PGD(EPS, EPS, 2), PGD(EPS, EPS, 1, norm="l2")])
def test_n_fgsm_takes_one_step_in_linf(attack):
    with pytest.raises(ValueError, match="NFGSM: the attack must be one step in linf, got PGD"):
        NFGSM(attack=attack)


def test_grad_align(batch):
    """In value, and in the gradient of the parameters, which is one of second derivatives."""
    model, batch = batch
    method = GradAlign(attack=FGSM(EPS, seed=5), align=0.3)
    loss = method.loss(model, batch)
    expected = 0.0
    for x, y, beside in zip(batch.x, batch.y, noise(batch, EPS), strict=True):
        x_adv = (x + EPS * slope(model, x, y).sign()).clamp(0, 1)
        both = []
        for at in (x, beside):
            at = at.clone().requires_grad_()
            error = F.cross_entropy(model(at[None]), y[None])
            both.append(torch.autograd.grad(error, at, create_graph=True)[0].flatten())
        cosine = both[0] @ both[1] / (both[0].norm() * both[1].norm())
        expected = expected + (F.cross_entropy(model(x_adv[None]), y[None]) + 0.3 * (1 - cosine)) / 6
    torch.testing.assert_close(loss, expected)
    parameters = list(model.parameters())
    torch.testing.assert_close(torch.autograd.grad(loss, parameters), torch.autograd.grad(expected, parameters))
    assert float(batch.stats["alignment"]) < 0.999


def test_gradients_of_a_linear_network_of_two_classes_are_aligned(seed_zero):
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 2)).double()
    batch = Batch(samples(6, 3, 4, 4, dtype=torch.float64), labels(6, 2), torch.arange(6))
    method = GradAlign(attack=FGSM(EPS, seed=5))
    torch.testing.assert_close(method.loss(model, batch), dataclasses.replace(method, align=0.0).loss(model, batch))
    assert float(batch.stats["alignment"]) == pytest.approx(1)


@pytest.mark.parametrize("scale", [1.0, 50.0])
def test_sure_networks_are_aligned_as_well(scale, seed_zero):
    """Their gradients are of 1e-9 and less, and point the same way still."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 2)).double()  # in float32, the loss's own rounding turns them
    model[1].weight.data *= scale
    x = samples(50, 3, 4, 4, dtype=torch.float64)
    batch = Batch(x, model(x).argmax(1), torch.arange(50))
    GradAlign(attack=FGSM(0.01, seed=5)).loss(model, batch)
    assert batch.stats["alignment"] == pytest.approx(1, abs=0.02)


def test_samples_without_a_gradient_are_aligned(batch):
    model, batch = batch
    model.forward = lambda x: torch.full((len(x), 5), 0.0, dtype=x.dtype) + 0 * x.sum()
    GradAlign(attack=FGSM(EPS, seed=5)).loss(model, batch)
    assert float(batch.stats["alignment"]) == 1


def test_free_training(seed_zero):
    """Two epochs of two batches, the second smaller, three times each: by hand, the same weights."""
    x, y = samples(7, 3, 4, 4), labels(7, 5)
    model, twin = Wavy(48, 5), Wavy(48, 5)
    order: list[Tensor] = []

    class Seen(FreeAT):
        def examples(self, model: nn.Module, batch: Batch) -> Tensor:
            order.append(batch.index)
            return super().examples(model, batch)

    data = Dataset(x, y, tuple("01234"))
    how = {"epochs": 2, "batch_size": 4, "optimizer": "sgd", "lr": 0.1, "memory_format": "preserve"}
    history = fit(model, Seen(attack=FGSM(EPS), replays=3), data, **how)
    assert [len(index) for index in order] == [4, 4, 4, 3, 3, 3] * 2
    assert "adversarial_accuracy" in history[0]

    descent = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9)
    delta = torch.zeros(4, 3, 4, 4)
    for index in order:
        x_adv = (x[index] + delta[: len(index)]).clamp(0, 1).requires_grad_()
        descent.zero_grad()
        F.cross_entropy(twin(x_adv), y[index]).backward()
        descent.step()
        delta[: len(index)] = (delta[: len(index)] + EPS * x_adv.grad.sign()).clamp(-EPS, EPS)
    for found, expected in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(found, expected)


def test_prior_guided_training(batch):
    """Three epochs, of which the third begins anew."""
    model, batch = batch
    method = FGSMPGI(attack=FGSM(EPS, seed=5), label_smoothing=0.2, lam=3.0, decay=0.5, reset=2)
    method.prior = torch.zeros(6, 3, 4, 4, dtype=torch.float64)
    method.momentum = torch.zeros_like(method.prior)
    prior, momentum = method.prior.clone(), method.momentum.clone()
    for epoch in range(3):
        batch.epoch = epoch
        loss = method.loss(model, batch)
        if epoch % 2 == 0:
            prior, momentum = noise(batch, EPS, "sign") - batch.x, torch.zeros_like(prior)
        expected = 0.0
        for i, (x, y) in enumerate(zip(batch.x, batch.y, strict=True)):
            start = (x + prior[i]).clamp(0, 1).requires_grad_()
            target = torch.full((5,), 0.2 / 5, dtype=torch.float64)
            target[y] += 0.8
            before = model(start[None])[0]
            grad = torch.autograd.grad(-(target * before.log_softmax(0)).sum(), start, retain_graph=True)[0]
            momentum[i] = 0.5 * momentum[i] + grad / grad.abs().mean()
            x_adv, ahead = (
                (x + (start.detach() + EPS * way.sign() - x).clamp(-EPS, EPS)).clamp(0, 1)
                for way in (grad, momentum[i])
            )
            prior[i] = ahead - x
            after = model(x_adv[None])[0]
            error = -(target * after.log_softmax(0)).sum() + 3 * (after - before).square().mean()
            expected = expected + error / 6
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(method.prior, prior)
        torch.testing.assert_close(method.momentum, momentum)
        parameters = list(model.parameters())
        torch.testing.assert_close(torch.autograd.grad(loss, parameters), torch.autograd.grad(expected, parameters))


def test_priors_are_kept_for_every_sample_in_half_precision(seed_zero):
    data = Dataset(samples(7, 3, 4, 4), labels(7, 5), tuple("01234"))
    method = FGSMPGI(attack=FGSM(EPS))
    fit(Wavy(48, 5), method, data, epochs=2, batch_size=4)
    assert method.prior.shape == method.momentum.shape == (7, 3, 4, 4)
    assert method.prior.dtype == torch.float16
    assert method.prior.abs().amax((1, 2, 3)).min() > 0.9 * EPS


def parts(like: Tensor, ids: Tensor, stream: int) -> Tensor:
    """Numbers in (0, 1) of the shape of `like`, by sample."""
    return ops.random_start(torch.full_like(like, 0.5), ids, torch.full((len(like),), 0.5), 5, stream)


def surprise(logits: Tensor, y: int, part: Tensor, smoothing: float) -> Tensor:
    """The cross-entropy of `logits` [K] with a label of which the other classes share `smoothing` as in `part` [K]."""
    others = [k for k in range(len(logits)) if k != y]
    whole = sum(part[k] for k in others)
    logs = logits.log_softmax(0)
    return -(1 - smoothing) * logs[y] - smoothing * sum(part[k] / whole * logs[k] for k in others)


class Sloping(Wavy):
    """`Wavy`, whose slope is 0 at grey samples, of darker ones."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(0.9 * x)


@pytest.mark.parametrize("radius", [1.0, 2.0])
def test_label_information_elimination(radius, batch):
    """Three steps, of which the first and the third make marks."""
    model, batch = Sloping(48, 5), batch[1]
    method = LIET(attack=FGSM(EPS, seed=5), label_smoothing=0.4, lam=8.0, every=2, least=0.2, most=0.6, noise=radius)
    method.epochs, batch.epoch, sides = 4, 2, set()
    classes = torch.arange(5)
    for batch.step in range(3):
        number = (2 << 32) + batch.step
        if batch.step != 1:
            part, marks = parts(torch.zeros(5, 5), number * 5 + classes, 5), []
            for k in range(5):
                grey = torch.full((3, 4, 4), 0.5, dtype=torch.float64, requires_grad=True)
                (grad,) = torch.autograd.grad(surprise(model(grey[None])[0], k, part[k], 0.4), grey)
                marks.append(EPS * grad.sign())
        loss = method.loss(model, batch)
        torch.testing.assert_close(method.marks, torch.stack(marks))
        assert method.marks.abs().min() > 0.9 * EPS
        share, side = parts(torch.zeros(1, 2), torch.tensor([number]), 4)[0]
        sides.add(sign := 1 if side >= 0.5 else -1)
        expected = 0.0
        drawn = parts(batch.x, batch.ids, 0), parts(batch.x, batch.ids, 1)
        smooth = (parts(torch.zeros(6, 5), batch.ids, stream) for stream in (2, 3))
        for x, y, noise, hidden, first, second in zip(batch.x, batch.y, *drawn, *smooth, strict=True):
            delta = torch.where(hidden < 0.2 + 0.4 * share, radius * EPS * (2 * noise - 1), marks[y])
            start = (x + sign * delta).clamp(0, 1).requires_grad_()
            before = model(start[None])[0]
            (grad,) = torch.autograd.grad(surprise(before, y, first, 0.4), start, retain_graph=True)
            x_adv = start.detach() + EPS * grad.sign()
            x_adv = (x + (x_adv - x).clamp(-EPS, EPS) if radius == 1 else x_adv).clamp(0, 1)
            after = model(x_adv[None])[0]
            p, q = before.softmax(0), after.softmax(0)
            middle = (p + q) / 2
            divergence = sum((each * (each / middle).log()).sum() for each in (p, q)) / 2
            expected = expected + (surprise(after, y, second, 0.4) + 6 * divergence) / 6  # 8 in the last of 4 epochs
        torch.testing.assert_close(loss, expected)
        parameters = list(model.parameters())
        torch.testing.assert_close(torch.autograd.grad(loss, parameters), torch.autograd.grad(expected, parameters))
    assert sides == {1, -1}


def test_marks_are_kept_and_made_anew_with_each_run(seed_zero):
    data = Dataset(samples(7, 3, 4, 4), labels(7, 5), tuple("01234"))
    method = LIET(attack=FGSM(EPS))
    fit(Sloping(48, 5), method, data, epochs=2, batch_size=4)
    assert method.marks.shape == (5, 3, 4, 4)
    assert method.marks.abs().unique().tolist() == pytest.approx([EPS])
    method.begin(Shuffled(data, 4), 0, 3)
    assert method.marks is None
    assert method.epochs == 3


@pytest.mark.parametrize(("least", "most"), [(0.6, 0.5), (-0.1, 0.5), (0.1, 1.5)])
def test_shares_of_noise_are_shares(least, most):
    with pytest.raises(ValueError, match="least and most must be shares"):
        LIET(least=least, most=most)


def test_the_divergence_of_jensen_and_shannon():
    """Symmetric, 0 of equal predictions, log 2 of those that share no class."""
    logits, others = samples(4, 5), samples(4, 5, seed=1)
    torch.testing.assert_close(jensen_shannon(logits, others), jensen_shannon(others, logits))
    assert jensen_shannon(logits, logits + 3).abs().max() < 1e-6
    apart = torch.eye(2) * 1e4
    torch.testing.assert_close(jensen_shannon(apart, apart.flip(0)), torch.full((2,), math.log(2)))


def robust_accuracy(method: Method) -> float:
    """Under AutoAttack on 40 test images, after 8 passes over 512 of four kinds of clothes, of 7 x 7 pixels."""
    half = {}
    for split, number in (("train", 512), ("test", 40)):
        data, kinds = load("fashion-mnist-mini", split), torch.tensor([1, 7, 8, 9])
        own = torch.isin(data.y, kinds)
        x = F.avg_pool2d(data.x[own][:number], 4).contiguous()
        half[split] = x, torch.searchsorted(kinds, data.y[own][:number])
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(49, 64), nn.ReLU(), nn.Linear(64, 4))
    fit(model, method, half["train"], epochs=8 // method.replays, batch_size=64, lr=0.01, memory_format="preserve")
    return float((~AutoAttack(0.15, version="fast", seed=0).run(model, *half["test"]).success).float().mean())


@pytest.fixture(scope="module")
def undefended() -> float:
    return robust_accuracy(Standard())


@pytest.mark.thorough
@pytest.mark.parametrize("kind", [FGSMRS, NFGSM, GradAlign, FGSMPGI, LIET, partial(FreeAT, replays=4), DKL])
def test_new_methods_beat_normal_training_under_autoattack(kind, undefended):
    assert robust_accuracy(kind().at(0.15)) > undefended + 0.3
