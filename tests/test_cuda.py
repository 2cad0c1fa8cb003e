"""Attacks, methods, evaluations and commands on CUDA, beside the CPU.

The same seeds give the same noise on every device, and `Wavy` computes in double precision: what attacks decide is the
same, and what they find agrees to rounding. Where there is no GPU, `devices.py` has another device for these tests.
"""

import csv
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import devices
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toys import BatchNormNet, InDouble, Wavy, labels, linear, partly_frozen, quick, samples, traces

from fastadv import evaluation
from fastadv.__main__ import main
from fastadv.attacks import (
    ALMA,
    ANPGD,
    APGD,
    APGDT,
    ATTACKS,
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
    AttackResult,
    AutoAttack,
    Boundary,
    CWLinf,
    DeepFool,
    DynamicPGD,
    FriendlyPGD,
    HopSkipJump,
    Minimal,
    MultiAttack,
    Noise,
    OnePixel,
    OneStepTargeted,
    Pixle,
    Rows,
    SigmaZero,
    Square,
    isolated,
)
from fastadv.attacks.pixle import MAPPINGS
from fastadv.data import CropFlip, Dataset, corrupted
from fastadv.evaluation import evaluate
from fastadv.float32 import exact_float32
from fastadv.models import LeNet5
from fastadv.threats import Patch, ThreatModel, Universal
from fastadv.trainers import METHODS, Madry, fit

SHAPE = (3, 4, 4)
STEPS = {"alpha": 0.03, "steps": 4}
FEW = {"steps": 4}
BUDGETS = {"linf": 0.1, "l2": 0.5, "l1": 2.0}
NORMS = tuple(BUDGETS)


def each(kind: type[Attack], norms: tuple[str, ...] = ("linf", "l2"), **options: object) -> list[Attack]:
    return [kind(eps=BUDGETS[norm], norm=norm, **options) for norm in norms]


def of_every_loss(kind: type[PGD]) -> list[Attack]:
    losses = ("margin", "slm", "dlr", "pm", "kl", "spat", "ce")
    return [
        *each(kind, NORMS, **STEPS),
        *(kind(0.1, loss=loss, **STEPS) for loss in losses),
        kind(0.1, loss="ce", targeted=True, **STEPS),
    ]


VARIANTS: dict[str, list[Attack]] = {
    "alma": [ALMA(steps=30), ALMA(steps=30, norm="l1", targeted=True)],
    "anpgd": [*each(ANPGD, longest=0.3, **FEW), ANPGD(0.1, longest=0.3, soft=True, random_start=0.0, **FEW)],
    "apgd": [
        *each(APGD, NORMS, steps=6, restarts=2),
        *each(APGD, loss="dlr", steps=6, eot=2),
        *each(APGD, loss="pm", steps=6),
        *each(APGD, targeted=True, steps=6),
        dataclasses.replace(APGD(0.1, steps=6), eps=torch.linspace(0.05, 0.2, 24, dtype=torch.float64)),
    ],
    "apgdrounds": each(APGDRounds),
    "apgdt": [
        *each(APGDT, NORMS, targets=2, restarts=2, steps=5),
        APGDT(2.0, steps=10, targets=2, norm="l1", large_eps=True),
    ],
    "autoattack": [
        AutoAttack(0.1, "custom", ("apgd-ce",)),
        *each(AutoAttack, NORMS, version="custom", attacks_to_run=("apgd-ce", "fab-t", "apgd-t")),
        AutoAttack(0.1, "custom", ("apgd-dlr", "fab", "square")),
        *(AutoAttack(1.0, version) for version in ("standard", "plus", "rand", "fast")),  # so that all are soon fooled
    ],
    "boundary": [Boundary(30, sphere=0.1), Boundary(20, targeted=True)],
    "cw": [
        CW(steps=10, binary_search_steps=3, initial_const=0.1),
        CW(steps=8, binary_search_steps=3, kappa=0.1, abort_early=False, targeted=True),
    ],
    "cwlinf": [CWLinf(steps=6, initial_const=1.0, decrease=0.8), CWLinf(**FEW, largest_const=0.2, targeted=True)],
    "ddn": [DDN(**FEW), DDN(**FEW, targeted=True)],
    "deepfool": [
        DeepFool(steps=5, norm=norm, convention=convention, candidates=candidates)
        for norm, convention, candidates in (
            ("l2", "cleverhans", 10),
            ("linf", "original", 3),
            ("l2", "original", 2),
            ("l2", "foolbox", 3),
        )
    ],
    "difgsm": [DIFGSM(0.1, resize=r, decay=d, random_start=1 - d, **STEPS) for r, d in ((0.5, 0.0), (0.7, 1.0))]
    + [DIFGSM(0.1, targeted=True, **STEPS)],
    "dra": [DRA(0.1, normalise=n, projection=p) for n, p in (("all", "radial"), ("kept", "simplex"))],
    "dynamic": [
        DynamicPGD(0.1, fosc=0.05, **STEPS),
        DynamicPGD(0.1, fosc=0.05, loss="kl", tau=1, rho=0.1, margin="probability", **STEPS),
    ],
    "ead": [
        EAD(steps=8, binary_search_steps=3, initial_const=0.1),
        EAD(steps=8, binary_search_steps=2, initial_const=0.1, decision="en", abort_early=False, targeted=True),
    ],
    "fmn": [
        *(FMN(steps=60, norm=norm) for norm in ("linf", "l0", "l2")),
        FMN(steps=60, first=0.1, norm="l1"),
        FMN(steps=15, targeted=True),
    ],
    "minimal": [Minimal(APGD(0.05, steps=3), 3), Minimal(PGD(0.5, norm="l1", alpha=0.3, steps=3), 3)],
    "pdgd": [PDGD(**FEW), PDGD(**FEW, targeted=True)],
    "pdpgd": [*(PDPGD(**FEW, norm=norm) for norm in ("l0", *NORMS)), PDPGD(**FEW, targeted=True)],
    "sigmazero": [SigmaZero(**FEW), SigmaZero(**FEW, targeted=True)],
    "eotpgd": of_every_loss(EOTPGD),
    "epgd": [
        *each(EPGD, **FEW),
        EPGD(0.1, bisect="literal", loss="slm", alpha=0.05, **FEW),
        *(EPGD(0.1, loss=loss, **FEW) for loss in ("margin", "dlr", "pm")),
    ],
    "fab": [FAB(steps=3, restarts=2, norm=norm) for norm in NORMS],
    "fabt": [FABT(steps=3, targets=2, norm=norm) for norm in NORMS],
    "fgsm": [FGSM(0.1), FGSM(0.1, targeted=True)],
    "friendly": [
        FriendlyPGD(0.1, tau=torch.arange(24) % 3, omega=0.01, **STEPS),
        FriendlyPGD(0.1, loss="kl", random_start="gaussian", rho=0.1, **STEPS),
        FriendlyPGD(torch.inf, random_start=0.0, rho=0.1, margin="probability", **STEPS),
    ],
    **{
        name: [kind(0.1, **STEPS), kind(0.1, targeted=True, **STEPS)]
        for name, kind in {
            "mifgsm": MIFGSM,
            "nifgsm": NIFGSM,
            "sinifgsm": SINIFGSM,
            "vmifgsm": VMIFGSM,
            "vnifgsm": VNIFGSM,
        }.items()
    },
    "hopskipjump": [*(HopSkipJump(2, 20, norm=norm) for norm in ("l2", "linf")), HopSkipJump(1, 9, targeted=True)],
    "jsma": [JSMA(gamma=0.3), JSMA(-0.4, 0.3, saliency="target"), JSMA(gamma=0.2, targeted=True)],
    "multi": [MultiAttack((FGSM(0.05), Noise(0.1), PGD(0.1, **STEPS)), norm=norm) for norm in NORMS],
    "noise": [Noise(0.1, law=law) for law in ("uniform", "sign", "gaussian")],
    "onepixel": [
        OnePixel(2, 3, 6),
        OnePixel(1, 3, 5, base="best", targeted=True),
    ],
    "onestep": [
        *(OneStepTargeted(0.1, towards=towards) for towards in ("most_confusing", "least_likely", "random", "any")),
        OneStepTargeted(0.1, random_start=False),
    ],
    "pgd": [
        *each(PGD, NORMS, **STEPS),
        *each(PGD, NORMS, restarts=2, **STEPS),
        *(PGD(0.1, loss=loss, **STEPS) for loss in ("margin", "slm", "dlr", "pm", "kl", "spat")),
        PGD(0.1, loss="margin", random_start=0.0, targeted=True, **STEPS),
        PGD(0.1, loss="kl", random_start="gaussian-unclipped", **STEPS),
        PGD(0.1, random_start="gaussian", targeted=True, **STEPS),
    ],
    "pixle": [*(Pixle(2, 3, mapping=mapping) for mapping in MAPPINGS), Pixle(2, 3, targeted=True)],
    "rfgsm": [RFGSM(0.1, 0.05, steps=2), RFGSM(0.1, 0.05, targeted=True)],
    "spsa": [SPSA(0.1, samples=4, lr=0.03, targeted=targeted, **FEW) for targeted in (False, True)],
    "square": [*each(Square, NORMS, queries=40, restarts=2), Square(0.1, queries=40, targeted=True)],
    "tifgsm": [
        *(TIFGSM(0.1, kernel=kernel, length=3, **STEPS) for kernel in ("gaussian", "linear", "uniform")),
        TIFGSM(0.1, probability=0.0, targeted=True, **STEPS),
    ],
    "tpgd": of_every_loss(TPGD),
}
CHOICES = {
    "base": ("random", "best"),
    "bisect": ("true", "literal"),
    "convention": ("cleverhans", "original", "foolbox"),
    "law": ("uniform", "sign", "gaussian"),
    "loss": ("ce", "margin", "slm", "dlr", "pm", "kl", "spat"),
    "mapping": MAPPINGS,
    "margin": ("loss", "probability"),
    "norm": NORMS,
    "normalise": ("all", "kept"),
    "projection": ("radial", "simplex"),
    "saliency": ("pair", "target"),
    "soft": (False, True),
    "targeted": (False, True),
    "towards": ("most_confusing", "least_likely", "random", "any"),
    "version": ("standard", "plus", "rand"),
}
"""Options that other code is behind, and what they may be."""


def name_of(attack: Attack) -> str:
    options = {f.name: getattr(attack, f.name) for f in dataclasses.fields(attack)}
    marks = [str(value) for name, value in options.items() if name in CHOICES and isinstance(value, str)]
    return "-".join([type(attack).__name__, *marks, *["targeted"] * attack.targeted])


every = pytest.mark.parametrize("attack", [a for some in VARIANTS.values() for a in some], ids=name_of)
first = pytest.mark.parametrize("attack", [pytest.param(some[0], id=name) for name, some in VARIANTS.items()])


@pytest.fixture
def device() -> Iterator[torch.device]:
    with devices.device() as it, exact_float32():
        yield it


def test_every_choice_has_a_variant() -> None:
    assert VARIANTS.keys() == ATTACKS.keys()
    for name, some in VARIANTS.items():
        assert {type(attack) for attack in some} == {ATTACKS[name]}
        for option in CHOICES.keys() & {f.name for f in dataclasses.fields(ATTACKS[name])}:
            for value in CHOICES[option]:
                try:
                    dataclasses.replace(some[0], **{option: value})
                except ValueError:  # the attack does not know it
                    continue
                assert value in [getattr(attack, option) for attack in some], (name, option, value)


def test_tensors_of_two_devices_do_not_meet(device: torch.device) -> None:
    with pytest.raises(RuntimeError, match="same device"):
        torch.ones(3, device=device) + torch.ones(3)
    assert (torch.ones(3, device=device) + torch.tensor(1.0)).tolist() == [2, 2, 2]


@pytest.mark.parametrize(
    "waits",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).all()),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: x + torch.ones(3).to(x.device),
        lambda x: x.copy_(torch.ones(3)),
        lambda x: x[x > 0],
        lambda x: (x > 0).nonzero(),
    ],
)
def test_what_waits_is_refused(waits: Callable[[Tensor], object], device: torch.device) -> None:
    x = torch.ones(3, device=device)
    waits(x)
    with devices.waiting_refused():
        x[x > 0] = 0
        x[:2] += torch.full_like(x, 3)[1:]
        with pytest.raises(RuntimeError):
            waits(x)


# ------------------------------------------------------------------------------------------------------------ attacks


def compare(found: AttackResult, expected: AttackResult, device: torch.device, close: float, share: float = 1) -> None:
    """At least a `share` of the samples has come to the same, to `close`, in the same place."""
    same = torch.ones(len(expected.success), dtype=torch.bool)
    for item in dataclasses.fields(AttackResult):
        value, other = getattr(found, item.name), getattr(expected, item.name)
        assert value.device == device
        assert value.dtype == other.dtype
        apart = (value.cpu().double() - other.double()).flatten(1).abs() if other.dim() > 1 else None
        apart = (value.cpu().double() - other.double()).abs() if apart is None else apart.amax(1)
        same &= ~(apart > close)  # infinity less infinity is NaN
    assert same.double().mean() >= share, same


def to(device: torch.device, attack: Attack) -> Attack:
    """With its own numbers for samples there."""
    moved = {f.name: getattr(attack, f.name) for f in dataclasses.fields(attack)}
    return dataclasses.replace(attack, **{k: v.to(device) for k, v in moved.items() if isinstance(v, Tensor)})


@every
@pytest.mark.parametrize("dtype", quick([torch.float64, torch.float32], torch.float64))
def test_attacks_agree_with_the_cpu(attack: Attack, dtype: torch.dtype, device: torch.device) -> None:
    """In float32, norms are summed in another order and rounded: a sample near a decision may go another way."""
    attack, x, y = attack.seeded(5), samples(24, *SHAPE, dtype=dtype), labels(24, 5)
    expected = attack.run(Wavy(48, 5), x, y)
    found = to(device, attack).run(Wavy(48, 5).to(device), x.to(device), y.to(device))
    compare(found, expected, device, *((1e-8, 1) if dtype == torch.float64 else (1e-5, 0.9)))
    assert (expected.norm > 0).any()


MASK = torch.eye(4)[None] + torch.zeros(24, 1, 4, 4)


@pytest.mark.parametrize(
    "attack",
    [
        ThreatModel(PGD(0.1, **STEPS), mask=MASK, quantise=True),
        ThreatModel(DeepFool(steps=5), mask=MASK[0], ranges=((0.0, -1.0, 0.0), (1.0, 1.0, 2.0)), samples=2),
        ThreatModel(APGD(0.1, steps=6), shares=(1, 0.5, 0.25)),
        ThreatModel(Square(0.1, queries=20), mask=MASK[0, 0], shares=torch.tensor([1, 0.5, 0.25]).view(3, 1, 1)),
        Universal(0.1 * torch.eye(4).expand(SHAPE), 0.1),
        Patch(torch.eye(5).expand(3, 5, 5), (0.5, 0.8)),
    ],
    ids=["mask", "ranges", "shares", "square", "universal", "patch"],
)
def test_threat_models_agree_with_the_cpu(attack: Attack, device: torch.device) -> None:
    attack, x, y = attack.seeded(5), (255 * samples(24, *SHAPE, dtype=torch.float64)).round() / 255, labels(24, 5)
    expected = attack.run(Wavy(48, 5), x, y)
    compare(attack.run(Wavy(48, 5).to(device), x.to(device), y.to(device)), expected, device, 1e-6)
    assert (expected.norm > 0).any()


def test_universal_perturbations_and_patches_are_found_as_on_the_cpu(device: torch.device) -> None:
    model, x, y = Wavy(48, 5), samples(24, *SHAPE), labels(24, 5)
    for kind in (Universal, Patch):
        expected = kind.fit(model, [(x, y)], epochs=2)
        found = kind.fit(Wavy(48, 5).to(device), [(x, y)], epochs=2)  # which takes the batches there
        one, other = (each.delta if kind is Universal else each.image for each in (found, expected))
        assert one.device == device
        torch.testing.assert_close(one.cpu(), other, atol=1e-5, rtol=0)


@pytest.mark.parametrize("attack", [Noise(0.1), Noise(0.1, law="sign"), Square(0.1, queries=20)], ids=name_of)
def test_noise_is_the_same_to_the_bit(attack: Attack, device: torch.device) -> None:
    x, y = samples(24, *SHAPE), labels(24, 5)
    found = attack.seeded(3)(Wavy(48, 5).to(device), x.to(device), y.to(device))
    assert torch.equal(found.cpu(), attack.seeded(3)(Wavy(48, 5), x, y))


@first
def test_results_do_not_depend_on_the_batch(attack: Attack, device: torch.device) -> None:
    attack, x, y = attack.seeded(1), samples(24, *SHAPE).to(device), labels(24, 5).to(device)
    model, ids = Wavy(48, 5).to(device), torch.arange(24, device=device)
    if isinstance(getattr(attack, "tau", 0), Tensor):
        attack = dataclasses.replace(attack, tau=1)
    whole = attack.run(model, x, y, ids)
    for part in (slice(0, 1), slice(1, 18), slice(18, 24)):
        found = attack.run(model, x[part], y[part], ids[part])
        for item in dataclasses.fields(AttackResult):
            one, other = getattr(found, item.name), getattr(whole, item.name)[part]
            assert torch.equal(one.cpu(), other.cpu()), item.name


def states() -> list[object]:
    """Of the random generators of the GPU."""
    return [torch.cuda.get_rng_state().tolist()] if devices.NAME == "cuda" else []


@first
@pytest.mark.parametrize("fails_at", [None, 1])
def test_attacks_leave_no_trace(attack: Attack, fails_at: int | None, device: torch.device) -> None:
    attack, x, y = attack.seeded(1), samples(24, 3, 6, 6).to(device), labels(24, 5).to(device)
    model = partly_frozen(BatchNormNet(fails_at=fails_at).to(device))
    before = traces(model, x), states()
    if fails_at and not isinstance(attack, Noise):
        with pytest.raises(RuntimeError, match="out of memory"):
            to(device, attack)(model, x, y)
    else:
        to(device, attack)(model, x, y)
    assert (traces(model, x), states()) == before


FIXED = [
    FGSM(0.1, targeted=True),
    RFGSM(0.1, 0.05, steps=2),
    *(kind(0.1, **STEPS) for kind in (MIFGSM, NIFGSM, SINIFGSM, VMIFGSM, VNIFGSM, DIFGSM, TIFGSM, TPGD, EOTPGD)),
    SPSA(0.1, samples=4, **FEW),
    DRA(0.1),
    Noise(0.1),
    OneStepTargeted(0.1),
    OneStepTargeted(0.1, towards="random"),
    *each(PGD, NORMS, **STEPS),
    *(PGD(0.1, loss=loss, **STEPS) for loss in ("margin", "slm", "dlr", "pm", "kl", "spat")),
    PGD(0.1, loss="kl", random_start="gaussian-unclipped", **STEPS),
    ANPGD(0.1, longest=0.3, **FEW),
]
"""All samples make all steps: nothing depends on values."""


@pytest.mark.parametrize("attack", FIXED, ids=name_of)
@pytest.mark.parametrize("network", [lambda: Wavy(108, 5), BatchNormNet], ids=["wavy", "batch norm"])
def test_attacks_of_fixed_length_never_wait(attack, network, device: torch.device) -> None:
    model, x, y = network().to(device), samples(24, 3, 6, 6).to(device), labels(24, 5).to(device)
    attack(model, x, y)  # libraries wait when they begin
    with isolated(model):
        rows = Rows(model, *attack._checked(x, y, None), attack.targeted)
        with devices.waiting_refused():
            attack.seeded(0).perturb(rows)
    assert not torch.equal(rows.x_adv.cpu(), x.cpu())


def test_windows_of_square_are_copied_once(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """A query waits for nothing but the mask of the samples that go on."""
    model, x, y = Wavy(108, 5).to(device), samples(24, 3, 6, 6).to(device), labels(24, 5).to(device)

    def ascend(attack: Square, rows: Rows, queries: int, step: Callable[[Rows, int], Tensor], active: Tensor) -> None:
        for number in range(1, queries // 2 + 1):  # the first takes the table of numbers
            step(rows, number)
        with devices.waiting_refused():
            for number in range(queries // 2 + 1, queries + 1):
                step(rows, number)

    monkeypatch.setattr("fastadv.attacks.square.ascend", ascend)
    for attack in each(Square, queries=20, p=0.05):  # all windows of one size
        attack.seeded(3)(model, x, y)


# -------------------------------------------------------------------------------------------------------------- models


class Recurrent(nn.Module):
    """Rows of an image are a sequence; two layers, with dropout between them."""

    def __init__(self, kind: type[nn.RNNBase]):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.rnn = kind(6, 16, 2, batch_first=True, dropout=0.5, bidirectional=True)
            self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x.flatten(1, 2))[0][:, -1])


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    "attack",
    [PGD(0.3, 0.1, 5), DeepFool(steps=2), APGD(0.3, steps=4)],
    ids=name_of,
)
def test_recurrent_networks(kind, attack: Attack, training: bool, device: torch.device) -> None:
    """Attacks see the network without dropout, and leave its modes as they were."""
    x, y, model = samples(16, 3, 6, 6), labels(16, 5), Recurrent(kind).train(training)
    attack, moved = attack.seeded(0), Recurrent(kind).train(training).to(device)
    before = traces(moved)
    found = attack.run(moved, x.to(device), y.to(device))
    assert traces(moved) == before
    assert moved.rnn.dropout == 0.5
    compare(found, attack.run(model, x, y), device, 1e-4, 0.8)
    again = attack.run(moved, x.to(device), y.to(device))
    assert torch.equal(found.x_adv.cpu(), again.x_adv.cpu()) or devices.NAME == "cuda"
    with torch.no_grad():
        same = found.target.cpu() == model.eval()(found.x_adv.cpu()).argmax(1)
    assert same.double().mean() > (0.8 if devices.NAME == "cuda" else 0.99)  # cuDNN rounds otherwise


@first
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_networks(attack: Attack, dtype: torch.dtype, device: torch.device) -> None:
    x, y, model = samples(24, 3, 6, 6).to(device, dtype), labels(24, 5).to(device), BatchNormNet()
    model[8].weight.data *= 20  # so that some attack of several succeeds
    found = to(device, attack.seeded(0)).run(model.to(device, dtype), x, y)
    assert found.x_adv.dtype == dtype
    assert 0 <= found.x_adv.min() < found.x_adv.max() <= 1
    assert found.norm.max() > 0


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("attack", [PGD(0.1, 0.02, 5), DeepFool(steps=3), Square(0.1, queries=20)], ids=name_of)
def test_networks_with_batch_norm_and_dropout(attack: Attack, layout, device: torch.device) -> None:
    x, y, model = samples(24, 3, 6, 6).contiguous(memory_format=layout), labels(24, 5), InDouble(BatchNormNet())
    attack, moved = attack.seeded(0), InDouble(BatchNormNet()).to(device, memory_format=layout)
    compare(attack.run(moved, x.to(device), y.to(device)), attack.run(model, x, y), device, 1e-5)


# ------------------------------------------------------------------------------------------------------------ training


def grey(n: int = 24, classes: int = 10) -> Dataset:
    return Dataset(samples(n, 1, 28, 28), labels(n, classes), classes=tuple("abcdefghij"[:classes]))


def lenet() -> LeNet5:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LeNet5()


def bits(model: nn.Module) -> Tensor:
    return torch.cat([value.flatten().double().cpu() for value in model.state_dict().values()])


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_as_on_the_cpu(method: str, device: torch.device) -> None:
    """In double precision: what methods decide about samples is the same, and the weights agree to rounding."""
    model, other = InDouble(lenet()).to(device), InDouble(lenet())
    how = {"epochs": 1, "batch_size": 12, "optimizer": "sgd", "lr": 0.01}
    (row,) = fit(model, METHODS[method](), grey(), **how)
    (expected,) = fit(other, METHODS[method](), grey(), **how)
    assert {p.device for p in model.parameters()} == {device}
    torch.testing.assert_close(bits(model), bits(other), rtol=1e-4, atol=1e-6)
    for figure in expected.keys() - {"seconds", "images_per_second"}:
        assert row[figure] == pytest.approx(expected[figure], rel=1e-3, abs=1e-4, nan_ok=True), figure


@pytest.mark.parametrize("settings", [{"ema": 0.9}, {"clip": 0.1}, {"awp": 0.01}, {"memory_format": "channels_last"}])
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_options_of_training(settings: dict, optimizer: str, device: torch.device) -> None:
    model, other = InDouble(lenet()).to(device), InDouble(lenet())
    for each in (model, other):
        how = {"epochs": 1, "batch_size": 12, "optimizer": optimizer, "lr": 0.001}
        fit(each, Madry(attack=PGD(0.1, 0.05, 2)), grey(), augment=CropFlip(), **how, **settings)
    torch.testing.assert_close(bits(model), bits(other), rtol=1e-3, atol=1e-5)


def test_training_goes_on_where_it_stopped(device: torch.device) -> None:
    """To the bits, dropout's draws on the device included, or, on CUDA, as near as its convolutions are."""

    def run(**more: object) -> tuple[Tensor, list[dict]]:
        model, saved = nn.Sequential(nn.Dropout(0.5), linear(784, 10)).to(device), []
        fit(model, Madry(attack=FGSM(0.1)), grey(), epochs=2, batch_size=10, on_save=saved.append, **more)
        return bits(model), saved

    torch.manual_seed(1)
    whole, saved = run()
    torch.manual_seed(2)
    torch.testing.assert_close(run(resume=saved[0])[0], whole, rtol=1e-6, atol=1e-7)
    assert all(value.device.type == "cpu" for value in saved[0]["state"].values())


@pytest.mark.skipif(devices.NAME != "cuda", reason="no CUDA device: only CUDA has autocast here")
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_in_fewer_bits(method: str, precision: str, device: torch.device) -> None:
    (row,) = fit(lenet().to(device), METHODS[method](), grey(), epochs=1, batch_size=12, precision=precision)
    (exact,) = fit(lenet().to(device), METHODS[method](), grey(), epochs=1, batch_size=12)
    assert row["loss"] == pytest.approx(exact["loss"], rel=0.05)


# ---------------------------------------------------------------------------------------------------------- evaluation

PLANNED = {
    "fgsm": FGSM(0.02),
    "pgd": PGD(0.02, 0.005, 5),
    "deepfool": DeepFool(steps=5),
    "square": Square(0.02, queries=20),
    "dra": DRA(0.02),
}


def wavy(n: int = 60, seed: int = 2) -> tuple[Wavy, Dataset]:
    """A network, and samples three quarters of which it classifies correctly."""
    model, x = Wavy(48, 5, seed), samples(n, *SHAPE)
    y = model(x).argmax(1)
    y[::4] = labels(len(y[::4]), 5)
    return model, Dataset(x, y, classes=tuple("abcde"))


@pytest.mark.parametrize("label", quick(["true", "pred"], "true"))
@pytest.mark.parametrize("transferred", quick([False, True], True))
def test_evaluate(label: str, transferred: bool, device: torch.device) -> None:
    model, data = wavy()
    source = wavy(seed=3)[0] if transferred else None
    how = {"label": label, "batch_size": 25, "checks": 20, "train": data.take(20)}
    expected = evaluate(model, data, PLANNED, source=source, **how)
    before = traces(model.to(device)), states()
    found = evaluate(model, data, PLANNED, source=source and source.to(device), **how)
    assert (traces(model), states()) == before
    assert torch.equal(found.natural.right, expected.natural.right)
    assert [each.check for each in found.findings] == [each.check for each in expected.findings]
    for name, result in expected.results.items():
        assert torch.equal(found.results[name].right, result.right), name
        assert torch.equal(found.results[name].grads, result.grads), name
        torch.testing.assert_close(found.results[name].sizes, result.sizes, rtol=1e-4, atol=1e-6)
        if result.curve:
            assert found.results[name].curve.average(1) == pytest.approx(result.curve.average(1), rel=1e-4)


def plainly(value: object) -> object:
    """Tensors as numbers; what is made of others, as those."""
    if isinstance(value, Tensor):
        return value.double().cpu().numpy()
    if dataclasses.is_dataclass(value):
        return {f.name: plainly(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: plainly(each) for key, each in value.items()}
    return [plainly(each) for each in value] if isinstance(value, list | tuple) else value


def assert_alike(found: object, expected: object) -> None:
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        found, expected = list(found.values()), list(expected.values())
    if isinstance(expected, list):
        for one, other in zip(found, expected, strict=True):
            assert_alike(one, other)
    elif isinstance(expected, np.ndarray):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    else:
        assert found == (pytest.approx(expected, rel=1e-4, nan_ok=True) if isinstance(expected, float) else expected)


def curve(model: nn.Module, data: Dataset) -> object:
    moved = data.to(next(model.parameters()).device)
    return evaluation.radial_curve(model, moved.x, DeepFool(steps=3)(model, moved.x), moved.y)


def projected(model: nn.Module, data: Dataset) -> object:
    found = evaluation.features(model, data, {"fgsm": FGSM(0.05)}, ["0"])
    return {kind: points.abs() for kind, points in evaluation.project(found.outputs["0"], "pca").items()}


def claims(model: nn.Module, data: Dataset) -> object:
    with TemporaryDirectory() as folder:
        place = Path(folder, "saved")
        evaluate(model, data, {"pgd": PLANNED["pgd"]}, save=evaluation.SampleFolder(place))
        return evaluation.verify(place, model)


MEASURED: dict[str, Callable[[nn.Module, Dataset], object]] = {
    "anytime": lambda model, data: [
        (name, found.results["autoattack"].right)
        for name, found in evaluation.anytime(model, data, AutoAttack(0.02, "custom", ("apgd-ce", "fab-t")))
    ],
    "calibrated": lambda model, data: evaluation.calibrated(model, data, DRA(0.02), PGD(0.02, 0.005, 5)),
    "certify": lambda model, data: [
        evaluation.certify(model, data.take(6), method)
        for method in (evaluation.IntervalBounds("l2"), evaluation.RandomizedSmoothing(sigma=0.02, n0=2, n=8))
    ],
    "corruption_accuracy": lambda model, data: evaluation.corruption_accuracy(
        model, [(name, 3, corrupted(data, name, 3, 0)) for name in ("gaussian_noise", "brightness")], data
    ),
    "features": lambda model, data: evaluation.features(model, data, {"pgd": PLANNED["pgd"]}, ["0", "1"]),
    "gradient_norms": lambda model, data: evaluation.gradient_norms(model, data),
    "landing": lambda model, data: evaluation.landing(model, data, PLANNED["pgd"], seed=1),
    "project": projected,
    "radial_curve": curve,
    "swept_curve": lambda model, data: evaluation.swept_curve(model, data, PLANNED["pgd"], [0.01, 0.03]),
    "transfer": lambda model, data: evaluation.transfer(
        {"one": model, "other": InDouble(linear(432, 5, seed=3)).to(next(model.parameters()).device)},
        data,
        {"pgd": PLANNED["pgd"]},
    ),
    "verify": claims,
    "weight_norms": lambda model, data: evaluation.weight_norms(model[1], data.classes),
}
"""What `fastadv.evaluation` measures; `evaluate` has a test of its own."""


def test_every_evaluation_is_measured() -> None:
    offered = {name for name in evaluation.__all__ if callable(getattr(evaluation, name)) and name.islower()}
    parts = {"check_mixable", "evaluate", "fitted", "last_layers", "layer_outputs", "mixing", "open_saved", "reducer"}
    ranks = {"area", "ask", "contestants", "optimality", "pointwise_best", "robust_accuracy", "searched", "standings"}
    assert offered == MEASURED.keys() | parts | ranks | {"concluded", "crosscheck", "plan_crosscheck", "wilson"}


class Doubled(nn.Sequential):
    """Two layers in double precision, of samples (3, 12, 12)."""

    def __init__(self):
        super().__init__(nn.Flatten(), linear(432, 5, torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.double())


@pytest.mark.parametrize("name", MEASURED)
def test_evaluations_agree_with_the_cpu(name: str, device: torch.device) -> None:
    model, x = Doubled(), samples(60, 3, 12, 12)
    y = model(x).argmax(1)
    y[::4] = labels(15, 5)
    data = Dataset(x, y, classes=tuple("abcde"))
    expected = plainly(MEASURED[name](model, data))
    assert_alike(plainly(MEASURED[name](model.to(device), data)), expected)


# ------------------------------------------------------------------------------------------------------------ commands


@pytest.fixture
def data(tmp_path: Path) -> str:
    arrays = {"x_train": samples(40, 1, 28, 28), "x_test": samples(20, 1, 28, 28, seed=1)}
    arrays |= {"y_train": labels(40, 3), "y_test": labels(20, 3, seed=1)}
    np.savez(tmp_path / "grey.npz", **{name: tensor.numpy() for name, tensor in arrays.items()})
    return str(tmp_path / "grey.npz")


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.mark.thorough
def test_commands(data: str, tmp_path: Path, device: torch.device) -> None:
    pytest.importorskip("sklearn", reason="outputs are reduced by scikit-learn")
    run, other = tmp_path / "run", tmp_path / "other"
    flags = ["--data", data, "--device", str(device)]
    test = ["--test.attacks", "fgsm,pgd,deepfool"]
    train = ["--epochs", "2", "--held-out", "10", "--batch-size", "16", "--attack.steps", "2"]
    assert main(["train", "madry", *flags, *train, *test, "--out", str(run)]) == 0
    assert main(["train", "madry", *flags, *train, *test, "--seed", "1", "--out", str(other)]) == 0
    assert main(["train", "madry", *flags, *train, *test, "--out", str(run), "--resume", "auto"]) == 0
    where = ["--device", str(device), "--limit", "12"]
    more = ["--attacks", "pgd,apgd", "--sweep", "0.05,0.1", "--steps", "2,3", "--at-once", "auto"]
    assert main(["evaluate", str(run), *where, *more, "--out", str(tmp_path / "evaluated")]) == 0
    assert len(table(tmp_path / "evaluated" / "attacks.csv")) == 4  # clean and worst, too
    models = [str(run), str(other)]
    assert main(["transfer", *models, *where, "--attacks", "pgd", "--out", str(tmp_path / "transferred")]) == 0
    assert main(["features", str(run), *where, "--reduction", "pca", "--out", str(tmp_path / "features")]) == 0
    assert main(["landing", str(run), *where, "--out", str(tmp_path / "landing")]) == 0
    for command in ("patch", "universal"):
        assert main([command, str(run), *where, "--epochs", "1", "--out", str(tmp_path / command)]) == 0
    few = ["--corruptions", "gaussian_noise,fog", "--severities", "1,5"]
    assert main(["corruptions", str(run), *where, *few, "--out", str(tmp_path / "corruptions")]) == 0


@pytest.mark.thorough
@pytest.mark.parametrize(
    "where", ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(devices.NAME != "cuda", reason="no CUDA device"))]
)
def test_commands_that_start_processes(data: str, where: str, tmp_path: Path) -> None:
    quickly = ["--device", where, "--epochs", "1"]
    both = ["compare", "standard", "fgsm", "--data", data, *quickly, "--at-a-time", "2"]
    assert main([*both, "--attacks", "fgsm,pgd", "--out", str(tmp_path / "compared")]) == 0
    assert len(table(tmp_path / "compared" / "table.csv")) == 2
