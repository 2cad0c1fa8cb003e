"""``fastadv patch``."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .. import report
from ..attacks import classify
from ..data import Dataset, Samples
from ..info import environment
from ..runs import Run
from ..threats import Patch
from ._networks import load_model, trained_on
from ._plan import samples_in_words
from ._settings import Data, as_yaml, check_samples, class_numbers
from ._terminal import console, progress, say


@dataclass
class PatchTest(Data):
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

    data: str | None = None
    target: str | None = None
    epochs: int = 5
    batch_size: int = 128
    lr: float = 0.05
    least: float = 0.3
    most: float = 0.5
    angle: float = 20.0
    shape: Literal["circle", "square"] = "circle"
    mm: float = 50.0
    dpi: int = 300
    limit: int = 1000
    at_once: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        check_samples(self.limit, self.at_once)
        if not (self.mm > 0 and self.dpi > 0 and self.mm / 25.4 * self.dpi >= 1):
            raise ValueError(f"mm and dpi must make at least one dot, got {self.mm:g} mm at {self.dpi} dots an inch")
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {getattr(self, name)}")
        Patch(torch.zeros(1, 1, 1), self.scale, self.angle, shape=self.shape)

    @property
    def scale(self) -> tuple[float, float]:
        return self.least, self.most

    def chosen(self, data: Samples) -> int | None:
        """The number of the target's class. Raises ValueError for a class that `data` does not have, or several."""
        if self.target is None:
            return None
        numbers = class_numbers(data, self.target)
        if len(numbers) != 1:
            raise ValueError(f"target must be one class, got {self.target!r}")
        return numbers[0]


class PatchRow(NamedTuple):
    """How often a network is right, and how often it says the target, with the patch and without."""

    images: str
    right: float
    target: float | None


def make_patch(given: str, options: PatchTest, out: str) -> None:
    """``fastadv patch MODEL``: trains a patch on the training images, tries it on the test's, and writes it as PNG."""
    options = options.named(trained_on(given), given)
    train, test = options.load("train"), options.load("test")
    test = test.take(options.limit) if options.limit else test
    target = options.chosen(test)
    if not isinstance(train, Dataset):
        raise ValueError(f"{train.name}: a patch is trained on images in memory: take fewer, or --resize them")
    if len(test.sample_shape) != 3 or test.sample_shape[0] not in (1, 3):
        raise ValueError(f"patches are for images of 1 or 3 channels, and {test.name} has {list(test.sample_shape)}")
    model, _ = load_model(given, test)
    run = Run(out, as_yaml(options, checkpoint=given), environment())
    steps = options.epochs * -(-len(train) // options.batch_size)
    with progress("training the patch", "batches") as tick:
        patch = Patch.fit(
            model,
            train,
            target,
            epochs=options.epochs,
            batch_size=options.batch_size,
            lr=options.lr,
            scale=options.scale,
            angle=options.angle,
            shape=options.shape,
            seed=options.seed,
            on_step=lambda number, loss: tick(number, steps),
        )
    patch.save(run.folder / "patch.png", mm=options.mm, dpi=options.dpi)
    seeded, found = patch.seeded(options.seed), []
    for x, y, ids in test.batches(options.at_once):
        found.append((y, classify(model, x, len(test.classes) - 1), seeded.outcome(model, x, y, ids).target))
    true, before, after = (torch.cat(column) for column in zip(*found, strict=True))
    rows = [
        PatchRow(name, _share(classes == true), None if target is None else _share(classes == target))
        for name, classes in {"without the patch": before, "with the patch": after}.items()
    ]
    console.print(report.records_table(rows, samples_in_words(test)))
    written = [run.folder / "patch.png", report.write_records(rows, run.folder / "patch.csv")]
    say(f"written: {', '.join(map(str, written))}; {options.mm:g} mm a side at {options.dpi} dots an inch")


def _share(hits: Tensor) -> float:
    return float(hits.double().mean())
