"""Small stand-ins of published data sets, in their formats, with their own counts and digests."""

import hashlib
import io
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fastadv.data import cifar, files, mnist, svhn
from fastadv.data.idx import IdxFile, image_files, write_idx


def pixels(count: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, *shape), np.uint8)


def published(file: files.PublishedFile, folder: Path, **change: int) -> files.PublishedFile:
    """What `file` would be if its authors had published the one in `folder`."""
    content = (folder / file.published).read_bytes()
    return replace(file, size=len(content), md5=hashlib.md5(content).hexdigest(), **change)


def publish_mnist(folder: Path) -> dict[str, tuple[IdxFile, IdxFile]]:
    stand_ins = {}
    for split, prefix, count in (("train", "train", 20), ("test", "t10k", 10)):
        digests = [
            write_idx(folder / f"{prefix}-{kind}.gz", values)
            for kind, values in (
                ("images-idx3-ubyte", pixels(count, 28, 28)),
                ("labels-idx1-ubyte", np.arange(count, dtype=np.uint8) % 10),
            )
        ]
        stand_ins[split] = image_files(prefix, count, *digests, files.FIX)
    return stand_ins


def cifar_member(file: cifar.CifarSplit, number: int, records: int) -> bytes:
    """The records of one member: a coarse label of 19 in CIFAR-100, the label, red, green and blue."""
    first = number * records
    images = pixels(records * len(file.members), 3, 32, 32)[first:]
    labels = [bytes([19] * (file.labels - 1) + [(first + n) % file.classes]) for n in range(records)]
    return b"".join(label + image.tobytes() for label, image in zip(labels, images, strict=False))


def publish_cifar(splits: dict[str, cifar.CifarSplit]) -> Callable[[Path], dict[str, cifar.CifarSplit]]:
    def publish(folder: Path) -> dict[str, cifar.CifarSplit]:
        records = {"train": 20 // len(splits["train"].members), "test": 10}
        contents = {f"{splits['test'].folder}/readme.html": b"<html>"}
        for split, file in splits.items():
            for number, member in enumerate(file.members):
                contents[f"{file.folder}/{member}"] = cifar_member(file, number, records[split])
        with tarfile.open(folder / splits["test"].published, "w:gz") as archive:
            for name, content in reversed(contents.items()):  # not in the order in which they are read
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        return {split: published(file, folder, records=records[split]) for split, file in splits.items()}

    return publish


def publish_svhn(folder: Path) -> dict[str, files.PublishedFile]:
    stand_ins = {}
    for split, count in (("train", 20), ("test", 10)):
        file = svhn.FILES[split]
        y = np.array([number % 10 or 10 for number in range(count)], np.uint8)[:, None]  # the digit 0 is label 10
        save_mat(folder / file.published, X=pixels(count, 3, 32, 32).transpose(2, 3, 1, 0), y=y)
        stand_ins[split] = published(file, folder)
    return stand_ins


def save_mat(path: Path, **arrays: np.ndarray) -> None:
    pytest.importorskip("scipy", reason="SVHN's files are read by scipy").io.savemat(path, arrays, do_compression=True)


# Of each data set: its module, the names there of its source and its files, and what publishes a stand-in.
STAND_INS = {
    "mnist": (mnist, "SOURCE", "FILES", publish_mnist),
    "cifar10": (cifar, "CIFAR10", "CIFAR10_FILES", publish_cifar(cifar.CIFAR10_FILES)),
    "cifar100": (cifar, "CIFAR100", "CIFAR100_FILES", publish_cifar(cifar.CIFAR100_FILES)),
    "svhn": (svhn, "SOURCE", "FILES", publish_svhn),
}
SHAPES = {"mnist": (28, 28), "cifar10": (3, 32, 32), "cifar100": (3, 32, 32), "svhn": (3, 32, 32)}
