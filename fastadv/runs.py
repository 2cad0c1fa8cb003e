"""Run folders and checkpoints: locked, written atomically, verified, loaded without running code, never overwritten."""

import csv
import errno
import fcntl
import gc
import hashlib
import io
import json
import os
import shlex
import shutil
import socket
import sys
import textwrap
import warnings
import weakref
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

FORMAT = 1
CHECKPOINT = "checkpoint.pt"
BEST = "best.pt"
PREVIOUS = "previous.pt"
CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"
LOCK = ".lock"
UNFINISHED = ".new"  # ends the names of hidden files that are being written
WHERE = (
    "device",
    "folder",
    "download",
    "at_once",
    "at_a_time",
    "executor",
    "log",
    "save_every",
    "keep_every",
    "checkpointing",
    "sharded",
)  # what may change when a run goes on
_HOLDS = {"state": dict, "method": str, "model": str, "data": str, "shape": list, "classes": list}
"""What every checkpoint has, and of what type."""


class Run:
    """A folder for one run: ``config.yaml``, ``environment.json``, ``metrics.csv`` and ``.jsonl``, checkpoints.

    ``checkpoint.pt`` is the last, ``previous.pt`` the one before, ``best.pt`` that of the best epoch where there is a
    figure to watch.

    As long as this object exists, the folder is locked: another `Run` of it is refused, in whatever process. The lock
    ends with the process, however that ends.

    With `resume`, the folder may be that of a stopped run with the same `config`, but for what is ``auto`` now, still
    be missing, or be empty. `defaults` are the values of settings that are not given: a run of an earlier version,
    which did not have a setting, had its default. Metrics after its last checkpoint, of an epoch that was not finished,
    are dropped, and so is what a killed run was writing.

    Raises FileExistsError where the folder exists otherwise, BlockingIOError where a process uses it, ValueError where
    it is a run of another `config` or is damaged, and OSError where it cannot be written; all say which and what to do.
    """

    def __init__(
        self,
        folder: str | Path,
        config: str,
        environment: dict[str, Any],
        resume: bool = False,
        defaults: Mapping[str, Any] | None = None,
    ):
        self.folder = Path(folder)
        self.history: list[dict[str, Any]] = []
        here = resume and self.folder.is_dir() and (self._begun() or all(map(_before_config, self.folder.iterdir())))
        try:
            self.folder.mkdir(parents=True, exist_ok=here)
        except FileExistsError:
            raise FileExistsError(
                f"run folder {self.folder} exists, and runs are never overwritten: choose another --out or remove it"
            ) from None
        except OSError as error:
            raise OSError(
                f"cannot make run folder {self.folder} ({error.strerror}): choose another with --out"
            ) from None
        with ExitStack() as undo:
            if not here:
                undo.callback(_remove_empty, self.folder)
            undo.callback(weakref.finalize(self, _unlock, self.folder / LOCK, _lock(self.folder), os.getpid()))
            if not here:
                undo.callback((self.folder / ENVIRONMENT).unlink, missing_ok=True)
            for path in self.folder.rglob(".*" + UNFINISHED):  # what a killed run was writing
                if path.parent == self.folder or not in_use(path.parent):
                    path.unlink(missing_ok=True)
            if self._begun():
                self._resume(config, defaults or {})
            if not (self.folder / ENVIRONMENT).is_file():
                write_text(self.folder / ENVIRONMENT, json.dumps(environment, indent=2) + "\n")
            if not self._begun():
                write_text(self.folder / CONFIG, config)  # last: with it, the folder is that of a run
            undo.pop_all()

    def _begun(self) -> bool:
        return (self.folder / CONFIG).is_file()

    @property
    def settings(self) -> dict[str, Any]:
        """What ``config.yaml`` says."""
        return _settings(self.folder / CONFIG)

    def settle(self, name: str, value: Any) -> None:
        """Writes what a setting that is ``auto`` came to into ``config.yaml``: another run can have the same."""
        if self.settings.get(name) != value:
            import yaml

            write_text(self.folder / CONFIG, yaml.safe_dump(self.settings | {name: value}, sort_keys=False))

    def _resume(self, config: str, defaults: Mapping[str, Any]) -> None:
        import yaml

        before, now = _fixed(_completed(self.settings, defaults)), _fixed(yaml.safe_load(config) or {})
        changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
        differ = [name for name in changed if now.get(name) != "auto"]  # which takes what it came to
        if differ:
            raise ValueError(
                f"{self.folder} is a run with other settings: {differ[0]} was {before.get(differ[0])!r} and is now "
                f"{now.get(differ[0])!r}. Give its own (--config {self.folder / CONFIG}), or choose another --out"
            )
        stopped = self.resumed()
        self.history = stopped.get("history", []) if stopped else []
        self._write_metrics()

    def resumed(self) -> dict[str, Any] | None:
        """The last checkpoint of a run that goes on; None where there is none yet.

        Where it is damaged or missing, the one before, with a warning, which then takes its place. Raises ValueError
        where that is damaged, too.
        """
        last, previous = self.folder / CHECKPOINT, self.folder / PREVIOUS
        if not last.is_file() and not previous.is_file():
            return None
        try:
            return load_checkpoint(last)
        except (ValueError, FileNotFoundError) as error:
            if not previous.is_file():
                raise
            warnings.warn(f"{error}; going on from {PREVIOUS}, the checkpoint before it", stacklevel=2)
            found = load_checkpoint(previous)
            _link(previous, last)  # or the next one would make the damaged one the previous
            return found

    def log(self, row: dict[str, Any]) -> None:
        """Adds a row to metrics.jsonl, where NaN is null, and to metrics.csv, with the columns of the first row."""
        self.history = [*self.history, row]
        self._write_metrics()

    def _write_metrics(self) -> None:
        lines, table = self.folder / "metrics.jsonl", self.folder / "metrics.csv"
        if not self.history:
            lines.unlink(missing_ok=True)
            table.unlink(missing_ok=True)
            return
        rows = [{name: None if value != value else value for name, value in row.items()} for row in self.history]
        write_text(lines, "".join(json.dumps(row) + "\n" for row in rows))
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(self.history[0]), extrasaction="ignore")
        writer.writeheader()
        writer.writerows(self.history)
        write_text(table, text.getvalue())

    def save(self, checkpoint: dict[str, Any], *also: str) -> Path:
        """Writes the checkpoint, in place of the last one, which becomes the previous; see `load_checkpoint`.

        `also`: names of files that are to be the same. Raises OSError, with what was there as it was, where it cannot
        be written.
        """
        path, content = self.folder / CHECKPOINT, {"format": FORMAT, **checkpoint}
        content["digest"] = digest(content)
        with _written(path, lambda file: torch.save(content, file)) as new:
            if path.is_file():
                _link(path, self.folder / PREVIOUS)
            for name in also:
                _link(new, self.folder / name)
            os.replace(new, path)  # last: a run that is killed before goes on from the one before, and writes all again
        gc.collect(1)  # torch.save leaves cycles that hold all tensors, which would stay until memory is looked through
        return path


def in_use(folder: Path) -> str | None:
    """The process that has a `Run` of `folder`, in words; None where there is none."""
    with suppress(FileNotFoundError), (folder / LOCK).open(errors="replace") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return file.read().strip() or "another process"
        except OSError:  # no locks here
            return None
    return None


def _lock(folder: Path) -> int:
    """An open file in `folder` that holds the lock. Raises BlockingIOError where another process has it."""
    path = folder / LOCK
    while True:
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise unwritable(path, error) from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            holder = in_use(folder) or "another process"
            raise BlockingIOError(
                f"run folder {folder} is in use by {holder}. Wait for it, stop it, or choose another --out"
            ) from None
        except OSError as error:
            reason = f"cannot be locked ({error.strerror})"
            warnings.warn(f"run folder {folder} {reason}: make sure that no other process writes to it", stacklevel=3)
        if _is_still(path, file):
            break
        os.close(file)  # the one before has just removed it
    command = textwrap.shorten(shlex.join(sys.argv), 200, placeholder=" ...")
    holder = f"process {os.getpid()} on {socket.gethostname()}: {command}\n".encode(errors="replace")
    with suppress(OSError):  # a full disk: the lock holds without the name
        os.pwrite(file, holder, 0)
        os.ftruncate(file, len(holder))
    return file


def _unlock(path: Path, file: int, owner: int) -> None:
    """Gives up what `_lock` gave, and removes its file; not in a process that was forked meanwhile."""
    if os.getpid() == owner and _is_still(path, file):
        with suppress(OSError):
            path.unlink()
    os.close(file)


def _is_still(path: Path, file: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file))
    except OSError:
        return False


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """The checkpoint in a file, or in a run folder: tensors and plain values, on the CPU.

    Every value in it is verified: by the CRCs in the file, and by the digest that `Run.save` stored, which files of
    older versions lack.

    Raises FileNotFoundError, OSError where it may not be read, or ValueError for a file that is no checkpoint of
    fastadv, damaged, or of a later format.
    """
    path = Path(path)
    path = path / CHECKPOINT if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}: give a run folder, or a {CHECKPOINT} made by fastadv train")
    verify_archive(path, "checkpoint of fastadv")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever the bytes lead it to
        if isinstance(error, MemoryError) or "allocate memory" in str(error):
            raise
        raise _damaged(path, "checkpoint of fastadv", f"{type(error).__name__} on reading it") from None
    if not isinstance(checkpoint, dict) or "format" not in checkpoint or "state" not in checkpoint:
        raise ValueError(f"{path} is no checkpoint of fastadv: it was written by something else")
    if type(checkpoint["format"]) is not int:
        raise ValueError(f"{path} is no checkpoint of fastadv: its format is {checkpoint['format']!r}, not a number")
    if checkpoint["format"] > FORMAT:
        raise ValueError(f"{path} is of format {checkpoint['format']}, this fastadv reads up to {FORMAT}: upgrade it")
    if "digest" in checkpoint and checkpoint.pop("digest") != digest(checkpoint):
        raise _damaged(path, "checkpoint of fastadv", "its digest is of other values")
    for name, kind in _HOLDS.items():
        if not isinstance(checkpoint.get(name), kind):
            what = f"{name!r} is a {type(checkpoint[name]).__name__}" if name in checkpoint else f"{name!r} is missing"
            raise ValueError(f"{path} is no checkpoint of fastadv train: {what}. Give one, or a run folder")
    if not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in checkpoint["state"].items()):
        raise ValueError(f"{path} is no checkpoint of fastadv train: 'state' has other values than tensors by name")
    if not all(isinstance(row, dict) for row in checkpoint.get("history", [])):
        raise ValueError(f"{path} is no checkpoint of fastadv train: 'history' has other values than rows")
    return checkpoint


def verify_archive(path: Path, kind: str) -> None:
    """Verifies the CRC of every part of a zip file, which is what torch writes. Raises ValueError, naming the `kind` of
    file, where one is wrong or it is no zip file, and OSError where it may not be read.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise OSError(f"cannot read {path} ({error.strerror}): make it readable, or give another") from None
    with file:
        try:
            with zipfile.ZipFile(file) as archive:
                part = archive.testzip()
        except Exception as error:  # zipfile raises whatever the bytes lead it to
            raise _damaged(path, kind, f"{type(error).__name__}: {error}") from None
    if part:
        raise _damaged(path, kind, f"the CRC of {part} is wrong")


def _damaged(path: Path, kind: str, reason: str) -> ValueError:
    return ValueError(f"{path} is damaged, or no {kind} ({reason}): give another, or make it again")


def names_apart(given: Sequence[str]) -> list[str]:
    """What networks given as folders, files or functions are called: the shortest ends of paths that tell them apart.

    Ends that all of several paths share, such as ``model.safetensors``, are left out. Raises ValueError for one that is
    given twice.
    """
    paths = [Path(each).parts for each in given]
    while len(paths) > 1 and len({parts[-1] for parts in paths}) == 1 and min(map(len, paths)) > 1:
        paths = [parts[:-1] for parts in paths]
    for length in range(1, max(map(len, paths), default=0) + 1):
        names = ["/".join(parts[-length:]) for parts in paths]
        if len(set(names)) == len(names):
            return names
    if given:
        raise ValueError(f"models must differ: {', '.join(given)} has one twice")
    return []


def digest(tree: Any) -> str:
    """The SHA-256 of nested dicts, lists and tuples of plain values and of tensors, with their dtypes and shapes."""
    tensors: list[Tensor] = []

    def content(tensor: Tensor) -> bytes:
        flat = tensor.detach().cpu().contiguous().flatten()
        return hashlib.sha256(flat.view(torch.uint8).numpy()).digest()

    whole = hashlib.sha256(repr(_skeleton(tree, tensors)).encode())
    with ThreadPoolExecutor() as pool:  # it is what takes the time
        for part in pool.map(content, tensors):
            whole.update(part)
    return whole.hexdigest()


def _skeleton(value: Any, tensors: list[Tensor]) -> Any:
    """`value` with dtypes and shapes in place of its tensors, which `tensors` gets."""
    if isinstance(value, Tensor):
        tensors.append(value)
        return (str(value.dtype), *value.shape)
    if isinstance(value, dict):
        return [(key, _skeleton(each, tensors)) for key, each in value.items()]
    return [_skeleton(each, tensors) for each in value] if isinstance(value, list | tuple) else value


def _settings(path: Path) -> dict[str, Any]:
    """The settings in the ``config.yaml`` of a run."""
    import yaml  # here, for evaluations write files like a run's, and importing fastadv is to be light

    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
        reason = f"it holds {'nothing' if found is None else 'a ' + type(found).__name__}"
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        found, reason = None, str(error).partition("\n")[0]
    if not isinstance(found, dict):
        raise ValueError(f"{path} is damaged ({reason}): put the run's settings back, or choose another --out")
    return found


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def _completed(settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """`settings`, and of `defaults` what they do not name, in nested ones as well."""
    found = {**defaults, **settings}
    for name, default in defaults.items():
        if isinstance(default, Mapping) and isinstance(found[name], Mapping):
            found[name] = _completed(found[name], default)
    return found


def _fixed(settings: dict[str, Any]) -> dict[str, Any]:
    """What may not change when a run goes on."""
    kept = {name: value for name, value in settings.items() if name not in WHERE}
    return {name: _fixed(value) if isinstance(value, dict) else value for name, value in kept.items()}


def _before_config(path: Path) -> bool:
    """Whether a run that was killed before it had its ``config.yaml`` may have left this file."""
    return path.name in (ENVIRONMENT, LOCK) or (path.name.startswith(".") and path.name.endswith(UNFINISHED))


def _link(path: Path, to: Path) -> None:
    """`to` becomes another name of the file at `path`, or, where there are no such, a copy."""
    new = to.with_name(f".{to.name}{UNFINISHED}")
    new.unlink(missing_ok=True)
    try:
        os.link(path, new)
    except OSError:
        with path.open("rb") as old:
            replace_file(to, lambda file: shutil.copyfileobj(old, file))
    else:
        os.replace(new, to)


def make_folder(path: Path) -> None:
    """Makes a folder where there is none. Raises OSError, which says what to do, where it cannot be made."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(path, error) from None


def write_text(path: Path, text: str) -> None:
    """Writes a whole file or nothing, as `replace_file` does."""
    replace_file(path, lambda file: file.write(text.encode()))


def replace_file(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """The file at `path` becomes what ``write(file)`` writes, all of it or nothing.

    Raises OSError, with what was there as it was, where it cannot be written; it says why and what to do.
    """
    with _written(path, write) as new:
        os.replace(new, path)


@contextmanager
def _written(path: Path, write: Callable[[IO[bytes]], object]) -> Iterator[Path]:
    """What ``write(file)`` writes, all of it, in a file beside `path` that can take its place or vanishes."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}{UNFINISHED}")
    try:
        with unfinished.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        yield unfinished
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__  # torch raises its own on a full disk
        if not isinstance(cause, OSError) or cause.errno is None:
            raise
        raise unwritable(path, cause) from error
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)


def unwritable(path: Path, error: OSError) -> OSError:
    """The error that says why `path` cannot be written, and what to do."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return type(error)(
        f"cannot write {path} ({error.strerror}): what was there stays as it was. "
        f"{'Make room' if full else 'Make it writable'}, then resume the run or start again"
    )
