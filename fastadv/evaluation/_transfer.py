"""Black-box transfer: samples made on one model, tried on others."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ..attacks import Attack, Model, classify
from ..data import Dataset
from ._common import Portions, beside, check_label, fitted
from ._results import Outcome


class TransferRow(NamedTuple):
    """Accuracy of `target` in [0, 1], and its 95% interval, on samples that `attack` made on `source`.

    The clean samples are of no source.
    """

    attack: str
    source: str
    target: str
    accuracy: float
    low: float
    high: float


@torch.inference_mode(False)
def transfer(
    models: Mapping[str, Model],
    data: Dataset,
    attacks: Mapping[str, Attack],
    *,
    label: str = "true",
    batch_size: int = 500,
    seed: int = 0,
    on_step: Callable[[int, int], None] | None = None,
) -> list[TransferRow]:
    """Every model's accuracy on clean samples, and on those that each of `attacks` makes on each model.

    Args:
        models: by name, all on one device; in eval mode meanwhile, and left as they were.
        data: the samples; their `bounds` go to every attack, their places are their ids.
        attacks: by name; each makes its samples once a source, for all targets.
        label: what attacks move away from: the ``true`` label, or the source's own prediction (``pred``).
        batch_size: samples at a time, the most: where a GPU's memory runs out, fewer. It decides memory and speed only.
        seed: of random numbers, for attacks that have none of their own.
        on_step: called with (batches done, batches in all).

    Raises ValueError for fewer than two models, an unknown `label`, a targeted attack, or what the attacks find wrong;
    TypeError for `data` that is no data set, or an attack that is none.
    """
    if len(models) < 2:
        raise ValueError(f"transfer is between models: give at least two, got {len(models)}")
    check_label(label)
    data = beside(next(iter(models.values())), data)
    made = {name: fitted(attack, data, seed) for name, attack in attacks.items()}
    plan = [("clean", "")] + [(attack, source) for attack in attacks for source in models]
    batches = torch.arange(len(data), device=data.device).split(batch_size)
    portions, rows = Portions(batch_size), []

    def right(name: str, source: str, ids: Tensor) -> Tensor:
        """[models, B]: who classifies the samples correctly."""
        x, y = data.x[ids], data.y[ids]
        if source:
            x = made[name].rows(models[source], x, y if label == "true" else None, ids).x_adv
        return torch.stack([classify(model, x, len(data.classes) - 1) == y for model in models.values()]).cpu()

    for i, (name, source) in enumerate(plan):
        parts = []
        for j, ids in enumerate(batches):
            parts += portions(partial(right, name, source), ids)
            if on_step:
                on_step(i * len(batches) + j + 1, len(plan) * len(batches))
        for target, row in zip(models, torch.cat(parts, dim=1), strict=True):
            outcome = Outcome(row)
            rows.append(TransferRow(name, source, target, outcome.accuracy, *outcome.interval))
    return rows
