"""fastadv.compat.art: arrays in, arrays out."""

import dataclasses
import importlib
import inspect
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from toys import BatchNormNet, Wavy, partly_frozen, samples, traces

from fastadv import Normalize, attacks
from fastadv.attacks.onestep import random_target
from fastadv.compat import art

MODEL, X = Wavy(48, 5), samples(24, 3, 4, 4)
Y = MODEL(X).argmax(1)
Y[::4] = (Y[::4] + 1) % 5
COMMON = {"norm": math.inf, "eps": 0.3, "eps_step": 0.1}
OPTIONS = {
    "ProjectedGradientDescent": COMMON
    | {
        "decay": None, "max_iter": 100, "targeted": False, "num_random_init": 0, "batch_size": 32, "random_eps": False,
        "summary_writer": False, "verbose": True,
    },
    "FastGradientMethod": COMMON
    | {"targeted": False, "num_random_init": 0, "batch_size": 32, "minimal": False, "summary_writer": False},
    "BasicIterativeMethod": {
        "eps": 0.3, "eps_step": 0.1, "max_iter": 100, "targeted": False, "batch_size": 32, "verbose": True,
    },
    "MomentumIterativeMethod": COMMON
    | {"decay": 1.0, "max_iter": 100, "targeted": False, "batch_size": 32, "verbose": True},
    "DeepFool": {"max_iter": 100, "epsilon": 1e-6, "nb_grads": 10, "batch_size": 1, "verbose": True},
    "CarliniL2Method": {
        "confidence": 0.0, "targeted": False, "learning_rate": 0.01, "binary_search_steps": 10, "max_iter": 10,
        "initial_const": 0.01, "max_halving": 5, "max_doubling": 5, "batch_size": 1, "verbose": True,
    },
    "CarliniLInfMethod": {
        "confidence": 0.0, "targeted": False, "learning_rate": 0.01, "max_iter": 10, "decrease_factor": 0.9,
        "initial_const": 1e-5, "largest_const": 20.0, "const_factor": 2.0, "batch_size": 1, "verbose": True,
    },
    "AutoProjectedGradientDescent": COMMON
    | {
        "max_iter": 100, "targeted": False, "nb_random_init": 5, "batch_size": 32, "loss_type": None, "verbose": True,
    },
    "SquareAttack": {
        "norm": math.inf, "adv_criterion": None, "loss": None, "max_iter": 100, "eps": 0.3, "p_init": 0.8,
        "nb_restarts": 1, "batch_size": 128, "verbose": True,
    },
    "ElasticNet": {
        "confidence": 0.0, "targeted": False, "learning_rate": 0.01, "binary_search_steps": 9, "max_iter": 100,
        "beta": 1e-3, "initial_const": 1e-3, "batch_size": 1, "decision_rule": "EN", "verbose": True,
    },
    "AutoAttack": COMMON
    | {"attacks": None, "batch_size": 32, "estimator_orig": None, "targeted": False, "parallel_pool_size": 0},
    "BoundaryAttack": {
        "batch_size": 64, "targeted": True, "delta": 0.01, "epsilon": 0.01, "step_adapt": 0.667, "max_iter": 5000,
        "num_trial": 25, "sample_size": 20, "init_size": 100, "min_epsilon": 0.0, "verbose": True,
    },
    "HopSkipJump": {
        "batch_size": 64, "targeted": False, "norm": 2, "max_iter": 50, "max_eval": 10000, "init_eval": 100,
        "init_size": 100, "verbose": True,
    },
    "SaliencyMapMethod": {"theta": 0.1, "gamma": 1.0, "batch_size": 1, "verbose": True},
    "PixelAttack": {"th": None, "es": 1, "max_iter": 100, "targeted": False, "verbose": False},
}  # fmt: skip
CLASSIFIERS = (
    "DeepFool", "CarliniL2Method", "CarliniLInfMethod", "ElasticNet", "HopSkipJump", "SaliencyMapMethod", "PixelAttack",
)  # fmt: skip
CASES = [
    (art.ProjectedGradientDescent(MODEL, eps=0.1, max_iter=3), attacks.PGD(0.1, 0.1, 3, 0.0)),
    (
        art.ProjectedGradientDescent(MODEL, 2, 0.5, 0.1, max_iter=3, num_random_init=2, batch_size=7),
        attacks.PGD(0.5, 0.1, 3, restarts=2, norm="l2"),
    ),
    (
        art.ProjectedGradientDescent(MODEL, "inf", 0.1, 0.02, max_iter=3, targeted=True),
        attacks.PGD(0.1, 0.02, 3, 0.0, targeted=True),
    ),
    (art.FastGradientMethod(MODEL, eps=0.1), attacks.FGSM(0.1)),
    (art.BasicIterativeMethod(MODEL, 0.1, 0.02, 5), attacks.PGD(0.1, 0.02, 5, 0.0)),
    (art.MomentumIterativeMethod(MODEL, eps=0.1, eps_step=0.02, max_iter=5), attacks.MIFGSM(0.1, 0.02, 5)),
    (art.DeepFool(MODEL, 20), attacks.DeepFool(20, 1e-6, 10)),
    (
        art.CarliniL2Method(MODEL, max_iter=5, binary_search_steps=3, batch_size=8),
        attacks.CW(steps=35, lr=0.01, initial_const=0.01, binary_search_steps=3),
    ),
    (
        art.CarliniLInfMethod(MODEL, max_iter=5, decrease_factor=0.7, batch_size=8),
        attacks.CWLinf(steps=5, lr=0.01, initial_const=1e-5, decrease=0.7),
    ),
    (
        art.ElasticNet(MODEL, max_iter=5, binary_search_steps=3, batch_size=8),
        attacks.EAD(steps=5, binary_search_steps=3, decision="en", abort_early=False),
    ),
    (
        art.ProjectedGradientDescent(MODEL, eps=0.1, eps_step=0.02, max_iter=5, decay=0.9),
        attacks.MIFGSM(0.1, 0.02, 5, 0.9),
    ),
    (art.AutoProjectedGradientDescent(MODEL, eps=0.1, max_iter=5), attacks.APGD(0.1, 5, 5)),
    (
        art.AutoProjectedGradientDescent(MODEL, 1, 0.5, max_iter=5, targeted=True, nb_random_init=2),
        attacks.APGD(0.5, 5, 2, norm="l1", targeted=True),
    ),
    (art.SquareAttack(MODEL, eps=0.1, max_iter=20), attacks.Square(0.1, 20)),
    (
        art.BoundaryAttack(MODEL, 7, False, 0.1, 0.02, 0.5, max_iter=4, sample_size=5),
        attacks.Boundary(20, 0.1, 0.02, 0.0, 2.0),
    ),
    (art.HopSkipJump(MODEL, norm="inf", max_iter=2, init_eval=10), attacks.HopSkipJump(2, 10, norm="linf")),
    (
        art.SaliencyMapMethod(MODEL, 0.5, 0.2, batch_size=9),
        attacks.JSMA(0.5, 0.2, saliency="target", targeted=True),
    ),
    (art.PixelAttack(MODEL, 2, max_iter=1), attacks.OnePixel(2, 1, base="best")),
]  # fmt: skip


@pytest.mark.parametrize("name", OPTIONS)
def test_options(name):
    parameters = [*inspect.signature(getattr(art, name)).parameters.values()]
    assert parameters[0].name == ("classifier" if name in CLASSIFIERS else "estimator")
    assert {p.name: p.default for p in parameters[1:]} == OPTIONS[name]
    assert [p.name for p in parameters[1:]] == [*OPTIONS[name]]


@pytest.mark.thorough
@pytest.mark.parametrize("name", OPTIONS)
def test_estimators_are_those_of_art(name):
    evasion = pytest.importorskip("art.attacks.evasion")
    assert getattr(art, name)._estimator_requirements == getattr(evasion, name)._estimator_requirements


@pytest.mark.thorough
@pytest.mark.parametrize("name", OPTIONS)
def test_options_are_those_of_art(name):
    evasion = pytest.importorskip("art.attacks.evasion")
    theirs = inspect.signature(getattr(evasion, name)).parameters.values()
    assert [(p.name, p.default) for p in theirs][1:] == [*OPTIONS[name].items()]


@pytest.mark.parametrize(("theirs", "ours"), CASES, ids=lambda a: type(a).__name__)
def test_what_runs_are_our_attacks(theirs, ours, monkeypatch):
    monkeypatch.setattr(theirs, "seed", 0)
    ours = dataclasses.replace(ours, seed=0)
    found = theirs.generate(X.numpy(), Y.numpy())
    assert found.dtype == np.float32
    assert np.array_equal(found, ours(MODEL, X, Y if theirs.takes_labels else None).numpy())
    one_hot = np.eye(5, dtype=np.float32)[Y.numpy()]
    assert np.array_equal(theirs.generate(X.numpy().astype(np.float64), one_hot), found)
    assert np.array_equal(theirs.generate(X.numpy(), Y.numpy()[:, None]), found)
    if not ours.targeted:
        assert np.array_equal(theirs.generate(X.numpy()), ours(MODEL, X).numpy())


@pytest.mark.thorough
def test_results_are_those_of_art():
    classification = pytest.importorskip("art.estimators.classification")
    model = BatchNormNet().eval()
    x, y = samples(8, 3, 6, 6).numpy(), np.arange(8) % 5
    scale = ([0.4, 0.5, 0.6], [0.5, 0.6, 0.7])
    how = {"clip_values": (0, 1), "preprocessing": scale, "device_type": "cpu"}
    estimator = classification.PyTorchClassifier(model, torch.nn.CrossEntropyLoss(), (3, 6, 6), 5, **how)
    evasion = pytest.importorskip("art.attacks.evasion")
    for name, options in {
        "FastGradientMethod": {"eps": 0.1},
        "BasicIterativeMethod": {"eps": 0.1, "eps_step": 0.03, "max_iter": 5, "verbose": False},
        "ProjectedGradientDescent": {"norm": 2, "eps": 0.5, "eps_step": 0.1, "max_iter": 5, "verbose": False},
    }.items():
        found, expected = (getattr(library, name)(estimator, **options).generate(x, y) for library in (art, evasion))
        assert np.allclose(found, expected, atol=1e-5), name


@pytest.mark.thorough
def test_autoattack():
    attack = art.AutoAttack(MODEL, eps=0.02, batch_size=3)
    attack.seed = 0
    found = attack.generate(X[:5].numpy(), Y[:5].numpy())
    assert np.array_equal(found, attacks.AutoAttack(0.02, seed=0)(MODEL, X[:5], Y[:5]).numpy())


@pytest.mark.parametrize("targeted", [False, True])
def test_autoattack_of_a_list_of_attacks(targeted):
    """Each takes what is left, first away from the labels, then towards every other class."""
    steps = {"eps_step": 0.01, "max_iter": 2, "verbose": False}
    listed = [
        art.ProjectedGradientDescent(MODEL, 2, 0.01, targeted=True, **steps),
        art.DeepFool(MODEL, 5, batch_size=24),
        art.AutoProjectedGradientDescent(MODEL, 2, 0.02, max_iter=3, nb_random_init=1),
    ]
    attack = art.AutoAttack(MODEL, 2, 0.02, attacks=listed, targeted=targeted)
    attack.seed = 0
    found, y = attack.generate(X.numpy(), Y.numpy()), Y.numpy()
    expected, left = X.numpy().copy(), np.flatnonzero(MODEL(X).argmax(1) == Y)
    plain = {"norm": "l2", "seed": 0}
    runs = [(attacks.PGD(0.01, 0.01, 2, 0.0, norm="l2"), y), (attacks.DeepFool(5, 1e-6, 10), y)]
    runs.append((attacks.APGD(0.02, 3, **plain), y))
    if targeted:
        towards = [
            attacks.PGD(0.01, 0.01, 2, 0.0, targeted=True, norm="l2"),
            attacks.APGD(0.02, 3, targeted=True, **plain),
        ]
        runs += [(each, (y + k) % 5) for each in towards for k in range(1, 5)]
    before = len(left)
    for each, goals in runs:
        points = each(MODEL, torch.from_numpy(expected[left]), torch.from_numpy(goals[left]))
        sizes = (points - torch.from_numpy(expected[left])).flatten(1).norm(dim=1)
        won = (MODEL(points).argmax(1).numpy() != y[left]) & (sizes <= 0.02 * (1 + 1e-4)).numpy()
        expected[left[won]], left = points[won].detach().numpy(), left[~won]
    assert 0 < len(left) < before
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert listed[0].targeted  # as it was
    mask = np.zeros_like(X.numpy())
    assert np.array_equal(attack.generate(X.numpy(), Y.numpy(), mask=mask), X.numpy())


def test_autoattack_with_a_pool_keeps_the_smallest_perturbation():
    listed = [
        art.ProjectedGradientDescent(MODEL, 2, 0.05, eps_step=0.05, max_iter=2, verbose=False),
        art.DeepFool(MODEL, 5, batch_size=24),
    ]
    right = (MODEL(X).argmax(1) == Y).numpy()
    x, y, expected = X.numpy()[right], Y.numpy()[right], X.numpy().copy()
    alone = [attack.generate(x, y) for attack in listed]
    sizes = np.stack([np.linalg.norm((found - x).reshape(len(x), -1), axis=1) for found in alone])
    won = np.stack([MODEL(torch.from_numpy(found)).argmax(1).numpy() != y for found in alone])
    sizes[~won | (sizes > 0.05 * (1 + 1e-4))] = np.inf
    best = np.where(np.isinf(sizes).all(0), -1, sizes.argmin(0))
    assert {*best} > {1}
    expected[right] = np.stack([alone[k][i] if k >= 0 else x[i] for i, k in enumerate(best)])
    pool = art.AutoAttack(MODEL, 2, 0.05, attacks=listed, parallel_pool_size=2).generate(X.numpy(), Y.numpy())
    np.testing.assert_allclose(pool, expected, atol=1e-6)
    first = art.AutoAttack(MODEL, 2, 0.05, attacks=listed).generate(X.numpy(), Y.numpy())
    assert np.linalg.norm(pool - X.numpy()) < np.linalg.norm(first - X.numpy())
    with pytest.raises(ValueError, match="leave parallel_pool_size 0, or give it attacks"):
        art.AutoAttack(MODEL, parallel_pool_size=2)


def test_an_estimator_has_clip_values_and_preprocessing():
    mean, std = np.array([0.1, 0.2, 0.3]), np.array([0.5, 0.25, 2.0])
    model, x, y = partly_frozen(BatchNormNet()), samples(8, 3, 6, 6) * 2 - 1, torch.arange(8) % 5
    before = traces(model, x, y)
    standardise = SimpleNamespace(mean=mean, std=std)
    estimator = SimpleNamespace(
        model=model, clip_values=(-1, 1), preprocessing=standardise, preprocessing_operations=[standardise]
    )
    attack = art.ProjectedGradientDescent(estimator, eps=0.2, eps_step=0.05, max_iter=3)
    attack.seed = 0
    found = attack.generate(x.numpy(), y.numpy())
    assert traces(model, x, y) == before
    inside = Normalize(model, mean.tolist(), std.tolist())
    expected = attacks.PGD(0.2, 0.05, 3, 0.0, bounds=(-1.0, 1.0))(inside, x, y)
    assert np.allclose(found, expected.numpy(), atol=1e-6)
    estimator.clip_values = None
    free = art.FastGradientMethod(estimator, eps=0.2).generate(x.numpy(), y.numpy())
    assert np.allclose(np.abs(free - x.numpy()), 0.2)
    assert free.max() > 1.1
    estimator.preprocessing_operations.append("spatial smoothing")
    with pytest.raises(ValueError, match="other than a mean and a standard deviation is not supported"):
        art.FastGradientMethod(estimator).generate(x.numpy())


@pytest.mark.parametrize(
    "clip",
    [
        (np.zeros((3, 1, 1)), np.array([1, 1, 2]).reshape(3, 1, 1)),
        (np.array([0.0, 0.0, -0.5]), 1.0),
        (np.full((3, 4, 4), -np.inf), np.linspace(0, 1, 48).reshape(3, 4, 4)),
    ],
)
@pytest.mark.parametrize("kind", [art.FastGradientMethod, art.CarliniL2Method])
def test_clip_values_of_each_feature_are_not_widened(kind, clip):
    """At eps 0.5 the first feature of the first would go to 1.5, which is in the range of the third alone."""
    estimator = SimpleNamespace(model=MODEL, clip_values=clip)
    with pytest.raises(ValueError, match=r"clip_values must be the same for all features: .* Scale the inputs"):
        kind(estimator).generate(X.numpy())


def test_clip_values_of_each_feature_may_all_be_one():
    clip = (np.full((3, 1, 1), -1.0), np.full((3, 1, 1), 2.0))
    estimators = [SimpleNamespace(model=MODEL, clip_values=values) for values in (clip, (-1, 2), np.array([-1, 2.0]))]
    found = [art.FastGradientMethod(estimator, eps=2.5).generate(X.numpy()) for estimator in estimators]
    assert all(np.array_equal(found[0], other) for other in found)
    assert (found[0].min(), found[0].max()) == (-1, 2)


class Wide(Wavy):
    """`MODEL` for images in [0, 255]."""

    def forward(self, x):
        return super().forward(x / 255)


def test_carlini_wagner_on_any_range():
    options = {"max_iter": 30, "binary_search_steps": 6, "initial_const": 0.1, "batch_size": 24}
    unit = art.CarliniL2Method(MODEL, **options).generate(X.numpy(), Y.numpy())
    assert (MODEL(torch.from_numpy(unit)).argmax(1) != Y).all()
    model, x = Wide(48, 5), (255 * X).numpy()
    for clip in ((0, 255), None):  # without, the range of x
        estimator = SimpleNamespace(model=model, clip_values=clip)
        wide = art.CarliniL2Method(estimator, **options).generate(x, Y.numpy())
        assert (model(torch.from_numpy(wide)).argmax(1) != Y).all()
        assert (wide.min() >= x.min()) & (wide.max() <= x.max()) or clip is not None
        sizes = [np.linalg.norm((moved - X.numpy()).reshape(24, -1), axis=1).mean() for moved in (unit, wide / 255)]
        assert sizes[1] == pytest.approx(sizes[0], rel=0.05)


def test_noise_follows_the_generator_of_torch():
    attack = art.ProjectedGradientDescent(MODEL, eps=0.1, max_iter=2, num_random_init=1)
    torch.manual_seed(0)
    first, second = (attack.generate(X.numpy(), Y.numpy()) for _ in range(2))
    assert not np.array_equal(first, second)
    torch.manual_seed(0)
    attack.batch_size = 5  # which does not matter
    assert np.array_equal(attack.generate(X.numpy(), Y.numpy()), first)
    attack.seed, before = 7, torch.get_rng_state()
    assert np.array_equal(*(attack.generate(X.numpy(), Y.numpy()) for _ in range(2)))
    art.FastGradientMethod(MODEL).generate(X.numpy())  # without noise
    assert torch.equal(torch.get_rng_state(), before)


ARRAY = np.array([0.1, 0.2])


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("ProjectedGradientDescent", {"norm": 3}, ValueError, "norm must be 1, 2 or np.inf, got 3"),
        ("ProjectedGradientDescent", {"decay": 0.9, "norm": 2}, ValueError, "decay is for the norm np.inf"),
        ("ProjectedGradientDescent", {"eps": "1"}, TypeError, "must both be numbers, or both arrays; got .*'1'"),
        ("ProjectedGradientDescent", {"eps": ARRAY}, TypeError, "must both be numbers, or both arrays"),
        ("ProjectedGradientDescent", {"eps": -1}, ValueError, "eps must not be negative, and eps_step positive"),
        ("ProjectedGradientDescent", {"eps": -ARRAY, "eps_step": ARRAY}, ValueError, "eps must not be negative"),
        ("ProjectedGradientDescent", {"eps_step": 0}, ValueError, "eps_step positive; got .*'eps_step': 0"),
        ("ProjectedGradientDescent", {"eps": ARRAY, "eps_step": ARRAY[:1]}, ValueError, "must have one shape"),
        ("ProjectedGradientDescent", {"eps": ARRAY, "eps_step": ARRAY, "norm": 2}, ValueError, "and norm np.inf"),
        ("ProjectedGradientDescent", {"eps": ARRAY, "eps_step": ARRAY[::-1]}, ValueError, "the same share of every"),
        ("ProjectedGradientDescent", {"max_iter": -1}, ValueError, "steps must be a whole number of at least 0"),
        ("ProjectedGradientDescent", {"targeted": "true"}, ValueError, "targeted must be True or False, got 'true'"),
        ("ProjectedGradientDescent", {"verbose": "true"}, ValueError, "verbose must be True or False"),
        ("ProjectedGradientDescent", {"num_random_init": 1.0}, TypeError, "num_random_init must be a whole number"),
        ("ProjectedGradientDescent", {"num_random_init": -1}, ValueError, "num_random_init must be at least 0"),
        ("ProjectedGradientDescent", {"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
        ("ProjectedGradientDescent", {"random_eps": True}, ValueError, "random_eps is not supported here"),
        ("FastGradientMethod", {"minimal": "true"}, ValueError, "minimal must be True or False"),
        ("MomentumIterativeMethod", {"norm": 2}, ValueError, "is for the norm np.inf and no random starts here"),
        ("MomentumIterativeMethod", {"decay": -1}, ValueError, r"decay must be in \[0, 1\], got -1"),
        ("DeepFool", {"epsilon": -1}, ValueError, r"overshoot must be in \[0, inf\), got -1"),
        ("CarliniL2Method", {"max_halving": "1.0"}, ValueError, "max_halving must be a whole number"),
        ("CarliniL2Method", {"binary_search_steps": -1}, ValueError, "binary_search_steps must be a whole number"),
        ("ElasticNet", {"decision_rule": "L2"}, ValueError, "decision must be one of l1, en, got 'l2'"),
        ("AutoProjectedGradientDescent", {"loss_type": "hinge"}, ValueError, "loss_type must be None, cross_entropy"),
        ("AutoProjectedGradientDescent", {"eps": "1"}, ValueError, "eps and eps_step must be positive numbers"),
        ("AutoProjectedGradientDescent", {"nb_random_init": 0}, ValueError, "nb_random_init must be at least 1"),
        ("SquareAttack", {"loss": len}, ValueError, "loss is not supported here: leave it None"),
        ("ElasticNet", {"decision_rule": 1.0}, ValueError, "decision must be one of l1, en, got '1.0'"),
        ("SquareAttack", {"p_init": "1.0"}, ValueError, "p_init must be a number, got '1.0'"),
        ("SquareAttack", {"p_init": -1}, ValueError, r"p must be in \(0, 1\], got -1"),
        ("CarliniLInfMethod", {"const_factor": -1}, ValueError, "const_factor must be greater than 1, got -1"),
        ("CarliniLInfMethod", {"const_factor": "1.0"}, ValueError, "const_factor must be a number, got '1.0'"),
        ("BoundaryAttack", {"num_trial": -1}, ValueError, "num_trial must be at least 0, got -1"),
        ("BoundaryAttack", {"min_epsilon": "1.0"}, ValueError, "min_epsilon must be a number, got '1.0'"),
        ("HopSkipJump", {"init_eval": 10, "max_eval": 1}, ValueError, "max_eval must be at least init_eval, got"),
        ("AutoAttack", {"attacks": [1]}, ValueError, "attacks must be a list of attacks of this module"),
    ],
)
def test_what_is_refused(name, options, error, message):
    """When an attack is made, and when its options are set, which then stay what they were."""
    with pytest.raises(error, match=message):
        getattr(art, name)(MODEL, **options)
    attack = getattr(art, name)(MODEL)
    before = dict(vars(attack))
    with pytest.raises(error, match=message):
        attack.set_params(**options)
    assert vars(attack) == before


def test_what_is_no_estimator_or_option():
    other = SimpleNamespace(model="one of scikit-learn's")
    for wrong, got in (("model", "str"), (other, "SimpleNamespace"), (object, "type")):
        for kind in (art.ProjectedGradientDescent, art.DeepFool):
            with pytest.raises(
                art.exceptions.EstimatorError, match=f"{kind.__name__}: .* a torch module, .* got {got}"
            ) as caught:
                kind(wrong)
            error = caught.value
            assert isinstance(error, TypeError)
            assert (error.this_class, error.classifier_given) == (kind, wrong)
            assert error.class_expected_list == kind._estimator_requirements
            assert not kind.is_estimator_valid(wrong)
    assert art.DeepFool.is_estimator_valid(SimpleNamespace(model=MODEL))
    with pytest.raises(ValueError, match="targeted: give the classes"):
        art.ProjectedGradientDescent(MODEL, targeted=True).generate(X.numpy())
    with pytest.raises(ValueError, match="targeted: give the classes"):
        art.BoundaryAttack(MODEL).generate(X.numpy())
    for options, message in (
        ({}, "PixelAttack needs th, .* got th=None, es=1"),
        ({"th": 1, "es": 0}, "got th=1, es=0"),
    ):
        with pytest.raises(ValueError, match=message):
            art.PixelAttack(MODEL, **options)
    with pytest.raises(ValueError, match='The attribute "targeted" cannot be set for this attack'):
        art.SquareAttack(MODEL).set_params(targeted=True)


def test_paths_are_those_of_art():
    assert art.attacks.evasion.ProjectedGradientDescent is art.ProjectedGradientDescent
    module = importlib.import_module("fastadv.compat.art.attacks.evasion")
    assert all(getattr(module, name) is getattr(art, name) for name in module.__all__)
    assert {*OPTIONS} < {*module.__all__}


def test_options_can_be_set():
    attack = art.BasicIterativeMethod(MODEL, 0.1, 0.02, 5)
    attack.set_params(eps=0.05, max_iter=3)
    assert np.array_equal(attack.generate(X.numpy()), attacks.PGD(0.05, 0.02, 3, 0.0)(MODEL, X).numpy())


def test_budgets_beyond_the_range_are_the_range():
    for attack, norm in ((art.FastGradientMethod(MODEL, eps=5.0), "inf"), (art.SquareAttack(MODEL, eps=5.0), 2)):
        attack.set_params(norm=norm)
        found = attack.generate(X.numpy(), Y.numpy())
        assert (found.min() >= 0) & (found.max() <= 1)
        assert not np.array_equal(found, X.numpy())


ONE = np.arange(48).reshape(3, 4, 4) % 2 == 0
EACH = torch.rand(24, 1, 4, 4, generator=torch.Generator().manual_seed(0)).numpy().round()


@pytest.mark.parametrize("mask", [ONE, EACH, np.zeros(4), np.arange(4) == 3])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ProjectedGradientDescent", {"eps": 0.1, "max_iter": 5, "num_random_init": 2}),
        ("ProjectedGradientDescent", {"norm": 2, "eps": 0.5, "max_iter": 5}),
        ("FastGradientMethod", {"eps": 0.1, "eps_step": 0.02, "minimal": True}),
        ("MomentumIterativeMethod", {"eps": 0.1, "eps_step": 0.02, "max_iter": 5}),
        ("DeepFool", {}),
        ("CarliniL2Method", {"binary_search_steps": 3}),
        ("SquareAttack", {"eps": 0.1, "max_iter": 20}),
        ("AutoProjectedGradientDescent", {"eps": 0.1, "max_iter": 5}),
    ],
)
def test_masks(name, options, mask):
    attack = getattr(art, name)(MODEL, **options)
    found, moving = attack.generate(X.numpy(), Y.numpy(), mask=mask), np.broadcast_to(mask != 0, X.shape)
    assert np.array_equal(found[~moving], X.numpy()[~moving])
    assert np.any(found != X.numpy()) == np.any(moving)
    assert (found.min() >= 0) & (found.max() <= 1)
    if "eps" in options:
        order = 2 if options.get("norm") == 2 else np.inf
        sizes = np.linalg.norm((found - X.numpy()).reshape(24, -1), order, axis=1)
        assert sizes.max() <= options["eps"] * (1 + 1e-5)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (art.BoundaryAttack(MODEL, 7, True, max_iter=4, sample_size=5), attacks.Boundary(20, least=0.0)),
        (art.HopSkipJump(MODEL, 7, True, max_iter=2, init_eval=10), attacks.HopSkipJump(2, 10)),
    ],
)
def test_starts_of_attacks_on_decisions(theirs, ours, monkeypatch):
    starts = X.roll(1, 0)
    goal = MODEL(starts).argmax(1)
    assert (goal != MODEL(X).argmax(1)).sum() > 8
    monkeypatch.setattr(theirs, "seed", 0)
    adaptation = {"adaptation": 1 / 0.667} if isinstance(ours, attacks.Boundary) else {}
    ours = dataclasses.replace(ours, starts=starts, targeted=True, seed=0, **adaptation)
    found = torch.from_numpy(theirs.generate(X.numpy(), goal.numpy(), x_adv_init=starts.numpy()))
    assert torch.equal(found, ours(MODEL, X, goal))
    assert (MODEL(found).argmax(1) == goal).all()


def test_where_art_would_begin_means_nothing():
    attack = art.BasicIterativeMethod(MODEL, 0.1, 0.02, 5)
    other = {"x_init": 1 - X.numpy(), "x_adv_init": 1 - X.numpy()}
    assert np.array_equal(attack.generate(X.numpy(), **other), attack.generate(X.numpy()))
    lists = attack.generate(X.tolist(), np.eye(5)[Y].tolist())
    assert np.array_equal(lists, attack.generate(X.numpy(), Y.numpy()))


def test_a_batch_with_a_mask_is_a_batch():
    """A mask, and a budget for each feature, are no reason to attack samples one by one."""
    sizes = []

    class Seen(Wavy):
        def forward(self, x):
            sizes.append(len(x))
            return super().forward(x)

    attack = art.BasicIterativeMethod(Seen(48, 5), 0.1, 0.02, 2)
    attack.generate(X.numpy(), Y.numpy(), mask=ONE)
    attack.set_params(eps=np.full((3, 1, 1), 0.1), eps_step=np.full((3, 1, 1), 0.02))
    attack.generate(X.numpy(), Y.numpy())
    assert {*sizes} == {24}
    own = np.linspace(0.1, 0.2, 24).reshape(24, 1, 1, 1)
    attack.set_params(eps=own, eps_step=own / 5)
    attack.generate(X.numpy(), Y.numpy())
    assert {*sizes} == {24, 1}, "samples with budgets of their own are attacked one by one"


def test_a_mask_of_ones_changes_nothing():
    attack = art.ProjectedGradientDescent(MODEL, eps=0.1, eps_step=0.03, max_iter=5, num_random_init=1)
    attack.seed = 0
    found, whole = (attack.generate(X.numpy(), Y.numpy(), mask=mask) for mask in (np.ones(X.shape), None))
    assert np.allclose(found, whole, atol=1e-6)


def test_a_budget_for_each_sample_or_feature():
    """On a linear model of three classes the sign of the gradient is the same everywhere: the budget is used up."""
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2, bias=False))
    with torch.no_grad():
        model[1].weight[1] = -model[1].weight[0]
    y = model(X).argmax(1)
    toward = (model[1].weight[1 - y] - model[1].weight[y]).sign().view(X.shape).detach()
    some = np.linspace(0, 0.4, 48, dtype=np.float32).reshape(3, 4, 4)
    for eps in (some, some[:, :1, :1], np.linspace(0.1, 0.3, 24, dtype=np.float32).reshape(24, 1, 1, 1)):
        expected = (X + torch.from_numpy(eps) * toward).clamp(0, 1).numpy()
        for attack in (
            art.FastGradientMethod(model, eps=eps, eps_step=np.full_like(eps, 0.1)),
            art.ProjectedGradientDescent(model, eps=eps, eps_step=eps / 4, max_iter=5)
            if eps.min() > 0
            else art.ProjectedGradientDescent(model, eps=eps, eps_step=eps / 4 + 1e-9, max_iter=5),
        ):
            found = attack.generate(X.numpy(), y.numpy())
            assert np.allclose(found, expected, atol=1e-6)
    known = art.FastGradientMethod(model, eps=some, eps_step=some + 1, batch_size=5).generate(X.numpy(), y.numpy())
    assert np.array_equal(known, art.FastGradientMethod(model, eps=some, eps_step=some + 1).generate(X.numpy()))
    ones = np.full((4,), 0.1)
    whole = art.ProjectedGradientDescent(MODEL, eps=0.1, eps_step=0.02, max_iter=5).generate(X.numpy(), Y.numpy())
    array = art.ProjectedGradientDescent(MODEL, eps=ones, eps_step=0.2 * ones, max_iter=5)
    assert np.allclose(array.generate(X.numpy(), Y.numpy()), whole, atol=1e-6)


def test_the_smallest_step_that_fools():
    attack = art.FastGradientMethod(MODEL, eps=0.1, eps_step=0.01, minimal=True, num_random_init=3, batch_size=7)
    found, sizes = attack.generate(X.numpy(), Y.numpy()), 0.01 * np.arange(1, 11)
    at = [attacks.FGSM(float(size))(MODEL, X, Y) for size in sizes]
    fooled = np.array([(MODEL(x_adv).argmax(1) != Y).numpy() for x_adv in at])
    assert len({*fooled.argmax(axis=0)[fooled.any(axis=0)]}) > 1
    for i in range(24):
        first = fooled[:, i].argmax() if fooled[:, i].any() else 9
        assert np.allclose(found[i], at[first][i].numpy(), atol=1e-6)


def test_deepfool_looks_at_no_labels():
    attack = art.DeepFool(MODEL, 20, batch_size=24)
    assert np.array_equal(attack.generate(X.numpy(), (Y.numpy() + 1) % 5), attack.generate(X.numpy()))


def test_saliency_maps_without_labels_go_to_another_class():
    attack = art.SaliencyMapMethod(MODEL, 1.0, 0.5)
    attack.seed = 3
    own, ids = MODEL(X).argmax(1), torch.arange(24)
    goal = random_target(own, ids, 5, 3)
    assert (goal != own).all()
    expected = attacks.JSMA(1.0, 0.5, saliency="target", targeted=True)(MODEL, X, goal)
    assert np.array_equal(attack.generate(X.numpy()), expected.numpy())
    wide = art.SaliencyMapMethod(SimpleNamespace(model=Wide(48, 5), clip_values=(0, 255)), 255.0, 0.5, batch_size=24)
    found = wide.generate((255 * X).numpy(), goal.numpy())
    assert np.allclose(found / 255, expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("kind", [art.HopSkipJump, art.BoundaryAttack])
def test_attacks_on_decisions_keep_to_the_range_of_x(kind):
    attack = kind(SimpleNamespace(model=MODEL, clip_values=None), targeted=False, max_iter=1)
    found = attack.generate((0.2 + 0.5 * X).numpy())
    assert found.min() >= (0.2 + 0.5 * X).min().item()
    assert found.max() <= (0.2 + 0.5 * X).max().item()
    assert (MODEL(torch.from_numpy(found)).argmax(1) != MODEL(0.2 + 0.5 * X).argmax(1)).all()


@pytest.mark.thorough
def test_saliency_maps_reach_what_those_of_art_reach():
    classification = pytest.importorskip("art.estimators.classification")
    evasion = pytest.importorskip("art.attacks.evasion")
    estimator = classification.PyTorchClassifier(MODEL, torch.nn.CrossEntropyLoss(), (3, 4, 4), 5, clip_values=(0, 1))
    goal = ((MODEL(X).argmax(1) + 1) % 5).numpy()
    reached = []
    for library in (evasion, art):
        x_adv = library.SaliencyMapMethod(estimator, 0.25, 0.4, verbose=False).generate(X.numpy(), goal)
        reached.append((MODEL(torch.from_numpy(x_adv)).argmax(1).numpy() == goal).sum())
    assert reached[1] >= reached[0] > 5


def test_what_does_not_broadcast():
    with pytest.raises(ValueError, match=r"mask must broadcast against x, \(24, 3, 4, 4\); got \(5,\)"):
        art.DeepFool(MODEL).generate(X.numpy(), mask=np.ones(5))
    with pytest.raises(ValueError, match=r"eps must broadcast against x, \(24, 3, 4, 4\); got \(5,\)"):
        art.FastGradientMethod(MODEL, eps=np.ones(5), eps_step=np.ones(5)).generate(X.numpy())


def test_no_samples():
    eps = np.full((3, 1, 1), 0.1)
    assert art.FastGradientMethod(MODEL, eps=eps, eps_step=eps).generate(X[:0].numpy()).shape == (0, 3, 4, 4)
    assert art.SaliencyMapMethod(MODEL).generate(X[:0].numpy()).shape == (0, 3, 4, 4)
    assert art.DeepFool(MODEL).generate(X[:0].numpy()).shape == (0, 3, 4, 4)
