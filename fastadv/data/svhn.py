"""SVHN (Netzer et al., 2011): house numbers in street views, the cropped digits."""

from pathlib import Path

import numpy as np

from .dataset import Dataset, from_pixels
from .files import PublishedFile, Source, reading

# Published over http only: the digests vouch for the files.
SOURCE = Source("svhn", "http://ufldl.stanford.edu/housenumbers", megabytes=246)
DIGESTS = {
    "train": "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
    "test": "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
}
FILES = {
    "train": PublishedFile("train_32x32.mat", 182_040_794, DIGESTS["train"]),
    "test": PublishedFile("test_32x32.mat", 64_275_384, DIGESTS["test"]),
}


def load_svhn(split: str, folder: str | Path | None = None, download: bool = False) -> Dataset:
    """The 73,257 (train) or 26,032 (test) cropped digits: x [N, 3, 32, 32] in [0, 1], the digits as ten classes.

    The files, as published, are looked for, and fetched with ``download``, as ``Source.locate`` says. Raises its
    errors, ValueError naming the file that is not the original, and ImportError where scipy is not installed.
    """
    try:
        from scipy.io import loadmat
    except ImportError:
        raise ImportError("svhn: scipy, which reads its MATLAB files, is missing. To fix: pip install scipy") from None
    file = FILES[split]
    (path,) = SOURCE.locate([file], folder, download)
    file.check(path)
    with reading(path, "no images X and labels y", "these in a MATLAB file", file.fix):
        content = loadmat(path, variable_names=("X", "y"))
        images = np.ascontiguousarray(content["X"].transpose(3, 2, 0, 1))
        labels = content["y"][:, 0] % 10  # label 10 is the digit 0
        return from_pixels(images, labels, tuple("0123456789"), "svhn")
