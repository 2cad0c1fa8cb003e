"""Robustness measured: accuracy under attack, AA curves and their averages."""

import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from functools import partial

import torch
from torch import Tensor

from .. import ops
from ..attacks import DRA, FGSM, PGD, Attack, DeepFool, Model, Noise, checked_logits, isolated
from ..data import Dataset
from ._common import Portions, beside, check_label, fitted
from ._corruptions import CorruptionAccuracy, corruption_accuracy
from ._curve import AACurve, radial_curve
from ._features import Features, MixingRow, features, last_layers, layer_outputs, mixing, project, reducer
from ._gradients import GradientNorms, gradient_norms
from ._honesty import checked
from ._landing import Landing, LandingRow, WeightNorm, landing, weight_norms
from ._results import Evaluation, Finding, Outcome, Result, wilson
from ._transfer import TransferRow, transfer

__all__ = [
    "PROTOCOL",
    "AACurve",
    "CorruptionAccuracy",
    "Evaluation",
    "Features",
    "Finding",
    "GradientNorms",
    "Landing",
    "LandingRow",
    "MixingRow",
    "Outcome",
    "Result",
    "TransferRow",
    "WeightNorm",
    "calibrated",
    "corruption_accuracy",
    "evaluate",
    "features",
    "fitted",
    "gradient_norms",
    "landing",
    "last_layers",
    "layer_outputs",
    "mixing",
    "project",
    "radial_curve",
    "reducer",
    "swept_curve",
    "transfer",
    "weight_norms",
    "wilson",
]

CLEAN = "clean"
Part = dict[str, Tensor]
"""What is measured of some samples, a row a sample."""

PROTOCOL: dict[str, Attack] = {
    "fgsm": FGSM(eps=0.1),
    "noise": Noise(eps=0.1),
    "pgd": PGD(eps=0.1, alpha=0.01, steps=20, random_start=0.5),
    "deepfool": DeepFool(steps=50, overshoot=0.02),
}
"""The Blind AT paper's white-box attacks (its Table 1) at its Fashion-MNIST budget; DeepFool with 50 steps, not 10."""


def evaluate(
    model: Model,
    data: Dataset,
    attacks: Mapping[str, Attack] = PROTOCOL,
    *,
    label: str = "true",
    batch_size: int = 500,
    source: Model | None = None,
    checks: int = 64,
    train: Dataset | None = None,
    kept: MutableMapping[str, Part] | None = None,
    processes: bool = False,
    on_step: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Accuracy of `model` on `data`, clean and under each of `attacks`; samples misclassified clean count as errors.

    Args:
        model: samples to logits; evaluated in eval mode, on the device it is on, and left as it was.
        data: the samples; their `bounds` go to every attack, their places are their ids.
        attacks: by the names that results will have; ``clean`` and ``worst`` are taken.
        label: what attacks move away from: the ``true`` label, or the model's own prediction (``pred``), as in the
            Blind AT paper, which is weaker: it pushes misclassified samples into their true class.
        batch_size: samples at a time, the most: where a GPU's memory runs out, fewer. It decides memory and speed only.
        source: another model that the samples are made on (transfer), on the same device; with `label` ``pred`` they
            move away from its predictions.
        checks: on how many samples the checks are made that look for gradient masking, mistakes of data and random
            outputs (see `Evaluation.findings`); 0 for none.
        train: what the model was trained on, of which `data` should have no sample.
        kept: where finished batches are put, and taken from by an evaluation that goes on: names to dicts of tensors.
        processes: share the batches among the processes of ``torch.distributed``; all of them get the whole result.
        on_step: called with (batches done, batches in all), those of this process.

    Raises:
        ValueError: for an unknown `label`, a targeted attack, or what the attacks find wrong with model or data.
        TypeError: for `data` that is no data set, or an attack that is none.
    """
    check_label(label)
    if checks < 0:
        raise ValueError(f"checks must be a number of samples, or 0 for none, got {checks}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if taken := {CLEAN, "worst"} & set(attacks):
        raise ValueError(f"no attack can be called {taken.pop()!r}: that is without any, or the worst case of all")
    data = beside(model, data)
    plan = {CLEAN: None} | {name: fitted(attack, data) for name, attack in attacks.items()}
    work = [(name, start) for name in plan for start in range(0, len(data), batch_size)]
    mine = work[torch.distributed.get_rank() :: torch.distributed.get_world_size()] if processes else work
    done, portions = {}, Portions(batch_size)

    for name, start in mine:
        ids = torch.arange(start, min(start + batch_size, len(data)), device=data.x.device)
        key = f"{name}-{start}-{len(ids)}"
        part = kept.get(key) if kept is not None else None
        if part is None:
            part = _joined(portions(partial(_measured, model, data, plan[name], label, source), ids))
            if kept is not None:
                kept[key] = part
        done[name, start] = part
        if on_step:
            on_step(len(done), len(mine))
    if processes:
        shares = [{}] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(shares, done)
        done = {key: part for share in shares for key, part in share.items()}
    whole = {name: _joined([done[key] for key in work if key[0] == name]) for name in plan}
    natural = Outcome(whole[CLEAN]["right"])
    results = {name: _result(attack, whole[name]) for name, attack in plan.items() if attack}
    findings = checked(
        model, data, natural, results, min(checks, portions.size), transferred=source is not None, train=train
    )
    return Evaluation(data.name, label, natural, results, findings)


def _measured(
    model: Model, data: Dataset, attack: Attack | None, label: str, source: Model | None, ids: Tensor
) -> Part:
    """The outcomes of the samples `ids` of `data`, clean for no attack, on the CPU."""
    started = time.perf_counter()
    x, y = data.x[ids], data.y[ids]
    if attack is None:
        with isolated(model), torch.no_grad():
            return {"right": (checked_logits(model, x, len(data.classes) - 1).argmax(1) == y).cpu()}
    found = attack.run(model, x, y if label == "true" else None, ids, source=source)
    part = {"right": found.target == y, "sizes": ops.row_norms(found.x_adv, "rms", x), "grads": found.grads}
    if not attack.has_budget:
        curve = radial_curve(model, x, found.x_adv, y)
        part |= {"correct": curve.correct, "flips": curve.flips}
    part = {name: tensor.cpu() for name, tensor in part.items()}
    return part | {"seconds": torch.tensor([time.perf_counter() - started], dtype=torch.float64)}


def _joined(parts: Sequence[Part]) -> Part:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _result(attack: Attack, whole: Part) -> Result:
    curve = AACurve(whole["correct"], whole["flips"]) if "flips" in whole else None
    return Result(whole["right"], attack, whole["sizes"], whole["grads"], float(whole["seconds"].sum()), curve)


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
        return evaluate(model, data, {"it": attack}, batch_size=batch_size, checks=0).results["it"].accuracy

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


def swept_curve(
    model: Model,
    data: Dataset,
    attack: Attack,
    budgets: Iterable[float],
    *,
    label: str = "true",
    batch_size: int = 500,
    source: Model | None = None,
) -> AACurve:
    """The AA curve of an attack with a budget, run at each of `budgets`, in the norm and units of the attack.

    A step function, which is right at the budgets themselves. With true labels a sample that is fooled at one budget
    is fooled at all larger ones, and not attacked again. `label`, `batch_size` and `source` are those of `evaluate`.
    Raises TypeError for an attack that has no budget, and what `evaluate` raises.
    """
    check_label(label)
    data = beside(model, data)
    attack = fitted(attack, data)
    budgets = sorted({eps for eps in budgets if eps})

    def curve(ids: Tensor) -> AACurve:
        x, y = data.x[ids], data.y[ids]
        with isolated(model), torch.no_grad():
            seen = [checked_logits(model, x, len(data.classes) - 1).argmax(1) == y]
        for eps in budgets:
            live = seen[-1].nonzero().squeeze(1) if label == "true" else torch.arange(len(x), device=x.device)
            labels = y[live] if label == "true" else None
            found = attack.at(eps).run(model, x[live], labels, ids[live], source=source)
            seen.append(seen[-1].index_copy(0, live, found.target == y[live]))
        history = torch.stack(seen, dim=1)
        flips = torch.where(history[:, 1:] != history[:, :-1], x.new_tensor(budgets, dtype=torch.float64), torch.inf)
        return AACurve(seen[0].cpu(), flips.sort(dim=1).values.cpu())

    return AACurve.join(Portions(batch_size)(curve, torch.arange(len(data), device=data.device)))
