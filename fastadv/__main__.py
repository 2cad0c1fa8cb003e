"""The command line: ``fastadv train | evaluate | compare | info``, its flags derived from the classes they set."""

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jsonargparse
import torch
import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import nn

from . import models, report
from .attacks import ATTACKS, Attack, MultiAttack
from .data import Dataset, load
from .evaluation import PROTOCOL, Evaluation, evaluate
from .info import doctor, environment
from .runs import Run, load_checkpoint
from .trainers import METHODS, AdversarialTraining, Method, Standard, check_settings, fit

History = list[dict[str, float]]
console = Console(width=None if sys.stdout.isatty() else 130)


@dataclass
class Data:
    """Which data.

    Args:
        data: cifar10, cifar100, fashion-mnist, fashion-mnist-mini (inside the package), mnist, svhn, two-circles, or
            the path of an .npz file with x_train, y_train, x_test, y_test.
        folder: where the files of the data set are; by default the usual places are searched.
        download: fetch missing files of the data set, checksummed.
        device: cpu, cuda, cuda:1 ...; auto takes a GPU where there is one.
    """

    data: str = "fashion-mnist-mini"
    folder: str | None = None
    download: bool = False
    device: str = "auto"

    def load(self, split: Literal["train", "test"]) -> Dataset:
        found = load(self.data, split, folder=self.folder, download=self.download)
        return found.to(self.pick_device())

    def pick_device(self) -> torch.device:
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            return torch.empty(0, device=self.device).device
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"device {self.device!r} cannot be used here: {str(error).splitlines()[0]}") from None


@dataclass
class Training(Data):
    """How to train.

    Args:
        model: the network, a name from fastadv.models.
        epochs: passes over the training data.
        batch_size: samples a step.
        lr: learning rate of Adam.
        seed: of the initial weights, the order of the data and random starts.
        out: the run folder, which must not exist; by default one under runs/, named after the run.
    """

    model: str = "lenet5"
    epochs: int = 10
    batch_size: int = 128
    lr: float = 1e-3
    seed: int = 0
    out: str | None = None

    def __post_init__(self) -> None:
        check_settings(self.epochs, self.batch_size, self.lr)

    def build(self, train: Dataset) -> nn.Module:
        torch.manual_seed(self.seed)
        return models.build(self.model, train.sample_shape, len(train.classes)).to(train.x.device)

    def run_folder(self, what: str) -> Path:
        name = f"{what}-{Path(self.data).stem}-{self.model}-{time.strftime('%Y%m%d-%H%M%S')}"
        return Path(self.out or Path("runs", name))


@dataclass
class Testing:
    """How to evaluate.

    Args:
        attacks: which attacks, with commas between: deepfool, fgsm, noise and pgd (20 steps of eps/10 from a start
            within eps/2) as in the Blind AT paper; autoattack, square or any other with its usual settings.
        eps: L-infinity budget of the attacks that have one; `compare` trains FGSM-AT and PGD-AT with it, too.
        theta: average adversarial accuracy is taken over budgets from 0 to theta, RMS norm.
        limit: how many test samples, from the first on; 0 takes all.
        label: attacks move away from the true label, or from the model's own prediction (as in the Blind AT paper).
        at_once: test samples attacked at a time; it decides memory and speed only.
    """

    attacks: str = ",".join(PROTOCOL)
    eps: float = 0.1
    theta: float = 0.08
    limit: int = 1000
    label: Literal["true", "pred"] = "true"
    at_once: int = 500

    def __post_init__(self) -> None:
        for name, value in (("eps", self.eps), ("theta", self.theta), ("at_once", self.at_once)):
            if not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        if self.limit < 0:
            raise ValueError(f"limit must be a number of samples, or 0 for all, got {self.limit}")
        self.chosen()

    def chosen(self) -> dict[str, Attack]:
        known = {name: kind() for name, kind in ATTACKS.items() if kind is not MultiAttack} | PROTOCOL
        names = [name.strip() for name in self.attacks.split(",") if name.strip()]
        for name in names:
            if name not in known:
                raise ValueError(f"unknown attack {name!r}: choose among {', '.join(sorted(known))}")
        return {name: budgeted(known[name], self.eps) for name in names}

    def samples(self, source: Data) -> Dataset:
        test = source.load("test")
        return test.take(self.limit) if self.limit else test

    def evaluate(self, model: nn.Module, test: Dataset, name: str) -> Evaluation:
        with progress(f"evaluating {name}", "batches") as step:
            return evaluate(model, test, self.chosen(), label=self.label, batch_size=self.at_once, on_step=step)


def budgeted(attack: Attack, eps: float) -> Attack:
    """`attack` at the budget `eps`, where it has one."""
    return attack.at(eps) if attack.has_budget else attack


@contextmanager
def progress(title: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A bar with rate and remaining time, advanced by calls of (done, in all); nothing where output is no terminal."""
    rate = TextColumn(f"{{task.fields[rate]:.1f}} {unit}/s")
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), rate]
    bar = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True)
    started = time.monotonic()
    with bar if console.is_terminal else nullcontext():
        task = bar.add_task(title, total=None, rate=0.0)

        def step(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, rate=done / (time.monotonic() - started))

        yield step


def say(line: str) -> None:
    console.print(line, highlight=False, soft_wrap=True)


def train_one(name: str, method: Method, options: Training, train: Dataset, run: Run) -> tuple[nn.Module, History]:
    """Trains a fresh network by `method`; after every epoch, `run` has its metrics and its weights."""
    model = options.build(train)
    about = {
        "method": name,
        "model": options.model,
        "data": options.data,
        "shape": list(train.sample_shape),
        "classes": list(train.classes),
    }
    with progress(f"training {name}", "steps") as step:

        def on_epoch(row: dict[str, float]) -> None:
            run.log(row)
            state = {key: value.cpu() for key, value in model.state_dict().items()}
            run.save({**about, "epoch": row["epoch"], "state": state})
            shown = ", ".join(f"{key.replace('_', ' ')} {value:.4g}" for key, value in row.items() if key != "epoch")
            say(f"{name}: epoch {row['epoch']}/{options.epochs}: {shown}")

        history = fit(
            model,
            method,
            train,
            epochs=options.epochs,
            batch_size=options.batch_size,
            lr=options.lr,
            seed=options.seed,
            on_step=step,
            on_epoch=on_epoch,
        )
    return model, history


def seconds_of_normal_epoch(options: Training, train: Dataset, batches: int = 50) -> float:
    """What an epoch of normal training takes here, from `batches` batches of it on a network of its own."""
    sample = train.take(batches * options.batch_size)
    model, plain = options.build(train), {"batch_size": options.batch_size, "epochs": 1}
    fit(model, Standard(), sample.take(5 * options.batch_size), **plain)  # warm-up
    return fit(model, Standard(), sample, **plain)[0]["seconds"] * len(train) / len(sample)


def seconds_per_epoch(history: History) -> float:
    return sum(row["seconds"] for row in history) / len(history)


def conclude(folder: Path, entries: list[report.Entry], networks: list[nn.Module], test: Dataset, theta: float) -> None:
    """Prints the table and writes it to `folder`, with the figures that can be drawn of these models."""
    report.write_table(entries, theta, folder / "table.csv")
    written = [folder / "table.csv"]
    results = entries[0].evaluation.results
    for name, result in results.items():
        if result.curve is not None:
            curves = {entry.name: entry.evaluation.results[name].curve for entry in entries}
            written.append(report.plot_aa_curves(curves, theta, name, folder / f"aa_{name}.png"))
    attacks = [result.attack for result in results.values() if result.curve is None]
    if attacks and len(test.sample_shape) == 3:
        models = {entry.name: network for entry, network in zip(entries, networks, strict=True)}
        written.append(report.plot_examples(models, test, attacks[-1], folder / "examples.png"))
    console.print(report.table(entries, theta))
    say("written: " + ", ".join(str(path) for path in sorted([*written, *folder.glob("history.png")])))


def as_yaml(*settings: Any, **more: Any) -> str:
    """Settings as the YAML that --config takes; not the run folder, which another run must not share."""
    values = {key: value for each in settings for key, value in dataclasses.asdict(each).items() if key != "out"}
    return yaml.safe_dump(json.loads(json.dumps(values | more)), sort_keys=False)


def train(name: str, method: Method, options: Training, testing: Testing) -> None:
    """``fastadv train METHOD``."""
    train_set, test = options.load("train"), testing.samples(options)
    options.build(train_set)  # an impossible choice should leave no run folder behind
    config = as_yaml(method, options, test=dataclasses.asdict(testing))
    run = Run(options.run_folder(name), config, environment())
    model, history = train_one(name, method, options, train_set, run)
    report.plot_history({name: history}, run.folder / "history.png")
    seconds, normal = seconds_per_epoch(history), seconds_of_normal_epoch(options, train_set)
    say(
        f"an epoch of {len(train_set)} samples took {seconds:.2f} s; one of normal training takes {normal:.2f} s here "
        f"(from at most 50 batches of it): {seconds / normal:.1f} times as long"
    )
    entry = report.Entry(name, testing.evaluate(model, test, name), seconds)
    conclude(run.folder, [entry], [model], test, testing.theta)


def compare(names: list[str], options: Training, testing: Testing) -> None:
    """``fastadv compare METHOD METHOD ...``; training attacks that have a budget take the one of the evaluation."""
    methods = {}
    for name in names:
        if name not in METHODS:
            raise ValueError(f"unknown method {name!r}: choose among {', '.join(METHODS)}")
        methods[name] = method = METHODS[name]()
        if isinstance(method, AdversarialTraining):
            method.attack = budgeted(method.attack, testing.eps)
    train_set, test = options.load("train"), testing.samples(options)
    options.build(train_set)
    folder = Run(options.run_folder("compare"), as_yaml(options, testing), environment()).folder
    entries, networks, histories = [], [], {}
    for name, method in methods.items():
        config = as_yaml(method, options, test=dataclasses.asdict(testing))
        model, histories[name] = train_one(name, method, options, train_set, Run(folder / name, config, environment()))
        networks.append(model)
        entries.append(report.Entry(name, testing.evaluate(model, test, name), seconds_per_epoch(histories[name])))
    report.plot_history(histories, folder / "history.png")
    conclude(folder, entries, networks, test, testing.theta)


def evaluate_checkpoint(checkpoint: str, source: Data, testing: Testing, out: str | None) -> None:
    """``fastadv evaluate CHECKPOINT``, on the data it was trained with unless others are named."""
    saved = load_checkpoint(checkpoint)
    source.data = source.data or saved["data"]
    test = testing.samples(source)
    if list(test.sample_shape) != saved["shape"] or len(test.classes) != len(saved["classes"]):
        raise ValueError(
            f"{checkpoint} was trained on samples of {saved['shape']} in {len(saved['classes'])} classes, but "
            f"{source.data} has {list(test.sample_shape)} in {len(test.classes)}: choose other data with --data"
        )
    model = models.build(saved["model"], tuple(saved["shape"]), len(saved["classes"])).to(test.x.device)
    try:
        model.load_state_dict(saved["state"])
    except RuntimeError as error:
        raise ValueError(f"the weights in {checkpoint} do not fit {saved['model']}: {error}") from None
    run = Run(out, as_yaml(source, testing), environment()) if out else None
    name = saved["method"]
    entry = report.Entry(name, testing.evaluate(model, test, name))
    if run:
        conclude(run.folder, [entry], [model], test, testing.theta)
    else:
        console.print(report.table([entry], testing.theta))


class Parser(jsonargparse.ArgumentParser):
    """Flags may be written --batch-size as well as --batch_size, and methods friendly-trades as friendly_trades."""

    def parse_args(self, args: Sequence[str] | None = None, **kwargs: Any) -> jsonargparse.Namespace:
        return super().parse_args([_underscored(arg) for arg in (sys.argv[1:] if args is None else args)], **kwargs)


def _underscored(arg: str) -> str:
    if not arg.startswith("--"):
        return name if (name := arg.replace("-", "_")) in METHODS else arg
    flag, equals, value = arg[2:].partition("=")
    return "--" + flag.replace("-", "_") + equals + value


def parser() -> Parser:
    """The command line: every method's options from its own fields."""
    jsonargparse.set_parsing_settings(subclasses_disabled=[Attack])
    main = Parser(prog="fastadv", description="Adversarial training and robustness evaluation on fused kernels.")
    commands = main.add_subcommands(dest="command")

    def add(to: Any, name: str, help: str, *settings: type, config: bool = True) -> Parser:
        sub = Parser(description=help)
        if config:
            sub.add_argument("--config", action="config", help="a YAML file with any of these settings")
        for setting in settings:
            sub.add_class_arguments(setting)
        to.add_subcommand(name, sub, help=help)
        return sub

    train = add(commands, "train", "Train a network by one method and evaluate it.", config=False)
    methods = train.add_subcommands(dest="method")
    for name, method in METHODS.items():
        sub = add(methods, name, (method.__doc__ or name).splitlines()[0], method, Training)
        sub.add_class_arguments(Testing, "test")
    sub = add(commands, "evaluate", "Measure the robustness of a trained network.", Data, Testing)
    sub.set_defaults(data=None)
    sub.add_argument("checkpoint", type=str, help="a run folder, or the checkpoint in it")
    sub.add_argument("--out", type=str | None, default=None, help="a new folder for the table and the figures")
    sub = add(commands, "compare", "Train by several methods on the same data, in one table.", Training, Testing)
    sub.add_argument("methods", type=str, nargs="+", help=f"of {', '.join(METHODS)}")
    add(commands, "info", "What is installed, which kernels run, and how to repair what is missing.", config=False)
    return main


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status, 2 after a message on standard error for bad input."""
    cli = parser()
    chosen = cli.parse_args(argv)
    try:
        run_command(cli, chosen)
    except KeyboardInterrupt:
        print("fastadv: stopped; a run keeps the network of its last whole epoch", file=sys.stderr)
        return 130
    except torch.OutOfMemoryError as error:
        print(f"fastadv: out of memory; try a smaller --batch-size: {error}", file=sys.stderr)
        return 2
    except (ValueError, TypeError, OSError, ImportError, FloatingPointError) as error:
        print(f"fastadv: {error}", file=sys.stderr)
        return 2
    return 0


def run_command(cli: Parser, chosen: jsonargparse.Namespace) -> None:
    """Builds what the flags say and calls the command's function."""
    command = chosen.command
    if command == "info":
        print(doctor())
        return
    options = cli.instantiate(chosen)[command]
    if command == "train":
        name, options = options.method, options[options.method]
        train(name, _build(METHODS[name], options), _build(Training, options), options.test)
    elif command == "compare":
        compare(options.methods, _build(Training, options), _build(Testing, options))
    else:
        evaluate_checkpoint(options.checkpoint, _build(Data, options), _build(Testing, options), options.out)


def _build(kind: type, options: jsonargparse.Namespace) -> Any:
    return kind(**{field.name: options[field.name] for field in dataclasses.fields(kind)})


if __name__ == "__main__":
    sys.exit(main())
