"""fastadv.compat.foolbox: models with preprocessing, lists of epsilons, criteria."""

import dataclasses

import numpy as np
import pytest
import torch
from test_attacks import linf
from toys import BatchNormNet, Wavy, labels, partly_frozen, samples, traces

from fastadv import Normalize, attacks
from fastadv.compat import foolbox

pytestmark = pytest.mark.numerics

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
    assert fields == {"seed": 0} | OPTIONS[name]


@named
def test_what_runs_are_our_attacks(name):
    quick = {"steps": 20} if name == "L2CarliniWagnerAttack" else {}
    raw, clipped, adversarial = getattr(foolbox, name)(**quick)(FMODEL, X, Y, epsilons=0.05)
    found = EQUALS[name].run(MODEL, X, Y)
    torch.testing.assert_close(raw, found.x_adv, atol=1e-6, rtol=0)
    norm = {"l1": 1, "l2": 2, "linf": torch.inf}[EQUALS[name].norm]
    assert (clipped - X).flatten(1).norm(norm, dim=1).max() <= 0.05 * (1 + 1e-4)
    assert torch.equal(adversarial, MODEL(clipped).argmax(1) != Y)


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
@pytest.mark.parametrize("name", ["LinfPGD", "L2DeepFoolAttack"])
def test_lists_of_epsilons(name, kind):
    attack, epsilons = getattr(foolbox, name)(), kind([0.0, 0.02, 0.3])
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
    _, clipped, adversarial = foolbox.LinfPGD()(FMODEL, X, foolbox.TargetedMisclassification(goal), epsilons=0.1)
    assert torch.equal(clipped, attacks.PGD(0.1, 0.1 * 0.01 / 0.3, 40, targeted=True)(MODEL, X, goal))
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
    raw, _, _ = foolbox.LinfPGD(steps=3)(fmodel, x, y, epsilons=0.2)
    assert traces(model, x, y) == before
    mean, std = ([*torch.as_tensor(preprocessing.get(k, d)).expand(3)] for k, d in (("mean", 0.0), ("std", 1.0)))
    inside = Normalize(model, [float(m) for m in mean], [float(s) for s in std])
    torch.testing.assert_close(raw, attacks.PGD(0.2, 0.2 * 0.01 / 0.3, 3, bounds=(-1.0, 1.0))(inside, x, y))
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
