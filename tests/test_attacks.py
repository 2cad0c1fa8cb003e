"""fastadv.attacks: closed forms, budgets, independence of the batch, side effects, what is refused."""

import dataclasses
import itertools
import math
import traceback
import warnings

import pytest
import torch
from torch import Tensor, nn
from toys import BatchNormNet, Wavy, labels, linear, partly_frozen, samples, traces

from fastadv import ops
from fastadv.attacks import (
    ALMA,
    ANPGD,
    APGD,
    APGDT,
    ATTACKS,
    CW,
    DDN,
    DIFGSM,
    DRA,
    EAD,
    EOTPGD,
    EPGD,
    FAB,
    FABT,
    FGSM,
    FMN,
    JSMA,
    MIFGSM,
    NIFGSM,
    PDGD,
    PDPGD,
    PGD,
    RFGSM,
    SINIFGSM,
    SPSA,
    TIFGSM,
    TPGD,
    VMIFGSM,
    VNIFGSM,
    APGDRounds,
    Attack,
    AutoAttack,
    Boundary,
    CWLinf,
    DeepFool,
    DynamicPGD,
    FriendlyPGD,
    HopSkipJump,
    Minimal,
    MultiAttack,
    Noise,
    OnePixel,
    OneStepTargeted,
    Pixle,
    SigmaZero,
    Square,
)
from fastadv.attacks._ascend import Rows, ascend, ball_ascent
from fastadv.losses import cross_entropy, lead

pytestmark = pytest.mark.usefixtures("seed_zero")

CASES: dict[str, Attack] = {
    "alma": ALMA(steps=30),
    "anpgd": ANPGD(0.1, steps=5, longest=0.1),
    "apgd": APGD(0.1, steps=5),
    "apgdrounds": APGDRounds(0.1),
    "apgdt": APGDT(0.1, steps=3, targets=2),
    "autoattack": AutoAttack(0.1, "custom", ("apgd-ce",)),
    "boundary": Boundary(60),
    "cw": CW(steps=10, binary_search_steps=4, initial_const=0.01),
    "cwlinf": CWLinf(steps=10),
    "ddn": DDN(steps=10),
    "deepfool": DeepFool(steps=10),
    "difgsm": DIFGSM(0.1, alpha=0.03, steps=5, resize=0.5),
    "dra": DRA(0.1),
    "ead": EAD(steps=20, binary_search_steps=4, initial_const=0.1, lr=0.05),
    "eotpgd": EOTPGD(0.1, alpha=0.03, steps=5),
    "epgd": EPGD(0.1),
    "fab": FAB(steps=5),
    "fabt": FABT(steps=5),
    "fgsm": FGSM(0.1),
    "fmn": FMN(steps=10),
    "dynamic": DynamicPGD(0.1, alpha=0.03, steps=5, fosc=0.05),
    "friendly": FriendlyPGD(0.1, alpha=0.03, steps=5, omega=0.01),
    "hopskipjump": HopSkipJump(2, queries=20),
    "jsma": JSMA(gamma=0.3),
    "mifgsm": MIFGSM(0.1, alpha=0.03, steps=5),
    "minimal": Minimal(APGD(0.1, steps=5), 4),
    "multi": MultiAttack((FGSM(0.1), Noise(0.1))),
    "nifgsm": NIFGSM(0.1, alpha=0.03, steps=5),
    "noise": Noise(0.1),
    "onepixel": OnePixel(pixels=2, steps=3, population=6),
    "pdgd": PDGD(steps=30),
    "pdpgd": PDPGD(steps=30, norm="l2"),
    "onestep": OneStepTargeted(0.1),
    "pgd": PGD(0.1, alpha=0.03, steps=5),
    "pixle": Pixle(2, 3),
    "rfgsm": RFGSM(0.1, 0.05),
    "sigmazero": SigmaZero(steps=10),
    "sinifgsm": SINIFGSM(0.1, alpha=0.03, steps=5, scales=3),
    "spsa": SPSA(0.1, steps=4, samples=8, lr=0.05),
    "square": Square(0.1, queries=30),
    "tifgsm": TIFGSM(0.1, alpha=0.03, steps=5, length=3),
    "tpgd": TPGD(0.1, alpha=0.03, steps=5),
    "vmifgsm": VMIFGSM(0.1, alpha=0.03, steps=5, neighbours=2),
    "vnifgsm": VNIFGSM(0.1, alpha=0.03, steps=5, neighbours=2),
}
BUDGETED = [name for name, attack in CASES.items() if attack.has_budget]
SHAPE = (3, 4, 4)
every = pytest.mark.parametrize("attack", [pytest.param(attack, id=name) for name, attack in CASES.items()])
BLIND = Noise | SPSA | Square | Boundary | HopSkipJump | OnePixel | Pixle
"""They use no gradients."""
SPARSE = JSMA | OnePixel | Pixle
OF_IMAGES = DIFGSM | OnePixel | Pixle
INWARDS = ANPGD | EPGD | Boundary | HopSkipJump | PDPGD
"""They come back from where they were."""
budgeted = pytest.mark.parametrize("attack", [pytest.param(CASES[name], id=name) for name in BUDGETED])


def test_every_attack_has_a_case():
    assert {name: type(attack) for name, attack in CASES.items()} == ATTACKS


def assert_equal(a: object, b: object) -> None:
    """Two results are the same, bit for bit."""
    for field in dataclasses.fields(a):
        one, other = getattr(a, field.name), getattr(b, field.name)
        assert torch.equal(one, other), field.name
        assert one.dtype == other.dtype, field.name


def linf(delta: Tensor) -> Tensor:
    return delta.double().flatten(1).abs().amax(1)


def spent(attack: Attack, delta: Tensor) -> Tensor:
    """How much of its budget an attack has used, in the budget's own measure."""
    return delta.double().flatten(1).abs().mean(1) if isinstance(attack, DRA) else linf(delta)


# ----------------------------------------------------------------------------------------------------- closed forms


def nearest_hyperplane(model: nn.Sequential, x: Tensor, norm: str) -> tuple[Tensor, Tensor]:
    """How far the nearest boundary of a linear model is, in `norm`, and the class behind it."""
    logits, weight = model(x).detach(), model[1].weight.detach()
    predicted = logits.argmax(1)
    gaps = logits.amax(1, keepdim=True) - logits
    dual = {"linf": 1, "l2": 2, "l1": torch.inf}[norm]
    distances = gaps / torch.linalg.vector_norm(weight[predicted].unsqueeze(1) - weight, dual, dim=2)
    return distances.scatter(1, predicted.unsqueeze(1), torch.inf).min(1)


@pytest.mark.parametrize("convention", ["cleverhans", "original", "foolbox"])
@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_deepfool_on_a_linear_model_is_the_nearest_hyperplane(classes, dtype, norm, convention):
    model, x = linear(48, classes, dtype), samples(32, *SHAPE, low=0.3, high=0.7, dtype=dtype)
    distance, nearest = nearest_hyperplane(model, x, norm)
    options = {"norm": norm, "convention": convention}

    found = DeepFool(overshoot=0, **options).run(model, x)
    assert 0 < found.x_adv.min() < found.x_adv.max() < 1, "the closed form needs samples away from the box"
    beyond = 0.0 if convention == "cleverhans" else 1e-4
    torch.testing.assert_close(found.norm, distance + beyond, atol=2e-5, rtol=0)
    assert torch.equal(found.target, nearest)
    assert found.success.all()
    assert found.steps.tolist() == [1] * 32
    assert found.grads.tolist() == [classes - 1] * 32

    further = DeepFool(overshoot=0.02, **options)(model, x)
    torch.testing.assert_close(further - x, 1.02 * (found.x_adv - x), atol=1e-6, rtol=0)


def plain_deepfool(
    model: nn.Module, x: Tensor, steps: int, overshoot: float, candidates: int, norm: str, clipped: bool
) -> tuple[Tensor, int]:
    """The original DeepFool of one sample [1, ...], and the steps it made; the model is asked within the box.

    `clipped`: it is linearised there, too.
    """
    own, *rivals = model(x)[0].argsort(descending=True)[:candidates].tolist()
    total, made, found = torch.zeros_like(x), 0, x
    while made < steps and model(found).argmax() == own:
        point = found if clipped else x + (1 + overshoot) * total
        z, slopes = model(point)[0], torch.autograd.functional.jacobian(model, point)[0]
        ways = []
        for k in rivals:
            w, gap = slopes[k] - slopes[own], abs(z[k] - z[own]).item() + 1e-5
            size = w.norm() if norm == "l2" else w.abs().sum()
            ways.append((gap / size.item() + 1e-4, w / size if norm == "l2" else w.sign()))
        distance, direction = min(ways, key=lambda way: way[0])
        total = total + distance * direction
        found, made = (x + (1 + overshoot) * total).clamp(0, 1), made + 1
    return found, made


@pytest.mark.parametrize("convention", ["original", "foolbox"])
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_deepfool_in_its_original_convention_and_in_that_of_foolbox(norm, convention):
    model, x = Wavy(48, 10), samples(64, *SHAPE, dtype=torch.float64)
    attack = DeepFool(steps=8, overshoot=0.05, candidates=4, norm=norm, convention=convention)
    found = attack.run(model, x)
    for i in range(64):
        x_adv, made = plain_deepfool(model, x[i : i + 1], 8, 0.05, 4, norm, convention == "foolbox")
        torch.testing.assert_close(found.x_adv[i : i + 1], x_adv)
        assert (found.steps[i], found.grads[i]) == (made, 3 * made)
    assert (found.steps > 2).sum() >= 3
    one, other = (dataclasses.replace(attack, steps=1, convention=c)(model, x) for c in (convention, "cleverhans"))
    apart = ops.row_norms(other, norm, one)
    assert (apart < 1.06e-4).all()  # the first step is the same, but for how far beyond the boundary it goes
    assert (apart > 0.9e-4).any()


def test_deepfool_does_not_linearise_at_the_overshoot():
    model, x = Wavy(48, 5), samples(64, *SHAPE, low=0.3, high=0.7, dtype=torch.float64)
    exact, over = (DeepFool(steps=2, overshoot=overshoot).run(model, x) for overshoot in (0.0, 0.02))
    both = (exact.steps == 2) & (over.steps == 2)
    assert both.sum() > 10
    torch.testing.assert_close((over.x_adv - x)[both], 1.02 * (exact.x_adv - x)[both])


def test_deepfool_considers_only_the_best_candidates():
    model, x = linear(48, 10), samples(64, *SHAPE, low=0.3, high=0.7)
    found = DeepFool(candidates=2).run(model, x)
    assert found.steps.sum() == found.grads.sum()
    assert (found.norm > DeepFool().run(model, x).norm + 1e-3).any()


def corner(model: nn.Sequential, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """The worst point for a linear model of two classes."""
    weight = model[1].weight.detach()
    return (x + eps * (weight[1 - y] - weight[y]).sign().view_as(x)).clamp(0, 1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    "attack", [FGSM(0.1), PGD(0.1, 0.03, steps=7), PGD(0.1, 0.1, steps=1, random_start=0), PGD(0.1, 0.2, loss="margin")]
)
def test_sign_attacks_reach_the_corner_of_a_linear_model(attack, dtype):
    model, x, y = linear(48, 2, dtype), samples(32, *SHAPE, dtype=dtype), labels(32, 2)
    torch.testing.assert_close(attack(model, x, y), corner(model, x, y, 0.1), atol=1e-6, rtol=0)


def test_one_step_of_pgd_is_fgsm():
    model, x, y = BatchNormNet(), samples(16, 3, 6, 6), labels(16, 5)
    assert torch.equal(PGD(0.1, 0.1, steps=1, random_start=0)(model, x, y), FGSM(0.1)(model, x, y))


def test_margin_loss_and_cross_entropy_agree_on_two_classes():
    model, x, y = Wavy(48, 2), samples(32, *SHAPE), labels(32, 2)
    ce, margin = (PGD(0.1, 0.02, steps=5, loss=loss)(model, x, y) for loss in ("ce", "margin"))
    assert torch.equal(ce, margin)


def test_margin_loss_and_cross_entropy_differ_on_more():
    model, x, y = Wavy(48, 5), samples(32, *SHAPE), labels(32, 5)
    ce, margin = (PGD(0.1, 0.02, steps=5, loss=loss)(model, x, y) for loss in ("ce", "margin"))
    assert not torch.equal(ce, margin)


@pytest.mark.parametrize("random_start", [0.0, 0.5, 1.0])
def test_more_steps_never_lower_the_loss_of_a_linear_model(random_start):
    """The loss is convex in x, and a projected sign step never goes against the gradient."""
    model, x, y = linear(48, 5, torch.float64), samples(32, *SHAPE, dtype=torch.float64), labels(32, 5)
    runs = [PGD(0.1, 0.01, steps, random_start)(model, x, y) for steps in range(12)]
    losses = torch.stack([cross_entropy(model(x_adv), y) for x_adv in runs])
    assert (losses.diff(dim=0) >= -1e-12).all()
    assert (losses[-1] > losses[0] + 0.1).all()


@pytest.mark.parametrize("random_start", [0.0, 0.5, 1.0])
def test_pgd_is_never_weaker_than_fgsm_on_a_linear_model(random_start):
    model, x, y = linear(48, 2, torch.float64), samples(32, *SHAPE, dtype=torch.float64), labels(32, 2)
    pgd, fgsm = PGD(0.1, 0.02, 10, random_start)(model, x, y), FGSM(0.1)(model, x, y)
    assert (cross_entropy(model(pgd), y) >= cross_entropy(model(fgsm), y) - 1e-12).all()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("kind", [FAB, FABT])
def test_fab_on_a_linear_model_is_the_nearest_hyperplane(kind, classes, norm):
    model, x = linear(48, classes, torch.float64), samples(32, *SHAPE, low=0.3, high=0.7, dtype=torch.float64)
    distance, _ = nearest_hyperplane(model, x, norm)
    found = kind(steps=20, norm=norm).run(model, x)
    assert found.success.all()
    assert (found.norm >= distance - 1e-9).all()
    torch.testing.assert_close(found.norm, distance, rtol=0.01, atol=0)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_fab_without_bounds_is_fab_within_far_ones(norm):
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(12, 4)), torch.randn(6, 3, 2, 2)
    y = model(x).argmax(1)
    without, far = (
        FAB(steps=5, norm=norm, bounds=bounds).run(model, x, y) for bounds in ((-torch.inf, torch.inf), (-99.0, 99.0))
    )
    assert (without.target != y).all()
    torch.testing.assert_close(without.x_adv, far.x_adv)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_first_step_of_fab_is_for_the_nearest_boundary(norm):
    model, x = linear(48, 5, torch.float64), samples(32, *SHAPE, low=0.3, high=0.7, dtype=torch.float64)
    distance, nearest = nearest_hyperplane(model, x, norm)
    found = FAB(steps=1, eta=1.001, norm=norm).run(model, x)
    torch.testing.assert_close(found.norm, 1.001 * distance)
    assert torch.equal(found.target, nearest)
    likeliest = FABT(steps=1, targets=1, eta=1.001, norm=norm).run(model, x)
    assert (likeliest.norm >= found.norm - 1e-9).all()
    assert (likeliest.norm > found.norm + 1e-3).any(), "the likeliest class is always the nearest: a weak test"


def test_fab_goes_to_the_nearest_boundary_and_fab_t_to_each():
    model, x = Wavy(48, 5), samples(32, *SHAPE)
    fab, fabt = FAB(steps=7).run(model, x), FABT(steps=7, targets=3).run(model, x)
    assert fab.steps.tolist() == [7] * 32
    assert fab.grads.tolist() == [28] * 32
    assert fabt.steps.tolist() == fabt.grads.tolist() == [21] * 32
    one = FAB(steps=1).run(model, x)
    each = torch.stack([FABT(steps=1, targets=k).run(model, x).norm for k in (1, 2, 3, 4)])
    assert one.success.double().mean() > 0.5
    assert (one.norm[one.success] >= each.amin(0)[one.success] - 1e-7).all()
    assert (each.diff(dim=0) <= 1e-7)[:, each[0] > 0].all()


@pytest.mark.parametrize("kind", [FAB, FABT])
def test_restarts_of_fab_never_find_larger_perturbations(kind):
    model, x = Wavy(48, 5), samples(48, *SHAPE)
    one, three = (kind(steps=1, restarts=restarts).run(model, x) for restarts in (1, 3))
    assert (three.success >= one.success).all()
    assert (three.norm[one.success] <= one.norm[one.success]).all()
    assert torch.equal(three.grads, 3 * one.grads)


@pytest.mark.parametrize("kind", [FAB, FABT])
def test_fab_leaves_samples_that_are_near_enough(kind):
    model, x = Wavy(48, 5), samples(48, *SHAPE)
    full = kind(steps=20).run(model, x)
    enough = full.norm.median().item()
    found = kind(steps=20, enough=enough, restarts=2).run(model, x)
    near = found.norm <= enough
    assert (near >= (full.norm <= enough)).all()
    assert found.steps[near].max() < found.steps[~near].min()
    sizes = torch.linspace(0, 2 * enough, 48)
    together = kind(steps=5, enough=sizes).run(model, x)
    for i in (0, 11, 47):
        alone = kind(steps=5, enough=sizes[i].item()).run(model, x[i : i + 1], ids=torch.tensor([i]))
        assert torch.equal(together.x_adv[i : i + 1], alone.x_adv)


def test_fab_finds_smaller_perturbations_than_deepfool():
    model, x = Wavy(48, 5), samples(64, *SHAPE)
    fab, deepfool = FABT(steps=30, norm="l2").run(model, x), DeepFool().run(model, x)
    both = fab.success & deepfool.success
    assert both.double().mean() > 0.9
    assert fab.norm[both].mean() < deepfool.norm[both].mean()


DUALS = {"l2": 2, "linf": 1}
nearly = CW(steps=200, lr=0.002, binary_search_steps=6, initial_const=0.01)
carlini = pytest.mark.parametrize("attack", [nearly, CWLinf()])


@carlini
@pytest.mark.parametrize("classes", [2, 5])
def test_carlini_and_wagner_on_a_linear_model_find_the_nearest_hyperplane(attack, classes):
    model, x = linear(48, classes, torch.float64), samples(32, *SHAPE, low=0.3, high=0.7, dtype=torch.float64)
    logits, weight = model(x), model[1].weight
    y = logits.argmax(1)
    gaps = logits.amax(1, keepdim=True) - logits
    distances = gaps / torch.linalg.vector_norm(weight[y].unsqueeze(1) - weight, DUALS[attack.norm], dim=2)
    nearest = distances.scatter(1, y.unsqueeze(1), torch.inf).amin(1).detach()
    found = attack.run(model, x)
    assert found.success.all()
    assert (found.norm >= nearest - 1e-9).all()
    assert (found.norm / nearest).median() < 1.02
    assert (found.norm / nearest).quantile(0.9) < 1.1


@carlini
def test_carlini_and_wagner_move_black_and_white_pixels(attack):
    """The nearest point of the hyperplane within the box: half of the pixels cannot go where they should."""
    model, x = linear(48, 2, torch.float64), samples(32, *SHAPE, dtype=torch.float64).round()
    y = model(x).argmax(1)
    w, bias = away(model, y).detach(), model[1].bias.detach()
    way = ops.hyperplane_projection(x, w, bias[y] - bias[1 - y], attack.norm)
    nearest = ops.row_norms(way, attack.norm)
    found = attack.run(model, x)
    assert found.success.all()
    assert (found.norm >= nearest - 1e-9).all()
    assert (found.norm / nearest).median() < 1.02
    assert (found.norm / nearest).quantile(0.9) < 1.1


def naive_cw(attack: CW, model: nn.Module, x: Tensor, y: int) -> tuple[Tensor, int]:
    """One sample, by torch's own Adam: the point and the gradients it took."""
    const, lower, upper, best, size, grads = attack.initial_const, 0.0, None, x, torch.inf, 0
    for _ in range(attack.binary_search_steps):
        point = x.clone().requires_grad_()
        adam, succeeded, before = torch.optim.Adam([point], attack.lr), False, torch.inf
        for step in range(attack.steps):
            logits = model(point)[0]
            others = torch.cat([logits[:y], logits[y + 1 :]])
            f = (logits[y] - others.max() + attack.kappa).clamp(min=0)
            distance = (point - x).square().sum()
            loss = distance + const * f
            if f == 0:
                succeeded = True
                if distance.sqrt() < size:
                    best, size = point.detach().clone(), distance.sqrt().item()
            adam.zero_grad()
            loss.backward(inputs=[point])
            adam.step()
            grads += 1
            point.data.clamp_(0, 1)
            if attack.abort_early and step % -(-attack.steps // 10) == 0:
                if loss > 0.9999 * before:
                    break
                before = loss.item()
        lower, upper = (lower, const) if succeeded else (const, upper)
        const = 10 * const if upper is None else (lower + upper) / 2
    return best, grads


@pytest.mark.parametrize("options", [{}, {"abort_early": False}, {"kappa": 3.0}, {"initial_const": 10.0}])
def test_cw_is_each_sample_by_itself(options):
    attack = CW(**{"steps": 12, "lr": 0.02, "initial_const": 0.01, "binary_search_steps": 5, **options})
    model, x = Wavy(48, 5), samples(24, *SHAPE, dtype=torch.float64)
    y = model(x).argmax(1)
    found = attack.run(model, x)
    for i in range(24):
        one = slice(i, i + 1)
        best, grads = naive_cw(attack, model, x[one], int(y[i]))
        torch.testing.assert_close(found.x_adv[one], best, atol=1e-9, rtol=0)
        assert found.grads[i] == found.steps[i] == grads
    assert found.success.sum() > 0
    assert len(found.grads.unique()) == 1 if not attack.abort_early else len(found.grads.unique()) > 1


@pytest.mark.thorough
@carlini
def test_an_early_abort_saves_gradients_and_little_else(attack):
    model, x = Wavy(48, 5), samples(64, *SHAPE)
    early, late = (dataclasses.replace(attack, abort_early=abort).run(model, x) for abort in (True, False))
    assert early.grads.sum() < 0.8 * late.grads.sum()
    assert early.success.all()
    assert late.success.all()
    assert early.norm.mean() < 1.1 * late.norm.mean()


def test_more_of_a_search_never_finds_larger_perturbations():
    model, x = Wavy(48, 5), samples(64, *SHAPE)
    consts = [0.03, 0.3, 3.0, 30.0]
    for runs in (
        [CW(steps=20, initial_const=0.01, binary_search_steps=count).run(model, x) for count in range(1, 7)],
        [CWLinf(steps=20, initial_const=0.01, largest_const=most).run(model, x) for most in consts],
    ):
        norms = torch.stack([torch.where(found.success, found.norm, torch.inf) for found in runs])
        assert (norms[1:] <= norms[:-1]).all()
        assert norms[-1].isfinite().all()
        assert (norms[-1] < norms[0]).double().mean() > 0.5


@pytest.mark.thorough
@pytest.mark.parametrize("targeted", [True, False])
@carlini
def test_kappa_is_the_lead_that_is_asked_for(attack, targeted):
    model, x = Wavy(48, 5), samples(64, *SHAPE)
    y = (model(x).argmax(1) + targeted) % 5
    plain, sure = (dataclasses.replace(attack, kappa=kappa, targeted=targeted)(model, x, y) for kappa in (0.0, 4.0))
    sign = 1 if targeted else -1
    moved = (sure != x).flatten(1).any(1)
    assert moved.double().mean() > 0.9
    assert (sign * lead(model(sure), y)[moved] >= 4).all()
    assert (sign * lead(model(plain), y)).median() < 1


def naive_ddn(attack: DDN, model: nn.Module, x: Tensor, y: int) -> Tensor:
    """One sample, as in the paper, with a perturbation and a radius of its own."""
    delta, radius, best, size = torch.zeros_like(x), attack.init_norm, x, torch.inf
    for k in range(attack.steps + 1):
        point = (x + delta).requires_grad_()
        logits = model(point)
        fooled = (logits.argmax() == y) == attack.targeted
        if fooled and delta.norm() < size:
            best, size = point.detach(), delta.norm()
        if k < attack.steps:
            slope = logits.detach().softmax(dim=1)
            slope[0, y] = -slope[0, torch.arange(5) != y].sum()
            (grad,) = torch.autograd.grad(logits, point, slope)  # of the cross-entropy, where it all but vanishes, too
            alpha = (0.01 + 0.99 * (1 + math.cos(math.pi * k / attack.steps)) / 2) * (-1 if attack.targeted else 1)
            radius *= 1 - attack.gamma if fooled else 1 + attack.gamma
            delta = delta + alpha * grad / grad.norm()
            delta = (x + radius * delta / delta.norm()).clamp(0, 1) - x
    return best


@pytest.mark.parametrize("options", [{}, {"targeted": True}, {"steps": 30}, {"gamma": 0.3, "init_norm": 0.2}])
def test_ddn_is_each_sample_by_itself(options):
    attack = DDN(**{"steps": 12, **options})
    model, x, y = Wavy(48, 5), samples(24, *SHAPE, dtype=torch.float64), labels(24, 5)
    if not attack.targeted:
        y[::2] = model(x).argmax(1)[::2]
    found = attack.run(model, x, y)
    for i in range(24):
        one = slice(i, i + 1)
        torch.testing.assert_close(found.x_adv[one], naive_ddn(attack, model, x[one], int(y[i])), atol=1e-9, rtol=0)
    assert set(found.steps.tolist()) == set(found.grads.tolist()) == {0, attack.steps}
    assert (found.norm > 0).sum() >= 8


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_ddn_on_a_linear_model_closes_in_on_the_boundary(dtype):
    model, x = linear(48, 2, dtype), samples(32, *SHAPE, low=0.3, high=0.7, dtype=dtype)
    distance, _ = nearest_hyperplane(model, x, "l2")
    found = DDN(steps=200).run(model, x)
    assert found.success.all()
    assert (found.norm >= distance * (1 - 1e-5)).all()
    torch.testing.assert_close(found.norm, distance, rtol=0.01, atol=0)

    many = linear(48, 5, dtype)
    found, (distance, _) = DDN(steps=200).run(many, x), nearest_hyperplane(many, x, "l2")
    assert found.success.all()
    assert (found.norm >= distance * (1 - 1e-5)).all()
    assert (found.norm / distance).median() < 1.2  # cross-entropy leaves the class, not across its nearest boundary


@pytest.mark.parametrize("steps", [1, 3, 6])
def test_the_radius_of_ddn_bounds_what_it_reaches(steps):
    """On the way out along a straight line, the first sphere that crosses the boundary is the nearest so far."""
    model, x = linear(48, 2, torch.float64), samples(64, *SHAPE, low=0.3, high=0.7, dtype=torch.float64)
    distance, _ = nearest_hyperplane(model, x, "l2")
    found = DDN(steps=steps, gamma=0.5, init_norm=0.02).run(model, x)
    assert torch.equal(found.success, distance < 0.02 * 1.5**steps)
    assert torch.equal(found.x_adv[~found.success], x[~found.success])
    last = found.success & (distance > 0.02 * 1.5 ** (steps - 1))
    torch.testing.assert_close(found.norm[last], torch.full_like(found.norm[last], 0.02 * 1.5**steps))
    assert last.any()


def test_cwlinf_ends_with_a_model_that_changes_its_mind():
    model, x, y, calls = linear(48, 2), samples(4, *SHAPE), None, itertools.count()
    y = model(x).argmax(1)

    def fickle(x: Tensor) -> Tensor:
        call = next(calls)
        assert call < 1000, "it goes on for ever"
        return model(x) if call == 0 else -model(x)

    assert torch.equal(CWLinf()(fickle, x, y), x)


def test_rfgsm_is_a_step_of_noise_and_a_step_of_fgsm():
    model, x = Wavy(48, 5), middle(dtype=torch.float32)
    noise = Noise(0.03, law="sign")(model, x)
    torch.testing.assert_close(
        RFGSM(0.06, 0.03)(model, x, model(x).argmax(1)), FGSM(0.03)(model, noise, model(x).argmax(1))
    )
    far = RFGSM(0.03, 0.03, steps=3)(model, x)
    assert linf(far - x).max() <= 0.03 + 1e-7


def middle(n: int = 16, dtype: torch.dtype = torch.float64) -> Tensor:
    """Samples whose small perturbations stay in the box."""
    return samples(n, *SHAPE, low=0.4, high=0.6, dtype=dtype)


def away(model: nn.Sequential, y: Tensor) -> Tensor:
    """The direction that leaves class y of a linear model of two classes."""
    return (model[1].weight[1 - y] - model[1].weight[y]).detach().view(-1, *SHAPE)


def test_pgd_in_l2_goes_straight_away_from_the_boundary():
    model, x, y = linear(48, 2, torch.float64), middle(), labels(16, 2)
    found = PGD(0.2, 0.05, steps=20, random_start=0, norm="l2").run(model, x, y)
    w = away(model, y)
    torch.testing.assert_close(found.x_adv - x, 0.2 * w / w.flatten(1).norm(dim=1).view(-1, 1, 1, 1), atol=1e-3, rtol=0)
    torch.testing.assert_close(found.norm, torch.full_like(found.norm, 0.2))


def test_pgd_in_l1_moves_the_pixel_of_most_weight():
    model, x, y = linear(48, 2, torch.float64), middle(), labels(16, 2)
    found = PGD(0.2, 2.0, steps=200, norm="l1").run(model, x, y)
    w = away(model, y).flatten(1)
    best = w.abs().argmax(1, keepdim=True)
    expected = torch.zeros_like(w).scatter(1, best, 0.2 * w.gather(1, best).sign())
    torch.testing.assert_close((found.x_adv - x).flatten(1), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_pgd_in_every_norm_stays_in_ball_and_box(norm):
    eps = torch.linspace(0, {"linf": 0.3, "l2": 2.0, "l1": 8.0}[norm], 32)
    found = PGD(eps, eps / 3, steps=5, norm=norm).run(Wavy(48, 5), samples(32, *SHAPE))
    assert (found.norm <= eps * (1 + 1e-6)).all()
    assert (found.norm[1:] > eps[1:] / 3).all()
    assert 0 <= found.x_adv.min() < found.x_adv.max() <= 1


def test_momentum_reaches_the_corner_and_is_not_pgd():
    model, x, y = linear(48, 2), samples(32, *SHAPE), labels(32, 2)
    torch.testing.assert_close(MIFGSM(0.1, 0.03, 7)(model, x, y), corner(model, x, y, 0.1), atol=1e-6, rtol=0)
    wavy = Wavy(48, 5)
    plain, momentum, none = (PGD(0.2, 0.03, 9, random_start=0), MIFGSM(0.2, 0.03, 9), MIFGSM(0.2, 0.03, 9, decay=0))
    assert not torch.equal(momentum(wavy, x), plain(wavy, x))
    assert torch.equal(none(wavy, x), plain(wavy, x))


@pytest.mark.parametrize(
    "attack",
    [
        PGD(0.4, 0.05, steps=20, loss="margin", targeted=True),
        PGD(0.4, 0.05, steps=20, targeted=True),
        MIFGSM(0.4, 0.05, steps=20, targeted=True),
        FGSM(0.4, targeted=True),
        RFGSM(0.4, 0.05, 20, targeted=True),
        CW(targeted=True),
        CWLinf(targeted=True),
        DDN(targeted=True),
        APGD(0.4, steps=20, targeted=True),
        APGD(0.4, steps=20, loss="dlr", targeted=True),
    ],
)
def test_targeted_attacks_arrive(attack):
    model, x = linear(48, 5), samples(64, *SHAPE)
    targets = (model(x).argmax(1) + 1) % 5
    found = attack.run(model, x, targets)
    assert torch.equal(found.success, found.target == targets)
    assert found.success.double().mean() > 0.9
    with pytest.raises(ValueError, match="targeted: give the classes"):
        attack(model, x)


def test_restarts_take_only_those_that_none_has_fooled():
    model, x = Wavy(48, 5), samples(64, *SHAPE)
    one, three = (PGD(0.05, 0.02, steps=3, restarts=restarts).run(model, x) for restarts in (1, 3))
    assert 0 < one.success.double().mean() < 1
    assert (three.success >= one.success).all()
    assert three.success.sum() > one.success.sum()
    assert torch.equal(three.x_adv[one.success], one.x_adv[one.success])
    assert set(three.steps[~three.success].tolist()) == {9}
    assert set(three.steps[one.success].tolist()) == {3}


def test_kl_leaves_the_prediction_at_x():
    model, x = Wavy(48, 5), samples(32, *SHAPE)
    found = PGD(0.05, 0.02, steps=5, loss="kl")(model, x)
    natural, start, end = (model(at).log_softmax(1) for at in (x, PGD(0.05, 0.02, steps=0)(model, x), found))
    away, before = ((natural.exp() * (natural - q)).sum(1) for q in (end, start))
    assert away.mean() > before.mean() > 0


# ------------------------------------------------------------------------------------- PGD-K-tau, DRA, EPGD, one step


def friendly(model: nn.Module, x: Tensor, y: int, start: Tensor, eps: float, alpha: float, steps: int, tau: int):
    """Algorithm 1 of the FAT paper for one sample: the point and the steps that were made."""
    point, made = start, 0
    for _ in range(steps):
        leaf = point.clone().requires_grad_()
        logits = model(leaf)
        if logits.argmax() != y:
            if tau == 0:
                break
            tau -= 1
        (grad,) = torch.autograd.grad(cross_entropy(logits, torch.tensor([y])).sum(), leaf)
        point = (x + (point + alpha * grad.sign() - x).clip(-eps, eps)).clip(0, 1)
        made += 1
    return point, made


@pytest.mark.parametrize("start", [1.0, 0.5, "gaussian", "gaussian-unclipped", 0])
def test_friendly_pgd_is_algorithm_1(start):
    model, x, y = Wavy(48, 5), samples(24, *SHAPE, dtype=torch.float64), labels(24, 5)
    y[::2] = model(x[::2]).argmax(1)
    tau = torch.arange(24) % 4
    x[:, :, :2] = x[:, :, :2].round()  # at the bounds, where starts may be clipped
    found = FriendlyPGD(0.1, 0.01, steps=10, tau=tau, random_start=start, seed=0).run(model, x, y)
    starts = FriendlyPGD(0.1, 0.01, steps=0, random_start=start, seed=0)(model, x, y)
    if start == "gaussian-unclipped":
        starts = ops.random_start(x, torch.arange(24), 0.001, 0, 0, "gaussian", -math.inf, math.inf)
        assert starts.min() < 0
    for i in range(24):
        one = slice(i, i + 1)
        point, made = friendly(model, x[one], int(y[i]), starts[one], 0.1, 0.01, 10, int(tau[i]))
        point = point.clip(0, 1)
        torch.testing.assert_close(found.x_adv[one], point, atol=1e-12, rtol=0)
        assert found.steps[i] == found.grads[i] == made
    assert len(set(found.steps.tolist())) > 4


@pytest.mark.parametrize("loss", ["ce", "kl"])
def test_starts_may_lie_outside_the_bounds(loss):
    """TRADES' do: where x is at a bound, the noise keeps both signs, and the first gradient is another."""
    model, x, y = Wavy(48, 5), samples(24, *SHAPE, dtype=torch.float64).round(), labels(24, 5)
    seen = []

    def looking(at: Tensor) -> Tensor:
        seen.append(at.detach().clone())
        return model(at)

    attack = PGD(0.1, 0.02, 3, random_start="gaussian-unclipped", loss=loss)
    found = attack(looking, x, y)
    noise = seen[-3] - x
    assert 0.0009 < noise.std() < 0.0011
    assert 0.4 < (noise[x == 0] < 0).double().mean() < 0.6
    assert found.min() >= 0
    assert found.max() <= 1
    point = x + noise
    for _ in range(3):
        leaf = point.requires_grad_()
        natural, logits = model(x).log_softmax(1), model(leaf)
        value = cross_entropy(logits, y) if loss == "ce" else (natural.exp() * (natural - logits.log_softmax(1))).sum(1)
        (grad,) = torch.autograd.grad(value.sum(), leaf)
        point = (x + (point.detach() + 0.02 * grad.sign() - x).clip(-0.1, 0.1)).clip(0, 1)
    torch.testing.assert_close(found, point, atol=1e-12, rtol=0)
    clipped = dataclasses.replace(attack, random_start="gaussian")(model, x, y)
    assert loss == "ce" or not torch.equal(found, clipped)


def test_friendly_pgd_takes_a_tau_for_each_sample_or_one_for_all():
    model, x, y = Wavy(48, 5), samples(6, *SHAPE, dtype=torch.float64), labels(6, 5)
    attack = FriendlyPGD(0.1, 0.01, tau=1)
    for tau in (torch.tensor(1), torch.tensor([1]), torch.ones(6, dtype=torch.int64)):
        assert torch.equal(dataclasses.replace(attack, tau=tau)(model, x, y), attack(model, x, y))
    with pytest.raises(ValueError, match=r"tau must be one number or one a sample, \(6,\), got \(5,\)"):
        FriendlyPGD(tau=torch.zeros(5, dtype=torch.int64))(model, x, y)


def test_friendly_pgd_that_never_stops_is_pgd():
    model, x, y = Wavy(48, 5), samples(24, *SHAPE), labels(24, 5)
    assert torch.equal(FriendlyPGD(0.1, 0.02, 7, tau=7)(model, x, y), PGD(0.1, 0.02, 7)(model, x, y))


def test_friendly_pgd_without_projection_goes_as_far_as_its_steps():
    model, x = linear(48, 2), middle(dtype=torch.float32)
    y = model(x).argmax(1)
    found = FriendlyPGD(float("inf"), 0.01, steps=30, tau=30, random_start=0).run(model, x, y)
    torch.testing.assert_close(linf(found.x_adv - x), torch.full((16,), 0.3, dtype=torch.float64), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("margin", "rho"), [("loss", 0.5), ("probability", 0.2)])
def test_friendly_pgd_asks_for_a_margin(margin, rho):
    """Appendix A.1: it stops where the loss or the probability of the best class leaves the label's behind by rho."""
    model, x, y = Wavy(48, 5), samples(24, *SHAPE, dtype=torch.float64), labels(24, 5)
    y[::2] = model(x[::2]).argmax(1)
    options = {"eps": 0.2, "alpha": 0.005, "steps": 12, "random_start": 0}
    found = FriendlyPGD(**options, rho=rho, margin=margin).run(model, x, y)
    path = [FriendlyPGD(**(options | {"steps": k}), tau=k)(model, x, y) for k in range(13)]
    for i in range(24):
        p = torch.stack([model(points[i : i + 1])[0].softmax(0) for points in path])
        ahead = p.log().amax(1) - p[:, y[i]].log() if margin == "loss" else p.amax(1) - p[:, y[i]]
        made = next((k for k in range(12) if ahead[k] >= rho), 12)
        assert found.steps[i] == made
        torch.testing.assert_close(found.x_adv[i], path[made][i], atol=1e-12, rtol=0)
    assert len(set(found.steps.tolist())) > 4
    plain = FriendlyPGD(**options).run(model, x, y)
    assert (found.steps >= plain.steps).all()
    assert (found.steps > plain.steps).any()


def dynamic(model: nn.Module, x: Tensor, y: int, start: Tensor, eps: float, alpha: float, steps: int, fosc: float):
    """DAT's attack on one sample as published, and the steps made."""
    point = start.clone()
    for made in range(steps):
        leaf = point.clone().requires_grad_()
        (grad,) = torch.autograd.grad(cross_entropy(model(leaf), torch.tensor([y])).sum(), leaf)
        if made and eps * grad.abs().sum() - ((point - x) * grad).sum() <= fosc:
            return point, made
        point = (x + (point + alpha * grad.sign() - x).clip(-eps, eps)).clip(0, 1)
    return point, steps


@pytest.mark.parametrize("fosc", [1.0, 3.0])
def test_dynamic_pgd_stops_at_a_stationary_point(fosc):
    model, x, y = Wavy(48, 5), samples(24, *SHAPE, dtype=torch.float64), labels(24, 5)
    attack = DynamicPGD(0.05, 0.02, steps=8, fosc=fosc)
    found = attack.run(model, x, y)
    starts = PGD(0.05, 0.02, steps=0)(model, x, y)
    for i in range(24):
        one = slice(i, i + 1)
        point, made = dynamic(model, x[one], int(y[i]), starts[one], 0.05, 0.02, 8, fosc)
        torch.testing.assert_close(found.x_adv[one], point, atol=1e-12, rtol=0)
        assert found.steps[i] == found.grads[i] == made
    assert len(set(found.steps.tolist())) > 2


def test_dynamic_pgd_in_a_corner_of_a_linear_model():
    """One step of 2 eps leads into the corner, where c is 0, unless the box is in the way."""
    model, x, y = (
        linear(48, 2, torch.float64),
        samples(16, *SHAPE, low=0.3, high=0.7, dtype=torch.float64),
        labels(16, 2),
    )
    found = DynamicPGD(0.1, 0.2, steps=5, fosc=1e-9).run(model, x, y)
    assert found.steps.tolist() == [1] * 16
    assert torch.equal(found.x_adv, PGD(0.1, 0.2, steps=5)(model, x, y))
    assert DynamicPGD(0.1, 0.2, steps=5, fosc=-1.0).run(model, x, y).steps.tolist() == [5] * 16


def test_noise_in_friendly_pgd_is_new_at_every_step():
    x, y = middle(dtype=torch.float32), torch.zeros(16, dtype=torch.int64)
    still = lambda x: x.flatten(1)[:, :3] * 0 + torch.tensor([1.0, 0.0, 0.0])  # noqa: E731
    points = [FriendlyPGD(0.3, 0, k, random_start=0, omega=0.01)(still, x, y) for k in range(4)]
    moves = torch.stack([(b - a).flatten() for a, b in itertools.pairwise(points)])
    torch.testing.assert_close(moves.std(dim=1), torch.full((3,), 0.01), rtol=0.1, atol=0)
    assert torch.corrcoef(moves).fill_diagonal_(0).abs().max() < 0.15


@pytest.mark.parametrize("normalise", ["all", "kept"])
@pytest.mark.parametrize("p", [0.1, 1 / 3, 1.0])
def test_dra_moves_the_largest_entries_in_proportion(p, normalise):
    model, x, y = linear(48, 2, torch.float64), middle(), labels(16, 2)
    found = DRA(0.005, steps=5, p=p, normalise=normalise).run(model, x, y)
    w, count = away(model, y).flatten(1), -(-round(48 * p * 100) // 100)
    kept = torch.zeros_like(w).scatter(1, w.abs().topk(count, dim=1).indices, 1.0) * w
    scale = (kept if normalise == "kept" else w).abs().sum(1, keepdim=True)
    torch.testing.assert_close((found.x_adv - x).flatten(1), 0.005 * 48 * kept / scale, atol=1e-9, rtol=0)
    assert (found.norm <= 0.005 * 48 * (1 + 1e-9)).all()


@pytest.mark.parametrize("projection", ["radial", "simplex"])
@pytest.mark.parametrize("normalise", ["all", "kept"])
@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
def test_the_bound_of_dra_binds_at_a_scale_above_1_only(scale, normalise, projection):
    """A sample at a time, without a bound: each of T steps adds scale * eps / T to the mean change at the most."""
    model, x, y = Wavy(48, 5), samples(8, *SHAPE, dtype=torch.float64), labels(8, 5)
    found = DRA(0.05, steps=4, p=0.5, scale=scale, normalise=normalise, projection=projection)(model, x, y)
    free = []
    for i in range(8):
        point = x[i : i + 1]
        for _ in range(4):
            leaf = point.clone().requires_grad_()
            (grad,) = torch.autograd.grad(nn.functional.cross_entropy(model(leaf), y[i : i + 1]), leaf)
            grad = grad.flatten()
            kept = torch.where(grad.abs() >= grad.abs().sort().values[-24], grad, 0.0)
            whole = (kept if normalise == "kept" else grad).abs().mean()
            point = (point + scale * 0.05 / 4 * (kept / whole).view_as(point)).clamp(0, 1)
        free.append(point)
    free = torch.cat(free)
    mean = (free - x).flatten(1).abs().mean(1)
    if scale <= 1:
        assert (mean <= scale * 0.05 * (1 + 1e-12)).all()
        torch.testing.assert_close(found, free, atol=1e-12, rtol=0)
    else:
        assert (mean > 0.05).all()
        assert ((found - x).flatten(1).abs().mean(1) <= 0.05 * (1 + 1e-12)).all()


def naive_epgd(model: nn.Module, x: Tensor, y: Tensor, eps: Tensor, steps: int, halvings: int) -> Tensor:
    x_adv = PGD(eps, 4 * eps / steps, steps, random_start=0)(model, x, y)
    inner, outer = x, x_adv
    for _ in range(halvings):
        middle = (inner + outer) / 2
        right = (model(middle).argmax(1) == y).view(-1, 1, 1, 1)
        inner, outer = torch.where(right, middle, inner), torch.where(right, outer, middle)
    return inner


def test_epgd_is_pgd_and_a_bisection():
    model, x = Wavy(48, 5), samples(64, *SHAPE, dtype=torch.float64)
    y, eps = model(x).argmax(1), torch.linspace(0.005, 0.05, 64, dtype=torch.float64)
    found = EPGD(eps, steps=8)(model, x, y)
    assert torch.equal(found, naive_epgd(model, x, y, eps, 8, 10))


def test_epgd_ends_just_before_the_boundary():
    model, x = linear(48, 2, torch.float64), middle()
    y = model(x).argmax(1)
    found = EPGD(0.3, steps=20).run(model, x, y)
    w = away(model, y).flatten(1)
    margin = -(w * (x.flatten(1) - 0.5)).sum(1) / w.abs().sum(1)  # |f| / |w|_1, the boundary passing through the middle
    assert not found.success.any()
    assert (found.norm <= margin).all()
    torch.testing.assert_close(found.norm, margin, atol=0.3 / 1024 + 1e-9, rtol=0)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_anpgd_finds_the_distance_of_a_linear_boundary(norm):
    """PGD's direction is the shortest; where that is longer than `longest`, that is how far it goes."""
    model, x = linear(48, 2, torch.float64), middle()
    y = model(x).argmax(1)
    w = away(model, y).flatten(1)
    dual = w.abs().sum(1) if norm == "linf" else w.norm(dim=1)
    distance = -(w * (x.flatten(1) - 0.5)).sum(1) / dual
    longest = float(distance.median())
    attack = ANPGD(longest, steps=10, longest=longest, bisections=20, random_start=0.0, norm=norm)
    rows, found = attack.rows(model, x, y), attack.run(model, x, y)
    torch.testing.assert_close(rows.state.distance, distance.clamp(max=longest), atol=1e-5 * longest, rtol=0)
    torch.testing.assert_close(found.norm, rows.state.distance)
    assert torch.equal(found.success, distance < longest)
    assert (rows.grads == 10).all()


def test_anpgd_knows_the_soft_boundary():
    """Three classes, of which two are alike: the label is the likeliest beyond the point where it has one half."""
    x, y = torch.full((1, 1), 0.2, dtype=torch.float64), torch.tensor([0])
    model = lambda x: torch.cat((0.5 - x, 0 * x, 0 * x), dim=1)  # noqa: E731
    attack = ANPGD(0.4, longest=0.4, bisections=30, random_start=0.0)
    assert float(attack.rows(model, x, y).state.distance) == pytest.approx(0.3)
    x = x - 1
    soft = dataclasses.replace(attack, soft=True, eps=0.9, longest=0.9, bounds=(-1.0, 1.0)).rows(model, x, y)
    assert float(soft.x_adv) == pytest.approx(0.5 - math.log(2))


@pytest.mark.parametrize("bisect", ["true", "literal"])
def test_epgd_knows_who_has_crossed_the_boundary(bisect):
    """At any of PGD's points: two steps of 0.1 to a class that begins at 0.57 and ends at 0.67."""
    x, y = torch.tensor([[0.2], [0.4], [0.5], [0.6]]), torch.zeros(4, dtype=torch.int64)
    model = lambda x: torch.cat((0 * x, 0.05 - (x - 0.62).abs()), dim=1)  # noqa: E731
    attack = EPGD(0.3, alpha=0.1, steps=2, bisect=bisect)
    ends = PGD(0.3, alpha=0.1, steps=2, random_start=0)(model, x, y)
    assert model(ends).argmax(1).tolist() == [0, 1, 0, 1]
    assert attack.rows(model, x, y).state.crossed.tolist() == [False, True, True, True]


def test_epgd_with_the_soft_margin_moves_where_cross_entropy_is_flat():
    """Cross-entropy is softplus of the soft margin: the same way up, until it is 0 in the arithmetic's precision."""
    model, x = linear(48, 5, torch.float64), samples(32, *SHAPE, dtype=torch.float64)
    y = model(x).argmax(1)
    soft, hard = EPGD(0.01, loss="slm"), EPGD(0.01)
    torch.testing.assert_close(soft(model, x, y), hard(model, x, y))
    sure = lambda x: 1e7 * model(x)  # noqa: E731
    moved = [((attack(sure, x, y) - x) != 0).flatten(1).any(1) for attack in (soft, hard)]
    assert moved[0].all()
    assert not moved[1].any()


def test_epgd_as_printed_gets_stuck_half_way():
    model, x = linear(48, 2, torch.float64), middle()
    y = model(x).argmax(1)
    far, printed = (EPGD(0.001, steps=20, bisect=bisect).run(model, x, y).norm for bisect in ("true", "literal"))
    torch.testing.assert_close(far, torch.full_like(far, 0.001 * 1023 / 1024))
    torch.testing.assert_close(printed, torch.full_like(far, 0.0005))


@pytest.mark.parametrize("towards", ["most_confusing", "least_likely", "random"])
def test_one_step_goes_towards_a_wrong_class(towards):
    model, x, y = linear(48, 5), middle(64, torch.float32), labels(64, 5)
    attack = OneStepTargeted(0.05, towards=towards, random_start=False)
    moved = (attack(model, x, y) - x).flatten(1)
    logits = model(x).detach().scatter(1, y.unsqueeze(1), torch.nan)
    fitting = []
    for k in range(5):
        leaf = x.clone().requires_grad_()
        (grad,) = torch.autograd.grad(cross_entropy(model(leaf), torch.full_like(y, k)).sum(), leaf)
        fitting.append((moved + 0.05 * grad.sign().flatten(1)).abs().amax(1) < 1e-6)
    goal = torch.stack(fitting, dim=1)
    assert (goal.sum(1) == 1).all()
    goal = goal.int().argmax(1)
    assert (goal != y).all()
    wanted = {
        "most_confusing": logits.nan_to_num(-torch.inf).argmax(1),
        "least_likely": logits.nan_to_num(torch.inf).argmin(1),
    }
    assert torch.equal(goal, wanted.get(towards, goal))
    if towards == "random":
        ahead = (goal - y) % 5
        assert set(ahead.tolist()) == {1, 2, 3, 4}
        assert ahead.bincount(minlength=5)[1:].min() >= 6


def test_one_step_towards_any_class_is_fgsm_from_a_start_that_may_leave_the_box():
    model, x, y = Wavy(48, 5), samples(32, 3, 4, 4, dtype=torch.float64), labels(32, 5)
    still = OneStepTargeted(0.05, towards="any", random_start=False)
    assert torch.equal(still(model, x, y), FGSM(0.05)(model, x, y))
    start = ops.random_start(x, torch.arange(32), 0.3, 0, 0, "uniform", -math.inf, math.inf)
    assert ((start < 0) | (start > 1)).any()
    leaf = start.clone().requires_grad_()
    (grad,) = torch.autograd.grad(cross_entropy(model(leaf), y).sum(), leaf)
    expected = (start + 0.3 * grad.sign()).clamp(x - 0.3, x + 0.3).clamp(0, 1)
    torch.testing.assert_close(OneStepTargeted(0.3, towards="any")(model, x, y), expected)


# ---------------------------------------------------------------------------------------------------------- budgets


@every
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 1.0)])
def test_results_lie_in_ball_and_box(attack, bounds):
    attack = dataclasses.replace(attack, bounds=bounds)
    model, x = linear(48, 5), samples(32, *SHAPE, low=bounds[0], high=bounds[1])
    x_adv = attack(model, x)
    assert bounds[0] <= x_adv.min() < x_adv.max() <= bounds[1]
    if not isinstance(attack, INWARDS | SPARSE):
        assert (x_adv.min(), x_adv.max()) == bounds, "the box is never reached: a weak test"
    if attack.has_budget:
        size = spent(attack, x_adv - x)
        assert size.max() <= attack.eps + 1e-7
        # One comes back from where it was, the other leaves robust samples as they are.
        assert isinstance(attack, EPGD | AutoAttack) or size.min() > 0.4 * attack.eps


@every
def test_bounds_hold_as_the_samples_round_them(attack):
    bounds = (0.7, 0.8)  # float32 rounds the first down and the second up
    attack = dataclasses.replace(attack.at(0.02) if attack.has_budget else attack, bounds=bounds)
    model, x = Wavy(48, 5), samples(8, *SHAPE, low=0.7, high=0.8)
    x.view(-1)[:2] = torch.tensor(bounds)
    x_adv = attack(model, x)
    lowest, highest = torch.tensor(bounds)
    assert lowest <= x_adv.min()
    assert x_adv.max() <= highest
    assert isinstance(attack, INWARDS | SPARSE) or (x_adv.min(), x_adv.max()) == (lowest, highest)
    attack(model, x_adv)


IN_UNITS = ("eps", "alpha", "longest", "omega", "enough")
"""Options in the units of the inputs; all others are shares, counts or names."""


def scaled(attack: Attack, factor: float) -> Attack:
    """The same attack on inputs that are `factor` times as large."""
    own = {item.name: getattr(attack, item.name) for item in dataclasses.fields(attack)}
    sizes = {name: factor * own[name] for name in IN_UNITS if own.get(name) is not None}
    if isinstance(attack, MultiAttack):
        sizes["attacks"] = tuple(scaled(each, factor) for each in attack.attacks)
    return dataclasses.replace(attack, bounds=tuple(factor * bound for bound in attack.bounds), **sizes)


@pytest.mark.parametrize(
    "attack",
    [
        *(pytest.param(attack, id=name) for name, attack in CASES.items()),
        CW(steps=30, binary_search_steps=4),
        CWLinf(steps=30),
        DDN(steps=30, init_norm=0.2),
        DeepFool(convention="original"),
        DeepFool(convention="original", norm="linf"),
        PGD(1.0, 0.2, norm="l2"),
        PGD(5.0, 1.0, norm="l1"),
        PGD(0.05, 0.01, 3, random_start="gaussian", loss="kl"),
        PGD(0.05, 0.01, 3, random_start="gaussian-unclipped", loss="spat"),
        FriendlyPGD(0.1, 0.02, random_start="gaussian", omega=0.01),
        DynamicPGD(0.1, 0.02, fosc=0.5),
        FAB(steps=5, restarts=2, enough=0.01),
        APGD(1.0, steps=10, norm="l2", loss="dlr"),
        Square(1.0, 30, norm="l2"),
    ],
)
def test_attacks_scale_with_the_inputs(attack):
    """By a power of two, so that nothing is rounded otherwise: as for [0, 255], where constants used to count as 1."""
    model, x, y = Wavy(48, 5), samples(24, *SHAPE, dtype=torch.float64), labels(24, 5)
    found = attack.run(model, x, y)
    large = scaled(attack, 256.0).run(lambda x: model(x / 256), 256 * x, y)
    assert found.success.any()
    assert torch.equal(large.success, found.success)
    assert torch.equal(large.steps, found.steps)
    torch.testing.assert_close(large.x_adv / 256, found.x_adv, rtol=0, atol=1e-12)
    torch.testing.assert_close(large.norm / (1 if attack.norm == "l0" else 256), found.norm)


@every
def test_budgets_scale_with_the_bounds(attack):
    """The rule of `within` is the one that the test above holds attacks to, and nothing else changes."""
    low, high = attack.bounds
    wide = dataclasses.replace(scaled(attack, 4.0), bounds=(-2.0, 2.0))
    assert (low, high) == (0.0, 1.0)
    found = attack.within((-2.0, 2.0))
    if isinstance(attack, MultiAttack):
        assert found.attacks == attack.attacks  # which come along when they run
        x = samples(8, *SHAPE, low=-2.0, high=2.0)
        assert torch.equal(found(linear(48, 5), x), wide(linear(48, 5), x))
    else:
        assert found == wide
        assert found.within((-2.0, 2.0)) == found
    assert attack.within((0.0, 1.0)) == attack


def test_carlini_and_wagner_between_0_and_255():
    model, x = linear(48, 5), samples(32, *SHAPE)
    for attack in (CW(binary_search_steps=5, initial_const=0.01), CWLinf()):
        found = attack.run(model, x)
        large = dataclasses.replace(attack, bounds=(0.0, 255.0)).run(lambda x: model(x / 255), 255 * x)
        assert found.success.all()
        assert large.success.all()
        torch.testing.assert_close(large.norm / 255, found.norm, rtol=0.05, atol=0)


def test_inputs_without_bounds_have_the_unit_1():
    assert PGD(bounds=(-math.inf, math.inf)).unit == 1
    assert PGD(bounds=(-1.0, 1.0)).unit == 2
    model, x = linear(48, 5), samples(8, *SHAPE)
    assert CW(bounds=(-math.inf, math.inf)).run(model, x).success.all()


@budgeted
def test_one_budget_a_sample(attack):
    model, x, y, ids = Wavy(48, 5), samples(6, *SHAPE), labels(6, 5), torch.arange(6)
    eps = torch.tensor([0.0, 0.01, 0.03, 0.1, 0.3, 1.0])
    together = dataclasses.replace(attack, eps=eps).run(model, x, y)
    for i in range(6):
        one = slice(i, i + 1)
        alone = dataclasses.replace(attack, eps=eps[i].item()).run(model, x[one], y[one], ids[one])
        assert torch.equal(together.x_adv[one], alone.x_adv)
        assert torch.equal(together.norm[one], alone.norm)


def test_one_step_size_a_sample():
    model, x, y = Wavy(48, 5), samples(4, *SHAPE), labels(4, 5)
    alpha = torch.tensor([0.0, 0.01, 0.02, 0.05])
    together = PGD(0.1, alpha, steps=3, random_start=0)(model, x, y)
    for i in range(4):
        one = slice(i, i + 1)
        assert torch.equal(together[one], PGD(0.1, alpha[i].item(), 3, random_start=0)(model, x[one], y[one]))


@budgeted
def test_no_budget_changes_nothing(attack):
    x = samples(8, *SHAPE)
    assert torch.equal(attack.at(0)(Wavy(48, 5), x), x)


@pytest.mark.parametrize(
    "attack", [DeepFool(steps=0), PGD(steps=0, random_start=0), CW(steps=0), CWLinf(steps=0), DDN(steps=0)]
)
def test_no_steps_change_nothing(attack):
    x = samples(8, *SHAPE)
    found = attack.run(Wavy(48, 5), x)
    assert torch.equal(found.x_adv, x)
    assert found.steps.sum() == found.grads.sum() == 0


def test_random_starts():
    model, x = Wavy(48, 5), torch.full((64, *SHAPE), 0.5)
    for share in (0.5, 1.0):
        start = PGD(0.1, steps=0, random_start=share)(model, x) - x
        assert torch.equal(start, Noise(0.1 * share)(model, x) - x)
        assert 0.095 * share < start.abs().max() <= 0.1 * share + 1e-7
        assert start.mean().abs() < 0.005
    sign = Noise(0.1, law="sign")(model, x) - x
    torch.testing.assert_close(sign.abs(), torch.full_like(x, 0.1))
    assert 0.45 < (sign > 0).double().mean() < 0.55
    gaussian = Noise(0.1, law="gaussian")(model, x) - x
    assert 0.098 < gaussian.std() < 0.102
    assert gaussian.abs().max() > 0.3
    assert not torch.equal(Noise(0.1, seed=1)(model, x), Noise(0.1)(model, x))
    assert not torch.equal(Noise(0.1)(model, x, ids=torch.arange(64) + 1), Noise(0.1)(model, x))


# --------------------------------------------------------------------------------------------- results, batch, order


@every
def test_results_are_consistent(attack):
    model, x, y = Wavy(48, 10), samples(32, *SHAPE), labels(32, 10)
    y[::2] = model(x[::2]).argmax(1)
    found = attack.run(model, x, y)
    assert torch.equal(found.x_adv, attack(model, x, y))
    assert torch.equal(found.target, model(found.x_adv).argmax(1))
    assert torch.equal(found.success, found.target != y)
    delta = (found.x_adv - x).double().flatten(1)
    order = {"l0": 0, "l1": 1, "l2": 2, "linf": torch.inf}[attack.norm]
    torch.testing.assert_close(found.norm, delta.norm(order, dim=1).float())


def test_counts_of_steps_and_gradients():
    model, x = Wavy(48, 10), samples(32, *SHAPE)
    for name, steps in {"noise": 0, "fgsm": 1, "pgd": 5}.items():
        found = CASES[name].run(model, x)
        assert found.steps.tolist() == found.grads.tolist() == [steps] * 32
    found = DeepFool(steps=5).run(model, x)
    assert torch.equal(found.grads, 9 * found.steps)
    assert len(found.steps.unique()) >= 3
    assert not found.success.all()
    for steps in range(6):  # a sample is finished by the step counted, and not before
        done = DeepFool(steps=steps).run(model, x)
        assert torch.equal(done.steps, found.steps.clamp(max=steps))
        assert torch.equal(done.success, found.success & (found.steps <= steps))


@every
@pytest.mark.parametrize("given", [True, False])
def test_neither_batch_nor_order_matter(attack, given):
    model, x = Wavy(48, 5), samples(40, *SHAPE)
    y, ids = model(x).argmax(1) if given else None, 100 + 3 * torch.arange(40)
    if given:
        y[::5] = (y[::5] + 1) % 5
    whole = attack.run(model, x, y, ids)
    assert not torch.equal(whole.x_adv, x)
    if isinstance(attack, DeepFool | CW | CWLinf):
        assert len(whole.steps.unique()) >= 4, "all finish together: a weak test"

    def parts(order: Tensor, size: int) -> dict[str, Tensor]:
        found = [attack.run(model, x[i], None if y is None else y[i], ids[i]) for i in order.split(size)]
        return {f.name: torch.cat([getattr(part, f.name) for part in found]) for f in dataclasses.fields(found[0])}

    shuffled = torch.randperm(40, generator=torch.Generator().manual_seed(4))
    for order, size in ((torch.arange(0, 40, 5), 1), (shuffled, 7), (shuffled, 64)):
        found = type(whole)(**parts(order, size))
        assert_equal(found, type(whole)(**{f.name: getattr(whole, f.name)[order] for f in dataclasses.fields(whole)}))


def contiguous(x: Tensor) -> Tensor:
    return x


def channels_last(x: Tensor) -> Tensor:
    return x.to(memory_format=torch.channels_last)


def every_second(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, dim=3)[..., ::2]


def expanded(x: Tensor) -> Tensor:
    return x[:1].expand_as(x)


@every
@pytest.mark.parametrize("layout", [contiguous, channels_last, every_second, expanded])
def test_results_are_new_tensors_laid_out_as_the_samples(attack, layout):
    model, x = Wavy(48, 5), layout(samples(8, *SHAPE)).requires_grad_()
    y = labels(8, 5)
    found = attack.run(model, x, y)
    assert_equal(found, attack.run(model, x.detach().contiguous(), y))
    assert found.x_adv.untyped_storage().data_ptr() != x.untyped_storage().data_ptr()
    assert found.x_adv.is_contiguous(memory_format=torch.channels_last) == (layout is channels_last)
    for field in dataclasses.fields(found):
        value = getattr(found, field.name)
        assert not value.requires_grad
        assert value.device == x.device
        assert len(value) == 8
    assert found.x_adv.shape == x.shape
    assert (found.success.dtype, found.target.dtype) == (torch.bool, torch.int64)
    assert x.grad is None


@every
def test_a_model_in_channels_last(attack):
    x, y = samples(8, 3, 6, 6), labels(8, 5)
    x_adv = attack(BatchNormNet().to(memory_format=torch.channels_last), channels_last(x), y)
    torch.testing.assert_close(x_adv, attack(BatchNormNet(), x, y), atol=1e-4, rtol=0)
    assert x_adv.is_contiguous(memory_format=torch.channels_last)


@every
@pytest.mark.parametrize("shape", [(48,), SHAPE])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_floating_point_types(attack, dtype, shape):
    model, x = linear(48, 5, dtype), samples(16, *shape, dtype=dtype)
    if shape == (48,) and isinstance(attack, OF_IMAGES):
        pytest.skip("images only")
    found = attack.run(model, x, labels(16, 5))
    assert found.x_adv.dtype == dtype
    assert found.norm.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert found.x_adv.isfinite().all()
    assert 0 <= found.x_adv.min() < found.x_adv.max() <= 1
    if attack.has_budget:
        size = spent(attack, found.x_adv.double() - x.double())
        assert size.max() <= attack.eps + torch.finfo(dtype).eps
        assert size.max() > (0.05 if isinstance(attack, EPGD | DRA) else 0.09)


@every
def test_autocast(attack):
    model, x = linear(48, 5), samples(8, *SHAPE)
    with torch.autocast("cpu", torch.bfloat16):
        found = attack.run(model, x)
    assert found.x_adv.dtype == torch.float32
    assert found.x_adv.isfinite().all()
    assert found.norm.min() > 0


@every
@pytest.mark.parametrize("given", [True, False])
def test_an_empty_batch(attack, given):
    x = samples(0, *SHAPE)
    found = attack.run(linear(48, 5), x, labels(0, 5) if given else None)
    assert found.x_adv.shape == x.shape
    for field in dataclasses.fields(found):
        assert len(getattr(found, field.name)) == 0


# ------------------------------------------------------------------------------------------------- labels, gradients


@every
def test_without_labels_the_predictions_are_attacked(attack):
    model, x = Wavy(48, 5), samples(32, *SHAPE)
    assert_equal(attack.run(model, x), attack.run(model, x, model(x).argmax(1)))


@pytest.mark.parametrize("attack", [DeepFool(), CW(binary_search_steps=4, initial_const=0.1), CWLinf(), DDN()])
def test_misclassified_samples_are_left_as_they_are(attack):
    model, x = Wavy(48, 5), samples(8, *SHAPE)
    y = model(x).argmax(1)
    y[::2] = (y[::2] + 1) % 5
    found = attack.run(model, x, y)
    assert torch.equal(found.x_adv[::2], x[::2])
    assert found.success.all()
    assert found.steps[::2].tolist() == found.grads[::2].tolist() == [0] * 4
    assert found.steps[1::2].min() >= 1
    assert (attack.run(model, x).norm > 0).all()


@every
def test_labels_of_any_integer_type(attack):
    model, x, y = Wavy(48, 5), samples(8, *SHAPE), labels(8, 5)
    for dtype in (torch.uint8, torch.int32):
        assert torch.equal(attack(model, x, y.to(dtype)), attack(model, x, y))


@every
def test_a_constant_model(attack):
    x, y = samples(8, *SHAPE), torch.zeros(8, dtype=torch.int64)
    found = attack.run(lambda x: x.flatten(1)[:, :3] * 0 + torch.tensor([1.0, 0.0, 0.0]), x, y)
    assert not found.success.any()
    starts = isinstance(attack, Noise | PGD | APGD | OneStepTargeted)
    if isinstance(attack, RFGSM):
        assert torch.equal(found.x_adv, Noise(attack.alpha, law="sign")(None, x, y))
    elif isinstance(attack, OnePixel):  # gives the best of what it has tried
        assert found.norm.max() <= 2 * 3
    elif isinstance(attack, ANPGD | FriendlyPGD | APGDT | APGDRounds | Square | TPGD):  # starts of their own
        assert 0 < linf(found.x_adv - x).max() <= 0.1 + 1e-7
    else:
        assert torch.equal(found.x_adv, Noise(0.1)(None, x, y) if starts else x)  # asks no model


class Spoilt(Wavy):
    """Gradients of the samples whose first element is above 0.5 are `value`."""

    value = torch.nan

    def forward(self, x: Tensor) -> Tensor:
        x = x * 1
        if x.requires_grad:
            wrong = x.detach()[:, :1, :1, :1] > 0.5
            x.register_hook(lambda grad: torch.where(wrong, self.value, grad))
        return super().forward(x)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@every
def test_gradients_that_are_not_finite(attack, value):
    model, x = Spoilt(48, 5), samples(9, *SHAPE, low=0.2, high=0.8)
    model.value = value
    if isinstance(attack, DIFGSM):  # whose images begin with another element
        attack = dataclasses.replace(attack, probability=0.0)
    x[:, 0, 0, 0] = 0.1
    x[::3, 0, 0, 0] = 0.9
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = attack.run(model, x)
    # A sample that is fooled where it starts has no use for its gradient.
    used = 0 if isinstance(attack, BLIND) else int((found.steps[::3] > 0).sum())
    assert used >= 2 or isinstance(attack, BLIND)
    said = [str(each.message) for each in caught if "had NaN or infinite gradients" in str(each.message)]
    assert all(f": {used} of 9 samples" in line for line in said)
    assert len(said) == bool(used)
    sound = attack.run(Wavy(48, 5), x)
    bad = torch.zeros(9, dtype=torch.bool).index_fill(0, torch.arange(0, 9, 3), True)
    assert found.x_adv.isfinite().all()
    assert torch.equal(found.x_adv[~bad], sound.x_adv[~bad])
    if isinstance(attack, FGSM | DeepFool | CW | CWLinf | DDN):
        assert torch.equal(found.x_adv[bad], x[bad])
        assert not found.success[bad].any()


def test_the_warning_points_at_the_caller():
    model, x = Spoilt(48, 5), samples(2, *SHAPE, low=0.6, high=0.8)
    for call in (FGSM(), FGSM().run):
        with pytest.warns(RuntimeWarning, match="2 of 2 samples") as caught:
            call(model, x)
        assert [warning.filename for warning in caught] == [__file__]


def test_half_precision_gradients_do_not_vanish_in_large_batches():
    """Those of a mean over the batch would be rounded to 0."""
    model, x = linear(48, 2, torch.float16), torch.full((512, *SHAPE), 0.5, dtype=torch.float16)
    with torch.no_grad():
        model[1].bias.copy_(torch.tensor([13, 0]) - model[1].weight.sum(1) / 2)
    assert linf(FGSM(0.1)(model, x) - x).min() > 0.09


# ----------------------------------------------------------------------------------------------------- side effects


@every
@pytest.mark.parametrize("training", [True, False])
def test_an_attack_leaves_no_trace(attack, training):
    model, x, y = partly_frozen(BatchNormNet()), samples(8, 3, 6, 6), labels(8, 5)
    if not training:
        model.eval()
    before = traces(model, x, y)
    attack.run(model, x, y)
    attack(model, x)
    assert traces(model, x, y) == before


@every
def test_an_attack_that_fails_leaves_no_trace(attack):
    """Wherever in the code it calls the model: the first and the last time that it does so from there."""
    x = samples(8, 3, 6, 6)
    first, last = {}, {}

    class Watched(BatchNormNet):
        def forward(self, x: Tensor) -> Tensor:
            found = super().forward(x)
            place = tuple((frame.f_code, line) for frame, line in traceback.walk_stack(None))
            first.setdefault(place, self.forwards)
            last[place] = self.forwards
            return found

    attack.run(partly_frozen(Watched()), x)
    for forward in {*first.values(), *last.values()}:
        model = partly_frozen(BatchNormNet(fails_at=forward))
        before = traces(model, x)
        with pytest.raises(RuntimeError, match="out of memory"):
            attack.run(model, x)
        assert traces(model, x) == before


@every
def test_dropout_and_batch_statistics_are_off(attack):
    model, x = BatchNormNet(), samples(8, 3, 6, 6)
    expected = attack(model.eval(), x)
    assert torch.equal(attack(model.train(), x), expected)


@every
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_grad_modes(attack, mode):
    model, x, y = BatchNormNet(), samples(8, 3, 6, 6), labels(8, 5)
    expected = attack.run(model, x, y)
    before = traces(model, x, y)
    with mode():
        inside = attack.run(model, x, y)
        assert torch.is_grad_enabled() is False
        assert torch.is_inference_mode_enabled() is (mode is torch.inference_mode)
        made_inside = attack.run(model, x + 0, y + 0, torch.arange(8))
    assert_equal(inside, expected)
    assert_equal(made_inside, expected)
    assert traces(model, x, y) == before
    for x_adv in (inside.x_adv, made_inside.x_adv):
        model(x_adv).sum().backward()  # can be trained on


@every
def test_a_graph_of_the_model_outlives_an_attack(attack):
    model, x, y = BatchNormNet().eval(), samples(8, 3, 6, 6), labels(8, 5)
    expected = torch.autograd.grad(cross_entropy(model(x), y).sum(), list(model.parameters()))
    loss = cross_entropy(model(x), y).sum()
    attack(model, x, y)
    loss.backward()
    for parameter, grad in zip(model.parameters(), expected, strict=True):
        assert torch.equal(parameter.grad, grad)


@every
def test_an_attack_needs_no_module(attack):
    model, x = Wavy(48, 5), samples(8, *SHAPE)
    assert torch.equal(attack(lambda x: model(x), x), attack(model, x))
    assert all(parameter.grad is None for parameter in model.parameters())


@every
def test_a_bound_method_is_isolated_as_its_module(attack):
    model, x = BatchNormNet(), samples(8, 3, 6, 6)
    model.train()
    before = traces(model)
    attack(model.forward, x)
    assert traces(model) == before


def test_a_source_model_makes_the_samples_and_the_model_judges_them():
    model, x, y = Wavy(48, 5), samples(16, *SHAPE), labels(16, 5)
    source = linear(48, 5)
    found = PGD(0.1, 0.02).run(model, x, y, source=source)
    assert torch.equal(found.x_adv, PGD(0.1, 0.02)(source, x, y))
    assert torch.equal(found.target, model(found.x_adv).argmax(1))
    assert torch.equal(found.success, found.target != y)
    assert torch.equal(PGD(0.1, 0.02).run(model, x, source=source).x_adv, PGD(0.1, 0.02)(source, x))


def test_a_transfer_leaves_no_trace_on_either_model():
    model, source = partly_frozen(BatchNormNet()), partly_frozen(BatchNormNet())
    x, y = samples(8, 3, 6, 6), labels(8, 5)
    before = [traces(model, x, y), traces(source)]
    PGD(0.1).run(model, x, y, source=source)
    PGD(0.1).run(model, x, source=model)
    assert [traces(model, x, y), traces(source)] == before


def test_rows_that_leave_a_sign_attack_take_their_budgets_along():
    @dataclasses.dataclass(frozen=True)
    class EveryOther(PGD):
        """Rows with an odd id leave after the first step."""

        ends_early = True

        def perturb(self, rows: Rows) -> None:
            step = ball_ascent(self, rows, self.alpha)

            def then_leave(live: Rows, number: int) -> Tensor:
                step(live, number)
                return live.ids % 2 == 0

            ascend(self, rows, self.steps, then_leave)

    model, x = Wavy(48, 5), samples(6, *SHAPE)
    eps, alpha = torch.linspace(0.05, 0.3, 6), torch.linspace(0.01, 0.06, 6)
    mixed = EveryOther(eps, alpha, 4)(model, x)
    for steps, rows in ((4, slice(0, None, 2)), (1, slice(1, None, 2))):
        alone = PGD(eps[rows], alpha[rows], steps, random_start=0)(model, x[rows], model(x).argmax(1)[rows])
        assert torch.equal(mixed[rows], alone)


# ------------------------------------------------------------------------------------------------------ what is refused

X, Y = samples(4, *SHAPE), labels(4, 5)


def one_nan(x: Tensor) -> Tensor:
    return x.clone().index_put((torch.tensor(1), torch.tensor(2)), torch.tensor(torch.nan))


@every
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": (X * 255).to(torch.uint8)}, TypeError, "x must be a floating-point tensor.*torch.uint8"),
        ({"x": X.numpy()}, TypeError, "x must be a floating-point tensor.*ndarray"),
        ({"x": X.flatten()[:4]}, ValueError, r"x must be a batch of samples .* \(4,\)"),
        ({"x": X * 255}, ValueError, r"in \[0, 1\], got values from .* to 25.*Scale.*Normalize.*bounds"),
        ({"x": X - 0.5}, ValueError, r"got values from -0.\d+ to 0.\d+"),
        ({"x": one_nan(X)}, ValueError, r"x must lie in \[0, 1\].*nan"),
        ({"x": X.clone().index_fill_(0, torch.tensor(1), torch.inf)}, ValueError, r"x must lie in \[0, 1\].*inf"),
        ({"y": Y[:3]}, ValueError, r"y must hold one integer label a sample, \(4,\).*\(3,\)"),
        ({"y": Y.unsqueeze(1)}, ValueError, r"y must hold .*\(4, 1\)"),
        ({"y": Y.float()}, ValueError, "y must hold one integer label.*float32"),
        ({"y": Y == 0}, ValueError, "y must hold one integer label.*bool"),
        ({"y": Y.tolist()}, (TypeError, ValueError), "y must"),
        ({"y": Y - 10}, ValueError, "labels must not be negative, got -"),
        ({"y": Y.index_fill(0, torch.tensor(1), 5)}, ValueError, "label 5 is out of range: the model has 5 classes"),
        ({"ids": torch.arange(3)}, ValueError, r"ids must be int64, one a sample.*\(3,\)"),
        ({"ids": torch.arange(4, dtype=torch.int32)}, ValueError, "ids must be int64.*int32"),
        ({"ids": [0, 1, 2, 3]}, (TypeError, ValueError), "ids must be"),
    ],
)
def test_wrong_input(attack, change, error, message):
    model = Wavy(48, 5)
    with pytest.raises(error, match=message):
        attack.run(model, **{"x": X, "y": Y, **change})


@every
@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda x: (x.flatten(1), x.flatten(1)), r"must return logits \[4, classes\].*tuple.*2 of which can be"),
        (lambda x: {"features": x}, r"must return logits \[4, classes\], got dict of features"),
        (lambda x: x.flatten(1).long(), r"must return logits .*got int64 \(4, 48\)"),
        (lambda x: x.flatten(1)[:, :0], r"at least 2 classes.*got \(4, 0\)"),
        (lambda x: x, r"must return logits .*\(4, 3, 4, 4\)"),
        (lambda x: x.flatten(1)[:2], r"must return logits .*\(2, 48\)"),
    ],
)
def test_wrong_models(attack, model, message):
    with pytest.raises(ValueError, match=message):
        attack.run(model, X)


@pytest.mark.parametrize("attack", [DeepFool(), FGSM(), PGD(), CW()])
def test_a_model_without_gradients(attack):
    with pytest.raises(ValueError, match="no gradient with respect to its input"):
        attack(lambda x: x.detach().flatten(1), X)


@pytest.mark.parametrize("kind", [ATTACKS[name] for name in BUDGETED])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eps": -0.1}, "eps must be between 0 and 1, got -0.1"),
        ({"eps": 8}, "eps must be between 0 and 1, got 8; did you mean 8/255 = 0.0314"),
        ({"eps": 2.5, "bounds": (-1.0, 1.0)}, "eps must be between 0 and 2, got 2.5"),
        ({"eps": float("nan")}, "eps must be between 0 and 1, got nan"),
        ({"eps": torch.tensor([0.1, -0.2])}, "eps must be between 0 and 1, got -0.2 to 0.1"),
    ],
)
def test_wrong_budgets(kind, options, message):
    with pytest.raises(ValueError, match=f"{kind.__name__}: {message}"):
        kind(**options)
    for value in ("0.1", None):
        with pytest.raises(TypeError, match=f"{kind.__name__}: eps must be a number, or a tensor .*, got {value!r}"):
            kind(eps=value)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (PGD, {"steps": -1}, "steps must be a whole number of at least 0, got -1"),
        (PGD, {"alpha": -0.1}, "alpha must be between"),
        (APGD, {"rho": None}, r"rho must be in \[0, 1\], got None"),
        (PGD, {"random_start": -1}, "random_start must be a share of eps"),
        (PGD, {"random_start": 1.5}, "random_start must be"),  # would start outside the ball
        (PGD, {"loss": "mse"}, "loss must be one of ce, margin, slm, dlr, pm, kl, spat, got 'mse'"),
        (PGD, {"norm": "l3"}, "norm must be one of linf, l2, l1, got 'l3'"),
        (PGD, {"eps": -1.0, "norm": "l2"}, "eps must be finite and at least 0, got -1"),
        (PGD, {"restarts": 0}, "restarts must be a whole number of at least 1, got 0"),
        (PGD, {"restarts": 2, "random_start": 0}, "restarts need a random start"),
        (PGD, {"loss": "kl", "targeted": True}, "loss kl knows no target"),
        (PGD, {"loss": "dlr", "targeted": True}, "loss dlr knows no target"),
        (MIFGSM, {"decay": 1.5}, r"decay must be in \[0, 1\], got 1.5"),
        (FriendlyPGD, {"tau": -1}, "tau must be a whole number of at least 0, got -1"),
        (EPGD, {"bisections": 0}, "bisections must be a whole number of at least 1, got 0"),
        (FriendlyPGD, {"tau": 0.5}, "tau must be a whole number of at least 0, got 0.5"),
        (FriendlyPGD, {"tau": torch.zeros(4)}, "tau must be int64, got torch.float32"),
        (FriendlyPGD, {"loss": "kl", "random_start": 0}, "loss kl has no gradient at x: set random_start"),
        (PGD, {"loss": "kl", "random_start": 0.0}, "loss kl has no gradient at x: set random_start"),
        (
            FriendlyPGD,
            {"random_start": "zero"},
            "random_start must be a share of eps, .* or gaussian-unclipped, got 'zero'",
        ),
        (PGD, {"random_start": "gaussian-unclipped", "steps": 0}, "only a step leads from an unclipped start into"),
        (FriendlyPGD, {"margin": "logit"}, "margin must be one of loss, probability, got 'logit'"),
        (FriendlyPGD, {"rho": -0.1}, r"rho must be in \[0, inf\), got -0.1"),
        (
            FriendlyPGD,
            {"rho": 1.0, "margin": "probability"},
            r"rho must be in \[0, 1\), got 1.0",
        ),
        (FriendlyPGD, {"eps": float("inf")}, "a uniform start needs a finite eps"),
        (FriendlyPGD, {"omega": -0.1}, "omega must be between 0 and 1, got -0.1"),
        (FABT, {"targets": 0}, "targets must be a whole number of at least 1, got 0"),
        (FAB, {"restarts": 0}, "restarts must be a whole number of at least 1, got 0"),
        (FAB, {"enough": -0.1}, "enough must be finite and at least 0, got -0.1"),
        (FAB, {"eta": 0.5}, r"eta must be in \[1, 2\], got 0.5"),
        *[(kind, {"kappa": -1.0}, r"kappa must be in \[0, inf\), got -1") for kind in (CW, CWLinf)],
        *[(kind, {"lr": 0.0}, r"lr must be in \[1e-30, 1e\+30\], got 0") for kind in (CW, CWLinf)],
        (CW, {"steps": -1}, "steps must be a whole number of at least 0, got -1"),
        (CW, {"initial_const": float("inf")}, r"initial_const must be in \[1e-30, 1e\+30\], got inf"),
        (CW, {"binary_search_steps": 0}, "binary_search_steps must be a whole number of at least 1, got 0"),
        (CWLinf, {"largest_const": 0.001}, r"largest_const must be in \[0.01, 1e\+30\], got 0.001"),
        (CWLinf, {"decrease": 1.0}, r"decrease must be in \(0, 1\), got 1"),
        (DDN, {"steps": -1}, "steps must be a whole number of at least 0, got -1"),
        (DDN, {"gamma": 1.0}, r"gamma must be in \(0, 1\), got 1"),
        (DDN, {"init_norm": 0.0}, r"init_norm must be in \(0, inf\), got 0"),
        (DRA, {"p": 0.0}, r"p must be in \(0, 1\], got 0"),
        (DRA, {"scale": 0.0}, r"scale must be in \(0, inf\], got 0"),
        (DRA, {"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        (EPGD, {"bisect": "half"}, "bisect must be one of true, literal, got 'half'"),
        (EPGD, {"loss": "kl"}, "loss must be one of ce, margin, slm, dlr, pm, got 'kl'"),
        (OneStepTargeted, {"towards": "cat"}, "towards must be one of most_confusing, least_likely, random, any"),
        (Noise, {"law": "normal"}, "law must be one of uniform, sign, gaussian, got 'normal'"),
        (DeepFool, {"steps": -1}, "steps must be a whole number of at least 0"),
        (DeepFool, {"overshoot": -0.1}, r"overshoot must be in \[0, inf\), got -0.1"),
        (DeepFool, {"overshoot": float("inf")}, r"overshoot must be in \[0, inf\), got inf"),
        (DeepFool, {"candidates": 1}, "candidates must be a whole number of at least 2"),
        (DeepFool, {"norm": "l1"}, "norm must be one of l2, linf, got 'l1'"),
        (DeepFool, {"convention": "torch"}, "convention must be one of cleverhans, original, foolbox, got 'torch'"),
    ],
)
def test_wrong_options(kind, options, message):
    with pytest.raises(ValueError, match=f"{kind.__name__}: {message}"):
        kind(**options)


@every
def test_wrong_bounds(attack):
    with pytest.raises(ValueError, match=f"{type(attack).__name__}: bounds must be"):
        dataclasses.replace(attack, bounds=(1.0, 0.0))


@budgeted
def test_budgets_of_another_batch(attack):
    with pytest.raises(ValueError, match=r"eps must be a number or one value a sample, \(4,\); got \(3,\)"):
        dataclasses.replace(attack, eps=torch.full((3,), 0.1))(Wavy(48, 5), X, Y)


# ---------------------------------------------------------------------------------------------------------- options


@every
def test_attacks_are_values(attack):
    assert attack == dataclasses.replace(attack)
    assert hash(attack) == hash(dataclasses.replace(attack))
    assert attack != dataclasses.replace(attack, seed=1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        attack.seed = 1


@budgeted
def test_attacks_at_another_budget(attack):
    alpha = getattr(attack, "alpha", None)
    scaled = {} if alpha is None else {"alpha": alpha / 2}
    assert attack.at(0.05) == dataclasses.replace(attack, eps=0.05, **scaled)
    assert attack.at(attack.eps) == attack


def test_attacks_that_cannot_be_scaled():
    with pytest.raises(TypeError, match="DeepFool has no budget"):
        DeepFool().at(0.1)
    for eps in (0, torch.tensor([0.1, 0.2])):
        with pytest.raises(ValueError, match="needs one positive eps"):
            PGD(eps).at(0.1)
    with pytest.raises(ValueError, match="between 0 and 1"):
        FGSM().at(8)
