"""fastadv.compat.foolbox: models with preprocessing, lists of epsilons, criteria."""

import dataclasses

import numpy as np
import pytest
import torch
from test_attacks import linf
from toys import BatchNormNet, Wavy, labels, partly_frozen, samples, traces

from fastadv import Normalize, attacks
from fastadv.compat import foolbox

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
    "L2DeepFoolAttack": attacks.DeepFool(),
    "LinfDeepFoolAttack": attacks.DeepFool(norm="linf"),
    "L2CarliniWagnerAttack": attacks.CW(0, 20, 0.01, 1e-3, binary_search_steps=9),
    "DDNAttack": attacks.DDN(),
}
named = pytest.mark.parametrize("name", EQUALS)


@named
def test_options(name):
    fields = {field.name: field.default for field in dataclasses.fields(getattr(foolbox, name))}
    assert fields == {"seed": None} | OPTIONS[name]


@named
def test_what_runs_are_our_attacks(name):
    quick = {"steps": 20} if name == "L2CarliniWagnerAttack" else {}
    raw, clipped, adversarial = getattr(foolbox, name)(**quick, seed=0)(FMODEL, X, Y, epsilons=0.05)
    found = dataclasses.replace(EQUALS[name], seed=0).run(MODEL, X, Y)
    torch.testing.assert_close(raw, found.x_adv, atol=1e-6, rtol=0)
    norm = {"l1": 1, "l2": 2, "linf": torch.inf}[EQUALS[name].norm]
    assert (clipped - X).flatten(1).norm(norm, dim=1).max() <= 0.05 * (1 + 1e-4)
    assert torch.equal(adversarial, MODEL(clipped).argmax(1) != Y)


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


def test_targets():
    goal = (MODEL(X).argmax(1) + 1) % 5
    _, clipped, adversarial = foolbox.LinfPGD(seed=0)(FMODEL, X, foolbox.TargetedMisclassification(goal), epsilons=0.1)
    assert torch.equal(clipped, attacks.PGD(0.1, 0.1 * 0.01 / 0.3, 40, targeted=True, seed=0)(MODEL, X, goal))
    assert torch.equal(adversarial, MODEL(clipped).argmax(1) == goal)
    assert adversarial.any()
    with pytest.raises(ValueError, match="L2DeepFoolAttack has loss 'logits' alone and no targets"):
        foolbox.L2DeepFoolAttack()(FMODEL, X, foolbox.TargetedMisclassification(goal), epsilons=None)


@pytest.mark.parametrize(
    "preprocessing",
    [{"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.25, 2.0], "axis": -3}, {"mean": torch.tensor([0.1] * 3)}, {"std": 0.5}],
)
def test_preprocessing_and_bounds(preprocessing):
    model, x, y = partly_frozen(BatchNormNet()), samples(8, 3, 6, 6) * 2 - 1, labels(8, 5)
    before = traces(model, x, y)
    fmodel = foolbox.PyTorchModel(model, (-1, 1), preprocessing=preprocessing)
    raw, _, _ = foolbox.LinfPGD(steps=3, seed=0)(fmodel, x, y, epsilons=0.2)
    assert traces(model, x, y) == before
    mean, std = ([*torch.as_tensor(preprocessing.get(k, d)).expand(3)] for k, d in (("mean", 0.0), ("std", 1.0)))
    inside = Normalize(model, [float(m) for m in mean], [float(s) for s in std])
    torch.testing.assert_close(raw, attacks.PGD(0.2, 0.2 * 0.01 / 0.3, 3, bounds=(-1.0, 1.0), seed=0)(inside, x, y))
    assert raw.min() < -0.9
    assert linf(raw - x).max() <= 0.2 + 1e-6
    torch.testing.assert_close(fmodel(x), inside.eval()(x))


@pytest.mark.parametrize(
    ("preprocessing", "message"),
    [({"flip_axis": -3}, "may have mean, std and axis, got flip_axis"), ({"mean": [1, 2], "axis": -1}, "must be -3")],
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
    for module, name in ((fb.attacks, "EADAttack"), (fb, "zoo"), (fb.utils, "samples"), (fb.criteria, "Criterion")):
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
        with pytest.raises(TypeError, match=f"criterion must be a tensor of labels.* got {type(wrong).__name__}"):
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
