"""fastadv.trainers: every method against its formula, and the loop around them."""

import copy
import dataclasses
import functools
import itertools
import math
import re
import typing
from dataclasses import dataclass, field

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from toys import BatchNormNet, InDouble, Wavy, labels, linear, partly_frozen, samples, traces

from fastadv.attacks import ANPGD, DDN, DRA, EPGD, FAB, FGSM, PGD, DeepFool, DynamicPGD, FriendlyPGD, OneStepTargeted
from fastadv.data import Dataset, load
from fastadv.evaluation import evaluate
from fastadv.models import CosineHead, LeNet5, TwoCirclesNet, with_cosine_head
from fastadv.trainers import (
    ALP,
    CAT,
    DAT,
    DKL,
    FGSMPGI,
    GAIRAT,
    LIET,
    MAIL,
    MAILTRADES,
    MART,
    METHODS,
    MMA,
    SMD,
    SPAT,
    TRADES,
    AdversarialTraining,
    AttackMethod,
    Batch,
    Bilateral,
    Blind,
    DeepFoolTraining,
    DRAFineTuning,
    FGSMTraining,
    FreeAT,
    Friendly,
    FriendlyMART,
    FriendlyTRADES,
    GradAlign,
    Madry,
    Method,
    PairedTraining,
    PGDTraining,
    Standard,
    _method,
    _parallel,
    fit,
)
from fastadv.trainers._adversarial import both

pytestmark = [pytest.mark.numerics, pytest.mark.usefixtures("seed_zero")]

ADVERSARIAL = {name: method for name, method in METHODS.items() if method is not Standard}
every = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
adversarial = pytest.mark.parametrize("method", ADVERSARIAL.values(), ids=ADVERSARIAL)


def lenet() -> LeNet5:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LeNet5()


@pytest.fixture(scope="module")
def images() -> Dataset:
    return load("fashion-mnist-mini", "train").take(24)


def a_batch(n: int = 16, classes: int = 5, seed: int = 0) -> tuple[Wavy, Batch]:
    """In double precision; half of the labels are what the model predicts."""
    model, x, y = Wavy(48, classes), samples(n, 3, 4, 4, dtype=torch.float64), labels(n, classes)
    y[::2] = model(x[::2]).argmax(1)
    return model, Batch(x, y, torch.arange(n), torch.arange(n) + 1000, epoch=0)


def smoothed(logits: Tensor, y: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy with the label mixed with the uniform distribution, the true class included."""
    target = (1 - smoothing) * F.one_hot(y, logits.shape[1]) + smoothing / logits.shape[1]
    return -(target * logits.log_softmax(1)).sum(1).mean()


def gradients(model: nn.Module, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters())))


def assert_same_loss(model: nn.Module, loss: Tensor, expected: Tensor) -> None:
    """In value and in the gradient of every parameter."""
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradients(model, loss), gradients(model, expected))


# ------------------------------------------------------------------------------------------------------ the formulas


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_standard_loss(smoothing):
    model, batch = a_batch()
    loss = Standard(label_smoothing=smoothing).loss(model, batch)
    assert_same_loss(model, loss, smoothed(model(batch.x), batch.y, smoothing))
    torch.testing.assert_close(batch.stats["clean_accuracy"], (model(batch.x).argmax(1) == batch.y).float().mean())


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(
    ("method", "attack"),
    [
        (FGSMTraining(), FGSM(0.1)),
        (FGSMTraining(attack=FGSM(0.03)), FGSM(0.03)),
        (PGDTraining(), PGD(0.1, alpha=0.01, steps=20, random_start=0.5)),
        (PGDTraining(attack=PGD(0.2, 0.1, 3, loss="margin")), PGD(0.2, 0.1, 3, loss="margin")),
    ],
)
def test_adversarial_loss(method, attack, smoothing):
    model, batch = a_batch()
    x_adv = attack(model, batch.x, batch.y, batch.ids)
    clean, wrong = model(batch.x), model(x_adv)
    expected = smoothed(clean, batch.y, smoothing) + smoothed(wrong, batch.y, smoothing)
    loss = dataclasses.replace(method, label_smoothing=smoothing).loss(model, batch)
    assert_same_loss(model, loss, expected)


@adversarial
def test_accuracies_reported(method):
    model, batch = a_batch()
    if method is SPAT:
        model = linear(48, 5, torch.float64)
    method = started(method(), batch)
    method.loss(model, batch)
    x_adv = method.examples(model, batch)
    seen = {"clean_accuracy": batch.x, "adversarial_accuracy": x_adv}
    if isinstance(method, Madry):
        del seen["clean_accuracy"]  # no forward pass of the clean samples
    if isinstance(method, SMD | MMA):
        del seen["adversarial_accuracy"]  # its samples are the last ones that are classified correctly
    for name, x in seen.items():
        torch.testing.assert_close(batch.stats[name], (model(x).argmax(1) == batch.y).float().mean())


def test_deepfool_training_attacks_the_prediction_and_learns_the_label():
    model, batch = a_batch()
    method = DeepFoolTraining()
    x_adv = DeepFool(steps=10, overshoot=0.02)(model, batch.x)
    assert torch.equal(method.examples(model, batch), x_adv)
    wrong = model(batch.x).argmax(1) != batch.y
    assert wrong.any()
    assert (x_adv != batch.x).flatten(1).any(1).all(), "misclassified samples are attacked as well"
    expected = smoothed(model(batch.x), batch.y, 0.1) + smoothed(model(x_adv), batch.y, 0.1)
    assert_same_loss(model, method.loss(model, batch), expected)


def rms(delta: Tensor) -> Tensor:
    return delta.flatten(1).square().mean(1).sqrt()


def algorithm_1(model: nn.Module, x: Tensor, y: Tensor, rho: float, smoothing: float) -> Tensor:
    """Blind adversarial training as the paper prints it."""
    delta = DeepFool(steps=10, overshoot=0.02)(model, x) - x
    norms = rms(delta)
    cut = norms.mean() / torch.maximum(norms, norms.mean())
    x_cos = x + rho * cut.view(-1, 1, 1, 1) * delta
    return smoothed(model(x), y, smoothing) + smoothed(model(x_cos), y, smoothing)


@pytest.mark.parametrize(("rho", "smoothing"), [(0.9, 0.1), (1.0, 0.0), (0.5, 0.2)])
def test_blind_is_algorithm_1(rho, smoothing):
    model, batch = a_batch()
    loss = Blind(rho=rho, label_smoothing=smoothing).loss(model, batch)
    assert_same_loss(model, loss, algorithm_1(model, batch.x, batch.y, rho, smoothing))
    torch.testing.assert_close(batch.stats["mean_norm"], rms(DeepFool(steps=10)(model, batch.x) - batch.x).mean())


def test_blind_as_in_the_paper_by_default():
    assert Blind() == Blind(rho=0.9, cutoff=None, label_smoothing=0.1, attack=DeepFool(steps=10, overshoot=0.02))
    model, batch = a_batch()
    assert_same_loss(model, Blind().loss(model, batch), algorithm_1(model, batch.x, batch.y, 0.9, 0.1))


@pytest.mark.parametrize("method", [Blind(rho=0), Blind(cutoff=0), Blind(rho=0, cutoff=0)])
def test_blind_with_nothing_left_is_twice_the_clean_loss(method):
    model, batch = a_batch()
    assert torch.equal(method.examples(model, batch), batch.x)
    clean = Standard().loss(model, batch)
    loss = method.loss(model, batch)
    assert loss == 2 * clean
    torch.testing.assert_close(gradients(model, loss), [2 * grad for grad in gradients(model, clean)])


def test_blind_without_cut_and_scale_is_deepfool_training():
    model, batch = a_batch()
    blind, deepfool = Blind(rho=1, cutoff=math.inf), DeepFoolTraining()
    assert torch.equal(blind.examples(model, batch), deepfool.examples(model, batch))
    losses = blind.loss(model, batch), deepfool.loss(model, batch)
    assert losses[0] == losses[1]
    assert all(torch.equal(*pair) for pair in zip(*(gradients(model, loss) for loss in losses), strict=True))


@pytest.mark.parametrize("eps", [None, 0.003, 1.0])
def test_the_cut_shortens_what_is_too_long(eps):
    model, batch = a_batch()
    before = DeepFool(steps=10)(model, batch.x) - batch.x
    after = Blind(rho=1, cutoff=eps).examples(model, batch) - batch.x
    budget = rms(before).mean() if eps is None else torch.tensor(eps, dtype=torch.float64)
    assert rms(after).mean() <= budget
    torch.testing.assert_close(rms(after).max(), torch.minimum(rms(before).max(), budget))
    torch.testing.assert_close(rms(after), rms(before).clamp(max=budget))
    torch.testing.assert_close(F.cosine_similarity(after.flatten(1), before.flatten(1)), torch.ones(16).double())
    scaled = Blind(rho=0.5, cutoff=eps).examples(model, batch) - batch.x
    torch.testing.assert_close(scaled, 0.5 * after)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Blind(rho=1.1), r"rho must be in \[0, 1\], got 1.1"),
        (lambda: Blind(rho=-0.1), "rho must be in"),
        (lambda: Blind(rho=math.nan), "rho must be in"),
        (lambda: Blind(cutoff=-1), "cutoff must not be negative, got -1"),
        (lambda: Blind(cutoff=math.nan), "cutoff must not be negative"),
        *[(lambda kind=kind: kind(label_smoothing=1.0), "label_smoothing must be in") for kind in METHODS.values()],
        *[(lambda kind=kind: kind(label_smoothing=-0.1), "label_smoothing must be in") for kind in METHODS.values()],
        (lambda: Blind(norm="linf"), "norm must be one of rms, l2, rel, got 'linf'"),
        (lambda: Bilateral(labels="soft"), "labels must be one of adversarial, smooth, hard, got 'soft'"),
        (lambda: Bilateral(variant="max"), "variant must be one of main, sup, step, got 'max'"),
        (lambda: Bilateral(alpha=-1.0), "alpha must be finite and not negative, got -1"),
        (lambda: Bilateral(variant="step", top_k=9), "set top_k to 0 or variant to sup, got 9"),
        (lambda: Bilateral(beta=0.5), "beta must be at least 1, got 0.5"),
        (lambda: Bilateral(gamma=0), "gamma must be positive, got 0"),
        (lambda: Bilateral(top_k=-1), "top_k must be a number of classes, or 0 for all, got -1"),
        *[
            (lambda kind=kind: kind(beta=-1.0), "beta must be finite and not negative, got -1")
            for kind in (TRADES, DKL, MART, ALP, FriendlyTRADES, FriendlyMART, MAILTRADES)
        ],
        *[
            (lambda kind=kind, rises=rises: kind(tau_schedule=rises), "tau_schedule must be a list of epochs from 1 on")
            for kind in (Friendly, FriendlyTRADES, FriendlyMART)
            for rises in ([3, 2], 50)
        ],
        (lambda: DKL(alpha=-1.0), "alpha must be finite and not negative, got -1"),
        (lambda: DKL(temperature=0), "temperature must be positive, got 0"),
        (lambda: DAT(fosc=math.nan), "fosc must be finite and not negative, got nan"),
        *[
            (lambda name=name: SPAT(**{name: -1.0}), f"{name} must be finite and not negative, got -1")
            for name in ("alpha", "beta", "lam")
        ],
        (lambda: DRAFineTuning(last_eps=-1.0), "last_eps must be finite and not negative, got -1"),
        (lambda: DRAFineTuning(attack_epochs=0), "attack_epochs must be at least 1, got 0"),
        (lambda: DRAFineTuning(lam_lr=-1.0), "lam_lr must be finite and not negative, got -1"),
        (lambda: DRAFineTuning(lam_lr=0.1, beta=0.0), "give a positive beta, or lam_lr 0"),
        (
            lambda: DRAFineTuning(attack=DeepFool()),
            "the attack must have a budget, .*; got DeepFool",
        ),
        (lambda: MMA(nearest=0.1), "nearest must be between 0 and the hinge 0.047"),
        (lambda: SMD(rho=1.5), r"rho must be in \[0, 1\], got 1.5"),
        (lambda: SMD(misclassified="drop"), "misclassified must be one of refine, reset, keep, got 'drop'"),
        (lambda: GAIRAT(weighting="linear"), "weighting must be one of tanh, sigmoid, discrete, got 'linear'"),
        (
            lambda: GAIRAT(attack=FriendlyPGD(tau=3)),
            "the attack must not stop: it must be FriendlyPGD with a tau of its 10 steps",
        ),
        *[
            (lambda kind=kind: kind(burn_in=-1), "burn_in must be a whole number of at least 0, got -1")
            for kind in (GAIRAT, MAIL, MAILTRADES)
        ],
        *[
            (lambda kind=kind: kind(factor=-3.0), "factor must be finite and not negative, got -3")
            for kind in (MAIL, MAILTRADES)
        ],
        (lambda: DAT(fosc_epochs=0), "fosc_epochs must be at least 1, got 0"),
        (lambda: CAT(accuracy=1.0), r"accuracy must be in \[0, 1\), got 1.0"),
        (lambda: CAT(attack=DeepFool()), r"CAT: the attack must have eps, alpha and steps, .* has no eps"),
        (lambda: CAT(attack=EPGD()), r"CAT: the attack must have eps, alpha and steps, .* has no alpha"),
    ],
)
def test_wrong_options(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@adversarial
def test_attacks_that_fit_no_method(method):
    with pytest.raises(TypeError, match=f"{method.__name__}: attack must be a .*, got Standard"):
        method(attack=Standard())
    if method in (Friendly, FriendlyTRADES, FriendlyMART, DAT, GAIRAT, MMA, SMD):  # by type
        with pytest.raises(TypeError, match=f"{method.__name__}: attack must be a .*, got PGD"):
            method(attack=PGD())
        return
    with pytest.raises(ValueError, match=f"{method.__name__}: the attack must lead away from the labels"):
        method(attack=FGSM(targeted=True) if typing.get_type_hints(method)["attack"] is FGSM else PGD(targeted=True))
    with pytest.raises(ValueError, match="the attack's eps must be one number for all samples, got 16"):
        method(
            attack=dataclasses.replace(method().attack, eps=torch.ones(16))
            if method().attack.has_budget
            else PGD(torch.ones(16))
        )


@pytest.mark.parametrize(("tau", "got"), [(-1, "-1"), (0.5, "0.5")])
def test_a_schedule_is_tried_before_training(tau, got, images):
    method = Friendly(attack=FriendlyPGD(**EPS), tau_schedule=lambda epoch: 0 if epoch < 3 else tau)
    with pytest.raises(ValueError, match=f"tau must be a whole number of at least 0, got {got}"):
        fit(lenet(), method, images, epochs=3, on_step=lambda *_: pytest.fail("trained"))


@pytest.mark.parametrize("norm", ["rms", "l2", "rel"])
@pytest.mark.parametrize("eps", [None, 0.02])
def test_blind_cuts_in_the_norm_asked_for(norm, eps):
    model, batch = a_batch()
    x = batch.x
    delta = DeepFool(steps=10)(model, x) - x
    per_pixel = {"rms": 48**-0.5, "l2": 1.0, "rel": 1 / x.flatten(1).norm(dim=1)}[norm]
    sizes = delta.flatten(1).norm(dim=1) * per_pixel
    cut = (sizes.mean() if eps is None else eps) / sizes
    expected = x + 0.9 * cut.clamp(max=1).view(-1, 1, 1, 1) * delta
    torch.testing.assert_close(Blind(norm=norm, cutoff=eps).examples(model, batch), expected)
    torch.testing.assert_close(batch.stats["mean_norm"], sizes.mean())


def test_blind_is_the_same_in_rms_and_l2():
    model, batch = a_batch()
    torch.testing.assert_close(Blind(norm="rms").examples(model, batch), Blind(norm="l2").examples(model, batch))


def test_blind_takes_other_attacks():
    model, batch = a_batch()
    for attack in (FAB(steps=3), DDN(steps=20, gamma=0.2)):
        method = Blind(rho=1, cutoff=math.inf, attack=attack)
        assert torch.equal(method.examples(model, batch), attack(model, batch.x))
        assert Blind(attack=attack).loss(model, batch).isfinite()


def _examples_of_half(rank: int, address: str, folder: str) -> None:
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    model, batch = a_batch()
    mine = slice(0, 6) if rank == 0 else slice(6, None)
    half = Batch(batch.x[mine], batch.y[mine], batch.index[mine], batch.ids[mine], epoch=0)
    torch.save(Blind().examples(model, half), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.thorough
def test_blind_cuts_at_the_mean_over_all_processes(tmp_path):
    """Two processes, with batches of 6 and 10, make the samples that one makes of all 16."""
    address = f"file://{tmp_path}/meeting"
    torch.multiprocessing.spawn(_examples_of_half, (address, str(tmp_path)), nprocs=2)
    model, batch = a_batch()
    together = torch.cat([torch.load(tmp_path / f"{rank}.pt") for rank in range(2)])
    torch.testing.assert_close(together, Blind().examples(model, batch))


def bilateral_labels(logits: Tensor, y: Tensor, beta: float, gamma: float) -> Tensor:
    """Equations 13, 14 and 18, a sample at a time."""
    rows = []
    for z, c in zip(logits, y.tolist(), strict=True):
        n, v = len(z), (-z.log_softmax(0)).tolist()
        others = [v[k] for k in range(n) if k != c]
        v_mc, v_ll = min(others), max(others)
        spread = sum(others) / (n - 1) - v_mc + gamma
        eps_y = 1 / (1 + beta / (n - 1) * (v_ll - v_mc + gamma) / spread)
        rows.append([eps_y / (n - 1) * (v[k] - v_mc + gamma) / spread if k != c else 1 - eps_y for k in range(n)])
    return torch.tensor(rows, dtype=logits.dtype)


def test_bilateral_is_equation_10():
    """R-MC-LA: the one-step targeted sample under the adversarial label of the natural one."""
    model, batch = a_batch()
    x_adv = OneStepTargeted(eps=8 / 255)(model, batch.x, batch.y, batch.ids)
    y_adv = bilateral_labels(model(batch.x).detach(), batch.y, 9, 0.01)
    expected = -(y_adv * model(x_adv).log_softmax(1)).sum(1).mean()
    assert_same_loss(model, Bilateral().loss(model, batch), expected)
    own = y_adv.gather(1, batch.y.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(batch.stats["label_budget"], 1 - own.mean())
    torch.testing.assert_close(own, 9 * y_adv.scatter(1, batch.y.unsqueeze(1), 0).amax(1))  # 16, with equality
    assert ((1 - own > 1 / 10) & (1 - own <= 1 / (1 + 9 / 4))).all()  # 21


@pytest.mark.parametrize("labels", ["hard", "smooth"])
@pytest.mark.parametrize("attack", [PGD(8 / 255, 2 / 255, 7), OneStepTargeted(8 / 255, towards="least_likely")])
def test_bilateral_without_label_adversary(labels, attack):
    """Madry-LS, R-LL and their like; for 5 classes and beta 9, equation 19 gives eps_y = 4/13."""
    model, batch = a_batch()
    logits = model(attack(model, batch.x, batch.y, batch.ids))
    share = 0 if labels == "hard" else 4 / 13
    y_adv = F.one_hot(batch.y, 5) * (1 - share - share / 4) + share / 4
    expected = -(y_adv * logits.log_softmax(1)).sum(1).mean()
    assert_same_loss(model, Bilateral(labels=labels, attack=attack).loss(model, batch), expected)


def nearest_allowed(point: list[float], low: list[float], high: list[float]) -> list[float]:
    """By trying every way in which shares are at a bound or free."""
    best, least = [], math.inf
    for ends in itertools.product(("low", "high", "free"), repeat=len(point)):
        free = [k for k, end in enumerate(ends) if end == "free"]
        label = [low[k] if end == "low" else high[k] for k, end in enumerate(ends)]
        rest = 1 - sum(label[k] for k in range(len(point)) if k not in free)
        for k in free:
            label[k] = point[k] + (rest - sum(point[j] for j in free)) / len(free)
        distance = sum((a - b) ** 2 for a, b in zip(label, point, strict=True))
        inside = all(a - 1e-12 <= b <= c + 1e-12 for a, b, c in zip(low, label, high, strict=True))
        if inside and abs(sum(label) - 1) < 1e-9 and distance < least:
            best, least = label, distance
    return best


@pytest.mark.parametrize("alpha", [0.0, 0.02, 0.1, 5.0])
def test_bilateral_labels_of_equation_12(alpha):
    """A step along -log p, then the nearest label in S_y (9), a sample at a time."""
    model, batch = a_batch(n=8)
    rows, eps_y = [], 1 / (1 + 9 / 4)
    for z, c in zip(model(batch.x).detach(), batch.y.tolist(), strict=True):
        point = [(k == c) + alpha * v for k, v in enumerate((-z.log_softmax(0)).tolist())]
        rows.append(nearest_allowed(point, [max((k == c) - eps_y, 0.0) for k in range(5)],
                                    [min((k == c) + eps_y, 1.0) for k in range(5)]))  # fmt: skip
    y_adv = torch.tensor(rows, dtype=torch.float64)
    method = Bilateral(variant="step", alpha=alpha)
    logits = model(OneStepTargeted(eps=8 / 255)(model, batch.x, batch.y, batch.ids))
    assert_same_loss(model, method.loss(model, batch), -(y_adv * logits.log_softmax(1)).sum(1).mean())
    kept = y_adv.gather(1, batch.y.unsqueeze(1))
    assert (kept > 1 - eps_y - 1e-9).all()
    assert bool((kept < 1 - eps_y + 1e-9).any()) == (alpha >= 0.1)  # the bound is met by long steps only
    torch.testing.assert_close(method.soft_labels(model(batch.x), batch.y), y_adv)


def test_bilateral_labels_of_equation_12_are_probabilities_in_single_precision():
    logits, y = 20 * torch.randn(64, 100), labels(64, 100)
    y_adv = Bilateral(variant="step", alpha=3.0, beta=11).soft_labels(logits, y)
    assert y_adv.dtype == torch.float32
    assert y_adv.min() >= 0
    torch.testing.assert_close(y_adv.sum(1), torch.ones(64))
    smooth = Bilateral(variant="step", labels="smooth").soft_labels(logits, y)
    assert torch.equal(smooth, Bilateral(labels="smooth").soft_labels(logits, y))


def test_bilateral_label_smoothing_of_the_paper_is_half():
    """beta 9 among 10 classes is the eps_y = 0.5 of R-MC-LS."""
    y_adv = Bilateral(labels="smooth").soft_labels(torch.randn(3, 10), torch.tensor([0, 4, 9]))
    torch.testing.assert_close(y_adv.gather(1, torch.tensor([[0], [4], [9]])), torch.full((3, 1), 0.5))
    assert y_adv.sort(dim=1).values[:, 0].allclose(y_adv.sort(dim=1).values[:, 8])


def test_bilateral_sees_the_network_in_eval_mode():
    model, x, y = BatchNormNet(), samples(8, 3, 6, 6), labels(8, 5)
    with torch.no_grad():
        model(x)  # statistics that differ from the batch's
    batch = Batch(x, y, torch.arange(8), torch.arange(8), 0)
    frozen = copy.deepcopy(model).eval()
    x_adv, natural = OneStepTargeted(eps=8 / 255)(frozen, x, y, batch.ids), frozen(x).detach()
    y_adv = bilateral_labels(natural, y, 9, 0.01)
    torch.manual_seed(0)  # of dropout
    expected = -(y_adv * copy.deepcopy(model).train()(x_adv).log_softmax(1)).sum(1).mean()
    torch.manual_seed(0)
    torch.testing.assert_close(Bilateral().loss(model.train(), batch), expected)


@pytest.mark.parametrize("method", [Bilateral, Madry, TRADES, PGDTraining])
def test_a_budget_means_the_same_in_any_range(method, images):
    wide = dataclasses.replace(images, x=2 * images.x - 1, bounds=(-1.0, 1.0))
    given = PGD(8 / 255, 2 / 255, 7)
    methods = [method(attack=given) for _ in range(2)]
    methods[0].begin(images, seed=3, epochs=1)
    for _ in range(2):  # a second run does not scale again
        methods[1].begin(wide, seed=3, epochs=1)
    assert methods[0].attack == dataclasses.replace(given, seed=3)
    assert methods[1].attack == PGD(16 / 255, 4 / 255, 7, seed=3, bounds=(-1.0, 1.0))
    assert [method.budget for method in methods] == [8 / 255, 8 / 255]
    assert methods[1].at(4 / 255).attack == PGD(8 / 255, 2 / 255, 7, seed=3, bounds=(-1.0, 1.0))


def test_sizes_that_are_options_of_methods_scale_too(images):
    wide = dataclasses.replace(images, x=2 * images.x - 1, bounds=(-1.0, 1.0))
    dra, mma = DRAFineTuning(attack_epochs=3), MMA()
    blind, relative = Blind(cutoff=0.1), Blind(cutoff=0.1, norm="rel")
    for method in (dra, mma, blind, relative):
        for _ in range(2):
            method.begin(wide, seed=3, epochs=3)
    assert [dra.attack_in(epoch).eps * 255 for epoch in range(3)] == pytest.approx([4, 2.5, 1])
    assert (mma.hinge, mma.nearest, mma.attack_in(0).longest) == pytest.approx((24 / 255, 0.01, 25.2 / 255))
    assert (blind.cutoff, relative.cutoff) == (0.2, 0.1)


class Halved(nn.Module):
    """`model`, for images in [-1, 1]."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x / 2 + 0.5)


@adversarial
def test_training_is_the_same_whatever_the_range(method, images):
    """Pixels are multiples of a half, a quarter ..., so that both ranges round alike; the last digits may differ."""
    few = images.take(40)
    few = dataclasses.replace(few, x=(few.x * 64).round() / 64)
    found = []
    for data, wrap in ((few, nn.Sequential), (dataclasses.replace(few, x=2 * few.x - 1, bounds=(-1.0, 1.0)), Halved)):
        torch.manual_seed(1)
        model = wrap(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)))
        history = fit(model, method(), data, epochs=2, batch_size=20, lr=1e-3, seed=5)
        found.append((history, bits(model)))
    for first, second in zip(found[0][0], found[1][0], strict=True):
        in_units = {"mean_norm", "margin", "margin_correct", "distance"} & set(first)  # those of the inputs
        for name in set(first) - {"seconds", "images_per_second"} - in_units:
            assert second[name] == pytest.approx(first[name], rel=1e-3, nan_ok=True), name
        for name in in_units:
            assert second[name] == pytest.approx(2 * first[name], rel=1e-3), name


@pytest.mark.parametrize("label", ["true", "pred"])
@pytest.mark.parametrize("method", [FGSMTraining, PGDTraining, DeepFoolTraining, Blind])
def test_attacks_lead_away_from_the_label_asked_for(method, label):
    """Equation 1 written out, with FGSM: on misclassified samples the two labels make different samples."""
    model, batch = a_batch()
    prediction = model(batch.x).argmax(1)
    wrong = prediction != batch.y
    assert 0 < wrong.sum() < len(wrong)
    away_from = batch.y if label == "true" else prediction
    if method is FGSMTraining:
        x = batch.x.clone().requires_grad_()
        (grad,) = torch.autograd.grad(F.cross_entropy(model(x), away_from, reduction="sum"), x)
        x_adv = (batch.x + 0.1 * grad.sign()).clamp(0, 1)
    else:
        given = dataclasses.replace(method().attack, seed=0)
        x_adv = given(model, batch.x, away_from, batch.ids)
    trained = method(label=label) if method is FGSMTraining else method(label=label, attack=given)
    if method is Blind:  # Algorithm 1's cut and scale
        delta = x_adv - batch.x
        sizes = delta.flatten(1).norm(dim=1)
        share = 0.9 * (sizes.mean() / sizes.clamp_min(1e-30)).clamp_max(1)
        x_adv = batch.x + share.view(-1, 1, 1, 1) * delta
    torch.testing.assert_close(trained.examples(model, batch), x_adv)
    smoothed = 0.9 * F.one_hot(batch.y, 5) + 0.1 / 5  # the loss is on the true label either way
    both = sum(-(smoothed * model(x).log_softmax(1)).sum(1).mean() for x in (batch.x, x_adv))
    torch.testing.assert_close(trained.loss(model, batch), both)
    assert method().label == ("pred" if issubclass(method, DeepFoolTraining) else "true")
    with pytest.raises(ValueError, match="label must be true or pred, got 'other'"):
        method(label="other")


EPS = {"eps": 0.1, "alpha": 0.03, "steps": 4}


def divergence(p: Tensor, q: Tensor) -> Tensor:
    return (p * (p.log() - q.log())).sum(1)


def test_madry_sees_adversarial_samples_alone():
    model, batch = a_batch()
    x_adv = PGD(**EPS)(model, batch.x, batch.y, batch.ids)
    assert_same_loss(model, Madry(attack=PGD(**EPS)).loss(model, batch), smoothed(model(x_adv), batch.y, 0))


@pytest.mark.parametrize("beta", [0.0, 1.0, 6.0])
def test_trades(beta):
    """Equation 7, with samples that maximise the divergence (8) from a normal start."""
    model, batch = a_batch()
    method = TRADES(attack=PGD(**EPS, random_start="gaussian", loss="kl"), beta=beta)
    x_adv = method.attack(model, batch.x, batch.y, batch.ids)
    start = dataclasses.replace(method.attack, steps=0)(model, batch.x, batch.y, batch.ids)
    assert 0.0005 < (start - batch.x).std() < 0.001, "of 0.001, less what the box cuts off"
    p, q = model(batch.x).softmax(1), model(x_adv).softmax(1)
    assert (divergence(p, q) > divergence(p, model(start).softmax(1))).all()
    expected = smoothed(model(batch.x), batch.y, 0) + beta * divergence(p, q).mean()
    assert_same_loss(model, method.loss(model, batch), expected)


def test_dkl():
    """A sample and a pair of classes at a time, in three epochs; a class without samples keeps its weights."""
    model, batch = a_batch()
    batch.y[batch.y == 4] = 3
    method = started(DKL(attack=PGD(**EPS, random_start="gaussian", loss="kl"), beta=3.0, alpha=2.0), batch)
    weights = torch.full((5, 5), 0.2, dtype=torch.float64)
    for epoch in range(3):
        batch.epoch = epoch
        x_adv = method.attack(model, batch.x, batch.y, batch.ids)
        clean, wrong = model(batch.x), model(x_adv)
        p, losses = clean.softmax(1).detach(), []
        for i, y in enumerate(batch.y.tolist()):
            square = soft = 0
            for j in range(5):
                soft = soft - p[i, j] * wrong.log_softmax(1)[i, j]
                for k in range(5):
                    between = (clean[i, j] - clean[i, k]) - (wrong[i, j] - wrong[i, k])
                    square = square + weights[y, j] * weights[y, k] * between**2 / 4
            losses.append(-clean.log_softmax(1)[i, y] + 2 * soft + 3 * square)
        assert_same_loss(model, method.loss(model, batch), torch.stack(losses).mean())
        method.loss(model, batch)  # as in a batch more, of the same
        method.end_epoch({})
        for y in range(4):
            weights[y] = (clean[batch.y == y].detach() / 4).softmax(1).mean(0)
        torch.testing.assert_close(method.weights, weights)
        with torch.no_grad():
            model.w.mul_(0.9)
    assert torch.equal(method.weights[4], weights[4])


def test_dkl_sees_a_batch_once_where_its_loss_is_asked_twice():
    model, batch = a_batch()
    method = started(DKL(attack=PGD(**EPS, random_start="gaussian", loss="kl")), batch)
    batch.made = []
    for _ in range(2):  # as with awp
        method.loss(model, batch)
    assert method.sums.sum() == pytest.approx(len(batch.y))


def test_dkl_with_a_sample_s_own_prediction_has_the_gradients_of_the_divergence():
    """The paper's theorem: of the square error at x, and of the cross-entropy at x_adv."""
    clean, adversarial = (torch.randn(1, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    y, method = torch.tensor([2]), DKL(alpha=1.0, beta=1.0)
    method.weights = clean.detach().softmax(1).expand(5, 5)
    found, expected = (each.compare(clean, adversarial, y) for each in (method, TRADES(beta=1.0)))
    torch.testing.assert_close(
        torch.autograd.grad(found, clean), torch.autograd.grad(expected, clean, retain_graph=True)
    )
    alone = dataclasses.replace(method, beta=0.0).compare(clean, adversarial, y)
    torch.testing.assert_close(torch.autograd.grad(alone, adversarial), torch.autograd.grad(expected, adversarial))


@pytest.mark.parametrize(("beta", "smoothing"), [(0.0, 0.0), (5.0, 0.0), (5.0, 0.2)])
def test_mart(beta, smoothing):
    """Equation 10, a sample at a time, with the published code's 1.0001; the cross-entropy in it is smoothed."""
    model, batch = a_batch()
    method = MART(attack=PGD(**EPS, random_start="gaussian"), beta=beta, label_smoothing=smoothing)
    x_adv = method.attack(model, batch.x, batch.y, batch.ids)
    p, q = model(batch.x).softmax(1), model(x_adv).softmax(1)
    losses = []
    for i, y in enumerate(batch.y.tolist()):
        rival = max(q[i, j] for j in range(5) if j != y)
        surprise = -(1 - smoothing) * q[i, y].log() - smoothing * q[i].log().mean()
        boosted = surprise - (1.0001 - rival).log()
        losses.append(boosted + beta * divergence(p, q)[i] * (1 - p[i, y]))
    assert_same_loss(model, method.loss(model, batch), torch.stack(losses).mean())


@pytest.mark.parametrize("share", [0.0, 0.1])
def test_alp(share):
    model, batch = a_batch()
    clean, wrong = model(batch.x), model(PGD(**EPS)(model, batch.x, batch.y, batch.ids))
    expected = (smoothed(clean, batch.y, share) + smoothed(wrong, batch.y, share)) / 2
    expected = expected + 0.5 * (clean - wrong).square().mean()
    assert_same_loss(model, ALP(attack=PGD(**EPS), label_smoothing=share).loss(model, batch), expected)


# What cross-entropies weigh in losses: on clean samples, and on those that `examples` gives; by default 0 and 1.
WEIGHTS = {
    **dict.fromkeys((Standard, TRADES, DKL, FriendlyTRADES, MAILTRADES), (1, 0)),
    **dict.fromkeys((FGSMTraining, PGDTraining, DeepFoolTraining, Blind), (1, 1)),
    **dict.fromkeys((ALP, DRAFineTuning), (0.5, 0.5)),
}


@every
def test_every_method_smooths_labels(method):
    """Its cross-entropies with labels change, and nothing else does: by ``share (z_y - mean z)`` of their logits."""
    model, batch = a_batch()
    model = with_cosine_head(two_layers(), 5.0) if method is SPAT else model
    make = functools.partial(Bilateral, labels="hard") if method is Bilateral else method
    plain, smooth = (started(make(label_smoothing=share), batch) for share in (0.0, 0.2))
    change = smooth.loss(model, batch) - plain.loss(model, batch)
    if method in (SMD, MMA, SPAT, LIET, FGSMPGI):  # on other samples; each has a test of its own
        assert change != 0
        return
    expected = torch.zeros((), dtype=torch.float64)
    seen = batch.x if method is Standard else started(plain, batch).examples(model, batch)
    for weight, x in zip(WEIGHTS.get(method, (0, 1)), (batch.x, seen), strict=True):
        z = model(x)
        expected = expected + weight * (z.gather(1, batch.y.unsqueeze(1)).squeeze(1) - z.mean(1)).mean()
    assert_same_loss(model, change, 0.2 * expected)


@pytest.mark.parametrize("labels", ["adversarial", "smooth"])
def test_bilateral_labels_are_soft_already(labels):
    with pytest.raises(ValueError, match=f"labels {labels} are soft already, by beta: set label_smoothing to 0, or"):
        Bilateral(labels=labels, label_smoothing=0.1)


@pytest.mark.parametrize("method", [TRADES, DKL, MART, ALP])
def test_losses_are_finite_far_from_the_boundary(method):
    """Where probabilities are 0 and 1 in float32: no logarithm of 0, and gradients without NaN."""
    logits = torch.tensor([[3e4, -3e4, 0.0], [-3e4, 3e4, 0.0], [0.0, 0.0, 0.0]])
    clean, adversarial = logits.clone().requires_grad_(), logits.flip(0).clone().requires_grad_()
    loss = method().compare(clean, adversarial, torch.tensor([0, 0, 2]))
    assert loss.isfinite()
    assert all(grad.isfinite().all() for grad in torch.autograd.grad(loss, (clean, adversarial)))


TWINS = {
    "fat": (Friendly, Madry, {}),
    "fat for trades": (FriendlyTRADES, TRADES, {"random_start": "gaussian", "loss": "kl"}),
    "fat for mart": (FriendlyMART, MART, {"random_start": "gaussian"}),
    "fat for trades, unclipped": (FriendlyTRADES, TRADES, {"random_start": "gaussian-unclipped", "loss": "kl"}),
    "fat for mart, unclipped": (FriendlyMART, MART, {"random_start": "gaussian-unclipped"}),
}


@pytest.mark.parametrize(("friendly", "twin", "options"), TWINS.values(), ids=TWINS)
def test_friendly_training_that_never_stops_is_its_twin(friendly, twin, options, images):
    """tau = K, to the last bit of two epochs; and with tau = 0 it is not."""
    attack = FriendlyPGD(**EPS, **options, tau=4)
    runs = [
        trained(lambda: friendly(attack=attack, tau_schedule=[]), images, epochs=2),
        trained(lambda: twin(attack=PGD(**EPS, **options)), images, epochs=2),
        trained(lambda: friendly(attack=dataclasses.replace(attack, tau=0)), images, epochs=2),
    ]
    assert torch.equal(runs[0][0], runs[1][0])
    assert not torch.equal(runs[2][0], runs[1][0])
    assert [row["gradients"] for row in runs[0][1]] == [4, 4]
    assert all(row["gradients"] < 4 for row in runs[2][1])


@pytest.mark.parametrize("method", [Friendly, FriendlyTRADES, FriendlyMART])
def test_friendly_as_in_the_paper_by_default(method):
    """tau is 0 until epoch 50, 1 until 90 and then 2 for FAT; 30, 50, 70 and 20, 40, 60, 80 for the others."""
    rises = {Friendly: [50, 90], FriendlyTRADES: [30, 50, 70], FriendlyMART: [20, 40, 60, 80]}[method]
    taus = [method().attack_in(epoch).tau for epoch in range(120)]
    assert taus == [sum(epoch > rise for rise in rises) for epoch in range(1, 121)]
    attack = method().attack
    assert (attack.eps, attack.alpha, attack.steps) == (8 / 255, 0.007, 10)
    assert attack.omega == (0.001 if method is Friendly else 0)
    assert attack.random_start == (1.0 if method is Friendly else "gaussian")
    assert attack.loss == ("kl" if method is FriendlyTRADES else "ce")


@pytest.mark.parametrize("method", [TRADES, MART, MAIL, MAILTRADES])
def test_starts_are_those_of_published_code(method):
    """Not clipped to the bounds, unlike FAT's for TRADES and MART."""
    assert method().attack.random_start == "gaussian-unclipped"


def test_tau_by_a_function_or_fixed():
    attack = FriendlyPGD(**EPS, tau=1)
    squares = Friendly(attack=attack, tau_schedule=lambda epoch: epoch**2)
    assert [squares.attack_in(epoch).tau for epoch in range(3)] == [1, 4, 9]
    assert [Friendly(attack=attack, tau_schedule=[]).attack_in(epoch).tau for epoch in (0, 99)] == [1, 1]
    assert [Friendly(attack=attack, tau_schedule=[2]).attack_in(epoch).tau for epoch in (0, 1, 2)] == [1, 1, 2]


def test_tau_rises_in_training(images):
    """More gradients from the epoch after the one where tau rises, with weights that stay."""
    method = Friendly(attack=FriendlyPGD(**EPS), tau_schedule=[2])
    model = InDouble(lenet())
    history = fit(model, method, images, epochs=3, batch_size=12, lr=0)
    for row, tau in zip(history, (0, 0, 1), strict=True):
        ids = torch.arange(24) + (row["epoch"] - 1) * 24
        grads = FriendlyPGD(**EPS, tau=tau).run(model, images.x, images.y, ids).grads
        assert row["gradients"] == pytest.approx(float(grads.double().mean()))


@pytest.mark.parametrize("method", [Madry, TRADES, MART, ALP, CAT, Bilateral])
def test_baselines_take_the_friendly_attack(method):
    model, batch = a_batch()
    method = method(attack=FriendlyPGD(**EPS, tau=1))
    if isinstance(method, CAT):
        method.k = 4
        method.attack = dataclasses.replace(method.attack, steps=4, alpha=0.03)
    assert method.loss(model, batch).isfinite()
    assert 0 < batch.stats["gradients"] < 4
    if not isinstance(method, CAT):
        x_adv = FriendlyPGD(**EPS, tau=1)(model, batch.x, batch.y, batch.ids)
        assert torch.equal(method.examples(model, batch), x_adv)


def test_dat_asks_for_more_convergence_by_the_epoch():
    """c_t = max(c_max - t c_max / T', 0), t from 0."""
    method = DAT()
    assert (method.fosc, method.fosc_epochs) == (0.5, 100)
    found = [method.attack_in(epoch).fosc for epoch in range(120)]
    assert found == pytest.approx([max(0.5 - t * 0.5 / 100, 0) for t in range(120)])


def test_dat_is_madry_where_nothing_converges(images):
    """c is never negative: a bound below 0 is PGD."""
    never = DynamicPGD(**EPS, fosc=-1.0)
    dynamic = DAT(attack=never)
    dynamic.attack_in = lambda epoch: dynamic.attack
    assert torch.equal(trained(lambda: dynamic, images)[0], trained(lambda: Madry(attack=PGD(**EPS)), images)[0])


def test_dat_with_friendly_stops():
    model, batch = a_batch()
    attack = DynamicPGD(**EPS, tau=0)
    x_adv = DAT(attack=attack, fosc=0.0).examples(model, batch)
    assert torch.equal(x_adv, FriendlyPGD(**EPS, tau=0)(model, batch.x, batch.y, batch.ids))


def test_cat_mixes_attacks_of_all_strengths():
    model, batch = a_batch()
    method = CAT(attack=PGD(eps=0.1, alpha=0.02, steps=10, seed=5))
    assert torch.equal(method.examples(model, batch), batch.x), "k = 0 is training on clean samples"
    method.k = 3
    x_adv = method.examples(model, batch)
    assert torch.equal(x_adv[:4], batch.x[:4])
    for steps in (1, 2, 3):
        part = slice(4 * steps, 4 * steps + 4)
        ids = batch.ids[part]
        alpha = method.step_sizes(steps, ids)
        found = PGD(0.1, alpha, steps, seed=5)(model, batch.x[part], batch.y[part], ids)
        assert torch.equal(x_adv[part], found)
    assert batch.stats["gradients"] == (0 + 1 + 2 + 3) / 4


def test_batches_made_by_hand_are_parts_of_larger_ones(monkeypatch):
    """As in a loop of one's own under DistributedDataParallel, where all processes have as many samples."""
    monkeypatch.setattr(_method, "processes", lambda: 3)
    monkeypatch.setattr(_parallel, "processes", lambda: 3)
    monkeypatch.setattr(_parallel, "rank", lambda: 2)
    model, batch = a_batch()
    batch = Batch(batch.x, batch.y, batch.index, batch.ids, epoch=0)
    assert batch.size == 3 * 16
    method = CAT(attack=PGD(eps=0.1, alpha=0.02, steps=10))
    method.k = 2
    assert not (method.examples(model, batch) == batch.x).flatten(1).all(1).any(), "the last third has two steps"
    assert batch.stats["gradients"] == 2


def test_step_sizes_of_cat():
    """2 eps / k times a number between 1 and 10 / k, at most 2 eps, which crosses the ball."""
    method, ids = CAT(attack=PGD(eps=0.1, alpha=0.02, steps=10, seed=0)), torch.arange(4000)
    for steps in (1, 2, 5, 10):
        factors = method.step_sizes(steps, ids) / (0.2 / steps)
        assert factors.min() == pytest.approx(1, abs=0.01)
        assert factors.max() == pytest.approx(min(10 / steps, steps), abs=0.01)
        assert (factors >= 0.9999).all()
    half = method.step_sizes(5, ids[2000:])
    assert torch.equal(half, method.step_sizes(5, ids)[2000:])
    assert (half / 0.04).mean() == pytest.approx(1.5, abs=0.02)


def test_cat_grows_with_accuracy(images):
    method = CAT(attack=PGD(eps=0.1, alpha=0.02, steps=2), accuracy=0.5)
    method.begin(images, seed=0, epochs=1)
    ks = []
    for accuracy in (0.4, 0.6, 0.5, 0.7, 0.9):
        method.end_epoch({"adversarial_accuracy": accuracy})
        ks.append(method.k)
    assert ks == [0, 1, 1, 2, 2], "no more than the attack's steps"
    method.begin(images, seed=0, epochs=1)
    assert method.k == 0


def test_cat_goes_on_where_it_stood(images):
    """k is not lost by a resumed run."""
    states, method = [], CAT(attack=PGD(eps=0.1, alpha=0.02, steps=5), accuracy=0.0)
    whole, _ = trained(lambda: method, images, epochs=3, on_save=states.append)
    assert method.k == 3
    again = CAT(attack=PGD(eps=0.1, alpha=0.02, steps=5), accuracy=0.0)
    assert torch.equal(trained(lambda: again, images, epochs=3, resume=states[1])[0], whole)
    assert again.k == 3


def two_layers() -> nn.Sequential:
    """For samples of (3, 4, 4) in 5 classes, in double precision."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return nn.Sequential(nn.Flatten(), nn.Linear(48, 7), nn.Tanh(), nn.Linear(7, 5)).double()


def test_a_head_of_cosines():
    model = two_layers()
    features, weight = model[:3], with_cosine_head(model, 4.0)[3].weight.detach()
    x = samples(6, 3, 4, 4, dtype=torch.float64)
    z = features(x).detach()
    expected = [[4 * float(F.cosine_similarity(row, w, dim=0)) for w in weight] for row in z]
    torch.testing.assert_close(model(x).detach(), torch.tensor(expected, dtype=torch.float64))
    assert isinstance(model[3], CosineHead)
    assert model[3].bias is None


def test_a_head_of_cosines_needs_a_place():
    with pytest.raises(ValueError, match="Wavy has no linear layer inside it"):
        with_cosine_head(Wavy(4, 2))
    with pytest.raises(ValueError, match="scale must be positive, got 0"):
        with_cosine_head(two_layers(), 0)


SPAT_CASES = {
    "thesis": {},
    "other weights": {"alpha": 0.6, "beta": 0.5, "lam": 2.0},
    "accuracy alone": {"pace_robustness": False},
    "robustness alone": {"pace_accuracy": False},
    "neither": {"pace_accuracy": False, "pace_robustness": False},
    "with gradients": {"detach": False},
    "factors as printed": {"clamp": False},
    "as printed, with gradients": {"clamp": False, "detach": False},
    "smoothed": {"label_smoothing": 0.2},
    "smoothed, robustness alone": {"label_smoothing": 0.2, "pace_accuracy": False},
}


@pytest.mark.parametrize("cosine", [True, False])
@pytest.mark.parametrize("options", SPAT_CASES.values(), ids=SPAT_CASES)
def test_spat(options, cosine):
    """Equations 3.9 to 3.15, a class at a time."""
    _, batch = a_batch()
    model = with_cosine_head(two_layers(), 5.0) if cosine else two_layers()
    attack = PGD(**EPS, random_start="gaussian")
    method = SPAT(attack=attack, **options)
    x_adv = method.examples(model, batch)
    chosen = {"alpha": 0.2, "beta": 0.2, "lam": 6.0, "pace_accuracy": True, "pace_robustness": True} | options
    kind = {"loss": "spat", "kl_weight": chosen["alpha"]} if chosen["pace_robustness"] else {"loss": "kl"}
    again = dataclasses.replace(attack, **kind)(model, batch.x, batch.y, batch.ids)
    assert torch.equal(x_adv, again)
    logits, p, q = model(batch.x), model(batch.x).softmax(1), model(x_adv).softmax(1)
    cosines = F.normalize(model[:3](batch.x)) @ F.normalize(model[3].weight).T
    losses, negative = [], 0
    for i, y in enumerate(batch.y.tolist()):
        paced = []
        for j in range(5):
            pace = 1 - cosines[i, j] + chosen["beta"] if j == y else cosines[i, j] + chosen["beta"]
            negative += float(pace.detach()) < 0
            pace = pace.clamp(min=0) if chosen.get("clamp", True) else pace
            pace = pace if chosen["pace_accuracy"] else torch.ones(())
            paced.append((pace if chosen.get("detach") is False else pace.detach()) * logits[i, j])
        share, paced = chosen.get("label_smoothing", 0.0), torch.stack(paced)
        accuracy = paced.logsumexp(0) - (1 - share) * paced[y] - share * paced.mean()
        divergence = sum(p[i, j] * (p[i, j] / q[i, j]).log() for j in range(5))
        terms = sum((p[i, j] * (p[i, j] / q[i, j]).log()) ** 2 for j in range(5))
        robustness = chosen["alpha"] * divergence + terms if chosen["pace_robustness"] else divergence
        losses.append(accuracy + chosen["lam"] * robustness)
    assert negative or "beta" in options, "no factor to clamp: a weak test"
    assert_same_loss(model, method.loss(model, batch), torch.stack(losses).mean())
    assert not any(module._forward_hooks for module in model.modules())


def test_spat_starts_outside_the_box():
    """Line 6 of Algorithm 1 a sample at a time: x + 0.001 N(0, I), which no bound holds before the first step."""
    model = with_cosine_head(two_layers(), 5.0)
    x, y, ids = torch.zeros(8, 3, 4, 4, dtype=torch.float64), labels(8, 5), torch.arange(8)
    method = SPAT()
    method.begin(Dataset(x, y, classes=tuple("abcde")), seed=0, epochs=1)
    first = []
    model.register_forward_pre_hook(lambda _, inputs: first.append(inputs[0].detach().clone()))
    x_adv = method.examples(model, Batch(x, y, ids, ids))
    start = next(seen for seen in first if not torch.equal(seen, x))
    assert (start < 0).double().mean() == pytest.approx(0.5, abs=0.1)
    assert float(start.std()) == pytest.approx(0.001, rel=0.1)
    assert x_adv.min() >= 0


def test_spat_needs_a_row_a_class():
    model, batch = a_batch()
    with pytest.raises(ValueError, match="SPAT needs a network that ends in a linear layer with a row for each of 5"):
        SPAT().loss(model, batch)


def test_dra_fine_tuning():
    """One to one; the budget falls from 2 to 0.5 grey levels within 50 epochs, and then there is no attack."""
    model, batch = a_batch()
    method = DRAFineTuning()
    found = [255 * method.attack_in(epoch).eps for epoch in range(50)]
    assert found == pytest.approx([2 - 1.5 * epoch / 49 for epoch in range(50)])
    batch.epoch = 49
    x_adv = DRA(eps=0.5 / 255, p=1 / 3, steps=5)(model, batch.x, batch.y, batch.ids)
    expected = (smoothed(model(batch.x), batch.y, 0) + smoothed(model(x_adv), batch.y, 0)) / 2
    assert_same_loss(model, method.loss(model, batch), expected)
    batch.epoch = 50
    assert_same_loss(model, method.loss(model, batch), smoothed(model(batch.x), batch.y, 0))
    assert batch.stats["adversarial_accuracy"].isnan()
    for last_eps in (None, 1 / 255):
        constant = DRAFineTuning(attack=DRA(eps=1 / 255), last_eps=last_eps)
        assert [constant.attack_in(epoch).eps for epoch in (0, 20, 49)] == [1 / 255] * 3
    pgd = DRAFineTuning(attack=PGD(eps=0.1, alpha=0.02), last_eps=0.05, attack_epochs=3).attack_in(1)
    assert (pgd.eps, pgd.alpha) == (pytest.approx(0.075), pytest.approx(0.015))


def test_dra_fine_tuning_by_turns():
    """Clean, attacked, clean ...; together as much of either as at once; the last epochs are clean.

    Odd epochs begin with attacked samples: an epoch may have one batch.
    """
    model, batch = a_batch()
    pgd = PGD(eps=0.1, alpha=0.02, steps=3)
    x_adv = pgd(model, batch.x, batch.y, batch.ids)
    for beta, weights in ((1.0, (1, 1)), (3.0, (0.5, 1.5)), (0.0, (2, 0))):
        method = DRAFineTuning(attack=pgd, last_eps=None, beta=beta, attack_epochs=3, alternate=True)
        for epoch, step in ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 3)):
            batch.epoch, batch.step, batch.stats = epoch, step, {}
            turn = (epoch, step) in ((0, 1), (1, 0), (2, 3))
            learnt = x_adv if turn else batch.x
            expected = weights[turn] * smoothed(model(learnt), batch.y, 0)
            assert_same_loss(model, method.loss(model, batch), expected)
            assert batch.stats["gradients"] == (3 if turn else 0)
            assert batch.stats["accuracy"] == (model(learnt).argmax(1) == batch.y).float().mean()
            batch.epoch = 3
            assert_same_loss(model, method.loss(model, batch), smoothed(model(batch.x), batch.y, 0))


@pytest.mark.parametrize("share", [0.0, 0.1])
def test_the_multiplier_of_the_clean_loss(share):
    """Equations 4.4 and 4.5, with a step up (4.6) after every batch; losses a sample at a time."""
    model, batch = a_batch()
    start, pgd = copy.deepcopy(model), PGD(eps=0.1, alpha=0.02, steps=3)
    options = {"last_eps": None, "beta": 2.0, "attack_epochs": 1, "lam_lr": 0.5}
    method, lam = DRAFineTuning(attack=pgd, label_smoothing=share, **options), 0.5
    found = []
    for scale in (1.0, 3.0, 0.9, -5.0, 1.0):
        with torch.no_grad():
            for weight, before in zip(model.parameters(), start.parameters(), strict=True):
                weight.copy_(scale * before)
        excess = 0.0
        for x, y in zip(batch.x, batch.y, strict=True):
            now, before = (network(x.unsqueeze(0)).log_softmax(1)[0] for network in (model, start))
            behind = (1 - share) * (before - now)[y] + share * (before - now).mean()
            excess += float(behind.detach()) / len(batch.y)
        lam = max(0.0, lam + 0.5 * excess)
        x_adv = pgd(model, batch.x, batch.y, batch.ids)
        clean, attacked = smoothed(model(batch.x), batch.y, share), smoothed(model(x_adv), batch.y, share)
        assert_same_loss(model, method.loss(model, batch), (lam * clean + attacked) / (lam + 1))
        assert float(batch.stats["lam"]) == pytest.approx(lam)
        found.append(lam)
    assert found[0] == 0.5  # the constraint is met with equality at the start
    assert len(set(found)) > 3
    batch.epoch = 1
    assert_same_loss(model, method.loss(model, batch), smoothed(model(batch.x), batch.y, share))
    assert float(batch.stats["lam"]) == pytest.approx(lam)


def test_the_multiplier_sees_networks_in_eval_mode_and_a_batch_once():
    model, x, y = BatchNormNet().train(), samples(8, 3, 6, 6), labels(8, 5)
    start, method = copy.deepcopy(model).eval(), DRAFineTuning(attack=PGD(0.1, 0.05, 2), last_eps=None, lam_lr=1.0)
    for _ in range(2):  # train mode moves the statistics of batch norm
        method.loss(model, Batch(x, y, torch.arange(8)))
    assert method.lam != 1
    before, now = method.lam, copy.deepcopy(model).eval()
    batch = Batch(x, y, torch.arange(8), made=[])
    for _ in range(2):  # as with awp
        method.loss(model, batch)
        with torch.no_grad():
            excess = F.cross_entropy(now(x), y) - F.cross_entropy(start(x), y)
        torch.testing.assert_close(method.lam, before + excess)
    assert model.training


def started(method: Method, batch: Batch, epochs: int = 150) -> Method:
    """`method` at the start of a run on the batch's samples."""
    method.begin(Dataset(batch.x, batch.y, classes=tuple("abcde")), seed=0, epochs=epochs)
    return method


@pytest.mark.parametrize(("epochs", "levels"), [(150, 2), (80, 4), (255, 1), (1000, 1), (1, 128)])
@pytest.mark.parametrize(("norm", "ones"), [("linf", 1.0), ("l2", 48**0.5)])
def test_smd_starts_with_a_step_that_crosses_the_range_in_time(epochs, levels, norm, ones):
    """Equation 12: 2/255 for 150 epochs, 4/255 for 80."""
    _, batch = a_batch()
    method = started(SMD(attack=EPGD(norm=norm)), batch, epochs)
    torch.testing.assert_close(method.margins, torch.full((16,), ones * levels / 255))


def bisected(model: nn.Module, x: Tensor, point: Tensor, y: Tensor) -> Tensor:
    inner, outer = x, point
    for _ in range(10):
        middle = (inner + outer) / 2
        inner, outer = (middle, outer) if model(middle).argmax(1) == y else (inner, middle)
    return inner


@pytest.mark.parametrize(
    ("norm", "slm", "share"), [("linf", False, 0.0), ("l2", False, 0.0), ("linf", True, 0.0), ("linf", False, 0.1)]
)
def test_smd_is_algorithm_1(norm, slm, share):
    """A sample at a time: loss, margins, and what the margins become."""
    model, batch = a_batch()
    attack = EPGD(norm=norm, steps=20, loss="slm" if slm else "ce")
    method = started(SMD(attack=attack, label_smoothing=share), batch)

    def climbed(z: Tensor, y: Tensor) -> Tensor:
        others = torch.cat([z[:, :y], z[:, y + 1 :]], dim=1)
        return others.logsumexp(1) - z[:, y] if slm else F.cross_entropy(z, y)

    unit = (1 if norm == "linf" else 48**0.5) / 255
    order = {"linf": torch.inf, "l2": 2}[norm]
    margins = unit * (1 + torch.arange(16, dtype=torch.float64) % 7)
    method.margins = margins.float()
    noisy, clean, after = [], smoothed(model(batch.x), batch.y, share), margins.clone()
    for i in range(16):
        x, y, eps = batch.x[i : i + 1], batch.y[i : i + 1], float(method.margins[i])
        if model(x).argmax(1) != y:
            after[i] = 0  # line 12 and Appendix A, with x for the x_adv that there is none of
            continue
        point, crossed = x, False
        for _ in range(20):
            leaf = point.clone().requires_grad_()
            logits = model(leaf)
            crossed |= bool(logits.argmax(1) != y)
            (grad,) = torch.autograd.grad(climbed(logits, y), leaf)
            way = grad.sign() if norm == "linf" else grad / grad.norm()
            delta = point + eps / 5 * way - x
            delta = delta.clip(-eps, eps) if norm == "linf" else delta * min(1, eps / float(delta.norm()))
            point = (x + delta).clip(0, 1)
        crossed |= bool(model(point).argmax(1) != y)
        refined = bisected(model, x, point, y)
        noisy.append(smoothed(model(refined), y, share))
        leaf = refined.clone().requires_grad_()
        (grad,) = torch.autograd.grad(climbed(model(leaf), y), leaf)
        gamma_1, gamma_2 = 0.9 ** round(eps / unit), 1 / (1 + grad.flatten().norm(p=order))
        reached = (refined - x).flatten().norm(p=order)
        after[i] = reached if crossed else eps + 2 * unit * gamma_1 * gamma_2
    assert 0 < len(noisy) < 16
    assert (after[after > 0] < margins[after > 0]).any()
    assert (after > margins).any()
    loss = method.loss(model, batch)
    torch.testing.assert_close(loss, (clean + torch.stack(noisy).mean()) / 2)
    torch.testing.assert_close(method.margins.double(), after, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("share", [0.0, 0.1])
def test_mma_is_ding_et_als(share):
    """A sample at a time: the boundary along PGD's way by 10 bisections, clean and marginal terms, and distances.

    A sample is right where its class has half of the probability, and is at the boundary where it has that.
    """
    model, batch = a_batch()
    with torch.no_grad():
        model.w.mul_(0.6)
        model.v.mul_(0.6)
    options = {"hinge": 0.02, "nearest": 0.005, "label_smoothing": share}
    method = started(MMA(attack=ANPGD(steps=4, random_start=0.0), **options), batch)
    method.distances = torch.linspace(0, 0.03, 16)
    before, terms, near_ones, likeliest = method.distances.clone(), torch.zeros((), dtype=torch.float64), 0, 0
    after = before.double()
    for i in range(16):
        x, y, eps = batch.x[i : i + 1], batch.y[i : i + 1], max(float(before[i]), 0.005)
        if model(x).softmax(1)[0, y[0]] <= 0.5:
            terms, after[i] = terms + smoothed(model(x), y, share), 0
            likeliest += bool(model(x).argmax(1) == y)
            continue
        point = x
        for _ in range(4):
            leaf = point.clone().requires_grad_()
            logits = model(leaf)[0]
            rivals = torch.stack([z for j, z in enumerate(logits) if j != y])
            (grad,) = torch.autograd.grad(rivals.logsumexp(0) - logits[y[0]], leaf)
            point = (x + (point + 2.5 * eps / 4 * grad.sign() - x).clip(-eps, eps)).clip(0, 1)
        unit = (point - x) / (point - x).abs().max()
        near, far = 0.0, 0.021
        for _ in range(10):
            middle = (near + far) / 2
            crossed = bool(model((x + middle * unit).clip(0, 1)).softmax(1)[0, y[0]] <= 0.5)
            near, far = (near, middle) if crossed else (middle, far)
        after[i] = far
        if far < 0.02:
            near_ones += 1
            terms = terms + smoothed(model((x + far * unit).clip(0, 1)), y, share)
    assert 0 < near_ones < (after > 0).sum()
    assert likeliest, "no sample that is right with less than half of the probability: a weak test"
    expected = smoothed(model(batch.x), batch.y, share) / 3 + 2 / 3 * terms / 16
    assert_same_loss(model, method.loss(model, batch), expected)
    torch.testing.assert_close(method.distances.double(), after, atol=1e-6, rtol=1e-5)


def test_smd_margins_belong_to_samples_and_have_an_end():
    model, batch = a_batch()
    other = Batch(*(t.flip(0) for t in (batch.x, batch.y, batch.index, batch.ids)), epoch=0)
    methods = [started(SMD(), batch) for _ in range(2)]
    methods[0].loss(model, batch)
    methods[1].loss(model, other)
    torch.testing.assert_close(methods[0].margins, methods[1].margins)
    still = linear(48, 5, torch.float64)
    still[1].weight.data.zero_()
    y = still(batch.x).argmax(1)
    for _ in range(400):  # nothing ever crosses, and gradients are 0
        methods[0].loss(still, Batch(batch.x, y, batch.index, batch.ids, epoch=0))
    assert methods[0].margins.max() <= 128 / 255 + 1e-6
    methods[0].end_epoch({"epoch": 3})
    assert methods[0].histogram.sum(1).tolist() == [0, 0, 16] + [0] * 147


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_smd_counts_whole_grey_levels(norm):
    """Growth is 0.9^k steps at k levels, also of those that float32 rounds down."""
    _, batch = a_batch(100)
    batch = dataclasses.replace(batch, x=batch.x.float())
    still = linear(48, 5)
    still[1].weight.data.zero_()
    batch.y = still(batch.x).argmax(1)
    method = started(SMD(attack=EPGD(norm=norm)), batch)
    levels = torch.arange(1, 101, dtype=torch.float64)
    method.margins = (levels * method.level).float()
    method.loss(still, batch)
    grown = (method.margins.double() / method.level - levels) / 2
    torch.testing.assert_close(grown, 0.9**levels, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 0.0),
        ({"misclassified": "refine"}, 0.0),
        ({"misclassified": "reset"}, 2 / 255),
        ({"misclassified": "keep"}, 0.1),
    ],
)
def test_smd_of_misclassified_samples(options, expected):
    model, batch = a_batch()
    method = started(SMD(**options), batch)
    method.margins = torch.full((16,), 0.1)
    method.loss(model, batch)
    wrong = model(batch.x).argmax(1) != batch.y
    torch.testing.assert_close(method.margins[wrong], torch.full_like(method.margins[wrong], expected))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_smd_margins_that_were_refined_grow_again(norm):
    """From 0, where gamma 1 is 1, once the clean sample is right; the loss has x itself until then."""
    model, batch = a_batch()
    method = started(SMD(attack=EPGD(norm=norm)), batch)
    wrong = model(batch.x).argmax(1) != batch.y
    assert 0 < wrong.sum() < 16
    method.loss(model, batch)
    assert (method.margins[wrong] == 0).all()
    batch.y = model(batch.x).argmax(1)
    method.loss(model, batch)
    order = {"linf": torch.inf, "l2": 2}[norm]
    for i in wrong.nonzero().flatten().tolist():
        leaf = batch.x[i : i + 1].clone().requires_grad_()
        (grad,) = torch.autograd.grad(F.cross_entropy(model(leaf), batch.y[i : i + 1]), leaf)
        grown = method.step / (1 + float(grad.flatten().norm(p=order)))
        assert float(method.margins[i]) == pytest.approx(grown, rel=1e-5)


class Line(nn.Module):
    """Logits (0, x0 - 1/2) of a sample of two numbers."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack((torch.zeros_like(x[:, 0]), x[:, 0] - 0.5), dim=1)


def test_smd_margins_of_samples_next_to_the_boundary():
    """Ten bisections of 0.1686 do not come as near as 1e-4, so that EPGD returns x and line 12 sets 0; of the margin
    that has grown from there they do.
    """
    x = torch.tensor([[0.5 + 1e-4, 0.3], [0.5 + 0.1, 0.3]], dtype=torch.float64)
    batch = Batch(x, torch.ones(2, dtype=torch.int64), torch.arange(2), epoch=0)
    method = started(SMD(), batch)
    method.margins = torch.full((2,), 0.1686)
    found = []
    for _ in range(3):
        method.loss(Line(), batch)
        found.append(method.margins.tolist())
    slope = 1 / (1 + math.exp(1e-4))  # of the cross-entropy at x
    near, far = zip(*found, strict=True)
    assert near[0] == 0
    assert near[1] == pytest.approx(2 / 255 / (1 + slope), rel=1e-5)
    assert 1e-4 - near[1] / 1024 <= near[2] <= 1e-4
    assert 0.1 - 0.1686 / 1024 <= far[0] <= 0.1


def test_smd_with_batch_norm_asks_the_network_in_two_modes():
    """Line 4 in train mode, as the loss; the attack in eval mode: what is wrong there has margin 0, too."""
    model = nn.Sequential(nn.BatchNorm1d(2, affine=False, momentum=0.0), Line())
    model[0].running_mean.fill_(0.8)
    x = torch.tensor([[0.2, 0.1], [0.4, 0.9], [0.6, 0.5], [0.99, 0.3]])  # above 1/2 only the last, in eval mode none
    batch = Batch(x, torch.tensor([0, 0, 1, 1]), torch.arange(4), epoch=0)
    right = model(x).argmax(1) == batch.y
    assert right.tolist() == [True, True, False, True]
    assert model.eval()(x).argmax(1).tolist() == [0, 0, 0, 0]
    model.train()
    method = started(SMD(), batch)
    method.loss(model, batch)
    assert (method.margins > 0).tolist() == [True, True, False, False]
    assert method.correct.bool().tolist() == right.tolist()


def test_smd_counts_all_margins_and_those_of_correct_samples():
    model, batch = a_batch()
    method = started(SMD(misclassified="keep"), batch, epochs=3)
    method.margins = torch.arange(16) * 3 * method.level
    for epoch in (1, 2):
        method.loss(model, batch)
        row = {"epoch": epoch}
        method.end_epoch(row)
    right = (model(batch.x).argmax(1) == batch.y).tolist()
    levels = [round(255 * margin) for margin in method.margins.tolist()]
    for counts, chosen in ((method.histogram, levels), (method.histogram_correct, _those(levels, right))):
        assert counts[1].tolist() == [chosen.count(level) for level in range(129)]
        assert counts.sum(1).tolist() == [len(chosen), len(chosen), 0]
    assert 0 < sum(right) < 16
    margins = method.margins.tolist()
    assert row["margin"] == pytest.approx(sum(margins) / 16)
    assert row["margin_correct"] == pytest.approx(sum(_those(margins, right)) / sum(right))


def _those(values: list, chosen: list[bool]) -> list:
    return [value for value, it in zip(values, chosen, strict=True) if it]


def test_smd_resets_to_no_more_than_the_largest_margin():
    """A run of one epoch would start with the whole range, if it did not end at the histogram's 128 levels."""
    model, batch = a_batch()
    method = started(SMD(misclassified="reset"), batch, epochs=1)
    method.loss(model, batch)
    method.end_epoch({"epoch": 1})
    assert method.histogram[0].sum() == 16
    assert method.margins.max() <= 128 / 255 + 1e-6


@pytest.mark.parametrize(("method", "weight"), [(SMD, 1 / 2), (MMA, 1)])
def test_margins_of_a_batch_that_is_all_misclassified(method, weight):
    """There is nothing to attack, and the network sees no empty batch, which many cannot take."""
    model, batch = a_batch()
    batch.y = (model(batch.x).argmax(1) + 1) % 5
    method, sizes = started(method(), batch), []
    model.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    assert_same_loss(model, method.loss(model, batch), weight * F.cross_entropy(model(batch.x), batch.y))
    assert set(sizes) == {16}
    assert batch.stats["gradients"] == batch.stats["adversarial_accuracy"] == 0


@pytest.mark.parametrize("weighting", ["tanh", "sigmoid", "discrete"])
def test_gairat_weights_by_the_steps_that_fail(weighting):
    model, batch = a_batch()
    near = {"eps": 0.02, "alpha": 0.004, "steps": 4}
    method = GAIRAT(attack=FriendlyPGD(**near, tau=4), weighting=weighting, burn_in=0)
    points = [FriendlyPGD(**(near | {"steps": k}), tau=4)(model, batch.x, batch.y, batch.ids) for k in range(5)]
    kappa = sum((model(point).argmax(1) == batch.y).double() for point in points[:4])
    assert len(kappa.unique()) > 2
    closeness = -1 + 5 * (1 - 2 * kappa / 4)
    weights = {
        "tanh": (1 + closeness.tanh()) / 2,
        "sigmoid": 1 / (1 + (-closeness).exp()),
        "discrete": (5 - kappa) / 5,
    }[weighting]
    losses = F.cross_entropy(model(points[4]), batch.y, reduction="none")
    expected = (weights * losses).sum() / weights.sum()
    assert_same_loss(model, method.loss(model, batch), expected)
    torch.testing.assert_close(method.loss(model, batch), expected, rtol=1e-13, atol=0)  # weights in double, too


def test_gairat_of_samples_that_all_weigh_next_to_nothing():
    """tanh rounds to -1 long before weights are equal to 0."""
    model, batch = a_batch()
    batch = dataclasses.replace(batch, y=model(batch.x).argmax(1))
    still = FriendlyPGD(eps=0.0, alpha=0.0, steps=4, tau=4)
    loss = GAIRAT(attack=still, lam=-30.0, burn_in=0).loss(model, batch)
    assert_same_loss(model, loss, F.cross_entropy(model(batch.x), batch.y))


def test_mail_weights_by_the_margin():
    model, batch = a_batch()
    x_adv = PGD(**EPS)(model, batch.x, batch.y, batch.ids)
    p = model(x_adv).softmax(1).detach()
    margins = torch.stack([max(row[j] for j in range(5) if j != y) - row[y] for row, y in zip(p, batch.y, strict=True)])
    weights = 1 / (1 + (-10 * (margins - 0.5)).exp())
    for factor, scale in ((None, 1 / weights.mean()), (3, 3)):  # as printed, and as in the published code
        losses = F.cross_entropy(model(x_adv), batch.y, reduction="none")
        loss = MAIL(attack=PGD(**EPS), burn_in=0, factor=factor).loss(model, batch)
        assert_same_loss(model, loss, (scale * weights * losses).mean())


def test_mail_trades_weights_the_divergence():
    model, batch = a_batch()
    attack = PGD(**EPS, random_start="gaussian", loss="kl")
    x_adv = attack(model, batch.x, batch.y, batch.ids)
    q = model(x_adv).softmax(1).detach()
    rival = q.masked_fill(F.one_hot(batch.y, 5).bool(), 0).amax(1)
    weights = 1 / (1 + (-2 * (rival - q[torch.arange(16), batch.y])).exp())
    for factor, scale in ((None, 1 / weights.mean()), (3, 3)):
        log_p, log_q = model(batch.x).log_softmax(1), model(x_adv).log_softmax(1)
        divergence = (log_p.exp() * (log_p - log_q)).sum(1)
        expected = F.nll_loss(log_p, batch.y) + 5 * (scale * weights * divergence).mean()
        assert_same_loss(model, MAILTRADES(attack=attack, burn_in=0, factor=factor).loss(model, batch), expected)
    burning = MAILTRADES(attack=attack, burn_in=1).loss(model, batch)
    assert_same_loss(model, burning, TRADES(attack=attack, beta=5).loss(model, batch))


@pytest.mark.parametrize("method", [GAIRAT(attack=FriendlyPGD(**EPS, tau=4)), MAIL(attack=PGD(**EPS))])
def test_weights_are_one_while_burning_in(method):
    """Until epoch 60 of GAIRAT's 120 and 75, from 0, of MAIL's."""
    model, batch = a_batch()
    expected = Madry(attack=PGD(**EPS, random_start=method.attack.random_start)).loss(model, batch)
    assert_same_loss(model, method.loss(model, batch), expected)
    batch.epoch = method.burn_in
    assert method.loss(model, batch) != expected
    assert method.burn_in == {GAIRAT: 59, MAIL: 76}[type(method)]


def test_one_forward_pass_for_both_unless_batch_norm_would_mix_them():
    model, batch = a_batch()
    calls = []
    model.register_forward_hook(lambda _, inputs, __: calls.append(len(inputs[0])))
    TRADES(attack=PGD(steps=0, loss="kl")).loss(model, batch)
    assert calls[-1] == 32

    normed, x = BatchNormNet().train(), samples(8, 3, 6, 6)
    x_adv = (x + 0.3).clamp(max=1)
    seen = copy.deepcopy(normed)
    normed[7].p = seen[7].p = 0.0  # dropout
    clean, adversarial = both(normed, x, x_adv)
    torch.testing.assert_close(clean, seen(x))
    torch.testing.assert_close(adversarial, seen(x_adv))
    assert normed[1].num_batches_tracked == 2
    frozen = normed.eval()
    before = frozen.forwards
    torch.testing.assert_close(both(frozen, x, x_adv), (frozen(x), frozen(x_adv)))
    assert frozen.forwards == before + 3


# ---------------------------------------------------------------------------------------------------------- the loop


def bits(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def trained(method: type[Method], data: Dataset, **options) -> tuple[Tensor, list[dict[str, float]]]:
    model = lenet()
    history = fit(model, method(), data, **{"epochs": 1, "batch_size": 12, **options})
    return bits(model), history


@every
def test_every_method_trains(method, images):
    weights, (row,) = trained(method, images)
    assert weights.isfinite().all()
    assert (weights != bits(lenet())).double().mean() > 0.5
    reported = set() if issubclass(method, Madry) else {"clean_accuracy"}
    reported |= {"adversarial_accuracy", "gradients"} if issubclass(method, AttackMethod) else set()
    own = {Blind: {"mean_norm"}, Bilateral: {"label_budget"}, SMD: {"margin", "margin_correct"}, MMA: {"distance"}}
    own[GradAlign] = {"alignment"}
    reported |= own.get(method, set())
    assert row.keys() == {"epoch", "loss", "lr", "seconds", "images_per_second"} | reported
    assert row["epoch"] == 1
    assert all(isinstance(value, float | int) and math.isfinite(value) for value in row.values())
    assert row["images_per_second"] == pytest.approx(24 * method().replays / row["seconds"])


@every
def test_same_seed_same_bits(method, images):
    torch.manual_seed(1)
    first, _ = trained(method, images, seed=5)
    torch.manual_seed(2)
    second, _ = trained(method, images, seed=5)
    other, _ = trained(method, images, seed=6)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


@every
def test_global_generators_are_left_alone(method, images):
    model = lenet()
    before = traces(nn.Identity(), images.x, images.y)
    fit(model, method(), images, epochs=1, batch_size=12)
    assert traces(nn.Identity(), images.x, images.y) == before


@pytest.mark.parametrize("method", [kind for kind in METHODS.values() if kind is not SPAT])
def test_two_circles(method):
    torch.manual_seed(0)  # not every network has its boundary within reach of DeepFool
    data, model, method = load("two-circles", "train").take(64), TwoCirclesNet(), method()
    before = bits(model)
    history = fit(model, method, data, epochs=2, batch_size=32, lr=0.01, seed=7)
    assert not torch.equal(bits(model), before)
    assert len(history) == 2
    assert {row["epoch"] for row in history} == {1, 2}
    if not isinstance(method, Standard):
        assert (method.attack.bounds, method.attack.seed) == ((-1.0, 1.0), 7)
        x_adv = method.examples(model, Batch(data.x, data.y, torch.arange(64), torch.arange(64), 0))
        assert -1 <= x_adv.min() < 0


@adversarial
def test_bounds_and_seed_are_those_of_data_and_run(method, images):
    given = method()
    method = dataclasses.replace(given, attack=dataclasses.replace(given.attack, bounds=(0.0, 2.0), seed=3))
    method.begin(images, seed=11, epochs=1)
    expected = dataclasses.replace(given.attack, bounds=(0.0, 2.0)).within((0.0, 1.0))
    assert method.attack == dataclasses.replace(expected, seed=11)


@every
def test_batch_statistics_see_each_step_once(method):
    data = Dataset(samples(10, 3, 6, 6), labels(10, 5), classes=("a", "b", "c", "d", "e"))
    model = BatchNormNet().eval()
    fit(model, method(), data, epochs=2, batch_size=4)
    assert model.training
    assert all(module.training for module in model.modules())
    paired = issubclass(method, AdversarialTraining | PairedTraining | SPAT)
    passes = 12 if paired else 6  # a pass each for natural and adversarial samples
    passes = {GradAlign: 18, FGSMPGI: 12, LIET: 12, FreeAT: 6 * FreeAT.replays}.get(method, passes)
    if method not in (SMD, MMA):  # no pass of adversarial samples where none is classified correctly
        assert model[1].num_batches_tracked == model[4].num_batches_tracked == passes


@pytest.mark.parametrize("method", [kind for kind in ADVERSARIAL.values() if kind not in (FGSMPGI, LIET)])
def test_loss_crafts_in_eval_mode_and_leaves_no_gradients(method):
    """But for FGSM-PGI and LIET, whose first pass is one of the loss."""
    model = partly_frozen(BatchNormNet())
    x = samples(8, 3, 6, 6)
    before = traces(model, x)
    method().examples(model, Batch(x, labels(8, 5), torch.arange(8), torch.arange(8), 0))
    assert traces(model, x) == before


@dataclass
class Recorder(Standard):
    """Standard training that keeps what it is given."""

    batches: list[Batch] = field(default_factory=list)
    begun: list[tuple[int, int]] = field(default_factory=list)

    def begin(self, train: Dataset, seed: int, epochs: int) -> None:
        self.begun.append((seed, epochs))

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        assert model.training
        self.batches.append(batch)
        return super().loss(model, batch)


def test_batches(images):
    method = Recorder()
    fit(lenet(), method, images, epochs=3, batch_size=10, seed=4)
    assert [len(batch.y) for batch in method.batches] == [10, 10, 4] * 3
    assert [batch.epoch for batch in method.batches] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    for batch in method.batches:
        assert torch.equal(batch.x, images.x[batch.index])
        assert torch.equal(batch.y, images.y[batch.index])
    orders = torch.cat([batch.index for batch in method.batches]).view(3, 24)
    assert torch.equal(orders.sort(dim=1).values, torch.arange(24).expand(3, 24))
    assert len(orders.unique(dim=0)) == 3, "every epoch has an order of its own"
    assert len(torch.cat([batch.ids for batch in method.batches]).unique()) == 72, "ids are new every epoch"
    assert method.begun == [(4, 3)]


def test_history_holds_means_over_samples(images):
    """With a last batch that is smaller, and nothing learned."""
    model = lenet()
    (row,) = fit(model, Standard(), images, epochs=1, batch_size=10, lr=0)
    logits = model(images.x).detach()
    assert row["loss"] == pytest.approx(float(F.cross_entropy(logits, images.y, label_smoothing=0.1)), rel=1e-5)
    assert row["clean_accuracy"] == pytest.approx(float((logits.argmax(1) == images.y).float().mean()))
    assert torch.equal(bits(model), bits(lenet()))


def test_fit_is_adam(images):
    model, other, recorder = lenet(), lenet(), Recorder()
    fit(model, recorder, images, epochs=2, batch_size=10, lr=0.01)
    optimizer = torch.optim.Adam(other.parameters(), lr=0.01, fused=True)
    for batch in recorder.batches:
        optimizer.zero_grad()
        F.cross_entropy(other(batch.x), batch.y, label_smoothing=0.1).backward()
        optimizer.step()
    assert torch.equal(bits(model), bits(other))


def test_sgd_with_milestones_and_weight_decay(images):
    model, other, recorder = lenet(), lenet(), Recorder()
    settings = {"optimizer": "sgd", "lr": 0.05, "weight_decay": 0.01, "milestones": [1, 2]}
    fit(model, recorder, images, epochs=3, batch_size=12, **settings)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.05, momentum=0.9)
    for batch in recorder.batches:
        optimizer.param_groups[0]["lr"] = 0.05 * 0.1**batch.epoch
        optimizer.zero_grad()
        decay = sum(p.square().sum() for p in other.parameters() if p.dim() > 1)
        (F.cross_entropy(other(batch.x), batch.y, label_smoothing=0.1) + 0.01 * decay / 2).backward()
        optimizer.step()
    torch.testing.assert_close(bits(model), bits(other))


def test_a_decay_of_its_own_at_each_milestone(images):
    """0.05, 0.025, 0.02, 0.02: as 0.1 ... 0.001, 0.0005 of friendly adversarial training."""
    model, other, recorder = lenet(), lenet(), Recorder()
    settings = {"optimizer": "sgd", "lr": 0.05, "milestones": [1, 2], "lr_decay": [0.5, 0.8]}
    fit(model, recorder, images, epochs=4, batch_size=24, **settings)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.05, momentum=0.9)
    for batch, rate in zip(recorder.batches, (0.05, 0.025, 0.02, 0.02), strict=True):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        F.cross_entropy(other(batch.x), batch.y, label_smoothing=0.1).backward()
        optimizer.step()
    torch.testing.assert_close(bits(model), bits(other))


def test_augmentation_comes_before_the_method(images):
    calls, recorder = [], Recorder()

    def augment(x: Tensor, ids: Tensor, seed: int) -> Tensor:
        calls.append((ids, seed))
        return 1 - x

    fit(lenet(), recorder, images, epochs=2, batch_size=12, seed=9, augment=augment)
    for (ids, seed), batch in zip(calls, recorder.batches, strict=True):
        assert torch.equal(batch.x, 1 - images.x[batch.index])
        assert torch.equal(ids, batch.ids)
        assert seed == 9


@dataclass
class Dropping(Method):
    """Draws from torch's global generator, as dropout does."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(F.dropout(model(batch.x), 0.3), batch.y)


in_turn = functools.partial(DRAFineTuning, attack_epochs=2, alternate=True, lam_lr=0.5)


@pytest.mark.parametrize("method", [*METHODS.values(), Dropping, in_turn])
def test_a_resumed_run_ends_with_the_same_bits(method, images, tmp_path):
    settings = {"epochs": 3, "batch_size": 10, "milestones": [2], "weight_decay": 0.01, "seed": 3, "save_every": 2}

    def run(**more) -> tuple[Tensor, list[dict[str, float]], list[dict]]:
        model, states = lenet(), []
        history = fit(model, method(), images, **settings, **more, on_save=states.append)
        return bits(model), history, states

    torch.manual_seed(5)
    weights, history, states = run()
    steps = range(2, 3 * method().replays, 2)
    places = [place for epoch in range(3) for place in (*((epoch, step) for step in steps), (epoch + 1, 0))]
    assert [(state["epoch"], state["step"]) for state in states] == places
    timing = {"seconds", "images_per_second"}
    for start in (places.index((1, 0)), places.index((1, 2))):  # after an epoch, and in the midst of one
        torch.save(states[start], tmp_path / "state.pt")
        torch.manual_seed(6)
        again, resumed, later = run(resume=torch.load(tmp_path / "state.pt", weights_only=True))
        assert torch.equal(again, weights)
        assert [(state["epoch"], state["step"]) for state in later] == places[start + 1 :]
        assert [{k: row[k] for k in row.keys() - timing} for row in resumed] == [
            {k: row[k] for k in row.keys() - timing} for row in history
        ]
        assert resumed[0] == history[0]
    assert run(resume=states[-1])[1] == history  # nothing is left to do


def test_a_state_of_another_network_is_refused(images):
    states = []
    fit(
        TwoCirclesNet(),
        Standard(),
        load("two-circles", "train").take(8),
        epochs=1,
        on_save=states.append,
    )
    fit(lenet(), Standard(), images, epochs=1, optimizer="sgd", on_save=states.append)
    fit(lenet(), Standard(), images, epochs=1, weight_decay=0.1, on_save=states.append)
    for state in (*states, {"state": lenet().state_dict()}):
        with pytest.raises(ValueError, match="cannot resume from this state"):
            fit(lenet(), Standard(), images, epochs=2, resume=state)


def test_patience_stops_when_the_figure_no_longer_rises(images):
    figures = [0.1, 0.3, 0.2, 0.3, 0.25, 0.9]
    seen, states = [], []

    def validate(model: nn.Module) -> dict[str, float]:
        seen.append(model)
        return {"avg_aa": figures[len(seen) - 1], "other": -float(len(seen))}

    model = lenet()
    options = {"validate": validate, "patience": 3, "batch_size": 24}
    history = fit(model, Standard(), images, epochs=10, **options, on_save=states.append)
    assert [row["avg_aa"] for row in history] == figures[:5]
    assert seen == [model] * 5
    assert (
        len(fit(lenet(), Standard(), images, epochs=10, **options, resume=states[-1])) == 5
    )  # it has stopped for good
    for figures, name in (({}, "'none'"), ({"loss": 1.0}, "'loss'")):
        with pytest.raises(ValueError, match=f"validate must give figures with names of their own, got {name}"):
            fit(lenet(), Standard(), images, epochs=2, validate=lambda _, found=figures: found, patience=1)
    with pytest.raises(ValueError, match="patience 2 needs a figure to watch"):
        fit(lenet(), Standard(), images, patience=2)


def test_stale_gradients_are_not_used(images):
    model = lenet()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    fit(model, Standard(), images, epochs=1, batch_size=12)
    assert torch.equal(bits(model), trained(Standard, images)[0])


def test_callbacks(images):
    steps, rows = [], []
    history = fit(
        lenet(),
        Standard(),
        images,
        epochs=2,
        batch_size=10,
        on_step=lambda *s: steps.append(s),
        on_epoch=rows.append,
    )
    assert [place for *place, _ in steps] == [[step, 6] for step in range(1, 7)]
    losses = [float(stats["loss"]) for *_, stats in steps]
    assert steps[-1][2]["lr"] == 1e-3
    assert steps[-1][2]["images_per_second"] > 0
    assert history[0]["loss"] == pytest.approx((10 * losses[0] + 10 * losses[1] + 4 * losses[2]) / 24, rel=1e-5)
    assert rows == history
    assert [row["epoch"] for row in history] == [1, 2]


@pytest.mark.parametrize(
    "options",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"lr": -0.1},
        {"lr": math.nan},
        {"lr": math.inf},
        {"weight_decay": -1.0},
        {"patience": -1},
        {"optimizer": "adma"},
        {"milestones": [5, 3]},
        {"milestones": [0]},
        {"lr_decay": -0.1},
        {"lr_decay": [0.1, 0.1]},
    ],
)
def test_fit_refuses(options, images):
    model = lenet()
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=f"{name} must be .*, got {re.escape(repr(value))}"):
        fit(model, Standard(), images, **options)
    assert torch.equal(bits(model), bits(lenet()))


class Diverging(Standard):
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return super().loss(model, batch) * (torch.nan if batch.epoch == 1 else 1)


def test_a_loss_that_is_not_finite_is_an_error(images):
    rows = []
    with pytest.raises(FloatingPointError, match=r"loss became nan in epoch 2; try a smaller lr than 0.001"):
        fit(lenet(), Diverging(), images, epochs=3, batch_size=12, on_epoch=rows.append)
    assert len(rows) == 1


@pytest.mark.thorough
def test_blind_training_makes_a_network_more_robust():
    train, test = load("fashion-mnist-mini", "train").take(1500), load("fashion-mnist-mini", "test").take(200)
    pgd = PGD(0.1, alpha=0.01, steps=20, random_start=0.5)

    def robust_accuracy(method: Method) -> float:
        model = lenet()
        fit(model, method, train, epochs=5, batch_size=64, lr=2e-3)
        return evaluate(model, test, {"pgd": pgd}).results["pgd"].accuracy

    # Fewer steps and candidates than the paper's: a third of the time.
    blind = robust_accuracy(Blind(attack=DeepFool(steps=5, candidates=4)))
    assert blind > robust_accuracy(Standard()) + 0.03
