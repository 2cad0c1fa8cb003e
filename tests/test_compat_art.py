"""fastadv.compat.art: arrays in, arrays out."""

import dataclasses
import inspect
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from toys import BatchNormNet, Wavy, partly_frozen, samples, traces

from fastadv import Normalize, attacks
from fastadv.compat import art

MODEL, X = Wavy(48, 5), samples(24, 3, 4, 4)
Y = MODEL(X).argmax(1)
Y[::4] = (Y[::4] + 1) % 5
COMMON = {"norm": math.inf, "eps": 0.3, "eps_step": 0.1}
OPTIONS = {
    "ProjectedGradientDescent": COMMON
    | {"decay": None, "max_iter": 100, "targeted": False, "num_random_init": 0, "batch_size": 32, "verbose": True},
    "FastGradientMethod": COMMON | {"targeted": False, "num_random_init": 0, "batch_size": 32},
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
    "AutoProjectedGradientDescent": COMMON
    | {
        "max_iter": 100, "targeted": False, "nb_random_init": 5, "batch_size": 32, "loss_type": None, "verbose": True,
    },
    "SquareAttack": {
        "norm": math.inf, "adv_criterion": None, "loss": None, "max_iter": 100, "eps": 0.3, "p_init": 0.8,
        "nb_restarts": 1, "batch_size": 128, "verbose": True,
    },
    "AutoAttack": COMMON | {"attacks": None, "batch_size": 32},
}  # fmt: skip
DROPPED = {"random_eps", "summary_writer", "minimal", "estimator_orig", "targeted", "parallel_pool_size"}
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
        attacks.CW(steps=5, lr=0.01, initial_const=0.01, binary_search_steps=3),
    ),
    (art.AutoProjectedGradientDescent(MODEL, eps=0.1, max_iter=5), attacks.APGD(0.1, 5, 5)),
    (art.SquareAttack(MODEL, eps=0.1, max_iter=20), attacks.Square(0.1, 20)),
]  # fmt: skip


@pytest.mark.parametrize("name", OPTIONS)
def test_options(name):
    parameters = [*inspect.signature(getattr(art, name)).parameters.values()]
    assert parameters[0].name == ("classifier" if name in ("DeepFool", "CarliniL2Method") else "estimator")
    assert {p.name: p.default for p in parameters[1:]} == OPTIONS[name]
    assert [p.name for p in parameters[1:]] == [*OPTIONS[name]]


@pytest.mark.thorough
@pytest.mark.parametrize("name", OPTIONS)
def test_options_are_those_of_art(name):
    evasion = pytest.importorskip("art.attacks.evasion")
    theirs = {p.name: p.default for p in inspect.signature(getattr(evasion, name)).parameters.values()}
    assert {**OPTIONS[name], **{k: theirs[k] for k in theirs.keys() & DROPPED}} == {
        k: v for k, v in theirs.items() if k not in ("estimator", "classifier")
    }
    kept = [k for k in theirs if k in OPTIONS[name]]
    assert kept == [*OPTIONS[name]]


@pytest.mark.parametrize(("theirs", "ours"), CASES, ids=lambda a: type(a).__name__)
def test_what_runs_are_our_attacks(theirs, ours, monkeypatch):
    monkeypatch.setattr(theirs, "seed", 0)
    ours = dataclasses.replace(ours, seed=0)
    found = theirs.generate(X.numpy(), Y.numpy())
    assert found.dtype == np.float32
    assert np.array_equal(found, ours(MODEL, X, Y).numpy())
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


@pytest.mark.parametrize(
    ("attack", "error", "message"),
    [
        (art.ProjectedGradientDescent(MODEL, norm=3), ValueError, "norm must be 1, 2 or np.inf, got 3"),
        (art.ProjectedGradientDescent(MODEL, decay=0.9), ValueError, "use MomentumIterativeMethod"),
        (art.ProjectedGradientDescent(MODEL, targeted=True), ValueError, "targeted: give the classes"),
        (art.ProjectedGradientDescent("model"), TypeError, "must be a torch module, or have one .* got str"),
        (art.MomentumIterativeMethod(MODEL, norm=2), ValueError, "is for the norm np.inf here, got 2"),
        (art.AutoProjectedGradientDescent(MODEL, targeted=True), ValueError, "no targets here"),
        (art.SquareAttack(MODEL, loss=len), ValueError, "leave adv_criterion and loss None"),
        (art.AutoAttack(MODEL, attacks=[1]), ValueError, "leave attacks None"),
    ],
)
def test_what_is_refused(attack, error, message):
    with pytest.raises(error, match=message):
        attack.generate(X.numpy())


def test_no_samples():
    assert art.DeepFool(MODEL).generate(X[:0].numpy()).shape == (0, 3, 4, 4)
