"""Checks of whether an evaluation measured what it seems to: gradient masking, and mistakes of data and mode.

The signs of gradient masking are those of Athalye et al. (2018, *Obfuscated Gradients*, section 3.1); Square lowering
AutoAttack's figure, zero gradients, random outputs and probabilities instead of logits are flags of AutoAttack, too.
"""

import dataclasses
import hashlib
import math
import warnings
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from ..attacks import (
    APGD,
    APGDT,
    DRA,
    FGSM,
    MIFGSM,
    PGD,
    RFGSM,
    Attack,
    AutoAttack,
    Model,
    Noise,
    OneStepTargeted,
    Square,
    checked_logits,
    isolated,
)
from ..data import Dataset
from ..losses import Loss, cross_entropy, lead
from ._common import fitted
from ._results import Finding, Outcome, Result

KINDS = {
    "one": (FGSM, RFGSM, OneStepTargeted),
    "many": (PGD, APGD, APGDT, MIFGSM, AutoAttack),
    "blind": (Noise, Square),
}
"""Attacks of one step, of many that are meant to be strong, and without gradients."""
FEW = 0.05
"""A share of samples that is no accident."""


def checked(
    model: Model,
    data: Dataset,
    natural: Outcome,
    results: Mapping[str, Result],
    samples: int,
    nan: Mapping[str, Tensor],
    *,
    transferred: bool = False,
    train: Dataset | None = None,
) -> tuple[Finding, ...]:
    """What speaks against trusting `natural` and `results`, as `evaluate` found them on `data`.

    Attacks of a few gradients are made on up to `samples` samples, spread over the data, at the budget of the first
    attack that has one; without such an attack there is no budget, and nothing is compared. No `samples`, no checks.
    `nan`: which samples have NaN logits, by the names of `results`, and ``clean``; they are a finding whatever
    `samples`. `transferred`: the results are of samples made on another model. `train`: what the model was trained on.
    """
    found = [*_nan(nan)]
    if samples == 0:
        return tuple(found)
    places = torch.linspace(0, len(data) - 1, min(samples, len(data)), dtype=torch.float64).round().long()
    few = data.subset(places.to(data.x.device))
    grad = _gradient(model, few)
    found += [*_mode(model), *_inputs(data), *_classes(data), *_overlap(data, train), *_outputs(model, few)]
    found += _zero_gradients(grad, len(few))
    if grad is not None:
        found += _clamped(model, few, grad)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of gradients not finite: the evaluation has said so
            found += _masking(model, few, places, natural, results, transferred)
            found += () if transferred else _square(model, data, natural, results, samples)
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


def _inputs(data: Dataset) -> Iterator[Finding]:
    (low, high), (least, greatest) = data.bounds, data.x.aminmax()
    if greatest - least < (high - low) / 10:
        yield Finding(
            "inputs",
            f"the samples lie in [{least:g}, {greatest:g}], a small part of their bounds [{low:g}, {high:g}]: budgets "
            "mean another thing here. Look whether they were scaled twice, or give the bounds they have",
        )


def _classes(data: Dataset) -> Iterator[Finding]:
    absent = [name for k, name in enumerate(data.classes) if k not in data.y]
    if absent and len(data) >= 10 * len(data.classes):  # of that many in random order, hardly ever
        yield Finding(
            "classes",
            f"none of the {len(data)} samples is of class {', '.join(absent)}: these figures are those of the other "
            "classes. If the data are sorted by class, save them in random order, or take all of them",
        )


def _overlap(data: Dataset, train: Dataset | None) -> Iterator[Finding]:
    if train is None:
        return
    known = set(_hashes(train.x))
    again = sum(each in known for each in _hashes(data.x))
    if again:
        yield Finding(
            "overlap",
            f"{again} of {len(data)} test samples are training samples, too, bit for bit: accuracies are too high by "
            "as much as the model remembers. Remove them from either",
        )


def _hashes(x: Tensor) -> Iterator[bytes]:
    for row in x.cpu().contiguous().flatten(1).numpy():
        yield hashlib.blake2b(row.tobytes(), digest_size=16).digest()


def _outputs(model: Model, few: Dataset) -> Iterator[Finding]:
    with isolated(model), torch.no_grad():
        first, again = checked_logits(model, few.x), checked_logits(model, few.x)
        part = checked_logits(model, few.x[: -(-len(few) // 2)])
    # A GPU's convolutions may round to TensorFloat32, by a way that depends on the batch size.
    rounding = (2**-8 if first.is_cuda else torch.finfo(first.dtype).eps ** 0.5) * first.abs().max()
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


def _gradient(model: Model, few: Dataset, loss: Loss = cross_entropy) -> Tensor | None:
    """Of the loss, at the samples; None where the model lets none through."""
    with isolated(model):
        x = few.x.clone().requires_grad_()
        logits = checked_logits(model, x)
        if not logits.requires_grad:
            return None
        return torch.autograd.grad(loss(logits, few.y).sum(), x, allow_unused=True)[0]


def _zero_gradients(grad: Tensor | None, samples: int) -> Iterator[Finding]:
    zero = samples if grad is None else int((grad.flatten(1) == 0).all(1).sum())
    if zero >= max(2, FEW * samples):
        yield Finding(
            "zero gradients",
            f"at {zero} of {samples} samples the loss has no gradient: attacks that follow it stand still there, "
            "which is not robustness. Look for quantisation, hard thresholds or saturated logits, and attack through "
            "them: a smooth stand-in in the backward pass, losses on logits such as margin or dlr, Square",
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
    model: Model, few: Dataset, places: Tensor, natural: Outcome, results: Mapping[str, Result], transferred: bool
) -> Iterator[Finding]:
    attacks = [result.attack for result in results.values() if not isinstance(result.attack, DRA)]  # a budget of a mean
    strengths = [(a.norm, a.eps) for a in attacks if a.has_budget and isinstance(a.eps, float | int)]
    right = natural.right[places]
    if not strengths or not right.any():
        return
    norm, eps = strengths[0]
    how = {"norm": norm, "bounds": few.bounds}
    far = (few.bounds[1] - few.bounds[0]) * {"linf": 1, "l2": few.x[0].numel() ** 0.5, "l1": few.x[0].numel()}[norm]

    def fooled(attack: Attack) -> Tensor:
        found = fitted(attack, few, seed=0).outcome(model, few.x, few.y, places.to(few.x.device))
        return right & (found.target != few.y).cpu()

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
        yield Finding(
            "weak attacks",
            f"PGD of 20 steps fools {gain} of {int(right.sum())} samples more than all attacks of this evaluation with "
            f"eps {eps:g} ({norm}) together: what they leave is not robustness. Add pgd, or autoattack",
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


def _gain(weak: Tensor, strong: Tensor) -> int:
    """How many more samples `weak` fools than `strong`, if that is no accident: sign test, one-sided, at 5%; or 0."""
    won, lost = int((weak & ~strong).sum()), int((strong & ~weak).sum())
    p = sum(math.comb(won + lost, k) for k in range(won, won + lost + 1)) / 2 ** (won + lost)
    return won - lost if won > lost and p < 0.05 else 0


def _square(
    model: Model, data: Dataset, natural: Outcome, results: Mapping[str, Result], samples: int
) -> Iterator[Finding]:
    """Whether the other attacks of AutoAttack fool those that it fooled, on up to `samples` of these."""
    for name, result in results.items():
        attack = result.attack
        others = tuple(part for part in attack.attacks if part != "square") if isinstance(attack, AutoAttack) else ()
        fooled = (natural.right & ~result.right).nonzero().squeeze(1)
        if not others or len(others) == len(attack.attacks) or len(fooled) == 0:
            continue
        tried = fooled[torch.linspace(0, len(fooled) - 1, min(samples, len(fooled))).round().long()].to(data.x.device)
        some, rest = data.subset(tried), dataclasses.replace(attack, version="custom", attacks_to_run=others)
        left = int((rest.outcome(model, some.x, some.y, tried).target == some.y).sum())
        drop = left / len(tried) * len(fooled) / len(data)
        if drop > 0.002:  # the flag of AutoAttack's authors
            yield Finding(
                f"square lowers {name}",
                f"of {len(tried)} samples that {name} fooled, {left} were fooled by Square alone, about {drop:.1%} of "
                "all: a hint of gradient masking. Give Square more queries and restarts, and adapt an attack",
            )
