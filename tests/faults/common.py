"""Commands of fastadv in processes that can be killed, and the table of what held."""

import csv
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

import fastadv.__main__ as command_line
from fastadv.runs import digest, load_checkpoint

SERVER = multiprocessing.get_context("forkserver")  # its children have torch already
SERVER.set_forkserver_preload(["fastadv.__main__", "torch._dynamo", "matplotlib.pyplot"])
TRAINING = ["--per-class", "3", "--epochs", "2", "--batch-size", "8", "--save-every", "2"]
TRAINING += ["--test.attacks", "fgsm", "--test.limit", "10"]
TIMES = ("seconds", "images_per_second")  # columns that no two runs share


def _child(arguments: list[str], told: str, write: int) -> None:
    os.setsid()  # a group of its own, to be killed with its children
    torch.set_num_threads(1)
    for stream in (1, 2):
        os.dup2(os.open(told, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    count, fsync = [], os.fsync

    def die_at(file: int) -> None:
        count.append(file)
        if len(count) == write:
            os.kill(os.getpid(), signal.SIGKILL)
        fsync(file)

    os.fsync = die_at
    sys.argv = ["fastadv", *arguments]
    sys.exit(command_line.main(arguments))


class Command:
    """``fastadv`` with `arguments`, running; `told` is what it says. It kills itself in its `write`-th file, if any."""

    def __init__(self, arguments: list[str], told: Path, write: int = 0):
        told.unlink(missing_ok=True)
        self.told = told
        self.process = SERVER.Process(target=_child, args=(arguments, str(told), write))
        self.process.start()

    def wait(self, seconds: float = 900) -> int | None:
        """The exit status, or None where it still runs after so many seconds."""
        self.process.join(seconds)
        return self.process.exitcode

    def kill(self, children: bool = True) -> None:
        """Kills it, and the processes it started, if they are to die with it."""
        try:
            (os.killpg if children else os.kill)(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            self.process.kill()  # it has not begun, or has ended
        self.process.join()

    def words(self) -> str:
        return self.told.read_text(errors="replace") if self.told.exists() else ""


def finished(arguments: list[str], told: Path, write: int = 0) -> Command:
    """The command after its end."""
    command = Command(arguments, told, write)
    command.wait()
    return command


def timed(arguments: list[str], told: Path) -> float:
    """The seconds that the command takes. Raises RuntimeError where it fails."""
    started = time.monotonic()
    command = finished(arguments, told)
    if command.process.exitcode:
        raise RuntimeError(f"{' '.join(arguments)} failed: {command.words()}")
    return time.monotonic() - started


def contents(folder: Path) -> dict[str, Any]:
    """What the files of a run folder say, without times: two runs of the same settings should agree."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if path.suffix == ".pt":
            saved = load_checkpoint(path)
            saved["history"] = [_timeless(row) for row in saved["history"]]
            found[name] = digest({key: value for key, value in saved.items() if key != "seconds"})
        elif path.suffix == ".npz":
            with np.load(path) as arrays:
                found[name] = digest({key: torch.from_numpy(value) for key, value in arrays.items() if value.ndim})
        elif path.suffix == ".csv":
            found[name] = [_timeless(row) for row in csv.DictReader(path.read_text().splitlines())]
        elif path.suffix == ".jsonl":
            found[name] = repr([_timeless(json.loads(line)) for line in path.read_text().splitlines()])
        elif path.name == "results.md" or folder.name in (
            "two-circles",
            "propositions",
            "self-paced-loss",
            "equations",
        ):
            found[name] = path.read_bytes()
        else:
            found[name] = path.stat().st_size > 0  # its words tell folders and times
    return {name: value for name, value in found.items() if "/batches/" not in f"/{name}" or not name.endswith(".npz")}


def _timeless(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if "second" not in name and "overhead" not in name}


class Tally:
    """What was tried, and what became of it."""

    def __init__(self, title: str):
        self.title = title
        self.tried: Counter[str] = Counter()
        self.held: Counter[str] = Counter()

    def __call__(self, promise: str, held: bool, about: Callable[[], str] | str = "") -> None:
        self.tried[promise] += 1
        self.held[promise] += held
        if not held:
            print(f"FAILED: {promise}: {about() if callable(about) else about}", flush=True)

    def end(self) -> None:
        """Prints the table, and ends the process: with status 1 where a promise was broken."""
        print(f"\n{self.title}\n\n| promise | tried | held |\n| --- | --: | --: |")
        for promise, tried in self.tried.items():
            print(f"| {promise} | {tried} | {self.held[promise]} |")
        sys.exit(int(self.tried != self.held))


@contextmanager
def workplace() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        yield Path(folder)


def number(default: int) -> int:
    """The count on the command line."""
    return int(sys.argv[1]) if len(sys.argv) > 1 else default
