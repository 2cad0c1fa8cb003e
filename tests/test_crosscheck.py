"""The same attacks in several libraries: a wrong one is found, a right one is not, and chance is no difference."""

import json
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from toys import linear, samples

from fastadv import attacks
from fastadv.__main__ import main
from fastadv.commands._crosscheck import CrossTest
from fastadv.data import Dataset
from fastadv.evaluation import LIBRARIES, SETTINGS, crosscheck
from fastadv.evaluation._crosscheck import holm, sign_test

EPS, EPS_L2 = 0.03, 0.1


class Fgsm:
    """As it should be."""

    def __init__(self, model: nn.Module, eps: float):
        self.model, self.attack = model, attacks.FGSM(eps)

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        return self.attack(self.model, x, y)


class HalfPgd(Fgsm):
    """Half of the budget."""

    def __init__(self, model: nn.Module, eps: float, alpha: float, steps: int, random_start: bool):
        self.model, self.attack = model, attacks.PGD(eps / 2, alpha / 2, steps, random_start=0.0)
        assert not random_start


class FarPgd(HalfPgd):
    """Beyond the budget."""

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        return (x + 0.5 * (x - 0.5).sign()).clamp(0, 1)


class LongDeepFool(Fgsm):
    """Perturbations that are larger by a twentieth than they need to be."""

    def __init__(self, model: nn.Module, steps: int):
        self.model, self.attack = model, attacks.DeepFool(steps)

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        return x + 1.05 * (super().__call__(x, y) - x)


class Cw:
    def __init__(self, model: nn.Module, **_: object):
        raise RuntimeError("out of luck\nand of memory")


@pytest.fixture
def wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """A torchattacks that has mistakes, and fastadv's FGSM."""
    module = types.ModuleType("torchattacks")
    for name, kind in {"FGSM": Fgsm, "PGD": HalfPgd, "PGDL2": FarPgd, "DeepFool": LongDeepFool, "CW": Cw}.items():
        setattr(module, name, kind)
    monkeypatch.setitem(sys.modules, "torchattacks", module)


@pytest.fixture
def data() -> tuple[nn.Module, Dataset]:
    """60 samples that a linear network classifies right, and five that it does not."""
    model, x = linear(64, 3), samples(65, 1, 8, 8, low=0.4, high=0.6)
    with torch.no_grad():
        y = model(x).argmax(1)
    y[60:] = (y[60:] + 1) % 3
    return model, Dataset(x, y, ("a", "b", "c"), name="toys")


FAKED = ("fgsm", "pgd", "pgd-l2", "deepfool", "cw-fixed")


def test_a_wrong_library_is_found(wrong: None, data: tuple[nn.Module, Dataset]):
    found = crosscheck(*data, EPS, EPS_L2, settings=FAKED, libraries=["torchattacks"], batch_size=33)
    assert found.samples == 60
    assert found.failed == (("cw-fixed", "torchattacks", "RuntimeError: out of luck"),)
    by_name = {each.setting: each for each in found.differences}
    assert {name: each.differs for name, each in by_name.items()} == {
        "fgsm": False, "pgd": True, "pgd-l2": True, "deepfool": True,
    }  # fmt: skip
    same, half, far, long = by_name.values()
    assert (same.better, same.worse, same.fooled) == (0, 0, same.theirs_fooled)
    assert half.theirs_fooled < half.fooled
    assert half.better - half.worse == round(60 * (half.fooled - half.theirs_fooled))
    assert (far.left, far.theirs_fooled) == (60, 0.0)
    assert (long.better, long.worse) == (60, 0)
    assert long.theirs_median == pytest.approx(1.05 * long.median, rel=1e-3)
    assert half.median is None
    counted = {(side.setting, side.library): side for side in found.sides}
    assert counted["pgd", "fastadv"].backwards.tolist() == [20] * 60
    assert counted["pgd", "torchattacks"].backwards.tolist() == [20] * 60


def test_the_test_is_exact():
    for better, worse in ((0, 0), (1, 0), (6, 0), (3, 9), (20, 14), (7, 7)):
        expected = stats.binomtest(better, better + worse).pvalue if better + worse else 1.0
        assert sign_test(better, worse) == pytest.approx(expected)
    assert holm([0.01, 0.04, 0.03], 0.05) == [True, False, False]
    assert holm([0.04, 0.001, 0.02], 0.05) == [True, True, True]
    assert holm([], 0.05) == []


def test_chance_is_no_difference():
    """Of equally good attacks, ten pairs at a time, any is said to differ in one of twenty cases at the most."""
    generator = torch.Generator().manual_seed(0)
    wrong = 0
    for _ in range(40):
        pairs = torch.rand(10, 2, 100, generator=generator) < 0.5
        chances = [sign_test(int((a & ~b).sum()), int((b & ~a).sum())) for a, b in pairs]
        wrong += any(holm(chances, 0.05))
    assert wrong <= 5  # 2 are expected at the most


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"settings": ["pdg"]}, "unknown attack 'pdg': choose among fgsm, pgd, "),
        ({"libraries": ["cleverhans"]}, "unknown library 'cleverhans'"),
        ({"libraries": []}, "none of these is installed: none was named. To fix: pip install foolbox"),
        ({"bounds": (-1.0, 1.0)}, r"other libraries take inputs in \[0, 1\], toys is in \[-1.0, 1.0\]"),
        ({"right": False}, "the model is right on no sample of toys"),
    ],
)
def test_what_cannot_be_compared(given: dict, message: str, wrong: None, data: tuple[nn.Module, Dataset]):
    model, test = data
    y = test.y if given.pop("right", True) else (model(test.x).argmax(1) + 1) % 3
    test = Dataset(test.x, y, test.classes, given.pop("bounds", (0.0, 1.0)), "toys")
    with pytest.raises(ValueError, match=message):
        crosscheck(model, test, EPS, EPS_L2, **{"libraries": ["torchattacks"], **given})


def test_the_help_and_the_docs_name_every_setting():
    page = (Path(__file__).parents[1] / "docs/evaluation.md").read_text()
    table = page.partition("| `--attacks` | settings |")[2].partition("\n\n")[0]
    listed = [name for row in table.splitlines()[2:] for name in re.findall("`(.*?)`", row.split("|")[1])]
    assert sorted(listed) == sorted(SETTINGS)
    given = " ".join(CrossTest.__doc__.partition("attacks, of ")[2].partition(". By default all")[0].split())
    assert re.split(", | and ", given) == list(SETTINGS)


@pytest.mark.thorough
@pytest.mark.parametrize("name", LIBRARIES)
@pytest.mark.filterwarnings("ignore")
def test_every_setting_of_an_installed_library_runs(name: str):
    """And of a linear network, steps from the sample have one result."""
    model, x = linear(256, 10), samples(8, 1, 16, 16, low=0.3, high=0.7)
    data = Dataset(x, model(x).argmax(1), tuple("abcdefghij"))
    settings = [each for each in SETTINGS if (each, name) != ("cw", "art")]  # which alone takes as long as the others
    try:
        found = crosscheck(model, data, 0.01, 0.1, settings=settings, libraries=[name])
    except ValueError as error:
        pytest.skip(str(error))
    assert found.failed == ()
    ran = {each.setting for each in found.differences}
    assert ran == {each for each in settings if name in SETTINGS[each].theirs}
    for each in found.differences:
        assert each.left == 0, each
        if each.setting in ("fgsm", "pgd", "pgd-l2"):
            assert (each.better, each.worse) == (0, 0), each
        if each.setting in ("fab", "fab-l2"):
            assert each.fooled == each.theirs_fooled == 1, each


# -------------------------------------------------------------------------------------------------------------- command


@pytest.fixture
def place(tmp_path: Path, data: tuple[nn.Module, Dataset], monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    (tmp_path / "cross_models.py").write_text("from toys import linear\n\ndef model(): return linear(64, 3)\n")
    x, y = data[1].x.numpy(), data[1].y.numpy()
    np.savez("data.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    return tmp_path


COMMAND = ["crosscheck", "cross_models:model", "--data", "data.npz", "--eps", "0.03", "--eps-l2", "0.1"]


def test_the_command_says_where_figures_differ(place: Path, wrong: None, capsys: pytest.CaptureFixture):
    flags = ["--attacks", ",".join(FAKED), "--libraries", "torchattacks", "--out", "out"]
    assert main([*COMMAND, *flags]) == 0
    told = capsys.readouterr().out
    assert "eps 0.03 in L-infinity, 0.1 in L2; beside torchattacks" in told
    assert "pgd: fastadv is stronger than torchattacks, on " in told
    assert "cw-fixed of torchattacks failed: RuntimeError: out of luck" in told
    whole = json.loads(Path("out/crosscheck.json").read_text())
    assert (whole["samples"], whole["missing"]) == (60, {})
    assert [each["setting"] for each in whole["differences"] if each["differs"]] == ["pgd", "pgd-l2", "deepfool"]
    sides = {(side["attack"], side["library"]): side for side in whole["sides"]}
    assert sides["pgd-l2", "torchattacks"]["outside"] == list(range(60))
    assert sides["pgd-l2", "torchattacks"]["distances"] == [None] * 60
    assert sides["pgd", "fastadv"]["eps"] == 0.03
    assert main([*COMMAND, "--attacks", "fgsm", "--libraries", "torchattacks", "--out", "same"]) == 0
    assert "no figures differ by more than chance" in capsys.readouterr().out


def test_without_a_library_nothing_is_begun(
    place: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    def missing(name: str) -> None:
        raise ImportError(f"{name} cannot be imported")

    monkeypatch.setattr("fastadv.evaluation._contestants.library", missing)
    assert main([*COMMAND, "--out", "out"]) == 2
    assert (
        "crosscheck compares fastadv with other libraries, and none of these is installed: adv-lib, foolbox, "
        "torchattacks, art, auto-attack. To fix: pip install"
    ) in capsys.readouterr().err
    assert not Path("out").exists()


def test_a_budget_of_nothing_is_refused_before_the_work(place: Path, wrong: None, capsys: pytest.CaptureFixture):
    assert main([*COMMAND, "--eps", "0", "--out", "out"]) == 2
    assert "eps must be positive, got 0" in capsys.readouterr().err
    assert not Path("out").exists()
