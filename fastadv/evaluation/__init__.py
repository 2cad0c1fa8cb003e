"""Robustness measured: accuracy under attack, AA curves and their averages."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from .. import ops
from ..attacks import DRA, FGSM, PGD, Attack, DeepFool, Model, Noise, checked_logits, isolated
from ..data import Dataset
from ._corruptions import CorruptionAccuracy, corruption_accuracy
from ._curve import AACurve, radial_curve
from ._features import Features, MixingRow, features, last_layers, layer_outputs, mixing, project, reducer
from ._gradients import GradientNorms, gradient_norms

__all__ = [
    "PROTOCOL",
    "AACurve",
    "CorruptionAccuracy",
    "Evaluation",
    "Features",
    "GradientNorms",
    "MixingRow",
    "Result",
    "calibrated",
    "corruption_accuracy",
    "evaluate",
    "features",
    "gradient_norms",
    "last_layers",
    "layer_outputs",
    "mixing",
    "project",
    "radial_curve",
    "reducer",
    "swept_curve",
]

PROTOCOL: dict[str, Attack] = {
    "fgsm": FGSM(eps=0.1),
    "noise": Noise(eps=0.1),
    "pgd": PGD(eps=0.1, alpha=0.01, steps=20, random_start=0.5),
    "deepfool": DeepFool(steps=50, overshoot=0.02),
}
"""The Blind AT paper's white-box attacks (its Table 1) at its Fashion-MNIST budget; DeepFool with 50 steps, not 10."""


@dataclass(frozen=True)
class Result:
    """A model under one attack.

    `accuracy` that is left, mean size `norm` of the perturbations (RMS), `seconds`; and the AA `curve` of an attack
    that looks for the smallest perturbation, whose `accuracy` is that at full strength.
    """

    attack: Attack
    accuracy: float
    norm: float
    seconds: float
    curve: AACurve | None = None


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found on `samples` samples of `data`: `clean` accuracy, and a `Result` for each attack."""

    data: str
    samples: int
    label: str
    clean: float
    results: dict[str, Result]


def evaluate(
    model: Model,
    data: Dataset,
    attacks: Mapping[str, Attack] = PROTOCOL,
    *,
    label: str = "true",
    batch_size: int = 500,
    source: Model | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Accuracy of `model` on `data`, clean and under each of `attacks`; samples misclassified clean count as errors.

    Args:
        model: samples to logits; evaluated in eval mode, on the device it is on, and left as it was.
        data: the samples; their `bounds` go to every attack, their places are their ids.
        attacks: by the names that results will have.
        label: what attacks move away from: the ``true`` label, or the model's own prediction (``pred``), as in the
            Blind AT paper, which is weaker: it pushes misclassified samples into their true class.
        batch_size: samples at a time; it decides memory and speed only.
        source: another model that the samples are made on (transfer), on the same device; with `label` ``pred`` they
            move away from its predictions.
        on_step: called with (batches done, batches in all).

    Raises:
        ValueError: for an unknown `label`, or what the attacks find wrong with model or data.
    """
    if label not in ("true", "pred"):
        raise ValueError(f"label must be 'true' or 'pred', got {label!r}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    parameter = next(model.parameters(), data.x) if isinstance(model, torch.nn.Module) else data.x
    data = data.to(parameter.device)
    starts = range(0, len(data), batch_size)
    done, in_all = 0, len(starts) * (len(attacks) + 1)

    def tick() -> None:
        nonlocal done
        done += 1
        if on_step:
            on_step(done, in_all)

    right = 0
    for start in starts:
        x, y = data.x[start : start + batch_size], data.y[start : start + batch_size]
        with isolated(model), torch.no_grad():
            right += int((checked_logits(model, x, len(data.classes) - 1).argmax(1) == y).sum())
        tick()
    results = {
        name: _attacked(model, data, dataclasses.replace(attack, bounds=data.bounds), label, batch_size, source, tick)
        for name, attack in attacks.items()
    }
    return Evaluation(data.name, len(data), label, right / len(data), results)


def calibrated(
    model: Model,
    data: Dataset,
    dra: DRA = DRA(),  # noqa: B008 - frozen, as the next
    pgd: PGD = PGD(eps=2.55 / 255, alpha=2.55 / 255 / 20, steps=20, random_start=0.0),  # noqa: B008
    *,
    batch_size: int = 500,
) -> DRA:
    """`dra` with the `scale` at which it leaves `model` as much accuracy on `data` as `pgd` does.

    What eps means is not printed where DRA was published (Hou: thesis, chapter 4), but how strong it is: on a network
    trained normally, DRA at 1 grey level like PGD at 2.55, the defaults here. Scales from 1/16 to 16 are bisected, to
    a thousandth. Raises ValueError where none of them does it.
    """

    def accuracy(attack: Attack) -> float:
        return evaluate(model, data, {"it": attack}, batch_size=batch_size).results["it"].accuracy

    def scaled(exponent: float) -> DRA:
        return dataclasses.replace(dra, scale=2.0**exponent)

    left, low, high = accuracy(pgd), -4.0, 4.0
    if not accuracy(scaled(low)) > left >= accuracy(scaled(high)):
        raise ValueError(
            f"no scale from 1/16 to 16 makes DRA at eps {dra.eps:g} as strong as PGD at {pgd.eps:g}, which leaves "
            f"{left:.1%}: take a network and budgets where the accuracy is between clean and 0"
        )
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (middle, high) if accuracy(scaled(middle)) > left else (low, middle)
    return scaled(high)


def _attacked(
    model: Model,
    data: Dataset,
    attack: Attack,
    label: str,
    batch_size: int,
    source: Model | None,
    tick: Callable[[], None],
) -> Result:
    started = time.perf_counter()
    right, norm, curves = 0, 0.0, []
    for start in range(0, len(data), batch_size):
        x, y = data.x[start : start + batch_size], data.y[start : start + batch_size]
        ids = torch.arange(start, start + len(x), device=x.device)
        found = attack.run(model, x, y if label == "true" else None, ids, source=source)
        right += int((found.target == y).sum())
        norm += float(ops.row_norms(found.x_adv, "rms", x).sum())
        if not attack.has_budget:
            curves.append(radial_curve(model, x, found.x_adv, y))
        tick()
    curve = AACurve.join(curves) if curves else None
    return Result(attack, right / len(data), norm / len(data), time.perf_counter() - started, curve)


def swept_curve(
    model: Model, data: Dataset, attack: Attack, budgets: Sequence[float], *, label: str = "true", batch_size: int = 500
) -> list[tuple[float, float]]:
    """``(eps, AA(eps))`` for an attack with a fixed budget, run again at each of `budgets`; at 0 the clean accuracy."""
    accuracies = []
    for eps in budgets:
        attacks = {"attack": attack.at(eps)} if eps else {}
        found = evaluate(model, data, attacks, label=label, batch_size=batch_size)
        accuracies.append((eps, found.results["attack"].accuracy if eps else found.clean))
    return accuracies
