"""Black-box transfer: samples made on one model, tried on others."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

import torch

from ..attacks import Attack, Model, checked_logits, isolated
from ..data import Dataset
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


def transfer(
    models: Mapping[str, Model],
    data: Dataset,
    attacks: Mapping[str, Attack],
    *,
    label: str = "true",
    batch_size: int = 500,
    on_step: Callable[[int, int], None] | None = None,
) -> list[TransferRow]:
    """Every model's accuracy on clean samples, and on those that each of `attacks` makes on each model.

    Args:
        models: by name, on the device of `data`; in eval mode meanwhile, and left as they were.
        data: the samples; their `bounds` go to every attack, their places are their ids.
        attacks: by name; each makes its samples once a source, for all targets.
        label: what attacks move away from: the ``true`` label, or the source's own prediction (``pred``).
        batch_size: samples at a time; it decides memory and speed only.
        on_step: called with (batches done, batches in all).

    Raises ValueError for fewer than two models, an unknown `label`, or what the attacks find wrong.
    """
    if len(models) < 2:
        raise ValueError(f"transfer is between models: give at least two, got {len(models)}")
    if label not in ("true", "pred"):
        raise ValueError(f"label must be 'true' or 'pred', got {label!r}")
    plan = [("clean", "")] + [(attack, source) for attack in attacks for source in models]
    batches = torch.arange(len(data), device=data.x.device).split(batch_size)
    rows = []
    for i, (name, source) in enumerate(plan):
        right: dict[str, list[torch.Tensor]] = {target: [] for target in models}
        for j, ids in enumerate(batches):
            x, y = data.x[ids], data.y[ids]
            if source:
                attack = replace(attacks[name], bounds=data.bounds)
                x = attack(models[source], x, y if label == "true" else None, ids)
            for target, model in models.items():
                with isolated(model), torch.no_grad():
                    right[target].append(checked_logits(model, x, len(data.classes) - 1).argmax(1) == y)
            if on_step:
                on_step(i * len(batches) + j + 1, len(plan) * len(batches))
        outcomes = {target: Outcome(torch.cat(parts).cpu()) for target, parts in right.items()}
        rows += [TransferRow(name, source, t, each.accuracy, *each.interval) for t, each in outcomes.items()]
    return rows
