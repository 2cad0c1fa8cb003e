"""Published experiments. A YAML file here is one row of a published table, or a figure: what is trained, how it is
evaluated, and what was printed. ``equations``, ``propositions``, ``self_paced_loss`` and ``two_circles`` are
experiments with programs of their own.
"""

import difflib
import fnmatch
import functools
import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from .. import ops
from ..attacks import ATTACKS, Attack
from ..data import CORRUPTIONS, EXTRA, Dataset, corrupted
from ..evaluation import (
    Result,
    calibrated,
    corruption_accuracy,
    evaluate,
    fitted,
    gradient_norms,
    landing,
    weight_norms,
)
from ..trainers import METHODS, Method
from . import equations, propositions, self_paced_loss, two_circles

__all__ = [
    "EXPERIMENTS",
    "Calibration",
    "Figure",
    "Printed",
    "Protocol",
    "Recipe",
    "averaged",
    "calibrate",
    "figure_name",
    "load",
    "measure",
    "names",
    "protocol",
    "select",
]

EXPERIMENTS: dict[str, Callable[..., Sequence[Any]]] = {
    "equations": equations.reproduce,
    "propositions": propositions.reproduce,
    "self-paced-loss": self_paced_loss.reproduce,
    "two-circles": two_circles.reproduce,
}
"""Experiments with programs of their own, called with a folder for what they write; they return named tuples."""

AVERAGES: dict[str, Callable[[Sequence[float]], float]] = {"mean": fmean, "median": median}
FOLDER = Path(__file__).parent
PROTOCOLS = "protocols.yaml"
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the first is eight times as fast, and not built everywhere
BENCHMARK = [name for name in CORRUPTIONS if name not in EXTRA]
"""The corruptions that means are taken over."""
Sets = Callable[[str], Iterable[tuple[str, int, Dataset]]]
"""The data sets of a corruption, as `corruption_accuracy` takes them."""


@dataclass(frozen=True)
class Recipe:
    """One row of a published table, or the curves of a figure.

    `paper`, `row`: where it was printed. `training`: data, network and schedule, as ``fastadv train`` has them.
    `method`: its name, `options`: what of it differs from the defaults, or matters. `evaluation`: the name of a
    `Protocol`, `attacks`: what of the options of its attacks is changed, by name. `printed`: the figures, accuracies in
    percent. Its keys are ``clean``, ``gradient`` (see `GradientNorms`, here in the units in which the network sees the
    data), ``corruptions`` or attacks of the protocol, followed by `` from NAME`` for samples made on the network of
    that recipe; its values a figure, at the protocol's budget, or figures by budget, ``norm``, ``avg-AA(theta)`` or,
    such as ``5 into 3``, the share of a class that is taken for another; by row of the last layer, such as ``0 norm``,
    under ``weight``; by corruption, means over the five severities, with the ``mean`` over the 15 of the benchmark, or
    null for all of these. Under ``average``, by attack, the mean of ``clean`` and of all its figures; under ``gap``,
    such as ``ce-pgd over autoattack``, how much the last figure of one attack is above that of another; under ``NAME
    margin`` the shares of samples that the attack changes by at most each bound, in its norm. A figure that is null was
    not printed and is measured; a list of budgets is a curve, drawn and not printed, one of ``gradient`` the shares of
    samples whose squared norm is at most each bound; a figure with a deviation, such as ``89.34 ± 0.221``, is a
    `Printed`. `over`: of how many trainings the printed figures are the ``mean`` or the ``median``, such as ``{median:
    5}``; of one by default. `vary`: an option of the method, or of `attacks`, such as ``attacks.pgd.steps``, and the
    values that it takes in turn, or two, for all pairs: the first is the x axis of the figure, the second gives the
    lines; ``network`` takes the recipes that train the networks, ``epoch`` those whose networks are measured. `note`:
    what was left open in print. `also`: of settings of training that print leaves open, the other values with which
    figures are still compared with the printed ones. `network`: the recipe that trains the network, where that is
    another; training, method, weights and calibration are then its. `weights`: the recipe from whose trained network
    training starts, one that starts from its own. `calibrate`: the recipe of a `network`, and two attacks; before
    training, `attack` gets the budget at which it leaves that network as much accuracy as `like` does, and the method's
    attack gets the same budget. `features`: the outputs of `layers` that are drawn, reduced by each of `reductions`, of
    the first `limit` test samples of `classes` and of what `attacks` make of them. `epoch`: the epoch whose network is
    measured, a multiple of the training's ``keep_every``, or ``best``, by the avg-AA of what training holds out; by
    default the last.
    """

    name: str
    paper: str
    row: str
    training: dict[str, Any]
    method: str
    options: dict[str, Any]
    evaluation: str
    printed: dict[str, Any]
    attacks: dict[str, dict[str, Any]] = field(default_factory=dict)
    over: dict[str, int] = field(default_factory=dict)
    vary: dict[str, list[Any]] = field(default_factory=dict)
    note: str = ""
    also: dict[str, list[Any]] = field(default_factory=dict)
    network: str = ""
    weights: str = ""
    calibrate: dict[str, Any] = field(default_factory=dict)
    features: dict[str, Any] = field(default_factory=dict)
    epoch: int | str = 0

    def __post_init__(self) -> None:
        if self.calibrate and (self.calibrate.keys() != {"network", "attack", "like"} or "attack" not in self.options):
            raise ValueError(
                "calibrate takes network, attack and like, for a method whose attack is given; "
                f"got {', '.join(self.calibrate)}"
            )
        if unknown := self.also.keys() - self.training.keys():
            raise ValueError(f"also takes settings of training, got {', '.join(sorted(unknown))}")
        if len(self.vary) > 2:
            raise ValueError(f"vary takes one option or two, got {', '.join(self.vary)}")
        every = self.training.get("keep_every", 0)
        if self.epoch not in (0, "best") and not (every and self.epoch % every == 0):
            raise ValueError(f"epoch must be best, or a multiple of the keep_every of training, got {self.epoch}")
        if len(self.over) > 1 or not set(self.over) <= set(AVERAGES):
            raise ValueError(f"over must name one of {', '.join(AVERAGES)}, got {self.over}")

    @property
    def average(self) -> str:
        """How figures of several trainings are put together: as the printed ones were, by default their ``mean``."""
        return next(iter(self.over), "mean")

    def build_method(self) -> Method:
        """The training method with its options."""
        options = {key: _attack(value) if key == "attack" else value for key, value in self.options.items()}
        return METHODS[self.method](**options)

    def only(self, attacks: Sequence[str]) -> "Recipe":
        """The recipe with the figures of some attacks, and ``clean``. Raises ValueError for one that it has not."""
        have = {key.partition(" from ")[0] for key in self.printed}
        unknown = sorted(set(attacks) - have)
        if unknown:
            raise ValueError(f"{self.name} has no figures of {unknown[0]!r}: choose among {', '.join(sorted(have))}")
        wanted = {"clean", "average", "gap", *attacks}
        kept = {k: v for k, v in self.printed.items() if k.partition(" from ")[0] in wanted}
        for name in {"average", "gap"} & kept.keys():  # of attacks that are measured, too
            there = [what for what in kept[name] if all(map(kept.__contains__, _parts(self.printed, what)))]
            kept[name] = {what: kept[name][what] for what in there}
        return replace(self, printed={k: v for k, v in kept.items() if v != {}})

    def sources(self) -> list[str]:
        """The recipes whose networks samples are made on."""
        return sorted({key.partition(" from ")[2] for key in self.printed} - {""})

    def before(self) -> list[str]:
        """The recipes whose networks must be there first: for its weights, its calibration and its `sources`."""
        return [name for name in (self.weights, self.calibrate.get("network")) if name] + self.sources()

    def at(self, eps: float) -> "Recipe":
        """The recipe, calibrated: with another budget of its method's attack, whose step sizes follow."""
        return replace(self, options=_with(self.options, "attack.at", eps), calibrate={})

    def curves(self) -> dict[str, list[float]]:
        """The attacks whose accuracy is drawn over budgets, and these."""
        lists = {key: figure for key, figure in self.printed.items() if isinstance(figure, list)}
        return {key: budgets for key, budgets in lists.items() if not _is_sizes(key)}

    def histograms(self) -> dict[str, list[float]]:
        """The sizes, of gradients or margins, whose distribution is drawn, and the bounds of its steps."""
        lists = {key: figure for key, figure in self.printed.items() if isinstance(figure, list)}
        return {key: bounds for key, bounds in lists.items() if _is_sizes(key)}

    def landings(self) -> dict[str, list[str]]:
        """The attacks of which it is drawn how many samples of a class are taken for which, and these shares."""
        return {
            key: shares
            for key, figure in self.printed.items()
            if isinstance(figure, Mapping) and (shares := [what for what in figure if " into " in str(what)])
        }

    def _on(self, network: str) -> "Recipe":
        """The recipe, measured on the network that another trains."""
        other = load(network)
        inherited = ("training", "method", "options", "weights", "calibrate")
        network = other.network or network
        return replace(self, network=network, **{name: getattr(other, name) for name in inherited})

    def feature_attacks(self) -> dict[str, Attack]:
        """The attacks whose samples `features` shows."""
        return {name: _attack(settings) for name, settings in self.features.get("attacks", {}).items()}

    def points(self) -> list[tuple[Any, ...]]:
        """The values of the options that vary, for every variant."""
        return list(itertools.product(*self.vary.values()))

    def variants(self) -> "list[Recipe]":
        """The recipe for every point of the options that vary, or itself."""
        if not self.vary:
            return [self]
        variants = []
        for point in self.points():
            base, changes, name = self, {}, []
            for option, value in zip(self.vary, point, strict=True):
                if option == "network":
                    base = base._on(value)
                elif option == "epoch":
                    base = replace(base, epoch=value)
                else:
                    changes[option] = value
                name.append(f"{option}={value}")
            changed = {"attacks": base.attacks, **base.options}
            for option, value in changes.items():
                changed = _with(changed, option, value)
            settings = {"attacks": changed.pop("attacks"), "options": changed}
            variants.append(replace(base, name=f"{self.name}/{','.join(name)}", **settings, vary={}))
        return variants


@dataclass(frozen=True)
class Protocol:
    """How a paper evaluates: `attacks` by name, with a budget of 1 where the figures give budgets, and `label`, what
    they move away from (see `fastadv.evaluate`); `labels` of attacks that differ in that; `runs`: of how many runs of
    an attack, with seeds of their own, a figure is the mean.
    """

    label: str
    attacks: dict[str, Attack]
    labels: dict[str, str]
    runs: dict[str, int]


class Printed(float):
    """A printed figure and its standard `deviation`."""

    deviation: float

    def __new__(cls, value: float, deviation: float) -> "Printed":
        self = super().__new__(cls, value)
        self.deviation = deviation
        return self


@dataclass(frozen=True)
class Calibration:
    """What `calibrate` found: `attack` at `eps` and `like` at `like_eps` leave `network` the accuracies `left` and
    `like_left`, in percent.
    """

    network: str
    attack: str
    eps: float
    left: float
    like: str
    like_eps: float
    like_left: float

    def __str__(self) -> str:
        return (
            f"{self.network} keeps {self.left:.2f} % under {self.attack} at {self.eps:.4g}, and {self.like_left:.2f} % "
            f"under {self.like} at {self.like_eps:.4g}"
        )


@dataclass(frozen=True)
class Figure:
    """A figure of a table, `measured` and as `printed`: percent, or a norm.

    `deviation`: the printed figure's standard deviation, where it has one. `spread`: the measured one's over several
    seeds (of n - 1).
    `outcomes` [N]: every test sample's part in the figure, of which `measured` is the mean; None of corruptions and
    gradients, and over several seeds.
    """

    name: str
    measured: float
    printed: float | None
    deviation: float | None = None
    spread: float | None = None
    outcomes: Tensor | None = field(default=None, compare=False, repr=False)


def names() -> list[str]:
    """All recipes."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml") if path.name != PROTOCOLS)


def select(patterns: Iterable[str]) -> list[Recipe]:
    """The recipes that any of `patterns` names, such as ``blind-fashion-mnist-*``, each once, in the order given.

    Raises ValueError for a pattern that names none.
    """
    found: dict[str, Recipe] = {}
    for pattern in patterns:
        matching = fnmatch.filter(names(), pattern)
        if not matching:
            near = difflib.get_close_matches(pattern, names(), n=1)
            guess = f"; did you mean {near[0]!r}?" if near else "."
            raise ValueError(f"no recipe is called {pattern!r}{guess} See fastadv reproduce --list")
        found |= {name: load(name) for name in matching}
    return list(found.values())


def load(name: str) -> Recipe:
    """The recipe called `name`. Raises ValueError for one that misses something or has something unknown."""
    given = _read(FOLDER / f"{name}.yaml")
    if "network" in given:
        other = _read(FOLDER / f"{given['network']}.yaml")
        given |= {key: other[key] for key in ("training", "method", "weights", "calibrate") if key in other}
    try:
        ((method, options),) = given.pop("method").items()
        return Recipe(name=name, method=method, options=options or {}, **given)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"recipe {name}: {error}") from None


def protocol(name: str) -> Protocol:
    """The protocol called `name` in protocols.yaml."""
    given = _read(FOLDER / PROTOCOLS)[name]
    labels = {key: settings.pop("label", given["label"]) for key, settings in given["attacks"].items()}
    runs = {key: settings.pop("runs", 1) for key, settings in given["attacks"].items()}
    attacks = {key: _attack(settings) for key, settings in given["attacks"].items()}
    return Protocol(given["label"], attacks, labels, runs)


def calibrate(recipe: Recipe, model: nn.Module, test: Dataset, *, batch_size: int = 500) -> Calibration:
    """The budget at which the attack that `recipe` calibrates is as strong on `model`, on `test`, as that it is like.

    Raises ValueError where there is none, see `fastadv.evaluation.calibrated`.
    """
    names = [recipe.calibrate[key]["name"] for key in ("attack", "like")]
    attack, like = (_attack(recipe.calibrate[key]) for key in ("attack", "like"))
    attack = calibrated(model, test, attack, like, batch_size=batch_size)
    found = evaluate(model, test, {"attack": attack, "like": like}, batch_size=batch_size, checks=0).results
    left, like_left = (100 * found[key].accuracy for key in ("attack", "like"))
    return Calibration(recipe.calibrate["network"], names[0], attack.eps, left, names[1], like.eps, like_left)


def measure(
    recipe: Recipe,
    model: nn.Module,
    test: Dataset,
    networks: Mapping[str, nn.Module],
    *,
    sets: Sets | None = None,
    batch_size: int = 500,
    on_step: Callable[[int, int], None] | None = None,
) -> list[Figure]:
    """Every figure of `recipe`, for the trained `model`, on `test`.

    Args:
        recipe: names attacks, budgets and printed figures.
        model: the network trained by it.
        test: the samples.
        networks: the trained networks of ``recipe.sources()``, by name.
        sets: the data of a corruption at the five severities; by default `test`, corrupted here.
        batch_size: samples attacked at a time.
        on_step: called with (figures done, figures in all).
    """
    rules = protocol(recipe.evaluation)
    sets = sets or (lambda name: ((name, severity, corrupted(test, name, severity)) for severity in range(1, 6)))
    wanted = [(key, what, value) for key, figure in recipe.printed.items() for what, value in _items(key, figure)]

    @functools.cache
    def attacked(key: str, budget: float | None, seed: int) -> Result:
        name, _, source = key.partition(" from ")
        attack = replace(rules.attacks[name], **recipe.attacks.get(name, {}))
        attack = attack if budget is None else attack.at(budget)
        other = networks[source] if source else None
        settings = {"label": rules.labels[name], "batch_size": batch_size, "source": other, "checks": 0, "seed": seed}
        return evaluate(model, test, {key: attack}, **settings).results[key]

    @functools.cache
    def gradients() -> tuple[dict[str, float], Tensor]:
        norms, unit = gradient_norms(model, test), recipe.training.get("std", 1.0)  # dx / d((x - mean) / std)
        return norms.summary(unit), norms.squares * unit**2

    @functools.cache
    def weights() -> list[float]:
        return [row.norm for row in weight_norms(model, test.classes)]

    @functools.cache
    def landings(name: str) -> Tensor:
        return landing(model, test, rules.attacks[name], batch_size=batch_size).confusion

    @functools.cache
    def margins(name: str) -> Tensor:
        attack, sizes = fitted(rules.attacks[name], test, 0), []
        for ids in torch.arange(len(test), device=test.device).split(batch_size):
            x_adv = attack.rows(model, test.x[ids], test.y[ids], ids).x_adv
            sizes.append(ops.row_norms(x_adv, attack.norm, test.x[ids]) / attack.unit)
        return torch.cat(sizes).cpu()

    @functools.cache
    def under(corruption: str) -> float:
        return corruption_accuracy(model, sets(corruption), batch_size=batch_size).mean()

    @functools.cache
    def outcomes_of(key: str, what: float | str | None) -> Tensor:
        """Clean, and under attack the mean over its runs."""
        if key == "clean":
            return evaluate(model, test, {}, batch_size=batch_size, checks=0).natural.right.double()
        name = key.partition(" from ")[0]
        budget = what if rules.attacks[name].has_budget else None
        runs = [_outcomes(attacked(key, budget, seed), what).double() for seed in range(rules.runs[name])]
        return torch.stack(runs).mean(0)

    def under_attack(name: str) -> list[Tensor]:
        """The outcomes of every figure of the attack `name`, which may be several whose names begin like it."""
        return [outcomes_of(key, what) for key, what, _ in wanted if key == name or key.startswith(f"{name}-")]

    def measured(key: str, what: Any) -> tuple[float, Tensor | None]:
        if key == "corruptions":
            names = BENCHMARK if what == "mean" else [what]
            return 100 * sum(map(under, names)) / len(names), None
        if key == "weight":
            return weights()[int(what.removesuffix(" norm"))], None
        if isinstance(what, str) and " into " in what:
            before, after = map(int, what.split(" into "))
            taken = landings(key)[before]
            return 100 * float(taken[after] / (test.y == before).sum()), None
        if key == "gradient" and isinstance(what, str):
            return gradients()[0][what], None
        if key == "gradient":
            outcomes = gradients()[1] <= what
        elif key.endswith(" margin"):
            outcomes = margins(key.removesuffix(" margin")) <= what + 1e-6  # 7/255 in float32 are seven
        elif key == "average":
            outcomes = torch.stack([outcomes_of("clean", None), *under_attack(what)]).mean(0)
        elif key == "gap":
            weaker, stronger = (under_attack(name)[-1] for name in what.split(" over "))
            outcomes = weaker - stronger
        else:
            outcomes = outcomes_of(key, what)
        unit = 1 if what == "norm" else 100
        return unit * float(outcomes.double().mean()), unit * outcomes.double()

    figures = []
    for key, what, printed in wanted:
        mean, outcomes = measured(key, what)
        deviation = getattr(printed, "deviation", None)
        figures.append(Figure(figure_name(key, what), mean, printed, deviation, outcomes=outcomes))
        if on_step:
            on_step(len(figures), len(wanted))
    return figures


def figure_name(key: str, what: float | str | None) -> str:
    """How the figure of `Recipe.printed` at `key` and, within it, `what` is called."""
    return key if what is None else f"{key} {what:.4g}" if isinstance(what, float) else f"{key} {what}"


def averaged(recipe: Recipe, runs: Sequence[Sequence[Figure]]) -> list[Figure]:
    """The figures of several runs of `recipe`, which differ in their seed: `Recipe.average` and standard deviation.

    Raises ValueError for runs that have not the same figures, or fewer than two.
    """
    if len(runs) < 2 or len({tuple(figure.name for figure in run) for run in runs}) > 1:
        raise ValueError(f"{recipe.name}: two runs or more are needed, with the same figures")
    average = AVERAGES[recipe.average]
    found = []
    for figures in zip(*runs, strict=True):
        values = [figure.measured for figure in figures]
        found.append(replace(figures[0], measured=average(values), spread=stdev(values), outcomes=None))
    return found


def _is_sizes(key: str) -> bool:
    return key == "gradient" or key.endswith(" margin")


def _parts(printed: Mapping[str, Any], what: str) -> list[str]:
    """The attacks that an ``average`` or a ``gap`` is of."""
    return [key for name in what.split(" over ") for key in printed if key == name or key.startswith(f"{name}-")]


def _outcomes(result: Result, what: float | str | None) -> Tensor:
    """Every sample's part, a share or a size, in the figure of `result` called `what`."""
    if what == "norm":
        return result.sizes
    if result.curve is None or what is None:
        return result.right
    if isinstance(what, str):
        return result.curve.averages(float(what.removeprefix("avg-AA(").removesuffix(")")))
    return result.curve.right(what)


def _items(key: str, figure: Any) -> list[tuple[Any, float | None]]:
    if key == "corruptions" and figure is None:
        figure = dict.fromkeys(["mean", *BENCHMARK])
    if isinstance(figure, list):
        figure = dict.fromkeys(figure)
    return list(figure.items()) if isinstance(figure, Mapping) else [(None, figure)]


def _read(path: Path) -> dict[str, Any]:
    """A YAML file in which numbers may be fractions, such as 8/255, or have a deviation, such as 89.34 ± 0.221."""
    return _numbers(yaml.load(path.read_text(encoding="utf-8"), LOADER))


def _numbers(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {_numbers(key): _numbers(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_numbers(value) for value in tree]
    if isinstance(tree, str) and (fraction := re.fullmatch(r"(\d+)/(\d+)", tree)):
        return int(fraction[1]) / int(fraction[2])
    if isinstance(tree, str) and (figure := re.fullmatch(r"(\d+\.?\d*) ± (\d+\.?\d*)", tree)):
        return Printed(float(figure[1]), float(figure[2]))
    return tree


def _attack(settings: Mapping[str, Any]) -> Attack:
    """An attack from its name in `ATTACKS` and its options, with ``at`` a budget that its step sizes follow.

    Options that are attacks themselves, in ``attacks``, are given likewise.
    """
    options = dict(settings)
    if "attacks" in options:
        options["attacks"] = tuple(_attack(each) for each in options["attacks"])
    kind, eps = ATTACKS[options.pop("name")], options.pop("at", None)
    attack = kind(**options)
    return attack if eps is None else attack.at(eps)


def _with(options: Mapping[str, Any], path: str, value: Any) -> dict[str, Any]:
    """`options` with the one at `path`, such as ``attack.eps``, set to `value`."""
    first, _, rest = path.partition(".")
    return {**options, first: _with(options.get(first, {}), rest, value) if rest else value}
