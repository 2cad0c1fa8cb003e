"""ART's evasion attacks: ``ProjectedGradientDescent(estimator, eps=0.1).generate(x, y)``.

NumPy arrays in and out, float32; labels are classes or one-hot. `estimator` is ART's ``PyTorchClassifier``, of which
the model, ``clip_values`` and a mean and standard deviation of ``preprocessing`` are used, or a plain module for inputs
in [0, 1]. Names, arguments and defaults are those of the Adversarial Robustness Toolbox 1.20. What differs, on purpose:

- The model keeps its modes and gradients.
- Noise follows ``torch.manual_seed``, and successive calls differ: `generate` takes one number from PyTorch's
  generator, or none where the attribute `seed` of an attack is an integer. It is keyed by that number and the sample's
  place in `x`, so that ``batch_size`` does not matter.
- Steps and projections in L1 and L2 are those of fastadv's `PGD`.
- CarliniL2Method moves the image by Adam, not its inverse tanh by a line search: ``max_halving`` and ``max_doubling``
  mean nothing. ``learning_rate`` is a share of the width of ``clip_values``, and ``initial_const`` for a width of 1.
- ``clip_values`` that differ between features are refused.
- ``random_eps``, ``summary_writer``, ``minimal`` and masks are not supported. ``verbose`` means nothing, nor does
  ``eps_step`` where the attack has its own.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from .. import attacks as ours
from ..attacks import Model
from ._models import normalised, of_model, seeded
from ._names import only

__all__ = [
    "Attack",
    "AutoAttack",
    "AutoProjectedGradientDescent",
    "BasicIterativeMethod",
    "CarliniL2Method",
    "DeepFool",
    "FastGradientMethod",
    "MomentumIterativeMethod",
    "ProjectedGradientDescent",
    "SquareAttack",
]

__getattr__, __dir__ = only(__name__, __all__)

Norm = float | str


class Attack(ABC):
    """``generate(x, y)``; subclasses have the fields `estimator`, `batch_size` and the attack's own."""

    seed = None

    @abstractmethod
    def build(self, **common: Any) -> ours.Attack:
        """fastadv's attack with these options, and those `common` to all."""

    def bounds(self, x: np.ndarray, given: tuple[float, float]) -> tuple[float, float]:
        """The range that the attack keeps `x` in, of which the estimator has `given` what it knows."""
        return given

    def generate(self, x: np.ndarray, y: np.ndarray | None = None) -> np.ndarray:
        """The adversarial `x` [N, ...]: away from `y` or the model's predictions, or towards `y` if targeted."""
        model, bounds = _seen(self.estimator)
        attack = seeded(self.build(bounds=self.bounds(x, bounds), seed=self.seed))
        parameter = of_model(model)
        device = None if parameter is None else parameter.device
        x, classes = torch.from_numpy(np.asarray(x, dtype=np.float32)), None if y is None else _classes(np.asarray(y))
        found = [x[:0]]
        for ids in torch.arange(len(x)).split(self.batch_size):
            goal = None if classes is None else classes[ids].to(device)
            found.append(attack(model, x[ids].to(device), goal, ids.to(device)).cpu())
        return torch.cat(found).numpy()


def _seen(estimator: Any) -> tuple[Model, tuple[float, float]]:
    """The model of an estimator, with its normalisation inside, and the range of its inputs."""
    if isinstance(estimator, nn.Module):
        return estimator, (0.0, 1.0)
    if not hasattr(estimator, "model"):
        raise TypeError(f"estimator must be a torch module, or have one as its model; got {type(estimator).__name__}")
    clip, standardise = getattr(estimator, "clip_values", None), getattr(estimator, "preprocessing", None)
    others = [p for p in getattr(estimator, "preprocessing_operations", ()) if p is not standardise]
    if others:
        raise ValueError(f"preprocessing other than a mean and a standard deviation is not supported: {others}")
    mean, std = getattr(standardise, "mean", 0.0), getattr(standardise, "std", 1.0)
    return normalised(estimator.model, mean, std), (-math.inf, math.inf) if clip is None else _range(*clip)


def _range(lows: Any, highs: Any) -> tuple[float, float]:
    """The one range of all features. Raises ValueError where it differs between them."""
    ends = [(float(np.min(values)), float(np.max(values))) for values in (lows, highs)]
    if any(least != most for least, most in ends):
        (low, low_to), (high, high_to) = ends
        raise ValueError(
            f"clip_values must be the same for all features: got lows from {low:g} to {low_to:g} and highs from "
            f"{high:g} to {high_to:g}. Scale the inputs, (x - low) / (high - low), undo that in the model's forward, "
            "and give clip_values=(0, 1); eps is then a share of every feature's range"
        )
    return ends[0][0], ends[1][0]


def _classes(y: np.ndarray) -> torch.Tensor:
    """Labels [N], from numbers [N] or [N, 1] or rows of one-hot [N, K]."""
    return torch.from_numpy(y.argmax(axis=1) if y.ndim == 2 and y.shape[1] > 1 else y.reshape(-1)).long()


def _norm(norm: Norm) -> str:
    names = {"inf": "linf", "1": "l1", "1.0": "l1", "2": "l2", "2.0": "l2"}
    if str(norm) not in names:
        raise ValueError(f"norm must be 1, 2 or np.inf, got {norm}")
    return names[str(norm)]


def _pgd(self: Any, alpha: float, steps: int, norm: str, starts: int, common: dict[str, Any]) -> ours.Attack:
    how = {"restarts": max(starts, 1), "norm": norm, "targeted": self.targeted}
    return ours.PGD(self.eps, alpha, steps, float(starts > 0), **how, **common)


@dataclass
class ProjectedGradientDescent(Attack):
    estimator: Any
    norm: Norm = math.inf
    eps: float = 0.3
    eps_step: float = 0.1
    decay: float | None = None
    max_iter: int = 100
    targeted: bool = False
    num_random_init: int = 0
    batch_size: int = 32
    verbose: bool = True

    def build(self, **common: Any) -> ours.Attack:
        if self.decay is not None:
            raise ValueError("ProjectedGradientDescent has no decay here: use MomentumIterativeMethod")
        return _pgd(self, self.eps_step, self.max_iter, _norm(self.norm), self.num_random_init, common)


@dataclass
class FastGradientMethod(Attack):
    estimator: Any
    norm: Norm = math.inf
    eps: float = 0.3
    eps_step: float = 0.1
    targeted: bool = False
    num_random_init: int = 0
    batch_size: int = 32

    def build(self, **common: Any) -> ours.Attack:
        return _pgd(self, self.eps, 1, _norm(self.norm), self.num_random_init, common)


@dataclass
class BasicIterativeMethod(Attack):
    estimator: Any
    eps: float = 0.3
    eps_step: float = 0.1
    max_iter: int = 100
    targeted: bool = False
    batch_size: int = 32
    verbose: bool = True

    def build(self, **common: Any) -> ours.Attack:
        return _pgd(self, self.eps_step, self.max_iter, "linf", 0, common)


@dataclass
class MomentumIterativeMethod(Attack):
    estimator: Any
    norm: Norm = math.inf
    eps: float = 0.3
    eps_step: float = 0.1
    decay: float = 1.0
    max_iter: int = 100
    targeted: bool = False
    batch_size: int = 32
    verbose: bool = True

    def build(self, **common: Any) -> ours.Attack:
        if _norm(self.norm) != "linf":
            raise ValueError(f"MomentumIterativeMethod is for the norm np.inf here, got {self.norm}")
        return ours.MIFGSM(self.eps, self.eps_step, self.max_iter, self.decay, targeted=self.targeted, **common)


@dataclass
class DeepFool(Attack):
    classifier: Any
    max_iter: int = 100
    epsilon: float = 1e-6
    nb_grads: int = 10
    batch_size: int = 1
    verbose: bool = True

    @property
    def estimator(self) -> Any:
        return self.classifier

    def build(self, **common: Any) -> ours.Attack:
        return ours.DeepFool(self.max_iter, self.epsilon, self.nb_grads, **common)


@dataclass
class CarliniL2Method(Attack):
    classifier: Any
    confidence: float = 0.0
    targeted: bool = False
    learning_rate: float = 0.01
    binary_search_steps: int = 10
    max_iter: int = 10
    initial_const: float = 0.01
    max_halving: int = 5
    max_doubling: int = 5
    batch_size: int = 1
    verbose: bool = True

    @property
    def estimator(self) -> Any:
        return self.classifier

    def bounds(self, x: np.ndarray, given: tuple[float, float]) -> tuple[float, float]:
        """Without ``clip_values``, the range of `x` itself, as in ART: the learning rate is a share of something."""
        return given if math.isfinite(given[1] - given[0]) or not np.size(x) else (float(np.min(x)), float(np.max(x)))

    def build(self, **common: Any) -> ours.Attack:
        how = {"kappa": self.confidence, "initial_const": self.initial_const, "targeted": self.targeted}
        how |= {"steps": self.max_iter, "lr": self.learning_rate, "binary_search_steps": self.binary_search_steps}
        return ours.CW(**how, **common)


@dataclass
class AutoProjectedGradientDescent(Attack):
    estimator: Any
    norm: Norm = math.inf
    eps: float = 0.3
    eps_step: float = 0.1
    max_iter: int = 100
    targeted: bool = False
    nb_random_init: int = 5
    batch_size: int = 32
    loss_type: str | None = None
    verbose: bool = True

    def build(self, **common: Any) -> ours.Attack:
        losses = {None: "ce", "cross_entropy": "ce", "difference_logits_ratio": "dlr"}
        if self.targeted or self.loss_type not in losses:
            raise ValueError(
                "AutoProjectedGradientDescent has no targets here, and the losses cross_entropy and "
                f"difference_logits_ratio; got targeted={self.targeted}, loss_type={self.loss_type!r}"
            )
        how = {"restarts": self.nb_random_init, "loss": losses[self.loss_type], "norm": _norm(self.norm)}
        return ours.APGD(self.eps, self.max_iter, **how, **common)


@dataclass
class SquareAttack(Attack):
    estimator: Any
    norm: Norm = math.inf
    adv_criterion: None = None
    loss: None = None
    max_iter: int = 100
    eps: float = 0.3
    p_init: float = 0.8
    nb_restarts: int = 1
    batch_size: int = 128
    verbose: bool = True

    def build(self, **common: Any) -> ours.Attack:
        if self.adv_criterion is not None or self.loss is not None:
            raise ValueError("SquareAttack has its own loss and criterion here: leave adv_criterion and loss None")
        how = {"restarts": self.nb_restarts, "norm": _norm(self.norm)}
        return ours.Square(self.eps, self.max_iter, self.p_init, **how, **common)


@dataclass
class AutoAttack(Attack):
    estimator: Any
    norm: Norm = math.inf
    eps: float = 0.3
    eps_step: float = 0.1
    attacks: None = None
    batch_size: int = 32

    def build(self, **common: Any) -> ours.Attack:
        if self.attacks is not None:
            raise ValueError("AutoAttack runs the standard attacks here: leave attacks None")
        return ours.AutoAttack(self.eps, norm=_norm(self.norm), **common)
