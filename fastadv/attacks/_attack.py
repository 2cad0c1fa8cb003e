"""The base of all attacks: arguments checked, model isolated, results gathered."""

import dataclasses
import math
import sys
import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from enum import IntEnum
from numbers import Integral, Real
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from .. import ops
from .._frames import frame
from ..models.adapted import own_loss
from ._ascend import Budget, Model, Rows, Start, classify, isolated

if TYPE_CHECKING:
    import pandas

_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


class Ended(IntEnum):
    """How the attack of a sample ended: found, given up after the last step, not needed, or lost to NaN or infinity."""

    SUCCESS = 0
    STEPS = 1
    ALREADY = 2
    NONFINITE = 3

    def __str__(self) -> str:
        return ("success", "steps", "already adversarial", "non-finite")[self]


@dataclass(frozen=True, repr=False)
class AttackResult:
    """What an attack did, one row a sample, in input order.

    `x_adv` [B, ...]: the adversarial samples. `success` [B] bool: the predicted class differs from the label attacked,
    or is the label that a targeted attack was to reach. `steps` [B] int64: steps made. `queries`, `grads` [B] int64:
    forward and backward passes, without those that find labels which were not given, and judge the result. `norm` [B]:
    size of the perturbation, in the attack's own norm; in ``l0``, how many entries changed. `target` [B] int64: the
    class predicted at `x_adv`. `ended` [B] int64: how it ended, see `Ended`; `reasons` has the words.
    """

    x_adv: Tensor
    success: Tensor
    steps: Tensor
    queries: Tensor
    grads: Tensor
    norm: Tensor
    target: Tensor
    ended: Tensor

    @property
    def reasons(self) -> list[str]:
        """How the attack of each sample ended: ``success``; ``steps``, which were not enough; ``already adversarial``,
        so that x is returned; ``non-finite``, for its gradients or logits were.
        """
        return [str(Ended(code)) for code in self.ended.tolist()]

    def __repr__(self) -> str:
        if not len(self.success):
            return "AttackResult(0 samples)"
        return (
            f"AttackResult({int(self.success.sum())} of {len(self.success)} samples fooled, "
            f"mean norm {float(self.norm.double().mean()):.4g}, {float(self.grads.double().mean()):.4g} gradients a "
            f"sample, x_adv {list(self.x_adv.shape)})"
        )

    def to_dataframe(self) -> "pandas.DataFrame":
        """A row a sample, with all but `x_adv`. Raises ImportError without pandas."""
        names = ("success", "steps", "queries", "grads", "norm", "target")
        return frame({name: getattr(self, name).tolist() for name in names} | {"ended": self.reasons})


@dataclass(frozen=True)
class Attack(ABC):
    """An attack and its options. ``attack(model, x, y)`` gives `x_adv`; ``attack.run(model, x, y)`` gives all it knows.

    `bounds` is the range of the inputs. Sizes such as eps are in the same units, and are not changed by giving bounds:
    ``PGD().within((-1, 1))`` has the usual 8 grey levels there, ``PGD(bounds=(-1, 1))`` has 4.

    Random numbers are keyed by `seed` and the sample's id: with a seed, the same call gives the same result, whatever
    the batch, and no generator is used. Without one, every call of an attack that `is_random` draws its seed from
    torch's default CPU generator: successive batches differ, and ``torch.manual_seed`` reproduces them. The model is
    left exactly as it was, also when it raises.
    """

    bounds: tuple[float, float] = field(default=(0.0, 1.0), kw_only=True)
    seed: int | None = field(default=None, kw_only=True)

    norm: ClassVar[str] = "linf"
    targeted: ClassVar[bool] = False
    ends_early: ClassVar[bool] = False  # whether steps tell which samples are finished
    has_budget: ClassVar[bool] = True  # a field eps; without it, perturbations are small or sparse by other means
    ball: ClassVar[bool] = True  # whether eps is a radius in `norm`, and all of that ball is allowed
    repeats: ClassVar[bool] = True  # whether steps draw no random numbers: a CUDA graph of them can be replayed
    in_units: ClassVar[tuple[str, ...]] = ("eps", "alpha", "omega", "longest", "enough")  # in those of the inputs

    def __post_init__(self) -> None:
        lo, hi = self.bounds
        if not lo < hi:
            raise ValueError(f"{type(self).__name__}: bounds must be (lowest, highest), got {self.bounds}")

    @property
    def is_random(self) -> bool:
        """Whether a call without a seed draws one."""
        return bool(getattr(self, "random_start", False))

    @property
    def unit(self) -> float:
        """The range of the inputs, of which constants of an attack are a share; 1 where it is infinite."""
        return _unit(self.bounds)

    @abstractmethod
    def perturb(self, rows: Rows) -> None:
        """Moves ``rows.x_adv``; the model is isolated already, and there is a seed if the attack is random."""

    def __call__(self, model: Model, x: Tensor, y: Tensor | None = None, ids: Tensor | None = None) -> Tensor:
        """The adversarial samples of `x` [B, ...], detached, in its dtype; see `run`."""
        rows = self._attacked(model, x, y, ids)
        self._report(rows, model)
        return rows.x_adv

    def rows(self, model: Model, x: Tensor, y: Tensor | None = None, ids: Tensor | None = None) -> Rows:
        """The samples after the attack, with its counts of each; a dead model is no error. See `run`."""
        rows = self._attacked(model, x, y, ids)
        self._report(rows)
        return rows

    def run(
        self,
        model: Model,
        x: Tensor,
        y: Tensor | None = None,
        ids: Tensor | None = None,
        *,
        source: Model | None = None,
    ) -> AttackResult:
        """Attacks `model` (x to logits [B, K]) at `x` [B, ...] within `bounds`, away from the labels `y` [B].

        Models that return logits in another form, one logit, or numbers for a loss of your own: see `fastadv.adapt`.

        Without `y`, away from the model's own predictions; towards `y`, which must then be given, where the attack is
        targeted. `ids` [B] int64 name the samples for random numbers, by default 0..B-1; give data-set indices and a
        `seed` where results must not depend on the batches. With a `source` model the samples are made on that, with
        its predictions where there is no `y`, and `model` is what they are tried on.

        NaN logits are no prediction, and never right: such a sample is fooled, its `target` is -1, and without `y` it
        is left as it is. A RuntimeWarning says how many samples had them, or gradients that are not finite.

        Raises TypeError or ValueError for inputs that are no floating-point tensor, not finite, outside `bounds`, or
        labels of a wrong shape or out of range; ValueError for a model whose logits are NaN at all samples, or one that
        changes its input in place and did not at its first call.
        """
        attacked = _attacked_of(model, source)
        rows = self._attacked(attacked, x, y, ids)
        found = self._tried(rows, model)
        self._report(rows, attacked, model)
        return found

    def outcome(
        self,
        model: Model,
        x: Tensor,
        y: Tensor | None = None,
        ids: Tensor | None = None,
        *,
        source: Model | None = None,
    ) -> AttackResult:
        """What `run` gives, for one of several batches: that all of its logits are NaN is no error."""
        rows = self._attacked(_attacked_of(model, source), x, y, ids)
        found = self._tried(rows, model)
        self._report(rows)
        return found

    def _attacked(self, model: Model, x: Tensor, y: Tensor | None, ids: Tensor | None) -> Rows:
        """The samples after the attack. Without labels, those that the model gives no prediction for stay what they
        are.
        """
        with isolated(model):
            rows = Rows(model, *self._checked(x, y, ids, own_loss(model)), self.targeted)
            attack = self.seeded(drawn_seed()) if self.seed is None and self.is_random else self
            if rows.own_labels and bool(rows.nonfinite.any()):
                index = (~rows.nonfinite).nonzero().squeeze(1)
                part = rows.take(index)
                attack.of_rows(index, part.x).perturb(part)
                rows.put(index, part)
            else:
                attack.perturb(rows)
            rows.settle()
        return rows

    def _tried(self, rows: Rows, model: Model) -> AttackResult:
        """What `model` makes of the samples."""
        rows.model = model
        with isolated(model):
            target = rows.predictions()
            success, norm = rows.fooled(target), self.sizes(rows.x_adv, rows.x)
            ended = torch.where(norm > 0, Ended.SUCCESS, Ended.ALREADY)
            ended = torch.where(success, ended, torch.where(rows.nonfinite, Ended.NONFINITE, Ended.STEPS))
            ended = ended.masked_fill(target < 0, Ended.NONFINITE)
            return AttackResult(rows.x_adv, success, rows.steps, rows.queries, rows.grads, norm, target, ended)

    def sizes(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """The sizes of the perturbations `x_adv` - `x` [B, ...] in the attack's own norm, [B]."""
        return ops.row_norms(x_adv, self.norm, x)

    def _report(self, rows: Rows, *models: Model) -> None:
        """Warns of what was not finite. Raises ValueError where one of `models` is dead: all its logits are NaN."""
        count, samples = int(rows.nonfinite.sum()), len(rows.x)
        if count == 0:
            return
        if count == samples and any(bool((classify(model, rows.x, y=rows.truth) < 0).all()) for model in models):
            raise ValueError(
                f"{type(self).__name__}: the model's logits are NaN at all {samples} samples, without an attack: it "
                "has diverged, or its weights are damaged. Look for NaN among its parameters, and train it again with "
                "a smaller learning rate or clipped gradients, or load an earlier checkpoint"
            )
        warnings.warn(
            f"{type(self).__name__}: {count} of {samples} samples had NaN or infinite gradients, which move nothing, "
            "or NaN logits, which are never right",
            RuntimeWarning,
            stacklevel=3,
        )

    def seeded(self, seed: int) -> "Attack":
        """The same attack, with `seed` if it has none of its own."""
        return dataclasses.replace(self, seed=seed) if self.seed is None else self

    def of_rows(self, index: Tensor, x: Tensor) -> "Attack":
        """The same attack, with those of its numbers that are one a sample for `x` alone, the samples at `index`."""
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        columns = {name: value for name, value in values.items() if isinstance(value, Tensor) and value.numel() > 1}
        return dataclasses.replace(self, **{name: value[index] for name, value in columns.items()})

    def within(self, bounds: tuple[float, float]) -> "Attack":
        """The same attack on inputs in `bounds`; its budget and its steps keep their share of the inputs' range.

        An eps of 8/255 within [0, 1] is 16/255 within [-1, 1]. Training and evaluation call it with the bounds of the
        data, so that an attack means the same in any of them.
        """
        factor = _unit(bounds) / self.unit
        sizes = {name: getattr(self, name, None) for name in self.in_units}
        scaled = {name: size * factor for name, size in sizes.items() if size is not None}
        return dataclasses.replace(self, bounds=bounds, **scaled)

    def at(self, eps: float) -> "Attack":
        """The same attack with another budget; step sizes scale with it. TypeError where it has no budget."""
        if not self.has_budget:
            raise TypeError(f"{type(self).__name__} has no budget to set: there is no eps")
        alpha = getattr(self, "alpha", None)
        if alpha is None:
            return dataclasses.replace(self, eps=eps)
        name = type(self).__name__
        if not isinstance(self.eps, float | int) or not 0 < self.eps < math.inf:
            raise ValueError(
                f"{name}.at scales alpha with eps, which needs one positive eps to start from; got {self.eps}"
            )
        return dataclasses.replace(self, eps=eps, alpha=alpha * (eps / self.eps))

    def _checked(
        self, x: Tensor, y: Tensor | None, ids: Tensor | None, own_loss: bool = False
    ) -> tuple[Tensor, Tensor | None, Tensor, int]:
        """What was given, without history, and the highest label; with a loss of the user's own, `y` is what it takes.

        Raises TypeError and ValueError as `run` says.
        """
        name = type(self).__name__
        if own_loss and y is None:
            raise ValueError(f"{name}: the model has a loss of its own, which needs labels: give y")
        if self.targeted and y is None:
            raise ValueError(f"{name} is targeted: give the classes to reach as y")
        for what, column in (("y", y), ("ids", ids)):
            if column is not None and not isinstance(column, Tensor):
                raise TypeError(f"{name}: {what} must be an integer tensor, one a sample, got {type(column).__name__}")
        lo, hi = self.bounds
        if not isinstance(x, Tensor) or not x.is_floating_point():
            got = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(f"{name}: x must be a floating-point tensor in [{lo:g}, {hi:g}], got {got}")
        if x.dim() < 2:
            raise ValueError(f"{name}: x must be a batch of samples [B, ...], got shape {tuple(x.shape)}")
        x = _own(x)
        highest_label = -1
        if own_loss:
            if y.shape[:1] != x.shape[:1] or y.device != x.device:
                got = f"{tuple(y.shape)} on {y.device}"
                raise ValueError(f"{name}: y must have a row a sample, ({len(x)}, ...) on {x.device}; got {got}")
            y = _own(y)
        elif y is not None:
            if y.shape != x.shape[:1] or y.dtype not in _INTEGERS or y.device != x.device:
                raise ValueError(
                    f"{name}: y must hold one integer label a sample, ({len(x)},) on {x.device}; "
                    f"got {y.dtype} of shape {tuple(y.shape)} on {y.device}"
                )
            y = _own(y).to(torch.int64)
        if ids is None:
            ids = torch.arange(len(x), device=x.device)
        elif ids.shape != x.shape[:1] or ids.dtype != torch.int64:
            raise ValueError(f"{name}: ids must be int64, one a sample, got {ids.dtype} of shape {tuple(ids.shape)}")
        if len(x):
            labels = x.new_zeros(1, dtype=torch.int64) if y is None or own_loss else y
            seen = torch.stack([v.double() for v in (*x.aminmax(), *labels.aminmax())]).tolist()  # one synchronisation
            rounded = x.new_tensor((lo, hi), device="cpu").tolist()  # samples at the bounds are in x's dtype
            if not (rounded[0] <= seen[0] and seen[1] <= rounded[1]):  # also when NaN
                raise ValueError(
                    f"{name}: x must lie in [{lo:g}, {hi:g}], got values from {seen[0]:g} to {seen[1]:g}. Scale the "
                    "images, put their normalisation into the model (fastadv.Normalize), or set bounds"
                )
            if seen[2] < 0:
                raise ValueError(f"{name}: labels must not be negative, got {int(seen[2])}")
            highest_label = -1 if own_loss else int(seen[3])
        return x, y, ids, highest_label


def _attacked_of(model: Model, source: Model | None) -> Model:
    """The `source` where there is one. Raises ValueError where that and `model` have not the same loss."""
    if source is None:
        return model
    if (own_loss(model) or own_loss(source)) and getattr(model, "loss", None) is not getattr(source, "loss", None):
        raise ValueError("model and source must have the same loss: adapt both with it")
    return source


def _unit(bounds: tuple[float, float]) -> float:
    lo, hi = bounds
    return hi - lo if hi - lo < math.inf else 1.0


def drawn_seed() -> int:
    """A seed from torch's default CPU generator."""
    return int(torch.randint(2**62, (), device="cpu"))


def _own(t: Tensor) -> Tensor:
    """`t` without history; a copy where it was made in inference mode, which autograd cannot save."""
    return t.detach().clone() if t.is_inference() else t.detach()


def check_budgets(attack: Attack, *names: str, whole: bool | None = None) -> None:
    """Raises ValueError unless the attack's sizes are finite, not negative and no larger than the range of the inputs.

    `whole`: they are norms of whole samples, which may be larger; by default where its ball is none of ``linf``. None
    is left to the attack where it is the default. TypeError for what is neither number nor tensor.
    """
    whole = attack.ball and attack.norm != "linf" if whole is None else whole
    lo, hi = attack.bounds
    most = sys.float_info.max if whole else hi - lo
    for name in names:
        value: Budget | None = getattr(attack, name)
        if _is_left_out(attack, name) or (isinstance(value, Tensor) and value.numel() == 0):
            continue
        if not isinstance(value, Real | Tensor):
            got = f"{type(attack).__name__}: {name} must be a number, or a tensor with one a sample"
            raise TypeError(f"{got}, got {value!r}")
        numbers = torch.stack(value.aminmax()).tolist() if isinstance(value, Tensor) else (value, value)
        if not (numbers[0] >= 0 and numbers[1] <= most):
            got = f"{numbers[0]:g}" if numbers[0] == numbers[1] else f"{numbers[0]:g} to {numbers[1]:g}"
            hint = f"; did you mean {got}/255 = {numbers[1] / 255:.4f}?" if most < numbers[1] <= 255 else ""
            allowed = "finite and at least 0" if whole else f"between 0 and {most:g}"
            raise ValueError(f"{type(attack).__name__}: {name} must be {allowed}, got {got}{hint}")


def check_ranges(attack: Attack, **intervals: str) -> None:
    """Raises ValueError unless each of the attack's numbers is in its interval, such as ``rho="[0, 1)"``.

    None is left to the attack where it is the default.
    """
    for name, interval in intervals.items():
        value, (low, high) = getattr(attack, name), map(float, interval[1:-1].split(","))
        ends = [low] * (interval[0] == "[") + [high] * (interval[-1] == "]")
        if _is_left_out(attack, name):
            continue
        if value is None or not (low < value < high or value in ends):
            raise ValueError(f"{type(attack).__name__}: {name} must be in {interval}, got {value}")


def _is_left_out(attack: Attack, name: str) -> bool:
    """Whether the option is None, and None is its default."""
    defaults = {field.name: field.default for field in dataclasses.fields(attack)}
    return getattr(attack, name) is None and defaults[name] is None


def check_start(attack: Attack, value: Start, loss: str = "ce", laws: tuple[str, ...] = ("gaussian",)) -> None:
    """Raises ValueError unless `value` is of `laws` or a share of the budget, from where `loss` has a gradient."""
    name = type(attack).__name__
    if value not in laws and (isinstance(value, str) or not 0 <= value <= 1):
        known = " or ".join(laws)
        raise ValueError(f"{name}: random_start must be a share of eps, between 0 and 1, or {known}, got {value!r}")
    if loss in ("kl", "spat") and value == 0:
        raise ValueError(
            f"{name}: loss {loss} has no gradient at x: set random_start to gaussian, or to a share of eps"
        )


def check_counts(attack: Attack, **least: int) -> None:
    """Raises ValueError unless the attack's number of each name is whole and at least what is given."""
    for name, fewest in least.items():
        check_count(attack, name, getattr(attack, name), fewest)


def check_count(attack: Attack, name: str, value: int, least: int) -> None:
    """Raises ValueError unless `value` is a whole number of at least `least`."""
    if not isinstance(value, Integral) or value < least:
        raise ValueError(f"{type(attack).__name__}: {name} must be a whole number of at least {least}, got {value}")


def check_choice(attack: Attack, name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises ValueError where `value` is none of `choices`."""
    if value not in choices:
        raise ValueError(f"{type(attack).__name__}: {name} must be one of {', '.join(choices)}, got {value!r}")


def check_finite_bounds(attack: Attack) -> None:
    """Raises ValueError where `attack` has no finite bounds to draw points from."""
    if not math.isfinite(attack.bounds[1] - attack.bounds[0]):
        raise ValueError(
            f"{type(attack).__name__}: bounds must be finite, for it draws values between them; got {attack.bounds}"
        )


def check_images(attack: Attack, x: Tensor) -> None:
    """Raises ValueError unless the samples `x` are images."""
    if x.dim() != 4:
        raise ValueError(f"{type(attack).__name__}: samples must be images [B, C, H, W], got shape {tuple(x.shape)}")
