"""``fastadv patch`` and ``fastadv universal``: what is trained on one half of the data and tried on the other."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from .. import report
from ..attacks import Attack, classify
from ..data import Dataset, Samples, usual_eps
from ..info import environment
from ..runs import Run
from ..threats import Patch, Universal
from ._networks import load_model, trained_on
from ._plan import samples_in_words
from ._settings import Data, as_yaml, check_samples, class_numbers, first
from ._terminal import console, progress, say


@dataclass
class ThreatTest(Data):
    """What is trained for a whole data set, and what it is tried on."""

    data: str | None = None
    target: str | None = None
    epochs: int = 5
    batch_size: int = 128
    limit: int = 1000
    at_once: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        check_samples(self.limit, self.at_once)
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {getattr(self, name)}")

    def chosen(self, data: Samples) -> int | None:
        """The number of the target's class. Raises ValueError for a class that `data` does not have, or several."""
        if self.target is None:
            return None
        numbers = class_numbers(data, self.target)
        if len(numbers) != 1:
            raise ValueError(f"target must be one class, got {self.target!r}")
        return numbers[0]


@dataclass
class PatchTest(ThreatTest):
    """Which patch to train, and how to print it.

    Args:
        data: other data than those of training.
        target: class that the patch leads to, its number or name. By default the patch leads away from the labels.
        epochs: passes over the training images.
        batch_size: training images a step.
        lr: Adam's step size, as a share of the images' range.
        least: smallest side of the patch, as a share of the images' shorter side.
        most: largest side of the patch, likewise.
        angle: largest turn of the patch in degrees, either way.
        shape: outline of the patch, circle or square.
        mm: side of the printed patch in millimetres.
        dpi: dots an inch of the printed patch.
        limit: test samples, 0 for all. The first ones are taken.
        at_once: test samples at a time. It changes memory and speed only.
        seed: seed of places and of the order of images.
    """

    lr: float = 0.05
    least: float = 0.3
    most: float = 0.5
    angle: float = 20.0
    shape: Literal["circle", "square"] = "circle"
    mm: float = 50.0
    dpi: int = 300

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.mm > 0 and self.dpi > 0 and self.mm / 25.4 * self.dpi >= 1):
            raise ValueError(f"mm and dpi must make at least one dot, got {self.mm:g} mm at {self.dpi} dots an inch")
        Patch(torch.zeros(1, 1, 1), self.scale, self.angle, shape=self.shape)

    @property
    def scale(self) -> tuple[float, float]:
        return self.least, self.most


@dataclass
class UniversalTest(ThreatTest):
    """Which perturbation to find, one for all samples.

    Args:
        data: other data than those of training.
        target: class that the perturbation leads to, its number or name. By default it leads away from the labels.
        eps: size of the perturbation in --norm, such as 8/255. It is a share of the data's range. By default it is the
            one of training, or the data set's usual one.
        norm: norm of the perturbation: linf, l2 or l1. Give --eps with the last two.
        alpha: step size, likewise. By default a tenth of eps.
        cap: loss above which a sample counts no more. It has no part in leading to a target.
        epochs: passes over the training samples.
        batch_size: training samples a step.
        delta_as: file of the exact perturbation: npz or safetensors.
        limit: test samples, 0 for all. The first ones are taken.
        at_once: test samples at a time. It changes memory and speed only.
        seed: seed of the order of samples.
    """

    eps: float | None = None
    norm: Literal["linf", "l2", "l1"] = "linf"
    alpha: float | None = None
    cap: float = 9.0
    delta_as: Literal["npz", "safetensors"] = "npz"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.norm != "linf" and self.eps is None:
            raise ValueError(f"usual budgets are L-infinity ones: give --eps with --norm {self.norm}")
        for name in ("eps", "alpha", "cap"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {value}")


_NAMES = {"patch": "patch", "universal": "perturbation"}


class ThreatRow(NamedTuple):
    """How often a network is right, changes its prediction and says the target, with what was trained and without."""

    samples: str
    right: float
    changed: float
    target: float | None


@dataclass(frozen=True)
class ThreatPlan:
    """The options, the network, what is trained on, what it is tried on, and the class that is led to.

    `trained_at`: the budget that the network was trained at; None where it was trained at none, or that is not known.
    """

    options: ThreatTest
    model: nn.Module
    train: Dataset
    test: Samples
    target: int | None
    trained_at: float | None

    @property
    def steps(self) -> int:
        """How many steps the training takes."""
        return self.options.epochs * -(-len(self.train) // self.options.batch_size)

    def announce(self, what: str) -> None:
        """Says what is about to be done."""
        led = "away from the labels" if self.target is None else f"towards class {self.test.classes[self.target]}"
        how = f"{self.options.epochs} epochs of {len(self.train)} training samples"
        say(f"{what}, {led}: {how}, then tried on {samples_in_words(self.test)}")

    def conclude(self, what: str, attack: Attack, files: list[Path]) -> None:
        """Tries what was trained on the test samples; prints the table, and writes it beside `files`."""
        rows = self.rows(what, attack)
        console.print(report.records_table(rows, samples_in_words(self.test)))
        written = [*files, report.write_records(rows, files[0].with_name(f"{what}.csv"))]
        say(f"written: {', '.join(map(str, written))}")

    def rows(self, what: str, attack: Attack) -> list[ThreatRow]:
        """What `attack`, called `what`, does to the test samples."""
        found = []
        for x, y, ids in self.test.batches(self.options.at_once):
            before = classify(self.model, x, len(self.test.classes) - 1)
            found.append((y, before, attack.outcome(self.model, x, y, ids).target))
        true, before, after = (torch.cat(column) for column in zip(*found, strict=True))
        return [
            ThreatRow(
                f"{how} the {_NAMES[what]}",
                _share(classes == true),
                _share(classes != before),
                None if self.target is None else _share(classes == self.target),
            )
            for how, classes in (("without", before), ("with", after))
        ]


def plan_threat(what: str, given: str, options: ThreatTest, images: bool = False) -> ThreatPlan:
    """Raises ValueError where data or network do not fit the options, or each other; `images`: only images do."""
    trained = trained_on(given)
    options = options.named(trained, given)
    train, test = options.load("train"), options.load("test")
    test = test.take(options.limit) if options.limit else test
    target = options.chosen(test)
    if not isinstance(train, Dataset):
        raise ValueError(f"{train.name}: a {what} is trained on samples in memory: take fewer, or --resize them")
    shape = test.sample_shape
    if images and (len(shape) != 3 or shape[0] not in (1, 3)):
        raise ValueError(f"a {what} is for images of 1 or 3 channels, and {test.name} has {list(shape)}")
    return ThreatPlan(options, load_model(given, test)[0], train, test, target, trained.get("eps"))


def make_patch(given: str, options: PatchTest, out: str) -> None:
    """``fastadv patch MODEL``: trains a patch on the training images, tries it on the test's, and writes it as PNG."""
    plan = plan_threat("patch", given, options, images=True)
    run = Run(out, as_yaml(plan.options, checkpoint=given), environment())
    plan.announce("patch")
    with progress("training the patch", "batches") as tick:
        patch = Patch.fit(
            plan.model,
            plan.train,
            plan.target,
            epochs=options.epochs,
            batch_size=options.batch_size,
            lr=options.lr,
            scale=options.scale,
            angle=options.angle,
            shape=options.shape,
            seed=options.seed,
            on_step=lambda number, loss: tick(number, plan.steps),
        )
    file = run.folder / "patch.png"
    patch.save(file, mm=options.mm, dpi=options.dpi)
    plan.conclude("patch", patch.seeded(options.seed), [file])
    say(f"{file.name} is {options.mm:g} mm a side at {options.dpi} dots an inch")


def find_universal(given: str, options: UniversalTest, out: str) -> None:
    """``fastadv universal MODEL``: finds a perturbation on the training samples, tries it on the test's, writes it."""
    plan = plan_threat("universal perturbation", given, options)
    eps = first(options.eps, plan.trained_at, usual_eps(plan.options.data, plan.test))
    nothing = Universal(torch.zeros(plan.test.sample_shape), eps, norm=options.norm)
    kinds = [options.delta_as, *(["png"] if nothing.is_image else [])]
    for kind in kinds:
        nothing.check_file(f"universal.{kind}")
    run = Run(out, as_yaml(plan.options, checkpoint=given, eps=eps), environment())
    plan.announce(f"universal perturbation, {options.norm} {eps:.4g}")
    with progress("finding the perturbation", "batches") as tick:
        found = Universal.fit(
            plan.model,
            plan.train,
            eps,
            alpha=options.alpha,
            epochs=options.epochs,
            batch_size=options.batch_size,
            cap=options.cap,
            norm=options.norm,
            target=plan.target,
            seed=options.seed,
            on_step=lambda number, loss: tick(number, plan.steps),
        )
    files = [run.folder / f"universal.{kind}" for kind in kinds]
    for file in files:
        found.save(file)
    plan.conclude("universal", found, files)


def _share(hits: Tensor) -> float:
    return float(hits.double().mean())
