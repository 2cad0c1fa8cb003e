"""``fastadv corruptions``."""

from collections.abc import Iterator
from dataclasses import dataclass

from .. import report
from ..data import (
    CORRUPTIONS,
    EXTRA,
    Placed,
    Samples,
    Stream,
    corrupted,
    find_cifar_c,
    load_cifar10_c,
    load_cifar100_c,
)
from ..evaluation import corruption_accuracy
from ..info import environment
from ..runs import Run, load_checkpoint
from ._networks import load_network
from ._parser import unknown
from ._settings import Data, as_yaml, check_samples, listed
from ._terminal import console, drawn, progress, say


@dataclass
class CorruptionTest(Data):
    """Which corruptions of which images.

    Args:
        data: other data than those of training.
        folder: where the files of the data set are. For cifar10 and cifar100 it may hold the files of CIFAR-10-C or
            CIFAR-100-C, which are used then.
        corruptions: all 19 corruptions, or some of them with commas between.
        severities: severities from 1 to 5, with commas between.
        limit: test images, 0 for all. The first ones are taken.
        seed: seed of the corruptions. It does not apply to published files.
        at_once: images at a time. It changes memory and speed only.
    """

    data: str | None = None
    corruptions: str = ",".join(CORRUPTIONS)
    severities: str = "1,2,3,4,5"
    limit: int = 1000
    seed: int = 0
    at_once: int = 500

    def __post_init__(self) -> None:
        check_samples(self.limit, self.at_once)
        for name in listed(self.corruptions):
            if name not in CORRUPTIONS:
                raise ValueError(unknown("corruption", name, CORRUPTIONS))
        for severity in listed(self.severities):
            if severity not in ("1", "2", "3", "4", "5"):
                raise ValueError(f"severities must be numbers from 1 to 5 with commas between, got {self.severities!r}")
        if not (listed(self.corruptions) and listed(self.severities)):
            raise ValueError("corruptions and severities must not be empty: leave them out to take all")

    def published(self) -> bool:
        """Whether files of CIFAR-10-C or CIFAR-100-C are taken."""
        known = self.data in ("cifar10", "cifar100") and self.folder is not None
        return known and find_cifar_c(self.data, self.folder) is not None

    def samples(self, found: Placed | Stream) -> Placed | Stream:
        return (found.take(self.limit) if self.limit else found).to(self.pick_device())

    def sets(self, test: Placed | Stream | None) -> Iterator[tuple[str, int, Samples]]:
        """Every corruption at every severity, of the images `test`, or as published where there are none."""
        published = load_cifar10_c if self.data == "cifar10" else load_cifar100_c
        for name in listed(self.corruptions):
            for severity in map(int, listed(self.severities)):
                if test is None:
                    yield name, severity, self.samples(published(self.folder, name, severity))
                else:
                    yield name, severity, corrupted(test, name, severity, self.seed, self.at_once)

    def means(self) -> dict[str, list[str]]:
        """The means to be told: over the chosen ones of the 15 corruptions of the benchmark, and over all chosen."""
        chosen = listed(self.corruptions)
        groups = {len(group): group for group in ([name for name in chosen if name not in EXTRA], chosen)}
        return {f"mean of {count}": group for count, group in groups.items() if count}


def measure_corruptions(checkpoint: str, options: CorruptionTest, out: str) -> None:
    """``fastadv corruptions CHECKPOINT``: accuracy under common corruptions."""
    options = options.named(load_checkpoint(checkpoint), checkpoint)
    test = None if options.published() else options.samples(options.load("test"))
    first = next(options.sets(test))[2]  # what is wrong with the files or the images shows before a folder is made
    model, _ = load_network(checkpoint, first)
    run = Run(out, as_yaml(options, checkpoint=checkpoint), environment())
    folder = run.folder
    count = len(listed(options.corruptions)) * len(listed(options.severities))
    with progress("evaluating", "sets") as step:

        def sets() -> Iterator[tuple[str, int, Samples]]:
            for done, each in enumerate(options.sets(test)):
                step(done, count)
                yield each

        found = corruption_accuracy(model, sets(), test, batch_size=options.at_once)
    kind = first.name.partition(",")[0] if test is None else f"corrupted here, -C style, from {test.name}"
    title = f"accuracy in % on {first.count or 'all'} test images: {kind}"
    console.print(report.corruptions_table(found, options.means(), title))
    written = [report.write_corruptions(found, options.means(), folder / "corruptions.csv")]
    written += drawn(report.plot_corruptions, found, title, folder / "corruptions.png")
    say("written: " + ", ".join(str(path) for path in written))
