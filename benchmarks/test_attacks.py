"""Each attack beside the same attack of other libraries, with the same settings, on trained networks.

Every side runs on a network that counts its passes. After the first run of each, what it found is looked at: fastadv's
attack has to be as strong as each other to within a point of accuracy, with perturbations no larger. Then they are
timed again, by turns. ``tuned`` is fastadv with the memory format that `attacks.tuned` finds fastest. `make bench`
prints the table (benchmarks/table.py): times as ratios, passes, quality.
"""

import math
from collections import deque
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from fastadv import attacks, ops

from . import models
from .peers import (
    Prepare,
    adv_lib,
    art,
    auto_attack,
    early_stop_as_published,
    epgd_as_printed,
    foolbox,
    passes,
    torchattacks,
)
from .timing import DEVICE, Counted, Timed, peak_memory

# Peers use what Python and NumPy are about to remove.
pytestmark = pytest.mark.filterwarnings("ignore")

SECONDS = 15.0  # for the rounds of one comparison, beyond the first two
SHORT = 10.0 if DEVICE == "cpu" else math.inf  # seconds: notes of every tensor of longer ones would fill the memory
POINT = 0.01  # of accuracy, by which sides may differ
LARGER = 1.05  # by which a perturbation may be larger than another library's

LENET, ROBUST, SMALL, RESNET = models.NETWORKS
OF_RESNET = {"PGD-10": 64, "EPGD-20-10": 64}  # samples on a CPU, or 16: a case's own would take minutes

# Everything starts at x: libraries draw other random numbers, and would find other samples.
EPS, ALPHA = 0.1, 0.025
EPS_L2, ALPHA_L2 = 1.5, 0.375


@dataclass(frozen=True)
class Case:
    """An attack of fastadv with its options, on which networks, and the other sides.

    `norm` is what perturbations are compared in. `same`: all sides compute the same thing, so that none may be stronger
    or weaker; otherwise fastadv's may not be weaker. `bf16`: one side has its gradients in that.
    """

    attack: str
    options: dict[str, object]
    networks: tuple[str, ...]
    sides: dict[str, Prepare]
    norm: str = "linf"
    samples: int = 128
    same: bool = True
    bf16: bool = False


PGD = {"eps": EPS, "alpha": ALPHA, "steps": 10}
CW = {"binary_search_steps": 5, "initial_const": 0.01}

CASES = {
    "PGD-10": Case(
        "PGD",
        {**PGD, "random_start": 0.0},
        (LENET, ROBUST, SMALL, RESNET),
        {
            "bound": passes(10),
            "torchattacks": torchattacks("PGD", **PGD, random_start=False),
            "foolbox": foolbox("LinfPGD", EPS, abs_stepsize=ALPHA, steps=10, random_start=False),
            "adv-lib": adv_lib("pgd_linf", ε=EPS, absolute_step_size=ALPHA, steps=10, random_init=False),
            "ART": art("ProjectedGradientDescentPyTorch", eps=EPS, eps_step=ALPHA, max_iter=10),
        },
        bf16=True,
    ),
    "PGD-10 L2": Case(
        "PGD",
        {"eps": EPS_L2, "alpha": ALPHA_L2, "steps": 10, "random_start": 0.0, "norm": "l2"},
        (ROBUST, SMALL),
        {
            "bound": passes(10),
            "torchattacks": torchattacks("PGDL2", eps=EPS_L2, alpha=ALPHA_L2, steps=10, random_start=False),
            "foolbox": foolbox("L2PGD", EPS_L2, abs_stepsize=ALPHA_L2, steps=10, random_start=False),
            "ART": art("ProjectedGradientDescentPyTorch", norm=2, eps=EPS_L2, eps_step=ALPHA_L2, max_iter=10),
        },
        norm="l2",
    ),
    "MIFGSM-10": Case(
        "MIFGSM",
        {**PGD, "decay": 1.0},
        (ROBUST, SMALL),
        {
            "bound": passes(10),
            "torchattacks": torchattacks("MIFGSM", **PGD, decay=1.0),
            "ART": art("MomentumIterativeMethod", eps=EPS, eps_step=ALPHA, decay=1.0, max_iter=10),
        },
    ),
    "DeepFool-10": Case(
        "DeepFool",
        {"steps": 10, "overshoot": 0.02, "candidates": 10},
        (LENET, SMALL, RESNET),
        {
            "torchattacks": torchattacks("DeepFool", steps=10, overshoot=0.02),
            "foolbox": foolbox("L2DeepFoolAttack", steps=10, candidates=10, overshoot=0.02),
            "adv-lib": adv_lib("df", steps=10, overshoot=0.02, return_unsuccessful=True),
            "ART": art("DeepFool", max_iter=10, epsilon=0.02, nb_grads=10),
        },
        norm="l2",
        same=False,
    ),
    "DDN-20": Case(
        "DDN",
        {"steps": 20},
        (LENET, ROBUST, SMALL),
        {"foolbox": foolbox("DDNAttack", steps=20), "adv-lib": adv_lib("ddn", steps=20, levels=None)},
        norm="l2",
        same=False,  # fastadv's looks at the last point too
    ),
    "PGD-10-0": Case(
        "FriendlyPGD",
        {**PGD, "tau": 0, "random_start": 0.0},
        (LENET, ROBUST, SMALL, RESNET),
        {"as published": early_stop_as_published(EPS, ALPHA, steps=10)},
    ),
    "EPGD-20-10": Case(
        "EPGD",
        {"eps": EPS, "steps": 20, "bisections": 10},
        (LENET, ROBUST, SMALL, RESNET),
        {"as published": epgd_as_printed(EPS, 4 * EPS / 20, steps=20, bisections=10)},
    ),
    "C&W 5x100": Case(
        "CW",
        {**CW, "steps": 100, "lr": 0.01, "kappa": 0.0},
        (LENET, SMALL),
        {
            "foolbox": foolbox("L2CarliniWagnerAttack", **CW, steps=100, stepsize=0.01),
            "adv-lib": adv_lib("carlini_wagner_l2", **CW, max_iterations=100, learning_rate=0.01),
        },
        norm="l2",
        samples=32,
        same=False,
    ),
    **{
        name: Case(attack, options, networks, {"auto-attack": auto_attack(EPS, *parts)}, same=False)
        for name, attack, options, parts, networks in (
            ("APGD-CE", "APGD", {"eps": EPS}, ["apgd-ce"], (LENET, ROBUST, SMALL)),
            ("APGD-T", "APGDT", {"eps": EPS}, ["apgd-t"], (ROBUST,)),
            ("FAB-T", "FABT", {}, ["fab-t"], (ROBUST,)),
            ("Square", "Square", {"eps": EPS}, ["square"], (ROBUST,)),
            ("AutoAttack", "AutoAttack", {"eps": EPS}, [], (ROBUST,)),
        )
    },
}


@dataclass(frozen=True)
class Found:
    """What a side found: which samples it fooled the model on, and how far all of them have moved."""

    fooled: Tensor
    size: Tensor

    @property
    def accuracy(self) -> float:
        return 1 - float(self.fooled.float().mean())

    def norm(self, among: Tensor | None = None) -> float:
        """The median size among those fooled, or all if there are none: EPGD stops before the boundary."""
        among = self.fooled if among is None else self.fooled & among
        return float(self.size[among if among.any() else slice(None)].median())


def examined(case: Case, model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor) -> Found:
    with torch.no_grad():
        found = Found(model(x_adv).argmax(dim=1) != y, ops.row_norms(x_adv, case.norm, x))
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    assert "eps" not in case.options or found.size.max() <= 1.0001 * case.options["eps"]
    return found


def assert_as_good(case: Case, own: Found, other: Found) -> None:
    tolerance = max(POINT, 2.5 / len(own.fooled))  # a point, or two samples, which rounding decides about
    assert own.accuracy <= other.accuracy + tolerance
    assert not case.same or other.accuracy <= own.accuracy + tolerance
    if case.same or "eps" not in case.options:  # within a budget, size is not what is looked for
        assert own.norm(other.fooled) <= LARGER * other.norm(own.fooled)


@pytest.mark.parametrize(
    ("name", "network"), [(name, network) for name, case in CASES.items() for network in case.networks]
)
def test_attack(name: str, network: str, benchmark) -> None:
    case = CASES[name]
    samples = OF_RESNET.get(name, 16) if network == RESNET and DEVICE == "cpu" else case.samples
    model = models.trained(network)
    x, y = models.classified(network, samples)
    own = getattr(attacks, case.attack)(**case.options)
    prepares = {
        "fastadv": lambda model: partial(own, model),
        "tuned": lambda model: partial(own, attacks.tuned(model, x)),
        **({"tuned, bf16": lambda model: partial(own, attacks.tuned(model, x, bf16=True))} if case.bf16 else {}),
        **case.sides,
    }

    sides: dict[str, dict[str, object]] = {}
    timed: dict[str, Timed] = {}
    found: dict[str, Found] = {}
    for side, prepare in prepares.items():
        counted = Counted(model).eval()
        try:
            attack = prepare(counted)
        except Exception as error:  # a library fails on import with whatever it meets
            sides[side] = {"skipped": f"{type(error).__name__}: {error}".splitlines()[0]}
            continue
        counted.forwards = counted.backwards = 0  # without those that measured which way is fastest
        timed[side] = Timed(partial(attack, x, y))
        x_adv = timed[side]().detach()
        sides[side] = {"forwards": counted.forwards / len(x), "gradients": counted.backwards / len(x)}
        if side != "bound":
            found[side] = examined(case, model, x, y, x_adv)
            assert_as_good(case, found["fastadv"], found[side])
            sides[side] |= {"accuracy": found[side].accuracy, "norm": found[side].norm()}

    first = {side: one.median() for side, one in timed.items()}
    slow = max(SECONDS, 5 * first["fastadv"])  # once is enough to know the ratio
    order = deque(one for side, one in timed.items() if side != "fastadv" and first[side] <= slow)

    def others() -> None:
        for one in order:
            one()
        order.rotate()  # nobody always follows the same one, and what it leaves in the caches

    rounds = max(1, min(20, int(SECONDS / sum(first.values()))))
    benchmark.pedantic(timed["fastadv"], setup=others, rounds=rounds)
    for side, one in timed.items():
        sides[side] |= {"seconds": one.median(), "rounds": len(one.seconds)}
        if one.median() <= SHORT:
            sides[side]["peak"] = peak_memory(one.call) / 1e6
    info = {"attack": name, "network": network, "data": models.data("test").name, "samples": len(x), "sides": sides}
    benchmark.extra_info |= info
