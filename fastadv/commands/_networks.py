"""Networks by name and from checkpoints."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from .. import models
from ..data import Dataset
from ..runs import load_checkpoint


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


def load_weights(model: nn.Module, name: str, checkpoint: str | Path) -> None:
    """Gives `model`, called `name`, the weights of a run. Raises ValueError where they do not fit."""
    try:
        model.load_state_dict(load_checkpoint(checkpoint)["state"])
    except RuntimeError as error:
        raise ValueError(f"the weights in {checkpoint} do not fit {name}: {error}") from None
