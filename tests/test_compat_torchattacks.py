"""fastadv.compat.torchattacks: its signatures, and what its users do with it."""

import dataclasses
import importlib.metadata
import inspect
from pathlib import Path
from types import ModuleType

import pytest
import torch
from test_attacks import linf
from toys import BatchNormNet, Wavy, labels, partly_frozen, samples, traces

from fastadv import Normalize, attacks
from fastadv.compat import torchattacks

SIGNATURES = {
    "FGSM": {"eps": 8 / 255},
    "FFGSM": {"eps": 8 / 255, "alpha": 10 / 255},
    "CW": {"c": 1, "kappa": 0, "steps": 50, "lr": 0.01},
    "RFGSM": {"eps": 8 / 255, "alpha": 2 / 255, "steps": 10},
    "BIM": {"eps": 8 / 255, "alpha": 2 / 255, "steps": 10},
    "PGD": {"eps": 8 / 255, "alpha": 2 / 255, "steps": 10, "random_start": True},
    "PGDL2": {"eps": 1.0, "alpha": 0.2, "steps": 10, "random_start": True, "eps_for_division": 1e-10},
    "MIFGSM": {"eps": 8 / 255, "alpha": 2 / 255, "steps": 10, "decay": 1.0},
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
targetable = pytest.mark.parametrize("name", ["FGSM", "FFGSM", "BIM", "PGD", "PGDL2", "MIFGSM"])


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
    "RFGSM": attacks.RFGSM(8 / 255, 2 / 255, 10),
    "BIM": attacks.PGD(random_start=0.0),
    "PGD": attacks.PGD(),
    "PGDL2": attacks.PGD(1.0, 0.2, norm="l2"),
    "MIFGSM": attacks.MIFGSM(),
    "DeepFool": attacks.DeepFool(candidates=5),
    "APGD": attacks.APGD(steps=10),
    "APGDT": attacks.APGDT(steps=10),
    "Square": attacks.Square(queries=50),
    "AutoAttack": attacks.AutoAttack(version="rand"),
}


@pytest.mark.parametrize("name", EQUALS)
def test_what_runs_are_our_attacks(name):
    atk = made(name)
    assert torch.equal(atk(X, Y), dataclasses.replace(EQUALS[name], seed=0)(MODEL, X, Y))
    assert repr(atk).startswith(f"{name}(")
    assert "model" not in repr(atk)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("FGSM", {}),
        ("BIM", {}),
        ("PGD", {"random_start": False}),
        ("PGDL2", {"eps": 0.1, "alpha": 0.02, "random_start": False}),
        ("MIFGSM", {"decay": 0.9}),
        ("DeepFool", {"overshoot": 0.0}),
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


@pytest.mark.parametrize("multi_targeted", [False, True])
def test_fab_stays_within_its_budget(multi_targeted):
    kind = attacks.FABT if multi_targeted else attacks.FAB
    eps = kind(steps=10).run(MODEL, X, Y).norm.median().item()
    found = kind(steps=10, enough=eps, restarts=2, seed=0).run(MODEL, X, Y)
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

    atk = made("PGDL2", eps=0.5) if power == 2 else made("FAB", norm="L1", eps=3.0, steps=30)
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
