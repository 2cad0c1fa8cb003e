"""Networks by name, from checkpoints, and from anywhere."""

import importlib
import os
import sys
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from .. import models
from ..attacks import checked_logits
from ..data import Dataset
from ..runs import load_checkpoint, verify_archive
from ._terminal import first_line


def build_network(
    shape: Sequence[int], classes: int, model: str, mean: float = 0.0, std: float = 1.0, cosine: float = 0.0
) -> nn.Module:
    """The network called `model`, which sees ``(x - mean) / std`` and, with a `cosine`, ends in `CosineHead`."""
    network = models.build(model, tuple(shape), classes)
    if cosine:
        network = models.with_cosine_head(network, cosine)
    if (mean, std) == (0, 1):
        return network
    if len(shape) != 3:
        raise ValueError(f"mean and std are for images, not for samples of shape {list(shape)}: leave them out")
    return models.Normalize(network, [mean] * shape[0], [std] * shape[0])


def load_network(checkpoint: str | Path, test: Dataset) -> tuple[nn.Module, dict[str, Any]]:
    """The trained network of a run, on the device of `test`, and what else its checkpoint says of it.

    Raises ValueError where it was trained on samples of another kind than those of `test`.
    """
    saved = load_checkpoint(checkpoint)
    if list(test.sample_shape) != saved["shape"] or len(test.classes) != len(saved["classes"]):
        raise ValueError(
            f"{checkpoint} was trained on samples of {saved['shape']} in {len(saved['classes'])} classes, but "
            f"{test.name} has {list(test.sample_shape)} in {len(test.classes)}: choose other data with --data"
        )
    how = {name: saved[name] for name in ("model", "mean", "std", "cosine") if name in saved}
    model = build_network(saved["shape"], len(saved["classes"]), **how).to(test.x.device)
    load_weights(model, saved["model"], checkpoint)
    return model, saved


def load_model(given: str, test: Dataset) -> tuple[nn.Module, str]:
    """The model that `given` names, on the device of `test` and in eval mode, and what tables call it.

    A run folder or its checkpoint, a ``package.module:function`` that returns a model when it is called without
    arguments (the working directory is searched, too), a TorchScript file, or one of ``torch.export`` (.pt2). Functions
    and TorchScript run the code they hold: take them from people you trust.

    Raises FileNotFoundError where there is nothing, and ValueError for what is not as above or gives no logits for the
    samples of `test`.
    """
    path, (module, colon, function) = Path(given), given.partition(":")
    kind = _archive(path)
    if kind is None and colon and not path.exists():
        model, name = _from_function(module, function), given
    elif kind is None:
        model, saved = load_network(given, test)
        name = saved["method"]
    else:
        model, name = _from_archive(path, kind), path.stem
    model = model.to(test.x.device)
    for part in model.modules():
        part.training = False  # exported modules have no eval()
    for count in {1, min(2, len(test))}:
        try:
            with torch.no_grad():
                checked_logits(model, test.x[:count], len(test.classes) - 1)
        except Exception as error:  # a model raises whatever it likes
            fix = "export it for batches of any size (dynamic_shapes)" if kind == "export" else "choose other data"
            raise ValueError(
                f"{given} gives no logits for {count} samples of {test.name}, {list(test.sample_shape)} in "
                f"{len(test.classes)} classes: {first_line(error)}: {fix}"
            ) from None
    return model, name


def trained_on(given: str) -> dict[str, Any]:
    """What a run's checkpoint says of the network's training: ``data``, ``eps``; empty for a model from elsewhere."""
    if _archive(Path(given)) or (":" in given and not Path(given).exists()):
        return {}
    return load_checkpoint(given)


def _archive(path: Path) -> Literal["script", "export"] | None:
    """What a file is that is no checkpoint of fastadv, by what is packed in it."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.partition("/")[2] for name in archive.namelist()}
    except Exception:  # no zip file, or what is left of one
        return "export" if path.suffix == ".pt2" and path.is_file() else None
    if "archive_format" in names or path.suffix == ".pt2":
        return "export"
    return "script" if "constants.pkl" in names else None


def _from_archive(path: Path, kind: Literal["script", "export"]) -> nn.Module:
    form = "TorchScript" if kind == "script" else "of torch.export"
    verify_archive(path, f"file {form}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript is; its files are still there
            if kind == "script":
                return torch.jit.load(path)
            with path.open("rb") as file:  # whatever its name
                return torch.export.load(file).module()
    except Exception as error:  # torch raises whatever the bytes lead it to
        raise ValueError(f"{path} is damaged, or not {form}: {first_line(error)}") from None


def _from_function(module: str, function: str) -> nn.Module:
    given = f"{module}:{function}"
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        build = getattr(importlib.import_module(module), function)
    except AttributeError:
        raise ValueError(f"{module} has no {function!r}, which {given} asks for") from None
    except Exception as error:  # whatever the module does when it is imported
        raise ValueError(
            f"cannot import {module!r} for {given}: {first_line(error)}. Give a run folder, a file, or "
            "package.module:function, from the folder that has the package"
        ) from error
    try:
        model = build()
    except Exception as error:  # whatever the function does
        raise ValueError(f"{given}() failed: {first_line(error)}. It must return a model without arguments") from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"{given}() must return a torch.nn.Module, got {type(model).__name__}")
    return model


def load_weights(model: nn.Module, name: str, checkpoint: str | Path) -> None:
    """Gives `model`, called `name`, the weights of a run. Raises ValueError where they do not fit."""
    try:
        model.load_state_dict(load_checkpoint(checkpoint)["state"])
    except RuntimeError as error:
        raise ValueError(f"the weights in {checkpoint} do not fit {name}: {error}") from None
