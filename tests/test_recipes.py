"""fastadv.recipes and ``fastadv reproduce``: every recipe can run, and measures what it says."""

import csv
import dataclasses
import itertools
import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import nn
from toys import labels, linear, samples, stop_at_a_checkpoint

import fastadv
from fastadv import models, recipes, report
from fastadv.__main__ import main
from fastadv.attacks import (
    DRA,
    FGSM,
    MIFGSM,
    PGD,
    Attack,
    AutoAttack,
    DeepFool,
    FriendlyPGD,
    MultiAttack,
    OneStepTargeted,
)
from fastadv.commands import Reproduction, _train
from fastadv.commands._reproduce import networks_of, settings_in_words
from fastadv.commands._settings import Training
from fastadv.data import CORRUPTIONS, DATASETS, EXTRA, Dataset, corrupted
from fastadv.evaluation import evaluate, gradient_norms
from fastadv.recipes import Figure, Printed, Recipe
from fastadv.runs import load_checkpoint
from fastadv.trainers import (
    MART,
    METHODS,
    MMA,
    SMD,
    SPAT,
    TRADES,
    Bilateral,
    Blind,
    DRAFineTuning,
    Friendly,
    FriendlyTRADES,
    Madry,
    Stopped,
)

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
        figures = {None: figure}
        if isinstance(figure, dict | list):
            figures = figure if isinstance(figure, dict) else dict.fromkeys(figure)
        if key in ("clean", "gradient", "weight"):
            continue
        if key in ("average", "gap"):
            attacks = [key for what in figures for key in recipes._parts(recipe.printed, what)]
            assert recipe.only([*attacks, key]).printed[key] == figure
            continue
        if key == "corruptions":
            assert figure is None or set(figures) <= {*CORRUPTIONS, "mean"}
            continue
        attack = rules.attacks[key.partition(" from ")[0].removesuffix(" margin")]
        assert isinstance(attack, Attack)
        for what, value in figures.items():
            if attack.has_budget and isinstance(what, float):
                assert attack.at(what).eps == what
            if value is not None:
                assert 0 <= value <= (1 if what == "norm" else 100)
            if isinstance(what, str):
                assert what == "norm" or " into " in what or what.startswith("avg-AA(")
    assert all(isinstance(attack, Attack) for attack in recipe.feature_attacks().values())
    if recipe.features:
        network = models.build(training.model, (1 if "mnist" in training.data else 3, 32, 32), 10)
        assert set(recipe.features["layers"]) <= set(dict(network.named_modules()))


def test_every_table_is_there():
    have = set(recipes.names())
    for data in ("mnist", "fashion-mnist", "svhn", "cifar10", "cifar100"):
        assert {f"blind-{data}-{row}" for row in ("nt", "fgsm", "pgd", "df-at", "bat")} <= have
    rows = {1: 2, 3: 6, 5: 11, 6: 7, 7: 2, 8: 7, 9: 5, 10: 3, 11: 4}
    assert {n: sum(name.startswith(f"bilateral-table{n}-") for name in have) for n in rows} == rows
    assert [sum(name.startswith(f"friendly-table{n}-") for name in have) for n in (1, 2, 3, 4)] == [5, 5, 5, 5]
    for data in ("mnist", "fashion-mnist", "svhn", "cifar10", "cifar100"):
        assert {f"blind-figure3-{data}", f"blind-figure6-{data}-fgsm", f"blind-figure6-{data}-pgd"} <= have
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
    for name, eps in (("bilateral-equation12", 8 / 255), ("bilateral-fashion-mnist-equation12", 0.1)):
        steps = [variant.build_method() for variant in recipes.load(name).variants()]
        attack = OneStepTargeted(eps=eps)
        assert steps == [Bilateral(variant="step", alpha=a, attack=attack) for a in (0, 0.01, 0.03, 0.1, 0.3, 1)]
    la9 = recipes.load("bilateral-table9-r-mc-la9").build_method()
    assert (la9.variant, la9.top_k, la9.beta) == ("sup", 9, 11)
    smooth = recipes.load("bilateral-table5-r-mc-ls").build_method()
    assert isinstance(smooth, Bilateral)
    own = smooth.soft_labels(torch.zeros(1, 10), torch.tensor([3]))[0, 3]
    assert own == pytest.approx(0.5)  # the printed eps_y


@pytest.mark.parametrize("data", ["mnist", "fashion-mnist", "svhn", "cifar10", "cifar100"])
@pytest.mark.parametrize("row", ["fgsm", "pgd"])
def test_attacks_of_blind_baselines_lead_away_from_either_label(data, row):
    true, pred = recipes.load(f"blind-{data}-{row}"), recipes.load(f"blind-{data}-{row}-pred")
    assert dataclasses.replace(true.build_method(), label="pred") == pred.build_method() != true.build_method()
    assert (true.printed, true.training, true.attacks) == (pred.printed, pred.training, pred.attacks)
    assert pred.row == f"{true.row}, away from the prediction"


def test_what_the_blind_paper_does_not_print_is_said():
    for recipe in recipes.select(["blind-*"]):
        assert "The paper prints neither the batch size nor how much labels are smoothed" in recipe.note


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
        assert (method.attack.random_start, method.attack.omega) == ("gaussian-unclipped", 0)
    for figure, method, tau, steps in ((6, Friendly, 3, 10), (16, FriendlyTRADES, 3, 10), (20, FriendlyTRADES, 20, 20)):
        variants = {v.name: v.build_method() for v in recipes.load(f"friendly-figure{figure}").variants()}
        assert len(variants) == 9 * 4
        drawn = variants[f"friendly-figure{figure}/attack.at=0.15,attack.tau={tau}"]
        assert isinstance(drawn, method)
        attack = drawn.attack
        assert (attack.eps, attack.alpha, attack.tau, attack.steps) == (0.15, pytest.approx(0.015), tau, steps)
    unbounded = recipes.load("friendly-figure10").variants()[-1].build_method().attack
    assert (unbounded.eps, unbounded.alpha, unbounded.random_start) == (math.inf, 0.015, 0)


def test_friendly_attacks_start_as_their_twins():
    """The rows of one table, of TRADES and MART and of FAT for them, differ in what stops the attack alone."""
    methods = [recipe.variants()[0].build_method() for recipe in recipes.select(["friendly-*"])]
    starts = Counter(m.attack.random_start for m in methods if isinstance(m, TRADES | MART))
    assert starts.keys() == {"gaussian-unclipped"}
    assert starts.total() > 25


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


def test_averages_of_smd_are_those_of_the_printed_figures():
    """But for two that are a hundredth off in print."""
    off = []
    for recipe in recipes.select(["smd-table*"]):
        for attack, printed in recipe.printed["average"].items():
            figures = [recipe.printed["clean"]]
            for key in recipes._parts(recipe.printed, attack):
                value = recipe.printed[key]
                figures += value.values() if isinstance(value, dict) else [value]
            assert len(figures) == 4
            if abs(sum(figures) / 4 - printed) > 0.0051:
                off.append((recipe.name, attack))
    assert off == [("smd-table1-mma12", "ce-pgd"), ("smd-table2b-at4", "autoattack")]
    assert recipes.load("smd-table1-smd").printed["average"] == {
        "ce-pgd": 70.37, "ce-cw-pgd": 70.22, "autoattack": 69.78
    }  # fmt: skip


def test_gaps_of_smd_are_those_of_section_51():
    """Where it gives a number, the tables give the same one, rounded."""
    told = {}
    for recipe in recipes.select(["smd-table1-*"]):
        last = {"ce-pgd": recipe.printed["ce-pgd"][8 / 255], "ce-cw-pgd": recipe.printed["ce-cw-pgd-8"],
                "autoattack": recipe.printed["autoattack"][8 / 255]}  # fmt: skip
        for what, printed in recipe.printed["gap"].items():
            if printed is not None:
                weaker, stronger = what.split(" over ")
                told[recipe.row, weaker] = printed - (last[weaker] - last[stronger])
    assert len(told) == 11
    assert all(abs(difference) <= 1 for difference in told.values())


def test_parts_of_autoattack_are_those_of_section_51():
    """Untargeted, targeted and black-box, of all networks of Table 1; the share of one is printed."""
    attacks = recipes.protocol("smd").attacks
    parts = {"untargeted": ["apgd-ce"], "targeted": ["apgd-t", "fab-t"], "black-box": ["square"]}
    assert {name: list(attacks[name].attacks_to_run) for name in parts} == parts
    assert list(itertools.chain(*parts.values())) == list(AutoAttack.VERSIONS["standard"])
    told, others = (recipes.load(f"smd-section5.1{which}") for which in ("-mma32", ""))
    assert told.printed["gap"]["ce-cw-pgd over targeted"] == 8
    assert told.network == "smd-table1-mma32"
    assert set(others.vary["network"]) == {name for name in recipes.names() if name.startswith("smd-table1-")}
    for recipe in (told, others, recipes.load("smd-fashion-mnist-section5.1")):
        assert list(recipe.printed["gap"]) == [f"ce-cw-pgd over {part}" for part in (*parts, "autoattack")]


def test_averages_gaps_and_runs_of_an_attack(monkeypatch):
    x = torch.tensor([[0.52, 0.1], [0.45, 0.3], [0.9, 0.5], [0.62, 0.1]])
    data = Dataset(x, torch.tensor([1, 0, 1, 1]), classes=("a", "b"))
    rules = recipes.Protocol("true", {"weak": FGSM(0.03), "strong-1": FGSM(0.1), "strong-2": FGSM(0.3),
                                      "noisy": PGD(0.05, 1e-9, 1, random_start=1.0)},
                             dict.fromkeys(["weak", "strong-1", "strong-2", "noisy"], "true"),
                             {"weak": 1, "strong-1": 1, "strong-2": 1, "noisy": 50})  # fmt: skip
    monkeypatch.setattr(recipes, "protocol", lambda _: rules)
    given = {"weak": None, "strong-1": None, "strong-2": None, "noisy": None}
    recipe = a_recipe(**given, average={"strong": 1.0, "weak": None}, gap={"weak over strong": None})
    found = {figure.name: figure for figure in recipes.measure(recipe, TwoPlanes(), data, {})}
    assert [found[name].measured for name in ("clean", "weak", "strong-1", "strong-2")] == [100, 75, 50, 25]
    assert found["average strong"].measured == pytest.approx((100 + 50 + 25) / 3)
    assert found["average weak"].measured == (100 + 75) / 2
    assert found["gap weak over strong"].measured == 75 - 25
    assert found["gap weak over strong"].outcomes.tolist() == [0, 100, 0, 100]
    runs = [
        evaluate(TwoPlanes(), data, {"it": rules.attacks["noisy"]}, seed=seed).results["it"].right for seed in range(50)
    ]
    assert torch.stack(runs).double().mean(0)[0] not in (0, 1)
    assert found["noisy"].outcomes.tolist() == pytest.approx((100 * torch.stack(runs).double().mean(0)).tolist())
    assert list(recipe.only(["weak", "average"]).printed["average"]) == ["weak"]


def test_smd_averages_over_runs_of_the_attack():
    assert {name: runs for name, runs in recipes.protocol("smd").runs.items() if runs > 1} == {
        "ce-pgd": 5, "autoattack": 3, "untargeted": 3, "targeted": 3, "black-box": 3
    }  # fmt: skip


def test_margins_on_a_model_whose_distances_are_known():
    x = torch.tensor([[0.51, 0.1], [0.47, 0.3], [0.9, 0.5], [0.3, 0.2]])
    data = Dataset(x, torch.tensor([1, 0, 1, 0]), classes=("a", "b"))
    bounds = [0.0, 2 / 255, 4 / 255, 6 / 255, 7.9 / 255, 8 / 255]
    recipe = dataclasses.replace(a_recipe(**{"anpgd-8 margin": bounds}), evaluation="smd")
    figures = recipes.measure(recipe, TwoPlanes(), data, {})
    assert [figure.measured for figure in figures[1:]] == [0, 0, 25, 25, 50, 100]  # 2.55 and 7.65 levels, 8 at the most
    assert recipe.histograms() == {"anpgd-8 margin": bounds}
    assert recipe.curves() == {}


def test_spat_recipes_are_the_thesis():
    spat = recipes.load("spat-table3.4-spat")
    attack = PGD(eps=8 / 255, alpha=2 / 255, steps=10, random_start="gaussian-unclipped", loss="spat")
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
    pgd, dra = PGD(eps=0.01, alpha=0.0025, steps=5), DRA(eps=1 / 255, p=1 / 3, steps=5)
    assert pgd.eps == pytest.approx(2.55 / 255)
    assert recipes.load("dra-table4.5-madry-pgd").build_method() == Madry(attack=pgd)  # no clean samples
    assert recipes.load("dra-table4.5-madry-dra").build_method() == Madry(attack=dra)
    assert recipes.load("dra-table4.5-ours-pgd").build_method() == DRAFineTuning(attack=pgd, last_eps=None)
    assert recipes.load("dra-table4.5-ours-dra").build_method() == DRAFineTuning(attack=dra, last_eps=None)
    changed = {"alternating": {"alternate": True}, "multiplier": {"lam_lr": 0.001}}
    for name, options in changed.items():
        other = recipes.load(f"dra-cifar10-{name}")
        assert other.build_method() == dataclasses.replace(ours.build_method(), **options)
        assert (other.training, other.weights, other.printed) == (ours.training, ours.weights, ours.printed)
    pgd = recipes.load("dra-fashion-mnist-pgd").build_method()
    assert recipes.load("dra-fashion-mnist-alternating").build_method() == dataclasses.replace(pgd, alternate=True)
    steps = [variant.build_method() for variant in recipes.load("dra-sweep-lambda-fashion-mnist").variants()]
    assert steps == [dataclasses.replace(pgd, lam_lr=step) for step in (0, 0.001, 0.01, 0.1)]
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


def test_the_budget_rises_where_a_run_asks_for_it_and_its_caption_says_so():
    options = Reproduction(model="lenet5", epochs=20, eps_warmup=8)
    madry, standard = recipes.load("spat-table3.2-madry"), recipes.load("spat-mnist-standard")
    assert options.method(madry) == dataclasses.replace(madry.build_method(), eps_warmup=8)
    assert options.method(standard) == standard.build_method()
    assert "20 epochs with eps_warmup 8, " in settings_in_words(madry, options)
    assert "20 epochs, " in settings_in_words(standard, options)
    with pytest.raises(ValueError, match="DeepFoolTraining has no budget to warm up"):
        options.method(recipes.load("blind-fashion-mnist-df-at"))


class TwoPlanes(nn.Module):
    """Logits of a sample in the plane: (0, x0 - 1/2); FGSM at eps fools what is within eps of the line."""

    def forward(self, x):
        return torch.stack((torch.zeros_like(x[:, 0]), x[:, 0] - 0.5), dim=1)


CALIBRATED = [name for name in recipes.names() if recipes.load(name).calibrate]


def test_dra_is_compared_with_pgd_at_equal_strength():
    """Every row of DRA beside one of PGD, and every share p at the budget of p 1/3."""
    beside = {f"dra-table4.5-{row}-dra" for row in ("madry", "trades", "ours")} | {"dra-fashion-mnist-dra"}
    shares = {f"dra-table4.6-p-{p}" for p in ("1-6", "1-2", "1")} | {"dra-sweep-fashion-mnist"}
    assert set(CALIBRATED) == beside | shares
    for name in CALIBRATED:
        recipe = recipes.load(name)
        attack, like = (recipes._attack(recipe.calibrate[key]) for key in ("attack", "like"))
        twin = "dra-fashion-mnist-pgd" if "fashion-mnist" in name else "dra-table4.5-ours-pgd"
        assert like == recipes.load(twin).build_method().attack
        assert attack == dataclasses.replace(recipe.build_method().attack, p=1 / 3)
        assert recipe.calibrate["network"] in recipe.before()
        first = recipes.load(recipe.calibrate["network"])
        assert first.method == "standard"
        assert (first.training["data"], first.training["model"]) == (recipe.training["data"], recipe.training["model"])
        for variant in recipe.variants():
            at = variant.at(0.007)
            assert at.build_method().attack == variant.build_method().attack.at(0.007)
            assert not at.calibrate


def test_a_calibration_is_of_a_method_with_an_attack():
    attacks = {"network": "a", "attack": {"name": "dra"}, "like": {"name": "pgd"}}
    with pytest.raises(ValueError, match="calibrate takes network, attack and like"):
        dataclasses.replace(a_recipe(), calibrate=attacks)
    with pytest.raises(ValueError, match=r"got network, attack$"):
        dataclasses.replace(a_recipe(), calibrate=dict(list(attacks.items())[:2]), options={"attack": {"name": "dra"}})


def test_calibrated_on_a_model_whose_distances_are_known():
    """PGD at 0.1 from x leaves what is more than 0.1 from the line; DRA, which moves one of two entries, takes half.

    Its budget is the mean over both.
    """
    x = torch.stack([0.5 + torch.linspace(0.001, 0.3, 300), torch.full((300,), 0.5)], dim=1)
    data = Dataset(x, torch.ones(300, dtype=torch.int64), classes=("a", "b"))
    attacks = {
        "attack": {"name": "dra", "eps": 0.02},
        "like": {"name": "pgd", "eps": 0.1, "alpha": 0.02, "random_start": 0},
    }
    recipe = dataclasses.replace(
        a_recipe(), calibrate={"network": "plain", **attacks}, options={"attack": {"name": "dra", "eps": 0.02}}
    )
    found = recipes.calibrate(recipe, TwoPlanes(), data)
    assert found.eps == pytest.approx(0.05, rel=0.02)
    assert found.left == pytest.approx(found.like_left, abs=0.7)
    assert found.like_left == pytest.approx(100 * float((x[:, 0] > 0.6).double().mean()), abs=0.4)
    assert (found.network, found.attack, found.like, found.like_eps) == ("plain", "dra", "pgd", 0.1)
    assert recipe.at(found.eps).options == {"attack": {"name": "dra", "eps": 0.02, "at": found.eps}}


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
    outcomes = {figure.name: figure.outcomes for figure in figures}
    assert outcomes["clean"].tolist() == [100, 100, 100, 0]
    assert outcomes["fgsm 0.03"].tolist() == outcomes["deepfool 0.03"].tolist() == [0, 100, 100, 0]
    assert outcomes["deepfool norm"].tolist() == pytest.approx(sizes.tolist(), rel=1e-3)
    assert outcomes["deepfool avg-AA(0.05)"].tolist() == pytest.approx((100 * shares).tolist(), rel=1e-3)


def test_a_list_of_budgets_is_a_curve():
    x = torch.tensor([[0.52, 0.1], [0.45, 0.3], [0.9, 0.5]])
    data = Dataset(x, torch.tensor([1, 0, 1]), classes=("a", "b"))
    recipe = a_recipe(fgsm=[0.01, 0.03, 0.1])
    figures = recipes.measure(recipe, TwoPlanes(), data, {})
    assert {figure.name: figure.measured for figure in figures} == pytest.approx(
        {"clean": 100, "fgsm 0.01": 100, "fgsm 0.03": 200 / 3, "fgsm 0.1": 100 / 3}
    )
    assert {figure.printed for figure in figures} == {None}
    assert recipe.curves() == {"fgsm": [0.01, 0.03, 0.1]}


def test_variants_over_networks():
    recipe = recipes.load("blind-figure3-mnist")
    assert [variant.network for variant in recipe.variants()] == recipe.vary["network"]
    for variant in recipe.variants():
        other = recipes.load(variant.network)
        assert (variant.training, variant.build_method()) == (other.training, other.build_method())
        assert variant.printed == recipe.printed
    tuned = dataclasses.replace(recipe, vary={"network": ["dra-table4.7-dra"]}).variants()[0]
    first = recipes.load("dra-table4.7-dra")
    assert (tuned.network, tuned.weights) == (first.network or "dra-table4.7-dra", first.weights)


def test_curves_are_drawn_over_the_budget(monkeypatch):
    drawn = []
    monkeypatch.setattr("fastadv.report._recipes.save", lambda figure, path: drawn.append(figure))
    recipe = dataclasses.replace(a_recipe(fgsm=[0.1, 0.2], pgd={0.1: None}), vary={"attack.at": [0.05, 0.15]})
    results = {
        variant.name: [Figure("clean", 90 - i, None), Figure("fgsm 0.1", 50 - i, None), Figure("fgsm 0.2", 9, None),
                       Figure("pgd 0.1", 1, None)]
        for i, variant in enumerate(recipe.variants())
    }  # fmt: skip
    report.plot_curves(recipe, results, Path())
    (axes,) = drawn[0].axes
    assert axes.get_title() == "fgsm"
    assert [line.get_label() for line in axes.lines] == ["eps 0.05", "eps 0.15"]
    assert [list(values) for values in axes.lines[1].get_data()] == [[0, 0.1, 0.2], [89, 49, 9]]
    report.plot_variants(recipe, results, Path())
    assert [line.get_label() for line in drawn[1].axes[0].lines] == ["clean", "pgd 0.1"]


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
    norms = {"all": squares, "correct": squares[~wrong], "wrong": squares[wrong]}
    expected |= {f"{name} rms": those.mean().sqrt() for name, those in norms.items()}
    behind = lambda x: network((x - 0.5) / 0.5)  # noqa: E731
    recipe = a_recipe(gradient=dict.fromkeys(expected))
    figures = recipes.measure(recipe, behind, Dataset(x, y, classes=("a", "b")), {})
    for figure, value in zip(figures[1:], expected.values(), strict=True):
        assert figure.measured == pytest.approx(float(value.detach()), rel=1e-4)


def test_where_attacks_lead_and_how_large_weights_are():
    x = torch.tensor([[0.52, 0.1], [0.45, 0.3], [0.9, 0.5], [0.6, 0.2]])
    data = Dataset(x, torch.tensor([1, 0, 1, 1]), classes=("a", "b"))
    network = nn.Linear(2, 2)
    network.weight.data, network.bias.data = torch.tensor([[0.0, 0.0], [3.0, 4.0]]), torch.tensor([2.0, 0.0])
    recipe = dataclasses.replace(
        a_recipe(pgd20={"1 into 0": None, "0 into 1": None}, weight={"0 norm": None, "1 norm": None}),
        evaluation="hard-pairs",
    )
    found = {figure.name: figure.measured for figure in recipes.measure(recipe, network, data, {})}
    score, reach = x @ network.weight[1] - 2, 7 * 8 / 255  # PGD lowers or raises both coordinates
    taken = (score[data.y == 1] < reach).double().mean()
    assert 0 < taken < 1
    assert found["pgd20 1 into 0"] == pytest.approx(100 * float(taken))
    assert found["pgd20 0 into 1"] == 100 * float(score[1] > -reach)
    assert (found["weight 0 norm"], found["weight 1 norm"]) == (0, 5)


def test_where_attacks_lead_is_drawn(monkeypatch):
    """A bar a class of the recipe of Figure 3.1, and the share of each group on its bar."""
    drawn = []
    monkeypatch.setattr("fastadv.report._plots.save", lambda figure, path: drawn.append(figure))
    recipe = recipes.load("spat-figures3.1-3.2")
    (shares,) = recipe.landings().values()
    assert shares == [f"{before} into {after}" for before in (5, 3) for after in range(10)]
    assert recipes.load("spat-table3.1-resnet18").landings() == {}
    figures = [recipes.Figure(f"pgd20 {share}", number + 0.5, None) for number, share in enumerate(shares)]
    report.plot_landings(recipe, {recipe.name: figures}, Path())
    dogs, cats = drawn[0].axes[0].containers
    assert [bar.get_width() for bar in dogs] == [number + 0.5 for number in range(10)]
    assert [bar.get_width() for bar in cats] == [number + 0.5 for number in range(10, 20)]
    assert [label.get_text() for label in drawn[0].axes[0].get_yticklabels()] == [f"class {k}" for k in range(10)]


def test_a_histogram_of_gradients(monkeypatch):
    drawn = []
    monkeypatch.setattr("fastadv.report._recipes.save", lambda figure, path: drawn.append(figure))
    x, y = samples(30, 2, dtype=torch.float32), labels(30, 2)
    data, model, bounds = Dataset(x, y, classes=("a", "b")), nn.Linear(2, 2), [1e-6, 1e-2, 1e-1, 1e6]
    residual = model(x).softmax(1) - F.one_hot(y, 2)
    squares = (residual @ model.weight).square().sum(1) / 4  # per unit of (x - mean) / std
    recipe = a_recipe(gradient=bounds)
    figures = recipes.measure(recipe, model, data, {})
    shares = [100 * float((squares <= bound).double().mean()) for bound in bounds]
    assert [figure.measured for figure in figures[1:]] == pytest.approx(shares)
    report.plot_histograms(recipe, {"toy": figures}, Path())
    (step,) = drawn[0].axes[0].patches
    assert list(step.get_data().values) == pytest.approx([b - a for a, b in itertools.pairwise(shares)])
    assert list(step.get_data().edges) == bounds


def test_gradient_norms_of_nothing_are_nan():
    data = Dataset(torch.full((3, 2), 0.9), torch.ones(3, dtype=torch.int64), classes=("a", "b"))
    summary = gradient_norms(TwoPlanes(), data).summary()
    assert summary["wrong mean"] != summary["wrong mean"]
    assert summary["correct mean"] == summary["all mean"] > 0


def test_recipes_that_train_identical_networks_share_one():
    """But for those whose training measures, every epoch, what it holds out."""
    networks: dict[str, set[str]] = {}
    for recipe in recipes.select(["*"]):
        if not recipe.vary and recipe.epoch != "best":
            trained = repr((recipe.build_method(), Reproduction().training(recipe), recipe.weights, recipe.calibrate))
            networks.setdefault(trained, set()).add(recipe.network or recipe.name)
    assert {len(names) for names in networks.values()} == {1}
    shared = [recipe.name for recipe in recipes.select(["bilateral-*"]) if recipe.network and not recipe.vary]
    assert len(shared) == 12


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


def test_printed_deviations_are_kept():
    fat = recipes.load("friendly-table1-fat-8")
    assert {key: value and (value, value.deviation) for key, value in fat.printed.items()} == {
        "clean": (89.34, 0.221), "fgsm": (65.52, 0.355), "pgd20": (46.13, 0.409), "pgd100": (45.31, 0.531),
        "cw30": (46.82, 0.517), "autoattack": None,
    }  # fmt: skip
    assert recipes.load("friendly-table4-fat-16").printed["cw30"].deviation == 0.459
    deviations = {}
    for recipe in recipes.select(["friendly-*"]):
        if found := [key for key, value in recipe.printed.items() if isinstance(value, Printed)]:
            deviations[recipe.name] = len(found)
            assert recipe.average == "median"
    assert deviations == {f"friendly-table{n}-fat-{row}": 5 for n, row in ((1, 8), (1, 16), (2, "1-8"), (2, "6-8"))} | {
        "friendly-table2-fat-6-16": 5, "friendly-table3-fat-8": 4, "friendly-table3-fat-16": 4,
        "friendly-table4-fat-8": 4, "friendly-table4-fat-16": 4,
    }  # fmt: skip
    assert all(recipe.over == {"mean": 3} for recipe in recipes.select(["bilateral-table6-*", "fastat-*"]))
    assert recipes.load("fastat-n-fgsm").printed["autoattack"].deviation == 0.41
    assert fat.over == {"median": 5}
    with pytest.raises(ValueError, match="over must name one of mean, median"):
        dataclasses.replace(fat, over={"best": 5})


def test_figures_over_seeds():
    runs = [[Figure("clean", value, 89.34, 0.221), Figure("norm", value / 100, None)] for value in (80.0, 81.0, 88.0)]
    for name, expected in (("friendly-table1-fat-8", 81.0), ("bilateral-table6-eps4", 83.0), ("blind-mnist-nt", 83.0)):
        clean, norm = recipes.averaged(recipes.load(name), runs)
        assert (clean.measured, norm.measured) == pytest.approx((expected, expected / 100))
        assert (clean.printed, clean.deviation) == (89.34, 0.221)
        spread = ((3**2 + 2**2 + 5**2) / 2) ** 0.5  # around the mean of 83, of n - 1
        assert (clean.spread, norm.spread) == pytest.approx((spread, spread / 100))
    text = report.markdown({"one": [clean]}, [])
    assert "| clean | 83.0 ± 4.4 (89.34 ± 0.221) |" in text
    for wrong in (runs[:1], [runs[0], runs[1][:1]]):
        with pytest.raises(ValueError, match="two runs or more are needed, with the same figures"):
            recipes.averaged(recipes.load("blind-mnist-nt"), wrong)


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
        f"blind-svhn-{row}" for row in ("bat", "df-at", "fgsm", "fgsm-pred", "nt", "pgd", "pgd-pred")
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


@pytest.mark.thorough
def test_a_recipe_with_extra_samples(tmp_path, monkeypatch):
    recipe = recipes.load("wang-wrn-28-10")
    grey = {"mean": 0.5, "std": 0.5}
    small = dataclasses.replace(recipe, training=recipe.training | {"batch_size": 20, "held_out": 10, **grey})
    monkeypatch.setattr(recipes, "load", lambda name: small)
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (30, 28, 28, 1), dtype=np.uint8)
    np.savez("1m.npz", image=pixels, label=np.arange(30) % 10)
    assert main(["reproduce", "wang-wrn-28-10", "--attacks", "pgd10", *QUICK, "--out", "out"]) == 0
    assert figures_of(Path("out/wang-wrn-28-10"))["clean"]["printed"] == "92.44"
    Path("1m.npz").unlink()
    assert main(["reproduce", "wang-wrn-28-10", "--attacks", "pgd10", *QUICK, "--out", "other"]) == 2
    assert not Path("other").exists()


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
    with np.load(out / "blind-fashion-mnist-pgd" / "outcomes.npz") as outcomes:
        assert set(outcomes) == set(found)
        for name, each in outcomes.items():
            assert each.shape == (10,)
            assert each.astype(float).mean() == pytest.approx(float(found[name]["measured"]), rel=1e-3)
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


@pytest.mark.parametrize("seeds", ["1", "2"])
def test_a_signal_says_how_the_reproduction_goes_on(seeds, tmp_path, monkeypatch, capfd):
    def stopped(*_: object, **__: object) -> None:
        raise Stopped

    command = ["reproduce", "blind-fashion-mnist-nt", "--attacks", "fgsm", *QUICK, "--out", str(tmp_path / "out")]
    command += ["--seeds", seeds]
    with monkeypatch.context() as patch:
        patch.setattr(_train, "fit", stopped)
        assert main(command) == 130
    assert f"the same command, --resume true and --out {tmp_path / 'out'}\n" in capfd.readouterr().err
    assert main([*command, "--resume", "true"]) == 0


def vary(monkeypatch: pytest.MonkeyPatch, name: str, **values: list) -> None:
    """The recipe `name` tries these values only: each is a training."""
    recipe = recipes.load(name)
    of = {option: values[option.rpartition(".")[2]] for option in recipe.vary}
    monkeypatch.setattr(recipes, "load", lambda _: dataclasses.replace(recipe, vary=of))


@pytest.mark.usefixtures("rendered")
def test_a_sweep_has_a_figure(tmp_path, monkeypatch):
    vary(monkeypatch, "blind-figure4-cutoff", cutoff=[0.1, None])
    out = tmp_path / "out"
    quick = ["--data", "fashion-mnist-mini", "--model", "lenet5", "--epochs", "1", "--per-class", "1", "--limit", "3"]
    quick += ["--attacks", "deepfool"]
    assert main(["reproduce", "blind-figure4-cutoff", *quick, "--out", str(out)]) == 0
    assert (out / "blind-figure4-cutoff.png").read_bytes().startswith(b"\x89PNG")
    assert len(list(out.rglob("figures.csv"))) == 2


@pytest.mark.usefixtures("rendered")
@pytest.mark.thorough
def test_curves_of_several_networks(tmp_path):
    out = tmp_path / "out"
    quick = ["--data", "fashion-mnist-mini", "--model", "lenet5", "--epochs", "1", "--per-class", "1", "--limit", "3"]
    assert main(["reproduce", "blind-figure3-mnist", "--attacks", "pgd", *quick, "--out", str(out)]) == 0
    assert (out / "blind-figure3-mnist-curves.png").read_bytes().startswith(b"\x89PNG")
    assert len(list(out.rglob("figures.csv"))) == 5
    trained = {path.parent.name for path in out.rglob("checkpoint.pt")}
    assert trained == set(recipes.load("blind-figure3-mnist").vary["network"])


@pytest.mark.usefixtures("rendered")
def test_a_sweep_of_two_options(tmp_path, monkeypatch):
    vary(monkeypatch, "friendly-fashion-mnist-eps", at=[0.1, 0.2], tau=[0, 3])
    out = tmp_path / "out"
    quick = ["--data", "fashion-mnist-mini", "--epochs", "1", "--per-class", "1", "--limit", "3", "--attacks", "fgsm"]
    assert main(["reproduce", "friendly-fashion-mnist-eps", *quick, "--out", str(out)]) == 0
    for name in ("friendly-fashion-mnist-eps.png", "friendly-fashion-mnist-eps-gradients.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    runs = {path.parent.name: yaml.safe_load(path.read_text()) for path in out.rglob("*/*/config.yaml")}
    assert len(runs) == 2 * 2
    attack = runs["attack.at=0.2,attack.tau=3"]["attack"]["init_args"]
    assert (attack["eps"], attack["alpha"], attack["tau"]) == (0.2, pytest.approx(0.02), 3)


def test_samples_held_out_that_choose_nothing_are_not_measured(tmp_path, monkeypatch):
    images = Dataset(torch.rand(6040, 1, 28, 28), labels(6040, 10), classes=tuple("0123456789"))
    monkeypatch.setattr("fastadv.commands._settings.open_samples", lambda *_, **__: images)
    quick = ["--model", "lenet5", "--epochs", "1", "--limit", "5", "--attacks", "clean"]
    assert main(["reproduce", "smd-table2b-smd", *quick, "--out", str(tmp_path / "out")]) == 0
    folder = tmp_path / "out" / "smd-table2b-smd"
    assert load_checkpoint(folder)["kept"]["margins"].shape == (40,)
    assert "avg_aa" not in (folder / "metrics.csv").read_text()
    assert yaml.safe_load((folder / "config.yaml").read_text())["held_out"] == 6000


def test_seeds_have_folders_of_their_own(tmp_path, capsys):
    names, quick = ["blind-fashion-mnist-nt"], [*QUICK, "--epochs", "1", "--attacks", "fgsm"]
    out, alone = tmp_path / "out", tmp_path / "alone"
    command = ["reproduce", *names, *quick, "--seed", "4", "--seeds", "3", "--resume", "true", "--out", str(out)]
    assert main(command) == 0
    assert "seeds 4 to 6" in capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == [*names, "seed-4", "seed-5", "seed-6"]
    assert main(["reproduce", *names, *quick, "--seed", "5", "--out", str(alone)]) == 0
    assert figures_of(out / "seed-5" / names[0]) == figures_of(alone / names[0])
    whole, runs = figures_of(out / names[0]), [figures_of(out / f"seed-{seed}" / names[0]) for seed in (4, 5, 6)]
    for key, row in whole.items():
        values = torch.tensor([float(run[key]["measured"]) for run in runs], dtype=torch.float64)
        assert float(row["measured"]) == pytest.approx(float(values.mean()))
        assert float(row["spread"]) == pytest.approx(float(values.std()))
    assert len({str(run) for run in runs}) > 1
    text = (out / "results.md").read_text()
    assert "seeds 4 to 6" in text
    assert "mean ± standard deviation" in text
    (out / "seed-6" / names[0] / "figures.csv").unlink()  # as if stopped before it
    trained = {path: path.stat().st_mtime_ns for path in out.rglob("checkpoint.pt")}
    assert main(command) == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("checkpoint.pt")} == trained
    assert len(trained) == 3
    assert figures_of(out / names[0]) == whole
    assert main(["report", str(out), "--out", str(tmp_path / "page")]) == 0


@pytest.mark.usefixtures("rendered")
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

    monkeypatch.setattr("fastadv.commands._settings.open_samples", lambda data, split, **_: fake(split))
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


@pytest.mark.usefixtures("rendered")
def test_outputs_of_layers(tmp_path):
    """Of two classes, which alone are trained on and tested."""
    pytest.importorskip("sklearn", reason="outputs are reduced by scikit-learn")
    out = tmp_path / "out"
    quick = ["--data", "fashion-mnist-mini", "--model", "lenet5", "--epochs", "1", "--per-class", "2", "--limit", "40"]
    command = ["reproduce", "friendly-fashion-mnist-features", *quick, "--attacks", "clean", "--out", str(out)]
    assert main(command) == 0
    folder = out / "friendly-fashion-mnist-features"
    with (folder / "mixing.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["kind"] for row in rows] == ["natural", "PGD", "friendly"] * 3
    assert float(rows[0]["misclassified"]) == pytest.approx(1 - float(figures_of(folder)["clean"]["measured"]) / 100)
    assert (folder / "features_pca.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "features_tsne.png").is_file()
    assert yaml.safe_load((folder / "config.yaml").read_text())["classes"] == "2,4"


@pytest.mark.usefixtures("rendered")
@pytest.mark.thorough
def test_networks_of_other_epochs(tmp_path):
    """Measured are the checkpoints of their epochs, which keep their places in a shorter schedule."""
    out = tmp_path / "out"
    quick = ["--data", "fashion-mnist-mini", "--model", "lenet5", "--epochs", "30", "--per-class", "2", "--limit", "50"]
    command = ["reproduce", "smd-fashion-mnist-trend", *quick, "--attacks", "clean", "--resume", "true"]
    assert main([*command, "--out", str(out)]) == 0
    kept = sorted(path.name for path in (out / "smd-table2b-smd").glob("epoch-*.pt"))
    assert kept == [f"epoch-{2 * n:04d}.pt" for n in range(1, 16)]
    test = fastadv.load("fashion-mnist-mini", "test").take(50)
    network = models.build("lenet5", (1, 28, 28), 10)
    for n in (1, 7, 15):
        network.load_state_dict(load_checkpoint(out / "smd-table2b-smd" / f"epoch-{2 * n:04d}.pt")["state"])
        found = figures_of(out / f"smd-fashion-mnist-trend/epoch={10 * n}")["clean"]["measured"]
        assert float(found) == pytest.approx(100 * evaluate(network, test, {}, checks=0).clean)
    assert (out / "smd-fashion-mnist-trend.png").is_file()


def test_the_epoch_selected_on_what_is_held_out(tmp_path, monkeypatch):
    images = Dataset(torch.rand(6040, 1, 28, 28), labels(6040, 10), classes=tuple("0123456789"))
    monkeypatch.setattr("fastadv.commands._settings.open_samples", lambda *_, **__: images)
    figures = iter([0.5, 0.9, 0.1])
    monkeypatch.setattr("fastadv.commands._plan.watch", lambda *_: lambda model: {"avg_aa": next(figures)})
    monkeypatch.setattr("fastadv.commands._reproduce.check_halves", lambda *_: None)
    quick = [
        "--model",
        "lenet5",
        "--epochs",
        "3",
        "--limit",
        "200",
        "--attacks",
        "clean",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(["reproduce", "smd-selected-fashion-mnist", *quick]) == 0
    folder = tmp_path / "out" / "smd-selected-fashion-mnist"
    network = models.build("lenet5", (1, 28, 28), 10)
    best = load_checkpoint(folder / "best.pt")
    assert len(best["history"]) == 2
    network.load_state_dict(best["state"])
    found = float(figures_of(folder)["clean"]["measured"])
    assert found == pytest.approx(100 * evaluate(network, images.take(200), {}, checks=0).clean)


def test_epochs_that_are_not_kept_are_refused():
    recipe = recipes.load("smd-table1-smd")
    assert dataclasses.replace(recipe, epoch=20).epoch == 20
    with pytest.raises(ValueError, match="epoch must be best, or a multiple of the keep_every of training, got 15"):
        dataclasses.replace(recipe, epoch=15)


def test_only_the_classes_asked_for():
    training = Training(data="fashion-mnist-mini", classes="2, 4", per_class=3)
    assert training.training_data().y.unique().tolist() == [2, 4]
    assert len(training.training_data()) == 6
    assert training.load("test").y.unique().tolist() == [2, 4]
    with pytest.raises(ValueError, match="unknown class 'trousers'"):
        Training(data="fashion-mnist-mini", classes="trousers").load("test")


def test_a_network_of_two_tables_is_trained_once(tmp_path):
    out = tmp_path / "out"
    names = ["friendly-table2-trades-6", "friendly-table3-trades"]
    quick = ["--data", "fashion-mnist-mini", "--model", "lenet5", "--epochs", "1", "--per-class", "1", "--limit", "3"]
    quick += ["--attacks", "fgsm", "--resume", "true", "--out", str(out)]
    assert main(["reproduce", *reversed(names), *quick]) == 0
    assert [path.parent.name for path in out.rglob("checkpoint.pt")] == names[:1]
    assert [figures_of(out / name)["fgsm"]["printed"] for name in names] == ["61.06", "67"]
    assert main(["reproduce", *reversed(names), *quick]) == 0


def test_variants_share_the_network_of_a_recipe_that_trains_the_same(tmp_path):
    """At budget 0.1, the sweep is R-MC-LA; the two sweeps of Figure 4 have their corner in common."""
    options = Reproduction()

    def trained(*names: str) -> dict[str, str]:
        rows = [variant for recipe in recipes.select(names) for variant in recipe.variants()]
        return networks_of(rows, {row.name: options.training(row) for row in rows}, options)

    one, sweep = "bilateral-fashion-mnist-r-mc-la", "bilateral-fashion-mnist-budgets"
    found = trained(one, sweep)
    assert found.pop(one) == found.pop(f"{sweep}/attack.eps=0.1") == one
    assert found == {name: name for name in found} != {}
    corners = trained("blind-figure4-cutoff", "blind-figure4-scale")
    assert [name for name, network in corners.items() if name != network] == ["blind-figure4-scale/rho=1"]
    assert set(trained("smd-table2a-smd", "smd-selected-svhn").values()) == {"smd-table2a-smd", "smd-selected-svhn"}
    out = tmp_path / "out"
    assert main(["reproduce", one, sweep, *QUICK, "--resume", "true", "--out", str(out)]) == 0
    folders = {str(path.parent.relative_to(out)) for path in out.rglob("checkpoint.pt")}
    assert folders == {one, *(name for name in found)}
    assert figures_of(out / one)["clean"] == figures_of(out / sweep / "attack.eps=0.1")["clean"]


def test_a_network_that_starts_from_another(tmp_path, monkeypatch):
    loaded = []
    keep = lambda model, name, run: loaded.append(load_checkpoint(run))  # noqa: E731
    monkeypatch.setattr("fastadv.commands._plan.load_weights", keep)
    out = tmp_path / "out"
    command = ["reproduce", "dra-fashion-mnist-pgd", *QUICK, "--attacks", "fgsm", "--resume", "true", "--out", str(out)]
    assert main(command) == 0
    first, tuned = (out / f"dra-fashion-mnist-{row}" for row in ("standard", "pgd"))
    assert [(run["method"], run["epoch"]) for run in loaded] == [("dra-fashion-mnist-standard", 2)]  # trained already
    assert yaml.safe_load((tuned / "config.yaml").read_text())["weights"] == str(first)
    assert list(figures_of(tuned)) == ["clean", "fgsm 0.02", "fgsm 0.05", "fgsm 0.1"]
    assert not (first / "figures.csv").exists()  # which was not asked for
    assert main(command) == 0


def test_a_calibrated_recipe(tmp_path, capsys, monkeypatch):
    """The budget comes from the undefended network, is looked for once for all rows, and is told in the results."""
    folder, out = tmp_path / "recipes", tmp_path / "out"
    folder.mkdir()
    names = ["dra-fashion-mnist-dra", "dra-sweep-fashion-mnist"]
    for name in ("protocols", "dra-fashion-mnist-standard", *names):
        text = (recipes.FOLDER / f"{name}.yaml").read_text().replace("[1/12, 1/6, 1/3, 1/2, 1]", "[1]")
        (folder / f"{name}.yaml").write_text(text.replace("eps: 0.1, alpha: 0.0225", "eps: 0.05, alpha: 0.01"))
    monkeypatch.setattr(recipes, "FOLDER", folder)
    quick = "--data fashion-mnist-mini --model lenet5 --epochs 2 --batch-size 16 --per-class 60 --limit 100"
    command = ["reproduce", *names, *quick.split(), "--attacks", "clean", "--resume", "true", "--out", str(out)]
    assert main(command) == 0
    assert capsys.readouterr().out.count("calibrated:") == 1
    (found,) = json.loads((out / "calibrations.json").read_text()).values()
    assert found["left"] == pytest.approx(found["like_left"], abs=1)
    trained = [yaml.safe_load(path.read_text()) for path in out.rglob("config.yaml")]
    attacks = [run["attack"]["init_args"] for run in trained if run.get("weights")]
    assert [attack["eps"] for attack in attacks] == [found["eps"]] * 2 != [0.04] * 2
    assert sorted(round(1 / attack["p"]) for attack in attacks) == [1, 3]
    told = f"% under dra at {found['eps']:.4g}, and {found['like_left']:.2f} % under pgd at 0.05."
    assert (out / "results.md").read_text().count(told) == 2
    assert main(command) == 0
    assert "calibrated:" not in capsys.readouterr().out


@pytest.mark.usefixtures("rendered")
@pytest.mark.thorough
def test_experiments_with_programs_of_their_own(tmp_path, capsys):
    assert main(["reproduce", "propositions", "--out", str(tmp_path / "a"), "--epochs", "2"]) == 2
    assert "the propositions train nothing: leave epochs out" in capsys.readouterr().err
    assert main(["reproduce", "propositions", "--out", str(tmp_path / "b"), "--limit", "5"]) == 2
    assert "propositions takes only --epochs and --out" in capsys.readouterr().err
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
        (["blind-mnist-bat", "--seeds", "0"], "seeds must be at least 1, got 0"),
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
    figures = [Figure("clean", 100 / 3, 33.4, 0.221, 1 / 3), Figure("cw norm", 0.0123456789, None)]
    (tmp_path / "figures.csv").write_text(report.figures_csv(figures))
    assert report.read_figures(tmp_path / "figures.csv") == figures
    assert dataclasses.astuple(figures[0])[2] == 33.4
    (tmp_path / "figures.csv").write_text("figure,measured,printed\nclean,50.0,33.4\n")  # before there were deviations
    assert report.read_figures(tmp_path / "figures.csv") == [Figure("clean", 50.0, 33.4)]
