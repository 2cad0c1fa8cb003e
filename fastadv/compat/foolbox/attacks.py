"""``foolbox.attacks``: its names for the attacks that fastadv has."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ... import attacks as ours
from ... import ops
from .._models import seeded
from .._names import only
from .criteria import Misclassification, TargetedMisclassification
from .models import PyTorchModel

__all__ = [
    "FGM",
    "FGSM",
    "L1PGD",
    "L2PGD",
    "MIFGSM",
    "PGD",
    "Attack",
    "DDNAttack",
    "L1BasicIterativeAttack",
    "L1FastGradientAttack",
    "L1ProjectedGradientDescentAttack",
    "L2BasicIterativeAttack",
    "L2CarliniWagnerAttack",
    "L2DeepFoolAttack",
    "L2FastGradientAttack",
    "L2ProjectedGradientDescentAttack",
    "LinfBasicIterativeAttack",
    "LinfDeepFoolAttack",
    "LinfFastGradientAttack",
    "LinfMomentumIterativeFastGradientMethod",
    "LinfPGD",
    "LinfProjectedGradientDescentAttack",
]

__getattr__, __dir__ = only(__name__, __all__)

Epsilons = float | None | Sequence[float | None] | np.ndarray | Tensor


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """``attack(fmodel, inputs, criterion, epsilons=...)``; see there."""

    seed: int | None = None

    norm: ClassVar[str] = "linf"
    smallest: ClassVar[bool] = False  # it looks for the smallest perturbation, and needs no epsilon

    @abstractmethod
    def build(self, epsilon: float | None, **common: Any) -> ours.Attack:
        """fastadv's attack at `epsilon`, with the options `common` to all."""

    def __call__(
        self, model: PyTorchModel, inputs: Tensor, criterion: Any, *, epsilons: Epsilons
    ) -> tuple[Any, Any, Tensor]:
        """(what the attack found, that clipped to epsilon, whether it is adversarial then).

        With K `epsilons`, in a list, an array or a tensor, two lists of K and a tensor [K, B]. None, for an attack that
        looks for the smallest perturbation, does not clip. `criterion` is labels, `Misclassification` or
        `TargetedMisclassification`; TypeError for anything else.
        """
        goal = _criterion(criterion)
        targeted = isinstance(goal, TargetedMisclassification)
        y = goal.target_classes if targeted else goal.labels
        values = epsilons.tolist() if isinstance(epsilons, np.ndarray | np.generic | Tensor) else epsilons
        listed = isinstance(values, Iterable)
        values = list(values) if listed else [values]
        if None in values and not self.smallest:
            raise ValueError(f"{type(self).__name__} needs a size: epsilons must not be None")
        common = {"bounds": model.bounds, "seed": self.seed} | ({"targeted": True} if targeted else {})
        made = [self.build(epsilon, **common) for epsilon in ([None] if self.smallest else values)]
        seed = seeded(made[0]).seed
        raw = [replace(attack, seed=seed)(model.model, inputs, y) for attack in made]
        raw *= len(values) if self.smallest else 1
        clipped = [self._clipped(inputs, x_adv, epsilon) for x_adv, epsilon in zip(raw, values, strict=True)]
        adversarial = torch.stack([goal(x_adv, model(x_adv)) for x_adv in clipped])
        return (raw, clipped, adversarial) if listed else (raw[0], clipped[0], adversarial[0])

    def _clipped(self, x: Tensor, x_adv: Tensor, epsilon: float | None) -> Tensor:
        if epsilon is None:
            return x_adv
        size, delta = ops.row_norms(x_adv, self.norm, x), x_adv - x
        if self.norm == "linf":
            clipped = x + delta.clamp(-epsilon, epsilon)
        else:
            clipped = x + ops.as_rows(epsilon / size, x).to(x.dtype) * delta
        return torch.where(ops.as_rows(size <= epsilon, x), x_adv, clipped)


def _criterion(given: Any) -> Misclassification | TargetedMisclassification:
    """The criterion that is `given`: ours, foolbox's own, or labels. Raises TypeError for anything else."""
    targeted = hasattr(given, "target_classes")
    classes = given.target_classes if targeted else getattr(given, "labels", given)
    classes = getattr(classes, "raw", classes)  # foolbox wraps them
    if not isinstance(classes, Tensor):
        raise TypeError(
            "criterion must be a tensor of labels, Misclassification or TargetedMisclassification of one, "
            f"got {type(given).__name__}"
        )
    return TargetedMisclassification(classes) if targeted else Misclassification(classes)


@dataclass(frozen=True, kw_only=True)
class LinfProjectedGradientDescentAttack(Attack):
    rel_stepsize: float = 0.01 / 0.3
    abs_stepsize: float | None = None
    steps: int = 40
    random_start: bool = True

    def build(self, epsilon: float | None, **common: Any) -> ours.Attack:
        alpha = self.rel_stepsize * epsilon if self.abs_stepsize is None else self.abs_stepsize
        return ours.PGD(epsilon, alpha, self.steps, float(self.random_start), norm=self.norm, **common)


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
class LinfMomentumIterativeFastGradientMethod(Attack):
    momentum: float = 1.0
    rel_stepsize: float = 0.2
    abs_stepsize: float | None = None
    steps: int = 10

    def build(self, epsilon: float | None, **common: Any) -> ours.Attack:
        alpha = self.rel_stepsize * epsilon if self.abs_stepsize is None else self.abs_stepsize
        return ours.MIFGSM(epsilon, alpha, self.steps, self.momentum, **common)


@dataclass(frozen=True, kw_only=True)
class LinfFastGradientAttack(Attack):
    random_start: bool = False

    def build(self, epsilon: float | None, **common: Any) -> ours.Attack:
        return ours.PGD(epsilon, epsilon, 1, float(self.random_start), norm=self.norm, **common)


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

    def build(self, epsilon: float | None, **common: Any) -> ours.Attack:
        if self.loss != "logits" or "targeted" in common:
            raise ValueError(f"{type(self).__name__} has loss 'logits' alone and no targets, got loss {self.loss!r}")
        return ours.DeepFool(self.steps, self.overshoot, self.candidates or 2**31, norm=self.norm, **common)


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


FGSM, FGM = LinfFastGradientAttack, L2FastGradientAttack
LinfPGD, L2PGD, L1PGD = (
    LinfProjectedGradientDescentAttack,
    L2ProjectedGradientDescentAttack,
    L1ProjectedGradientDescentAttack,
)
PGD, MIFGSM = LinfPGD, LinfMomentumIterativeFastGradientMethod
