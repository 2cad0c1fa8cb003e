"""AutoAttack's bound on the robust accuracy as it falls."""

import dataclasses
import time
from collections.abc import Iterator

import torch

from .. import ops
from ..attacks import AttackResult, AutoAttack, Model, classify
from ..data import AnyData
from ..models.adapted import expected
from ._common import beside, check_label, fitted, measuring
from ._honesty import Seen, checked
from ._results import Evaluation, Finding, Outcome, Result


def anytime(
    model: Model,
    data: AnyData,
    attack: AutoAttack,
    *,
    name: str = "autoattack",
    label: str = "true",
    batch_size: int = 500,
    seed: int = 0,
) -> Iterator[tuple[str, Evaluation]]:
    """After each attack on each batch, the attack's name and an `Evaluation` of all `data` by then; first ``clean``.

    Each is valid by itself, and its robust accuracy an upper bound of the next one's, for every sample. Stop whenever
    you like. All batches go through one attack before the next, so the bound falls fastest at first. The last is
    what `evaluate` gives, without its checks, which `concluded` makes. The data are held in memory, and so are their
    adversarial samples.

    Args:
        model: as `evaluate` takes it.
        data: likewise.
        attack: an AutoAttack of any version.
        name: of the result in the evaluations.
        label: what attacks move away from, ``true`` or ``pred``.
        batch_size: largest number of samples at a time.
        seed: of random numbers, for an attack without a seed of its own.

    Raises TypeError for another attack, and the errors of `evaluate`.
    """
    check_label(label)
    if not isinstance(attack, AutoAttack):
        raise TypeError(f"anytime is for AutoAttack, which has a bound after each of its attacks; got {attack!r}")
    with measuring():
        data = beside(model, data)
        attack = fitted(attack, data, seed)
        batches = list(data.batches(batch_size))
    started = time.perf_counter()
    y = torch.cat([batch.y for batch in batches])
    runs = [attack.anytime(model, x, labels if label == "true" else None, ids) for x, labels, ids in batches]
    found: list[AttackResult] = []

    def right() -> torch.Tensor:
        return (torch.cat([each.target for each in found]) == expected(model, y)).cpu()

    def so_far(natural: Outcome) -> Evaluation:
        parts = zip(found, batches, strict=True)
        sizes = torch.cat([ops.row_norms(each.x_adv, "rms", batch.x) / attack.unit for each, batch in parts]).cpu()
        grads = torch.cat([each.grads for each in found]).cpu()
        result = Result(right(), attack, sizes, grads, time.perf_counter() - started)
        return Evaluation(data.name, label, natural, {name: result}, (), "preserve", "")

    for run in runs:
        with measuring():
            found.append(next(run)[1])
    natural = Outcome(right())
    yield "clean", so_far(natural)
    for stage in attack.attacks:
        for number, run in enumerate(runs):
            with measuring():
                after = next(run, None)
            if after is not None:
                found[number] = after[1]
                yield stage, so_far(natural)


def concluded(
    model: Model,
    data: AnyData,
    found: Evaluation,
    *,
    stopped: str = "",
    checks: int = 64,
    train: AnyData | None = None,
    batch_size: int = 500,
) -> Evaluation:
    """`found`, one of `anytime` of `model` on `data`, with what the checks of `evaluate` find at its end.

    `stopped`: during which attack it was stopped, for a finding that says so. `checks`, `train` and `batch_size` are
    those of `evaluate`.
    """
    findings: tuple[Finding, ...] = ()
    if stopped:
        words = f"stopped during {stopped}: the figure is a bound by what was found so far, not that of all attacks"
        findings = (Finding("stopped", words),)
    data = beside(model, data)
    seen = Seen(data, checks, train)
    nan: dict[str, torch.Tensor] = {}
    with measuring():
        parts = []
        for batch in data.batches(batch_size):
            seen.note(batch)
            parts.append(classify(model, batch.x, y=batch.y).cpu() < 0)
        nan["clean"] = torch.cat(parts)
    findings += checked(model, seen, found.natural, found.results, min(checks, batch_size), nan)
    return dataclasses.replace(found, findings=(*found.findings, *findings), test_sha256=seen.digest)
