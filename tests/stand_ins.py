"""Small stand-ins of published data sets, in their formats, with their own counts and digests."""

import hashlib
import io
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastadv.data import cifar, files, mnist, mnist_10k, svhn
from fastadv.data.idx import IdxFile, image_files, write_idx


def pixels(count: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, *shape), np.uint8)


def published(file: files.PublishedFile, folder: Path, **change: Any) -> files.PublishedFile:
    """What `file` would be if its authors had published the one in `folder`."""
    content = (folder / file.published).read_bytes()
    return replace(file, size=len(content), digest=hashlib.sha256(content).hexdigest(), **change)


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
        write_archive(folder / splits["test"].published, contents)
        return {split: published(file, folder, records=records[split]) for split, file in splits.items()}

    return publish


def write_archive(path: Path, contents: dict[str, bytes]) -> None:
    """A tar.gz archive of files, not in the order in which they are read."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in reversed(contents.items()):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def digits_file(images: np.ndarray) -> bytes:
    """The images of one digit as the package has them: in three decimals, without zeros at their end."""
    values = (f"{round(pixel / 255, 3):g}" for pixel in images.ravel().tolist())
    return b'{ "data": [' + ",".join(values).encode() + b"]}"


def publish_mnist_10k(folder: Path) -> mnist_10k.DigitsPackage:
    """Two images of each digit in the training half and one in the test half."""
    images = np.concatenate([pixels(20, 28, 28), pixels(10, 28, 28)])
    contents = {f"{mnist_10k.FOLDER}/{digit}.json": digits_file(images[digit::10]) for digit in range(10)}
    write_archive(folder / mnist_10k.PACKAGE.published, {"package/package.json": b"{}", **contents})
    digests = tuple(hashlib.sha256(content).hexdigest() for content in contents.values())
    return published(mnist_10k.PACKAGE, folder, sha256=digests, tests=1)


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
    "mnist-10k": (mnist_10k, "SOURCE", "PACKAGE", publish_mnist_10k),
    "cifar10": (cifar, "CIFAR10", "CIFAR10_FILES", publish_cifar(cifar.CIFAR10_FILES)),
    "cifar100": (cifar, "CIFAR100", "CIFAR100_FILES", publish_cifar(cifar.CIFAR100_FILES)),
    "svhn": (svhn, "SOURCE", "FILES", publish_svhn),
}
SHAPES = {name: (28, 28) if name.startswith("mnist") else (3, 32, 32) for name in STAND_INS}
