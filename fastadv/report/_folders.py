"""Run folders, read for a report."""

import csv
import hashlib
import json
import math
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ..recipes import Figure
from ._recipes import read_figures

_REDRAWN = ("history", "gradients", "aa_", "corruptions", "sweep", "steps", "transfer", "certified")
_PAGE = "report.html"


@dataclass(frozen=True)
class RunFolder:
    """What a run folder holds; parts that it has not are empty.

    `config`, `environment`: of the run. `history`: a row an epoch. `table`, `attacks`, `sweep`, `steps`, `summary`,
    `transfer` and `corruptions`: the rows of these CSV files, as text. `evaluations`: ``evaluation.json`` by the name
    of the model. `samples`: ``evaluation.npz``. `figures`: measured and printed. `pictures`: PNG files that no report
    draws. `inner`: the runs in it. `files`: what was read, and its SHA-256.
    """

    folder: Path
    config: dict[str, Any]
    environment: dict[str, Any]
    history: list[dict[str, Any]]
    table: list[dict[str, str]]
    attacks: list[dict[str, str]]
    sweep: list[dict[str, str]]
    steps: list[dict[str, str]]
    summary: list[dict[str, str]]
    transfer: list[dict[str, str]]
    evaluations: dict[str, Any]
    samples: dict[str, np.ndarray]
    figures: list[Figure]
    corruptions: list[dict[str, str]]
    pictures: list[Path]
    inner: "list[RunFolder]"
    files: dict[str, str] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to report."""
        parts = (self.history, self.table, self.transfer, self.figures, self.corruptions, self.pictures, self.inner)
        return not any(parts)

    @property
    def findings(self) -> list[str]:
        """What the checks found in the evaluations."""
        found = [finding for about in self.evaluations.values() for finding in about["findings"]]
        return [f"{finding['check']}: {finding['text']}" for finding in found]

    @cached_property
    def all(self) -> "list[RunFolder]":
        """This run, and those in it."""
        return [self, *(each for run in self.inner for each in run.all)]

    def row(self, name: str) -> dict[str, str]:
        """The row of ``table.csv`` of the model called `name`. Raises ValueError where there is none."""
        for row in self.table:
            if row.get("method") == name:
                return row
        raise ValueError(f"{self.folder}: evaluation.json has a model {name!r}, table.csv has not: evaluate it again")

    def home(self, name: str) -> Path:
        """Where the model that is evaluated here as `name` was trained, as far as is known."""
        if len(self.evaluations) > 1:
            return (self.folder / name).absolute()
        return folder_of(self.config.get("checkpoint") or self.folder)


def folder_of(checkpoint: str | Path) -> Path:
    """The run folder of a checkpoint, which is given as the folder or the file in it."""
    path = Path(checkpoint).absolute()
    return path.parent if path.name == "checkpoint.pt" else path


def read_run(folder: str | Path) -> RunFolder:
    """The run folder at `folder`, and the runs in it.

    Raises FileNotFoundError where there is no folder, and ValueError for one that holds no run or no results, or a
    damaged file; all say what to do.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no run folder at {folder}: give the --out of train, compare, evaluate or reproduce")
    if not (folder / "config.yaml").is_file():
        raise ValueError(f"{folder} is no run folder of fastadv: it has no config.yaml. Give one or more run folders")
    run = _read(folder)
    if run.empty:
        raise ValueError(f"{folder} holds no results yet: wait for its run, or continue it with --resume true")
    return run


def _read(folder: Path) -> RunFolder:
    files: dict[str, str] = {}

    def read(name: str, parse: Callable[[Path], Any], missing: Any) -> Any:
        path = folder / name
        if not path.is_file():
            return missing
        try:
            found = parse(path)
        except (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile, yaml.YAMLError) as error:
            raise ValueError(f"{path} is damaged, or was not written by fastadv: {error}") from None
        if not isinstance(found, type(missing)):
            raise ValueError(f"{path} is damaged, or was not written by fastadv: it holds a {type(found).__name__}")
        files[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        return found

    drawn = {path.stem for path in folder.glob("*.svg")}  # by a report
    pictures = [p for p in sorted(folder.glob("*.png")) if not (p.name.startswith(_REDRAWN) or p.stem in drawn)]
    files |= {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in pictures}
    config = read("config.yaml", lambda path: yaml.safe_load(path.read_text()), {})
    folders = [path for path in sorted(folder.iterdir()) if path.is_dir() and not (path / _PAGE).exists()]
    order = config.get("methods", [])  # of a comparison, as they were asked for
    folders.sort(key=lambda path: order.index(path.name) if path.name in order else len(order))
    inner = [_read(path) for path in folders]
    return RunFolder(
        folder,
        config=config,
        environment=read("environment.json", lambda path: json.loads(path.read_text()), {}),
        history=read("metrics.jsonl", _history, []),
        table=read("table.csv", _rows, []),
        attacks=read("attacks.csv", _rows, []),
        sweep=read("sweep.csv", _rows, []),
        steps=read("steps.csv", _rows, []),
        summary=read("summary.csv", _rows, []),
        transfer=read("transfer.csv", _rows, []),
        evaluations=read("evaluation.json", lambda path: json.loads(path.read_text()), {}),
        samples=read("evaluation.npz", lambda path: dict(np.load(path)), {}),
        figures=read("figures.csv", read_figures, []),
        corruptions=read("corruptions.csv", _rows, []),
        pictures=pictures,
        inner=[run for run in inner if not run.empty],
        files=files,
    )


def _history(path: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: math.nan if value is None else value for name, value in row.items()} for row in rows]


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def labels(runs: Sequence[RunFolder]) -> dict[Path, str]:
    """What to call the network trained in each folder: as short as tells them apart."""
    short: dict[Path, str] = {}
    for home, name in (pair for run in runs for pair in _homes(run)):
        short.setdefault(home, name)
    longer = {home: "/".join(home.parts[-2:]) for home in short}
    used, used_longer = Counter(short.values()), Counter(longer.values())
    return {
        home: name if used[name] == 1 else longer[home] if used_longer[longer[home]] == 1 else str(home)
        for home, name in short.items()
    }


def _homes(top: RunFolder) -> Iterator[tuple[Path, str]]:
    for run in top.all:
        yield from ((run.home(name), name) for name in run.evaluations)
    yield top.folder.absolute(), top.folder.name
    yield from ((run.folder.absolute(), run.folder.relative_to(top.folder).as_posix()) for run in top.all[1:])
