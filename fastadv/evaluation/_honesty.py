"""Checks of whether an evaluation measured what it seems to: gradient masking, and mistakes of data and mode.

The signs of gradient masking are those of Athalye et al. (2018, *Obfuscated Gradients*, section 3.1); Square lowering
AutoAttack's figure, zero gradients, random outputs and probabilities instead of logits are flags of AutoAttack, too.
The six indicators of attack failure (Pintor et al., 2022) are all here: unavailable gradients, unstable predictions,
silent success, incomplete optimisation, transfer failure (as a transfer that is stronger) and unconstrained failure.
"""

import dataclasses
import hashlib
import math
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..attacks import (
    APGD,
    APGDT,
    FGSM,
    MIFGSM,
    PGD,
    RFGSM,
    SPSA,
    Attack,
    AutoAttack,
    Model,
    Noise,
    OneStepTargeted,
    Square,
    checked_logits,
    isolated,
)
from ..attacks._nearest import Descent
from ..data import AnyData, Batch, Dataset, Samples, samples_of
from ..losses import Loss, cross_entropy, lead
from ..models.adapted import expected, own_loss
from ._attackbench import NORMS, Queries
from ._common import fitted
from ._results import Finding, Outcome, Result

KINDS = {
    "one": (FGSM, RFGSM, OneStepTargeted),
    "many": (PGD, APGD, APGDT, MIFGSM, AutoAttack),
    "blind": (Noise, SPSA, Square),
}
"""Attacks of one step, of many that are meant to be strong, and without gradients."""
FEW = 0.05
"""A share of samples that is no accident."""


class Seen:
    """What the checks need of data that are walked over once: extremes, counts, a digest, and some of the samples.

    The samples held are at most twice as many as `samples`, at equal distances; of few, all. `train` is walked over
    once for its hashes. `kept`: whether the digest is wanted even without `samples`.
    """

    def __init__(self, data: Samples, samples: int, train: AnyData | None = None, kept: bool = False):
        self.data, self.samples, self.count, self.again = data, samples, 0, 0
        self.low, self.high = math.inf, -math.inf
        self.counts = torch.zeros(len(data.classes), dtype=torch.int64)
        self._held: list[tuple[int, Tensor, Tensor, Tensor]] = []
        self._stride = 1
        self._sha = hashlib.sha256() if samples or kept else None
        self._labels: list[bytes] = []
        batches = samples_of(train).batches(500) if train is not None and samples else ()
        self._known = {each for batch in batches for each in _hashes(batch.x)}

    def note(self, batch: Batch) -> None:
        """Takes the next batch into account."""
        x, y, ids = batch
        if self._sha:
            self._sha.update(x.numpy(force=True).tobytes())
            self._labels.append(y.numpy(force=True).tobytes())
        if self.samples:
            low, high = x.aminmax()
            self.low, self.high = min(self.low, float(low)), max(self.high, float(high))
            if self.data.classes:
                self.counts += y.bincount(minlength=len(self.counts)).cpu()
            self.again += sum(each in self._known for each in _hashes(x)) if self._known else 0
            for row in range(-self.count % self._stride, len(y), self._stride):
                if (self.count + row) % self._stride == 0:  # it may have been doubled meanwhile
                    self._held.append((self.count + row, x[row].clone(), y[row], ids[row]))
                if len(self._held) > 2 * self.samples:
                    self._stride *= 2
                    self._held = [each for each in self._held if each[0] % self._stride == 0]
        self.count += len(y)

    @property
    def digest(self) -> str:
        """The SHA-256 of all samples and then all labels; empty where none was wanted."""
        if self._sha is None:
            return ""
        whole = self._sha.copy()
        whole.update(b"".join(self._labels))
        return whole.hexdigest()

    def some(self, count: int, among: Tensor | None = None) -> tuple[Dataset, Tensor, Tensor] | None:
        """Up to `count` of the samples held, spread over them: the data, their places in the walk, on the CPU, and ids.

        `among` [N] bool: only samples for which it is true; None where there are none.
        """
        held = [each for each in self._held if among is None or among[each[0]]]
        if not held:
            return None
        chosen = torch.linspace(0, len(held) - 1, min(count, len(held)), dtype=torch.float64).round().long().tolist()
        places, x, y, ids = zip(*(held[i] for i in chosen), strict=True)
        about = self.data.classes, self.data.bounds, self.data.name
        few = Dataset(torch.stack(x), torch.stack(y), *about).to(x[0].device)
        return few, torch.tensor(places), torch.stack(ids)


def checked(
    model: Model,
    seen: Seen,
    natural: Outcome,
    results: Mapping[str, Result],
    samples: int,
    nan: Mapping[str, Tensor],
    *,
    transferred: bool = False,
) -> tuple[Finding, ...]:
    """What speaks against trusting `natural` and `results`, as `evaluate` found them on the data that were `seen`.

    Attacks of a few gradients are made on up to `samples` samples, spread over the data, at the budget of the first
    attack that has one; without such an attack there is no budget, and nothing is compared. No `samples`, no checks.
    `nan`: which samples have NaN logits, by the names of `results`, and ``clean``; they are a finding whatever
    `samples`. `transferred`: the results are of samples made on another model.
    """
    found = [*_nan(nan)]
    if samples == 0:
        return tuple(found)
    few, places, ids = seen.some(samples)
    grad = _gradient(model, few)
    outputs = [*_outputs(model, few)]
    random = "random" in [each.check for each in outputs]  # what two passes do not agree upon is no finding then
    found += [*_mode(model), *_inputs(seen), *_classes(seen), *_overlap(seen), *outputs]
    no_logits = nan["clean"][places]
    found += _zero_gradients(grad, no_logits)
    if grad is not None:
        found += _not_finite(grad, no_logits)
        found += () if random else _unstable(model, few)
        found += _clamped(model, few, grad)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of gradients not finite: the evaluation has said so
            found += _masking(model, few, places, ids, natural, results, transferred)
            if not (transferred or random):
                found += _replayed(model, few, places, ids, natural, results)
                found += _descended(model, few, places, ids, natural, results)
            found += () if transferred else _square(model, seen, natural, results, samples)
    return tuple(found)


# ------------------------------------------------------------------------------------------------------ model and data


def _nan(nan: Mapping[str, Tensor]) -> Iterator[Finding]:
    shares = {name: float(each.double().mean()) for name, each in nan.items() if bool(each.any())}
    if shares:
        yield Finding(
            "nan",
            "the model's logits are NaN for "
            + ", ".join(f"{share:.1%} of the samples ({name})" for name, share in shares.items())
            + ": these count as errors. Where all are, it has diverged: train it again with a smaller learning rate or "
            "clipped gradients. Where some are, look for divisions by zero, logarithms and overflow in the model",
        )


def _mode(model: Model) -> Iterator[Finding]:
    changeable = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
    modules = model.modules() if isinstance(model, nn.Module) else ()
    if any(module.training and isinstance(module, changeable) for module in modules):
        yield Finding(
            "train mode",
            "the model was given in train mode, and put into eval mode for these figures: batch norm or dropout would "
            "have been left to chance. Call model.eval() before you use it, or measure it elsewhere",
        )


def _inputs(seen: Seen) -> Iterator[Finding]:
    (low, high), least, greatest = seen.data.bounds, seen.low, seen.high
    if greatest - least < (high - low) / 10:
        yield Finding(
            "inputs",
            f"the samples lie in [{least:g}, {greatest:g}], a small part of their bounds [{low:g}, {high:g}]: budgets "
            "mean another thing here. Look whether they were scaled twice, or give the bounds they have",
        )


def _classes(seen: Seen) -> Iterator[Finding]:
    classes = seen.data.classes
    absent = [name for name, count in zip(classes, seen.counts.tolist(), strict=True) if count == 0]
    if absent and seen.count >= 10 * len(classes):  # of that many in random order, hardly ever
        yield Finding(
            "classes",
            f"none of the {seen.count} samples is of class {', '.join(absent)}: these figures are those of the other "
            "classes. If the data are sorted by class, save them in random order, or take all of them",
        )


def _overlap(seen: Seen) -> Iterator[Finding]:
    if seen.again:
        yield Finding(
            "overlap",
            f"{seen.again} of {seen.count} test samples are training samples, too, bit for bit: accuracies are too high"
            " by as much as the model remembers. Remove them from either",
        )


def _hashes(x: Tensor) -> Iterator[bytes]:
    for row in x.cpu().contiguous().flatten(1).numpy():
        yield hashlib.blake2b(row.tobytes(), digest_size=16).digest()


def _outputs(model: Model, few: Dataset) -> Iterator[Finding]:
    with isolated(model), torch.no_grad():
        first, again = (checked_logits(model, few.x, y=few.y) for _ in range(2))
        half = slice(-(-len(few) // 2))
        part = checked_logits(model, few.x[half], y=few.y[half])
    rounding = _rounding(first)
    if (first - again).abs().max() > rounding:
        yield Finding(
            "random",
            "the same samples gave other logits a second time: the model is random, and an attack that asks once is "
            "too weak. Average gradients over draws (APGD's eot, AutoAttack's version rand), and see that dropout is "
            "in eval mode",
        )
    elif (first[: len(part)] - part).abs().max() > rounding:
        yield Finding(
            "batch",
            "a sample's logits depend on the samples beside it: batch norm uses the batch's statistics. Put it into "
            "eval mode; as it is, figures depend on the batch size, and attacks on one sample move the others",
        )
    if len(few) > 1 and first.min() >= 0 and (first.sum(1) - 1).abs().max() < 1e-4:
        yield Finding(
            "probabilities",
            "the outputs sum to 1: they are probabilities, not logits, and a second softmax in the loss flattens "
            "gradients. Leave the softmax out of the model",
        )
    one_logit = first.shape[1] == 2 and not first[:, 0].any() and not own_loss(model)
    if len(few) > 1 and one_logit and 0 < first[:, 1].min() <= first[:, 1].max() < 1:
        yield Finding(
            "probabilities",
            "the model gives one number a sample, always between 0 and 1: that is a probability, not a logit, and as a "
            "logit it stands for class 1 everywhere. Leave the sigmoid out of the model",
        )


def _rounding(logits: Tensor) -> Tensor:
    """What is less than this may differ between two passes, of any kind."""
    return torch.finfo(logits.dtype).eps ** 0.5 * logits.abs().nan_to_num(0.0, 0.0).max()


def _gradient(model: Model, few: Dataset, loss: Loss = cross_entropy) -> Tensor | None:
    """Of the loss, at the samples; None where the model lets none through."""
    with isolated(model):
        x = few.x.clone().requires_grad_()
        logits = checked_logits(model, x, y=few.y)
        if not logits.requires_grad:
            return None
        return torch.autograd.grad(loss(logits, expected(model, few.y)).sum(), x, allow_unused=True)[0]


def _zero_gradients(grad: Tensor | None, nan: Tensor) -> Iterator[Finding]:
    """Of samples whose logits are not `nan` [N]: those are another finding."""
    samples = len(nan)
    zero = int((~nan if grad is None else (grad.flatten(1) == 0).all(1).cpu() & ~nan).sum())
    if zero >= max(2, FEW * samples):
        yield Finding(
            "zero gradients",
            f"at {zero} of {samples} samples the loss has no gradient: attacks that follow it stand still there, "
            "which is not robustness. Look for quantisation, hard thresholds or saturated logits, and attack through "
            "them: a smooth stand-in in the backward pass, losses on logits such as margin or dlr, Square",
        )


def _not_finite(grad: Tensor, nan: Tensor) -> Iterator[Finding]:
    bad, samples = ~grad.flatten(1).isfinite().all(1).cpu() & ~nan, len(grad)
    if (count := int(bad.sum())) >= max(2, FEW * samples):
        yield Finding(
            "gradients not finite",
            f"at {count} of {samples} samples the loss has gradients that are NaN or infinite, though the logits are "
            "numbers: attacks leave these values, or the whole sample, where they are. Look for square roots, norms, "
            "logarithms and divisions at 0, and add a small constant there",
        )


def _unstable(model: Model, few: Dataset) -> Iterator[Finding]:
    """Whether gradients come again, and the lead in logits moves no further than they let it.

    To first order, a step changes the lead by at most its length times that of the gradient, in whatever direction.
    """
    low, high = few.bounds
    draw = torch.rand(few.x.shape, generator=torch.Generator().manual_seed(0)).to(few.x)
    moved = (few.x + (2 * draw - 1) * (high - low) / 256).clamp(low, high)
    first, again = (_gradient(model, few, lead).flatten(1).double() for _ in range(2))
    with isolated(model), torch.no_grad():
        here, there = (checked_logits(model, x, y=few.y) for x in (few.x, moved))
        y = expected(model, few.y)
    size, samples = first.norm(dim=1), len(few)
    turned = (again - first).norm(dim=1) / size
    if (count := int((turned > 0.1).sum())) >= max(2, FEW * samples):
        yield Finding(
            "gradient noise",
            f"at {count} of {samples} samples the gradient was another a second time, by "
            f"{float(turned[turned > 0.1].median()):.0%} of its length, while the outputs stayed the same: the "
            "backward pass draws random numbers, or remembers earlier calls. Take that out, or average gradients "
            "(PGD's samples, APGD's eot)",
        )
    change = (lead(there, y) - lead(here, y)).abs() - _rounding(here)
    allowed = size * (moved - few.x).flatten(1).double().norm(dim=1)
    if (count := int(((change > 2 * allowed) & (allowed > 0)).sum())) >= max(2, FEW * samples):
        yield Finding(
            "unstable predictions",
            f"for {count} of {samples} samples the logits jump: at a random point within 1/256 of the inputs' range, "
            "the lead of the label moves by more than twice what its gradient allows. Gradients do not say what "
            "follows a step. Look for hard selections (k-WTA, sorting, thresholds) and detached branches. Take apgd, "
            "which keeps the best point that it meets, and a smooth stand-in as the source: the model on noisy inputs, "
            "with gradients averaged (PGD's samples, APGD's eot)",
        )


def _clamped(model: Model, few: Dataset, grad: Tensor) -> Iterator[Finding]:
    """Whether values at a bound have no gradient only because they are there, as under a clamp of the input.

    A random half of the samples' values is moved inside. Under a clamp, that half alone has a gradient afterwards. In
    a layer that is dead at the samples, such as a ReLU without a bias on black, the other half wakes up with it. In a
    layer that pools its input, the moved half takes over a gradient that some values at the bound had before.
    """
    low, high = few.bounds
    inside = (high - low) / 256  # bfloat16 still tells 1 - 1/256 from 1
    half = (torch.rand(few.x.shape, generator=torch.Generator().manual_seed(0)) < 0.5).to(few.x.device)
    probe = dataclasses.replace(few, x=torch.where(half, few.x.clamp(low + inside, high - inside), few.x))
    before, after = grad != 0, _gradient(model, probe, lead) != 0  # the lead in logits does not saturate
    counts = {}
    for bound in few.bounds:
        at = few.x == bound
        had, woken, still = (int((at & which).sum()) for which in (before, after & half, after & ~half))
        if woken >= 10 and max(had, still) < FEW * woken:
            counts[f"{bound:g}"] = had, int(at.sum()), woken
    if counts:
        had, all_there, woken = map(sum, zip(*counts.values(), strict=True))
        yield Finding(
            "clamped inputs",
            f"{had} of the {all_there} values that are exactly {' or '.join(counts)} have a gradient. Of a random half "
            f"of them, moved inside the bounds by {inside:.2g}, {woken} have one: the model clamps its input (clamp, "
            "hardtanh, ReLU), attacks leave these values where they are, and what they leave is not robustness. "
            "Remove the clamp: attacks stay within the bounds without it. Or give it the gradient of the identity, "
            "x + (x.clamp(low, high) - x).detach(), and evaluate again",
        )


# ---------------------------------------------------------------------------------------------------- attacks compared


def _masking(
    model: Model,
    few: Dataset,
    places: Tensor,
    ids: Tensor,
    natural: Outcome,
    results: Mapping[str, Result],
    transferred: bool,
) -> Iterator[Finding]:
    attacks = [result.attack for result in results.values() if result.attack.ball]
    strengths = [(a.norm, a.eps) for a in attacks if a.has_budget and isinstance(a.eps, float | int)]
    right = natural.right[places]
    if not strengths or not right.any():
        return
    norm, eps = strengths[0]
    how = {"norm": norm, "bounds": few.bounds}
    far = (few.bounds[1] - few.bounds[0]) * {"linf": 1, "l2": few.x[0].numel() ** 0.5, "l1": few.x[0].numel()}[norm]

    def fooled(attack: Attack) -> Tensor:
        found = fitted(attack, few, seed=0).outcome(model, few.x, few.y, ids)
        return right & found.success.cpu()

    def given(*kinds: type) -> Tensor:
        """[N]: fooled by those of the evaluation's own attacks that are of these kinds, at this budget."""
        same = [r for r in results.values() if isinstance(r.attack, kinds) and r.attack.has_budget]
        same = [r.right for r in same if (r.attack.norm, r.attack.eps) == (norm, eps)]
        return natural.right & ~torch.stack([natural.right, *same]).all(0)

    random = fooled(PGD(eps, 0.0, steps=0, restarts=20, **how))
    made = {
        "one": fooled(PGD(eps, eps, 1, random_start=0.0, **how)),
        "many": fooled(PGD(eps, eps / 8, 20, random_start=0.0, **how)),
        "blind": random | fooled(Square(eps, queries=100, **how)) if norm == "linf" else random,
    }
    kinds = {"one": (), "many": (), "blind": (Attack,)} if transferred else KINDS
    whole = {group: given(*kind) for group, kind in kinds.items()}
    together = {group: made[group] | whole[group][places] for group in made}
    compared = [together, whole] if any(isinstance(attack, kinds["many"]) for attack in attacks) else [together]

    gain = 0 if transferred else _gain(made["one"] | made["many"], given(Attack)[places])
    if gain:
        share = eps / (few.bounds[1] - few.bounds[0])
        yield Finding(
            "weak attacks",
            f"PGD of 20 steps fools {gain} of {int(right.sum())} samples more than all attacks of this evaluation with "
            f"eps {share:g} ({norm}) together: what they leave is not robustness. Add pgd, or autoattack",
        )
    scale = math.nan if transferred or own_loss(model) else _scale(model, few)
    if scale < 0.1 or scale > 20:
        on_margin = fooled(PGD(eps, eps / 8, 20, random_start=0.0, loss="margin", **how))
        if gain := _gain(on_margin, together["one"] | together["many"] | given(Attack)[places]):
            yield Finding(
                "weak loss",
                f"PGD on the margin fools {gain} of {int(right.sum())} samples more than PGD on the cross-entropy and "
                f"all attacks of this evaluation together. A label leads by {scale:.2g} in logits: where that is large "
                "the cross-entropy is flat, where it is small it hardly depends on who comes second. Take loss margin "
                "or dlr, or autoattack",
            )
    if gain := max(_gain(fooled_by["one"], fooled_by["many"]) for fooled_by in compared):
        yield Finding(
            "iterative weaker than one-step",
            f"{gain} samples more are fooled by one step than by many, which should find all that one finds: the "
            "steps are caught in a rugged loss. Take restarts, larger steps, other losses, and Square",
        )
    if gain := max(_gain(fooled_by["blind"], fooled_by["one"] | fooled_by["many"]) for fooled_by in compared):
        yield Finding(
            "black-box stronger than white-box",
            f"{gain} samples more are fooled without the model's gradients (Square, noise, transfer) than with them: "
            "the gradients mislead. Believe the smaller accuracy, and adapt the attack to the model",
        )
    only = int((random & ~together["one"] & ~together["many"]).sum())
    if only >= max(2, FEW * int(right.sum())):
        yield Finding(
            "random search",
            f"for {only} of {int(right.sum())} samples one of 20 random points within the budget is adversarial, and "
            "gradient attacks find none: they do not look where the model is wrong. Take restarts and Square",
        )
    left = int((right & ~fooled(PGD(far, far / 8, 20, random_start=0.0, **how))).sum())
    if left > FEW * int(right.sum()):
        yield Finding(
            "unbounded",
            f"PGD with the whole range for a budget leaves {left} of {int(right.sum())} samples right and should leave "
            "almost none: what stops it is not robustness. Take more steps and other losses, and look at the gradients",
        )


class _Watched(Queries):
    """Keeps the lead of every sample's label at each call, [N] each, infinite for samples that were not asked about.

    And the size of its smallest adversarial perturbation by then.
    """

    def __init__(self, *given: Any):
        super().__init__(*given)
        self.leads: list[Tensor] = []
        self.sizes = [self.best.clone()]

    def _track(self, x: Tensor, logits: Tensor, owner: Tensor, allowed: Tensor) -> None:
        super()._track(x, logits, owner, allowed)
        ahead = lead(logits, self.y[owner])
        self.leads.append(ahead.new_full(self.y.shape, math.inf).scatter_reduce(0, owner, ahead, "amin"))
        self.sizes.append(self.best.clone())

    def rising(self, steps: int, passes: int) -> Tensor:
        """[N]: whether the last ten of the last `steps`, of `passes` each, made 5 % of the way to the best lead."""
        best = torch.stack(self.leads[-steps * passes - 1 :]).cummin(0).values[::passes]
        return best[max(len(best) - 11, 0)] - best[-1] > FEW * (best[0] - best[-1])

    def shrinking(self) -> Tensor:
        """[N]: whether the smallest perturbation lost 5 % of its size in the last ten calls."""
        return self.sizes[-1] < (1 - FEW) * self.sizes[max(len(self.sizes) - 11, 0)]


def _replayed(
    model: Model, few: Dataset, places: Tensor, ids: Tensor, natural: Outcome, results: Mapping[str, Result]
) -> Iterator[Finding]:
    """What is seen by looking over an attack's shoulder: success that it does not return, and steps that it lacks."""
    right = natural.right[places]
    tried = int(right.sum())
    for name, result in results.items():
        attack = result.attack
        given = isinstance(getattr(attack, "eps", None), float | int) and attack.norm in NORMS and attack.ball
        if own_loss(model) or not (given and isinstance(attack, KINDS["many"])):
            continue
        queries = _Watched(model, few.x, few.y, attack.norm, 2**62, few.bounds)
        returned = attack.outcome(queries, few.x, few.y, ids).success.cpu()
        met = (queries.best <= attack.eps * (1 + 1e-5)).cpu()
        lost = int((right & met & ~returned).sum())
        if lost >= max(2, FEW * tried):
            yield Finding(
                f"silent success of {name}",
                f"for {lost} of {tried} samples the attack met an adversarial point within its budget and returned "
                "another, which is not: its steps jump over the boundary. Take apgd or autoattack, which keep the "
                "first that they meet, or smaller steps",
            )
        steps = getattr(attack, "steps", 0)
        passes = getattr(attack, "samples", 1) * getattr(attack, "eot", 1)
        rising = int((queries.rising(steps, passes).cpu() & right & ~returned).sum()) if steps else 0
        if rising >= max(2, FEW * tried):
            twice = dataclasses.replace(attack, steps=2 * steps).outcome(model, few.x, few.y, ids).success.cpu()
            if gain := _gain(right & twice, right & returned):
                yield Finding(
                    f"incomplete optimisation of {name}",
                    f"{rising} of {tried} samples are left right while the loss still rises in the last "
                    f"{min(10, steps)} of {steps} steps, and twice the steps fool {gain} more. Take more steps, until "
                    "twice as many change nothing, or larger ones; or apgd, which chooses its own",
                )


def _descended(
    model: Model, few: Dataset, places: Tensor, ids: Tensor, natural: Outcome, results: Mapping[str, Result]
) -> Iterator[Finding]:
    """Of attacks that look for the smallest perturbation in a number of steps: whether they lack some."""
    right = natural.right[places]
    tried = int(right.sum())
    for name, result in results.items():
        attack = result.attack
        if own_loss(model) or not isinstance(attack, Descent):
            continue
        queries = _Watched(model, few.x, few.y, attack.norm, 2**62, few.bounds)
        attack.outcome(queries, few.x, few.y, ids)
        shrinking = int((right & queries.shrinking().cpu()).sum())
        if shrinking < max(2, FEW * tried):
            continue
        more = dataclasses.replace(attack, steps=2 * attack.steps).outcome(model, few.x, few.y, ids)
        once, twice = queries.best.cpu(), torch.where(more.success, more.norm, math.inf).cpu()
        if gain := _gain(right & (twice < (1 - FEW) * once), right & (once < (1 - FEW) * twice)):
            yield Finding(
                f"incomplete optimisation of {name}",
                f"for {shrinking} of {tried} samples the perturbation is found, or shrinks by more than {FEW:.0%}, in "
                f"the last {min(10, attack.steps)} of {attack.steps} steps, and twice the steps find {gain} more that "
                "are smaller by as much. Take more steps, until twice as many change nothing",
            )


def _scale(model: Model, few: Dataset) -> float:
    """The median lead or lag of a label, in logits."""
    with isolated(model), torch.no_grad():
        return float(lead(checked_logits(model, few.x), few.y).abs().nanmedian())


def _gain(weak: Tensor, strong: Tensor) -> int:
    """How many more samples `weak` fools than `strong`, if that is no accident: sign test, one-sided, at 5%; or 0."""
    won, lost = int((weak & ~strong).sum()), int((strong & ~weak).sum())
    p = sum(math.comb(won + lost, k) for k in range(won, won + lost + 1)) / 2 ** (won + lost)
    return won - lost if won > lost and p < 0.05 else 0


def _square(
    model: Model, seen: Seen, natural: Outcome, results: Mapping[str, Result], samples: int
) -> Iterator[Finding]:
    """Whether the other attacks of AutoAttack fool those that it fooled, on up to `samples` of these that are held."""
    for name, result in results.items():
        attack = result.attack
        parts = attack.attacks if isinstance(attack, AutoAttack) else {}
        others = tuple(part for part in parts if not isinstance(parts[part], Square))
        fooled = natural.right & ~result.right
        tried = seen.some(samples, fooled) if others and len(others) < len(attack.attacks) else None
        if tried is None:
            continue
        (some, _, ids), rest = tried, dataclasses.replace(attack, version="custom", attacks_to_run=others, bf16=False)
        left = int((~rest.outcome(model, some.x, some.y, ids).success).sum())
        drop = left / len(some) * float(fooled.double().mean())
        if drop > 0.002:  # the flag of AutoAttack's authors
            yield Finding(
                f"square lowers {name}",
                f"of {len(some)} samples that {name} fooled, {left} were fooled by Square alone, about {drop:.1%} of "
                "all: a hint of gradient masking. Give Square more queries and restarts, and adapt an attack",
            )
