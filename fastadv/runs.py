"""Run folders and checkpoints: written atomically, loaded without running code, never overwritten."""

import csv
import json
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml

FORMAT = 1
CHECKPOINT = "checkpoint.pt"
BEST = "best.pt"
PREVIOUS = "previous.pt"
CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"
UNFINISHED = ".new"  # ends the names of hidden files that are being written
WHERE = (
    "device",
    "folder",
    "download",
    "at_once",
    "at_a_time",
    "log",
    "save_every",
    "keep_every",
)  # what may change when a run goes on


class Run:
    """A new folder for one run: ``config.yaml``, ``environment.json``, ``metrics.csv`` and ``.jsonl``, checkpoints.

    ``checkpoint.pt`` is the last, ``previous.pt`` the one before, ``best.pt`` that of the best epoch where there is a
    figure to watch.

    With `resume`, the folder may be that of a stopped run with the same `config`, still be missing, or be empty.
    Metrics after its last checkpoint, of an epoch that was not finished, are dropped, and so is what a killed run was
    writing.

    Raises FileExistsError where the folder exists otherwise, ValueError where it is a run of another `config`, and
    OSError where it cannot be made; all say which and what to do.
    """

    def __init__(self, folder: str | Path, config: str, environment: dict[str, Any], resume: bool = False):
        self.folder = Path(folder)
        if resume and (self.folder / CONFIG).is_file():
            self._resume(config)
            return
        begun = resume and self.folder.is_dir() and all(map(_before_config, self.folder.iterdir()))
        try:
            self.folder.mkdir(parents=True, exist_ok=begun)
        except FileExistsError:
            raise FileExistsError(
                f"run folder {self.folder} exists, and runs are never overwritten: choose another --out or remove it"
            ) from None
        except OSError as error:
            raise OSError(
                f"cannot make run folder {self.folder} ({error.strerror}): choose another with --out"
            ) from None
        write_text(self.folder / ENVIRONMENT, json.dumps(environment, indent=2) + "\n")
        write_text(self.folder / CONFIG, config)  # last: with it, the folder is that of a run

    def _resume(self, config: str) -> None:
        before, now = (_fixed(yaml.safe_load(text)) for text in ((self.folder / CONFIG).read_text(), config))
        differ = [name for name in {**before, **now} if before.get(name) != now.get(name)]
        if differ:
            raise ValueError(
                f"{self.folder} is a run with other settings: {differ[0]} was {before.get(differ[0])!r} and is now "
                f"{now.get(differ[0])!r}. Give its own (--config {self.folder / CONFIG}), or choose another --out"
            )
        for path in self.folder.glob(".*" + UNFINISHED):
            path.unlink()
        stopped = self.resumed()
        for name in ("metrics.jsonl", "metrics.csv"):
            (self.folder / name).unlink(missing_ok=True)
        for row in stopped.get("history", []) if stopped else []:
            self.log(row)

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
        with (self.folder / "metrics.jsonl").open("a") as lines:
            lines.write(json.dumps({name: None if value != value else value for name, value in row.items()}) + "\n")
        with (self.folder / "metrics.csv").open("a+", newline="") as table:
            table.seek(0)
            columns = next(csv.reader(table), None)
            writer = csv.DictWriter(table, columns or list(row), extrasaction="ignore")
            if not columns:
                writer.writeheader()
            writer.writerow(row)

    def save(self, checkpoint: dict[str, Any], *also: str) -> Path:
        """Writes the checkpoint, in place of the last one, which becomes the previous; see `load_checkpoint`.

        `also`: names of files that are to be the same. Raises OSError, with what was there as it was, where it cannot
        be written.
        """
        path = self.folder / CHECKPOINT
        try:
            if path.is_file():
                _link(path, self.folder / PREVIOUS)
            # The last one comes last: a run that is killed before goes on from the one before, and writes all again.
            first, *others = (self.folder / name for name in (*also, CHECKPOINT))
            replace_file(first, lambda file: torch.save({"format": FORMAT, **checkpoint}, file))
            for other in others:
                _link(first, other)
        except (OSError, RuntimeError) as error:  # torch raises its own where a disk is full
            raise OSError(
                f"cannot write a checkpoint to {self.folder} ({str(error).splitlines()[0]}): the last one that was "
                "written stands; make room, and go on with --resume auto"
            ) from error
        return path


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """The checkpoint in a file, or in a run folder: tensors and plain values, on the CPU.

    Raises FileNotFoundError, or ValueError for a file that is no checkpoint of fastadv, damaged, or of a later format.
    """
    path = Path(path)
    path = path / CHECKPOINT if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}: give a run folder, or a {CHECKPOINT} made by fastadv train")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise OSError(f"cannot read {path} ({error.strerror or error})") from None
    except Exception as error:  # torch raises whatever the bytes lead it to
        raise ValueError(
            f"{path} is damaged, or no checkpoint of fastadv ({type(error).__name__} on reading it)"
        ) from None
    if not isinstance(checkpoint, dict) or "format" not in checkpoint or "state" not in checkpoint:
        raise ValueError(f"{path} is no checkpoint of fastadv: it was written by something else")
    if checkpoint["format"] > FORMAT:
        raise ValueError(f"{path} is of format {checkpoint['format']}, this fastadv reads up to {FORMAT}: upgrade it")
    return checkpoint


def _fixed(settings: dict[str, Any]) -> dict[str, Any]:
    """What may not change when a run goes on."""
    kept = {name: value for name, value in settings.items() if name not in WHERE}
    return {name: _fixed(value) if isinstance(value, dict) else value for name, value in kept.items()}


def _before_config(path: Path) -> bool:
    """Whether a run that was killed before it had its ``config.yaml`` may have left this file."""
    return path.name == ENVIRONMENT or (path.name.startswith(".") and path.name.endswith(UNFINISHED))


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


def write_text(path: Path, text: str) -> None:
    """Writes a whole file or nothing."""
    replace_file(path, lambda file: file.write(text.encode()))


def replace_file(path: Path, write: Callable[[Any], object]) -> None:
    """The file at `path` becomes what ``write(file)`` writes, all of it or nothing."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}{UNFINISHED}")
    try:
        with unfinished.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
