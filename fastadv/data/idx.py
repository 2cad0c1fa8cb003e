"""The IDX format of MNIST and its kin: http://yann.lecun.com/exdb/mnist.

A file is two zero bytes, a type code (8: unsigned bytes), the number of dimensions, each dimension as a big-endian
32-bit integer, then the values in row-major order; the whole usually compressed by gzip.
"""

import gzip
import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from .dataset import Dataset, from_pixels
from .files import reading, wrong

UNSIGNED_BYTES = 0x08


@dataclass(frozen=True)
class IdxFile:
    """What one IDX file of unsigned bytes has to be.

    name: its name, without .gz.  shape: its dimensions.  sha256: of the decompressed content, header included.
    fix: what a user does when it is damaged.  highest: the largest value allowed.
    """

    name: str
    shape: tuple[int, ...]
    sha256: str
    fix: str
    highest: int = 255

    @property
    def published(self) -> str:
        """Its name as published."""
        return f"{self.name}.gz"

    @property
    def size(self) -> int:
        """Bytes of the decompressed file."""
        return 4 + 4 * len(self.shape) + prod(self.shape)

    def find(self, folder: Path) -> Path | None:
        """The file in ``folder``, plain or else compressed; None where it is not."""
        return next((path for path in (folder / self.name, folder / self.published) if path.is_file()), None)

    def read(self, path: Path) -> np.ndarray:
        """The values, uint8 of ``shape``, read-only; ``path`` is decompressed when it ends in .gz.

        Raises ValueError naming the file, what was found, what was expected and the fix when anything differs: gzip
        stream, magic, type, dimensions, length, values, digest.
        """
        with (
            reading(path, "corrupt or truncated gzip file", "a complete one", self.fix),
            gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream,
        ):
            content = stream.read(self.size + 1)  # one byte too many shows a longer file, however long it is

        start = 4 + 4 * len(self.shape)
        if content[:2] != b"\0\0" or len(content) < 4:
            found = f"starts with the bytes {content[:4].hex(' ') or '(none)'}"
            raise wrong(path, found, f"an IDX file, 00 00 08 {len(self.shape):02x}", self.fix)
        if content[2] != UNSIGNED_BYTES:
            raise wrong(path, f"type code 0x{content[2]:02x}", "0x08, unsigned bytes", self.fix)
        if content[3] != len(self.shape):
            raise wrong(path, f"{content[3]} dimensions", f"{len(self.shape)}", self.fix)
        if len(content) >= start:
            shape = struct.unpack(f">{len(self.shape)}I", content[4:start])
            if shape != self.shape:
                raise wrong(path, f"dimensions {_times(shape)}", _times(self.shape), self.fix)
        if len(content) < self.size:
            raise wrong(path, f"truncated, {len(content)} bytes", f"{self.size}", self.fix)
        if len(content) > self.size:
            raise wrong(path, "trailing bytes", f"{self.size} bytes and no more", self.fix)

        values = np.frombuffer(content, np.uint8, offset=start).reshape(self.shape)
        if values.max() > self.highest:
            raise wrong(path, f"the value {values.max()}", f"0..{self.highest}", self.fix)
        digest = hashlib.sha256(content).hexdigest()
        if digest != self.sha256:
            raise wrong(path, f"sha256 {digest} of the decompressed content", self.sha256, self.fix)
        return values

    check = read


def image_files(prefix: str, count: int, images: str, labels: str, fix: str) -> tuple[IdxFile, IdxFile]:
    """The files of a split of MNIST or its kin, 28x28 and ten classes; ``images`` and ``labels`` are their digests."""
    return (
        IdxFile(f"{prefix}-images-idx3-ubyte", (count, 28, 28), images, fix),
        IdxFile(f"{prefix}-labels-idx1-ubyte", (count,), labels, fix, highest=9),
    )


def read_images(files: tuple[IdxFile, IdxFile], paths: Sequence[Path], classes: tuple[str, ...], name: str) -> Dataset:
    """The data set in such a pair of files, which are at ``paths``; raises their errors."""
    images, labels = (file.read(path) for file, path in zip(files, paths, strict=True))
    return from_pixels(images[:, None], labels, classes, name)


def write_idx(path: Path, values: np.ndarray) -> str:
    """Write uint8 ``values`` to ``path`` as a gzip-compressed IDX file; returns the sha256 of the content.

    No time or name is stored: the same values give the same file with the same zlib.
    """
    header = struct.pack(f">BBBB{values.ndim}I", 0, 0, UNSIGNED_BYTES, values.ndim, *values.shape)
    content = header + values.astype(np.uint8, casting="no").tobytes()
    with path.open("wb") as file, gzip.GzipFile("", "wb", fileobj=file, mtime=0) as stream:
        stream.write(content)
    return hashlib.sha256(content).hexdigest()


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
