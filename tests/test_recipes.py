"""fastadv.recipes and ``fastadv reproduce``: every recipe can run, and measures what it says."""

import csv
import dataclasses
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import nn
from toys import labels, linear, samples, stop_at_a_checkpoint

from fastadv import models, recipes, report
from fastadv.__main__ import main
from fastadv.attacks import DRA, FGSM, MIFGSM, PGD, Attack, AutoAttack, DeepFool, FriendlyPGD, MultiAttack
from fastadv.commands import Reproduction
from fastadv.data import CORRUPTIONS, DATASETS, EXTRA, Dataset, corrupted
from fastadv.evaluation import evaluate, gradient_norms
from fastadv.recipes import Figure, Recipe
from fastadv.runs import load_checkpoint
from fastadv.trainers import METHODS, MMA, SMD, SPAT, TRADES, Bilateral, Blind, DRAFineTuning, Friendly, FriendlyTRADES

every = pytest.mark.parametrize("name", recipes.names())


@every
def test_every_recipe_can_run(name):
    recipe = recipes.load(name)
    training = Reproduction().training(recipe)
    assert training.data in DATASETS
    assert training.model in models.MODELS
    assert recipe.paper
    assert recipe.note
    assert isinstance(recipe.build_method(), METHODS[recipe.method])
    assert [variant.build_method() for variant in recipe.variants()]
    assert set(recipe.before()) <= set(recipes.names())
    if recipe.weights:
        first = recipes.load(recipe.weights)
        started = Reproduction().training(first)
        assert not first.weights + first.network
        assert (started.data, started.network()) == (training.data, training.network())
    assert next(iter(recipe.printed)) == "clean"
    rules = recipes.protocol(recipe.evaluation)
    for variant in recipe.variants():
        assert all(dataclasses.replace(rules.attacks[key], **changed) for key, changed in variant.attacks.items())
    for key, figure in recipe.printed.items():
        figures = figure if isinstance(figure, dict) else {None: figure}
        if key in ("clean", "gradient"):
            continue
        if key == "corruptions":
            assert figure is None or set(figures) <= {*CORRUPTIONS, "mean"}
            continue
        attack = rules.attacks[key.partition(" from ")[0]]
        assert isinstance(attack, Attack)
        for what, value in figures.items():
            if attack.has_budget and what is not None:
                assert attack.at(what).eps == what
            if value is not None:
                assert 0 <= value <= (1 if what == "norm" else 100)
            if isinstance(what, str):
                assert what == "norm" or what.startswith("avg-AA(")


def test_every_table_is_there():
    have = set(recipes.names())
    for data in ("mnist", "fashion-mnist", "svhn", "cifar10", "cifar100"):
        assert {f"blind-{data}-{row}" for row in ("nt", "fgsm", "pgd", "df-at", "bat")} <= have
    rows = {1: 2, 3: 6, 5: 11, 6: 7, 7: 2, 8: 7, 9: 5, 10: 3, 11: 4}
    assert {n: sum(name.startswith(f"bilateral-table{n}-") for name in have) for n in rows} == rows
    assert [sum(name.startswith(f"friendly-table{n}-") for name in have) for n in (1, 2, 3, 4)] == [5, 5, 5, 5]
    figures = {int(name.removeprefix("friendly-figure").split("-")[0]) for name in have if "friendly-figure" in name}
    assert figures == {4, 5, 6, 7, 9, 10, *range(13, 21)}
    rows = {"smd-table1": 18, "smd-table2a": 12, "smd-table2b": 12}
    rows |= {f"spat-table3.{n}": count for n, count in {2: 5, 4: 7, 6: 10, 7: 3, 8: 1, 9: 4}.items()}
    rows |= {f"dra-table4.{n}": count for n, count in {1: 10, 2: 5, 3: 4, 4: 6, 5: 6, 6: 3, 7: 2}.items()}
    rows |= {"dra-figure4.4": 4}
    assert {table: sum(name.startswith(f"{table}-") for name in have) for table in rows} == rows


def test_recipes_are_installed_with_the_package():
    """Every kind of file in the folder is package data."""
    packaging = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    kinds = {path.suffix for path in recipes.FOLDER.iterdir() if path.is_file()} - {".py"}
    assert kinds == {".yaml"}
    assert all(f'"recipes/*{kind}"' in packaging for kind in kinds)


def test_recipes_are_the_papers():
    bat = recipes.load("blind-fashion-mnist-bat")
    assert bat.build_method() == Blind(rho=0.9, label_smoothing=0.1, attack=DeepFool(steps=10, overshoot=0.02))
    assert bat.printed["deepfool"]["avg-AA(0.04)"] == 83.2
    training = Reproduction().training(bat)
    assert (training.model, training.epochs, training.lr, training.optimizer) == ("lenet5-wide", 70, 1e-3, "adam")
    plus = recipes.load("bilateral-table5-r-mc-la-plus")
    method = plus.build_method()
    assert (method.attack.eps, method.labels, method.beta, method.gamma) == (8 / 255, "adversarial", 9, 0.01)
    training = Reproduction().training(plus)
    assert (training.milestones, training.epochs, training.lr, training.weight_decay) == ([100, 150], 200, 0.1, 2e-4)
    la9 = recipes.load("bilateral-table9-r-mc-la9").build_method()
    assert (la9.variant, la9.top_k, la9.beta) == ("sup", 9, 11)
    smooth = recipes.load("bilateral-table5-r-mc-ls").build_method()
    assert isinstance(smooth, Bilateral)
    own = smooth.soft_labels(torch.zeros(1, 10), torch.tensor([3]))[0, 3]
    assert own == pytest.approx(0.5)  # the printed eps_y


def test_friendly_recipes_are_the_papers():
    assert recipes.load("friendly-table1-fat-16").printed == {
        "clean": 87.0, "fgsm": 65.94, "pgd20": 49.86, "pgd100": 49.56, "cw30": 48.65, "autoattack": None
    }  # fmt: skip
    assert recipes.load("friendly-table2-trades-6").printed["pgd100"] == 55.47
    assert recipes.load("friendly-table3-wrn-58-fat-16").printed["cw30"] == 55.89
    assert recipes.load("friendly-table4-fat-8").printed["fgsm"] == 68.94
    fat = recipes.load("friendly-table1-fat-16")
    attack = FriendlyPGD(eps=0.062, alpha=0.007, steps=10, omega=0.001)
    assert fat.build_method() == Friendly(attack=attack, tau_schedule=[50, 90])
    training = Reproduction().training(fat)
    assert (training.lr, training.weight_decay, training.epochs) == (0.1, 2e-4, 120)
    assert training.lr_decay == [0.1, 0.1, 0.5]  # 0.1, 0.01, 0.001, 0.0005
    for name, tau_schedule in (("table2-fat-6-16", [30, 50, 70]), ("table4-fat-16", [20, 40, 60, 80])):
        method = recipes.load(f"friendly-{name}").build_method()
        assert (method.beta, method.tau_schedule, method.attack.eps) == (6, tau_schedule, 0.062)
        assert (method.attack.random_start, method.attack.omega) == ("gaussian", 0)
    for figure, method, tau, steps in ((6, Friendly, 3, 10), (16, FriendlyTRADES, 3, 10), (20, FriendlyTRADES, 20, 20)):
        variants = {v.name: v.build_method() for v in recipes.load(f"friendly-figure{figure}").variants()}
        assert len(variants) == 9 * 4
        drawn = variants[f"friendly-figure{figure}/attack.at=0.15,attack.tau={tau}"]
        assert isinstance(drawn, method)
        attack = drawn.attack
        assert (attack.eps, attack.alpha, attack.tau, attack.steps) == (0.15, pytest.approx(0.015), tau, steps)
    unbounded = recipes.load("friendly-figure10").variants()[-1].build_method().attack
    assert (unbounded.eps, unbounded.alpha, unbounded.random_start) == (math.inf, 0.015, 0)


def test_smd_recipes_are_the_papers():
    for table, model, held_out, autoattack in (
        ("1", "wrn-28-4", 5000, [78.90, 67.87, 44.35]),
        ("2a", "smd-svhn", 7326, [80.23, 69.15, 47.54]),
        ("2b", "smd-fashion", 6000, [89.14, 87.30, 83.38]),
    ):
        recipe = recipes.load(f"smd-table{table}-smd")
        assert recipe.printed["autoattack"] == dict(zip((2 / 255, 4 / 255, 8 / 255), autoattack, strict=True))
        assert recipe.build_method() == SMD()
        training = Reproduction().training(recipe)
        assert (training.model, training.held_out, training.epochs) == (model, held_out, 150)
        assert (training.lr, training.milestones, training.lr_decay) == (0.3, [60, 90, 120], [0.3, 0.3333, 0.3])
        for changed in (Reproduction(per_class=5), Reproduction(data="fashion-mnist-mini")):
            assert changed.training(recipe).held_out == 0
    gairat = recipes.load("smd-table1-gai8")
    assert gairat.printed["ce-pgd"][8 / 255] == 49.83
    assert [gairat.printed[f"ce-cw-pgd-{budget}"] for budget in (2, 4, 8)] == [68.58, 54.20, 27.94]
    assert recipes.load("smd-table2b-tr-b6-4").printed["autoattack"][4 / 255] == 85.26
    assert recipes.load("smd-table2a-mma12").build_method() == MMA(hinge=12 / 255)
    trades = recipes.load("smd-table1-tr-b6-24").build_method()
    assert isinstance(trades, TRADES)
    assert (trades.beta, trades.attack.eps) == (6, 24 / 255)


def test_spat_recipes_are_the_thesis():
    spat = recipes.load("spat-table3.4-spat")
    attack = PGD(eps=8 / 255, alpha=2 / 255, steps=10, random_start="gaussian", loss="spat")
    assert spat.build_method() == SPAT(attack=attack, alpha=0.2, beta=0.2, lam=6)
    assert spat.printed["autoattack"] == {8 / 255: 48.33}
    assert spat.printed["fab from spat-cifar10-standard"] == {8 / 255: 84.23}
    training = Reproduction().training(spat)
    assert (training.model, training.cosine, training.epochs, training.lr) == ("resnet18", 5, 100, 0.1)
    mnist = recipes.load("spat-table3.2-mart")
    assert mnist.printed["cw30 from spat-mnist-standard"] == {0.3: 97.20}
    assert (mnist.build_method().beta, mnist.build_method().attack.steps) == (5, 40)
    ablations = {"alpha": (0, 0.4, 0.6), "beta": (0, 0.4, 0.6)}
    for option, values in ablations.items():
        for value in values:
            varied = recipes.load(f"spat-table3.6-{option}-{value}").build_method()
            assert varied == SPAT(attack=attack, **{option: value})
    assert [recipes.load(f"spat-table3.6-s-{s}").training["cosine"] for s in (1, 3, 8, 10)] == [1, 3, 8, 10]
    paces = {"nce-rob-sp": (False, True), "nce-sp-rob": (True, False), "nce-rob": (False, False)}
    for name, expected in paces.items():
        method = recipes.load(f"spat-table3.7-{name}").build_method()
        assert (method.pace_accuracy, method.pace_robustness) == expected
    assert "cosine" not in recipes.load("spat-table3.8-ce-sp-rob-sp").training


def test_fine_tuning_recipes_are_the_thesis():
    ours = recipes.load("dra-table4.3-ours")
    assert ours.weights == "dra-table4.3-vanilla"
    assert ours.printed["pgd20"] == {2 / 255: 64.9, 5 / 255: 31.0, 8 / 255: 10.9}
    assert ours.build_method() == DRAFineTuning(attack=DRA(eps=2 / 255, p=1 / 3, steps=5), last_eps=0.5 / 255)
    shares = [recipes.load(f"dra-table4.6-p-{p}").build_method().attack.p for p in ("1-6", "1-2", "1")]
    assert shares == [1 / 6, 1 / 2, 1]
    for name in ("madry", "trades", "ours"):
        pgd, dra = (recipes.load(f"dra-table4.5-{name}-{kind}").build_method().attack for kind in ("pgd", "dra"))
        assert (pgd.eps, dra.eps) == (pytest.approx(2.55 / 255), 1 / 255)
    assert recipes.load("dra-table4.2-ours").printed["pgd20"][0.3] == 95.9
    corrupted_accuracies = {
        "spat-table3.9-madry": [73.23, 78.68, 46.38, 70.59, 73.95, 81.09, 80.23, 77.66],
        "spat-table3.9-spat": [74.71, 78.39, 49.34, 71.36, 75.02, 81.73, 81.92, 78.39],
        "dra-table4.7-dra": [85.37, 84.4, 84.97, 76.89, 89.51, 75.85],
        "dra-table4.7-vanilla": [84.10, 81.41, 82.13, 74.08, 84.51, 50.92],
    }
    for name, expected in corrupted_accuracies.items():
        assert list(recipes.load(name).printed["corruptions"].values()) == expected
    assert recipes.load("dra-table4.7-dra").weights == "dra-table4.3-vanilla"  # of the network's own recipe
    assert recipes.load("dra-table4.1-mnist-mart").printed["pgd20"] == {0.3: 96.2}
    assert recipes.load("dra-table4.1-cifar10-trades-6").printed["pgd20"] == {8 / 255: 53.5}


@pytest.mark.parametrize(
    ("name", "eps", "alpha", "start"),
    [
        ("dat", 0.031, 0.031 / 4, 1),
        ("trades", 0.031, 0.003, 0),
        ("trades-start", 0.031, 0.003, 1),
        ("mart", 8 / 255, 0.8 / 255, 1),
        ("friendly-cifar10", 8 / 255, 2 / 255, 1),
        ("friendly-svhn", 4 / 255, 2 / 255, 1),
    ],
)
def test_friendly_protocols_are_the_papers(name, eps, alpha, start):
    attacks = recipes.protocol(name).attacks
    for key, steps, loss in (("pgd20", 20, "ce"), ("pgd100", 100, "ce"), ("cw30", 30, "margin")):
        expected = PGD(eps=eps, alpha=attacks[key].alpha, steps=steps, loss=loss, random_start=start)
        assert attacks[key] == expected
        assert attacks[key].alpha == pytest.approx(alpha)
    assert attacks["fgsm"] == (PGD(eps=eps, alpha=eps, steps=1) if start else FGSM(eps=eps))
    assert attacks["autoattack"].eps == eps


def test_protocols_are_the_papers():
    rules = recipes.protocol("blind")
    pgd = rules.attacks["pgd"].at(0.1)
    assert (pgd.eps, pgd.alpha, pgd.steps, pgd.random_start) == (0.1, pytest.approx(0.01), 20, 0.5)
    assert rules.labels["pgd"] == "pred"
    assert rules.labels["pgd-true"] == "true"
    ce20 = recipes.protocol("bilateral").attacks["ce20"]
    assert (ce20.eps, ce20.alpha, ce20.steps) == (8 / 255, 2 / 255, 20)
    smd = recipes.protocol("smd").attacks
    for budget in (2, 4, 8):
        one = PGD(eps=budget / 255, alpha=budget / 1020, steps=100)
        assert smd["ce-pgd"].at(budget / 255) == one
        ten = tuple(dataclasses.replace(one, restarts=5, loss=loss) for loss in ("ce", "margin"))
        assert smd[f"ce-cw-pgd-{budget}"] == MultiAttack(attacks=ten)
    spat = {key: attack.at(0.3) for key, attack in recipes.protocol("spat").attacks.items()}
    assert spat["fgsm"] == FGSM(eps=0.3)
    assert spat["mim20"] == MIFGSM(eps=0.3, alpha=0.1 * 0.3, steps=20)
    assert list(spat["fab"].attacks) == ["fab"]
    assert spat["fab"].attacks["fab"].enough == 0.3
    assert spat["autoattack"] == AutoAttack(eps=0.3)
    assert recipes.protocol("dra").attacks["pgd20"].at(0.3) == PGD(eps=0.3, alpha=0.3 / 20, steps=20, random_start=0)


@pytest.mark.parametrize(("epochs", "milestones"), [(None, [60, 90]), (10, [6, 9]), (1, [1, 1]), (200, [120, 180])])
def test_milestones_keep_their_places(epochs, milestones):
    training = Reproduction(epochs=epochs).training(recipes.load("bilateral-table5-r-mc-la"))
    assert (training.epochs, training.milestones) == (epochs or 100, milestones)


@pytest.mark.parametrize(
    ("epochs", "rises", "fosc_epochs"),
    [(None, [50, 90], 100), (12, [5, 9], 10), (1, [1, 1], 1), (240, [100, 180], 200)],
)
def test_options_that_are_epochs_keep_their_places(epochs, rises, fosc_epochs):
    options = Reproduction(epochs=epochs)
    assert options.method(recipes.load("friendly-table1-fat-8")).tau_schedule == rises
    assert options.method(recipes.load("friendly-table1-dat")).fosc_epochs == fosc_epochs
    without = dataclasses.replace(recipes.load("friendly-table1-madry"), method="mail", options={"burn_in": 0})
    assert options.method(without).burn_in == 0
    madry = recipes.load("friendly-table1-madry")
    assert options.method(madry) == madry.build_method()


class TwoPlanes(nn.Module):
    """Logits of a sample in the plane: (0, x0 - 1/2); FGSM at eps fools what is within eps of the line."""

    def forward(self, x):
        return torch.stack((torch.zeros_like(x[:, 0]), x[:, 0] - 0.5), dim=1)


def a_recipe(**printed) -> Recipe:
    training = {"data": "two-circles", "model": "two-circles-net", "std": 0.5}
    return Recipe("toy", "none", "toy", training, "standard", {}, "blind", {"clean": None, **printed})


def test_measured_on_a_model_whose_distances_are_known():
    x = torch.tensor([[0.52, 0.1], [0.45, 0.3], [0.9, 0.5], [0.3, 0.2]])
    data = Dataset(x, torch.tensor([1, 0, 1, 1]), classes=("a", "b"))  # the last is misclassified
    figures = recipes.measure(
        a_recipe(fgsm={0.01: None, 0.03: 50.0, 0.1: None}, deepfool={"norm": None, 0.03: None, "avg-AA(0.05)": 20.0}),
        TwoPlanes(), data, {},
    )  # fmt: skip
    found = {figure.name: figure.measured for figure in figures}
    printed = {figure.name: figure.printed for figure in figures if figure.printed is not None}
    assert printed == {"fgsm 0.03": 50.0, "deepfool avg-AA(0.05)": 20.0}
    assert found["clean"] == 75
    assert [found[f"fgsm {eps}"] for eps in (0.01, 0.03, 0.1)] == [75, 50, 25]  # predictions are attacked, so the last
    sizes = torch.tensor([0.02, 0.05, 0.4, 0.2]) / 2**0.5 * 1.02  # RMS of two numbers, beyond the line by the overshoot
    assert found["deepfool norm"] == pytest.approx(float(sizes.mean()), rel=1e-3)
    flips = sizes / 1.02
    assert found["deepfool 0.03"] == 50
    shares = torch.tensor([flips[0] / 0.05, flips[1] / 0.05, 1.0, 0.0])
    assert found["deepfool avg-AA(0.05)"] == pytest.approx(100 * float(shares.mean()), rel=1e-3)


def test_measured_on_the_network_of_another_recipe():
    data = Dataset(samples(40, 2, dtype=torch.float32), labels(40, 2), classes=("a", "b"))
    model, other = nn.Linear(2, 2), nn.Linear(2, 2)
    (_, figure) = recipes.measure(a_recipe(**{"fgsm from other": {8 / 255: None}}), model, data, {"other": other})
    expected = evaluate(model, data, {"a": FGSM(eps=8 / 255)}, label="pred", source=other).results["a"].accuracy
    assert figure == Figure("fgsm from other 0.03137", 100 * expected, None)


def test_accuracies_under_corruptions_are_means_over_severities():
    model, x = linear(28 * 28, 10), samples(30, 1, 28, 28, dtype=torch.float32)
    data = Dataset(x, model(x).argmax(1), classes=tuple("0123456789"))
    names = [name for name in CORRUPTIONS if name not in EXTRA]
    expected = {}
    for name in (*names, "speckle_noise"):
        sets = (corrupted(data, name, severity) for severity in range(1, 6))
        expected[name] = 20 * sum(evaluate(model, each, {}).clean for each in sets)
    expected["mean"] = sum(expected[name] for name in names) / 15
    assert len({round(value, 6) for value in expected.values()}) > 3
    for given in ({"mean": 50.0, "fog": None, "speckle_noise": 1.0}, None):
        figures = recipes.measure(a_recipe(corruptions=given), model, data, {})[1:]
        assert [figure.name for figure in figures] == [f"corruptions {name}" for name in given or ("mean", *names)]
        for figure in figures:
            assert figure.measured == pytest.approx(expected[figure.name.removeprefix("corruptions ")])
            assert figure.printed == (given or {}).get(figure.name.removeprefix("corruptions "))
    given = [("fog", 1, data)]
    (_, figure) = recipes.measure(a_recipe(corruptions={"fog": None}), model, data, {}, sets=lambda name: given)
    assert figure.measured == pytest.approx(100 * evaluate(model, data, {}).clean)


def test_variants_of_an_attack_in_the_test():
    data = Dataset(samples(60, 2, dtype=torch.float32), labels(60, 2), classes=("a", "b"))
    recipe = dataclasses.replace(a_recipe(pgd={0.1: None}), vary={"attacks.pgd.steps": [1, 5], "rho": [0.5]})
    one, five = recipe.variants()
    assert (one.name, one.attacks, one.options["rho"]) == (
        "toy/attacks.pgd.steps=1,rho=0.5",
        {"pgd": {"steps": 1}},
        0.5,
    )
    assert "attacks" not in one.options
    for variant, steps in ((one, 1), (five, 5)):
        attack = PGD(0.1, 0.01, steps, random_start=0.5)
        expected = evaluate(TwoPlanes(), data, {"pgd": attack}, label="pred").results["pgd"].accuracy
        assert recipes.measure(variant, TwoPlanes(), data, {})[1].measured == 100 * expected
    shares = [v.attacks["dra"]["p"] for v in recipes.load("dra-figure4.4-resnet18").variants()]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (1 / 48, 1)


def test_gradients_are_in_the_units_the_network_sees():
    x, y = samples(30, 2, dtype=torch.float32), labels(30, 2)
    network = nn.Linear(2, 2)
    seen = (x - 0.5) / 0.5
    residual = network(seen).softmax(1) - F.one_hot(y, 2)
    squares = (residual @ network.weight).square().sum(1)
    wrong = network(seen).argmax(1) != y
    assert 0 < wrong.sum() < 30
    expected = {"all mean": squares.mean(), "wrong max": squares[wrong].max(), "correct min": squares[~wrong].min()}
    behind = lambda x: network((x - 0.5) / 0.5)  # noqa: E731
    recipe = a_recipe(gradient=dict.fromkeys(expected))
    figures = recipes.measure(recipe, behind, Dataset(x, y, classes=("a", "b")), {})
    for figure, value in zip(figures[1:], expected.values(), strict=True):
        assert figure.measured == pytest.approx(float(value.detach()), rel=1e-4)


def test_gradient_norms_of_nothing_are_nan():
    data = Dataset(torch.full((3, 2), 0.9), torch.ones(3, dtype=torch.int64), classes=("a", "b"))
    summary = gradient_norms(TwoPlanes(), data).summary()
    assert summary["wrong mean"] != summary["wrong mean"]
    assert summary["correct mean"] == summary["all mean"] > 0


def test_a_network_trained_twice_has_another_seed():
    first, again = (recipes.load(f"bilateral-{name}") for name in ("table7-r-mc-la", "cifar10-r-mc-la-again"))
    for seed in (0, 5):
        options = Reproduction(seed=seed)
        assert (options.training(first).seed, options.training(again).seed) == (seed, seed + 1)


def test_markdown_keeps_every_figure():
    figures = [Figure("fgsm from a", 1.0, 2.0), Figure("fgsm from b", 3.0, None)]
    text = report.markdown({"one": figures, "two": figures[1:]}, ["A note."])
    assert text.splitlines() == [
        "| measured (printed) | one | two |",
        "| --- | --: | --: |",
        "| fgsm from a | 1.0 (2) |  |",
        "| fgsm from b | 3.0 | 3.0 |",
        "",
        "A note.",
    ]


def test_variants_differ_in_one_option():
    recipe = recipes.load("bilateral-figure1")
    variants = recipe.variants()
    assert [variant.build_method().attack.eps for variant in variants] == [n / 255 for n in (1, 2, 4, 8, 12)]
    assert len({variant.name for variant in variants}) == 5
    assert all(variant.variants() == [variant] for variant in variants)
    cutoffs = [variant.build_method().cutoff for variant in recipes.load("blind-figure4-cutoff").variants()]
    assert None in cutoffs
    assert 0 in cutoffs


def test_a_figure_of_two_options_has_a_panel_for_each_accuracy(monkeypatch):
    drawn = []
    monkeypatch.setattr("fastadv.report._recipes.save", lambda figure, path: drawn.append(figure))
    recipe = recipes.load("friendly-fashion-mnist-eps")
    results = {
        f"{recipe.name}/attack.at={eps},attack.tau={tau}": [
            Figure("clean", 90 - 100 * eps, None), Figure("fgsm 0.1", 10 * tau + 10 * eps, None),
        ]
        for tau in (0, 1, 3, 10) for eps in (0.05, 0.1, 0.15, 0.2, 0.3)
    }  # fmt: skip
    report.plot_variants(recipe, results, Path())
    clean, fgsm = drawn[0].axes
    assert (clean.get_title(), fgsm.get_title()) == ("clean", "fgsm 0.1")
    assert [line.get_label() for line in fgsm.lines] == ["tau 0", "tau 1", "tau 3", "tau 10"]
    x, y = fgsm.lines[2].get_data()
    assert list(x) == [0.05, 0.1, 0.15, 0.2, 0.3]
    assert list(y) == [30.5, 31, 31.5, 32, 33]
    assert clean.get_ylim() == (0, 100)


def test_a_figure_of_gradients_has_a_line_a_variant(monkeypatch):
    drawn = []
    monkeypatch.setattr("fastadv.report._plots.save", lambda figure, path: drawn.append(figure))
    for name in ("friendly-fashion-mnist-tau", "friendly-fashion-mnist-eps"):
        recipe = recipes.load(name)
        histories = {
            variant.name: [{"epoch": epoch, "gradients": i + epoch / 10} for epoch in (1, 2, 3)]
            for i, variant in enumerate(recipe.variants())
        }
        report.plot_variant_gradients(recipe, histories, Path())
    tau, both = drawn
    assert [line.get_label() for line in tau.axes[0].lines] == [f"tau {n}" for n in (0, 1, 2, 3, 5, 10)]
    assert [axes.get_title() for axes in both.axes] == ["eps 0.05", "eps 0.1", "eps 0.15", "eps 0.2", "eps 0.3"]
    assert list(both.axes[1].lines[2].get_ydata()) == [6.1, 6.2, 6.3]


def test_a_recipe_varies_two_options_at_most():
    with pytest.raises(ValueError, match="vary takes one option or two, got a, b, c"):
        dataclasses.replace(a_recipe(), vary={"a": [1], "b": [2], "c": [3]})


def test_only_some_attacks():
    recipe = recipes.load("blind-fashion-mnist-bat").only(["pgd"])
    assert list(recipe.printed) == ["clean", "pgd", "pgd from blind-fashion-mnist-nt"]
    with pytest.raises(ValueError, match="has no figures of 'ce7': choose among clean, pgd"):
        recipe.only(["ce7"])


def test_selection():
    assert [r.name for r in recipes.select(["blind-svhn-*", "blind-svhn-nt"])] == [
        f"blind-svhn-{row}" for row in ("bat", "df-at", "fgsm", "nt", "pgd")
    ]
    with pytest.raises(ValueError, match=r"no recipe is called 'blind-svhn-bta'; did you mean 'blind-svhn-bat'\?"):
        recipes.select(["blind-svhn-bta"])


def test_a_recipe_with_something_unknown_is_refused(tmp_path, monkeypatch):
    given = yaml.safe_load((recipes.FOLDER / "blind-svhn-nt.yaml").read_text())
    monkeypatch.setattr(recipes, "FOLDER", tmp_path)
    for name, changed in (("more", given | {"colour": "red"}), ("less", {k: given[k] for k in given if k != "row"})):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(changed))
        with pytest.raises(ValueError, match=f"recipe {name}: "):
            recipes.load(name)


# ------------------------------------------------------------------------------------------------------ the command

QUICK = ["--data", "fashion-mnist-mini", "--model", "lenet5", "--epochs", "2", "--per-class", "6", "--limit", "10"]


def figures_of(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "figures.csv").open() as file:
        return {row["figure"]: row for row in csv.DictReader(file)}


def test_reproduce(tmp_path, capsys):
    out = tmp_path / "out"
    command = ["reproduce", "blind-fashion-mnist-pgd", "--attacks", "pgd,deepfool", *QUICK, "--out", str(out)]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "difference" in printed
    found = figures_of(out / "blind-fashion-mnist-pgd")
    assert found["clean"]["printed"] == "85.7"
    assert found["pgd from blind-fashion-mnist-nt 0.1"]["printed"] == "83.4"
    assert all(float(row["measured"]) >= 0 for row in found.values())
    assert load_checkpoint(out / "blind-fashion-mnist-nt")["method"] == "blind-fashion-mnist-nt"  # the source
    markdown = (out / "results.md").read_text()
    (row,) = (line for line in markdown.splitlines() if line.startswith("| pgd from blind-fashion-mnist-nt 0.1 |"))
    assert row.endswith(f"| {float(found['pgd from blind-fashion-mnist-nt 0.1']['measured']):.1f} (83.4) |")
    assert "lenet5 on fashion-mnist-mini, 6 training samples a class, 2 epochs, seed 0, 10 test samples" in markdown
    assert main(command) == 2
    assert "never overwritten" in capsys.readouterr().err
    assert main([*command, "--resume", "true", "--at-once", "4"]) == 0  # which changes no result
    assert main([*command, "--resume", "true", "--limit", "9"]) == 2
    assert "limit was 10 and is now 9" in capsys.readouterr().err


def test_a_stopped_reproduction_goes_on(tmp_path):
    command = ["reproduce", "bilateral-fashion-mnist-r-mc-la", "--attacks", "ce7,gradient", *QUICK, "--resume", "true"]
    assert main([*command, "--out", str(tmp_path / "whole")]) == 0
    with stop_at_a_checkpoint():
        assert main([*command, "--out", str(tmp_path / "parts")]) == 130
    assert not list((tmp_path / "parts").rglob("figures.csv"))
    for _ in range(2):  # the second time everything is there
        assert main([*command, "--out", str(tmp_path / "parts")]) == 0
        whole, parts = (figures_of(tmp_path / name / "bilateral-fashion-mnist-r-mc-la") for name in ("whole", "parts"))
        assert whole == parts


def test_a_sweep_has_a_figure(tmp_path):
    out = tmp_path / "out"
    quick = ["--data", "fashion-mnist-mini", "--model", "lenet5", "--epochs", "1", "--per-class", "1", "--limit", "3"]
    quick += ["--attacks", "deepfool"]
    assert main(["reproduce", "blind-figure4-cutoff", *quick, "--out", str(out)]) == 0
    assert (out / "blind-figure4-cutoff.png").read_bytes().startswith(b"\x89PNG")
    assert len(list(out.rglob("figures.csv"))) == 7


def test_a_sweep_of_two_options(tmp_path):
    out = tmp_path / "out"
    quick = ["--data", "fashion-mnist-mini", "--epochs", "1", "--per-class", "1", "--limit", "3", "--attacks", "fgsm"]
    assert main(["reproduce", "friendly-fashion-mnist-eps", *quick, "--out", str(out)]) == 0
    for name in ("friendly-fashion-mnist-eps.png", "friendly-fashion-mnist-eps-gradients.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    runs = {path.parent.name: yaml.safe_load(path.read_text()) for path in out.rglob("*/*/config.yaml")}
    assert len(runs) == 5 * 4
    attack = runs["attack.at=0.2,attack.tau=3"]["attack"]["init_args"]
    assert (attack["eps"], attack["alpha"], attack["tau"]) == (0.2, pytest.approx(0.02), 3)


def test_samples_held_out_that_choose_nothing_are_not_measured(tmp_path, monkeypatch):
    images = Dataset(torch.rand(6040, 1, 28, 28), labels(6040, 10), classes=tuple("0123456789"))
    monkeypatch.setattr("fastadv.commands._settings.load", lambda *_, **__: images)
    quick = ["--model", "lenet5", "--epochs", "1", "--limit", "5", "--attacks", "clean"]
    assert main(["reproduce", "smd-table2b-smd", *quick, "--out", str(tmp_path / "out")]) == 0
    folder = tmp_path / "out" / "smd-table2b-smd"
    assert load_checkpoint(folder)["kept"]["margins"].shape == (40,)
    assert "avg_aa" not in (folder / "metrics.csv").read_text()
    assert yaml.safe_load((folder / "config.yaml").read_text())["held_out"] == 6000


def test_a_sweep_over_an_attack_trains_one_network(tmp_path):
    out = tmp_path / "out"
    command = ["reproduce", "dra-figure4.4-fashion-mnist", *QUICK, "--resume", "true", "--out", str(out)]
    assert main(command) == 0
    assert [path.parent.name for path in out.rglob("checkpoint.pt")] == ["dra-fashion-mnist-standard"]
    assert (out / "dra-figure4.4-fashion-mnist.png").read_bytes().startswith(b"\x89PNG")
    assert len(list(out.rglob("figures.csv"))) == 8
    assert main(command) == 0


def test_corruptions_of_the_published_files(tmp_path, monkeypatch):
    """Where --folder has CIFAR-10-C, its images are taken, as many as test samples; elsewhere they are made."""
    seen = []

    def published(folder: str, name: str, severity: int) -> Dataset:
        seen.append((folder, name, severity))
        return corrupted(fake("test"), name, severity)

    def fake(split: str) -> Dataset:
        return Dataset(torch.rand(20, 3, 32, 32), labels(20, 10), classes=tuple("0123456789"))

    monkeypatch.setattr("fastadv.commands._settings.load", lambda data, split, **_: fake(split))
    monkeypatch.setattr("fastadv.commands._corruptions.load_cifar10_c", published)
    quick = [
        "--model",
        "lenet5",
        "--epochs",
        "1",
        "--limit",
        "5",
        "--attacks",
        "corruptions",
        "--folder",
        str(tmp_path),
    ]
    command = ["reproduce", "dra-table4.7-vanilla", *quick]
    assert main([*command, "--out", str(tmp_path / "made")]) == 0
    assert not seen
    (tmp_path / "labels.npy").touch()
    assert main([*command, "--out", str(tmp_path / "read")]) == 0
    names = ("snow", "frost", "zoom_blur", "motion_blur", "jpeg_compression", "gaussian_noise")
    assert seen == [(str(tmp_path), name, severity) for name in names for severity in range(1, 6)]
    found = figures_of(tmp_path / "read" / "dra-table4.7-vanilla")
    assert [float(row["printed"]) for row in found.values()] == [93.7, 84.10, 81.41, 82.13, 74.08, 84.51, 50.92]
    assert all(float(row["measured"]) % 4 == pytest.approx(0) for row in found.values())  # of 5 or 25 samples


def test_a_network_of_two_tables_is_trained_once(tmp_path):
    out = tmp_path / "out"
    names = ["friendly-table2-trades-6", "friendly-table3-trades"]
    quick = ["--data", "fashion-mnist-mini", "--model", "lenet5", "--epochs", "1", "--per-class", "1", "--limit", "3"]
    quick += ["--attacks", "fgsm", "--resume", "true", "--out", str(out)]
    assert main(["reproduce", *reversed(names), *quick]) == 0
    assert [path.parent.name for path in out.rglob("checkpoint.pt")] == names[:1]
    assert [figures_of(out / name)["fgsm"]["printed"] for name in names] == ["61.06", "67"]
    assert main(["reproduce", *reversed(names), *quick]) == 0


def test_a_network_that_starts_from_another(tmp_path, monkeypatch):
    loaded = []
    keep = lambda model, name, run: loaded.append(load_checkpoint(run))  # noqa: E731
    monkeypatch.setattr("fastadv.commands._plan.load_weights", keep)
    out = tmp_path / "out"
    command = ["reproduce", "dra-fashion-mnist-dra", *QUICK, "--attacks", "fgsm", "--resume", "true", "--out", str(out)]
    assert main(command) == 0
    first, tuned = (out / f"dra-fashion-mnist-{row}" for row in ("standard", "dra"))
    assert [(run["method"], run["epoch"]) for run in loaded] == [("dra-fashion-mnist-standard", 2)]  # trained already
    assert yaml.safe_load((tuned / "config.yaml").read_text())["weights"] == str(first)
    assert list(figures_of(tuned)) == ["clean", "fgsm 0.02", "fgsm 0.05", "fgsm 0.1"]
    assert not (first / "figures.csv").exists()  # which was not asked for
    assert main(command) == 0


@pytest.mark.thorough
def test_experiments_with_programs_of_their_own(tmp_path, capsys):
    assert main(["reproduce", "propositions", "--out", str(tmp_path / "a"), "--epochs", "2"]) == 2
    assert "the propositions train nothing: leave epochs out" in capsys.readouterr().err
    assert main(["reproduce", "propositions", "--out", str(tmp_path / "b"), "--limit", "5"]) == 2
    assert "propositions can be changed by epochs and out only" in capsys.readouterr().err
    assert main(["reproduce", "propositions", "blind-svhn-typo", "--out", str(tmp_path / "b")]) == 2
    assert not (tmp_path / "b").exists()
    assert main(["reproduce", "propositions", "--out", str(tmp_path / "b")]) == 0
    assert "6.447" in capsys.readouterr().out
    assert (tmp_path / "b" / "propositions" / "findings.csv").is_file()
    assert main(["reproduce", "propositions", "--out", str(tmp_path / "b"), "--resume", "true"]) == 0
    assert "has the table of propositions already" in capsys.readouterr().out
    assert main(["reproduce", "two-circles", "--out", str(tmp_path / "c"), "--epochs", "2"]) == 0
    assert "octagon" in capsys.readouterr().out
    assert (tmp_path / "c" / "two-circles" / "boundaries.png").is_file()


def test_list(capsys):
    assert main(["reproduce", "--list"]) == 0
    printed = capsys.readouterr().out
    assert [name for name in (*recipes.names(), *recipes.EXPERIMENTS) if f"{name}: " not in printed] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give the name of a recipe"),
        (["blind-fashion-mnist-bta"], "did you mean 'blind-fashion-mnist-bat'"),
        (["blind-fashion-mnist-bat", "--attacks", "apgd"], "has no figures of 'apgd'"),
        (["blind-fashion-mnist-bat", "--epochs", "0"], "epochs must be a whole number of at least 1"),
        (["blind-fashion-mnist-bat", "--model", "lenet6"], "unknown model 'lenet6'"),
        (["blind-mnist-bat", "--folder", "no/such/folder"], "no/such/folder"),
        (["blind-mnist-bat", "--resume", "true"], "resume needs --out"),
        (["bilateral-fashion-mnist-r-mc", "--data", "two-circles"], "takes samples of"),
    ],
)
def test_bad_input_gets_one_clear_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["reproduce", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not list(tmp_path.iterdir())


def test_figures_survive_a_file(tmp_path):
    figures = [Figure("clean", 100 / 3, 33.4), Figure("cw norm", 0.0123456789, None)]
    (tmp_path / "figures.csv").write_text(report.figures_csv(figures))
    assert report.read_figures(tmp_path / "figures.csv") == figures
    assert dataclasses.astuple(figures[0])[2] == 33.4
