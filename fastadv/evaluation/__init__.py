"""Robustness measured: accuracy under attack, curves over budgets (AA) and their averages, and checks of both."""

import dataclasses
import hashlib
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor

from .. import ops
from .._processes import rank, shared
from .._progress import bar
from ..attacks import FGSM, PGD, Attack, DeepFool, Model, Noise, classify
from ..attacks._tuned import FORMATS, check_format, chosen_format, laid_out
from ..data import AnyData, Batch, Samples
from ..models.adapted import expected
from ._anytime import anytime, concluded
from ._attackbench import (
    NORMS,
    Asking,
    Bench,
    Failure,
    Found,
    Queries,
    Standing,
    area,
    ask,
    optimality,
    pointwise_best,
    robust_accuracy,
    searched,
    standings,
)
from ._certify import Certificate, Certifier, IntervalBounds, RandomizedSmoothing
from ._common import Portions, beside, check_label, fitted, measuring, without_leeway
from ._contestants import LIBRARIES, Contestants, contestants
from ._corruptions import CorruptionAccuracy, corruption_accuracy
from ._crosscheck import SETTINGS, Crosscheck, CrosscheckPlan, Difference, Side, crosscheck, plan_crosscheck
from ._curve import AACurve, radial_curve
from ._features import (
    Features,
    MixingRow,
    check_mixable,
    features,
    last_layers,
    layer_outputs,
    mixing,
    project,
    reducer,
)
from ._gradients import GradientNorms, gradient_norms
from ._honesty import Seen, checked
from ._intervals import DUALS
from ._landing import Landing, LandingRow, WeightNorm, landing, weight_norms
from ._results import Evaluation, Finding, Outcome, Result, wilson
from ._saved import Claims, SampleFolder, SavedSamples, open_saved, verify
from ._transfer import TransferRow, transfer

__all__ = [
    "LIBRARIES",
    "NORMS",
    "PROTOCOL",
    "SETTINGS",
    "AACurve",
    "Asking",
    "Bench",
    "Certificate",
    "Certifier",
    "Claims",
    "Contestants",
    "CorruptionAccuracy",
    "Crosscheck",
    "CrosscheckPlan",
    "Difference",
    "Evaluation",
    "Failure",
    "Features",
    "Finding",
    "Found",
    "GradientNorms",
    "IntervalBounds",
    "Landing",
    "LandingRow",
    "MixingRow",
    "Outcome",
    "Queries",
    "RandomizedSmoothing",
    "Result",
    "SampleFolder",
    "SavedSamples",
    "Side",
    "Standing",
    "TransferRow",
    "WeightNorm",
    "anytime",
    "area",
    "ask",
    "calibrated",
    "certify",
    "check_mixable",
    "concluded",
    "contestants",
    "corruption_accuracy",
    "crosscheck",
    "evaluate",
    "features",
    "fitted",
    "gradient_norms",
    "landing",
    "last_layers",
    "layer_outputs",
    "mixing",
    "open_saved",
    "optimality",
    "plan_crosscheck",
    "pointwise_best",
    "project",
    "radial_curve",
    "reducer",
    "robust_accuracy",
    "searched",
    "standings",
    "swept_curve",
    "transfer",
    "verify",
    "weight_norms",
    "wilson",
]

CLEAN = "clean"
_log = logging.getLogger("fastadv.evaluate")
_FORMAT, _STAMP, _SAMPLES, _DISTANCES = "memory_format", "samples", "x_adv", "distances"
Part = dict[str, Tensor]
"""Results of a batch of samples by name: tensors with a row a sample."""

PROTOCOL: dict[str, Attack] = {
    "fgsm": FGSM(eps=0.1),
    "noise": Noise(eps=0.1),
    "pgd": PGD(eps=0.1, alpha=0.01, steps=20, random_start=0.5),
    "deepfool": DeepFool(steps=50, overshoot=0.02),
}
"""The Blind AT paper's white-box attacks (its Table 1) at its Fashion-MNIST budget; DeepFool with 50 steps, not 10."""


@measuring()
def evaluate(
    model: Model,
    data: AnyData,
    attacks: Mapping[str, Attack] = PROTOCOL,
    *,
    certificates: Mapping[str, Certifier] | None = None,
    label: str = "true",
    batch_size: int = 500,
    source: Model | None = None,
    checks: int = 64,
    train: AnyData | None = None,
    kept: MutableMapping[str, Part] | None = None,
    save: SampleFolder | None = None,
    processes: bool = False,
    memory_format: str = "auto",
    seed: int = 0,
    on_step: Callable[[int, int | None], None] | None = None,
    progress: bool = False,
) -> Evaluation:
    """Accuracy of `model` on `data`, clean and under each of `attacks`; samples misclassified clean count as errors.

    The data are walked over once, and one batch is held, with up to twice as many samples as `checks` says.

    Args:
        model: samples to logits, in whatever form or precision (see `fastadv.adapt`); evaluated in eval mode, on the
            device it is on, and left as it was.
        data: a `Dataset`, tensors (x, y), a DataLoader, an iterable of batches, or a data set of PyTorch or Hugging
            Face (see `fastadv.data.samples_of`). How they are batched changes no result.
        attacks: by the names that results will have; ``clean`` and ``worst`` are taken. They run within the bounds of
            `data`, with which their sizes scale (see `Attack.within`): 8/255 is 8 grey levels also of data in [-1, 1].
        certificates: lower bounds to find beside, by the names that `Evaluation.certificates` will have them under.
        label: what attacks move away from: the ``true`` label, or the model's own prediction (``pred``). The latter is
            that of the Blind AT paper, and weaker: it pushes misclassified samples into their true class.
        batch_size: largest number of samples at a time; fewer where a GPU's memory runs out. It changes memory and
            speed only.
        source: another model that the samples are made on (transfer), on the same device; with `label` ``pred`` they
            move away from its predictions.
        checks: samples for the checks, 0 for none. They look for gradient masking, attacks that fail (all indicators of
            Pintor et al., 2022), mistakes in the data and random outputs (see `Evaluation.findings`).
        train: what the model was trained on, like `data`, which should have no sample of it.
        kept: holds finished batches, by name as dicts of tensors. Give it again to continue a stopped evaluation of the
            same attacks; batches of other samples are measured again.
        save: where the clean and all adversarial samples are written, for `verify`.
        processes: share the batches among the processes of ``torch.distributed``; all of them get the whole result.
        memory_format: layout of images in memory: contiguous, channels_last, preserve or auto. It changes speed and
            rounding only. ``preserve`` leaves images as the data set has them, which is channels_last on CPUs. ``auto``
            times both where that takes at most 2 % of the evaluation, and is ``preserve`` otherwise.
        seed: of random numbers, for attacks without a seed of their own.
        on_step: called with (batches done, batches in all), those of this process; all is None where `data` do not
            tell how many they are.
        progress: whether to show a bar; there is none where standard error is no terminal. The log
            ``fastadv.evaluate`` has a line an attack either way, of level INFO.

    NaN logits are never right. They are reported as a finding and raise no error, even where all are NaN.

    Raises:
        ValueError: for an unknown `label`, a targeted attack, a model that cannot be certified, or what the attacks
            find wrong with model or data.
        TypeError: for `data` of another kind, or an attack that is none.
        ImportError: for `RandomizedSmoothing` without scipy.
    """
    check_label(label, model)
    if checks < 0:
        raise ValueError(f"checks must be a number of samples, or 0 for none, got {checks}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if taken := {CLEAN, "worst"} & set(attacks):
        raise ValueError(f"no attack can be called {taken.pop()!r}: that is without any, or the worst case of all")
    certificates = {name: method.seeded(seed) for name, method in (certificates or {}).items()}
    if taken := {CLEAN, "worst", *attacks} & set(certificates):
        raise ValueError(f"no certificate can be called {taken.pop()!r}: the name is taken")
    data = beside(model, data)
    for method in certificates.values():
        method.check(model, data.first(1).x, data.bounds)
    plan: dict[str, Attack | Certifier | None] = {CLEAN: None}
    plan |= {name: fitted(attack, data, seed) for name, attack in attacks.items()} | certificates
    memory_format = _settled(memory_format, source or model, data, plan.values(), kept, processes)
    if save:
        save.check(data, model)
    seen = Seen(data, checks, train, kept is not None)
    mine, share = (torch.distributed.get_rank(), torch.distributed.get_world_size()) if processes else (0, 1)
    in_all = None if data.count is None else _share(-(-data.count // batch_size), len(plan), mine, share)
    done: dict[tuple[str, int], Part] = {}
    portions, start = Portions(batch_size), 0

    def classified(batch: Batch, x: Tensor) -> Tensor:
        return torch.cat(portions(lambda portion: classify(model, portion.x), batch._replace(x=x)))

    with ExitStack() as stack:
        tick = stack.enter_context(bar(f"evaluating {data.name}", "batches")) if progress and rank() == 0 else None
        for number, batch in enumerate(data.batches(batch_size)):
            batch = batch._replace(x=laid_out(batch.x, memory_format))
            seen.note(batch)
            stamp = _stamp(batch) if save or kept is not None else torch.empty(0)
            digest = bytes(stamp.tolist()).hex()
            for place, (name, attack) in enumerate(plan.items()):
                if (number + place) % share != mine:
                    continue
                key = f"{name}-{start}-{len(batch.y)}"
                part = None if kept is None else _again(kept.get(key), stamp)
                saving = save is not None and name not in certificates
                if part is None or (saving and not save.has(name, start, digest)):
                    if isinstance(attack, Certifier):
                        measure = partial(_certified, model, attack, data.bounds, len(data.classes) - 1)
                    else:
                        measure = partial(_measured, model, len(data.classes), attack, label, source, saving)
                    part = _joined(portions(measure, batch))
                    if saving:
                        x_adv = part.pop(_SAMPLES)
                        save.write(name, start, digest, batch, x_adv, attack, data.bounds, partial(classified, batch))
                    if kept is not None:
                        kept[key] = part | {_STAMP: stamp}
                done[name, start] = part
                for each in filter(None, (on_step, tick)):
                    each(len(done), in_all)
            start += len(batch.y)
    if processes:
        shares = [{}] * share
        torch.distributed.all_gather_object(shares, done)
        done = {key: part for each in shares for key, part in each.items()}
    starts = sorted({start for _, start in done})
    if save and rank() == 0:
        save.finish(data, label, {name: each for name, each in plan.items() if name not in certificates}, starts)
    whole = {name: _joined([done[name, start] for start in starts]) for name in plan}
    natural = Outcome(whole[CLEAN]["right"])
    results = {name: _result(plan[name], whole[name]) for name in attacks}
    proven = {
        name: Certificate(
            method, *(whole[name][column] for column in ("predicted", "radii")), _attacked(method, whole, results)
        )
        for name, method in certificates.items()
    }
    if rank() == 0:
        for name, result in (results | proven).items():
            _log.info("%s: %r", name, result)
    nan = {name: whole[name]["nan"] for name in (CLEAN, *results)}
    transferred = source is not None
    findings = checked(model, seen, natural, results, min(checks, portions.size), nan, transferred=transferred)
    findings += _contradictions(proven)
    return Evaluation(data.name, label, natural, results, findings, memory_format, seen.digest, proven)


def _attacked(method: Certifier, whole: Mapping[str, Part], results: Mapping[str, Result]) -> Tensor | None:
    """The smallest size at which one of the attacks fooled the network, [N]; None for what says nothing of that."""
    if not isinstance(method, IntervalBounds):
        return None
    right, column = whole[CLEAN]["right"], list(DUALS).index(method.norm)
    sizes = [whole[name][_DISTANCES][:, column] for name in results]
    unfooled = torch.full_like(right, math.inf, dtype=torch.float64)
    return torch.where(right, torch.stack([unfooled, *sizes]).amin(0), 0.0)


def _contradictions(certificates: Mapping[str, Certificate]) -> tuple[Finding, ...]:
    """A finding for every certificate that an attack contradicts."""
    return tuple(
        Finding(
            "certificate",
            f"{name}: {each.broken} samples are fooled within the radius that is certified for them. The network does "
            "not compute what its layers say, for instance by hooks or random numbers: trust no certificate of it",
        )
        for name, each in certificates.items()
        if each.broken
    )


def _share(batches: int, rows: int, mine: int, share: int) -> int:
    """How many of `batches`, each with a part for each of `rows`, are the work of process `mine` of `share`."""
    return sum((batch + row) % share == mine for batch in range(batches) for row in range(rows))


def _stamp(batch: Batch) -> Tensor:
    """By which a finished batch is known to be of these samples, labels and ids."""
    digest = hashlib.blake2b(digest_size=16)
    for column in batch:
        digest.update(column.numpy(force=True).tobytes())
    return torch.tensor(list(digest.digest()), dtype=torch.uint8)


def _again(part: Part | None, stamp: Tensor) -> Part | None:
    """A finished batch; None where there is none, or one of other samples."""
    if part is None or _STAMP not in part or not torch.equal(part[_STAMP], stamp):
        return None
    return {name: column for name, column in part.items() if name != _STAMP}


def _settled(
    memory_format: str,
    model: Model,
    data: Samples,
    attacks: Iterable[Attack | None],
    kept: MutableMapping[str, Part] | None,
    processes: bool,
) -> str:
    """What `memory_format` comes to: that of an evaluation that goes on is kept."""
    check_format(memory_format)
    if memory_format != "auto":
        return memory_format
    gradients = (data.count or 0) * sum(getattr(attack, "steps", 0) for attack in attacks)

    def choose() -> str:
        before = kept.get(_FORMAT) if kept is not None else None
        if before is not None:
            return list(FORMATS)[int(before["index"])]
        chosen = chosen_format(model, data.sample_shape, torch.float32, data.device, gradients)
        if kept is not None and chosen != "preserve":  # which it is without timing, and so again
            kept[_FORMAT] = {"index": torch.tensor(list(FORMATS).index(chosen))}
        return chosen

    return shared(choose) if processes else choose()


def _measured(
    model: Model, classes: int, attack: Attack | None, label: str, source: Model | None, samples: bool, batch: Batch
) -> Part:
    """The outcomes of the samples of `batch`, clean for no attack, on the CPU; with the `samples`, if wanted."""
    started = time.perf_counter()
    x, y, ids = batch
    if attack is None:
        found = classify(model, x, classes - 1, y)
        right = found == expected(model, y)
        return {"right": right.cpu(), "nan": (found < 0).cpu()} | ({_SAMPLES: x} if samples else {})
    found = attack.outcome(model, x, y if label == "true" else None, ids, source=source)
    part = {"right": found.target == expected(model, y), "nan": found.target < 0}
    part |= {"sizes": ops.row_norms(found.x_adv, "rms", x) / attack.unit, "grads": found.grads}
    share = torch.where(part["right"], math.inf, 1.0).double()  # of the perturbation that fools the network
    if not attack.has_budget:
        curve = radial_curve(model, x, found.x_adv, y)
        part |= {"correct": curve.correct, "flips": curve.flips / attack.unit}
        first = curve.flips[:, 0].double() / ops.row_norms(found.x_adv, "rms", x).double()
        share = torch.where(curve.correct & first.isfinite(), first, share)
    part[_DISTANCES] = torch.stack([_distance(norm, found.x_adv, x, share, attack) for norm in DUALS], 1)
    part = {name: tensor.cpu() for name, tensor in part.items()}
    part["seconds"] = torch.tensor([time.perf_counter() - started], dtype=torch.float64)
    return part | ({_SAMPLES: found.x_adv} if samples else {})


def _distance(norm: str, x_adv: Tensor, x: Tensor, share: Tensor, attack: Attack) -> Tensor:
    """The sizes of a `share` [B] of the perturbations, as shares of the range, float64; infinite where that is."""
    size = ops.row_norms(x_adv, norm, x).double() * share
    size = torch.where(share.isfinite(), size, torch.inf)
    return without_leeway(norm, size, attack.bounds, x[0].numel()) / attack.unit


def _certified(model: Model, method: Certifier, bounds: tuple[float, float], highest_label: int, batch: Batch) -> Part:
    predicted, radii = method.measure(model, batch, bounds, highest_label)
    return {"predicted": predicted.cpu(), "radii": radii.cpu()}


def _joined(parts: Sequence[Part]) -> Part:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _result(attack: Attack, whole: Part) -> Result:
    curve = AACurve(whole["correct"], whole["flips"]) if "flips" in whole else None
    return Result(whole["right"], attack, whole["sizes"], whole["grads"], float(whole["seconds"].sum()), curve)


def certify(
    model: Model,
    data: AnyData,
    method: Certifier | None = None,
    *,
    batch_size: int = 500,
    seed: int = 0,
    on_step: Callable[[int, int | None], None] | None = None,
) -> Certificate:
    """What `method`, by default `IntervalBounds` in L-infinity, proves of `model` on `data`, without any attack.

    `RandomizedSmoothing` proves something of another classifier, the smoothed one. Arguments and errors are those of
    `evaluate`, whose option `certificates` gives both sides at once.
    """
    how = {"batch_size": batch_size, "checks": 0, "memory_format": "preserve", "seed": seed, "on_step": on_step}
    found = evaluate(model, data, {}, certificates={"it": IntervalBounds() if method is None else method}, **how)
    return dataclasses.replace(found.certificates["it"], attacked=None)


def calibrated(
    model: Model, data: AnyData, attack: Attack, like: Attack, *, batch_size: int = 500, seed: int = 0
) -> Attack:
    """`attack`, within the bounds of `data`, at the budget at which it leaves `model` as much accuracy as `like` does.

    Use it to compare attacks at equal strength when their budgets mean different things, as in Hou's thesis (4.5.3):
    there, DRA at 1 grey level and PGD at 2.55 leave a network trained normally the same accuracy. Bisection finds the
    budget to a thousandth, from 1/16 to 16 times the attack's and within the range of the inputs. Step sizes follow.
    `data`, `batch_size` and `seed` are those of `evaluate`; the data are walked over several times.

    Raises ValueError for an attack without a budget, and where no budget does it; TypeError as `evaluate`.
    """
    data = beside(model, data)
    start = fitted(attack, data, seed)
    if not start.has_budget or not start.eps > 0:
        raise ValueError(f"only an attack with a budget above 0 can be calibrated, got {attack!r}")
    most = math.inf if start.norm == "l2" else data.bounds[1] - data.bounds[0]

    def accuracy(attack: Attack) -> float:
        found = evaluate(model, data, {"it": attack}, batch_size=batch_size, checks=0, seed=seed)
        return found.results["it"].accuracy

    def scaled(exponent: float) -> Attack:
        return start.at(min(start.eps * 2.0**exponent, most))

    left, low, high = accuracy(like), -4.0, min(4.0, math.log2(most / start.eps))
    if not accuracy(scaled(low)) > left >= accuracy(scaled(high)):
        raise ValueError(
            f"no budget from {scaled(low).eps:g} to {scaled(high).eps:g} makes {type(attack).__name__} as strong as "
            f"{type(like).__name__}, which leaves {left:.1%}: take a network and a budget where the accuracy is "
            "between clean and 0"
        )
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (middle, high) if accuracy(scaled(middle)) > left else (low, middle)
    return dataclasses.replace(scaled(high), seed=attack.seed)


@measuring()
def swept_curve(
    model: Model,
    data: AnyData,
    attack: Attack,
    budgets: Iterable[float],
    *,
    label: str = "true",
    batch_size: int = 500,
    source: Model | None = None,
    seed: int = 0,
) -> AACurve:
    """The AA curve of an attack run at each of `budgets`, in its norm and the units of its bounds.

    A step function, which is right at the budgets themselves. With true labels a sample that is fooled at one budget
    is fooled at all larger ones, and not attacked again. `data`, `label`, `batch_size`, `source` and `seed` are those
    of `evaluate`. Raises TypeError for an attack that has no budget, and what `evaluate` raises.
    """
    check_label(label, model)
    data = beside(model, data)
    budgets = sorted({eps for eps in budgets if eps})
    fitted(attack, data, seed)  # raises for what is no attack
    at = {eps: fitted(attack.at(eps), data, seed) for eps in budgets}

    def curve(batch: Batch) -> AACurve:
        x, y, ids = batch
        right = expected(model, y)
        seen = [classify(model, x, len(data.classes) - 1, y) == right]
        for eps in budgets:
            live = seen[-1].nonzero().squeeze(1) if label == "true" else torch.arange(len(x), device=x.device)
            labels = y[live] if label == "true" else None
            found = at[eps].outcome(model, x[live], labels, ids[live], source=source)
            seen.append(seen[-1].index_copy(0, live, found.target == right[live]))
        history = torch.stack(seen, dim=1)
        flips = torch.where(history[:, 1:] != history[:, :-1], x.new_tensor(budgets, dtype=torch.float64), torch.inf)
        return AACurve(seen[0].cpu(), flips.sort(dim=1).values.cpu())

    portions = Portions(batch_size)
    return AACurve.join([part for batch in data.batches(batch_size) for part in portions(curve, batch)])
