"""The IDX format of MNIST and its kin: http://yann.lecun.com/exdb/mnist.

A file is two zero bytes, a type code (8: unsigned bytes), the number of dimensions, each dimension as a big-endian
32-bit integer, then the values in row-major order; the whole usually compressed by gzip.
"""

import gzip
import hashlib
import struct
import zlib
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

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
    def size(self) -> int:
        """Bytes of the decompressed file."""
        return 4 + 4 * len(self.shape) + prod(self.shape)

    def find(self, folder: Path) -> Path | None:
        """The file in ``folder``, plain or else compressed; None where it is not."""
        return next((path for path in (folder / self.name, folder / f"{self.name}.gz") if path.is_file()), None)

    def read(self, path: Path) -> np.ndarray:
        """The values, uint8 of ``shape``, read-only; ``path`` is decompressed when it ends in .gz.

        Raises ValueError naming the file, what was found, what was expected and the fix when anything differs: gzip
        stream, magic, type, dimensions, length, values, digest.
        """
        try:
            with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
                content = stream.read(self.size + 1)  # one byte too many shows a longer file, however long it is
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise self._error(path, f"corrupt or truncated gzip file ({error})", "a complete one") from error

        start = 4 + 4 * len(self.shape)
        if content[:2] != b"\0\0" or len(content) < 4:
            found = f"starts with the bytes {content[:4].hex(' ') or '(none)'}"
            raise self._error(path, found, f"an IDX file, 00 00 08 {len(self.shape):02x}")
        if content[2] != UNSIGNED_BYTES:
            raise self._error(path, f"type code 0x{content[2]:02x}", "0x08, unsigned bytes")
        if content[3] != len(self.shape):
            raise self._error(path, f"{content[3]} dimensions", f"{len(self.shape)}")
        if len(content) >= start:
            shape = struct.unpack(f">{len(self.shape)}I", content[4:start])
            if shape != self.shape:
                raise self._error(path, f"dimensions {_times(shape)}", _times(self.shape))
        if len(content) < self.size:
            raise self._error(path, f"truncated, {len(content)} bytes", f"{self.size}")
        if len(content) > self.size:
            raise self._error(path, "trailing bytes", f"{self.size} bytes and no more")

        values = np.frombuffer(content, np.uint8, offset=start).reshape(self.shape)
        if values.max() > self.highest:
            raise self._error(path, f"the value {values.max()}", f"0..{self.highest}")
        digest = hashlib.sha256(content).hexdigest()
        if digest != self.sha256:
            raise self._error(path, f"sha256 {digest} of the decompressed content", self.sha256)
        return values

    def _error(self, path: Path, found: str, expected: str) -> ValueError:
        return ValueError(f"{path}: found {found}; expected {expected}. To fix: {self.fix}")


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
