"""What attacks and training ask of a GPU, counted on the CPU: launches beyond the network's own, and waits.

``launches.yaml`` holds the numbers, of a step of every attack and of a batch of every method. None may grow. Better
ones are written there by ``python tests/test_launches.py``.
"""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from counting import Counting
from torch import Tensor, nn

from fastadv import attacks, ops
from fastadv.attacks import (
    ALMA,
    ANPGD,
    APGD,
    APGDT,
    CW,
    DDN,
    DIFGSM,
    DRA,
    EAD,
    EOTPGD,
    EPGD,
    FAB,
    FABT,
    FGSM,
    FMN,
    JSMA,
    MIFGSM,
    NIFGSM,
    PDGD,
    PDPGD,
    PGD,
    RFGSM,
    SINIFGSM,
    SPSA,
    TIFGSM,
    TPGD,
    VMIFGSM,
    VNIFGSM,
    APGDRounds,
    Attack,
    Boundary,
    CWLinf,
    DeepFool,
    DynamicPGD,
    FriendlyPGD,
    HopSkipJump,
    Minimal,
    Noise,
    OnePixel,
    OneStepTargeted,
    Pixle,
    SigmaZero,
    Square,
    _ascend,
)
from fastadv.data import Dataset
from fastadv.trainers import METHODS, fit

TABLE = Path(__file__).with_name("launches.yaml")
pytestmark = pytest.mark.skipif(bool(ops.MISSING["cpu"]), reason=f"no compiled kernels: {ops.MISSING['cpu']}")

SMALL = {"eps": 1e-4, "seed": 0}
STEP = SMALL | {"alpha": 1e-5}
STARTS = {"starts": torch.full((16, 1, 8, 8), 0.9), "bounds": (-9.0, 9.0), "seed": 0}
"""Of attacks by decisions alone, which walk along a boundary; see `Half`."""


@dataclasses.dataclass(frozen=True)
class Case:
    """An attack that no sample falls to, and its passes a step beside the one forward and backward.

    `most`: what a step may launch beyond them, of a class where `classes` says how many it looks at. `field`: what
    counts the steps, each `unit` of it, compared at `few` of them and twice as many; without one, a call is counted.
    `waits`: how often a step may wait; by default once every three.
    """

    attack: Attack
    most: int
    forward: float = 1
    backward: int = 1
    classes: int = 1
    field: str = "steps"
    few: int = 12
    unit: float = 1
    waits: float = 0.34


ATTACKS = {
    "pgd": Case(PGD(**STEP), 3),
    "pgd l2": Case(PGD(**STEP, norm="l2"), 3),
    "pgd l1": Case(PGD(**STEP, norm="l1"), 3),
    "pgd margin": Case(PGD(**STEP, loss="margin"), 3),
    "pgd dlr": Case(PGD(**STEP, loss="dlr"), 3),
    "pgd kl": Case(PGD(**STEP, loss="kl"), 3),
    "pgd spat": Case(PGD(**STEP, loss="spat"), 3),
    "mifgsm": Case(MIFGSM(eps=1e-4, alpha=1e-5), 3),
    "nifgsm": Case(NIFGSM(eps=1e-4, alpha=1e-5), 6),
    "sinifgsm": Case(SINIFGSM(eps=1e-4, alpha=1e-5, scales=2), 12, forward=2, backward=2),
    "vmifgsm": Case(VMIFGSM(**STEP, neighbours=1), 12, forward=2, backward=2),
    "vnifgsm": Case(VNIFGSM(**STEP, neighbours=1), 15, forward=2, backward=2),
    "difgsm": Case(DIFGSM(**STEP, probability=1.0), 15),
    "tifgsm": Case(TIFGSM(**STEP, probability=0.0), 14),
    "tpgd": Case(TPGD(**STEP), 3),
    "eotpgd": Case(EOTPGD(**STEP), 6, forward=2, backward=2),
    "dra": Case(DRA(eps=1e-4), 3),
    "epgd": Case(EPGD(eps=1e-4, alpha=1e-5), 3),
    "friendly": Case(FriendlyPGD(**STEP), 6),
    "friendly omega": Case(FriendlyPGD(**STEP, omega=1e-6), 8),
    "friendly kl": Case(FriendlyPGD(**STEP, loss="kl"), 6),
    "dynamic": Case(DynamicPGD(**STEP, fosc=-1.0), 15),
    "ddn": Case(DDN(), 12),
    "fmn": Case(FMN(), 25),
    "fmn l0": Case(FMN(norm="l0"), 25),
    "fmn l2": Case(FMN(norm="l2"), 25),
    "fmn l1": Case(FMN(norm="l1"), 25),
    "sigmazero": Case(SigmaZero(), 15),
    "pdgd": Case(PDGD(), 35),
    "pdpgd": Case(PDPGD(), 45),
    "pdpgd l2": Case(PDPGD(norm="l2"), 115),
    "alma": Case(ALMA(), 85),
    "alma l1": Case(ALMA(norm="l1"), 80),
    "minimal": Case(Minimal(FGSM(1e-6)), 60, field="searches", few=4, waits=5),
    "cw": Case(CW(initial_const=1e-9, binary_search_steps=1, abort_early=False), 12),
    "cwlinf": Case(CWLinf(initial_const=19.0), 20),
    "ead": Case(EAD(initial_const=1e-9, binary_search_steps=1, abort_early=False), 35, forward=2),
    "apgd": Case(APGD(**SMALL), 12, few=100),
    "apgd dlr": Case(APGD(**SMALL, loss="dlr"), 12, few=100),
    "apgd l1": Case(APGD(**SMALL, norm="l1"), 15, few=100),
    "apgd l2": Case(APGD(**SMALL, norm="l2"), 12, few=100),
    "apgdrounds": Case(APGDRounds(**SMALL), 6000, forward=363, backward=321, field="", waits=150),
    "apgdt": Case(APGDT(**SMALL, targets=1), 15, few=100),
    "fab": Case(FAB(), 5, forward=2, backward=9, classes=9),
    "fabt": Case(FABT(targets=1), 25, forward=2),
    "deepfool": Case(DeepFool(), 6, forward=2, backward=9, classes=9),
    "deepfool original": Case(DeepFool(convention="original"), 6, forward=2, backward=9, classes=9),
    "spsa": Case(SPSA(**SMALL, samples=1), 25, forward=2, backward=0),
    "onepixel": Case(OnePixel(population=4, seed=0), 95, backward=0),
    "pixle": Case(Pixle(steps=1, seed=0), 55, backward=0, field="restarts"),
    "square": Case(Square(**SMALL), 10, backward=0, field="queries"),
    "square l2": Case(Square(**SMALL, norm="l2"), 90, backward=0, field="queries"),
    "square l1": Case(Square(**SMALL, norm="l1"), 80, backward=0, field="queries"),
    "jsma": Case(JSMA(), 90, forward=2, backward=2, field="gamma", few=6, unit=2 / 64, waits=1.34),
    "boundary": Case(Boundary(**STARTS), 60, forward=1.1, backward=0, few=30),
    # A point whose class is asked for, leaps until one succeeds, and 9 halvings of the way back.
    "hopskipjump": Case(HopSkipJump(queries=1, most=1, **STARTS), 330, forward=11, backward=0, few=4, waits=17),
    "anpgd": Case(ANPGD(**SMALL, bisections=0), 3),
    "fgsm": Case(FGSM(eps=1e-4), 30, field="", waits=1),
    "rfgsm": Case(RFGSM(**SMALL), 30, field="", waits=1),
    "noise": Case(Noise(**SMALL), 20, forward=1, backward=0, field="", waits=1),
    "onestep": Case(OneStepTargeted(**SMALL), 30, forward=2, field="", waits=1),
}

OF_OTHERS = {"autoattack": "the lines of its attacks", "multi": "the lines of those it is given"}
"""Attacks without a line."""


class Sure(nn.Module):
    """One layer, sure of class 3: a pass forward is one launch, and one backward to the samples as well."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(64, 10)
        with torch.no_grad():
            self.layer.bias[3] += 100

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(1))


class Half(nn.Module):
    """One layer, of class 3 where the entries of a sample sum to less than 40: `images` do, and `STARTS` do not."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)
        with torch.no_grad():
            self.layer.weight.zero_()
            self.layer.weight[3] -= 1
            self.layer.bias.zero_()
            self.layer.bias[3] += 40

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(1))


def images(count: int) -> tuple[Tensor, Tensor]:
    x = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return 0.25 + 0.5 * x, torch.full((count,), 3)


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Rows that have ended stay in the batch for as long as they do on a GPU."""
    before = dict(_ascend._EVERY)
    _ascend._EVERY["cpu"] = before["cuda"]
    try:
        yield
    finally:
        _ascend._EVERY.update(before)


def counted(run: Callable[[int], Any], few: int) -> dict[str, float]:
    """Launches and waits of one of the `few` more that ``run(2 * few)`` has than ``run(few)``."""
    counts = []
    with as_on_a_gpu():
        run(few)  # what is done once is done
        for number in (few, 2 * few):
            with Counting() as counting:
                run(number)
            counts.append(counting)
    first, second = counts
    return {
        "launches": round((second.total - first.total) / few, 2),
        "waits": round((second.waits - first.waits) / few, 2),
    }


def of_attack(name: str) -> dict[str, float]:
    """Of a step, beyond the network's own passes."""
    case = ATTACKS[name]
    model, (x, y) = Half() if hasattr(case.attack, "starts") else Sure(), images(16)

    def run(steps: int) -> None:
        longer = {case.field: case.unit * steps} if case.field else {}
        for _ in range(1 if case.field else steps):
            dataclasses.replace(case.attack, **longer)(model, x, y)

    found = counted(run, case.few if case.field else 1)
    return found | {"launches": round(found["launches"] - case.forward - case.backward, 2)}


def of_method(name: str) -> dict[str, float]:
    """Of a batch, all of it."""

    def run(batches: int) -> None:
        x, y = images(8 * batches)
        data = Dataset(x, y, tuple("0123456789"))
        fit(Sure(), METHODS[name](), data, epochs=1, batch_size=8, lr=1e-9, seed=0)

    return counted(run, 2)


def table() -> dict[str, dict[str, dict[str, float]]]:
    return yaml.safe_load(TABLE.read_text())


def check(found: dict[str, float], stored: dict[str, float]) -> None:
    for what, number in found.items():
        assert number <= stored[what] + 0.005, f"{what} have grown from {stored[what]} to {number}"


@pytest.mark.parametrize("name", ATTACKS)
def test_no_step_of_an_attack_launches_more_than_it_did(name: str) -> None:
    check(of_attack(name), table()["attacks"][name])


@pytest.mark.parametrize("name", METHODS)
def test_no_batch_of_a_method_launches_more_than_it_did(name: str) -> None:
    check(of_method(name), table()["methods"][name])


@pytest.mark.parametrize("name", ATTACKS)
def test_steps_keep_their_promises(name: str) -> None:
    case, stored = ATTACKS[name], table()["attacks"][name]
    assert stored["launches"] / case.classes <= case.most
    assert stored["waits"] <= case.waits
    if name.split()[0] in ("pgd", "mifgsm", "dra", "epgd", "ddn", "fmn", "sigmazero", "pdgd", "pdpgd", "alma"):
        assert stored["waits"] == 0


def test_every_attack_has_a_line() -> None:
    kinds = {type(case.attack) for case in ATTACKS.values()}
    missing = [name for name, kind in attacks.ATTACKS.items() if kind not in kinds and name not in OF_OTHERS]
    assert not missing, f"add a case for {', '.join(missing)} to ATTACKS, and run python tests/test_launches.py"
    assert [*table()["attacks"]] == [*ATTACKS]
    assert [*table()["methods"]] == [*METHODS]


def test_launches_and_waits_are_seen() -> None:
    x = torch.rand(4, 4)
    with Counting() as counting:
        y = x.view(2, 8)[:1].T  # views
        z = torch.empty_like(y).copy_(y) + 1
        ops.row_norms(x, "l2")
        z.relu_()
        assert bool(z.sum() > 0)  # waits
    once = ("copy_", "add", "row_norms", "relu_", "sum", "gt", "_local_scalar_dense")
    assert counting.launches == dict.fromkeys(once, 1)
    assert counting.waits == 1


if __name__ == "__main__":
    found = {"attacks": {n: of_attack(n) for n in ATTACKS}, "methods": {n: of_method(n) for n in METHODS}}
    TABLE.write_text(
        "# Launches and waits, of a step of an attack beyond the network's passes, and of a batch of a method in all.\n"
        "# Written by python tests/test_launches.py; tests/test_launches.py fails where one grows.\n"
        + yaml.safe_dump(found, sort_keys=False)
    )
