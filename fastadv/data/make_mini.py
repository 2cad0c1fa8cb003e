"""Makes the embedded sample from the full Fashion-MNIST: ``python -m fastadv.data.make_mini [SOURCE] [TARGET]``.

It prints the digests that ``fashion_mnist.MINI_FILES`` holds: the same ones on every machine, because they are those of
the content before compression.
"""

import argparse
from pathlib import Path

import numpy as np

from .fashion_mnist import CLASSES, EMBEDDED, FILES
from .files import SYSTEM
from .idx import write_idx

FULL = SYSTEM / "fashion-mnist"
PER_CLASS = {"train": 600, "test": 100}


def mini_rows(labels: np.ndarray, per_class: int) -> np.ndarray:
    """The positions, ascending, of the first ``per_class`` samples of each class."""
    return np.sort(np.concatenate([np.flatnonzero(labels == label)[:per_class] for label in range(len(CLASSES))]))


def make_mini(source: Path = FULL, target: Path = EMBEDDED) -> dict[str, str]:
    """Write the four IDX files of the sample of ``source``, the full set's folder, into the folder ``target``.

    Returns the sha256 of each file's content by name. Raises FileNotFoundError or ValueError where ``source`` lacks the
    original files.
    """
    target.mkdir(parents=True, exist_ok=True)
    digests = {}
    for split, files in FILES.items():
        images, labels = (file.read(file.find(source) or source / file.published) for file in files)
        rows = mini_rows(labels, PER_CLASS[split])
        for file, values in zip(files, (images, labels), strict=True):
            digests[file.name] = write_idx(target / file.published, values[rows])
    return digests


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Make the embedded sample of Fashion-MNIST.")
    parser.add_argument("source", nargs="?", type=Path, default=FULL, help="folder of the full set (%(default)s)")
    parser.add_argument("target", nargs="?", type=Path, default=EMBEDDED, help="folder to write to (the package's)")
    arguments = parser.parse_args()
    for name, digest in make_mini(arguments.source, arguments.target).items():
        print(digest, name)
