"""fastadv.compat: each adapter has the names that are meant, and says so of any other."""

import importlib

import pytest

ORIGINALS = {
    "torchattacks": "attack attacks wrappers images TPGD EOTPGD DIFGSM LGV VANILA",
    "autoattack": "autoattack autopgd_base checks fab_base fab_pt other_utils square state utils_tf attacks",
    "art": "attacks estimators defences metrics utils config HopSkipJump AdversarialPatch evasion",
    "foolbox": "Attack Criterion Distance Model TensorFlowModel devutils distances plot samples types zoo",
    "foolbox.attacks": "base ddn deepfool projected_gradient_descent AdamPGD EADAttack HopSkipJumpAttack attacks",
    "foolbox.criteria": "Criterion",
    "foolbox.models": "base pytorch Model TensorFlowModel",
    "foolbox.utils": "samples",
}
"""Names that the libraries have at that place, some of them modules."""

named = pytest.mark.parametrize("name", ORIGINALS)


@named
def test_public_names_are_meant(name):
    module = importlib.import_module(f"fastadv.compat.{name}")
    assert dir(module) == sorted(module.__all__)
    assert len({*module.__all__}) == len(module.__all__)
    for public in module.__all__:
        meant = getattr(module, public)
        assert getattr(meant, "__module__", getattr(meant, "__name__", "")).startswith("fastadv.compat."), public


@named
def test_a_name_of_the_library_is_its_own_or_an_error(name):
    module = importlib.import_module(f"fastadv.compat.{name}")
    for other in {*ORIGINALS[name].split()} - {*module.__all__}:
        with pytest.raises(
            AttributeError, match=rf"fastadv\.compat\.{name} has no {other}\. It has {module.__all__[0]}"
        ):
            getattr(module, other)
