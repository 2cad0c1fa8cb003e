"""``fastadv corruptions``."""

from collections.abc import Iterator
from dataclasses import dataclass

from .. import report
from ..data import CORRUPTIONS, EXTRA, Dataset, corrupted, find_cifar10_c, load_cifar10_c
from ..evaluation import corruption_accuracy
from ..info import environment
from ..runs import Run, load_checkpoint
from ._networks import load_network
from ._settings import Data, as_yaml, check_samples, listed
from ._terminal import console, drawn, progress, say


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
        check_samples(self.limit, self.at_once)
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
    options = options.named(load_checkpoint(checkpoint).get("data"), checkpoint)
    test = None if options.published() else options.samples(options.load("test"))
    first = next(options.sets(test))[2]  # what is wrong with the files or the images shows before a folder is made
    model, _ = load_network(checkpoint, first)
    run = Run(out, as_yaml(options, checkpoint=checkpoint), environment())
    folder = run.folder
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
    written += drawn(report.plot_corruptions, found, title, folder / "corruptions.png")
    say("written: " + ", ".join(str(path) for path in written))
