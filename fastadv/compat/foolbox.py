"""foolbox's models, criteria and attacks: ``LinfPGD()(fmodel, images, labels, epsilons=[...])``.

The calls, options and what they return are those of foolbox 3. What differs, on purpose: the model stays where it is
unless `device` says otherwise, its parameters keep their gradients, inputs are torch tensors, noise is keyed by the
sample's place in the batch and `seed`, starts and projections in L1 are those of fastadv's `PGD`, MI-FGSM divides every
gradient by its L1 norm, and DDN looks at its last point too, as their papers do.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from .. import attacks, ops
from ._models import logits_at, normalised


class PyTorchModel:
    """`model` with the `bounds` of its inputs and their `preprocessing`: mean, std and axis -3, the channels."""

    def __init__(
        self,
        model: nn.Module,
        bounds: tuple[float, float],
        device: torch.device | str | None = None,
        preprocessing: Mapping[str, Any] | None = None,
    ):
        how = {"mean": 0.0, "std": 1.0, "axis": -3, **(preprocessing or {})}
        if unknown := how.keys() - {"mean", "std", "axis"}:
            raise ValueError(f"PyTorchModel: preprocessing may have mean, std and axis, got {', '.join(unknown)}")
        mean, std = (torch.as_tensor(how[name]).flatten() for name in ("mean", "std"))
        if how["axis"] != -3 and max(len(mean), len(std)) > 1:
            raise ValueError(f"PyTorchModel: the axis of the channels must be -3, got {how['axis']}")
        size = max(len(mean), len(std))
        self.model = normalised(model if device is None else model.to(device), mean.expand(size), std.expand(size))
        self.bounds = (float(bounds[0]), float(bounds[1]))

    def __call__(self, inputs: Tensor) -> Tensor:
        """The logits at `inputs`, as attacks see them."""
        return logits_at(self.model, inputs)


@dataclass(frozen=True, eq=False)
class Misclassification:
    """Away from `labels` [B]."""

    labels: Tensor


@dataclass(frozen=True, eq=False)
class TargetedMisclassification:
    """Towards `target_classes` [B]."""

    target_classes: Tensor


Epsilons = float | None | Sequence[float | None] | np.ndarray | Tensor


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """``attack(fmodel, inputs, criterion, epsilons=...)``; see there."""

    seed: int = 0

    norm: ClassVar[str] = "linf"
    smallest: ClassVar[bool] = False  # it looks for the smallest perturbation, and needs no epsilon

    @abstractmethod
    def build(self, epsilon: float | None, **common: Any) -> attacks.Attack:
        """fastadv's attack at `epsilon`, with the options `common` to all."""

    def __call__(
        self, model: PyTorchModel, inputs: Tensor, criterion: Any, *, epsilons: Epsilons
    ) -> tuple[Any, Any, Tensor]:
        """(what the attack found, that clipped to epsilon, whether it is adversarial then).

        With K `epsilons`, in a list, an array or a tensor, two lists of K and a tensor [K, B]. None, for an attack that
        looks for the smallest perturbation, does not clip. `criterion` is labels, `Misclassification` or
        `TargetedMisclassification`.
        """
        targets = getattr(criterion, "target_classes", None)
        y = getattr(criterion, "labels", criterion) if targets is None else targets
        y = getattr(y, "raw", y)  # foolbox's own criteria
        values = epsilons.tolist() if isinstance(epsilons, np.ndarray | np.generic | Tensor) else epsilons
        listed = isinstance(values, Iterable)
        values = list(values) if listed else [values]
        if None in values and not self.smallest:
            raise ValueError(f"{type(self).__name__} needs a size: epsilons must not be None")
        common = {"bounds": model.bounds, "seed": self.seed}
        if targets is not None:
            common["targeted"] = True
        if self.smallest:
            raw = [self.build(None, **common)(model.model, inputs, y)] * len(values)
        else:
            raw = [self.build(epsilon, **common)(model.model, inputs, y) for epsilon in values]
        clipped = [self._clipped(inputs, x_adv, epsilon) for x_adv, epsilon in zip(raw, values, strict=True)]
        classes = torch.stack([attacks.predicted(model(x_adv)) for x_adv in clipped])
        adversarial = classes != y if targets is None else classes == y
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


@dataclass(frozen=True, kw_only=True)
class LinfProjectedGradientDescentAttack(Attack):
    rel_stepsize: float = 0.01 / 0.3
    abs_stepsize: float | None = None
    steps: int = 40
    random_start: bool = True

    def build(self, epsilon: float | None, **common: Any) -> attacks.Attack:
        alpha = self.rel_stepsize * epsilon if self.abs_stepsize is None else self.abs_stepsize
        return attacks.PGD(epsilon, alpha, self.steps, float(self.random_start), norm=self.norm, **common)


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

    def build(self, epsilon: float | None, **common: Any) -> attacks.Attack:
        alpha = self.rel_stepsize * epsilon if self.abs_stepsize is None else self.abs_stepsize
        return attacks.MIFGSM(epsilon, alpha, self.steps, self.momentum, **common)


@dataclass(frozen=True, kw_only=True)
class LinfFastGradientAttack(Attack):
    random_start: bool = False

    def build(self, epsilon: float | None, **common: Any) -> attacks.Attack:
        return attacks.PGD(epsilon, epsilon, 1, float(self.random_start), norm=self.norm, **common)


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

    def build(self, epsilon: float | None, **common: Any) -> attacks.Attack:
        if self.loss != "logits" or "targeted" in common:
            raise ValueError(f"{type(self).__name__} has loss 'logits' alone and no targets, got loss {self.loss!r}")
        return attacks.DeepFool(self.steps, self.overshoot, self.candidates or 2**31, norm=self.norm, **common)


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

    def build(self, epsilon: float | None, **common: Any) -> attacks.Attack:
        how = {"kappa": self.confidence, "initial_const": self.initial_const, "abort_early": self.abort_early}
        how |= {"steps": self.steps, "lr": self.stepsize, "binary_search_steps": self.binary_search_steps}
        return attacks.CW(**how, **common)


@dataclass(frozen=True, kw_only=True)
class DDNAttack(Attack):
    init_epsilon: float = 1.0
    steps: int = 100
    gamma: float = 0.05

    norm = "l2"
    smallest = True

    def build(self, epsilon: float | None, **common: Any) -> attacks.Attack:
        return attacks.DDN(self.steps, self.gamma, self.init_epsilon, **common)


FGSM, FGM = LinfFastGradientAttack, L2FastGradientAttack
LinfPGD, L2PGD, L1PGD = (
    LinfProjectedGradientDescentAttack,
    L2ProjectedGradientDescentAttack,
    L1ProjectedGradientDescentAttack,
)
PGD, MIFGSM = LinfPGD, LinfMomentumIterativeFastGradientMethod
