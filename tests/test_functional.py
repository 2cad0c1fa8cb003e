"""fastadv.functional: the same as the classes."""

import dataclasses
import inspect

import pytest
import torch
from test_attacks import CASES
from toys import Wavy, labels, samples

from fastadv import functional
from fastadv.attacks import ATTACKS

MODEL, X, Y, IDS = Wavy(48, 5), samples(6, 3, 4, 4), labels(6, 5), torch.arange(10, 16)
every = pytest.mark.parametrize("name", CASES)


@every
@pytest.mark.usefixtures("seed_zero")
def test_functions_equal_the_classes(name):
    attack = CASES[name]
    options = {field.name: getattr(attack, field.name) for field in dataclasses.fields(attack)}
    function = getattr(functional, name)
    assert torch.equal(function(MODEL, X, Y, ids=IDS, **options), attack(MODEL, X, Y, IDS))
    assert torch.equal(function(MODEL, X, **options), attack(MODEL, X))


@every
def test_functions_describe_themselves(name):
    function, kind = getattr(functional, name), ATTACKS[name]
    assert function.__name__ == name
    assert inspect.getdoc(kind) in function.__doc__
    parameters = inspect.signature(function).parameters
    assert [*parameters] == ["model", "x", "y", "ids", *inspect.signature(kind).parameters]
    for field in dataclasses.fields(kind):
        assert parameters[field.name].kind is inspect.Parameter.KEYWORD_ONLY
        assert parameters[field.name].default == inspect.signature(kind).parameters[field.name].default


@every
def test_unknown_options(name):
    with pytest.raises(TypeError, match=f"{name} has no option stesp; it has .*seed"):
        getattr(functional, name)(MODEL, X, stesp=3)


def test_every_attack_has_a_function():
    assert set(functional.__all__) == set(ATTACKS)
    with pytest.raises(AttributeError, match=r"no attack .pdg.: choose one of .*pgd"):
        functional.pdg  # noqa: B018
