"""Networks by name, from checkpoints, and from anywhere."""

import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from .. import hub, models
from ..attacks import checked_logits
from ..data import Samples
from ..runs import load_checkpoint, verify_archive
from ._functions import call_function, is_function
from ._terminal import first_line
from ._trust import require_trust


def build_network(
    shape: Sequence[int],
    classes: int,
    model: str,
    mean: float | list[float] = 0.0,
    std: float | list[float] = 1.0,
    cosine: float = 0.0,
) -> nn.Module:
    """The network called `model`, which sees ``(x - mean) / std`` and, with a `cosine`, ends in `CosineHead`.

    Raises ValueError where mean or std are not one number, or one a channel.
    """
    network = models.build(model, tuple(shape), classes)
    if cosine:
        network = models.with_cosine_head(network, cosine)
    if (mean, std) == (0, 1):
        return network
    if len(shape) != 3:
        raise ValueError(f"mean and std are for images, not for samples of shape {list(shape)}: leave them out")
    for name, value in {"mean": mean, "std": std}.items():
        if isinstance(value, list) and len(value) != shape[0]:
            raise ValueError(f"{name} must be one number or {shape[0]}, one a channel, got {len(value)}: {value}")
    mean, std = (value if isinstance(value, list) else [value] * shape[0] for value in (mean, std))
    return models.Normalize(network, mean, std)


def load_network(checkpoint: str | Path, test: Samples) -> tuple[nn.Module, dict[str, Any]]:
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
    model = build_network(saved["shape"], len(saved["classes"]), **how).to(test.device)
    load_weights(model, saved["model"], checkpoint)
    return model, saved


def load_model(
    given: str, test: Samples, mean: float | list[float] = 0.0, std: float | list[float] = 1.0
) -> tuple[nn.Module, str]:
    """The model that `given` names, on the device of `test` and in eval mode, and what tables call it.

    A run folder or its checkpoint; a file of weights (.safetensors, or a state dict of ``torch.save``; see
    `hub.load_weights`), of TorchScript, or of ``torch.export`` (.pt2); a name in a hub, such as ``timm:resnet18`` (see
    `hub.load`); or a ``package.module:function`` that returns a model when it is called without arguments, for which
    the working directory is searched, too. Functions, hubs and TorchScript run the code they hold: take them from
    people you trust. All but runs, which have their own, see ``(x - mean) / std``.

    Raises FileNotFoundError where there is nothing, and ValueError for what is not as above or gives no logits for the
    samples of `test`.
    """
    path, kind = Path(given), _archive(Path(given))
    if kind is None and given.partition(":")[0] in hub.HUBS and not path.exists():
        require_trust(given, "a network of a hub")
        model, name = hub.load(given), given
    elif kind is None and is_function(given):
        model, name = _from_function(given), given
    elif kind == "weights":
        model, name = hub.load_weights(path, test.sample_shape, len(test.classes)), path.stem
    elif kind is None:
        model, saved = load_network(given, test)
        name = saved["method"]
    else:
        model, name = _from_archive(path, kind), path.stem
    if (mean, std) != (0, 1):
        if trained_on(given):
            raise ValueError(f"mean and std are for models from elsewhere: the run {given} has its own")
        model = models.adapt(model, mean=mean, std=std)
    model = model.to(test.device)
    for part in model.modules():
        part.training = False  # exported modules have no eval()
    x = test.first(2).x
    for count in {1, len(x)}:
        try:
            with torch.no_grad():
                checked_logits(model, x[:count], len(test.classes) - 1)
        except Exception as error:  # a model raises whatever it likes
            fix = "export it for batches of any size (dynamic_shapes)" if kind == "export" else "choose other data"
            raise ValueError(
                f"{given} gives no logits for {count} samples of {test.name}, {list(test.sample_shape)} in "
                f"{len(test.classes)} classes: {first_line(error)}: {fix}"
            ) from None
    return model, name


def trained_on(given: str) -> dict[str, Any]:
    """What a run's checkpoint says of the network's training: ``data``, ``eps``; empty for a model from elsewhere."""
    if _archive(Path(given)) or is_function(given):
        return {}
    return load_checkpoint(given)


def _archive(path: Path) -> Literal["script", "export", "weights"] | None:
    """What a file is that is no checkpoint of fastadv, by what is packed in it."""
    if path.suffix == ".safetensors" and path.is_file():
        return "weights"
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.partition("/")[2]: name for name in archive.namelist()}
            own = "data.pkl" not in names or b"format" in archive.read(names["data.pkl"])
    except Exception:  # no zip file, or what is left of one
        if not path.is_file():
            return None
        if path.suffix == ".pt2":
            return "export"
        with path.open("rb") as file:
            return "weights" if file.read(2) == b"\x80\x02" else None  # a pickle, as PyTorch wrote before 1.6
    if "archive_format" in names or path.suffix == ".pt2":
        return "export"
    return "script" if "constants.pkl" in names else None if own else "weights"


def _from_archive(path: Path, kind: Literal["script", "export"]) -> nn.Module:
    form = "TorchScript" if kind == "script" else "of torch.export"
    require_trust(str(path), f"a file {form}" if kind == "export" else form)
    verify_archive(path, f"file {form}")
    try:
        with warnings.catch_warnings():
            for category in (DeprecationWarning, FutureWarning):  # TorchScript is deprecated; its files are still there
                warnings.simplefilter("ignore", category)
            if kind == "script":
                return torch.jit.load(path)
            with path.open("rb") as file:  # whatever its name
                return torch.export.load(file).module()
    except Exception as error:  # torch raises whatever the bytes lead it to
        raise ValueError(f"{path} is damaged, or not {form}: {first_line(error)}") from None


def _from_function(given: str) -> nn.Module:
    model = call_function(given)
    if not isinstance(model, nn.Module):
        raise ValueError(f"{given}() must return a torch.nn.Module, got {type(model).__name__}")
    return model


def load_weights(model: nn.Module, name: str, checkpoint: str | Path) -> None:
    """Gives `model`, called `name`, the weights of a run. Raises ValueError where they do not fit."""
    try:
        model.load_state_dict(load_checkpoint(checkpoint)["state"])
    except RuntimeError as error:
        raise ValueError(f"the weights in {checkpoint} do not fit {name}: {error}") from None
