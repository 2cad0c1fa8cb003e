"""What the commands do: settings from flags, run folders, progress, tables. ``__main__`` is the parser in front."""

import dataclasses
import functools
import inspect
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import nn

from . import models, recipes, report
from .attacks import ATTACKS, PGD, Attack, DeepFool, FriendlyPGD, MultiAttack
from .data import AUGMENTATIONS, CORRUPTIONS, EXTRA, Dataset, corrupted, find_cifar10_c, load, load_cifar10_c
from .evaluation import PROTOCOL, Evaluation, corruption_accuracy, evaluate, features, last_layers, reducer
from .info import environment
from .runs import Run, load_checkpoint, replace_file
from .trainers import METHODS, AttackMethod, Method, Standard, check_settings, fit

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
        mean: what is subtracted from every pixel before the network sees it.
        std: what the difference is divided by; 0.5 and 0.5 show images in [0, 1] to the network as [-1, 1].
        cosine: the scale of a head of cosines in place of the last linear layer, 5 for spat; 0 leaves that as it is.
        weights: a run, whose network training starts from.
        epochs: passes over the training data.
        batch_size: samples a step.
        lr: learning rate at the start.
        optimizer: adam, or sgd with momentum 0.9.
        weight_decay: of weights; biases and normalisation layers have none.
        milestones: after each of these epochs the learning rate is multiplied by lr_decay.
        lr_decay: one factor for all milestones, or one for each.
        precision: what the network computes in while it is trained, float32, bfloat16 or float16.
        augment: random changes of the images; none, crop-flip (4 pixels of 0), crop-flip-grey (of 0.5) or shift-flip.
        per_class: how many training samples of each class, from the first on; 0 takes all.
        held_out: so many training samples, the last ones, are set aside; avg-AA(1) is measured on them every epoch.
        patience: training stops when so many epochs have not raised that avg-AA(1); 0 trains all epochs.
        seed: of the initial weights, the order of the data, augmentation and random starts.
        out: the run folder, which must not exist; by default one under runs/, named after the run.
        resume: go on from the last whole epoch of the run in --out, where there is one.
    """

    model: str = "lenet5"
    mean: float = 0.0
    std: float = 1.0
    cosine: float = 0.0
    weights: str | None = None
    epochs: int = 10
    batch_size: int = 128
    lr: float = 1e-3
    optimizer: str = "adam"
    weight_decay: float = 0.0
    milestones: list[int] = field(default_factory=list)
    lr_decay: float | list[float] = 0.1
    precision: str = "float32"
    augment: str = "none"
    per_class: int = 0
    held_out: int = 0
    patience: int = 0
    seed: int = 0
    out: str | None = None
    resume: bool = False

    def __post_init__(self) -> None:
        check_settings(**{name: getattr(self, name) for name in inspect.signature(check_settings).parameters})
        if self.augment not in AUGMENTATIONS:
            raise ValueError(f"augment must be one of {', '.join(AUGMENTATIONS)}, got {self.augment!r}")
        for name in ("per_class", "held_out"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be a number of samples, got {getattr(self, name)}")
        if self.patience and not self.held_out:
            raise ValueError(f"patience {self.patience} needs samples to measure on: set held_out, or patience 0")
        if self.resume and not self.out:
            raise ValueError("resume needs --out, the folder of the run to go on with")

    def training_data(self) -> Dataset:
        found = self.load("train")
        return found.per_class(self.per_class) if self.per_class else found

    def split(self, train: Dataset) -> tuple[Dataset, Dataset | None]:
        """What is trained on, and what is held out."""
        if not self.held_out:
            return train, None
        if self.held_out >= len(train):
            raise ValueError(f"held_out must leave samples to train on: {self.held_out} of {len(train)} were asked for")
        return train.take(len(train) - self.held_out), train.subset(slice(-self.held_out, None))

    def build(self, train: Dataset) -> nn.Module:
        torch.manual_seed(self.seed)
        model = build_network(train.sample_shape, len(train.classes), **self.network())
        if self.weights:
            load_weights(model, self.model, self.weights)
        return model.to(train.x.device)

    def network(self) -> dict[str, Any]:
        """What `build_network` takes of these."""
        return {name: getattr(self, name) for name in ("model", "mean", "std", "cosine")}

    def fit_settings(self) -> dict[str, Any]:
        """What `fit` takes of these."""
        names = (
            "epochs",
            "batch_size",
            "lr",
            "optimizer",
            "weight_decay",
            "milestones",
            "lr_decay",
            "precision",
            "seed",
        )
        return {name: getattr(self, name) for name in names} | {"augment": AUGMENTATIONS[self.augment]}

    def check(self, data: Dataset) -> None:
        """Raises ValueError where network, split or augmentation cannot take `data`, before a folder is made."""
        self.build(data)
        self.split(data)
        if augment := AUGMENTATIONS[self.augment]:
            augment(data.x[:1], torch.zeros(1, dtype=torch.int64, device=data.x.device), self.seed)

    def run_folder(self, what: str) -> Path:
        name = f"{what}-{Path(self.data).stem}-{self.model}-{time.strftime('%Y%m%d-%H%M%S')}"
        return Path(self.out or Path("runs", name))


def build_network(
    shape: Sequence[int], classes: int, model: str, mean: float = 0.0, std: float = 1.0, cosine: float = 0.0
) -> nn.Module:
    """The network called `model`, which sees ``(x - mean) / std`` and, with a `cosine`, ends in `CosineHead`."""
    network = models.build(model, tuple(shape), classes)
    if cosine:
        network = models.with_cosine_head(network, cosine)
    if (mean, std) == (0, 1):
        return network
    if len(shape) != 3:
        raise ValueError(f"mean and std are for images, not for samples of shape {list(shape)}: leave them out")
    return models.Normalize(network, [mean] * shape[0], [std] * shape[0])


@dataclass
class Testing:
    """How to evaluate.

    Args:
        attacks: which attacks, with commas between: deepfool, fgsm, noise and pgd (20 steps of eps/10 from a start
            within eps/2) as in the Blind AT paper; autoattack, square or any other with its usual settings.
        eps: budget of the attacks that have one; `compare` trains with it, too, where a method's attack has one.
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
        names = listed(self.attacks)
        for name in names:
            if name not in known:
                raise ValueError(f"unknown attack {name!r}: choose among {', '.join(sorted(known))}")
        return {name: budgeted(known[name], self.eps) for name in names}

    def samples(self, source: Data) -> Dataset:
        test = source.load("test")
        return test.take(self.limit) if self.limit else test

    def evaluate(self, model: nn.Module, test: Dataset, name: str, source: nn.Module | None = None) -> Evaluation:
        settings = {"label": self.label, "batch_size": self.at_once, "source": source}
        with progress(f"evaluating {name}", "batches") as step:
            return evaluate(model, test, self.chosen(), **settings, on_step=step)


def listed(names: str) -> list[str]:
    """The names in a flag that takes several, with commas between."""
    return [name.strip() for name in names.split(",") if name.strip()]


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


def train_one(name: str, method: Method, options: Training, data: Dataset, run: Run) -> tuple[nn.Module, History]:
    """Trains a fresh network by `method`; after every epoch, `run` has its metrics and all that is needed to go on."""
    model = options.build(data)
    train, held_out = options.split(data)
    about = {
        "method": name,
        **options.network(),
        "data": options.data,
        "shape": list(train.sample_shape),
        "classes": list(train.classes),
    }
    stopped = run.resumed()
    if stopped and "history" not in stopped:
        raise ValueError(f"{run.folder} was written by a fastadv that could not resume: train anew, to another --out")

    def avg_aa(model: nn.Module) -> dict[str, float]:
        found = evaluate(model, held_out, {"deepfool": DeepFool(steps=10)})
        return {"avg_aa": found.results["deepfool"].curve.average(1.0)}

    for option in method.in_epochs:
        value = getattr(method, option)
        first = min(value, default=0) + 1 if isinstance(value, list) else 0 if callable(value) else value
        if first > options.epochs:
            say(f"{name}: {option} {value} is beyond the {options.epochs} epochs of this run: shorten it with the run")

    with progress(f"training {name}", "steps") as step:

        def on_epoch(row: dict[str, float], state: dict[str, Any]) -> None:
            run.log(row)
            run.save({**about, **state})
            shown = ", ".join(f"{key.replace('_', ' ')} {value:.4g}" for key, value in row.items() if key != "epoch")
            say(f"{name}: epoch {row['epoch']}/{options.epochs}: {shown}")

        history = fit(
            model,
            method,
            train,
            **options.fit_settings(),
            validate=avg_aa if held_out else None,
            patience=options.patience,
            resume=stopped,
            on_step=step,
            on_epoch=on_epoch,
        )
    if hasattr(method, "histogram"):
        report.plot_margins(method.histogram, run.folder / "margins.png")
    return model, history


def seconds_of_normal_epoch(options: Training, train: Dataset, batches: int = 50) -> float:
    """What an epoch of normal training takes here, from `batches` batches of it on a network of its own."""
    sample = train.take(batches * options.batch_size)
    model, plain = options.build(train), options.fit_settings() | {"epochs": 1}
    fit(model, Standard(), sample.take(5 * options.batch_size), **plain)  # warm-up
    return fit(model, Standard(), sample, **plain)[0]["seconds"] * len(train) / len(sample)


def seconds_per_epoch(history: History) -> float:
    return sum(row["seconds"] for row in history) / len(history)


def plot_histories(histories: Mapping[str, History], folder: Path) -> None:
    """Draws what training reported."""
    report.plot_history(histories, folder / "history.png")
    if counted := {name: history for name, history in histories.items() if "gradients" in history[0]}:
        report.plot_gradients(counted, folder / "gradients.png")


def conclude(folder: Path, entries: list[report.Entry], networks: list[nn.Module], test: Dataset, theta: float) -> None:
    """Prints the table and writes it to `folder`, with the figures that can be drawn of these models."""
    report.write_table(entries, theta, folder / "table.csv")
    results = entries[0].evaluation.results
    for name, result in results.items():
        if result.curve is not None:
            curves = {entry.name: entry.evaluation.results[name].curve for entry in entries}
            report.plot_aa_curves(curves, theta, name, folder / f"aa_{name}.png")
    attacks = [result.attack for result in results.values() if result.curve is None]
    if attacks and len(test.sample_shape) == 3:
        models = {entry.name: network for entry, network in zip(entries, networks, strict=True)}
        report.plot_examples(models, test, attacks[-1], folder / "examples.png")
    console.print(report.table(entries, theta))
    say("written: " + ", ".join(str(path) for path in sorted([*folder.glob("*.png"), folder / "table.csv"])))


def as_yaml(*settings: Any, **more: Any) -> str:
    """Settings as the YAML that --config takes; not where the run is, which another run must not share."""
    values = {}
    for each in settings:
        values |= {key: _plain(each, key) for key in dataclasses.asdict(each) if key not in ("out", "resume")}
    return yaml.safe_dump(json.loads(json.dumps(values | more)), sort_keys=False)


def _plain(settings: Any, key: str) -> Any:
    value = getattr(settings, key)
    if isinstance(value, Attack):
        return {"class_path": type(value).__name__, "init_args": dataclasses.asdict(value)}
    return f"{value.__module__}.{value.__qualname__}" if callable(value) else value


def train(name: str, method: Method, options: Training, testing: Testing) -> None:
    """``fastadv train METHOD``."""
    train_set, test = options.training_data(), testing.samples(options)
    options.check(train_set)
    config = as_yaml(method, options, test=dataclasses.asdict(testing))
    run = Run(options.run_folder(name), config, environment(), resume=options.resume)
    model, history = train_one(name, method, options, train_set, run)
    plot_histories({name: history}, run.folder)
    trained_on, _ = options.split(train_set)
    seconds, normal = seconds_per_epoch(history), seconds_of_normal_epoch(options, trained_on)
    say(
        f"an epoch of {len(trained_on)} samples took {seconds:.2f} s; one of normal training takes {normal:.2f} s here "
        f"(from at most 50 batches of it): {seconds / normal:.1f} times as long"
    )
    entry = report.Entry(name, testing.evaluate(model, test, name), seconds)
    conclude(run.folder, [entry], [model], test, testing.theta)


def compare(names: list[str], options: Training, testing: Testing) -> None:
    """``fastadv compare METHOD METHOD ...``; training attacks that have a budget take the one of the evaluation."""
    names = [name.replace("-", "_") for name in names]
    for name in names:
        if name not in METHODS:
            raise ValueError(f"unknown method {name!r}: choose among {', '.join(METHODS)}")
    methods = {name: METHODS[name]() for name in names}
    train_set, test = options.training_data(), testing.samples(options)
    options.check(train_set)
    for method in methods.values():
        if isinstance(method, AttackMethod):
            method.attack = dataclasses.replace(budgeted(method.attack, testing.eps), bounds=train_set.bounds)
    folder = Run(options.run_folder("compare"), as_yaml(options, testing), environment(), resume=options.resume).folder
    entries, networks, histories = [], [], {}
    for name, method in methods.items():
        config = as_yaml(method, options, test=dataclasses.asdict(testing))
        run = Run(folder / name, config, environment(), resume=options.resume)
        model, histories[name] = train_one(name, method, options, train_set, run)
        networks.append(model)
        entries.append(report.Entry(name, testing.evaluate(model, test, name), seconds_per_epoch(histories[name])))
    plot_histories(histories, folder)
    conclude(folder, entries, networks, test, testing.theta)


def load_network(checkpoint: str | Path, test: Dataset) -> tuple[nn.Module, dict[str, Any]]:
    """The trained network of a run, on the device of `test`, and what else its checkpoint says of it.

    Raises ValueError where it was trained on samples of another kind than those of `test`.
    """
    saved = load_checkpoint(checkpoint)
    if list(test.sample_shape) != saved["shape"] or len(test.classes) != len(saved["classes"]):
        raise ValueError(
            f"{checkpoint} was trained on samples of {saved['shape']} in {len(saved['classes'])} classes, but "
            f"{test.name} has {list(test.sample_shape)} in {len(test.classes)}: choose other data with --data"
        )
    how = {name: saved[name] for name in ("model", "mean", "std", "cosine") if name in saved}
    model = build_network(saved["shape"], len(saved["classes"]), **how).to(test.x.device)
    load_weights(model, saved["model"], checkpoint)
    return model, saved


def load_weights(model: nn.Module, name: str, checkpoint: str | Path) -> None:
    """Gives `model`, called `name`, the weights of a run. Raises ValueError where they do not fit."""
    try:
        model.load_state_dict(load_checkpoint(checkpoint)["state"])
    except RuntimeError as error:
        raise ValueError(f"the weights in {checkpoint} do not fit {name}: {error}") from None


def evaluate_checkpoint(
    checkpoint: str, source: Data, testing: Testing, out: str | None, transfer_from: str | None
) -> None:
    """``fastadv evaluate CHECKPOINT``, on the data it was trained with unless others are named."""
    source.data = source.data or load_checkpoint(checkpoint)["data"]
    test = testing.samples(source)
    model, saved = load_network(checkpoint, test)
    other = load_network(transfer_from, test)[0] if transfer_from else None
    run = Run(out, as_yaml(source, testing, transfer_from=transfer_from), environment()) if out else None
    name = saved["method"]
    entry = report.Entry(name, testing.evaluate(model, test, name, other))
    if run:
        conclude(run.folder, [entry], [model], test, testing.theta)
    else:
        console.print(report.table([entry], testing.theta))


@dataclass
class Diagnosis:
    """Which layers to look at, on which samples.

    Args:
        layers: names of modules, with commas between; by default the last three that have parameters.
        classes: test samples of these classes only, their numbers or names, with commas between; by default of all.
        eps: L-infinity budget of PGD and of its friendly form (PGD-K-tau), which both start at the natural sample.
        alpha: their step size; by default eps/10.
        steps: their steps at the most.
        tau: steps of the friendly form after a sample is first misclassified.
        limit: how many test samples of these classes, from the first on; 0 takes all.
        reduction: to two dimensions by pca, by tsne (half a minute a layer for 1000 samples), or by both.
        at_once: test samples attacked at a time; it decides memory and speed only.
    """

    layers: str = ""
    classes: str = ""
    eps: float = 0.1
    alpha: float | None = None
    steps: int = 20
    tau: int = 0
    limit: int = 1000
    reduction: Literal["pca", "tsne", "both"] = "both"
    at_once: int = 500

    def __post_init__(self) -> None:
        if self.limit < 0 or self.at_once < 1:
            raise ValueError(f"limit and at_once must be numbers of samples, got {self.limit} and {self.at_once}")
        for method in self.reductions():
            reducer(method)  # raises where scikit-learn is missing

    def reductions(self) -> list[str]:
        return ["pca", "tsne"] if self.reduction == "both" else [self.reduction]

    def attacks(self) -> dict[str, Attack]:
        settings = (self.eps, self.eps / 10 if self.alpha is None else self.alpha, self.steps)
        return {"PGD": PGD(*settings, random_start=0), "friendly": FriendlyPGD(*settings, self.tau, random_start=0)}

    def chosen_layers(self, model: nn.Module) -> list[str]:
        return listed(self.layers) or last_layers(model)

    def samples(self, source: Data) -> Dataset:
        test = source.load("test")
        if self.classes:
            known = {name: k for k, name in enumerate(test.classes)}
            numbers = {str(k): k for k in known.values()} | known  # a digit's name is its number
            for name in listed(self.classes):
                if name not in numbers:
                    raise ValueError(
                        f"unknown class {name!r}: choose among {', '.join(known)}, or their numbers from 0"
                    )
            chosen = torch.tensor([numbers[name] for name in listed(self.classes)], device=test.y.device)
            test = test.subset(torch.isin(test.y, chosen))
        return test.take(self.limit) if self.limit else test


def diagnose(checkpoint: str, source: Data, options: Diagnosis, out: str) -> None:
    """``fastadv features CHECKPOINT``: what layers give for natural, PGD's and friendly samples."""
    source.data = source.data or load_checkpoint(checkpoint)["data"]
    test, attacks = options.samples(source), options.attacks()
    model, _ = load_network(checkpoint, test)
    layers = options.chosen_layers(model)
    features(model, test, {}, layers)  # what is wrong with layers or samples shows before a folder is made
    folder = Run(out, as_yaml(source, options), environment()).folder
    with progress("attacking", "kinds of samples") as step:
        found = features(model, test, attacks, layers, batch_size=options.at_once, on_step=step)
    console.print(report.records_table(found.rows, f"{len(test)} test samples of {test.name}, eps {options.eps:g}"))
    written = [report.write_records(found.rows, folder / "mixing.csv")]
    for method in options.reductions():
        written.append(report.plot_features(found, test.classes, method, folder / f"features_{method}.png"))
    say("written: " + ", ".join(str(path) for path in written))


@dataclass
class CorruptionTest(Data):
    """Which corruptions of which images.

    Args:
        data: other data than those the network was trained with.
        folder: where the files of the data set are, or, for cifar10, those of CIFAR-10-C, which are taken then.
        corruptions: which, with commas between; by default all 19.
        severities: of 1 to 5, with commas between.
        limit: how many test images, from the first on; 0 takes all.
        seed: of the corruptions; what is published as files has no choice.
        at_once: images at a time; it decides memory and speed only.
    """

    data: str | None = None
    corruptions: str = ",".join(CORRUPTIONS)
    severities: str = "1,2,3,4,5"
    limit: int = 1000
    seed: int = 0
    at_once: int = 500

    def __post_init__(self) -> None:
        if self.limit < 0 or self.at_once < 1:
            raise ValueError(f"limit and at_once must be numbers of samples, got {self.limit} and {self.at_once}")
        for name in listed(self.corruptions):
            if name not in CORRUPTIONS:
                raise ValueError(f"unknown corruption {name!r}: choose among {', '.join(CORRUPTIONS)}")
        for severity in listed(self.severities):
            if severity not in ("1", "2", "3", "4", "5"):
                raise ValueError(f"severities must be of 1 to 5, with commas between, got {self.severities!r}")
        if not (listed(self.corruptions) and listed(self.severities)):
            raise ValueError("corruptions and severities must not be empty: leave them out to take all")

    def published(self) -> bool:
        """Whether files of CIFAR-10-C are taken."""
        return self.data == "cifar10" and self.folder is not None and find_cifar10_c(self.folder) is not None

    def samples(self, found: Dataset) -> Dataset:
        return (found.take(self.limit) if self.limit else found).to(self.pick_device())

    def sets(self, test: Dataset | None) -> Iterator[tuple[str, int, Dataset]]:
        """Every corruption at every severity, of the images `test`, or as published where there are none."""
        for name in listed(self.corruptions):
            for severity in map(int, listed(self.severities)):
                if test is None:
                    yield name, severity, self.samples(load_cifar10_c(self.folder, name, severity))
                else:
                    yield name, severity, corrupted(test, name, severity, self.seed, self.at_once)

    def means(self) -> dict[str, list[str]]:
        """The means to be told: over the chosen ones of the 15 corruptions of the benchmark, and over all chosen."""
        chosen = listed(self.corruptions)
        groups = {len(group): group for group in ([name for name in chosen if name not in EXTRA], chosen)}
        return {f"mean of {count}": group for count, group in groups.items() if count}


def measure_corruptions(checkpoint: str, options: CorruptionTest, out: str) -> None:
    """``fastadv corruptions CHECKPOINT``: accuracy under common corruptions."""
    options.data = options.data or load_checkpoint(checkpoint)["data"]
    test = None if options.published() else options.samples(options.load("test"))
    first = next(options.sets(test))[2]  # what is wrong with the files or the images shows before a folder is made
    model, _ = load_network(checkpoint, first)
    folder = Run(out, as_yaml(options), environment()).folder
    count = len(listed(options.corruptions)) * len(listed(options.severities))
    with progress("evaluating", "sets") as step:

        def sets() -> Iterator[tuple[str, int, Dataset]]:
            for done, each in enumerate(options.sets(test)):
                step(done, count)
                yield each

        found = corruption_accuracy(model, sets(), test, batch_size=options.at_once)
    kind = "CIFAR-10-C" if test is None else f"corrupted here, -C style, from {test.name}"
    title = f"accuracy in % on {len(first)} test images: {kind}"
    console.print(report.corruptions_table(found, options.means(), title))
    written = [report.write_corruptions(found, options.means(), folder / "corruptions.csv")]
    written.append(report.plot_corruptions(found, title, folder / "corruptions.png"))
    say("written: " + ", ".join(str(path) for path in written))


@dataclass
class Reproduction(Data):
    """How much of a published experiment to run, and what to change in it; by default nothing.

    Args:
        data: other data than the recipes', of which none are held out.
        model: another network than the recipes'.
        epochs: other epochs than the recipes'; milestones, and options of methods that are epochs, keep their places
            in the schedule.
        batch_size: samples a step.
        per_class: how many training samples of each class; 0 takes all. None are held out then.
        lr: another learning rate at the start.
        optimizer: another than the recipes', see fastadv train.
        precision: another than the recipes', see fastadv train.
        seed: added to the recipes' seeds, which are 0 but for networks trained twice.
        attacks: measure only these of the recipes' attacks, with commas between, and the clean accuracy.
        limit: how many test samples, from the first on; 0 takes all, as the papers do.
        at_once: test samples attacked at a time; it decides memory and speed only.
        out: the folder for runs and results, which must not exist; by default one under runs/.
        resume: go on in the folder --out, where it exists.
    """

    data: str | None = None
    model: str | None = None
    epochs: int | None = None
    batch_size: int | None = None
    per_class: int | None = None
    lr: float | None = None
    optimizer: str | None = None
    precision: str | None = None
    seed: int = 0
    attacks: str | None = None
    limit: int = 0
    at_once: int = 500
    out: str | None = None
    resume: bool = False

    def __post_init__(self) -> None:
        if self.limit < 0 or self.at_once < 1:
            raise ValueError(f"limit and at_once must be numbers of samples, got {self.limit} and {self.at_once}")
        if self.resume and not self.out:
            raise ValueError("resume needs --out, the folder to go on in")

    def training(self, recipe: recipes.Recipe) -> Training:
        """The recipe's training, changed as asked."""
        names = ("data", "model", "epochs", "batch_size", "per_class", "lr", "optimizer", "precision")
        changed = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        settings = recipe.training | changed | {"seed": recipe.training.get("seed", 0) + self.seed}
        if self.data or self.per_class is not None:
            settings["held_out"] = 0
        if "milestones" in settings:
            settings["milestones"] = self.in_place(settings["milestones"], recipe)
        place = {"folder": self.folder, "download": self.download, "device": self.device}
        return Training(**settings, **place)

    def method(self, recipe: recipes.Recipe) -> Method:
        """The recipe's method, in the changed schedule."""
        method = recipe.build_method()
        moved = {name: self.in_place(getattr(method, name), recipe) for name in method.in_epochs}
        return dataclasses.replace(method, **moved)

    def in_place(self, epochs: int | list[int], recipe: recipes.Recipe) -> int | list[int]:
        """Where an epoch of the recipe's schedule, or a list of them, is in the changed one: 1 at the least, or 0."""
        if isinstance(epochs, list):
            return [self.in_place(epoch, recipe) for epoch in epochs]
        share = self.epochs / recipe.training["epochs"] if self.epochs else 1
        return max(min(1, epochs), round(epochs * share))


def list_recipes() -> None:
    """``fastadv reproduce --list``."""
    for recipe in recipes.select(["*"]):
        say(f"{recipe.name}: {recipe.row} ({recipe.paper}; {recipe.training['data']}, {recipe.training['model']})")
    for name, experiment in recipes.EXPERIMENTS.items():
        say(f"{name}: {(sys.modules[experiment.__module__].__doc__ or name).splitlines()[0]}")


def reproduce(names: Sequence[str], options: Reproduction) -> None:
    """``fastadv reproduce NAME ...``: trains the recipes, after the networks that they need, and measures."""
    if not names:
        raise ValueError("give the name of a recipe, or several; fastadv reproduce --list has them")
    experiments = [name for name in names if name in recipes.EXPERIMENTS]
    chosen = recipes.select([name for name in names if name not in recipes.EXPERIMENTS])
    if options.attacks is not None:
        chosen = [recipe.only(listed(options.attacks)) for recipe in chosen]
    if experiments and dataclasses.replace(options, out=None, resume=False, epochs=None) != Reproduction():
        raise ValueError(f"{experiments[0]} can be changed by epochs and out only: run it by itself")
    first = recipes.select([name for recipe in chosen for name in recipe.before()])
    rows = [variant for recipe in chosen for variant in recipe.variants()]
    trainings = {recipe.name: options.training(recipe) for recipe in (*first, *rows)}
    place = {"folder": options.folder, "download": options.download, "device": options.device}

    @functools.cache
    def training_data(data: str, per_class: int) -> Dataset:
        return Training(data=data, per_class=per_class, **place).training_data()

    for training in trainings.values():
        training.check(training_data(training.data, training.per_class))

    out = Path(options.out or Path("runs", f"reproduce-{time.strftime('%Y%m%d-%H%M%S')}"))
    folder = Run(out, as_yaml(options, names=list(names)), environment(), options.resume).folder
    for name in experiments:
        run_experiment(name, options.epochs, folder / name)
    networks: dict[str, nn.Module] = {}
    histories: dict[str, History] = {}
    for recipe in (*first, *rows):
        name, training = recipe.network or recipe.name, trainings[recipe.name]
        if name not in networks:
            method = options.method(recipe)
            if recipe.weights:
                training = dataclasses.replace(training, weights=str(folder / recipe.weights))
            run = Run(folder / name, as_yaml(method, training), environment(), resume=True)
            data = training_data(training.data, training.per_class)
            networks[name], histories[name] = train_one(name, method, training, data, run)
        networks[recipe.name] = networks[name]
    results = {}
    for recipe in rows:
        training = trainings[recipe.name]
        results[recipe.name] = measure_recipe(recipe, training, networks, options, folder / recipe.name)
        console.print(report.figures_table(recipe, results[recipe.name], settings_in_words(training, options)))
    if results:
        notes = [f"{name}: {settings_in_words(trainings[name], options)}." for name in results]
        replace_file(folder / "results.md", lambda file: file.write(report.markdown(results, notes).encode()))
        say(f"written: {folder / 'results.md'}, and a folder a recipe beside it")
    for recipe in (recipe for recipe in chosen if recipe.vary):
        written = [report.plot_variants(recipe, results, folder / f"{recipe.name}.png")]
        if "gradients" in histories[recipe.variants()[0].name][0]:
            written.append(report.plot_variant_gradients(recipe, histories, folder / f"{recipe.name}-gradients.png"))
        say("written: " + ", ".join(str(path) for path in written))


def run_experiment(name: str, epochs: int | None, folder: Path) -> None:
    """Runs an experiment that has a program of its own, unless its folder has its table already."""
    if list(folder.glob("*.csv")):
        say(f"{folder} has the table of {name} already")
        return
    with progress(name, "epochs") as step:
        rows = recipes.EXPERIMENTS[name](folder, epochs=epochs, on_step=step)
    console.print(report.records_table(rows, name))
    say("written: " + ", ".join(str(path) for path in sorted([*folder.glob("*.csv"), *folder.glob("*.png")])))


def settings_in_words(training: Training, options: Reproduction) -> str:
    """How a recipe was run, for captions."""
    of_each = f", {training.per_class} training samples a class" if training.per_class else ""
    tested = f"{options.limit} test samples" if options.limit else "all test samples"
    changed = {"of": options.optimizer, "at": options.lr and f"lr {options.lr:g}", "in": options.precision}
    trained = " ".join([f"{training.epochs} epochs", *(f"{word} {value}" for word, value in changed.items() if value)])
    return f"{training.model} on {training.data}{of_each}, {trained}, seed {training.seed}, {tested}"


def measure_recipe(
    recipe: recipes.Recipe, training: Training, networks: Mapping[str, nn.Module], options: Reproduction, folder: Path
) -> list[recipes.Figure]:
    """The figures of a trained recipe, from ``figures.csv`` in its folder where they are there already."""
    path = folder / "figures.csv"
    path.parent.mkdir(exist_ok=True)  # not there where the network is another recipe's
    if not path.is_file():
        test = training.load("test")
        test = test.take(options.limit) if options.limit else test
        with progress(f"measuring {recipe.name}", "figures") as step:
            settings = {"batch_size": options.at_once, "on_step": step}
            found = recipes.measure(recipe, networks[recipe.name], test, networks, **settings)
        replace_file(path, lambda file: file.write(report.figures_csv(found).encode()))
    return report.read_figures(path)
