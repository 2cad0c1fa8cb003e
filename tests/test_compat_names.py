"""fastadv.compat: each adapter has the names that are meant, and says so of any other."""

import importlib

import pytest

ORIGINALS = {
    "torchattacks": "attacks wrappers images TPGD EOTPGD DIFGSM LGV VANILA",
    "autoattack": "autoattack autopgd_base checks fab_base fab_pt other_utils square state utils_tf attacks",
    "torchattacks.attack": "attack wrapper_method",
    "art": "estimators defences metrics utils config AdversarialPatch evasion",
    "art.exceptions": "annotations Type",
    "art.attacks": "attack extraction inference poisoning",
    "art.attacks.evasion": "fast_gradient AdversarialPatch",
    "foolbox": "Distance TensorFlowModel devutils distances plot zoo",
    "foolbox.attacks": "base ddn deepfool projected_gradient_descent AdamPGD attacks",
    "foolbox.criteria": "Misclassified",
    "foolbox.models": "base pytorch TensorFlowModel",
    "foolbox.types": "BoundsInput",
    "foolbox.utils": "os",
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
