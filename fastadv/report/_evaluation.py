"""What an evaluation found of every sample, as files of a run folder."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..attacks import Attack
from ..evaluation import Certifier
from ..runs import replace_file, write_text
from ._table import Entry


def write_samples(entries: Sequence[Entry], theta: float, folder: Path) -> dict[str, Any]:
    """Writes ``evaluation.npz``, and returns what `write_evaluation` writes: in both are all fields of an `Evaluation`.

    Tensors are in the first, by their path in the second: ``blind/results/pgd/correct`` is of shape [N]. With them go
    `theta`, up to which accuracies are averaged. Only models evaluated on the same samples, by their SHA-256, are
    compared pair by pair.
    """
    arrays: dict[str, np.ndarray] = {}
    found = {entry.name: {"theta": theta} | _plain(entry.evaluation, entry.name, arrays) for entry in entries}
    replace_file(folder / "evaluation.npz", lambda file: np.savez_compressed(file, **arrays))
    return found


def write_evaluation(found: Mapping[str, Any], folder: Path) -> None:
    """Writes ``evaluation.json``, with which the evaluation in `folder` is finished."""
    write_text(folder / "evaluation.json", json.dumps(found, indent=2, default=str) + "\n")


def _plain(value: Any, path: str, arrays: dict[str, np.ndarray]) -> Any:
    """`value` as JSON has it; its tensors go into `arrays`, by the `path` to each."""
    if isinstance(value, Tensor):
        arrays[path] = value.numpy(force=True)
        return None
    if dataclasses.is_dataclass(value):
        kind = {"class": type(value).__name__} if isinstance(value, Attack | Certifier) else {}
        value = kind | {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        items = {key: _plain(each, f"{path}/{key}", arrays) for key, each in value.items()}
        return {key: each for key, each in items.items() if f"{path}/{key}" not in arrays}
    if isinstance(value, list | tuple):
        return [_plain(each, f"{path}/{i}", arrays) for i, each in enumerate(value)]
    return value
