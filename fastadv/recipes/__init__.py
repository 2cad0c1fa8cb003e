"""Published experiments. A YAML file here is one row of a published table, or a figure: what is trained, how it is
evaluated, and what was printed. ``two_circles``, ``propositions`` and ``self_paced_loss`` are experiments with programs
of their own.
"""

import difflib
import fnmatch
import functools
import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from ..attacks import ATTACKS, Attack
from ..data import CORRUPTIONS, EXTRA, Dataset, corrupted
from ..evaluation import Result, corruption_accuracy, evaluate, gradient_norms
from ..trainers import METHODS, Method
from . import propositions, self_paced_loss, two_circles

__all__ = ["EXPERIMENTS", "Figure", "Protocol", "Recipe", "load", "measure", "names", "protocol", "select"]

EXPERIMENTS: dict[str, Callable[..., Sequence[Any]]] = {
    "propositions": propositions.reproduce,
    "self-paced-loss": self_paced_loss.reproduce,
    "two-circles": two_circles.reproduce,
}
"""Experiments with programs of their own, called with a folder for what they write; they return named tuples."""

FOLDER = Path(__file__).parent
PROTOCOLS = "protocols.yaml"
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
    that recipe; its values a figure, at the protocol's budget, or figures by budget, ``norm`` or ``avg-AA(theta)``; by
    corruption, means over the five severities, with the ``mean`` over the 15 of the benchmark, or null for all of
    these. A figure that is null was not printed and is measured. `vary`: an option of the method, or of `attacks`, such
    as ``attacks.pgd.steps``, and the values that it takes in turn, or two, for all pairs: the first is the x axis of
    the figure, the second gives the lines. `note`: what was left open in print. `network`: the recipe that trains the
    network, where that is another; training, method and weights are then its. `weights`: the recipe from whose trained
    network training starts, one that starts from its own.
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
    vary: dict[str, list[Any]] = field(default_factory=dict)
    note: str = ""
    network: str = ""
    weights: str = ""

    def __post_init__(self) -> None:
        if len(self.vary) > 2:
            raise ValueError(f"vary takes one option or two, got {', '.join(self.vary)}")

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
        wanted = {"clean", *attacks}
        return replace(self, printed={k: v for k, v in self.printed.items() if k.partition(" from ")[0] in wanted})

    def sources(self) -> list[str]:
        """The recipes whose networks samples are made on."""
        return sorted({key.partition(" from ")[2] for key in self.printed} - {""})

    def before(self) -> list[str]:
        """The recipes whose networks must be there first: that it starts from, and those of `sources`."""
        return [*([self.weights] if self.weights else []), *self.sources()]

    def points(self) -> list[tuple[Any, ...]]:
        """The values of the options that vary, for every variant."""
        return list(itertools.product(*self.vary.values()))

    def variants(self) -> "list[Recipe]":
        """The recipe for every point of the options that vary, or itself."""
        if not self.vary:
            return [self]
        variants = []
        for point in self.points():
            changed, name = {"attacks": self.attacks, **self.options}, []
            for option, value in zip(self.vary, point, strict=True):
                changed = _with(changed, option, value)
                name.append(f"{option}={value}")
            settings = {"attacks": changed.pop("attacks"), "options": changed}
            variants.append(replace(self, name=f"{self.name}/{','.join(name)}", **settings, vary={}))
        return variants


@dataclass(frozen=True)
class Protocol:
    """How a paper evaluates: `attacks` by name, with a budget of 1 where the figures give budgets, and `label`, what
    they move away from (see `fastadv.evaluate`); `labels` of attacks that differ in that.
    """

    label: str
    attacks: dict[str, Attack]
    labels: dict[str, str]


@dataclass(frozen=True)
class Figure:
    """A figure of a table, `measured` and as `printed`: percent, or a norm."""

    name: str
    measured: float
    printed: float | None


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
        given |= {key: other[key] for key in ("training", "method", "weights") if key in other}
    try:
        ((method, options),) = given.pop("method").items()
        return Recipe(name=name, method=method, options=options or {}, **given)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"recipe {name}: {error}") from None


def protocol(name: str) -> Protocol:
    """The protocol called `name` in protocols.yaml."""
    given = _read(FOLDER / PROTOCOLS)[name]
    labels = {key: settings.pop("label", given["label"]) for key, settings in given["attacks"].items()}
    return Protocol(given["label"], {key: _attack(settings) for key, settings in given["attacks"].items()}, labels)


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
    def attacked(key: str, budget: float | None) -> Result:
        name, _, source = key.partition(" from ")
        attack = replace(rules.attacks[name], **recipe.attacks.get(name, {}))
        attack = attack if budget is None else attack.at(budget)
        other = networks[source] if source else None
        settings = {"label": rules.labels[name], "batch_size": batch_size, "source": other, "checks": 0}
        return evaluate(model, test, {key: attack}, **settings).results[key]

    @functools.cache
    def gradients() -> dict[str, float]:
        unit = recipe.training.get("std", 1.0) ** 2  # the square of dx / d((x - mean) / std)
        return {name: unit * value for name, value in gradient_norms(model, test).summary().items()}

    @functools.cache
    def under(corruption: str) -> float:
        return corruption_accuracy(model, sets(corruption), batch_size=batch_size).mean()

    def measured(key: str, what: Any) -> float:
        if key == "clean":
            return 100 * evaluate(model, test, {}, batch_size=batch_size, checks=0).clean
        if key == "corruptions":
            names = BENCHMARK if what == "mean" else [what]
            return 100 * sum(map(under, names)) / len(names)
        if key == "gradient":
            return gradients()[what]
        has_budget = rules.attacks[key.partition(" from ")[0]].has_budget
        return _figure(attacked(key, what if has_budget else None), what)

    figures = []
    for key, what, printed in wanted:
        name = key if what is None else f"{key} {what:.4g}" if isinstance(what, float) else f"{key} {what}"
        figures.append(Figure(name, measured(key, what), printed))
        if on_step:
            on_step(len(figures), len(wanted))
    return figures


def _figure(result: Result, what: float | str | None) -> float:
    """What a figure called `what` says of `result`."""
    if what == "norm":
        return result.norm
    if isinstance(what, str) and result.curve is not None:
        return 100 * result.curve.average(float(what.removeprefix("avg-AA(").removesuffix(")")))
    if result.curve is not None and what is not None:
        return 100 * result.curve(what)
    return 100 * result.accuracy


def _items(key: str, figure: Any) -> list[tuple[Any, float | None]]:
    if key == "corruptions" and figure is None:
        figure = dict.fromkeys(["mean", *BENCHMARK])
    return list(figure.items()) if isinstance(figure, Mapping) else [(None, figure)]


def _read(path: Path) -> dict[str, Any]:
    """A YAML file in which numbers may be fractions, such as 8/255."""
    return _numbers(yaml.safe_load(path.read_text(encoding="utf-8")))


def _numbers(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {_numbers(key): _numbers(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_numbers(value) for value in tree]
    if isinstance(tree, str) and (fraction := re.fullmatch(r"(\d+)/(\d+)", tree)):
        return int(fraction[1]) / int(fraction[2])
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
