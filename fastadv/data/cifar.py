"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009) in their binary version."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .dataset import Dataset, from_pixels
from .files import PublishedFile, Source, members, wrong

URL = "https://www.cs.toronto.edu/~kriz"
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR100_NAMES = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
    castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
    elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
    man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
    pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
    skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
    tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
CIFAR100_CLASSES = tuple(CIFAR100_NAMES.split())
PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class CifarSplit(PublishedFile):
    """One split: some files of the published archive, which may have been extracted.

    folder: in the archive.  members: the files there, of records of label bytes and 3,072 pixels.  records: in each.
    labels: how many bytes they are; the last is the class.  classes: how many.
    """

    folder: str
    members: tuple[str, ...]
    records: int
    labels: int
    classes: int

    def find(self, folder: Path) -> Path | None:
        """The folder that holds the members, or else the archive."""
        for place in (folder / self.folder, folder):
            if all((place / member).is_file() for member in self.members):
                return place
        return super().find(folder)

    def read(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
        """Images [N, 3, 32, 32] and classes [N], uint8.

        Raises ValueError naming the file, what was found, what was expected and the fix, where the archive is not the
        original, or a member has another size or an unknown class.
        """
        rows = np.concatenate([self._rows(path / name, content) for name, content in self._contents(path).items()])
        return rows[:, self.labels :].reshape(-1, 3, 32, 32), rows[:, self.labels - 1]

    def _contents(self, path: Path) -> dict[str, bytes]:
        if path.is_dir():
            contents = {}
            for name in self.members:
                with (path / name).open("rb") as stream:
                    contents[name] = stream.read(self._bytes + 1)  # one byte too many shows a longer file
            return contents
        self.check(path)
        names = [f"{self.folder}/{name}" for name in self.members]
        return dict(zip(self.members, members(path, names, self._bytes + 1, self.fix), strict=True))

    @property
    def _bytes(self) -> int:
        return self.records * (self.labels + PIXELS)

    def _rows(self, path: Path, content: bytes) -> np.ndarray:
        if len(content) != self._bytes:
            found = f"{len(content)} bytes" if len(content) < self._bytes else "trailing bytes"
            raise wrong(path, found, f"{self._bytes} bytes", self.fix)
        rows = np.frombuffer(content, np.uint8).reshape(self.records, -1)
        highest = rows[:, self.labels - 1].max()
        if highest >= self.classes:
            raise wrong(path, f"the label {highest}", f"0..{self.classes - 1}", self.fix)
        return rows


def _cifar10(*members: str) -> CifarSplit:
    digest = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
    archive = ("cifar-10-binary.tar.gz", 170_052_171, digest, "cifar-10-batches-bin")
    return CifarSplit(*archive, members, records=10_000, labels=1, classes=10)


def _cifar100(member: str, records: int) -> CifarSplit:
    digest = "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec"
    archive = ("cifar-100-binary.tar.gz", 168_513_733, digest, "cifar-100-binary")
    return CifarSplit(*archive, (member,), records, labels=2, classes=100)


CIFAR10 = Source("cifar10", URL, megabytes=170)
CIFAR10_FILES = {
    "train": _cifar10(*(f"data_batch_{number}.bin" for number in range(1, 6))),
    "test": _cifar10("test_batch.bin"),
}
CIFAR100 = Source("cifar100", URL, megabytes=169)
CIFAR100_FILES = {"train": _cifar100("train.bin", 50_000), "test": _cifar100("test.bin", 10_000)}


def load_cifar10(split: str, folder: str | Path | None = None, download: bool = False) -> Dataset:
    """All 50,000 (train) or 10,000 (test) images of CIFAR-10: x [N, 3, 32, 32] in [0, 1], ten classes.

    The folder ``cifar-10-batches-bin``, its files, or the archive ``cifar-10-binary.tar.gz`` are looked for, and the
    archive is fetched with ``download``, as ``Source.locate`` says. Raises its errors, and ``CifarSplit.read``'s.
    """
    return _load(CIFAR10, CIFAR10_FILES[split], CIFAR10_CLASSES, folder, download)


def load_cifar100(split: str, folder: str | Path | None = None, download: bool = False) -> Dataset:
    """The same of CIFAR-100, in its 100 fine classes: ``cifar-100-binary`` or ``cifar-100-binary.tar.gz``."""
    return _load(CIFAR100, CIFAR100_FILES[split], CIFAR100_CLASSES, folder, download)


def _load(
    source: Source, file: CifarSplit, classes: tuple[str, ...], folder: str | Path | None, download: bool
) -> Dataset:
    (path,) = source.locate([file], folder, download)
    return from_pixels(*file.read(path), classes, source.name)
