"""Black-box transfer: samples made on one model, tried on others."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ..attacks import Attack, Model, classify
from ..data import AnyData, Batch
from ..models.adapted import expected
from ._common import Portions, beside, check_label, fitted, measuring
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


@measuring()
def transfer(
    models: Mapping[str, Model],
    data: AnyData,
    attacks: Mapping[str, Attack],
    *,
    label: str = "true",
    batch_size: int = 500,
    seed: int = 0,
    on_step: Callable[[int, int | None], None] | None = None,
) -> list[TransferRow]:
    """Every model's accuracy on clean samples, and on those that each of `attacks` makes on each model.

    ``pandas.DataFrame(rows)`` is the table of what it returns.

    Args:
        models: by name, all on one device; in eval mode meanwhile, and left as they were.
        data: the samples, as `evaluate` takes them; attacks run within their bounds (see `Attack.within`).
        attacks: by name; each makes its samples once a source, for all targets.
        label: what attacks move away from: the ``true`` label, or the source's own prediction (``pred``).
        batch_size: samples at a time, the most: where a GPU's memory runs out, fewer. It decides memory and speed only.
        seed: of random numbers, for attacks that have none of their own.
        on_step: called with (batches done, batches in all, None where that is not known).

    Raises ValueError for fewer than two models, an unknown `label`, a targeted attack, or what the attacks find wrong;
    TypeError for what is no data, or an attack that is none.
    """
    if len(models) < 2:
        raise ValueError(f"transfer is between models: give at least two, got {len(models)}")
    check_label(label, *models.values())
    data = beside(next(iter(models.values())), data)
    made = {name: fitted(attack, data, seed) for name, attack in attacks.items()}
    plan = [("clean", "")] + [(attack, source) for attack in attacks for source in models]
    in_all = None if data.count is None else len(plan) * -(-data.count // batch_size)
    portions, done = Portions(batch_size), 0
    parts: dict[tuple[str, str], list[Tensor]] = {each: [] for each in plan}

    def right(name: str, source: str, batch: Batch) -> Tensor:
        """[models, B]: who classifies the samples correctly."""
        x, y, ids = batch
        if source:
            x = made[name].rows(models[source], x, y if label == "true" else None, ids).x_adv
        found = [(model, classify(model, x, len(data.classes) - 1, y)) for model in models.values()]
        return torch.stack([classes == expected(model, y) for model, classes in found]).cpu()

    for batch in data.batches(batch_size):
        for each in plan:
            parts[each] += portions(partial(right, *each), batch)
            done += 1
            if on_step:
                on_step(done, in_all)
    rows = []
    for each in plan:
        for target, row in zip(models, torch.cat(parts[each], dim=1), strict=True):
            outcome = Outcome(row)
            rows.append(TransferRow(*each, target, outcome.accuracy, *outcome.interval))
    return rows
