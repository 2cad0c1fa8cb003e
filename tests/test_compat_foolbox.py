"""fastadv.compat.foolbox: models with preprocessing, lists of epsilons, criteria."""

import dataclasses
import sys

import numpy as np
import pytest
import torch
from test_attacks import linf
from toys import BatchNormNet, Wavy, labels, partly_frozen, samples, traces

from fastadv import Normalize, attacks, load, models
from fastadv.compat import foolbox
from fastadv.trainers import Standard, fit

MODEL, X = Wavy(48, 5), samples(24, 3, 4, 4)
Y = MODEL(X).argmax(1)
Y[::4] = (Y[::4] + 1) % 5
FMODEL = foolbox.PyTorchModel(MODEL, bounds=(0, 1))
OPTIONS = {
    "LinfPGD": {"rel_stepsize": 0.01 / 0.3, "abs_stepsize": None, "steps": 40, "random_start": True},
    "L2PGD": {"rel_stepsize": 0.025, "abs_stepsize": None, "steps": 50, "random_start": True},
    "L1PGD": {"rel_stepsize": 0.025, "abs_stepsize": None, "steps": 50, "random_start": True},
    "LinfBasicIterativeAttack": {"rel_stepsize": 0.2, "abs_stepsize": None, "steps": 10, "random_start": False},
    "L2BasicIterativeAttack": {"rel_stepsize": 0.2, "abs_stepsize": None, "steps": 10, "random_start": False},
    "L1BasicIterativeAttack": {"rel_stepsize": 0.2, "abs_stepsize": None, "steps": 10, "random_start": False},
    "MIFGSM": {"momentum": 1.0, "rel_stepsize": 0.2, "abs_stepsize": None, "steps": 10},
    "FGSM": {"random_start": False},
    "FGM": {"random_start": False},
    "L1FastGradientAttack": {"random_start": False},
    "L2DeepFoolAttack": {"steps": 50, "candidates": 10, "overshoot": 0.02, "loss": "logits"},
    "LinfDeepFoolAttack": {"steps": 50, "candidates": 10, "overshoot": 0.02, "loss": "logits"},
    "L2CarliniWagnerAttack": {
        "binary_search_steps": 9, "steps": 10000, "stepsize": 1e-2, "confidence": 0, "initial_const": 1e-3,
        "abort_early": True,
    },
    "DDNAttack": {"init_epsilon": 1.0, "steps": 100, "gamma": 0.05},
    "BoundaryAttack": {
        "init_attack": None, "steps": 25000, "spherical_step": 1e-2, "source_step": 1e-2,
        "source_step_convergance": 1e-7, "step_adaptation": 1.5, "tensorboard": False, "update_stats_every_k": 10,
    },
    "HopSkipJumpAttack": {
        "init_attack": None, "steps": 64, "initial_gradient_eval_steps": 100, "max_gradient_eval_steps": 10000,
        "stepsize_search": "geometric_progression", "gamma": 1.0, "tensorboard": False, "constraint": "l2",
    },
    "EADAttack": {
        "binary_search_steps": 9, "steps": 10000, "initial_stepsize": 1e-2, "confidence": 0.0, "initial_const": 1e-3,
        "regularization": 1e-2, "decision_rule": "EN", "abort_early": True,
    },
    "LinfAdditiveUniformNoiseAttack": {},
}  # fmt: skip
EQUALS = {
    "LinfPGD": attacks.PGD(0.05, 0.05 * 0.01 / 0.3, 40),
    "L2PGD": attacks.PGD(0.05, 0.05 * 0.025, 50, norm="l2"),
    "L1PGD": attacks.PGD(0.05, 0.05 * 0.025, 50, norm="l1"),
    "LinfBasicIterativeAttack": attacks.PGD(0.05, 0.01, 10, 0.0),
    "L2BasicIterativeAttack": attacks.PGD(0.05, 0.01, 10, 0.0, norm="l2"),
    "L1BasicIterativeAttack": attacks.PGD(0.05, 0.01, 10, 0.0, norm="l1"),
    "MIFGSM": attacks.MIFGSM(0.05, 0.01, 10),
    "FGSM": attacks.FGSM(0.05),
    "FGM": attacks.PGD(0.05, 0.05, 1, 0.0, norm="l2"),
    "L1FastGradientAttack": attacks.PGD(0.05, 0.05, 1, 0.0, norm="l1"),
    "L2DeepFoolAttack": attacks.DeepFool(convention="foolbox"),
    "LinfDeepFoolAttack": attacks.DeepFool(norm="linf", convention="foolbox"),
    "L2CarliniWagnerAttack": attacks.CW(0, 20, 0.01, 1e-3, binary_search_steps=9),
    "DDNAttack": attacks.DDN(),
    "BoundaryAttack": attacks.Boundary(20, tries=1000),
    "HopSkipJumpAttack": attacks.HopSkipJump(2, tries=1000),
    "EADAttack": attacks.EAD(0, 20, 0.01, 1e-3, beta=0.01, decision="en"),
    "LinfAdditiveUniformNoiseAttack": attacks.Noise(0.05),
}
QUICK = {
    **{name: {"steps": 20} for name in ("L2CarliniWagnerAttack", "EADAttack", "BoundaryAttack")},
    "HopSkipJumpAttack": {"steps": 2},
}
named = pytest.mark.parametrize("name", EQUALS)


@named
def test_options(name):
    fields = {field.name: field.default for field in dataclasses.fields(getattr(foolbox, name))}
    assert fields == {"seed": None} | OPTIONS[name]


@named
def test_what_runs_are_our_attacks(name):
    raw, clipped, adversarial = getattr(foolbox, name)(**QUICK.get(name, {}), seed=0)(FMODEL, X, Y, epsilons=0.05)
    found = dataclasses.replace(EQUALS[name], seed=0).run(MODEL, X, Y)
    torch.testing.assert_close(raw, found.x_adv, atol=1e-6, rtol=0)
    norm = {"l1": 1, "l2": 2, "linf": torch.inf}[EQUALS[name].norm]
    assert (clipped - X).flatten(1).norm(norm, dim=1).max() <= 0.05 * (1 + 1e-4)
    assert torch.equal(adversarial, MODEL(clipped).argmax(1) != Y)


@pytest.mark.parametrize("name", ["L2CarliniWagnerAttack", "EADAttack"])
def test_where_nothing_is_found_the_image_is_black(name):
    attack = getattr(foolbox, name)(binary_search_steps=1, steps=1, initial_const=1e-9, seed=0)
    raw, clipped, adversarial = attack(FMODEL, X, Y, epsilons=[None, 0.5])
    right, black = MODEL(X).argmax(1) == Y, torch.zeros_like(X)
    assert torch.equal(raw[0], torch.where(right.view(-1, 1, 1, 1), black, X))
    assert torch.equal(adversarial, torch.stack([MODEL(found).argmax(1) != Y for found in clipped]))
    assert 0 < adversarial[0].sum() < 24
    order = 1 if name == "EADAttack" else 2
    torch.testing.assert_close((clipped[1] - X)[right].flatten(1).norm(order, dim=1), torch.full((right.sum(),), 0.5))
    shifted = foolbox.PyTorchModel(MODEL, bounds=(-2, -1))
    assert (attack(shifted, X - 2, MODEL(X - 2).argmax(1), epsilons=None)[0] == -1).all()


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
@pytest.mark.parametrize("name", ["LinfPGD", "L2DeepFoolAttack"])
def test_lists_of_epsilons(name, kind):
    attack, epsilons = getattr(foolbox, name)(seed=0), kind([0.0, 0.02, 0.3])
    raw, clipped, adversarial = attack(FMODEL, X, foolbox.Misclassification(Y), epsilons=epsilons)
    assert (type(raw), len(raw), type(clipped), len(clipped)) == (list, 3, list, 3)
    assert adversarial.shape == (3, 24)
    for i, epsilon in enumerate(epsilons):  # numbers of Python, NumPy or torch
        one = attack(FMODEL, X, Y, epsilons=epsilon)
        assert all(torch.equal(a[i], b) for a, b in zip((raw, clipped, adversarial), one, strict=True))
    assert torch.equal(adversarial[0], MODEL(X).argmax(1) != Y)
    assert adversarial[0].sum() < adversarial[1].sum() < adversarial[2].sum()


def test_clipping_shortens_what_is_too_long_only():
    whole, same, _ = foolbox.L2DeepFoolAttack()(FMODEL, X, Y, epsilons=None)
    assert torch.equal(whole, same)
    size = (whole - X).flatten(1).norm(dim=1)
    epsilon = size.median().item()
    _, clipped, _ = foolbox.L2DeepFoolAttack()(FMODEL, X, Y, epsilons=epsilon)
    short = size < epsilon
    assert torch.equal(clipped[short], whole[short])
    share = (epsilon / size[~short]).view(-1, 1, 1, 1)
    torch.testing.assert_close(clipped[~short] - X[~short], share * (whole - X)[~short])
    with pytest.raises(ValueError, match="LinfProjectedGradientDescentAttack needs a size"):
        foolbox.LinfPGD()(FMODEL, X, Y, epsilons=[0.1, None])


def test_run_is_what_was_found():
    attack = foolbox.LinfPGD(seed=0)
    assert torch.equal(attack.run(FMODEL, X, Y, epsilon=0.05), attack(FMODEL, X, Y, epsilons=0.05)[0])
    smallest = foolbox.L2DeepFoolAttack()
    whole = smallest(FMODEL, X, Y, epsilons=None)[0]
    assert torch.equal(smallest.run(FMODEL, X, foolbox.Misclassification(Y), early_stop=0.1), whole)
    with pytest.raises(ValueError, match="needs a size: epsilons must not be None"):
        attack.run(FMODEL, X, Y)


def test_repeated_attacks_are_the_best_of_several():
    once = foolbox.LinfAdditiveUniformNoiseAttack(seed=0)
    epsilons = [0.1, 0.3]
    each = [dataclasses.replace(once, seed=seed)(FMODEL, X, Y, epsilons=epsilons) for seed in range(4)]
    raw, clipped, adversarial = once.repeat(2).repeat(2)(FMODEL, X, Y, epsilons=epsilons)
    every = torch.stack([found[2] for found in each])
    assert torch.equal(adversarial, every.any(0))
    assert adversarial.sum() > every[0].sum()
    for k in range(2):
        first = every[:, k].int().argmax(0)  # the first that is, or of none the first
        for columns, found in ((0, raw), (1, clipped)):
            expected = torch.stack([each[first[i]][columns][k][i] for i in range(24)])
            assert torch.equal(found[k], expected)
    same = foolbox.L2DeepFoolAttack()
    for a, b in zip(same(FMODEL, X, Y, epsilons=None), same.repeat(2)(FMODEL, X, Y, epsilons=None), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(ValueError, match="times must be at least 1, got 0"):
        once.repeat(0)


def test_of_repeated_attacks_without_epsilon_the_smallest_counts():
    class Found(foolbox.attacks.Attack):
        smallest = True

        def build(self, epsilon, **common):
            return attacks.Noise(0.2 - 0.05 * common["seed"], **common)  # smaller every time

    found, _, won = Found(seed=0).repeat(3)(FMODEL, X, Y, epsilons=None)
    each = [Found(seed=seed)(FMODEL, X, Y, epsilons=None) for seed in range(3)]
    sizes = torch.stack([torch.where(won, linf(raw - X), torch.inf) for raw, _, won in each])
    assert len({*sizes.argmin(0)[won].tolist()}) > 1
    assert torch.equal(linf(found - X)[won], sizes.amin(0)[won])


@pytest.mark.parametrize("name", ["LinfPGD", "LinfBasicIterativeAttack", "MIFGSM", "FGSM", "L2PGD", "L1PGD"])
def test_epsilons_beyond_the_range_are_no_error(name):
    raw, clipped, _ = getattr(foolbox, name)(seed=0)(FMODEL, X, Y, epsilons=100.0)
    assert torch.equal(raw, clipped)
    assert (raw.min() >= 0) & (raw.max() <= 1)
    if name in ("LinfBasicIterativeAttack", "MIFGSM", "FGSM"):  # no start: nothing moves further than the range
        one = getattr(foolbox, name)(seed=0, **({} if name == "FGSM" else {"abs_stepsize": 1.0}))
        assert torch.equal(raw, one(FMODEL, X, Y, epsilons=1.0)[0])


def test_noise_beyond_the_range_is_drawn_from_all_of_it():
    raw, _, _ = foolbox.LinfAdditiveUniformNoiseAttack(seed=0)(FMODEL, X, Y, epsilons=10.0)
    assert ((raw == 0) | (raw == 1)).double().mean() == pytest.approx(0.95, abs=0.02)


class Eager:
    """What EagerPy does with a tensor, as far as it is asked for."""

    def __init__(self, raw):
        self.raw = raw


def test_tensors_of_eagerpy_come_and_go():
    attack, plain = foolbox.LinfPGD(steps=3, seed=0), [0.05, 0.1]
    expected = attack(FMODEL, X, Y, epsilons=plain)
    for labels_ in (Eager(Y), Y, foolbox.Misclassification(Eager(Y))):
        found = attack(FMODEL, Eager(X), labels_, epsilons=plain)
        assert all(type(part) is Eager for part in (*found[0], *found[1], found[2]))
        assert all(torch.equal(a.raw, b) for a, b in zip(found[0], expected[0], strict=True))
        assert torch.equal(found[2].raw, expected[2])
    assert type(attack.repeat(2)(FMODEL, Eager(X), Y, epsilons=0.1)[0]) is Eager
    logits = FMODEL(Eager(X))
    assert torch.equal(logits.raw, FMODEL(X))
    assert foolbox.accuracy(FMODEL, Eager(X), Eager(Y)) == foolbox.accuracy(FMODEL, X, Y)
    both = foolbox.Misclassification(Eager(Y)) & foolbox.TargetedMisclassification(FMODEL(X).argmax(1))
    assert torch.equal(both(Eager(X), logits).raw, FMODEL(X).argmax(1) != Y)


def test_a_model_has_gradients_where_its_inputs_have():
    x = X.clone().requires_grad_()
    (grad,) = torch.autograd.grad(FMODEL(x)[:, 0].sum(), x)
    (expected,) = torch.autograd.grad(MODEL(x)[:, 0].sum(), x)
    assert torch.equal(grad, expected)
    assert not FMODEL(X).requires_grad


def test_flipped_and_stretched_inputs():
    flipped = foolbox.PyTorchModel(MODEL, (0, 1), preprocessing={"mean": 0.1, "std": 0.5, "flip_axis": -3})
    torch.testing.assert_close(flipped(X), MODEL((X.double().flip(1) - 0.1) / 0.5))
    for bounds in ((-1, 1), (0, 255), (0, 1)):
        wide = flipped.transform_bounds(bounds)
        assert wide.bounds == bounds
        torch.testing.assert_close(wide(bounds[0] + (bounds[1] - bounds[0]) * X), flipped(X), atol=1e-3, rtol=0)
        torch.testing.assert_close(wide.transform_bounds((0, 1))(X), flipped(X))
    raw, _, won = foolbox.FGSM()(flipped.transform_bounds((0, 255)), 255 * X, Y, epsilons=25.5)
    same, _, too = foolbox.FGSM()(flipped, X, Y, epsilons=0.1)
    torch.testing.assert_close(raw / 255, same, atol=1e-6, rtol=0)
    assert torch.equal(won, too)


def test_anything_that_is_called_and_has_bounds_is_a_model():
    class Halved(foolbox.Model):
        """Half of the inputs, on `FMODEL`."""

        bounds = (0, 2)

        def __call__(self, inputs):
            return FMODEL(inputs / 2)

    raw, _, won = foolbox.LinfBasicIterativeAttack()(Halved(), 2 * X, Y, epsilons=0.1)
    same, _, too = foolbox.LinfBasicIterativeAttack()(FMODEL, X, Y, epsilons=0.05)
    torch.testing.assert_close(raw / 2, same)
    assert torch.equal(won, too)
    assert foolbox.accuracy(Halved(), 2 * X, Y) == foolbox.accuracy(FMODEL, X, Y)
    for wrong in (MODEL, "model"):
        with pytest.raises(TypeError, match="model must be a PyTorchModel, or have bounds and be called; got"):
            foolbox.FGSM()(wrong, X, Y, epsilons=0.1)
    with pytest.raises(ValueError, match=r"model must be a torch.nn.Module, got function"):
        foolbox.PyTorchModel(lambda x: x, (0, 1))


def test_targets():
    goal = (MODEL(X).argmax(1) + 1) % 5
    _, clipped, adversarial = foolbox.LinfPGD(seed=0)(FMODEL, X, foolbox.TargetedMisclassification(goal), epsilons=0.1)
    assert torch.equal(clipped, attacks.PGD(0.1, 0.1 * 0.01 / 0.3, 40, targeted=True, seed=0)(MODEL, X, goal))
    assert torch.equal(adversarial, MODEL(clipped).argmax(1) == goal)
    assert adversarial.any()
    for attack in (foolbox.L2DeepFoolAttack(), foolbox.FGSM(), foolbox.FGM(), foolbox.L1FastGradientAttack()):
        with pytest.raises(ValueError, match=f"{type(attack).__name__}: unsupported criterion: it knows no targets"):
            attack(FMODEL, X, foolbox.TargetedMisclassification(goal), epsilons=0.1)


@pytest.mark.parametrize(
    "preprocessing",
    [
        {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.25, 2.0], "axis": -3},
        {"mean": torch.tensor([0.1] * 3).view(3, 1, 1)},
        {"std": 0.5},
        {},
    ],
)
def test_preprocessing_and_bounds(preprocessing):
    model, x, y = partly_frozen(BatchNormNet()), samples(8, 3, 6, 6) * 2 - 1, labels(8, 5)
    before = traces(model, x, y)
    fmodel = foolbox.PyTorchModel(model, (-1, 1), preprocessing=preprocessing)
    raw, _, _ = foolbox.LinfPGD(steps=3, seed=0)(fmodel, x, y, epsilons=0.2)
    assert traces(model, x, y) == before
    given = (torch.as_tensor(preprocessing.get(k, d)).flatten() for k, d in (("mean", 0.0), ("std", 1.0)))
    mean, std = ([*values.expand(3)] for values in given)
    inside = Normalize(model, [float(m) for m in mean], [float(s) for s in std])
    torch.testing.assert_close(raw, attacks.PGD(0.2, 0.2 * 0.01 / 0.3, 3, bounds=(-1.0, 1.0), seed=0)(inside, x, y))
    assert raw.min() < -0.9
    assert linf(raw - x).max() <= 0.2 + 1e-6
    torch.testing.assert_close(fmodel(x), inside.eval()(x))


@pytest.mark.parametrize(
    ("preprocessing", "message"),
    [
        ({"scale": 2}, "may have mean, std, axis and flip_axis, got scale"),
        ({"mean": [1, 2], "axis": 1}, "axis counts from the end"),
        ({"mean": 1, "axis": -3}, "axis counts from the end"),
    ],
)
def test_preprocessing_that_is_not_known(preprocessing, message):
    with pytest.raises(ValueError, match=message):
        foolbox.PyTorchModel(MODEL, (0, 1), preprocessing=preprocessing)


def test_its_namespaces():
    fb = foolbox
    assert fb.attacks.FGSM is fb.attacks.LinfFastGradientAttack
    assert fb.attacks.FGM is fb.attacks.L2FastGradientAttack
    assert fb.attacks.PGD is fb.attacks.LinfPGD is fb.attacks.LinfProjectedGradientDescentAttack
    assert fb.attacks.L2PGD is fb.attacks.L2ProjectedGradientDescentAttack
    assert fb.attacks.L1PGD is fb.attacks.L1ProjectedGradientDescentAttack
    assert fb.attacks.MIFGSM is fb.attacks.LinfMomentumIterativeFastGradientMethod
    assert all(getattr(fb, name) is getattr(fb.attacks, name) for name in fb.attacks.__all__)
    assert {*OPTIONS} < {*fb.attacks.__all__}
    assert fb.Misclassification is fb.criteria.Misclassification
    assert fb.TargetedMisclassification is fb.criteria.TargetedMisclassification
    assert fb.models.PyTorchModel is fb.PyTorchModel
    assert fb.accuracy is fb.utils.accuracy
    _, _, adversarial = fb.attacks.PGD()(FMODEL, X, fb.criteria.Misclassification(Y), epsilons=[0.0, 0.3])
    assert adversarial[0].sum() < adversarial[1].sum() == 24
    for module, name in ((fb.attacks, "NewtonFoolAttack"), (fb, "zoo"), (fb.utils, "os"), (fb.criteria, "ABC_")):
        with pytest.raises(AttributeError, match=f"{module.__name__} has no {name}. It has .*{module.__all__[0]}"):
            getattr(module, name)


def test_accuracy_and_criteria():
    right = MODEL(X).argmax(1) == Y
    assert foolbox.accuracy(FMODEL, X, Y) == right.double().mean()
    logits = torch.tensor([[0.0, 1.0], [1.0, 0.0], [torch.nan, 0.0], [0.0, torch.nan]])
    classes = torch.tensor([1, 1, 0, 1])
    moved = foolbox.criteria.Misclassification(classes)(X[:4], logits)
    reached = foolbox.criteria.TargetedMisclassification(classes)(X[:4], logits)
    assert moved.tolist() == [False, True, True, True]  # NaN is no class
    assert reached.tolist() == [True, False, False, False]
    dead = foolbox.PyTorchModel(torch.nn.Sequential(MODEL, torch.nn.Threshold(torch.inf, torch.nan)), (0, 1))
    assert foolbox.accuracy(dead, X, torch.zeros_like(Y)) == 0
    for wrong in (None, [0] * 24, lambda perturbed, outputs: outputs):
        with pytest.raises(ValueError, match=f"unsupported criterion: .* got {type(wrong).__name__}"):
            foolbox.LinfPGD()(FMODEL, X, wrong, epsilons=0.1)


def test_noise_follows_the_generator_of_torch():
    attack = foolbox.attacks.LinfPGD(steps=3)
    torch.manual_seed(0)
    first, second = (attack(FMODEL, X, Y, epsilons=[0.1, 0.1])[0] for _ in range(2))
    assert torch.equal(*first)  # one noise for all epsilons
    assert not torch.equal(first[0], second[0])
    torch.manual_seed(0)
    assert torch.equal(attack(FMODEL, X, Y, epsilons=0.1)[0], first[0])
    before = torch.get_rng_state()
    fixed = foolbox.attacks.LinfPGD(steps=3, seed=7)
    assert torch.equal(fixed(FMODEL, X, Y, epsilons=0.1)[0], fixed(FMODEL, X, Y, epsilons=0.1)[0])
    foolbox.attacks.FGSM()(FMODEL, X, Y, epsilons=[0.1, 0.2])  # without noise
    assert torch.equal(torch.get_rng_state(), before)


class Wide(Wavy):
    """`MODEL` for images in [0, 255]."""

    def forward(self, x):
        return super().forward(x / 255)


def test_carlini_wagner_on_any_bounds():
    attack = foolbox.attacks.L2CarliniWagnerAttack(binary_search_steps=6, steps=30, initial_const=0.1)
    unit, _, fooled = attack(FMODEL, X, Y, epsilons=None)
    assert fooled.all()
    wide, _, fooled = attack(foolbox.PyTorchModel(Wide(48, 5), (0, 255)), 255 * X, Y, epsilons=None)
    assert fooled.all()
    sizes = [(moved - X).flatten(1).norm(dim=1).mean().item() for moved in (unit, wide / 255)]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.05)


@pytest.mark.thorough
def test_models_and_tensors_of_foolbox_itself():
    original, eagerpy = pytest.importorskip("foolbox"), pytest.importorskip("eagerpy")
    model, x, y = partly_frozen(BatchNormNet()), samples(8, 3, 6, 6), labels(8, 5)
    scale = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.25, 2.0], "axis": -3, "flip_axis": -3}
    before = traces(model, x, y)
    with pytest.warns(UserWarning, match="training mode"):
        theirs = original.PyTorchModel(model, bounds=(0, 1), device="cpu", preprocessing=scale)
    mine = foolbox.PyTorchModel(model, bounds=(0, 1), preprocessing=scale)
    wrapped = original.models.TransformBoundsWrapper(theirs, (0, 255))
    for name in ("LinfPGD", "L2DeepFoolAttack", "L2CarliniWagnerAttack"):
        attack = getattr(foolbox.attacks, name)(seed=0, **({} if name == "L2DeepFoolAttack" else {"steps": 10}))
        epsilon = None if attack.smallest else 0.1
        expected = attack(mine, x, y, epsilons=epsilon)
        raw, _, won = attack(theirs, eagerpy.astensor(x), original.Misclassification(y), epsilons=epsilon)
        assert isinstance(raw, eagerpy.PyTorchTensor)
        torch.testing.assert_close(raw.raw, expected[0], atol=1e-5, rtol=0)
        assert torch.equal(won.raw, expected[2])
        wide = attack(wrapped, 255 * x, y, epsilons=None if epsilon is None else 255 * epsilon)
        torch.testing.assert_close(wide[0] / 255, expected[0], atol=1e-4, rtol=0)
    assert foolbox.accuracy(theirs, x, y) == foolbox.accuracy(mine, x, y)
    assert traces(model, x, y) == before
    raw = original.attacks.LinfPGD(steps=3, random_start=False)(mine, x, y, epsilons=0.1)[0]  # and the other way round
    torch.testing.assert_close(raw, foolbox.LinfPGD(steps=3, random_start=False)(mine, x, y, epsilons=0.1)[0])


@pytest.mark.thorough
def test_samples_are_those_of_foolbox():
    original = pytest.importorskip("foolbox")
    mine, theirs = (
        library.PyTorchModel(MODEL.eval(), bounds=(-1, 1), **how)
        for library, how in ((foolbox, {}), (original, {"device": "cpu"}))
    )
    for options in ({"dataset": "cifar10", "batchsize": 4}, {"index": 3, "shape": (32, 32)}):
        found, expected = foolbox.samples(mine, **options), original.samples(theirs, **options)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_samples_need_foolbox(monkeypatch):
    monkeypatch.setitem(sys.modules, "foolbox", None)
    with pytest.raises(ImportError, match="samples are images of the package foolbox: pip install foolbox"):
        foolbox.utils.samples(FMODEL)


@pytest.mark.thorough
def test_results_are_those_of_foolbox():
    original = pytest.importorskip("foolbox")
    fmodel = original.PyTorchModel(MODEL.eval(), bounds=(0, 1), device="cpu")
    for name in ("FGSM", "FGM", "LinfBasicIterativeAttack", "L2BasicIterativeAttack"):
        theirs = getattr(original.attacks, name)()(fmodel, X, Y, epsilons=[0.01, 0.02])
        ours = getattr(foolbox, name)()(FMODEL, X, original.criteria.Misclassification(Y), epsilons=[0.01, 0.02])
        for a, b in zip(theirs[:2], ours[:2], strict=True):
            torch.testing.assert_close(torch.stack(a), torch.stack(b), atol=1e-5, rtol=0)
        assert torch.equal(theirs[2], ours[2])
    MODEL.zero_grad()


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (foolbox.attacks.BoundaryAttack(init_attack=len), "BoundaryAttack has init_attack=None only here"),
        (foolbox.attacks.BoundaryAttack(update_stats_every_k=5), "update_stats_every_k=10 only here, got 5"),
        (foolbox.attacks.HopSkipJumpAttack(stepsize_search="grid_search"), "only here, got 'grid_search'"),
    ],
)
def test_options_that_attacks_on_decisions_refuse(attack, message):
    with pytest.raises(ValueError, match=message):
        attack(FMODEL, X, Y, epsilons=None)


def test_hopskipjump_clips_in_its_norm():
    attack = foolbox.attacks.HopSkipJumpAttack(steps=2, constraint="linf", seed=0)
    raw, clipped, _ = attack(FMODEL, X, Y, epsilons=0.01)
    assert torch.equal(raw, attacks.HopSkipJump(2, norm="linf", tries=1000, seed=0)(MODEL, X, Y))
    torch.testing.assert_close(clipped, X + (raw - X).clip(-0.01, 0.01))


@pytest.fixture(scope="module")
def trained():
    network = models.LeNet5()
    fit(network, Standard(), load("fashion-mnist-mini", "train").take(1000), epochs=2, batch_size=50, lr=2e-3, seed=0)
    return network.eval()


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("name", "options", "norm"),
    [
        ("BoundaryAttack", {"steps": 400, "spherical_step": 0.1, "source_step": 0.03}, 2),
        ("HopSkipJumpAttack", {"steps": 3}, 2),
        ("HopSkipJumpAttack", {"steps": 3, "constraint": "linf"}, torch.inf),
    ],
)
def test_attacks_on_decisions_come_as_near_as_those_of_foolbox(name, options, norm, trained):
    original = pytest.importorskip("foolbox")
    test = load("fashion-mnist-mini", "test").take(10)
    torch.manual_seed(0)
    sizes = []
    for library in (original, foolbox):
        fmodel = library.PyTorchModel(trained, bounds=(0, 1), device="cpu")
        criterion = library.criteria.Misclassification(test.y)
        _, x_adv, fooled = getattr(library.attacks, name)(**options)(fmodel, test.x, criterion, epsilons=None)
        assert fooled.all()
        sizes.append((x_adv - test.x).flatten(1).norm(norm, dim=1).mean().item())
    assert sizes[1] < 1.1 * sizes[0]
