"""MNIST (LeCun, Cortes, Burges 1998): handwritten digits."""

from pathlib import Path

from .dataset import Dataset
from .files import FIX, Source
from .idx import image_files, read_images

# The authors' own address no longer serves the files; PyTorch's mirror does.
SOURCE = Source("mnist", "https://ossci-datasets.s3.amazonaws.com/mnist", megabytes=12)
FILES = {
    "train": image_files(
        "train",
        60_000,
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        FIX,
    ),
    "test": image_files(
        "t10k",
        10_000,
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        FIX,
    ),
}


def load_mnist(split: str, folder: str | Path | None = None, download: bool = False) -> Dataset:
    """All 60,000 (train) or 10,000 (test) images of MNIST: x [N, 1, 28, 28] in [0, 1], the digits as ten classes.

    The IDX files, plain or .gz, are looked for, and fetched with ``download``, as ``Source.locate`` says. Raises its
    errors, and ValueError naming the file that is not the original, bit for bit.
    """
    files = FILES[split]
    return read_images(files, SOURCE.locate(files, folder, download), tuple("0123456789"), "mnist")
