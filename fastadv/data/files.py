"""Where the files of a data set are looked for, how missing ones are fetched, and what is said of wrong ones."""

import hashlib
import http.client
import os
import tarfile
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Protocol

SYSTEM = Path("/usr/share/datasets")
_AT_WORK = 3600.0
"""Seconds after which nobody writes a half file any more."""
FIX = "move this file away and pass download=True (--download true)"


class File(Protocol):
    """A file as a search wants it: a dataclass with its name as published, the bytes of its content, and a fix."""

    published: str
    size: int
    fix: str

    def find(self, folder: Path) -> Path | None:
        """Where it is in ``folder``; None where it is not."""

    def check(self, path: Path) -> object:
        """Raises ValueError where the file at ``path``, as downloaded, is not the original."""


@dataclass(frozen=True)
class PublishedFile:
    """A file kept as its authors published it.

    published: its name.  size: its bytes.  digest: its SHA-256.  fix: what a user does when it is wrong.
    """

    published: str
    size: int
    digest: str
    fix: str = field(default=FIX, kw_only=True)

    def find(self, folder: Path) -> Path | None:
        path = folder / self.published
        return path if path.is_file() else None

    def check(self, path: Path) -> None:
        if path.stat().st_size != self.size:
            raise wrong(path, f"{path.stat().st_size} bytes", f"{self.size}", self.fix)
        found = hashlib.sha256()
        with path.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                found.update(chunk)
        if found.hexdigest() != self.digest:
            raise wrong(path, f"sha256 {found.hexdigest()}", self.digest, self.fix)


@dataclass(frozen=True)
class Source:
    """Where the files of one data set come from.

    name: the data set's, and its subfolders'.  url: of the folder that has the files, under their published names.
    megabytes: of a download of all.  others: other ways to get the data, for messages.
    """

    name: str
    url: str
    megabytes: int
    others: str = ""

    def locate(self, files: Sequence[File], folder: str | Path | None, download: bool) -> list[Path]:
        """The paths of ``files``, all in one place.

        They are looked for in ``folder`` and nowhere else where one is given; otherwise in the subfolder ``name`` of
        ``$FASTADV_DATA``, in ``$FASTADV_DATA``, and in that subfolder of the system's folder of data sets and of
        fastadv's folder in the user's cache. With ``download`` those still missing are fetched into the last.

        Raises FileNotFoundError listing the folders searched, ConnectionError when the download fails, and ValueError
        when it gives something else.
        """
        folders = self._folders() if folder is None else [Path(folder).expanduser()]
        for place in folders:
            found = [file.find(place) for file in files]
            if None not in found:
                return found
        if download and folder is None:
            return [file.find(folders[-1]) or self._fetch(file, folders[-1]) for file in files]
        names = " and ".join(file.published for file in files)
        raise FileNotFoundError(
            f"{self.name}: no folder searched holds {names}, as published or extracted:\n"
            + "".join(f"  {place}{'' if place.is_dir() else ' (does not exist)'}\n" for place in folders)
            + f"To fix: allow a download of {self.megabytes} MB by download=True (--download true) without folder=; or "
            f"name the folder that holds the files by folder= or FASTADV_DATA{self.others}."
        )

    def _folders(self) -> list[Path]:
        given = os.environ.get("FASTADV_DATA")
        # The subfolder first: MNIST and Fashion-MNIST name their files alike.
        data = [Path(given).expanduser() / self.name, Path(given).expanduser()] if given else []
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return [*data, SYSTEM / self.name, cache / "fastadv" / self.name]

    def _fetch(self, file: File, folder: Path) -> Path:
        """Downloads ``file`` into ``folder``: it appears there complete and checked, or not at all."""
        url = f"{self.url}/{file.published}"
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(f".*-{file.published}"):  # by a process that was killed; others may be at work
            with suppress(FileNotFoundError):  # which they have just finished
                if time.time() - left.stat().st_mtime > _AT_WORK:
                    left.unlink()
        # The name ends as published: it says whether the content is compressed.
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".", suffix=f"-{file.published}", delete=False) as partial:
            try:
                self._copy(url, partial, file.size)
                fix = f"nothing was kept of what {url} gave: try again{self.others}"
                replace(file, fix=fix).check(Path(partial.name))
                return Path(partial.name).replace(folder / file.published)
            finally:
                Path(partial.name).unlink(missing_ok=True)

    def _copy(self, url: str, target: IO[bytes], size: int) -> None:
        left = size + 1024  # what is longer is wrong, however long it is; gzip's own bytes have room
        try:
            with urllib.request.urlopen(url, timeout=60) as response:
                while chunk := response.read(min(left, 1 << 20)):
                    target.write(chunk)
                    left -= len(chunk)
            target.flush()
            os.fsync(target.fileno())
        except (OSError, http.client.HTTPException) as error:
            raise ConnectionError(
                f"downloading {url} to {target.name} failed: {error}. To fix: check the network, and the space there"
                f"{self.others}"
            ) from error


def wrong(path: Path, found: str, expected: str, fix: str) -> ValueError:
    return ValueError(f"{path}: found {found}; expected {expected}. To fix: {fix}")


def members(path: Path, names: Sequence[str], most: int, fix: str) -> list[bytes]:
    """The contents, up to ``most`` bytes of each, of files in the tar.gz archive at ``path``.

    Their order there does not matter. Raises ``wrong`` where the archive cannot be read or lacks one of them.
    """
    # | passes through it once
    with reading(path, "no whole archive", "the published one", fix), tarfile.open(path, "r|gz") as archive:
        found = {info.name: archive.extractfile(info).read(most) for info in archive if info.name in names}
        return [found[name] for name in names]


@contextmanager
def reading(path: Path, found: str, expected: str, fix: str) -> Iterator[None]:
    """Raise ``wrong`` with the reason added in place of whatever is raised while the file at ``path`` is parsed.

    Damaged bytes make parsers raise anything: SyntaxError, struct.error, KeyError, NotImplementedError, MemoryError.
    """
    try:
        yield
    except Exception as error:
        told = " ".join(str(error).split())
        kind = "" if isinstance(error, ValueError) else type(error).__name__
        raise wrong(path, f"{found} ({': '.join(filter(None, (kind, told)))})", expected, fix) from error
