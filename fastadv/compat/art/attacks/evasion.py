"""``art.attacks.evasion``: its names for the attacks that fastadv has."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from .... import attacks as ours
from ....attacks import Model, predicted
from ....attacks.onestep import random_target
from ....threats import ThreatModel
from ..._models import drawn, in_range, logits_at, normalised, of_model, seeded
from ..._names import only
from ..exceptions import EstimatorError, Requirements

__all__ = [
    "Attack",
    "AutoAttack",
    "AutoProjectedGradientDescent",
    "BasicIterativeMethod",
    "BoundaryAttack",
    "CarliniL2Method",
    "CarliniLInfMethod",
    "DeepFool",
    "ElasticNet",
    "FastGradientMethod",
    "HopSkipJump",
    "MomentumIterativeMethod",
    "PixelAttack",
    "ProjectedGradientDescent",
    "ProjectedGradientDescentNumpy",
    "ProjectedGradientDescentPyTorch",
    "SaliencyMapMethod",
    "SquareAttack",
]

__getattr__, __dir__ = only(__name__, __all__)

Norm = float | str
Budget = float | np.ndarray
"""One number, or an array that broadcasts against the inputs."""

_COUNTS = {"batch_size": 1, "num_random_init": 0, "nb_random_init": 1, "max_halving": 1, "max_doubling": 1}
_COUNTS |= {"num_trial": 0, "sample_size": 1, "parallel_pool_size": 0}
"""Options that are whole numbers and which fastadv's attacks do not check, with the least that they may be."""
_FLAGS = ("targeted", "verbose", "minimal")
_NUMBERS = ("p_init", "epsilon", "confidence", "learning_rate", "initial_const", "beta", "min_epsilon")
_NUMBERS += ("largest_const", "decrease_factor", "const_factor")
_UNSUPPORTED = {"random_eps": False, "summary_writer": False, "estimator_orig": None}
_UNSUPPORTED |= {"adv_criterion": None, "loss": None}
"""Options that must be what they are by default."""
_ROUNDING = 1e-4
"""By what share a perturbation may be larger than eps, as in ART."""


class Attack(ABC):
    """``generate(x, y)``; subclasses have the fields `estimator`, `batch_size` and the attack's own.

    Raises ValueError or TypeError for options that are wrong, when it is made and by `set_params`.
    """

    seed = None
    takes_labels: ClassVar[bool] = True

    _estimator_requirements: ClassVar[Any] = Requirements("LossGradientsMixin")

    def __post_init__(self) -> None:
        if not self.is_estimator_valid(self.estimator):
            raise EstimatorError(type(self), self._estimator_requirements, self.estimator)
        _check_options(self)
        self._in_numbers(1.0).build(bounds=(-math.inf, math.inf), seed=None)

    @staticmethod
    def is_estimator_valid(estimator: Any, estimator_requirements: Any = None) -> bool:
        """Whether `estimator` is a torch module, or has one as its model; whatever ART requires of it besides."""
        return isinstance(_module(estimator), nn.Module)

    def set_params(self, **params: Any) -> None:
        """Changes options, which are checked together first."""
        known = {option.name for option in fields(self)} - {"estimator", "classifier"}
        for name in params:
            if name not in known:
                raise ValueError(f'The attribute "{name}" cannot be set for this attack.')
        vars(self).update(vars(replace(self, **params)))

    @abstractmethod
    def build(self, **common: Any) -> ours.Attack:
        """fastadv's attack with these options, and those `common` to all."""

    def bounds(self, x: np.ndarray, given: tuple[float, float]) -> tuple[float, float]:
        """The range that the attack keeps `x` in, of which the estimator has `given` what it knows."""
        return given

    def generate(
        self,
        x: np.ndarray,
        y: np.ndarray | None = None,
        *,
        mask: np.ndarray | None = None,
        x_adv_init: np.ndarray | None = None,
        x_init: np.ndarray | None = None,
    ) -> np.ndarray:
        """The adversarial `x` [N, ...]: away from `y` or the model's predictions, or towards `y` if targeted.

        `mask` broadcasts against `x`; features where it is 0 stay what they are, bit by bit. `x_adv_init` [N, ...] is
        where attacks on decisions start. To others it means nothing, nor does `x_init` to any, as in ART.
        """
        model, given = _seen(self.estimator)
        inputs = torch.from_numpy(np.asarray(x, dtype=np.float32))
        goal = _classes(np.asarray(y)) if y is not None and self.takes_labels else None
        parameter = of_model(model)
        device = None if parameter is None else parameter.device
        box = self.bounds(x, given)
        free = None if mask is None else _laid("mask", np.asarray(mask) != 0, inputs)
        eps = getattr(self, "eps", None)
        each = _laid("eps", eps, inputs) if isinstance(eps, np.ndarray) else None
        alike = each is None or bool((each == each[:1]).all())
        starts = None if x_adv_init is None else torch.from_numpy(np.asarray(x_adv_init, dtype=np.float32))
        seed = seeded(self._in_numbers(1.0).build(bounds=(-math.inf, math.inf), seed=self.seed)).seed
        found = [inputs[:0]]
        for ids in torch.arange(len(inputs)).split(self.batch_size if alike else 1) if len(inputs) else ():
            numbers = self._in_numbers(1.0 if each is None else each[ids].max().item())
            may, own = (None if part is None else part[ids].to(device) for part in (free, each))
            attack = numbers.build(bounds=box, seed=seed)
            if starts is not None and hasattr(attack, "starts"):
                attack = replace(attack, starts=starts[ids])
            attack = _held(attack, may, own)
            part = inputs[ids].to(device), None if goal is None else goal[ids].to(device), ids.to(device)
            found.append(numbers.attacked(attack, model, *part).cpu())
        return torch.cat(found).numpy()

    def attacked(self, attack: ours.Attack, model: Model, x: Tensor, y: Tensor | None, ids: Tensor) -> Tensor:
        """What `attack` makes of one batch."""
        return attack(model, x, y, ids)

    def _in_numbers(self, most: float) -> "Attack":
        """The same attack with the budget `most` where it has an array of them, and the step of the same share."""
        if not isinstance(getattr(self, "eps", None), np.ndarray):
            return self
        return replace(self, eps=most, eps_step=(most or 1.0) * _step(self))


def _held(attack: ours.Attack, free: Tensor | None, each: Tensor | None) -> ours.Attack:
    """`attack` where the mask `free` [B, ...] is True, within `each` [B, ...], which is that of all samples.

    None: everywhere, and within the attack's own budget, which is the largest of `each`.
    """
    if each is not None and each.any():
        each = each.clamp(max=attack.bounds[1] - attack.bounds[0])  # nothing moves further than that
        free = each > 0 if free is None else free & (each > 0)
        return ThreatModel(attack, mask=free, shares=torch.where(each > 0, each / each.max(), 1.0)[0])
    return attack if free is None else ThreatModel(attack, mask=free)


def _laid(name: str, value: np.ndarray, x: Tensor) -> Tensor:
    """`value` for every feature of `x` [N, ...]. Raises ValueError where it does not broadcast against that."""
    try:
        return torch.from_numpy(np.array(np.broadcast_to(value, x.shape)))
    except ValueError:
        raise ValueError(f"{name} must broadcast against x, {tuple(x.shape)}; got {np.shape(value)}") from None


def _step(attack: Any) -> float:
    """The size of a step as a share of the budget, where both are arrays."""
    if not getattr(attack, "minimal", True):  # FastGradientMethod's one step is eps
        return 1.0
    shares = (attack.eps_step / np.where(attack.eps > 0, attack.eps, np.nan)).ravel()
    shares = shares[~np.isnan(shares)]
    if len(shares) == 0:
        return 1.0
    if np.ptp(shares) > 1e-5 * shares[0]:
        raise ValueError(
            f"{type(attack).__name__}: eps_step must be the same share of every eps, got shares from {shares.min():g} "
            f"to {shares.max():g}"
        )
    return float(shares[0])


def _check_options(attack: Any) -> None:
    """ART's checks, of what fastadv's attacks do not check themselves."""
    name, options = type(attack).__name__, vars(attack)
    for option, value in options.items():
        if option in _COUNTS and not isinstance(value, Integral):
            error = TypeError if option == "num_random_init" else ValueError
            raise error(f"{name}: {option} must be a whole number, got {value!r}")
        if option in _COUNTS and value < _COUNTS[option]:
            raise ValueError(f"{name}: {option} must be at least {_COUNTS[option]}, got {value}")
        if option in _FLAGS and not isinstance(value, bool):
            raise ValueError(f"{name}: {option} must be True or False, got {value!r}")
        if option in _NUMBERS and not isinstance(value, Real):
            raise ValueError(f"{name}: {option} must be a number, got {value!r}")
        if option in _UNSUPPORTED and value != _UNSUPPORTED[option]:
            raise ValueError(f"{name}: {option} is not supported here: leave it {_UNSUPPORTED[option]}, got {value!r}")
    if "eps" in options:
        _check_budgets(attack)


def _check_budgets(attack: Any) -> None:
    name, sizes = type(attack).__name__, {"eps": attack.eps, "eps_step": getattr(attack, "eps_step", attack.eps)}
    arrays = [isinstance(size, np.ndarray) for size in sizes.values()]
    if not isinstance(attack, _Ascent):
        if not all(isinstance(size, Real) and size > 0 for size in sizes.values()):
            raise ValueError(f"{name}: eps and eps_step must be positive numbers, got {sizes}")
        return
    if not all(arrays) and not all(isinstance(size, Real) for size in sizes.values()):
        raise TypeError(f"{name}: eps and eps_step must both be numbers, or both arrays; got {sizes}")
    if np.min(attack.eps) < 0 or np.min(attack.eps_step) <= 0:
        raise ValueError(f"{name}: eps must not be negative, and eps_step positive; got {sizes}")
    if all(arrays) and (attack.eps.shape != attack.eps_step.shape or _norm(attack.norm) != "linf"):
        shapes = f"{attack.eps.shape} and {attack.eps_step.shape}"
        raise ValueError(f"{name}: arrays eps and eps_step must have one shape, and norm np.inf; got {shapes}")


def _module(estimator: Any) -> Any:
    """The module that `estimator` is, or has as its model; what else that may be, or None."""
    return estimator if isinstance(estimator, nn.Module) else getattr(estimator, "model", None)


def _seen(estimator: Any) -> tuple[Model, tuple[float, float]]:
    """The model of an estimator, with its normalisation inside, and the range of its inputs."""
    if isinstance(estimator, nn.Module):
        return estimator, (0.0, 1.0)
    clip, standardise = getattr(estimator, "clip_values", None), getattr(estimator, "preprocessing", None)
    others = [p for p in getattr(estimator, "preprocessing_operations", ()) if p is not standardise]
    if others:
        raise ValueError(f"preprocessing other than a mean and a standard deviation is not supported: {others}")
    mean, std = getattr(standardise, "mean", 0.0), getattr(standardise, "std", 1.0)
    return normalised(_module(estimator), mean, std), (-math.inf, math.inf) if clip is None else _range(*clip)


def _logits(estimator: Any, x: np.ndarray, batch_size: int) -> Tensor:
    """What the model of `estimator` makes of `x` [N, ...], [N, K] on the CPU."""
    model, _ = _seen(estimator)
    parameter = of_model(model)
    device = None if parameter is None else parameter.device
    batches = torch.from_numpy(np.asarray(x, dtype=np.float32)).split(batch_size)
    return torch.cat([logits_at(model, batch.to(device)).cpu() for batch in batches])


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


class _Ascent(Attack):
    """Steps up the gradient of the loss; subclasses lack some of the options, which are as here."""

    norm: Norm = math.inf
    decay: float | None = None
    num_random_init: int = 0

    def build(self, **common: Any) -> ours.Attack:
        norm = _norm(self.norm)
        eps, step = (in_range(size, norm, common["bounds"]) for size in (self.eps, self.eps_step))
        common["targeted"] = self.targeted
        if self.decay is None:
            starts = {"random_start": float(self.num_random_init > 0), "restarts": max(self.num_random_init, 1)}
            return ours.PGD(eps, step, self.max_iter, norm=norm, **starts, **common)
        if norm != "linf" or self.num_random_init:
            raise ValueError(
                f"{type(self).__name__}: decay is for the norm np.inf and no random starts here, got norm={self.norm} "
                f"and num_random_init={self.num_random_init}"
            )
        return ours.MIFGSM(eps, step, self.max_iter, self.decay, **common)


@dataclass
class ProjectedGradientDescent(_Ascent):
    estimator: Any
    norm: Norm = math.inf
    eps: Budget = 0.3
    eps_step: Budget = 0.1
    decay: float | None = None
    max_iter: int = 100
    targeted: bool = False
    num_random_init: int = 0
    batch_size: int = 32
    random_eps: bool = False
    summary_writer: bool = False
    verbose: bool = True


ProjectedGradientDescentNumpy = ProjectedGradientDescentPyTorch = ProjectedGradientDescent


@dataclass
class BasicIterativeMethod(_Ascent):
    estimator: Any
    eps: Budget = 0.3
    eps_step: Budget = 0.1
    max_iter: int = 100
    targeted: bool = False
    batch_size: int = 32
    verbose: bool = True


@dataclass
class MomentumIterativeMethod(_Ascent):
    estimator: Any
    norm: Norm = math.inf
    eps: Budget = 0.3
    eps_step: Budget = 0.1
    decay: float = 1.0
    max_iter: int = 100
    targeted: bool = False
    batch_size: int = 32
    verbose: bool = True


@dataclass
class FastGradientMethod(_Ascent):
    estimator: Any
    norm: Norm = math.inf
    eps: Budget = 0.3
    eps_step: Budget = 0.1
    targeted: bool = False
    num_random_init: int = 0
    batch_size: int = 32
    minimal: bool = False
    summary_writer: bool = False

    def build(self, **common: Any) -> ours.Attack:
        starts = 0 if self.minimal else self.num_random_init
        how = {"random_start": float(starts > 0), "restarts": max(starts, 1), "targeted": self.targeted}
        eps = in_range(self.eps, norm := _norm(self.norm), common["bounds"])
        return ours.PGD(eps, eps, 1, norm=norm, **how, **common)

    def attacked(self, attack: ours.Attack, model: Model, x: Tensor, y: Tensor | None, ids: Tensor) -> Tensor:
        """With `minimal`, at eps_step, twice that and so on up to eps, until a sample is fooled."""
        if not self.minimal:
            return super().attacked(attack, model, x, y, ids)
        x_adv, left = x.clone(), torch.arange(len(x), device=x.device)
        for number in range(1, math.floor(self.eps / self.eps_step * (1 + 1e-6)) + 1):
            eps = min(number * self.eps_step, attack.eps)
            part = attack.of_rows(left, x[left]).at(eps)
            found = part.run(model, x[left], None if y is None else y[left], ids[left])
            x_adv[left] = found.x_adv
            if number * self.eps_step >= attack.eps or len(left := left[~found.success]) == 0:
                break
        return x_adv


class _OfClassifier(Attack):
    """What calls its estimator a classifier."""

    _estimator_requirements = Requirements("ClassGradientsMixin")

    @property
    def estimator(self) -> Any:
        return self.classifier


class _OfRange(Attack):
    """What takes the range of its inputs as a unit, or draws from it; without ``clip_values``, that of `x`, as ART."""

    def bounds(self, x: np.ndarray, given: tuple[float, float]) -> tuple[float, float]:
        return given if math.isfinite(given[1] - given[0]) or not np.size(x) else (float(np.min(x)), float(np.max(x)))


@dataclass
class DeepFool(_OfClassifier):
    classifier: Any
    max_iter: int = 100
    epsilon: float = 1e-6
    nb_grads: int = 10
    batch_size: int = 1
    verbose: bool = True

    takes_labels = False

    def build(self, **common: Any) -> ours.Attack:
        return ours.DeepFool(self.max_iter, self.epsilon, self.nb_grads, **common)


@dataclass
class CarliniL2Method(_OfClassifier, _OfRange):
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

    def build(self, **common: Any) -> ours.Attack:
        """As many passes through the model for each const as ART's: it takes two gradients and a search for a step."""
        steps = self.max_iter * (2 + (self.max_halving + self.max_doubling) // 2)
        how = {"kappa": self.confidence, "initial_const": self.initial_const, "targeted": self.targeted}
        how |= {"steps": steps, "lr": self.learning_rate, "binary_search_steps": self.binary_search_steps}
        return ours.CW(**how, **common)


@dataclass
class CarliniLInfMethod(_OfClassifier, _OfRange):
    classifier: Any
    confidence: float = 0.0
    targeted: bool = False
    learning_rate: float = 0.01
    max_iter: int = 10
    decrease_factor: float = 0.9
    initial_const: float = 1e-5
    largest_const: float = 20.0
    const_factor: float = 2.0
    batch_size: int = 1
    verbose: bool = True

    def build(self, **common: Any) -> ours.Attack:
        if self.const_factor <= 1:
            raise ValueError(f"CarliniLInfMethod: const_factor must be greater than 1, got {self.const_factor}")
        how = {"kappa": self.confidence, "steps": self.max_iter, "lr": self.learning_rate, "targeted": self.targeted}
        how |= {"initial_const": self.initial_const, "largest_const": self.largest_const}
        return ours.CWLinf(decrease=self.decrease_factor, **how, **common)


@dataclass
class ElasticNet(_OfClassifier):
    classifier: Any
    confidence: float = 0.0
    targeted: bool = False
    learning_rate: float = 1e-2
    binary_search_steps: int = 9
    max_iter: int = 100
    beta: float = 1e-3
    initial_const: float = 1e-3
    batch_size: int = 1
    decision_rule: str = "EN"
    verbose: bool = True

    def build(self, **common: Any) -> ours.Attack:
        how = {"kappa": self.confidence, "initial_const": self.initial_const, "targeted": self.targeted}
        how |= {"steps": self.max_iter, "lr": self.learning_rate, "binary_search_steps": self.binary_search_steps}
        how |= {"beta": self.beta, "decision": str(self.decision_rule).lower(), "abort_early": False}
        return ours.EAD(**how, **common)


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

    _estimator_requirements = Requirements("LossGradientsMixin", "ClassifierMixin")

    def build(self, **common: Any) -> ours.Attack:
        losses = {None: "ce", "cross_entropy": "ce", "difference_logits_ratio": "dlr"}
        if self.loss_type not in losses:
            raise ValueError(
                "AutoProjectedGradientDescent: loss_type must be None, cross_entropy or difference_logits_ratio, "
                f"got {self.loss_type!r}"
            )
        how = {"restarts": self.nb_random_init, "loss": losses[self.loss_type], "targeted": self.targeted}
        norm = _norm(self.norm)
        return ours.APGD(in_range(self.eps, norm, common["bounds"]), self.max_iter, norm=norm, **how, **common)


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

    _estimator_requirements = Requirements("NeuralNetworkMixin")

    def build(self, **common: Any) -> ours.Attack:
        how = {"restarts": self.nb_restarts, "norm": (norm := _norm(self.norm))}
        return ours.Square(in_range(self.eps, norm, common["bounds"]), self.max_iter, self.p_init, **how, **common)


@dataclass
class BoundaryAttack(_OfRange):
    estimator: Any
    batch_size: int = 64
    targeted: bool = True
    delta: float = 0.01
    epsilon: float = 0.01
    step_adapt: float = 0.667
    max_iter: int = 5000
    num_trial: int = 25
    sample_size: int = 20
    init_size: int = 100
    min_epsilon: float = 0.0
    verbose: bool = True

    _estimator_requirements = Requirements("ClassifierMixin")

    def build(self, **common: Any) -> ours.Attack:
        sizes = {"sphere": self.delta, "source": self.epsilon, "least": self.min_epsilon}
        how = {"adaptation": 1 / self.step_adapt, "tries": self.init_size, "targeted": self.targeted}
        return ours.Boundary(self.max_iter * self.sample_size, **sizes, **how, **common)


@dataclass
class HopSkipJump(_OfClassifier, _OfRange):
    classifier: Any
    batch_size: int = 64
    targeted: bool = False
    norm: Norm = 2
    max_iter: int = 50
    max_eval: int = 10000
    init_eval: int = 100
    init_size: int = 100
    verbose: bool = True

    _estimator_requirements = Requirements("ClassifierMixin")

    def build(self, **common: Any) -> ours.Attack:
        if self.max_eval < self.init_eval:
            evals = f"init_eval {self.init_eval} and max_eval {self.max_eval}"
            raise ValueError(f"HopSkipJump: max_eval must be at least init_eval, got {evals}")
        how = {"norm": _norm(self.norm), "tries": self.init_size, "targeted": self.targeted}
        return ours.HopSkipJump(self.max_iter, self.init_eval, self.max_eval, **how, **common)


@dataclass
class SaliencyMapMethod(_OfClassifier):
    classifier: Any
    theta: float = 0.1
    gamma: float = 1.0
    batch_size: int = 1
    verbose: bool = True

    def generate(self, x: np.ndarray, y: np.ndarray | None = None, **how: Any) -> np.ndarray:
        """The adversarial `x` [N, ...]: towards `y`, or towards any class but the predicted one, drawn at random."""
        return super().generate(x, self._drawn(x) if y is None else y, **how)

    def _drawn(self, x: np.ndarray) -> np.ndarray:
        logits = _logits(self.estimator, x, self.batch_size)
        return random_target(predicted(logits), torch.arange(len(x)), logits.shape[1], drawn(self.seed)).numpy()

    def build(self, **common: Any) -> ours.Attack:
        lo, hi = common["bounds"]
        theta = self.theta / (hi - lo if math.isfinite(hi - lo) else 1)
        return ours.JSMA(max(-1.0, min(1.0, theta)), self.gamma, saliency="target", targeted=True, **common)


@dataclass
class PixelAttack(_OfClassifier):
    classifier: Any
    th: int | None = None
    es: int = 1
    max_iter: int = 100
    targeted: bool = False
    verbose: bool = False

    _estimator_requirements = Requirements("NeuralNetworkMixin", "ClassifierMixin")

    batch_size = 32

    def build(self, **common: Any) -> ours.Attack:
        if self.th is None or self.es != 1:
            raise ValueError(
                f"PixelAttack needs th, how many pixels may change, and es=1 here; got th={self.th}, es={self.es}"
            )
        how = {"population": max(400, 5 * self.th), "base": "best", "targeted": self.targeted}
        return ours.OnePixel(self.th, self.max_iter, **how, **common)


@dataclass
class AutoAttack(Attack):
    estimator: Any
    norm: Norm = math.inf
    eps: float = 0.3
    eps_step: float = 0.1
    attacks: Sequence[Attack] | None = None
    batch_size: int = 32
    estimator_orig: None = None
    targeted: bool = False
    parallel_pool_size: int = 0

    _estimator_requirements = Requirements("ClassifierMixin")

    def __post_init__(self) -> None:
        if not all(isinstance(attack, Attack) for attack in self.attacks or ()):
            raise ValueError(f"AutoAttack: attacks must be a list of attacks of this module, got {self.attacks!r}")
        super().__post_init__()

    def build(self, **common: Any) -> ours.Attack:
        if self.targeted and not self.attacks:
            raise ValueError("AutoAttack has no targets of its own here: leave targeted False, or give it attacks")
        if self.parallel_pool_size and not self.attacks:
            raise ValueError("AutoAttack compares what attacks find: leave parallel_pool_size 0, or give it attacks")
        norm = _norm(self.norm)
        return ours.AutoAttack(in_range(self.eps, norm, common["bounds"]), norm=norm, **common)

    def generate(self, x: np.ndarray, y: np.ndarray | None = None, **how: Any) -> np.ndarray:
        """With `attacks`, each on the samples that none before has fooled within `eps`, away from `y`.

        If `targeted`, then those that can be towards every other class, in turn. With a `parallel_pool_size`, each on
        all samples, and the smallest perturbation in L2 counts. What is not fooled is returned as it is.
        """
        if not self.attacks:
            return super().generate(x, y, **how)
        x = np.asarray(x, dtype=np.float32)
        logits = _logits(self.estimator, x, self.batch_size)
        predictions, classes = predicted(logits).numpy(), logits.shape[1]
        labels = predictions if y is None else _classes(np.asarray(y)).numpy()
        runs = [(_aimed(attack, False, self.seed), labels) for attack in self.attacks]
        if self.targeted:
            aimed = [_aimed(attack, True, self.seed) for attack in self.attacks if hasattr(attack, "targeted")]
            runs += [(attack, (labels + k) % classes) for attack in aimed for k in range(1, classes)]
        x_adv, right, lengths = x.copy(), predictions == labels, np.full(len(x), np.inf)
        for attack, goals in runs:
            left = (right if self.parallel_pool_size else right & np.isinf(lengths)).nonzero()[0]
            if len(left) == 0:
                break
            found = attack.generate(x[left], goals[left], **{k: _of_rows(v, left, x) for k, v in how.items()})
            delta = (found - x[left]).reshape(len(left), -1)
            won = predicted(_logits(self.estimator, found, self.batch_size)).numpy() != labels[left]
            won &= np.linalg.norm(delta, float(self.norm), axis=1) * (1 - _ROUNDING) <= self.eps
            length = np.linalg.norm(delta, axis=1)
            won &= length < lengths[left]
            x_adv[left[won]], lengths[left[won]] = found[won], length[won]
        return x_adv


def _aimed(attack: Attack, targeted: bool, seed: int | None) -> Attack:
    """`attack`, away from labels or towards them, with `seed` if it has none of its own."""
    aimed = replace(attack, targeted=targeted) if hasattr(attack, "targeted") else replace(attack)
    aimed.seed = seed if attack.seed is None else attack.seed
    return aimed


def _of_rows(value: np.ndarray | None, left: np.ndarray, x: np.ndarray) -> np.ndarray | None:
    """The rows `left` of what is given for every sample of `x`."""
    return value[left] if value is not None and np.ndim(value) == x.ndim and len(value) == len(x) else value
