"""Seeds: which calls draw from torch's generator, and which leave it alone."""

import copy
import dataclasses
from collections.abc import Callable

import pytest
import torch
from test_attacks import CASES, SHAPE
from toys import Wavy, labels, linear, samples

from fastadv import evaluate, fit
from fastadv.attacks import (
    ANPGD,
    DRA,
    FAB,
    PGD,
    Attack,
    AutoAttack,
    FriendlyPGD,
    MultiAttack,
    Noise,
    OneStepTargeted,
    Square,
)
from fastadv.data import Dataset
from fastadv.evaluation import calibrated, features, landing, swept_curve, transfer
from fastadv.trainers import CAT, Batch, Madry, Standard

RANDOM = (
    *("anpgd", "apgd", "apgdrounds", "apgdt", "autoattack", "boundary", "dynamic", "friendly", "hopskipjump"),
    *(
        "minimal",
        "difgsm",
        "eotpgd",
        "multi",
        "noise",
        "onepixel",
        "onestep",
        "pgd",
        "pixle",
        "rfgsm",
        "spsa",
        "square",
    ),
    *("tifgsm", "tpgd", "vmifgsm", "vnifgsm"),
)
MODEL, LINEAR, X, Y = Wavy(48, 5), linear(48, 5), samples(40, *SHAPE), labels(40, 5)


def drawn(call: Callable[[], object]) -> bool:
    """Whether torch's default generator is another after the call."""
    before = torch.get_rng_state()
    call()
    return not torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", CASES)
def test_an_attack_without_a_seed_draws_one_number_if_it_is_random(name):
    attack = CASES[name]
    assert attack.seed is None
    assert attack.is_random == (name in RANDOM)
    for call in (attack, attack.run, attack.rows):
        torch.manual_seed(3)
        call(MODEL, X, Y)
        after = torch.rand(())
        torch.manual_seed(3)
        if name in RANDOM:
            torch.randint(2**62, ())
        assert torch.equal(torch.rand(()), after)


@pytest.mark.parametrize("name", CASES)
def test_an_attack_with_a_seed_leaves_the_generator_alone(name):
    attack = dataclasses.replace(CASES[name], seed=3)
    assert not drawn(lambda: attack.run(MODEL, X, Y))
    assert torch.equal(attack(MODEL, X, Y), attack(MODEL, X, Y))


@pytest.mark.parametrize("name", RANDOM)
def test_successive_calls_differ_and_manual_seed_reproduces_them(name):
    """As in a loop over a loader: no ids, no seed."""
    attack = MultiAttack((Noise(0.1),)) if name == "multi" else CASES[name]
    torch.manual_seed(5)
    first, second = (attack(MODEL, X, Y) for _ in range(2))
    torch.manual_seed(5)
    assert torch.equal(attack(MODEL, X, Y), first)
    assert not torch.equal(second, first)


@pytest.mark.parametrize(
    ("attack", "random"),
    [
        (PGD(random_start=0.0), False),
        (PGD(random_start="gaussian"), True),
        (ANPGD(random_start=0.0), False),
        (FriendlyPGD(random_start=0.0), False),
        (FriendlyPGD(random_start=0.0, omega=0.01), True),
        (OneStepTargeted(random_start=False), False),
        (OneStepTargeted(random_start=False, towards="random"), True),
        (FAB(steps=2, restarts=2), True),
        (MultiAttack((PGD(random_start=0.0), FAB(steps=2))), False),
        (MultiAttack((PGD(seed=1), Square(queries=5, seed=2))), False),
        (MultiAttack((PGD(seed=1), Noise())), True),
    ],
)
def test_options_decide_whether_an_attack_is_random(attack, random):
    assert drawn(lambda: attack(MODEL, X, Y)) == attack.is_random == random


def test_attacks_of_autoattack_have_a_seed_each_or_none():
    assert [attack.seed for attack in AutoAttack(0.1, seed=4).attacks.values()] == [4, 5, 6, 7]
    assert {attack.seed for attack in AutoAttack(0.1).attacks.values()} == {None}


# -------------------------------------------------------------------------------------------- evaluation and training


def measured(**seed: int) -> list[object]:
    """What all functions of evaluation that take attacks find, as values to compare."""
    model, attack = LINEAR, PGD(0.05, 0.02, 3)
    data = Dataset(X, model(X).argmax(1), classes=tuple("abcde"))
    suite: dict[str, Attack] = {"pgd": attack, "square": Square(0.05, 20), "noise": Noise(0.1)}
    found = evaluate(model, data, suite, batch_size=16, checks=8, **seed)
    outputs = features(model, data, {"noise": suite["noise"]}, ["1"], **seed).outputs["1"]["noise"]
    eps = calibrated(model, data, DRA(1 / 255), PGD(0.005, 0.005, 3), **seed).eps
    return [
        [result.attack.seed for result in found.results.values()],
        [result.sizes.tolist() for result in found.results.values()],
        [swept_curve(model, data, attack, [0.01, 0.02, 0.05], **seed).flips.tolist(), outputs.tolist(), eps],
        [landing(model, data, attack, **seed).confusion.tolist()],
        transfer({"one": model, "other": MODEL}, data, suite, **seed),
    ]


def test_evaluations_are_reproducible_and_leave_the_generator_alone():
    torch.manual_seed(1)
    first = measured()
    torch.manual_seed(2)
    assert not drawn(lambda: measured(seed=1))
    assert measured() == measured(seed=0) == first
    again = measured(seed=1)
    assert (first[0], again[0]) == ([0, 0, 0], [1, 1, 1])
    assert again[1] != first[1]


def test_a_seed_of_an_attack_is_kept_by_an_evaluation():
    data = Dataset(X, Y, classes=tuple("abcde"))
    assert evaluate(MODEL, data, {"pgd": PGD(0.05, seed=7)}, seed=1, checks=0).results["pgd"].attack.seed == 7


def test_training_by_fit_leaves_the_generator_alone():
    data = Dataset(X, Y, classes=tuple("abcde"))
    for method in (Standard(), Madry()):
        assert not drawn(lambda method=method: fit(copy.deepcopy(LINEAR), method, data, epochs=1, batch_size=16))


@pytest.mark.parametrize("method", [Madry(attack=PGD(0.1, steps=0)), CAT(attack=PGD(0.1, 0.01, 2, random_start=0.0))])
def test_a_method_in_a_loop_of_your_own_has_new_noise_at_every_step(method):
    """Without a seed, and without ids: those are needed by `fit`, which keys noise by them."""
    data = Dataset(X, Y, classes=tuple("abcde"))
    batch = Batch(X, Y, torch.arange(40))
    method.begin(data, seed=None, epochs=1)
    if isinstance(method, CAT):
        method.k = 1
    torch.manual_seed(5)
    first, second = (method.examples(MODEL, batch) for _ in range(2))
    torch.manual_seed(5)
    assert torch.equal(method.examples(MODEL, batch), first)
    assert not torch.equal(second, first)
    method.begin(data, seed=3, epochs=1)
    assert torch.equal(method.examples(MODEL, batch), method.examples(MODEL, batch))
