"""``foolbox.attacks``: its names for the attacks that fastadv has."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ... import attacks as ours
from ... import ops
from .._models import in_range, seeded
from .._names import only
from ._eager import kind, plain
from .criteria import Criterion, Misclassification, TargetedMisclassification
from .models import PyTorchModel, of_foolbox

__all__ = [
    "FGM",
    "FGSM",
    "L1PGD",
    "L2PGD",
    "MIFGSM",
    "PGD",
    "Attack",
    "BoundaryAttack",
    "DDNAttack",
    "EADAttack",
    "HopSkipJumpAttack",
    "L1BasicIterativeAttack",
    "L1FastGradientAttack",
    "L1ProjectedGradientDescentAttack",
    "L2BasicIterativeAttack",
    "L2CarliniWagnerAttack",
    "L2DeepFoolAttack",
    "L2FastGradientAttack",
    "L2ProjectedGradientDescentAttack",
    "LinfAdditiveUniformNoiseAttack",
    "LinfBasicIterativeAttack",
    "LinfDeepFoolAttack",
    "LinfFastGradientAttack",
    "LinfMomentumIterativeFastGradientMethod",
    "LinfPGD",
    "LinfProjectedGradientDescentAttack",
    "Repeated",
]

__getattr__, __dir__ = only(__name__, __all__)

Epsilons = float | None | Sequence[float | None] | np.ndarray | Tensor


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """``attack(fmodel, inputs, criterion, epsilons=...)``; see there."""

    seed: int | None = None

    norm: ClassVar[str] = "linf"
    smallest: ClassVar[bool] = False  # it looks for the smallest perturbation, and needs no epsilon
    targets: ClassVar[bool] = True  # it can go towards classes
    blackens: ClassVar[bool] = False  # what it does not fool becomes 0, not the image itself

    @abstractmethod
    def build(self, epsilon: float | None, **common: Any) -> ours.Attack:
        """fastadv's attack at `epsilon`, with the options `common` to all."""

    def __call__(self, model: Any, inputs: Any, criterion: Any, *, epsilons: Epsilons) -> tuple[Any, Any, Any]:
        """(what the attack found, that clipped to epsilon, whether it is adversarial then).

        With K `epsilons`, in a list, an array or a tensor, two lists of K and a tensor [K, B]. None, for an attack that
        looks for the smallest perturbation, does not clip. `model` is a `PyTorchModel`, ours or foolbox's; `inputs` are
        tensors of PyTorch or EagerPy, and so are the results. `criterion` is labels, `Misclassification` or
        `TargetedMisclassification`; ValueError for anything else.
        """
        return _called(self, 1, model, inputs, criterion, epsilons)

    def run(
        self,
        model: Any,
        inputs: Any,
        criterion: Any,
        *,
        epsilon: float | None = None,
        early_stop: float | None = None,
    ) -> Any:
        """What was found, not clipped; `epsilon` is for attacks that need one, and `early_stop` means nothing."""
        return self(model, inputs, criterion, epsilons=None if self.smallest else epsilon)[0]

    def repeat(self, times: int) -> "Repeated":
        """The best of `times` calls for every sample."""
        return Repeated(self, times)

    def tried(
        self, model: PyTorchModel, x: Tensor, goal: Criterion, epsilons: list[float | None], number: int
    ) -> "_Found":
        """What the attack finds in its call `number`, from 0."""
        targeted = isinstance(goal, TargetedMisclassification)
        if targeted and not self.targets:
            raise ValueError(f"{type(self).__name__}: unsupported criterion: it knows no targets")
        y = plain(goal.target_classes if targeted else goal.labels)
        seed = None if self.seed is None else self.seed + number
        common = {"bounds": tuple(model.bounds), "seed": seed} | ({"targeted": True} if targeted else {})
        made = [self.build(epsilon, **common) for epsilon in ([None] if self.smallest else epsilons)]
        seed = seeded(made[0]).seed
        raw = [replace(attack, seed=seed)(model.model, x, y).clamp(*model.bounds) for attack in made]
        if self.blackens:
            black = torch.zeros_like(x).clamp(*model.bounds)
            raw = [torch.where(ops.as_rows(goal(x_adv, model(x_adv)), x), x_adv, black) for x_adv in raw]
        raw *= len(epsilons) if self.smallest else 1
        clipped = [self._clipped(x, x_adv, epsilon) for x_adv, epsilon in zip(raw, epsilons, strict=True)]
        return _Found(raw, clipped, [goal(x_adv, model(x_adv)) for x_adv in clipped])

    def _clipped(self, x: Tensor, x_adv: Tensor, epsilon: float | None) -> Tensor:
        if epsilon is None:
            return x_adv
        size, delta = ops.row_norms(x_adv, self.norm, x), x_adv - x
        if self.norm == "linf":
            clipped = x + delta.clamp(-epsilon, epsilon)
        else:
            clipped = x + ops.as_rows(epsilon / size, x).to(x.dtype) * delta
        return torch.where(ops.as_rows(size <= epsilon, x), x_adv, clipped)


class _Found(NamedTuple):
    """For each epsilon, what was found, that clipped, and where it is adversarial then."""

    raw: list[Tensor]
    clipped: list[Tensor]
    adversarial: list[Tensor]


@dataclass(frozen=True)
class Repeated:
    """`attack` called `times` times: what is adversarial replaces what is not and, where epsilon is None, is smaller.

    With a seed, each call has its own: seed, seed + 1 and so on.
    """

    attack: Attack
    times: int

    def __post_init__(self) -> None:
        if self.times < 1:
            raise ValueError(f"repeat: times must be at least 1, got {self.times}")

    def __call__(self, model: Any, inputs: Any, criterion: Any, *, epsilons: Epsilons) -> tuple[Any, Any, Any]:
        """As the attack's."""
        return _called(self.attack, self.times, model, inputs, criterion, epsilons)

    def repeat(self, times: int) -> "Repeated":
        return Repeated(self.attack, self.times * times)


def _called(
    attack: Attack, times: int, model: Any, inputs: Any, criterion: Any, epsilons: Epsilons
) -> tuple[Any, Any, Any]:
    """The best of `times` calls, in the form that `inputs` and `epsilons` have."""
    fmodel, x, goal = of_foolbox(model), plain(inputs), _criterion(criterion)
    values = epsilons.tolist() if isinstance(epsilons, np.ndarray | np.generic | Tensor) else epsilons
    listed = isinstance(values, Iterable)
    values = list(values) if listed else [values]
    if None in values and not attack.smallest:
        raise ValueError(f"{type(attack).__name__} needs a size: epsilons must not be None")
    best = attack.tried(fmodel, x, goal, values, 0)
    for number in range(1, times):
        new = attack.tried(fmodel, x, goal, values, number)
        for k, epsilon in enumerate(values):
            better = ~best.adversarial[k]
            if epsilon is None:
                better |= ops.row_norms(new.raw[k], attack.norm, x) < ops.row_norms(best.raw[k], attack.norm, x)
            better = ops.as_rows(better & new.adversarial[k], x)
            best.raw[k] = torch.where(better, new.raw[k], best.raw[k])
            best.clipped[k] = torch.where(better, new.clipped[k], best.clipped[k])
            best.adversarial[k] = best.adversarial[k] | new.adversarial[k]
    made = kind(inputs)
    if listed:
        return [*map(made, best.raw)], [*map(made, best.clipped)], made(torch.stack(best.adversarial))
    return tuple(made(column[0]) for column in best)


def _criterion(given: Any) -> Criterion:
    """The criterion that is `given`: ours, foolbox's own, or labels. Raises ValueError for anything else."""
    targeted = hasattr(given, "target_classes")
    classes = plain(given.target_classes if targeted else getattr(given, "labels", given))
    if not isinstance(classes, Tensor):
        raise ValueError(
            "unsupported criterion: it must be a tensor of labels, Misclassification or TargetedMisclassification of "
            f"one, got {type(given).__name__}"
        )
    return TargetedMisclassification(classes) if targeted else Misclassification(classes)


@dataclass(frozen=True, kw_only=True)
class _Steps(Attack):
    """An attack that takes `steps` of a size of its own, or a share of epsilon."""

    rel_stepsize: float
    abs_stepsize: float | None = None
    steps: int

    def sizes(self, epsilon: float, bounds: tuple[float, float]) -> tuple[float, float]:
        """The budget and the size of a step."""
        alpha = self.rel_stepsize * epsilon if self.abs_stepsize is None else self.abs_stepsize
        return in_range(epsilon, self.norm, bounds), in_range(alpha, self.norm, bounds)


@dataclass(frozen=True, kw_only=True)
class LinfProjectedGradientDescentAttack(_Steps):
    rel_stepsize: float = 0.01 / 0.3
    abs_stepsize: float | None = None
    steps: int = 40
    random_start: bool = True

    def build(self, epsilon: float | None, **common: Any) -> ours.Attack:
        eps, alpha = self.sizes(epsilon, common["bounds"])
        return ours.PGD(eps, alpha, self.steps, float(self.random_start), norm=self.norm, **common)


@dataclass(frozen=True, kw_only=True)
class L2ProjectedGradientDescentAttack(LinfProjectedGradientDescentAttack):
    rel_stepsize: float = 0.025
    steps: int = 50

    norm = "l2"


@dataclass(frozen=True, kw_only=True)
class L1ProjectedGradientDescentAttack(L2ProjectedGradientDescentAttack):
    norm = "l1"


@dataclass(frozen=True, kw_only=True)
class LinfBasicIterativeAttack(LinfProjectedGradientDescentAttack):
    rel_stepsize: float = 0.2
    steps: int = 10
    random_start: bool = False


@dataclass(frozen=True, kw_only=True)
class L2BasicIterativeAttack(LinfBasicIterativeAttack):
    norm = "l2"


@dataclass(frozen=True, kw_only=True)
class L1BasicIterativeAttack(LinfBasicIterativeAttack):
    norm = "l1"


@dataclass(frozen=True, kw_only=True)
class LinfMomentumIterativeFastGradientMethod(_Steps):
    momentum: float = 1.0
    rel_stepsize: float = 0.2
    abs_stepsize: float | None = None
    steps: int = 10

    def build(self, epsilon: float | None, **common: Any) -> ours.Attack:
        eps, alpha = self.sizes(epsilon, common["bounds"])
        return ours.MIFGSM(eps, alpha, self.steps, self.momentum, **common)


@dataclass(frozen=True, kw_only=True)
class LinfFastGradientAttack(Attack):
    random_start: bool = False

    targets = False

    def build(self, epsilon: float | None, **common: Any) -> ours.Attack:
        eps = in_range(epsilon, self.norm, common["bounds"])
        return ours.PGD(eps, eps, 1, float(self.random_start), norm=self.norm, **common)


@dataclass(frozen=True, kw_only=True)
class L2FastGradientAttack(LinfFastGradientAttack):
    norm = "l2"


@dataclass(frozen=True, kw_only=True)
class L1FastGradientAttack(LinfFastGradientAttack):
    norm = "l1"


@dataclass(frozen=True, kw_only=True)
class L2DeepFoolAttack(Attack):
    steps: int = 50
    candidates: int | None = 10
    overshoot: float = 0.02
    loss: str = "logits"

    norm = "l2"
    smallest = True
    targets = False

    def build(self, epsilon: float | None, **common: Any) -> ours.Attack:
        if self.loss not in ("logits", "crossentropy"):  # whose differences between classes are the same
            raise ValueError(f"{type(self).__name__}: expected loss to be logits or crossentropy, got {self.loss!r}")
        how = {"norm": self.norm, "convention": "foolbox", **common}
        return ours.DeepFool(self.steps, self.overshoot, self.candidates or 2**31, **how)


@dataclass(frozen=True, kw_only=True)
class LinfDeepFoolAttack(L2DeepFoolAttack):
    norm = "linf"


@dataclass(frozen=True)
class L2CarliniWagnerAttack(Attack):
    binary_search_steps: int = 9
    steps: int = 10000
    stepsize: float = 1e-2
    confidence: float = 0
    initial_const: float = 1e-3
    abort_early: bool = True

    norm = "l2"
    smallest = True
    blackens = True

    def build(self, epsilon: float | None, **common: Any) -> ours.Attack:
        how = {"kappa": self.confidence, "initial_const": self.initial_const, "abort_early": self.abort_early}
        how |= {"steps": self.steps, "lr": self.stepsize, "binary_search_steps": self.binary_search_steps}
        return ours.CW(**how, **common)


@dataclass(frozen=True, kw_only=True)
class DDNAttack(Attack):
    init_epsilon: float = 1.0
    steps: int = 100
    gamma: float = 0.05

    norm = "l2"
    smallest = True

    def build(self, epsilon: float | None, **common: Any) -> ours.Attack:
        return ours.DDN(self.steps, self.gamma, self.init_epsilon, **common)


@dataclass(frozen=True)
class BoundaryAttack(Attack):
    init_attack: None = None
    steps: int = 25000
    spherical_step: float = 1e-2
    source_step: float = 1e-2
    source_step_convergance: float = 1e-7
    step_adaptation: float = 1.5
    tensorboard: bool | None = False
    update_stats_every_k: int = 10

    norm = "l2"
    smallest = True

    def build(self, epsilon: float | None, **common: Any) -> ours.Attack:
        _refuse(self, init_attack=None, tensorboard=False, update_stats_every_k=10)
        how = {"sphere": self.spherical_step, "source": self.source_step, "least": self.source_step_convergance}
        return ours.Boundary(self.steps, adaptation=self.step_adaptation, tries=_DIRECTIONS, **how, **common)


@dataclass(frozen=True)
class HopSkipJumpAttack(Attack):
    init_attack: None = None
    steps: int = 64
    initial_gradient_eval_steps: int = 100
    max_gradient_eval_steps: int = 10000
    stepsize_search: str = "geometric_progression"
    gamma: float = 1.0
    tensorboard: bool | None = False
    constraint: str = "l2"

    smallest = True

    @property
    def norm(self) -> str:
        return self.constraint

    def build(self, epsilon: float | None, **common: Any) -> ours.Attack:
        _refuse(self, init_attack=None, tensorboard=False, stepsize_search="geometric_progression")
        how = {"queries": self.initial_gradient_eval_steps, "most": self.max_gradient_eval_steps, "gamma": self.gamma}
        return ours.HopSkipJump(self.steps, norm=self.constraint, tries=_DIRECTIONS, **how, **common)


_DIRECTIONS = 1000  # of foolbox's attack that finds where the two above start


def _refuse(attack: Attack, **only: Any) -> None:
    """Raises ValueError where an option has another value than the `only` one that there is here."""
    for name, value in only.items():
        if getattr(attack, name) != value:
            raise ValueError(f"{type(attack).__name__} has {name}={value!r} only here, got {getattr(attack, name)!r}")


@dataclass(frozen=True)
class EADAttack(Attack):
    binary_search_steps: int = 9
    steps: int = 10000
    initial_stepsize: float = 1e-2
    confidence: float = 0.0
    initial_const: float = 1e-3
    regularization: float = 1e-2
    decision_rule: str = "EN"
    abort_early: bool = True

    norm = "l1"
    smallest = True
    blackens = True

    def __post_init__(self) -> None:
        if self.decision_rule not in ("EN", "L1"):
            raise ValueError(f"EADAttack: invalid decision rule {self.decision_rule!r}: it must be EN or L1")

    def build(self, epsilon: float | None, **common: Any) -> ours.Attack:
        how = {"kappa": self.confidence, "initial_const": self.initial_const, "abort_early": self.abort_early}
        how |= {"steps": self.steps, "lr": self.initial_stepsize, "binary_search_steps": self.binary_search_steps}
        return ours.EAD(beta=self.regularization, decision=self.decision_rule.lower(), **how, **common)


@dataclass(frozen=True)
class LinfAdditiveUniformNoiseAttack(Attack):
    targets = False

    def build(self, epsilon: float | None, **common: Any) -> ours.Attack:
        low, high = common["bounds"]
        return ours.Noise(epsilon, **{**common, "bounds": (low - epsilon, high + epsilon)})  # clipped afterwards


FGSM, FGM = LinfFastGradientAttack, L2FastGradientAttack
LinfPGD, L2PGD, L1PGD = (
    LinfProjectedGradientDescentAttack,
    L2ProjectedGradientDescentAttack,
    L1ProjectedGradientDescentAttack,
)
PGD, MIFGSM = LinfPGD, LinfMomentumIterativeFastGradientMethod
