"""``fastadv evaluate``."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import report
from ..attacks import Attack
from ..data import Dataset
from ..evaluation import evaluate, swept_curve
from ..info import environment
from ..runs import Run
from ..trainers import rank
from ._batches import Batches, fingerprint
from ._launch import shared
from ._networks import load_model, trained_on
from ._plan import EvaluationPlan, plan_evaluation
from ._settings import Data, Testing, as_yaml, listed
from ._terminal import console, drawn, say
from ._train import conclude


@dataclass
class Conduct:
    """How an evaluation is carried out.

    Args:
        transfer_from: the model that samples are made on, named like the one evaluated.
        sweep: budgets with commas between; accuracy at each of them, under the attacks that have one, is drawn, too.
        steps: numbers with commas between; accuracy at each of them, under the attacks that have a budget and steps, is
            drawn, too. Sizes of steps that do not follow their number stay as they are.
        checks: on how many samples the checks for gradient masking and mistakes are made; 0 for none.
        out: a new folder for tables and figures.
        resume: go on with the evaluation in --out, where there is one, without its finished batches.
    """

    transfer_from: str | None = None
    sweep: str = ""
    steps: str = ""
    checks: int = 64
    out: str | None = None
    resume: bool = False

    def __post_init__(self) -> None:
        if self.resume and not self.out:
            raise ValueError("resume needs --out, the folder of the evaluation to go on with")
        if self.checks < 0:
            raise ValueError(f"checks must be a number of samples, or 0 for none, got {self.checks}")
        self.budgets()
        self.numbers()

    def budgets(self) -> list[float]:
        try:
            found = [float(eps) for eps in listed(self.sweep)]
        except ValueError:
            found = [-1.0]
        if not all(0 <= eps < float("inf") for eps in found):
            raise ValueError(f"sweep must be budgets with commas between, such as 0.02,0.05,0.1, got {self.sweep!r}")
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
    for attack in swept.values():
        for eps in budgets:
            attack.at(eps)
    by_steps = {n: {name: dataclasses.replace(a, steps=n) for name, a in iterated.items()} for n in numbers}
    return Sweeps(budgets, swept, by_steps)


def evaluate_model(given: str, source: Data, testing: Testing, options: Conduct) -> None:
    """``fastadv evaluate MODEL``, on the data it was trained with unless others are named; under torchrun, by all."""
    trained = trained_on(given)
    source = source.named(trained.get("data"), given)
    plan = plan_evaluation(testing, source, trained.get("eps"))
    sweeps, test = plan_sweeps(options, plan), plan.test
    model, name = load_model(given, test)
    other = load_model(options.transfer_from, test)[0] if options.transfer_from else None
    train = training_data(source, trained.get("data")) if options.checks else None
    folder = Path(options.out) if options.out else None
    if folder:
        config = as_yaml(source, plan.testing, options, checkpoint=given)
        run = shared(lambda: Run(folder, config, environment(), resume=options.resume))
        folder = run.folder
    say(f"{name}: {plan.budgets}")
    kept = Batches(folder / "batches" / fingerprint(test, model, other)) if folder else None
    found = plan.measure(model, name, source=other, checks=options.checks, train=train, kept=kept)
    if rank():
        return
    entry = report.Entry(name, found)
    console.print(report.attacks_table([entry]))
    if folder:
        conclude(folder, [entry], [model], plan)
    else:
        console.print(report.table([entry], testing.theta))
    how = {"label": testing.label, "batch_size": plan.batch_size, "source": other}
    if sweeps.budgets:
        curves = {name: swept_curve(model, test, each, sweeps.budgets, **how) for name, each in sweeps.swept.items()}
        draw_sweep(report.sweep_rows(curves, sweeps.budgets), "sweep", "the budget", folder)
    if sweeps.by_steps:
        at = {n: evaluate(model, test, attacks, checks=0, **how) for n, attacks in sweeps.by_steps.items()}
        draw_sweep(report.steps_rows(at), "steps", "the steps", folder)


def draw_sweep(rows: Sequence[tuple], name: str, what: str, folder: Path | None) -> None:
    """Prints accuracies over `what` was swept, and writes and draws them in `folder`."""
    console.print(report.records_table(rows, f"accuracy over {what}, and its 95% interval"))
    if folder:
        written = [report.write_records(rows, folder / f"{name}.csv")]
        written += drawn(report.plot_sweep, rows, folder / f"{name}.png")
        say("written: " + ", ".join(map(str, written)))


def training_data(source: Data, name: str | None) -> Dataset | None:
    """The training half of the data called `name`, or of `source`; None where that is not there."""
    try:
        known = dataclasses.replace(source, data=name or source.data, download=False, device="cpu")
        return known.load("train")
    except (OSError, ValueError, ImportError) as error:
        say(f"not checked whether test samples are training samples: {str(error).splitlines()[0]}")
        return None
