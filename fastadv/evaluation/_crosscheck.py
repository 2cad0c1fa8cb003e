"""The same attack with the same settings in several libraries, compared sample by sample."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..attacks import (
    ALMA,
    APGD,
    APGDT,
    CW,
    DDN,
    EAD,
    FAB,
    FGSM,
    FMN,
    PDGD,
    PDPGD,
    PGD,
    Attack,
    DeepFool,
    Model,
    SigmaZero,
    Square,
    classify,
    isolated,
)
from ..data import AnyData
from ._attackbench import NORMS, Queries, distances
from ._common import beside, leeway, measuring
from ._contestants import (
    LIBRARIES,
    Run,
    by_adv_lib,
    by_art,
    by_auto_attack,
    by_foolbox,
    by_torchattacks,
    installed,
    quietly,
)

SMALLER = 0.99
"""A perturbation counts as smaller than another one below this share of it."""
LEVEL = 0.05
"""The chance, at the most, that any difference is reported where there is none."""
_UNLIMITED = 2**62


@dataclass(frozen=True)
class Setting:
    """An attack, and how other libraries are asked for the same. `theirs`: by library, given eps and step size.

    An attack with a budget starts at the sample or from noise of the library's own. One without looks for the smallest
    perturbation.
    """

    attack: Attack
    theirs: Mapping[str, Callable[..., Run]]


_STEPS, _QUERIES, _DESCENT = 20, 500, 100
_NAMES = {"linf": "Linf", "l2": "L2"}


def _fgsm() -> Setting:
    return Setting(
        FGSM(),
        {
            "foolbox": lambda eps, _: partial(by_foolbox, attack="LinfFastGradientAttack", eps=eps),
            "torchattacks": lambda eps, _: partial(by_torchattacks, attack="FGSM", eps=eps),
            "art": lambda eps, _: partial(by_art, attack="FastGradientMethod", eps=eps),
        },
    )


def _pgd(norm: str) -> Setting:
    """From the sample, with steps of eps / 8."""
    name = {"linf": "PGD", "l2": "PGDL2"}[norm]
    theirs: dict[str, Callable[..., Run]] = {
        "foolbox": lambda eps, alpha: partial(
            by_foolbox,
            attack=f"{_NAMES[norm]}ProjectedGradientDescentAttack",
            eps=eps,
            abs_stepsize=alpha,
            steps=_STEPS,
            random_start=False,
        ),
        "torchattacks": lambda eps, alpha: partial(
            by_torchattacks, attack=name, eps=eps, alpha=alpha, steps=_STEPS, random_start=False
        ),
        "art": lambda eps, alpha: partial(
            by_art, attack="ProjectedGradientDescent", norm=NORMS[norm], eps=eps, eps_step=alpha, max_iter=_STEPS
        ),
    }
    if norm == "linf":
        theirs["adv-lib"] = lambda eps, alpha: partial(
            by_adv_lib, attack="pgd_linf", ε=eps, absolute_step_size=alpha, steps=_STEPS, random_init=False
        )
    return Setting(PGD(0.1, 0.1 / 8, _STEPS, random_start=0.0, norm=norm), theirs)


def _apgd(norm: str) -> Setting:
    """100 steps of cross-entropy from one random start."""
    return Setting(
        APGD(norm=norm, steps=100),
        {
            "torchattacks": lambda eps, _: partial(
                by_torchattacks, attack="APGD", norm=_NAMES[norm], eps=eps, steps=100, n_restarts=1, loss="ce"
            ),
            "art": lambda eps, _: partial(
                by_art,
                attack="AutoProjectedGradientDescent",
                norm=NORMS[norm],
                eps=eps,
                eps_step=2 * eps,
                max_iter=100,
                nb_random_init=1,
                loss_type="cross_entropy",
            ),
            "adv-lib": lambda eps, _: partial(by_adv_lib, attack="apgd", norm=NORMS[norm], eps=eps, loss_function="ce"),
            "auto-attack": lambda eps, _: partial(by_auto_attack, attack="apgd-ce", norm=norm, eps=eps),
        },
    )


def _apgdt() -> Setting:
    """100 steps towards each of nine classes, of which there have to be ten."""
    return Setting(
        APGDT(steps=100),
        {
            "torchattacks": lambda eps, _: partial(by_torchattacks, attack="APGDT", norm="Linf", eps=eps, steps=100),
            "adv-lib": lambda eps, _: partial(by_adv_lib, attack="apgd_targeted", norm=math.inf, eps=eps),
            "auto-attack": lambda eps, _: partial(by_auto_attack, attack="apgd-t", norm="linf", eps=eps),
        },
    )


def _square() -> Setting:
    return Setting(
        Square(queries=_QUERIES),
        {
            "torchattacks": lambda eps, _: partial(by_torchattacks, attack="Square", eps=eps, n_queries=_QUERIES),
            "auto-attack": lambda eps, _: partial(
                by_auto_attack, attack="square", norm="linf", eps=eps, queries=_QUERIES
            ),
        },
    )


def _deepfool() -> Setting:
    """The ten best classes, 50 steps, overshoot 0.02."""
    return Setting(
        DeepFool(50),
        {
            "foolbox": lambda *_: partial(by_foolbox, attack="L2DeepFoolAttack", steps=50, candidates=10),
            "torchattacks": lambda *_: partial(by_torchattacks, attack="DeepFool", steps=50),
            "art": lambda *_: partial(by_art, attack="DeepFool", max_iter=50, epsilon=0.02, nb_grads=10),
            "adv-lib": lambda *_: partial(by_adv_lib, attack="df", steps=50, return_unsuccessful=True),
        },
    )


def _cw() -> Setting:
    """Five constants from 0.01 on, 100 steps of 0.01 for each."""
    same = {"binary_search_steps": 5, "initial_const": 0.01}
    return Setting(
        CW(steps=100, **same),
        {
            "foolbox": lambda *_: partial(by_foolbox, attack="L2CarliniWagnerAttack", steps=100, **same),
            "art": lambda *_: partial(by_art, attack="CarliniL2Method", max_iter=100, learning_rate=0.01, **same),
            "adv-lib": lambda *_: partial(by_adv_lib, attack="carlini_wagner_l2", max_iterations=100, **same),
        },
    )


def _cw_fixed() -> Setting:
    """One constant, 1, for all samples; torchattacks looks for no other."""
    return Setting(
        CW(steps=100, binary_search_steps=1, initial_const=1.0, abort_early=False),
        {"torchattacks": lambda *_: partial(by_torchattacks, attack="CW", c=1, kappa=0, steps=100, lr=0.01)},
    )


def _ddn() -> Setting:
    return Setting(
        DDN(50),
        {
            "foolbox": lambda *_: partial(by_foolbox, attack="DDNAttack", steps=50),
            "adv-lib": lambda *_: partial(by_adv_lib, attack="ddn", steps=50, levels=None),
        },
    )


def _fmn(norm: str) -> Setting:
    """100 steps, the first of length 1."""
    name = {"linf": "LInfFMNAttack", "l2": "L2FMNAttack"}[norm]
    return Setting(
        FMN(_DESCENT, norm=norm),
        {
            "foolbox": lambda *_: partial(by_foolbox, attack=name, steps=_DESCENT),
            "adv-lib": lambda *_: partial(by_adv_lib, attack="fmn", norm=NORMS[norm], steps=_DESCENT),
        },
    )


def _of_adv_lib(attack: Attack, name: str, **options: Any) -> Setting:
    """100 steps of an attack that no other library has."""
    return Setting(attack, {"adv-lib": lambda *_: partial(by_adv_lib, attack=name, num_steps=_DESCENT, **options)})


def _fab(norm: str) -> Setting:
    """100 steps, the boundaries of all classes at each."""
    return Setting(
        FAB(_DESCENT, norm=norm),
        {
            # Its eps is where it starts, and also how far it may find anything.
            "torchattacks": lambda *_: partial(
                by_torchattacks, attack="FAB", norm=_NAMES[norm], steps=_DESCENT, eps=math.inf
            ),
            "adv-lib": lambda *_: partial(by_adv_lib, attack="fab", norm=NORMS[norm], n_iter=_DESCENT),
        },
    )


def _ead() -> Setting:
    """Three constants from 0.1 on, 100 steps of 0.01 for each; the L1 norm decides."""
    same = {"binary_search_steps": 3, "initial_const": 0.1}
    return Setting(
        EAD(steps=_DESCENT, beta=0.001, **same),
        {
            "foolbox": lambda *_: partial(
                by_foolbox, attack="EADAttack", steps=_DESCENT, regularization=0.001, decision_rule="L1", **same
            ),
            "torchattacks": lambda *_: partial(by_torchattacks, attack="EADL1", max_iterations=_DESCENT, **same),
            "art": lambda *_: partial(
                by_art,
                attack="ElasticNet",
                max_iter=_DESCENT,
                beta=0.001,
                learning_rate=0.01,
                decision_rule="L1",
                **same,
            ),
        },
    )


SETTINGS: dict[str, Setting] = {
    "fgsm": _fgsm(),
    "pgd": _pgd("linf"),
    "pgd-l2": _pgd("l2"),
    "apgd-ce": _apgd("linf"),
    "apgd-ce-l2": _apgd("l2"),
    "apgd-t": _apgdt(),
    "square": _square(),
    "deepfool": _deepfool(),
    "cw": _cw(),
    "cw-fixed": _cw_fixed(),
    "ddn": _ddn(),
    "fmn": _fmn("linf"),
    "fmn-l2": _fmn("l2"),
    "fab": _fab("linf"),
    "fab-l2": _fab("l2"),
    "ead": _ead(),
    "alma": _of_adv_lib(ALMA(_DESCENT), "alma", init_lr_distance=0.1),
    "pdgd": _of_adv_lib(PDGD(_DESCENT), "pdgd"),
    "pdpgd": _of_adv_lib(PDPGD(_DESCENT), "pdpgd", norm=NORMS["l1"]),
    "sigma-zero": _of_adv_lib(SigmaZero(_DESCENT), "sigma_zero"),
}
"""What is run in every library that has it."""


@dataclass(frozen=True, eq=False)
class Side:
    """What an attack of one library did: all [N], on the CPU.

    `distances`: of what it returned, infinite where that is not adversarial, leaves the bounds, or the budget `eps`
    if there is one. `outside`: whether it leaves them. `forwards`, `backwards`: passes.
    """

    setting: str
    library: str
    norm: str
    eps: float | None
    distances: Tensor
    outside: Tensor
    forwards: Tensor
    backwards: Tensor


class Difference(NamedTuple):
    """fastadv's side of a setting beside another library's, paired on the same samples.

    `fooled`, `theirs_fooled`: shares in [0, 1]. `median`, `theirs_median`: of the distances where both succeed, None
    with a budget or without such. `better`, `worse`: samples on which fastadv alone succeeds, or with a perturbation
    that is smaller by more than a hundredth, and the other way round. `left`: samples on which the library's left the
    budget or the bounds. `p`: of so unequal numbers or more so, were either as likely: the exact test of McNemar
    (1947), which is a sign test. `differs`: whether that is more than chance, with all comparisons together.
    """

    setting: str
    library: str
    fooled: float
    theirs_fooled: float
    median: float | None
    theirs_median: float | None
    better: int
    worse: int
    left: int
    p: float
    differs: bool


@dataclass(frozen=True, eq=False)
class Crosscheck:
    """What libraries found on the first `samples` of `data` that the model classifies correctly.

    `sides`: every attack that ran; `missing`: libraries that are not installed, and why; `failed`: setting, library and
    what was raised.
    """

    data: str
    samples: int
    sides: tuple[Side, ...]
    missing: Mapping[str, str]
    failed: tuple[tuple[str, str, str], ...]

    @property
    def differences(self) -> list[Difference]:
        """fastadv beside every other library, setting by setting."""
        ours = {side.setting: side for side in self.sides if side.library == "fastadv"}
        pairs = [(ours[side.setting], side) for side in self.sides if side is not ours.get(side.setting)]
        counts = [_counts(mine, other) for mine, other in pairs]
        chances = [sign_test(*each) for each in counts]
        differ = holm(chances, LEVEL)
        found = []
        for (mine, other), (better, worse), p, differs in zip(pairs, counts, chances, differ, strict=True):
            both = mine.distances.isfinite() & other.distances.isfinite()
            medians = [None, None]
            if mine.eps is None and both.any():
                medians = [float(side.distances[both].median()) for side in (mine, other)]
            fooled = [float(side.distances.isfinite().double().mean()) for side in (mine, other)]
            left = int(other.outside.sum())
            found.append(Difference(other.setting, other.library, *fooled, *medians, better, worse, left, p, differs))
        return found


def _counts(mine: Side, other: Side) -> tuple[int, int]:
    """On how many samples one of the two did better, and the other."""
    a, b = mine.distances, other.distances
    if mine.eps is not None:  # what is within it is as good
        a, b = (torch.where(side.isfinite(), 0.0, torch.inf) for side in (a, b))
    return int(((a < SMALLER * b) & (a < torch.inf)).sum()), int(((b < SMALLER * a) & (b < torch.inf)).sum())


def sign_test(first: int, second: int) -> float:
    """The chance of numbers as unequal as these, or more so, of fair coins: exact and two-sided."""
    n = first + second
    tail = sum(math.comb(n, k) for k in range(min(first, second) + 1))
    return min(1.0, 2 * tail / 2**n)


def holm(chances: Sequence[float], level: float) -> list[bool]:
    """Which of several hypotheses are rejected, so that with chance `level` at the most any is wrongly (Holm, 1979)."""
    rejected = [False] * len(chances)
    for place, i in enumerate(sorted(range(len(chances)), key=lambda i: chances[i])):
        if chances[i] > level / (len(chances) - place):
            break
        rejected[i] = True
    return rejected


@dataclass(frozen=True, eq=False)
class CrosscheckPlan:
    """What `plan_crosscheck` made ready: `work` has the name of a setting and of a library, fastadv included."""

    model: Model
    data: str
    batches: Sequence[tuple[Tensor, Tensor, Tensor]]
    budgets: Mapping[str, float]
    modules: Mapping[str, Any]
    missing: Mapping[str, str]
    work: Sequence[tuple[str, str]]
    seed: int

    def run(self, on_step: Callable[[int, int | None], None] | None = None) -> Crosscheck:
        """Runs all attacks; `on_step` is called with (attacks done, attacks in all)."""
        sides, failed = [], []
        for number, (name, library) in enumerate(self.work, 1):
            try:
                with measuring():
                    sides.append(self._side(name, library))
            except Exception as error:  # whatever a library raises is the result of its attack
                failed.append((name, library, f"{type(error).__name__}: {error}".partition("\n")[0]))
            if on_step:
                on_step(number, len(self.work))
        samples = sum(len(y) for _, y, _ in self.batches)
        return Crosscheck(self.data, samples, tuple(sides), self.missing, tuple(failed))

    def _side(self, name: str, library: str) -> Side:
        attack, theirs = SETTINGS[name].attack, SETTINGS[name].theirs
        norm = attack.norm
        eps = self.budgets[norm] if attack.has_budget else None
        if eps is not None:
            attack = attack.at(eps)
        if library == "fastadv":
            run = attack.seeded(self.seed)
        else:
            of_library = quietly(theirs[library](eps, getattr(attack, "alpha", None)), self.modules[library], self.seed)
            run = lambda model, x, y, ids: of_library(model, x, y)  # noqa: E731
        columns = []
        for x, y, ids in self.batches:
            queries = Queries(self.model, x, y, norm, _UNLIMITED).eval()
            with isolated(self.model):
                made = run(queries, x.clone(), y.clone(), ids).to(x)
            size = distances(made, x, norm)
            most = math.inf if eps is None else eps + leeway(norm, eps, (0.0, 1.0), x[0].numel())
            rows = made.flatten(1)
            outside = ~((size <= most) & (rows >= 0).all(1) & (rows <= 1).all(1))
            fooled = (classify(self.model, made) != y) & ~outside
            columns.append((torch.where(fooled, size, torch.inf), outside, queries.forwards, queries.backwards))
        return Side(name, library, norm, eps, *(torch.cat(column).cpu() for column in zip(*columns, strict=True)))


@measuring()
def plan_crosscheck(
    model: Model,
    data: AnyData,
    eps: float,
    eps_l2: float,
    *,
    settings: Iterable[str] = tuple(SETTINGS),
    libraries: Iterable[str] = tuple(LIBRARIES),
    batch_size: int = 100,
    seed: int = 0,
) -> CrosscheckPlan:
    """`crosscheck`, checked and not run yet; its arguments and errors."""
    settings = list(settings)
    for name in settings:
        if name not in SETTINGS:
            raise ValueError(f"unknown attack {name!r}: choose among {', '.join(SETTINGS)}")
    modules, missing = installed(list(libraries))
    if not modules:
        raise ValueError(
            "crosscheck compares fastadv with other libraries, and none of these is installed: "
            f"{', '.join(missing) or 'none was named'}. To fix: pip install foolbox torchattacks "
            "adversarial-robustness-toolbox pyautoattack"
        )
    data = beside(model, data)
    if tuple(data.bounds) != (0.0, 1.0):
        raise ValueError(f"crosscheck: other libraries take inputs in [0, 1], {data.name} is in {list(data.bounds)}")
    batches = []
    for x, y, ids in data.batches(batch_size):
        right = (classify(model, x, len(data.classes) - 1) == y).nonzero().squeeze(1)
        batches += [(x[right], y[right], ids[right])] if len(right) else []
    if not batches:
        raise ValueError(f"crosscheck: the model is right on no sample of {data.name}, so that nothing can be attacked")
    sides = [(name, ("fastadv", *(each for each in modules if each in SETTINGS[name].theirs))) for name in settings]
    work = [(name, library) for name, having in sides if len(having) > 1 for library in having]
    return CrosscheckPlan(model, data.name, batches, {"linf": eps, "l2": eps_l2}, modules, missing, work, seed)


def crosscheck(
    model: Model,
    data: AnyData,
    eps: float,
    eps_l2: float,
    *,
    settings: Iterable[str] = tuple(SETTINGS),
    libraries: Iterable[str] = tuple(LIBRARIES),
    batch_size: int = 100,
    seed: int = 0,
    on_step: Callable[[int, int | None], None] | None = None,
) -> Crosscheck:
    """The attacks of `SETTINGS` in fastadv and in every one of `libraries` that is installed, on the same samples.

    What they return is judged here: it has to be misclassified, within the bounds and, if there is one, the budget.
    Samples that are misclassified without an attack are left out.

    Args:
        model: as `evaluate` takes it.
        data: likewise, in [0, 1].
        eps: budget in L-infinity.
        eps_l2: in L2.
        settings: names of settings.
        libraries: names of libraries.
        batch_size: largest number of samples at a time.
        seed: of random numbers.
        on_step: called with (attacks done, attacks in all).

    Raises ValueError for a name that is unknown, inputs that are not in [0, 1], a model that is right on no sample, and
    where no library is installed.
    """
    how = {"settings": settings, "libraries": libraries, "batch_size": batch_size, "seed": seed}
    return plan_crosscheck(model, data, eps, eps_l2, **how).run(on_step)
