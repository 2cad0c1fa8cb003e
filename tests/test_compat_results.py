"""The adapters beside the libraries themselves, on three networks: at least as strong, or perturbations as small."""

import importlib

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fastadv import load, models
from fastadv.trainers import Standard, fit

POINTS, SHARE = 0.2, 1.01
"""By how many points in a hundred fewer samples may be fooled, and how many times as large perturbations may be."""

NETWORKS = {
    "lenet": models.LeNet5,
    "wide": lambda: nn.Sequential(
        nn.Conv2d(1, 12, 5, stride=2),
        nn.ReLU(),
        nn.Conv2d(12, 24, 5, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(384, 10),
    ),
    "dense": lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 10)),
}


@pytest.fixture(scope="module")
def networks() -> dict[str, nn.Module]:
    """Trained for a little while."""
    torch.manual_seed(0)
    given, made = load("fashion-mnist-mini", "train").take(1500), {name: kind() for name, kind in NETWORKS.items()}
    for network in made.values():
        fit(network, Standard(), given, epochs=3, batch_size=50, lr=2e-3, seed=0)
        network.eval()
    return made


def torchattacks(library: str, name: str, options: dict, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return getattr(importlib.import_module(library), name)(model, **options)(x, y)


def foolbox(library: str, name: str, options: dict, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    module, options = importlib.import_module(library), dict(options)
    epsilon = options.pop("epsilon", None)
    fmodel = module.PyTorchModel(model, bounds=(0, 1), device="cpu")
    return getattr(module.attacks, name)(**options)(fmodel, x, y, epsilons=epsilon)[1]


def autoattack(library: str, name: str, options: dict, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    options, module = dict(options), importlib.import_module(library)
    how = {"norm": options.pop("norm"), "eps": options.pop("eps"), "seed": 0, "version": "custom"}
    attack = getattr(module.AutoAttack(model, **how), name)
    for option, value in options.items():
        setattr(attack, option, value)
    return attack.perturb(x, y)


def art(library: str, name: str, options: dict, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    estimator = importlib.import_module("art.estimators.classification").PyTorchClassifier
    how = {"clip_values": (0, 1), "device_type": "cpu"}
    wrapped = estimator(model, nn.CrossEntropyLoss(), tuple(x.shape[1:]), 10, **how)
    options = dict(options)
    masked = {"mask": options.pop("mask")} if "mask" in options else {}
    evasion = importlib.import_module(f"{library}.attacks.evasion")
    return torch.from_numpy(getattr(evasion, name)(wrapped, **options).generate(x.numpy(), y.numpy(), **masked))


INSTALLED = {"autoattack": "pyautoattack"}
"""Packages of another name than the library."""
RANDOM = ("APGD", "AutoProjectedGradientDescent")
"""Attacks of which a few samples are fooled or not by chance."""
MASK = (np.arange(784).reshape(1, 28, 28) % 3 > 0).astype(np.float32)
EACH = np.linspace(0.02, 0.1, 784, dtype=np.float32).reshape(1, 28, 28)
CARLINI = {"max_iter": 5, "batch_size": 30, "verbose": False}
FAB = {"n_restarts": 1, "n_iter": 30}
CASES = [
    (torchattacks, "BIM", {"eps": 0.05, "alpha": 0.01}, None),
    (torchattacks, "PGDL2", {"eps": 0.5, "alpha": 0.1, "random_start": False}, None),
    (torchattacks, "MIFGSM", {"eps": 0.05, "alpha": 0.01}, None),
    (torchattacks, "APGD", {"eps": 0.05, "steps": 20}, None),
    (torchattacks, "APGDT", {"eps": 0.05, "steps": 10}, None),
    (torchattacks, "Square", {"eps": 0.1, "n_queries": 100}, None),
    (torchattacks, "DeepFool", {"overshoot": 0.02}, 2),
    (torchattacks, "CW", {"steps": 100, "c": 10}, 2),
    (foolbox, "LinfPGD", {"epsilon": 0.05, "random_start": False, "steps": 20}, None),
    (foolbox, "L2PGD", {"epsilon": 0.5, "random_start": False, "rel_stepsize": 0.1, "steps": 20}, None),
    (foolbox, "L1BasicIterativeAttack", {"epsilon": 5.0}, None),
    (foolbox, "FGSM", {"epsilon": 0.05}, None),
    (foolbox, "FGM", {"epsilon": 0.5}, None),
    (foolbox, "MIFGSM", {"epsilon": 0.05}, None),
    (foolbox, "L2DeepFoolAttack", {}, 2),
    (foolbox, "LinfDeepFoolAttack", {}, np.inf),
    (foolbox, "L2CarliniWagnerAttack", {"steps": 50, "binary_search_steps": 6}, 2),
    (foolbox, "DDNAttack", {"steps": 30}, 2),
    (foolbox, "EADAttack", {"steps": 50, "binary_search_steps": 6}, 1),
    (foolbox, "EADAttack", {"steps": 50, "binary_search_steps": 6, "decision_rule": "L1"}, 1),
    (autoattack, "fab", {"norm": "Linf", "eps": 0.1, **FAB}, np.inf),
    (autoattack, "fab", {"norm": "L2", "eps": 1.0, **FAB}, 2),
    (autoattack, "fab", {"norm": "L1", "eps": 10.0, **FAB}, 1),
    (autoattack, "fab", {"norm": "Linf", "eps": 0.1, "targeted": True, "n_target_classes": 3, **FAB}, np.inf),
    (art, "FastGradientMethod", {"eps": 0.05}, None),
    (art, "FastGradientMethod", {"eps": 0.1, "eps_step": 0.01, "minimal": True}, np.inf),
    (art, "ProjectedGradientDescent", {"eps": 0.05, "eps_step": 0.01, "max_iter": 10, "verbose": False}, None),
    (
        art,
        "ProjectedGradientDescent",
        {"eps": 0.1, "eps_step": 0.01, "max_iter": 10, "verbose": False, "mask": MASK},
        None,
    ),
    (
        art,
        "ProjectedGradientDescent",
        {"eps": EACH, "eps_step": EACH / 5, "max_iter": 10, "verbose": False},
        None,
    ),
    (art, "BasicIterativeMethod", {"eps": 0.05, "eps_step": 0.01, "max_iter": 10, "verbose": False}, None),
    (art, "MomentumIterativeMethod", {"eps": 0.05, "eps_step": 0.01, "max_iter": 10, "verbose": False}, None),
    (art, "DeepFool", {"batch_size": 30, "max_iter": 20, "verbose": False}, 2),
    (art, "CarliniL2Method", {**CARLINI, "binary_search_steps": 4, "initial_const": 1.0}, 2),
    (art, "CarliniLInfMethod", {**CARLINI, "initial_const": 8.0}, np.inf),
    (art, "SquareAttack", {"eps": 0.1, "max_iter": 100, "verbose": False}, None),
    (art, "AutoProjectedGradientDescent", {"eps": 0.05, "max_iter": 20, "nb_random_init": 1, "verbose": False}, None),
]
"""Adapter, attack, options, and the norm of the perturbations of attacks that look for the smallest."""


@pytest.mark.thorough
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(
    ("library", "name", "options", "norm"), CASES, ids=lambda value: getattr(value, "__name__", "")
)
def test_results_are_those_of_the_library_or_stronger(library, name, options, norm, network, networks):
    original = INSTALLED.get(library.__name__, library.__name__)
    pytest.importorskip(original)
    model, test, count = networks[network], load("fashion-mnist-mini", "test"), 30 if norm or name == "APGDT" else 400
    right = (model(test.x).argmax(1) == test.y).nonzero().squeeze(1)[:count]
    x, y, fooled, sizes = test.x[right], test.y[right], [], []
    for module in (original, f"fastadv.compat.{library.__name__}"):
        torch.manual_seed(0)
        np.random.seed(0)
        x_adv = library(module, name, options, model, x, y)
        fooled.append(model(x_adv).argmax(1) != y)
        sizes.append((x_adv - x).flatten(1).norm(norm or 2, dim=1))
    theirs, mine = (int(found.sum()) for found in fooled)
    chance = 4 if name in RANDOM else 0
    assert mine >= theirs - max(1, POINTS / 100 * count) - chance, f"{mine} instead of {theirs} samples are fooled"
    if norm is not None:
        both = fooled[0] & fooled[1]
        theirs, mine = (found[both].mean().item() for found in sizes)
        assert mine <= SHARE * theirs, f"perturbations have {mine:.4f} instead of {theirs:.4f}"


SPARSE = {
    "apgd": {"n_restarts": 1, "n_iter": 30, "use_largereps": True},
    "apgd_targeted": {"n_target_classes": 2, "n_iter": 30, "use_largereps": True},
    "square": {"n_queries": 100},
}
"""Attacks of auto-attack in L1, with so few steps that they fool some samples and not others."""


@pytest.mark.thorough
@pytest.mark.parametrize("name", SPARSE)
def test_in_l1_as_many_samples_are_fooled_as_by_auto_attack(name, networks):
    """All of these draw random numbers, which change a few samples of a hundred."""
    pytest.importorskip("pyautoattack")
    model, test, eps = networks["lenet"], load("fashion-mnist-mini", "test"), 12.0 if name == "square" else 4.0
    right = (model(test.x).argmax(1) == test.y).nonzero().squeeze(1)[:100]
    x, y, fooled = test.x[right], test.y[right], []
    for module in ("pyautoattack", "fastadv.compat.autoattack"):
        x_adv = autoattack(module, name, {"norm": "L1", "eps": eps, **SPARSE[name]}, model, x, y)
        assert ((x_adv - x).abs().flatten(1).sum(1) <= eps * (1 + 1e-5)).all()
        fooled.append(int((model(x_adv).argmax(1) != y).sum()))
    theirs, mine = fooled
    assert 10 < theirs < 90
    assert mine >= theirs - 5, f"{mine} instead of {theirs} samples are fooled"
