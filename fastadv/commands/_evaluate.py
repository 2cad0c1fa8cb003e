"""``fastadv evaluate``."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import report
from ..data import Dataset
from ..evaluation import evaluate, swept_curve
from ..info import environment
from ..runs import Run
from ..trainers import rank
from ._batches import Batches, fingerprint
from ._launch import launched, shared
from ._networks import data_of, load_model
from ._settings import Data, Testing, as_yaml, listed
from ._terminal import console, progress, say
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


def evaluate_model(given: str, source: Data, testing: Testing, options: Conduct) -> None:
    """``fastadv evaluate MODEL``, on the data it was trained with unless others are named; under torchrun, by all."""
    trained_on = data_of(given)
    source.data = source.data or trained_on
    if not source.data:
        raise ValueError(f"what data {given} is for is not known: name it with --data")
    iterated = {name: each for name, each in testing.chosen().items() if each.has_budget and hasattr(each, "steps")}
    if options.steps and not iterated:
        raise ValueError(
            f"steps {options.steps}: none of {testing.attacks} has a budget and steps; add one, such as pgd"
        )
    test = testing.samples(source)
    model, name = load_model(given, test)
    other = load_model(options.transfer_from, test)[0] if options.transfer_from else None
    folder = Path(options.out) if options.out else None
    if folder:
        config = as_yaml(source, testing, options, checkpoint=given)
        run = shared(lambda: Run(folder, config, environment(), resume=options.resume))
        folder = run.folder
    how = {"label": testing.label, "batch_size": testing.batch_size(test)}
    with progress(f"evaluating {name}", "batches") as step:
        found = evaluate(
            model,
            test,
            testing.chosen(),
            **how,
            source=other,
            checks=options.checks,
            train=training_data(source, trained_on) if options.checks else None,
            kept=Batches(folder / "batches" / fingerprint(test, model, other)) if folder else None,
            processes=launched(),
            on_step=step,
        )
    if rank():
        return
    entry = report.Entry(name, found)
    console.print(report.attacks_table([entry]))
    if folder:
        conclude(folder, [entry], [model], test, testing.theta)
    else:
        console.print(report.table([entry], testing.theta))
    if budgets := options.budgets():
        attacks = {name: attack for name, attack in testing.chosen().items() if attack.has_budget}
        curves = {
            name: swept_curve(model, test, attack, budgets, source=other, **how) for name, attack in attacks.items()
        }
        draw_sweep(
            report.sweep_rows(curves, budgets), "sweep", "accuracy over the budget, and its 95% interval", folder
        )
    if numbers := options.numbers():
        at = {n: {name: dataclasses.replace(attack, steps=n) for name, attack in iterated.items()} for n in numbers}
        measured = {n: evaluate(model, test, attacks, source=other, checks=0, **how) for n, attacks in at.items()}
        draw_sweep(report.steps_rows(measured), "steps", "accuracy over the steps, and its 95% interval", folder)


def draw_sweep(rows: Sequence[tuple], name: str, title: str, folder: Path | None) -> None:
    """Prints accuracies over a budget or over steps, and writes and draws them in `folder`."""
    console.print(report.records_table(rows, title))
    if folder:
        written = report.write_records(rows, folder / f"{name}.csv"), report.plot_sweep(rows, folder / f"{name}.png")
        say("written: " + ", ".join(map(str, written)))


def training_data(source: Data, trained_on: str | None) -> Dataset | None:
    """What the model was trained on, or the training half of `source`; None where that is not there."""
    try:
        known = dataclasses.replace(source, data=trained_on or source.data, download=False, device="cpu")
        return known.load("train")
    except (OSError, ValueError, ImportError) as error:
        say(f"not checked whether test samples are training samples: {str(error).splitlines()[0]}")
        return None
