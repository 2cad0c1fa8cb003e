"""``fastadv train``."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from .. import report
from .._processes import rank, shared
from ..info import environment
from ..runs import BEST, Run
from ..trainers import Method, Standard, Stopped, fit
from ._estimate import estimate
from ._loggers import LOGGERS
from ._networks import load_weights
from ._plan import EvaluationPlan, TrainingPlan, plan_evaluation, plan_training
from ._settings import Testing, Training, as_yaml, defaults, listed
from ._terminal import asked_to_stop, console, drawn, figures, progress, say

History = list[dict[str, float]]


def train(name: str, method: Method, options: Training, testing: Testing) -> None:
    """``fastadv train METHOD``."""
    plan = plan_training(name, method, options, label=testing.label)
    measurement = plan_evaluation(testing, options, plan.method.budget, given=options.eps, train=plan.train)
    if options.estimate:
        say(f"{name}: {estimate(plan)}")
        return
    config = as_yaml(plan.method, options, test=dataclasses.asdict(measurement.testing))
    known = defaults(plan.method, options) | {"test": defaults(measurement.testing)}
    run = shared(lambda: Run(options.run_folder(name), config, environment(), bool(options.resume), known))
    say(f"{name}: {measurement.budgets}")
    model, history = train_one(plan, run)
    memory_format = run.settings.get("memory_format", "preserve")
    seconds, normal = seconds_per_epoch(history, len(plan.train)), seconds_of_normal_epoch(plan, memory_format)
    entry = report.Entry(name, measurement.measure(model.eval(), name, memory_format=memory_format), seconds)
    if rank() > 0:
        return
    say(
        f"an epoch of {len(plan.train)} samples took {seconds:.2f} s; one of normal training takes {normal:.2f} s here "
        f"(from at most 50 batches of it): {seconds / normal:.1f} times as long"
    )
    conclude(run.folder, [entry], [model], measurement, lambda: plot_history(name, plan.method, history, run.folder))


def train_one(plan: TrainingPlan, run: Run) -> tuple[nn.Module, History]:
    """Trains the network of `plan`; after every epoch, `run` has its metrics and all that is needed to go on.

    Raises Stopped, with the way to go on, where a signal asked for it.
    """
    name, method, options, train = plan.name, plan.method, plan.options, plan.train
    model = plan.build()
    about = {
        "method": name,
        **options.network(),
        "data": options.data,
        **{name: value for name in ("resize", "crop") if (value := getattr(options, name))},
        "eps": method.budget,
        "shape": list(train.sample_shape),
        "classes": list(train.classes),
    }
    stopped = shared(run.resumed)
    if stopped and "totals" not in stopped:
        raise ValueError(
            f"{run.folder} was written by a version of fastadv that could not resume: train again, to another --out"
        )

    for option in method.in_epochs:
        value = getattr(method, option)
        first = min(value, default=0) + 1 if isinstance(value, list) else 0 if callable(value) else value
        if first > options.epochs and not options.minutes:
            say(f"{name}: {option} {value} is beyond the {options.epochs} epochs of this run: shorten it with the run")

    first = len(stopped["history"]) + 1 if stopped else 1
    names = listed(options.log) if rank() == 0 else []
    loggers = [LOGGERS[each](run.folder, {**about, **dataclasses.asdict(options)}, first) for each in names]

    def on_epoch(row: dict[str, float]) -> None:
        for log in (run.log, *loggers):
            log(row)
        shown = figures({key: value for key, value in row.items() if key != "epoch"})
        say(f"{name}: epoch {row['epoch']}{'' if options.minutes else f'/{options.epochs}'}: {shown}")

    def on_save(state: dict[str, Any]) -> None:
        epoch, whole = len(state["history"]), state["step"] == 0
        keep = [f"epoch-{epoch:04d}.pt"] if whole and options.keep_every and epoch % options.keep_every == 0 else []
        if state["memory_format"] != "preserve":  # which "auto" comes to without timing, and so again
            run.settle("memory_format", state["memory_format"])
        run.save({**about, **state}, *([BEST] if state["best"] else []), *keep)

    epochs = 0 if options.minutes else options.epochs
    with progress(name, "steps", epochs) as step, asked_to_stop() as stop:
        try:
            history = fit(
                model,
                method,
                train,
                **options.fit_settings(),
                extra=plan.extra,
                validate=plan.watch,
                resume=stopped,
                on_step=step,
                on_epoch=on_epoch,
                on_save=on_save,
                save_every=options.save_every,
                stop=stop,
            )
            if stop():  # asked after the last step, as while validating
                raise Stopped
        except Stopped:
            raise Stopped(f"stopped and saved: continue with --resume auto --out {run.folder}") from None
    if len(history) < options.epochs and plan.held_out and not options.minutes:
        figure = "avg_aa"
        say(f"{name}: stopped after {len(history)} of {options.epochs} epochs: {figure} no longer rises, or fell")
        if history[-1][figure] < options.collapse * max(row[figure] for row in history):
            load_weights(model, options.model, run.folder / BEST)
            say(f"{name}: it collapsed; the network is that of its best epoch again, {run.folder / BEST}")
    return model, history


def seconds_of_normal_epoch(plan: TrainingPlan, memory_format: str, batches: int = 50) -> float:
    """What an epoch of normal training takes here, from `batches` batches of it on a network of its own."""
    options, train = plan.options, plan.train
    sample = train.take(batches * options.batch_size)
    names = ("batch_size", "optimizer", "weight_decay", "precision", "augment")
    same = {name: options.fit_settings()[name] for name in names} | {"memory_format": memory_format}
    model, plain = plan.build(), {**same, "epochs": 1, "lr": 0.0}  # weights that stay cannot diverge
    fit(model, Standard(), sample.take(5 * options.batch_size), **plain)  # warm-up
    return fit(model, Standard(), sample, **plain)[0]["seconds"] * len(train) / len(sample)


def seconds_per_epoch(history: History, samples: int) -> float:
    """On average; the last epoch may have ended early."""
    seen = sum(row["seconds"] * row["images_per_second"] for row in history)
    return samples * sum(row["seconds"] for row in history) / seen


def plot_history(name: str, method: Method, history: History, folder: Path) -> None:
    """Draws what training reported."""
    drawn(report.plot_history, {name: history}, folder / "history.png")
    if "gradients" in history[0]:
        drawn(report.plot_gradients, {name: history}, folder / "gradients.png")
    if hasattr(method, "histogram"):
        histograms = {"all": method.histogram, "correctly classified": method.histogram_correct}
        drawn(report.plot_margins, histograms, folder / "margins.png")


def conclude(
    folder: Path,
    entries: list[report.Entry],
    networks: list[nn.Module],
    measurement: EvaluationPlan,
    draw_more: Callable[[], object] = lambda: None,
) -> None:
    """Prints and writes what was measured, then draws it; ``evaluation.json`` comes last: what has it is finished."""
    test, theta = measurement.test, measurement.testing.theta
    console.print(report.table(entries, theta))
    report.write_table(entries, theta, folder / "table.csv")
    evaluation = report.write_samples(entries, theta, folder)
    draw_more()
    results = entries[0].evaluation.results
    for name, result in results.items():
        if result.curve is not None:
            curves = {entry.name: entry.evaluation.results[name].curve for entry in entries}
            drawn(report.plot_aa_curves, curves, theta, name, folder / f"aa_{name}.png")
    attacks = [result.attack for result in results.values() if result.curve is None]
    if attacks and len(test.sample_shape) == 3:
        models = {entry.name: network for entry, network in zip(entries, networks, strict=True)}
        drawn(report.plot_examples, models, test, attacks[-1], folder / "examples.png")
    report.write_evaluation(evaluation, folder)
    say("written: " + ", ".join(str(path) for path in sorted([*folder.glob("*.png"), folder / "table.csv"])))
