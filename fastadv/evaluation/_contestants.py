"""Who takes part in AttackBench: fastadv's registered attacks, and those of other libraries where they are installed.

Options are those of AttackBench's configurations (cb475a2) where it has any, but for steps, which follow from the
queries. Attacks with a budget of perturbation are `searched`. What a library is asked in is its own business: only
`Queries` counts.
"""

import contextlib
import importlib
import importlib.util
import logging
import random
import sys
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..attacks import ANPGD, ATTACKS, DRA, Attack, AutoAttack, MultiAttack
from ._attackbench import NORMS, Asking, searched

_LEFT_OUT = (AutoAttack, MultiAttack, ANPGD, DRA)
"""Worst cases of others, which take part themselves; and those whose budgets are of training and not searched for."""
_SEARCHED = 40  # the share of the queries that one of an attack's searches takes: 1/40 of them are its steps


# -------------------------------------------------------------------------------------------------------------- fastadv


def _options(name: str, norm: str, queries: int) -> dict[str, Any]:
    """What of an attack in `norm` is not as it is by default, so that it makes the most of its queries."""
    once, searches = max(queries // 2, 1), max(queries // _SEARCHED, 1)
    sparse = {"large_eps": norm == "l1"}
    special: dict[str, dict[str, Any]] = {
        "apgd": {"steps": searches, **sparse},
        "apgdt": {"steps": max(searches // 3, 1), "targets": 3, "candidates": 9, **sparse},
        "boundary": {"steps": queries},
        "cw": {"binary_search_steps": 9, "steps": max(once // 9, 1)},
        "ead": {"binary_search_steps": 9, "steps": max(once // 9, 1)},
        "cwlinf": {},
        "deepfool": {},
        "fab": {},
        "fabt": {"steps": max(queries // (3 * 4), 1), "targets": 4},  # three a step; nine targets have too few each
        "fmn": {"steps": once, "first": 10.0 if norm == "linf" else 1.0},
        "hopskipjump": {},
        "jsma": {"gamma": 1.0},
        "spsa": {},
        "square": {"queries": 10 * searches},
    }
    return special.get(name, {"steps": searches if ATTACKS[name].has_budget else once})


def made(name: str, norm: str, queries: int, bounds: tuple[float, float]) -> Attack | None:
    """fastadv's attack `name` in `norm` with so many `queries` a sample; None for one that is in no such norm."""
    kind = ATTACKS[name]
    names = {field.name for field in fields(kind)}
    options = {key: value for key, value in _options(name, norm, queries).items() if key in names}
    if "norm" in names:
        options["norm"] = norm
    try:
        attack = kind(**options)
    except (ValueError, TypeError):  # not in this norm
        return None
    return attack.within(bounds) if attack.norm == norm else None


def _ours(name: str, norm: str, queries: int, bounds: tuple[float, float], seed: int) -> Asking | None:
    attack = None if ATTACKS[name] in _LEFT_OUT else made(name, norm, queries, bounds)
    if attack is None:
        return None
    attack = attack.seeded(seed)

    def at(model: nn.Module, x: Tensor, y: Tensor, ids: Tensor, eps: Tensor) -> Tensor:
        alpha = getattr(attack, "alpha", None)
        scaled = {} if alpha is None else {"alpha": alpha / attack.eps * eps}
        return replace(attack, eps=eps, **scaled)(model, x, y, ids)

    return Asking(
        "fastadv", name, norm, searched(at, norm, width=attack.unit) if attack.has_budget and attack.ball else attack
    )


# ------------------------------------------------------------------------------------------------------ other libraries

Run = Callable[..., Tensor]
"""``run(library, model, x, y)``, and of attacks with a budget, ``run(library, model, x, y, eps)``"""


@dataclass(frozen=True)
class Peer:
    """An attack of another library, in `norms`; ``make(norm, queries)`` gives how it is run. `fixed`: at budgets, and
    ``run`` takes those as a fifth argument, one for all samples or, if `batched`, one a sample.
    """

    name: str
    norms: tuple[str, ...]
    make: Callable[[str, int], Run]
    fixed: bool = False
    batched: bool = False


# How each library is asked for an attack by the name that it has there: options are its own.


def by_adv_lib(library: Any, model: nn.Module, x: Tensor, y: Tensor, attack: str, **options: Any) -> Tensor:
    return getattr(library, attack)(model, x, y, **options)


def by_foolbox(
    library: Any, model: nn.Module, x: Tensor, y: Tensor, attack: str, eps: float | None = None, **options: Any
) -> Tensor:
    wrapped = library.PyTorchModel(model, bounds=(0, 1), device=x.device)
    return getattr(library.attacks, attack)(**options)(wrapped, x, y, epsilons=eps)[1]


def by_torchattacks(library: Any, model: nn.Module, x: Tensor, y: Tensor, attack: str, **options: Any) -> Tensor:
    return getattr(library, attack)(model, **options)(x, y)


def by_art(library: Any, model: nn.Module, x: Tensor, y: Tensor, attack: str, **options: Any) -> Tensor:
    """The model says how many `classes` it has."""
    estimator = importlib.import_module("art.estimators.classification").PyTorchClassifier
    shape = {"input_shape": tuple(x.shape[1:]), "nb_classes": model.classes}
    device = "gpu" if x.is_cuda else "cpu"
    wrapped = estimator(model, nn.CrossEntropyLoss(), clip_values=(0.0, 1.0), device_type=device, **shape)
    kind = getattr(library, attack)
    quiet = {"verbose": False} if "verbose" in kind.attack_params else {}
    found = kind(wrapped, batch_size=len(x), **quiet, **options).generate(x.cpu().numpy(), y.cpu().numpy())
    return torch.from_numpy(found).to(x.device)


def by_auto_attack(
    library: Any,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    attack: str,
    norm: str,
    eps: float,
    queries: int = 5000,
    steps: int = 100,
) -> Tensor:
    logging.getLogger("auto-attack").setLevel(logging.ERROR)
    about = {"norm": {"linf": "Linf", "l2": "L2", "l1": "L1"}[norm], "eps": eps, "seed": 0}
    whole = library.AutoAttack(model, **about, device=x.device)
    whole.attacks_to_run = [attack]
    whole.apgd.n_restarts, whole.square.n_queries = 1, queries
    whole.apgd.n_iter = whole.apgd_targeted.n_iter = whole.fab.n_iter = steps
    made = whole.run_standard_evaluation(x, y, batch_size=len(x))
    return made[0] if isinstance(made, tuple) else made


_ALPHA = "\N{GREEK SMALL LETTER ALPHA}_init"


def _adv_lib() -> list[Peer]:
    def simple(function: str, norms: tuple[str, ...], options: Callable[[str, int], dict[str, Any]]) -> Peer:
        return Peer(
            function, norms, lambda norm, queries: partial(by_adv_lib, attack=function, **options(norm, queries))
        )

    def fixed(function: str, norms: tuple[str, ...], options: Callable[[str, int], dict[str, Any]]) -> Peer:
        name = "ε" if function == "pgd_linf" else "eps"

        def make(norm: str, queries: int) -> Run:
            run = partial(by_adv_lib, attack=function, **options(norm, queries))
            return lambda library, model, x, y, eps: run(library, model, x, y, **{name: eps})

        return Peer(function, norms, make, fixed=True, batched=True)

    balls, every = ("linf", "l2", "l1"), tuple(NORMS)
    return [
        simple("alma", ("l2", "l1"), lambda norm, q: {
            "distance": norm, "num_steps": q // 2, "init_lr_distance": 0.5 if norm == "l1" else 0.1
        }),
        simple("carlini_wagner_l2", ("l2",), lambda _, q: {"max_iterations": q // 2, "binary_search_steps": 9}),
        simple("carlini_wagner_linf", ("linf",), lambda _, q: {"max_iterations": q // 2}),
        simple("ddn", ("l2",), lambda _, q: {"steps": q // 2, "levels": None}),
        simple("df", ("l2", "linf"), lambda norm, _: {"norm": NORMS[norm], "return_unsuccessful": True}),
        simple("fab", balls, lambda norm, _: {"norm": NORMS[norm], "n_iter": 100}),
        simple("fmn", every, lambda norm, q: {
            "norm": NORMS[norm], "steps": q // 2, _ALPHA: 10 if norm == "linf" else 1
        }),
        simple("pdgd", ("l2",), lambda _, q: {"num_steps": q // 2}),
        simple("pdpgd", every, lambda norm, q: {
            "norm": NORMS[norm], "num_steps": q // 2, "proximal_operator": 23 if norm == "l0" else None
        }),
        simple("sdf", ("l2",), lambda *_: {}),
        simple("sigma_zero", ("l0",), lambda _, q: {"num_steps": q // 2}),
        simple("tr", ("linf", "l2"), lambda norm, _: {"p": NORMS[norm], "iter": 100, "adaptive": True}),
        simple("vfga", ("l0",), lambda _, q: {"targeted": False, "max_iter": q // 2}),
        fixed("apgd", balls, lambda norm, _: {"norm": NORMS[norm], "use_large_reps": norm == "l1"}),
        fixed("apgd_targeted", balls, lambda norm, _: {"norm": NORMS[norm], "use_large_reps": norm == "l1"}),
        fixed("pgd_linf", ("linf",), lambda _norm, _: {"steps": 100}),
    ]  # fmt: skip


def _foolbox() -> list[Peer]:
    names = {"l0": "L0", "l1": "L1", "l2": "L2", "linf": "Linf"}

    def simple(name: str, norms: tuple[str, ...], attack: str, options: Callable[[int], dict[str, Any]]) -> Peer:
        def make(norm: str, queries: int) -> Run:
            norm_name = "LInf" if name == "fmn" and norm == "linf" else names[norm]
            return partial(by_foolbox, attack=attack.format(norm_name), **options(queries))

        return Peer(name, norms, make)

    def brendel_bethge(norm: str, queries: int) -> Run:
        """A tenth of the queries are for the way from noise to the boundary."""
        attack = f"{names[norm].replace('inf', 'infinity')}BrendelBethgeAttack"

        def run(library: Any, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            noise = library.attacks.LinearSearchBlendedUniformNoiseAttack(steps=max(queries // 10, 1))
            return by_foolbox(library, model, x, y, attack, init_attack=noise, steps=queries // 2)

        return run

    def fixed(name: str, attack: str, **options: Any) -> Peer:
        def make(norm: str, queries: int) -> Run:
            run = partial(by_foolbox, attack=attack.format(names[norm]), **options)
            return lambda library, model, x, y, eps: run(library, model, x, y, eps=float(eps[0]))

        return Peer(name, ("linf", "l2", "l1"), make, fixed=True)

    return [
        *([Peer("bb", tuple(NORMS), brendel_bethge)] if importlib.util.find_spec("numba") else []),
        simple("cw", ("l2",), "{}CarliniWagnerAttack", lambda q: {"steps": q // 2, "initial_const": 0.001}),
        simple("ddn", ("l2",), "DDNAttack", lambda q: {"steps": q // 2}),
        simple("deepfool", ("linf", "l2"), "{}DeepFoolAttack", lambda _: {}),
        simple("ead", ("l1",), "EADAttack", lambda q: {"steps": q // 2}),
        simple("fmn", tuple(NORMS), "{}FMNAttack", lambda q: {"steps": q // 2}),
        fixed("pgd", "{}ProjectedGradientDescentAttack", steps=50, rel_stepsize=0.025),
        fixed("bim", "{}BasicIterativeAttack", steps=10),
    ]


def _torchattacks() -> list[Peer]:
    def simple(name: str, norms: tuple[str, ...], attack: str, **options: Any) -> Peer:
        def make(norm: str, _: int) -> Run:
            more = {"norm": {"linf": "Linf", "l2": "L2", "l1": "L1"}[norm]} if attack == "FAB" else {}
            return partial(by_torchattacks, attack=attack, **options, **more)

        return Peer(name, norms, make)

    def fixed(name: str, norms: tuple[str, ...], attack: str, **options: Any) -> Peer:
        def make(norm: str, _: int) -> Run:
            more = {"norm": {"linf": "Linf", "l2": "L2"}[norm]} if attack.startswith("APGD") else {}
            run = partial(by_torchattacks, attack=attack, **options, **more)
            return lambda library, model, x, y, eps: run(library, model, x, y, eps=float(eps[0]))

        return Peer(name, norms, make, fixed=True)

    return [
        simple("cw", ("l2",), "CW", c=1, kappa=0, steps=1000, lr=0.01),
        simple("deepfool", ("l2",), "DeepFool", steps=50),
        simple("fab", ("linf", "l2", "l1"), "FAB", steps=100, n_classes=10),
        simple("sparsefool", ("l0",), "SparseFool", steps=20, lam=3),
        fixed("apgd", ("linf", "l2"), "APGD", steps=100),
        fixed("apgdt", ("linf", "l2"), "APGDT", steps=100),
        fixed("pgd", ("linf",), "PGD", steps=40, alpha=2 / 255),
        fixed("pgdl2", ("l2",), "PGDL2", steps=40, alpha=0.2),
    ]


def _art() -> list[Peer]:
    def simple(name: str, norms: tuple[str, ...], attack: str, **options: Any) -> Peer:
        return Peer(name, norms, lambda _norm, _: partial(by_art, attack=attack, **options))

    def fixed(name: str, norms: tuple[str, ...], attack: str, **options: Any) -> Peer:
        def make(norm: str, _: int) -> Run:
            run = partial(by_art, attack=attack, norm=NORMS[norm], **options)
            return lambda library, model, x, y, eps: run(library, model, x, y, eps=float(eps[0]))

        return Peer(name, norms, make, fixed=True)

    return [
        simple("cw", ("l2",), "CarliniL2Method", binary_search_steps=10, max_iter=1000),
        simple("cwlinf", ("linf",), "CarliniLInfMethod", max_iter=10),
        simple("deepfool", ("l2",), "DeepFool", max_iter=100),
        simple("ead", ("l1",), "ElasticNet", binary_search_steps=9, max_iter=100),
        simple("jsma", ("l0",), "SaliencyMapMethod", theta=0.1, gamma=1.0),
        fixed("apgd", ("linf", "l2"), "AutoProjectedGradientDescent", eps_step=0.1, max_iter=100, nb_random_init=5),
        fixed("pgd", ("linf", "l2", "l1"), "ProjectedGradientDescent", eps_step=0.1, max_iter=100),
    ]


def _auto_attack() -> list[Peer]:
    def fixed(name: str) -> Peer:
        def make(norm: str, queries: int) -> Run:
            run = partial(by_auto_attack, attack=name, norm=norm, queries=queries)
            return lambda library, model, x, y, eps: run(library, model, x, y, eps=float(eps[0]))

        return Peer(name, ("linf", "l2", "l1"), make, fixed=True)

    return [fixed("apgd-ce"), fixed("apgd-t"), fixed("fab-t"), fixed("square")]


LIBRARIES: dict[str, tuple[tuple[str, ...], Callable[[], list[Peer]]]] = {
    "adv-lib": (("adv_lib.attacks",), _adv_lib),
    "foolbox": (("foolbox",), _foolbox),
    "torchattacks": (("torchattacks",), _torchattacks),
    "art": (("art.attacks.evasion",), _art),
    "auto-attack": (("autoattack", "pyautoattack"), _auto_attack),
}
"""Other libraries: the modules they may be, and their attacks."""


@contextlib.contextmanager
def _standing_in(names: Sequence[str]) -> Iterator[None]:
    """Within it, those of the modules `names` that cannot be imported are empty ones.

    adv-lib imports torchvision (for LPIPS) and visdom (for plots) on the way to attacks that use neither.
    """
    empty = []
    for name in names:
        try:
            importlib.import_module(name)
        except Exception:  # missing, or made for another torch
            sys.modules[name] = types.ModuleType(name)
            sys.modules[name].models = None
            empty.append(name)
    try:
        yield
    finally:
        for name in empty:
            del sys.modules[name]


def library(name: str) -> Any:
    """The module of one of `LIBRARIES`. Raises ImportError, which says why, where it cannot be imported."""
    reasons = []
    for module in LIBRARIES[name][0]:
        try:
            with warnings.catch_warnings(), _standing_in(("torchvision", "visdom") if name == "adv-lib" else ()):
                warnings.simplefilter("ignore")
                return importlib.import_module(module)
        except Exception as error:  # whatever a library does when it is imported
            reasons.append(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")
    raise ImportError(f"{name} cannot be imported ({'; '.join(reasons)})")


def installed(names: Sequence[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Of the libraries called `names`, the modules of those that can be imported, and why the others cannot.

    Raises ValueError for a name that is unknown.
    """
    modules, missing = {}, {}
    for name in names:
        if name not in LIBRARIES:
            raise ValueError(f"unknown library {name!r}: choose among {', '.join(LIBRARIES)}")
        try:
            modules[name] = library(name)
        except ImportError as error:
            missing[name] = str(error)
    return modules, missing


def quietly(run: Run, module: Any, seed: int) -> Callable[..., Tensor]:
    """``run(module, ...)`` with all generators at `seed`, which are put back, and without warnings."""

    def seeded(*given: Any) -> Tensor:
        used = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
        before = np.random.get_state(), random.getstate()
        try:
            with torch.random.fork_rng(devices=used), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                torch.manual_seed(seed)
                np.random.seed(seed)  # ART's, and some of other libraries'
                random.seed(seed)
                return run(module, *given).detach()
        finally:
            np.random.set_state(before[0])
            random.setstate(before[1])

    return seeded


def _theirs(name: str, module: Any, peer: Peer, norm: str, queries: int, seed: int) -> Asking:
    seeded = quietly(peer.make(norm, queries), module, seed)
    if peer.fixed:
        at = lambda model, x, y, ids, eps: seeded(model, x, y, eps)  # noqa: E731
        return Asking(name, peer.name, norm, searched(at, norm, one_by_one=not peer.batched))
    return Asking(name, peer.name, norm, lambda model, x, y, ids: seeded(model, x, y))


@dataclass(frozen=True)
class Contestants:
    """Who takes part, in the order of the norms; and who is `missing`: the name of a library, and why."""

    attacks: tuple[Asking, ...]
    missing: dict[str, str]


def contestants(
    norms: Sequence[str],
    queries: int,
    *,
    attacks: Sequence[str] = (),
    libraries: Sequence[str] = tuple(LIBRARIES),
    bounds: tuple[float, float] = (0.0, 1.0),
    seed: int = 0,
) -> Contestants:
    """fastadv's `attacks`, of none all that are registered, and those of `libraries`, in each of `norms`.

    Other libraries take part where the inputs are in [0, 1], and otherwise count as missing. Raises ValueError for a
    name that is unknown, and for an attack of fastadv that is in none of the norms.
    """
    for what, given, known in (("norm", norms, NORMS), ("attack", attacks, ATTACKS)):
        for name in given:
            if name not in known:
                raise ValueError(f"unknown {what} {name!r}: choose among {', '.join(known)}")
    found: list[Asking] = []
    modules, missing = installed(libraries)
    if bounds != (0.0, 1.0):
        missing |= {name: f"its attacks are run on inputs in [0, 1], not in {list(bounds)}" for name in modules}
        modules = {}
    for norm in norms:
        ours = (_ours(name, norm, queries, bounds, seed) for name in attacks or ATTACKS)
        found += [each for each in ours if each]
        for name, module in modules.items():
            peers = (peer for peer in LIBRARIES[name][1]() if norm in peer.norms)
            found += [_theirs(name, module, peer, norm, queries, seed) for peer in peers]
    for name in attacks:
        if not any((each.library, each.attack) == ("fastadv", name) for each in found):
            raise ValueError(f"attack {name!r} is in none of the norms {', '.join(norms)}, or takes no part")
    return Contestants(tuple(found), missing)
