"""fastadv.compat.torchattacks: its signatures, and what its users do with it."""

import dataclasses
import importlib.metadata
import inspect
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from test_attacks import linf
from toys import BatchNormNet, Wavy, labels, partly_frozen, samples, traces

from fastadv import Normalize, attacks, load, models
from fastadv.compat import torchattacks
from fastadv.trainers import Standard, fit

SIGNATURES = {
    "FGSM": {"eps": 8 / 255},
    "FFGSM": {"eps": 8 / 255, "alpha": 10 / 255},
    "CW": {"c": 1, "kappa": 0, "steps": 50, "lr": 0.01},
    **{
        name: {
            "kappa": 0, "lr": 0.01, "binary_search_steps": 9, "max_iterations": 100, "abort_early": True,
            "initial_const": 0.001, "beta": 0.001,
        }
        for name in ("EADL1", "EADEN")
    },
    "RFGSM": {"eps": 8 / 255, "alpha": 2 / 255, "steps": 10},
    "BIM": {"eps": 8 / 255, "alpha": 2 / 255, "steps": 10},
    "PGD": {"eps": 8 / 255, "alpha": 2 / 255, "steps": 10, "random_start": True},
    "PGDL2": {"eps": 1.0, "alpha": 0.2, "steps": 10, "random_start": True, "eps_for_division": 1e-10},
    "MIFGSM": {"eps": 8 / 255, "alpha": 2 / 255, "steps": 10, "decay": 1.0},
    "TPGD": {"eps": 8 / 255, "alpha": 2 / 255, "steps": 10},
    "EOTPGD": {"eps": 8 / 255, "alpha": 2 / 255, "steps": 10, "eot_iter": 2, "random_start": True},
    "NIFGSM": {"eps": 8 / 255, "alpha": 2 / 255, "steps": 10, "decay": 1.0},
    "SINIFGSM": {"eps": 8 / 255, "alpha": 2 / 255, "steps": 10, "decay": 1.0, "m": 5},
    "VMIFGSM": {"eps": 8 / 255, "alpha": 2 / 255, "steps": 10, "decay": 1.0, "N": 5, "beta": 1.5},
    "VNIFGSM": {"eps": 8 / 255, "alpha": 2 / 255, "steps": 10, "decay": 1.0, "N": 5, "beta": 1.5},
    "DIFGSM": {
        "eps": 8 / 255, "alpha": 2 / 255, "steps": 10, "decay": 0.0, "resize_rate": 0.9, "diversity_prob": 0.5,
        "random_start": False,
    },
    "TIFGSM": {
        "eps": 8 / 255, "alpha": 2 / 255, "steps": 10, "decay": 0.0, "kernel_name": "gaussian", "len_kernel": 15,
        "nsig": 3, "resize_rate": 0.9, "diversity_prob": 0.5, "random_start": False,
    },
    "DeepFool": {"steps": 50, "overshoot": 0.02},
    "APGD": {
        "norm": "Linf", "eps": 8 / 255, "steps": 10, "n_restarts": 1, "seed": 0, "loss": "ce", "eot_iter": 1,
        "rho": 0.75, "verbose": False,
    },
    "APGDT": {
        "norm": "Linf", "eps": 8 / 255, "steps": 10, "n_restarts": 1, "seed": 0, "eot_iter": 1, "rho": 0.75,
        "verbose": False, "n_classes": 10,
    },
    "FAB": {
        "norm": "Linf", "eps": 8 / 255, "steps": 10, "n_restarts": 1, "alpha_max": 0.1, "eta": 1.05, "beta": 0.9,
        "verbose": False, "seed": 0, "multi_targeted": False, "n_classes": 10,
    },
    "Square": {
        "norm": "Linf", "eps": 8 / 255, "n_queries": 5000, "n_restarts": 1, "p_init": 0.8, "loss": "margin",
        "resc_schedule": True, "seed": 0, "verbose": False,
    },
    "JSMA": {"theta": 1.0, "gamma": 0.1},
    "OnePixel": {"pixels": 1, "steps": 10, "popsize": 10, "inf_batch": 128},
    "Pixle": {
        "x_dimensions": (2, 10), "y_dimensions": (2, 10), "pixel_mapping": "random", "restarts": 20,
        "max_iterations": 10, "update_each_iteration": False,
    },
    "SPSA": {"eps": 0.3, "delta": 0.01, "lr": 0.01, "nb_iter": 1, "nb_sample": 128, "max_batch_size": 64},
    "AutoAttack": {
        "norm": "Linf", "eps": 8 / 255, "version": "standard", "n_classes": 10, "seed": None, "verbose": False,
    },
}  # fmt: skip
"""What follows the model in torchattacks 3.5.1, in order."""

MODEL, X = Wavy(48, 5), samples(24, 3, 4, 4)
Y = MODEL(X).argmax(1)
Y[::4] = (Y[::4] + 1) % 5
QUICK = {"Square": {"n_queries": 50}, "AutoAttack": {"version": "rand"}}
named = pytest.mark.parametrize("name", SIGNATURES)
targetable = pytest.mark.parametrize(
    "name", ["FGSM", "FFGSM", "BIM", "PGD", "PGDL2", "MIFGSM", "NIFGSM", "VMIFGSM", "DIFGSM"]
)


def made(name: str, model: torch.nn.Module = MODEL, **options: object) -> torchattacks.Attack:
    return seeded(getattr(torchattacks, name)(model, **QUICK.get(name, {}) | options))


def seeded(attack: torchattacks.Attack, seed: int = 0) -> torchattacks.Attack:
    attack.seed = seed
    return attack


@named
def test_signatures(name):
    parameters = [*inspect.signature(getattr(torchattacks, name)).parameters.values()]
    assert parameters[0].name == "model"
    assert {p.name: p.default for p in parameters[1:]} == SIGNATURES[name]
    assert [p.name for p in parameters[1:]] == [*SIGNATURES[name]]
    assert all(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters)


def installed() -> ModuleType:
    original = pytest.importorskip("torchattacks")
    if importlib.metadata.version("torchattacks") != "3.5.1":
        pytest.skip("another torchattacks than 3.5.1 is installed")
    return original


@pytest.mark.thorough
@named
def test_signatures_are_those_installed(name):
    parameters = inspect.signature(getattr(installed(), name)).parameters
    assert {p.name: p.default for p in parameters.values() if p.name != "model"} == SIGNATURES[name]
    assert [*parameters] == ["model", *SIGNATURES[name]]


EQUALS = {
    "FGSM": attacks.FGSM(),
    "FFGSM": attacks.PGD(alpha=10 / 255, steps=1),
    "CW": attacks.CW(steps=50, lr=0.01, initial_const=1, binary_search_steps=1),
    "EADL1": attacks.EAD(),
    "EADEN": attacks.EAD(decision="en"),
    "RFGSM": attacks.RFGSM(8 / 255, 2 / 255, 10),
    "BIM": attacks.PGD(random_start=0.0),
    "PGD": attacks.PGD(),
    "PGDL2": attacks.PGD(1.0, 0.2, norm="l2"),
    "MIFGSM": attacks.MIFGSM(),
    "TPGD": attacks.TPGD(),
    "EOTPGD": attacks.EOTPGD(),
    "NIFGSM": attacks.NIFGSM(),
    "SINIFGSM": attacks.SINIFGSM(),
    "VMIFGSM": attacks.VMIFGSM(),
    "VNIFGSM": attacks.VNIFGSM(),
    "DIFGSM": attacks.DIFGSM(),
    "TIFGSM": attacks.TIFGSM(),
    "DeepFool": attacks.DeepFool(candidates=5),
    "APGD": attacks.APGD(steps=10),
    "APGDT": attacks.APGDT(steps=10),
    "Square": attacks.Square(queries=50),
    "SPSA": attacks.SPSA(0.3, 1),
    "OnePixel": attacks.OnePixel(1, 10, 10, base="best"),
    "Pixle": attacks.Pixle(),
    "AutoAttack": attacks.AutoAttack(version="rand"),
}


@pytest.mark.parametrize("name", EQUALS)
def test_what_runs_are_our_attacks(name):
    atk = made(name)
    assert torch.equal(atk(X, Y), dataclasses.replace(EQUALS[name], seed=0)(MODEL, X, Y))
    assert repr(atk).startswith(f"{name}(")
    assert "model" not in repr(atk)


def test_jsma_goes_to_the_class_after_the_label():
    atk, goal = torchattacks.JSMA(MODEL, gamma=0.3), (Y + 1) % 5
    expected = attacks.JSMA(1.0, 0.3, targeted=True)(MODEL, X, goal)
    assert torch.equal(atk(X, Y), expected)
    assert atk.get_mode() == "default"
    atk.set_mode_targeted_by_label(quiet=True)
    assert torch.equal(atk(X, goal), expected)
    atk.set_mode_default()
    assert torch.equal(atk(X), attacks.JSMA(1.0, 0.3, targeted=True)(MODEL, X, (MODEL(X).argmax(1) + 1) % 5))


def test_patches_of_pixle():
    atk = torchattacks.Pixle(MODEL, x_dimensions=0.5, y_dimensions=(1, 3), pixel_mapping="Distance")
    atk.update_each_iteration = True
    built = attacks.Pixle(10, 1, tall=(1, 3), wide=(0.5, 0.5), mapping="distance")
    assert seeded(atk).build() == dataclasses.replace(built, seed=0)
    assert torchattacks.OnePixel(MODEL, pixels=3).build().population == 15


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("FGSM", {}),
        ("BIM", {}),
        ("PGD", {"random_start": False}),
        ("PGDL2", {"eps": 0.1, "alpha": 0.02, "random_start": False}),
        ("MIFGSM", {"decay": 0.9}),
        ("EOTPGD", {"random_start": False}),
        ("NIFGSM", {"decay": 0.9}),
        ("SINIFGSM", {"decay": 0.9, "m": 4}),
        ("VMIFGSM", {"beta": 0.0}),
        ("VNIFGSM", {"beta": 0.0, "N": 2}),
        ("DIFGSM", {"decay": 0.5, "diversity_prob": 0.0}),
        ("TIFGSM", {"decay": 0.5, "diversity_prob": 0.0}),
        ("TIFGSM", {"diversity_prob": 0.0, "kernel_name": "linear", "len_kernel": 5}),
        ("TIFGSM", {"diversity_prob": 0.0, "kernel_name": "uniform", "len_kernel": 3}),
        ("TIFGSM", {"diversity_prob": 0.0, "len_kernel": 7, "nsig": 2}),
        ("DeepFool", {"overshoot": 0.0}),
        ("JSMA", {"gamma": 0.25}),
        ("JSMA", {"gamma": 0.125}),
    ],
)
@pytest.mark.parametrize("target", [False, True])
def test_results_are_those_of_torchattacks(name, options, target):
    """Where there is no randomness, and for DeepFool no overshoot and no box that is met."""
    original = installed()
    x = samples(24, 3, 4, 4, low=0.3, high=0.7)
    found = []
    for library in (original, torchattacks):
        atk = getattr(library, name)(MODEL, **options)
        if target and name != "DeepFool":
            atk.set_mode_targeted_by_function(lambda images, labels: (labels + 1) % 5, quiet=True)
        found.append(atk(x, Y))
    if name == "DeepFool":  # it stops a hair before or after the boundary
        assert (found[0] - found[1]).flatten(1).norm(dim=1).median() < 1e-4
    else:
        torch.testing.assert_close(*found, atol=1e-5, rtol=0)
    MODEL.zero_grad()


class Grey(torch.nn.Module):
    """The mean of the channels, which torchattacks' TIFGSM must have three of."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(dim=1, keepdim=True)


@pytest.fixture(scope="module")
def trained() -> list[torch.nn.Module]:
    """Two networks that were trained for a little while."""
    given = load("fashion-mnist-mini", "train").take(1500)
    networks = [models.LeNet5() for _ in range(2)]
    for seed, network in enumerate(networks):
        fit(network, Standard(), given, epochs=4, batch_size=50, lr=2e-3, seed=seed)
    return [torch.nn.Sequential(Grey(), network).eval() for network in networks]


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["TPGD", "VMIFGSM", "VNIFGSM", "DIFGSM", "TIFGSM", "SPSA"])
def test_random_attacks_are_as_strong_as_those_of_torchattacks(name, trained):
    """On the network attacked, and on another one. From draw to draw TPGD's share of 200 samples moves by 3 %."""
    original = installed()
    test = load("fashion-mnist-mini", "test").take(1000 if name in ("TPGD", "DIFGSM") else 200)
    torch.manual_seed(0)
    options, wrong = {"eps": 0.1, "alpha": 0.02, "steps": 10}, []
    if name == "SPSA":
        options = {"eps": 0.1, "lr": 0.03, "nb_iter": 5, "nb_sample": 32}
    for library in (original, torchattacks):
        x_adv = getattr(library, name)(trained[0], **options)(test.x.repeat(1, 3, 1, 1), test.y)
        wrong.append([100 * (model(x_adv).argmax(1) != test.y).double().mean().item() for model in trained])
    for theirs, mine in zip(*wrong, strict=True):
        assert abs(mine - theirs) <= 4, wrong


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("OnePixel", {"pixels": 5, "steps": 5, "popsize": 40}),
        ("Pixle", {"restarts": 3, "max_iterations": 10}),
        ("Pixle", {"restarts": 2, "max_iterations": 2, "pixel_mapping": "distance_random", "x_dimensions": (2, 5)}),
    ],
)
def test_attacks_on_pixels_are_as_strong_as_those_of_torchattacks(name, options, trained):
    """Of 50 images, draws move the share by some 5 %."""
    original, test, wrong = installed(), load("fashion-mnist-mini", "test").take(50), []
    torch.manual_seed(0)
    np.random.seed(0)
    for library in (original, torchattacks):
        x_adv = getattr(library, name)(trained[0], **options)(test.x.repeat(1, 3, 1, 1), test.y)
        wrong.append((trained[0](x_adv).argmax(1) != test.y).sum().item())
    assert wrong[1] >= wrong[0] - 4, wrong


@pytest.mark.thorough
@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("multi_targeted", [False, True])
def test_perturbations_of_fab_are_no_larger_than_those_of_torchattacks(norm, multi_targeted, trained):
    test, eps, sizes = load("fashion-mnist-mini", "test").take(60), {"Linf": 0.1, "L2": 1.5}[norm], []
    network = trained[0][1]
    for library in (installed(), torchattacks):
        x_adv = library.FAB(network, norm=norm, eps=eps, multi_targeted=multi_targeted)(test.x, test.y)
        sizes.append((x_adv - test.x).flatten(1).norm({"Linf": torch.inf, "L2": 2}[norm], dim=1))
    within = [(size > 0) & (size <= eps) for size in sizes]  # theirs returns larger ones, too
    assert within[0].sum() > 10
    assert (within[0] ^ within[1]).sum() <= 1
    theirs, mine = (size[within[0] & within[1]].mean() for size in sizes)
    assert mine < 1.001 * theirs


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["EADL1", "EADEN"])
def test_elastic_net_attacks_find_perturbations_about_as_small_as_those_of_torchattacks(name, trained):
    """About as small: their first step moves the image that they start from, so results are not the same."""
    original, test = installed(), load("fashion-mnist-mini", "test").take(30)
    x, sizes = test.x.repeat(1, 3, 1, 1), []
    for library in (original, torchattacks):
        delta = getattr(library, name)(trained[0], max_iterations=40, abort_early=False)(x, test.y) - x
        size = delta.abs().flatten(1).sum(1)
        assert (trained[0](x + delta).argmax(1) != test.y).all()
        sizes.append(size if name == "EADL1" else delta.square().flatten(1).sum(1) + 0.001 * size)
    theirs, mine = (size.mean().item() for size in sizes)
    assert mine < 1.15 * theirs


@pytest.mark.parametrize("multi_targeted", [False, True])
def test_fab_stays_within_its_budget(multi_targeted):
    kind = attacks.FABT if multi_targeted else attacks.FAB
    eps = kind(steps=10).run(MODEL, X, Y).norm.median().item()
    found = kind(steps=10, enough=eps, early=False, restarts=2, seed=0).run(MODEL, X, Y)
    moved = torchattacks.FAB(MODEL, eps=eps, n_restarts=2, multi_targeted=multi_targeted)(X, Y)
    within = found.norm <= eps
    assert 0 < within.sum() < len(X)
    assert torch.equal(moved[within], found.x_adv[within])
    assert torch.equal(moved[~within], X[~within])


def test_options_may_be_changed():
    atk = torchattacks.PGD(MODEL, random_start=False)
    atk.eps, atk.alpha, atk.steps = 0.1, 0.03, 3
    assert torch.equal(atk(X, Y), attacks.PGD(0.1, 0.03, 3, random_start=0.0)(MODEL, X, Y))
    assert torchattacks.BIM(MODEL, eps=4 / 255, steps=0).steps == 5
    with pytest.raises(ValueError, match="eps must be between 0 and 1, got 8"):
        torchattacks.PGD(MODEL, eps=8)


def test_noise_follows_the_generator_of_torch():
    atk = torchattacks.PGD(MODEL)
    torch.manual_seed(0)
    first, second = atk(X, Y), atk(X, Y)
    assert not torch.equal(first, second)
    assert not torch.equal(torchattacks.PGD(MODEL)(X, Y), first)
    torch.manual_seed(0)
    assert torch.equal(atk(X, Y), first)
    assert torch.equal(torchattacks.PGD(MODEL)(X, Y), second)


@pytest.mark.parametrize("name", ["FGSM", "BIM", "MIFGSM", "CW", "DeepFool", "FAB"])
def test_attacks_without_noise_leave_the_generator_alone(name):
    before = torch.get_rng_state()
    getattr(torchattacks, name)(MODEL, **QUICK.get(name, {}))(X, Y)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_seed_of_its_own_is_keyed_by_sample():
    whole, before = made("PGD")(X, Y), torch.get_rng_state()
    parts, ids = made("PGD"), torch.arange(24)
    assert torch.equal(parts(X, Y), whole)
    found = [parts(x, y, ids=i) for x, y, i in zip(X.split(7), Y.split(7), ids.split(7), strict=True)]
    assert torch.equal(torch.cat(found), whole)
    assert not torch.equal(seeded(parts, 1)(X, Y), whole)
    assert torch.equal(torch.get_rng_state(), before)


@named
def test_no_trace_is_left(name):
    model, x, y = partly_frozen(BatchNormNet()), samples(4, 3, 6, 6), labels(4, 5)
    before = traces(model, x, y)
    x_adv = made(name, model)(x, y)
    assert not x_adv.requires_grad
    assert traces(model, x, y) == before


# ------------------------------------------------------------------------------------------------------------- targets


@targetable
def test_targets_by_label(name):
    goal = (MODEL(X).argmax(1) + 1) % 5
    atk = made(name, eps=1.0 if name == "PGDL2" else 0.1)
    atk.set_mode_targeted_by_label(quiet=True)
    assert atk.get_mode() == "targeted(label)"
    near, far = ((MODEL(x).log_softmax(1).gather(1, goal.unsqueeze(1))).mean() for x in (atk(X, goal), X))
    assert near > far
    atk.set_mode_default()
    assert torch.equal(atk(X, goal, ids=torch.arange(24)), made(name, eps=atk.eps)(X, goal))


def test_targets_by_function_rank_and_chance():
    scores = MODEL(X).scatter(1, Y.unsqueeze(1), torch.nan)
    atk, direct = made("PGD"), attacks.PGD(targeted=True, seed=0)
    atk.set_mode_targeted_by_function(lambda images, labels: (labels + 1) % 5)
    assert torch.equal(atk(X, Y), direct(MODEL, X, (Y + 1) % 5))
    for kth in (1, 4):
        atk.set_mode_targeted_least_likely(kth)
        goal = scores.nan_to_num(torch.inf).argsort(1)[:, kth - 1]
        assert torch.equal(atk(X, Y, ids=torch.arange(24)), direct(MODEL, X, goal))
    atk.set_mode_targeted_least_likely(5)
    with pytest.raises(ValueError, match="kth_min must be between 1 and 4, got 5"):
        atk(X, Y)
    atk.set_mode_targeted_random()
    goals = atk._goal(MODEL, X, Y, torch.arange(24))
    assert (goals != Y).all()
    assert set(((goals - Y) % 5).tolist()) == {1, 2, 3, 4}
    assert torch.equal(atk._goal(MODEL, X[3:], Y[3:], torch.arange(3, 24)), goals[3:])
    assert torch.equal(atk(X, Y, ids=torch.arange(24)), direct(MODEL, X, goals))


@pytest.mark.parametrize("name", ["DeepFool", "FAB", "APGD", "APGDT", "Square", "AutoAttack"])
def test_attacks_without_targets_say_so(name):
    for aim in ("by_label", "random", "least_likely"):
        with pytest.raises(ValueError, match=f"{name} has no targeted mode"):
            getattr(made(name), f"set_mode_targeted_{aim}")()


# ------------------------------------------------------------------------------------------------------- normalisation


def test_normalised_images():
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
    model, x, y = BatchNormNet().eval(), samples(8, 3, 6, 6), labels(8, 5)
    x[0], x[1] = 0, 1
    wide = [torch.tensor(v).view(-1, 1, 1) for v in (mean, std)]
    given = (x - wide[0]) / wide[1]
    atk = made("PGD", model, eps=0.1)
    with pytest.raises(ValueError, match=r"x must lie in \[0, 1\]"):
        atk(given, y)
    atk.set_normalization_used(mean=mean, std=std)
    found = atk(given, y, ids=torch.arange(8)) * wide[1] + wide[0]
    expected = attacks.PGD(0.1, seed=0)(Normalize(model, mean, std), x, y)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert 0.09 < linf(found - x).max() <= 0.1 + 1e-6
    with pytest.raises(ValueError, match=r"x must lie in \[0, 1\]"):
        atk(given + 1, y)


def test_attacks_run_in_eval_mode():
    atk = torchattacks.FGSM(MODEL)
    atk.set_model_training_mode(model_training=False)
    with pytest.raises(ValueError, match="FGSM: attacks run in eval mode"):
        atk.set_model_training_mode(True)


# --------------------------------------------------------------------------------------------- classes of one's own


class Steepest(torchattacks.attack.Attack):
    """Iterated FGSM, as users of torchattacks write it."""

    def __init__(self, model, eps=8 / 255, steps=3):
        super().__init__("Steepest", model)
        self.eps, self.steps = eps, steps
        self.supported_mode = ["default", "targeted"]

    def forward(self, images, labels):
        images, labels = images.clone().detach().to(self.device), labels.clone().detach().to(self.device)
        goal = self.get_target_label(images, labels) if self.targeted else labels
        adv = images.clone()
        for _ in range(self.steps):
            adv.requires_grad = True
            cost = torch.nn.functional.cross_entropy(self.get_logits(adv), goal)
            grad = torch.autograd.grad(-cost if self.targeted else cost, adv)[0]
            adv = adv.detach() + self.eps / self.steps * grad.sign()
            adv = torch.clamp(images + torch.clamp(adv - images, -self.eps, self.eps), 0, 1).detach()
        return adv


class Twice(torchattacks.PGD):
    """PGD from the end of another."""

    def forward(self, images, labels):
        return super().forward(super().forward(images, labels), labels)


def test_a_class_of_ones_own():
    same = attacks.PGD(8 / 255, 8 / 255 / 3, 3, random_start=0.0)
    atk = Steepest(MODEL)
    torch.testing.assert_close(atk(X, Y), same(MODEL, X, Y), atol=1e-6, rtol=0)
    assert repr(atk).startswith("Steepest(")
    atk.set_mode_targeted_by_function(lambda images, labels: (labels + 1) % 5)
    goal = dataclasses.replace(same, targeted=True)
    torch.testing.assert_close(atk(X, Y), goal(MODEL, X, (Y + 1) % 5), atol=1e-6, rtol=0)
    both = torchattacks.MultiAttack([Steepest(MODEL, eps=0.001), Steepest(MODEL, eps=0.1)])
    assert (MODEL(both(X, Y)).argmax(1) != Y).sum() > (MODEL(Steepest(MODEL, eps=0.001)(X, Y)).argmax(1) != Y).sum()
    with pytest.raises(NotImplementedError, match="Attack needs a forward"):
        torchattacks.Attack("none", MODEL)(X, Y)
    with pytest.raises(ValueError, match="Attack has no targeted mode"):
        torchattacks.Attack("none", MODEL).set_mode_targeted_random()


def test_a_class_of_ones_own_leaves_no_trace_and_sees_pixels():
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
    model, x, y = partly_frozen(BatchNormNet()), samples(8, 3, 6, 6), labels(8, 5)
    before = traces(model, x, y)
    atk = Steepest(model)
    atk.set_normalization_used(mean=mean, std=std)
    found = atk.inverse_normalize(atk(atk.normalize(x), y))
    assert traces(model, x, y) == before
    assert not found.requires_grad
    expected = attacks.PGD(8 / 255, 8 / 255 / 3, 3, random_start=0.0)(Normalize(model, mean, std), x, y)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_an_attack_with_a_forward_around_its_own(tmp_path):
    first = attacks.PGD(seed=0)(MODEL, X, Y)
    atk = seeded(Twice(MODEL))
    assert torch.equal(atk(X, Y), attacks.PGD(seed=0)(MODEL, first, Y))
    with pytest.raises(ValueError, match="eps must be between 0 and 1"):
        Twice(MODEL, eps=8)
    report = atk.save([(GREY, Y)], tmp_path / "x.pt", return_verbose=True)
    assert report[0] == pytest.approx(100 * (MODEL(atk(GREY, Y)).argmax(1) == Y).double().mean().item())


def test_logits_have_a_gradient_where_the_inputs_have():
    atk, x = torchattacks.FGSM(MODEL), X.clone().requires_grad_()
    (grad,) = torch.autograd.grad(atk.get_logits(x)[:, 0].sum(), x)
    (expected,) = torch.autograd.grad(MODEL(x)[:, 0].sum(), x)
    assert torch.equal(grad, expected)
    assert not atk.get_logits(X).requires_grad
    with torch.no_grad():
        assert not atk.get_logits(x).requires_grad


# ------------------------------------------------------------------------------------------------------------- several


def test_multi_attack_keeps_the_first_success():
    weak, strong = made("FGSM", eps=0.005), made("PGD", eps=0.01)
    x_adv = torchattacks.MultiAttack([weak, strong])(X, Y)
    first = attacks.FGSM(0.005).run(MODEL, X, Y)
    second = attacks.PGD(0.01, seed=0).run(MODEL, X, Y)
    assert 0 < first.success.sum() < (first.success | second.success).sum() < len(X)
    pick = [first.x_adv[i] if first.success[i] else second.x_adv[i] if second.success[i] else X[i] for i in range(24)]
    assert torch.equal(x_adv, torch.stack(pick))


def test_multi_attack_refuses():
    one = torchattacks.FGSM(MODEL)
    for attacks_ in ([one], [one, torchattacks.FGSM(Wavy(48, 5))]):
        with pytest.raises(ValueError, match="two attacks or more, all on the same model"):
            torchattacks.MultiAttack(attacks_)


def test_deepfool_tells_where_it_went():
    x_adv, target = torchattacks.DeepFool(MODEL).forward_return_target_labels(X, Y)
    assert torch.equal(target, MODEL(x_adv).argmax(1))
    assert (target != Y).all()


# --------------------------------------------------------------------------------------------------------------- files


GREY = (255 * X).round() / 255
"""X in 8 bits."""


@pytest.mark.parametrize("save_type", ["float", "int"])
def test_files(tmp_path, save_type):
    atk, loader = made("PGD", eps=8 / 255), [*zip(GREY.split(10), Y.split(10), strict=True)]
    report = atk.save(loader, tmp_path / "x.pt", False, True, True, True, save_type)
    x_adv = atk(GREY, Y, ids=torch.arange(24))
    if save_type == "int":
        x_adv = (255 * x_adv).round() / 255
    right = MODEL(x_adv).argmax(1) == Y
    assert report[0] == pytest.approx(100 * right.double().mean().item())
    assert report[1] == pytest.approx((x_adv - GREY)[~right].flatten(1).norm(dim=1).mean().item(), rel=1e-5)
    batches = [*torchattacks.PGD.load(tmp_path / "x.pt", 10, load_predictions=True, load_clean_inputs=True)]
    found = [torch.cat(column) for column in zip(*batches, strict=True)]
    torch.testing.assert_close(found[0], x_adv, atol=1e-6, rtol=0)
    assert torch.equal(found[1], Y)
    assert torch.equal(found[2], MODEL(x_adv).argmax(1))
    torch.testing.assert_close(found[3], GREY, atol=1e-6, rtol=0)
    (normal,) = torchattacks.PGD.load(tmp_path / "x.pt", 24, normalize={"mean": [0.5] * 3, "std": [2.0] * 3})
    torch.testing.assert_close(normal[0], (found[0] - 0.5) / 2)


def saved(atk: torchattacks.Attack, x: torch.Tensor, path: Path) -> torch.Tensor:
    """The levels that `save` writes as integers, [24, ...]."""
    atk.save([(x, Y)], path, save_type="int")
    return 255 * torch.cat([batch[0] for batch in atk.load(path)]).double()


@pytest.mark.parametrize("eps", [8 / 255, 0.1, 0.7 / 255])
@pytest.mark.parametrize("normalised", [False, True])
def test_saved_integers_are_rounded_within_linf(tmp_path, eps, normalised):
    atk, x, clean = made("PGD", eps=eps, alpha=eps / 3), GREY, 255 * GREY.double()
    if normalised:
        atk.set_normalization_used(mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0))
        x = atk.normalize(GREY)
    exact = atk(x, Y)
    exact = 255 * (atk.inverse_normalize(exact) if normalised else exact).double()
    found = saved(atk, x, tmp_path / "x.pt")
    assert (found - found.round()).abs().max() < 1e-4
    assert ((found - clean).abs().max() - int(255 * eps + 1e-6)).abs() < 1e-4  # 8, 25 and none
    wide = (exact.round() - clean).abs() > 255 * eps + 1e-3
    assert wide.any() == (eps != 8 / 255)
    assert ((found - exact).abs()[~wide] < 0.501).all()  # to the nearest
    assert ((found - exact).abs() < 1).all()
    assert ((found - clean).abs() <= (exact - clean).abs() + 1e-3)[wide].all()  # towards x


@pytest.mark.parametrize("power", [1, 2])
def test_saved_integers_are_rounded_within_l2_and_l1(tmp_path, power):
    x = (255 * (0.3 + 0.4 * X)).round() / 255  # far from the box

    def size(levels):
        return (levels / 255 - x.double()).flatten(1).norm(power, dim=1)

    atk = made("PGDL2", eps=0.5) if power == 2 else made("FAB", norm="L1", eps=3.0, steps=20)
    if power == 1:  # FAB's are smaller than it may: leave just enough for the one that rounding makes larger by most
        exact = 255 * atk(x, Y).double()
        atk.eps = size(exact)[(size(exact.round()) - size(exact)).argmax()].item() * (1 + 1e-6)
    exact, found = 255 * atk(x, Y).double(), saved(atk, x, tmp_path / "x.pt")
    sizes, plain = size(found), size(exact.round())
    assert sizes.max() <= atk.eps * (1 + 1e-6)
    assert (sizes - plain)[plain <= atk.eps].abs().max() < 1e-5  # nothing to do
    assert (plain > atk.eps).any(), "rounding alone would do: a weak test"
    assert sizes[plain > atk.eps].min() > atk.eps - 1 / 255
    assert ((found - exact).abs() < 1.001).all()
    assert ((found - exact).abs() < 0.501).double().mean() > 0.8  # the others are turned round


def test_saved_integers_of_attacks_without_a_budget_are_the_nearest(tmp_path):
    atk = made("DeepFool")
    assert (saved(atk, X, tmp_path / "x.pt") - (255 * atk(X, Y)).round()).abs().max() < 1e-4


def test_several_attacks_have_the_largest_of_their_budgets(tmp_path):
    both = torchattacks.MultiAttack([made("FGSM", eps=2.5 / 255), made("FGSM", eps=5.5 / 255)])
    levels = (saved(both, GREY, tmp_path / "x.pt") - 255 * GREY.double()).abs()
    assert abs(levels.max() - 5) < 1e-4
    mixed = torchattacks.MultiAttack([made("FGSM"), made("PGDL2")])
    with pytest.raises(ValueError, match="attacks in linf, l2 have no common budget: save them as float"):
        mixed.save([(GREY, Y)], tmp_path / "y.pt", save_type="int")
    mixed.save([(GREY, Y)], tmp_path / "y.pt")


@pytest.mark.filterwarnings("ignore:FGSM. 6 of 24 samples")
def test_nan_is_no_prediction():
    class Partly(Wavy):
        def forward(self, x):
            dead = (x.flatten(1).unsqueeze(1) - X[:6].flatten(1)).abs().amax(2) < 0.05
            return torch.where(dead.any(1, keepdim=True), torch.nan, super().forward(x))

    model, y = Partly(48, 5), torch.zeros(24, dtype=torch.int64)
    _, target = made("FGSM", model, eps=0.02).forward_return_target_labels(X, y)
    assert (target[:6] == -1).all()
    assert (target[6:] >= 0).all()
    report = made("FGSM", model, eps=0.02).save([(X, y)], return_verbose=True)
    assert report[0] == pytest.approx(100 * (target == 0).double().mean().item())


def test_files_without_what_is_asked_for(tmp_path):
    torchattacks.FGSM(MODEL).save([(X, Y)], tmp_path / "x.pt")
    with pytest.raises(ValueError, match="holds no preds and no clean_inputs: it was saved without"):
        torchattacks.FGSM.load(tmp_path / "x.pt", load_predictions=True, load_clean_inputs=True)
    with pytest.raises(ValueError, match="save_type must be float or int"):
        torchattacks.FGSM(MODEL).save([(X, Y)], save_type="half")
