"""``fastadv evaluate``."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import nn

from .. import report
from .._processes import rank, shared
from ..attacks import Attack, AutoAttack
from ..attacks._tuned import check_format
from ..data import Dataset
from ..evaluation import (
    Certifier,
    Evaluation,
    IntervalBounds,
    RandomizedSmoothing,
    SampleFolder,
    SavedSamples,
    anytime,
    concluded,
    evaluate,
    open_saved,
    swept_curve,
)
from ..info import environment
from ..runs import Run
from ..trainers import processes
from ._batches import Batches, fingerprint
from ._networks import load_model, trained_on
from ._parser import number
from ._plan import EvaluationPlan, plan_evaluation
from ._settings import Data, Testing, as_yaml, defaults, listed
from ._terminal import console, drawn, say
from ._train import conclude


@dataclass
class Conduct:
    """How an evaluation is carried out.

    Args:
        transfer_from: model that the attacked samples are made on. It is named like the one evaluated.
        mean: subtracted from every pixel before a model from elsewhere sees it. One number, or one a channel such as
            0.49,0.48,0.45. Runs have their own.
        std: divides the result, likewise.
        sweep: budgets at which accuracy is also measured. They apply to the attacks that have one.
        steps: numbers of attack steps at which accuracy is also measured. They apply to the attacks that have a budget
            and steps. Step sizes that do not follow the number of steps stay as they are.
        certify: lower bounds beside the attacks: interval, smoothing or both. ``interval`` proves up to which size, in
            the norms of the attacks, nothing fools the network. ``smoothing`` is about the smoothed classifier, which
            is another one, in L2.
        sigma: standard deviation of the noise of smoothing, as a share of the data's range.
        draws: random draws of smoothing for every sample, beside 100 that choose the class. The paper takes 100,000.
        checks: samples for the checks for gradient masking, 0 for none. The checks look for mistakes in data and model,
            too.
        memory_format: layout of images: contiguous, channels_last, preserve or auto. It changes speed and rounding
            only. ``preserve`` leaves them as the data set has them, which is channels_last on CPUs.
            ``auto`` times both where that takes at most 2 % of the evaluation, and is ``preserve`` otherwise.
        anytime: print the bound of AutoAttack as it falls, attack by attack. Ctrl-C stops it and keeps what is known by
            then. It takes --attacks autoattack or autoattack-fast, and no other.
        save_samples: new folder for the clean and the adversarial samples, which fastadv verify checks.
        samples_as: files of saved samples: npz, safetensors or png. PNG has 8 bits; its samples are measured again
            after rounding.
        out: new folder for tables and figures.
        resume: continue the evaluation in --out. Finished batches are not measured again.
    """

    transfer_from: str | None = None
    mean: float | list[float] = 0.0
    std: float | list[float] = 1.0
    sweep: str = ""
    steps: str = ""
    certify: str = ""
    sigma: float = 0.25
    draws: int = 1000
    checks: int = 64
    memory_format: str = "auto"
    anytime: bool = False
    save_samples: str | None = None
    samples_as: Literal["npz", "safetensors", "png"] = "npz"
    out: str | None = None
    resume: bool = False

    def __post_init__(self) -> None:
        if self.resume and not self.out:
            raise ValueError("resume needs --out, the folder of the evaluation to continue")
        if self.checks < 0:
            raise ValueError(f"checks must be a number of samples, or 0 for none, got {self.checks}")
        check_format(self.memory_format)
        if self.anytime and (self.transfer_from or self.save_samples or self.resume or self.certify):
            raise ValueError("anytime goes without transfer_from, save_samples, certify and resume: leave them out")
        if self.anytime and self.memory_format != "auto":
            raise ValueError("anytime takes images as they are: leave memory_format out")
        if self.anytime and processes() > 1:
            raise ValueError("anytime runs in one process: start it without torchrun, or leave it out")
        for name in listed(self.certify):
            if name not in ("interval", "smoothing"):
                raise ValueError(f"certify must be interval or smoothing, or both with a comma between, got {name!r}")
        RandomizedSmoothing(sigma=self.sigma, n=self.draws)
        self.budgets()
        self.numbers()

    def certificates(self, attacks: Mapping[str, Attack]) -> dict[str, Certifier]:
        """By name: of the network, in every norm of `attacks` but L0, or in L-infinity; and of the smoothed one."""
        found: dict[str, Certifier] = {}
        if "interval" in listed(self.certify):
            norms = [norm for norm in ("linf", "l2", "l1") if any(each.norm == norm for each in attacks.values())]
            found |= {f"interval-{norm}": IntervalBounds(norm) for norm in norms or ["linf"]}
        if "smoothing" in listed(self.certify):
            found["smoothing"] = RandomizedSmoothing(sigma=self.sigma, n=self.draws)
        return found

    def budgets(self) -> list[float]:
        try:
            found = [number(eps) for eps in listed(self.sweep)]
        except ValueError:
            found = [-1.0]
        if not all(0 <= eps < float("inf") for eps in found):
            raise ValueError(
                f"sweep must be budgets with commas between, such as 0.02,0.05 or 4/255,8/255, got {self.sweep!r}"
            )
        return found

    def numbers(self) -> list[int]:
        found = listed(self.steps)
        if not all(text.isdecimal() and int(text) for text in found):
            raise ValueError(f"steps must be whole numbers with commas between, such as 1,5,10,20, got {self.steps!r}")
        return sorted({int(text) for text in found})


@dataclass(frozen=True)
class Sweeps:
    """Attacks at other budgets and other numbers of steps, by name."""

    budgets: list[float]
    swept: Mapping[str, Attack]
    by_steps: Mapping[int, Mapping[str, Attack]]


def plan_sweeps(options: Conduct, plan: EvaluationPlan) -> Sweeps:
    """Raises ValueError where no attack of `plan` can be swept, or one cannot have a budget."""
    swept = {name: attack for name, attack in plan.attacks.items() if attack.has_budget}
    iterated = {name: attack for name, attack in swept.items() if hasattr(attack, "steps")}
    budgets, numbers = options.budgets(), options.numbers()
    if budgets and not swept:
        raise ValueError(f"sweep {options.sweep}: none of {plan.testing.attacks} has a budget; add one, such as pgd")
    if numbers and not iterated:
        raise ValueError(
            f"steps {options.steps}: none of {plan.testing.attacks} has a budget and steps; add one, such as pgd"
        )
    if options.anytime and [type(attack) for attack in plan.attacks.values()] != [AutoAttack]:
        raise ValueError(f"anytime is for autoattack or autoattack-fast alone, got --attacks {plan.testing.attacks}")
    for attack in swept.values():
        for eps in budgets:
            attack.at(eps)
    by_steps = {n: {name: dataclasses.replace(a, steps=n) for name, a in iterated.items()} for n in numbers}
    return Sweeps(budgets, swept, by_steps)


def evaluate_model(given: str, source: Data, testing: Testing, options: Conduct) -> None:
    """``fastadv evaluate MODEL``, on the data it was trained with unless others are named; under torchrun, by all."""
    trained = trained_on(given)
    source = source.named(trained, given)
    plan = plan_evaluation(testing, source, trained.get("eps"))
    sweeps, test = plan_sweeps(options, plan), plan.test
    model, name = load_model(given, test, options.mean, options.std)
    other = load_model(options.transfer_from, test)[0] if options.transfer_from else None
    train = training_data(source, trained.get("data")) if options.checks else None
    samples = None
    if options.save_samples:
        samples = SampleFolder(options.save_samples, options.samples_as, resume=options.resume)
        samples.check(test, model)
    folder = Path(options.out) if options.out else None
    if folder:
        config = as_yaml(source, plan.testing, options, checkpoint=given)
        known = defaults(source, plan.testing, options)
        run = shared(lambda: Run(folder, config, environment(), options.resume, known))
        folder = run.folder
    say(f"{name}: {plan.budgets}")
    kept = Batches(folder / "batches" / fingerprint(model, other)) if folder else None
    how = {
        "checks": options.checks,
        "memory_format": options.memory_format,
        "train": train,
        "kept": kept,
        "save": samples,
        "certificates": options.certificates(plan.attacks),
    }
    if options.anytime:
        found = falling(plan, model, options.checks, train)
    else:
        found = plan.measure(model, name, source=other, **how)
    if rank():
        return
    if samples:
        for line in rounding_in_words(open_saved(samples.folder)):
            say(line)
        say(f"samples written: {samples.folder}; check them with fastadv verify {samples.folder} --model {given}")
    entry = report.Entry(name, found)
    console.print(report.attacks_table([entry]))
    if folder:
        conclude(folder, [entry], [model], plan)
    else:
        console.print(report.table([entry], testing.theta))
    if found.certificates:
        tell_certified(found, sweeps.budgets, name, folder)
    how = {"label": testing.label, "batch_size": plan.batch_size, "source": other}
    if sweeps.budgets:
        curves = {name: swept_curve(model, test, each, sweeps.budgets, **how) for name, each in sweeps.swept.items()}
        draw_sweep(report.sweep_rows(curves, sweeps.budgets), "sweep", "the budget", folder)
    if sweeps.by_steps:
        at = {n: evaluate(model, test, attacks, checks=0, **how) for n, attacks in sweeps.by_steps.items()}
        draw_sweep(report.steps_rows(at), "steps", "the steps", folder)


def falling(plan: EvaluationPlan, model: nn.Module, checks: int, train: Dataset | None) -> Evaluation:
    """The evaluation of `model` by the one attack of `plan`, whose bound is told as it falls, until Ctrl-C.

    `checks` and `train` are those of `evaluate`, for the checks at its end.
    """
    ((name, attack),) = plan.attacks.items()
    how = {"name": name, "label": plan.testing.label, "batch_size": plan.batch_size}
    found, told, stopped = None, None, ""
    try:
        for stage, found in anytime(model, plan.test, attack, **how):
            result = found.results[name]
            if told != (stage, result.accuracy):
                told = stage, result.accuracy
                cost = f"{float(result.grads.double().mean()):.4g} gradients a sample, {result.seconds:.0f} s"
                say(f"at most {result.accuracy:.2%} after {stage}: {cost}")
    except KeyboardInterrupt:
        if found is None:
            raise
        say("stopped: the figures are bounds by what was found so far, and nothing is checked", "yellow")
        stopped, checks = told[0], 0  # some checks are attacks
    found = plan.judged(found)
    more = {"checks": checks, "train": train, "batch_size": plan.batch_size}
    return concluded(model, plan.test, found, stopped=stopped, **more)


def rounding_in_words(saved: SavedSamples) -> Iterator[str]:
    """What rounding to 8 bits changed, where samples were rounded."""
    sets = saved.manifest["sets"]
    clean = sets["clean"].get("rounding")
    if clean is None:
        return
    low, high = saved.manifest["bounds"]
    levels = 255 * clean["largest_change"] / (high - low)
    if levels > 1e-3:
        yield f"8 bits: clean samples moved by up to {levels:.2g} grey levels; sizes are from where they are now"
    for name in saved.attacks:
        lost = sets[name]["rounding"]
        successes, left = lost["successes_lost"], lost["left_the_budget"]
        yield f"8 bits: of {name}, {successes} samples are adversarial no more, and {left} left the budget"


def tell_certified(found: Evaluation, budgets: Sequence[float], name: str, folder: Path | None) -> None:
    """Prints what is certified of the model called `name`, beside what attacks leave, and writes and draws it."""
    rows = report.certified_rows(found, budgets)
    console.print(report.records_table(rows, "certified accuracy, its 95% interval, and the accuracy under attack"))
    if "smoothing" in found.certificates:
        say("smoothing: certified of the smoothed classifier, not of the network, which the attacks are on")
    if folder:
        written = [report.write_records(rows, folder / "certified.csv")]
        for each in found.certificates.values():
            norm = each.method.norm
            if each.attacked is None:
                written += drawn(report.plot_smoothed, {name: each.radii.numpy()}, folder / "certified_smoothed.png")
            else:
                band = report.Band(each.radii.numpy(), each.attacked.numpy())
                written += drawn(report.plot_band, {name: band}, norm, folder / f"certified_{norm}.png")
        say("written: " + ", ".join(map(str, written)))


def draw_sweep(rows: Sequence[tuple], name: str, what: str, folder: Path | None) -> None:
    """Prints accuracies over `what` was swept, and writes and draws them in `folder`."""
    console.print(report.records_table(rows, f"accuracy over {what}, and its 95% interval"))
    if folder:
        written = [report.write_records(rows, folder / f"{name}.csv")]
        written += drawn(report.plot_sweep, rows, folder / f"{name}.png")
        say("written: " + ", ".join(map(str, written)))


def training_data(source: Data, name: str | None) -> Dataset | None:
    """The training half of the data called `name`, or of `source`; None where that is not there, or not in memory."""
    try:
        known = dataclasses.replace(source, data=name or source.data, download=False, device="cpu")
        found = known.load("train")
        if isinstance(found, Dataset):
            return found
        raise ValueError(f"{found.name} is read while it is used, and reading all of it takes long")
    except (OSError, ValueError, ImportError) as error:
        say(f"cannot check whether test samples are training samples: {str(error).splitlines()[0]}")
        return None
