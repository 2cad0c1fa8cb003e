"""Where untargeted attacks land (Hou: thesis, section 3.3)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from .._frames import frame_of_rows
from ..attacks import Attack, Model, checked_logits, classify, isolated, predicted
from ..data import AnyData
from ..models.adapted import own_loss
from ._common import beside, fitted, measuring

if TYPE_CHECKING:
    import pandas


class LandingRow(NamedTuple):
    """Where an attack moves the samples of one class, or of ``all``.

    `right`: how many the network classifies correctly; `fooled`: how many of these it does not under attack;
    `lands_in`: the class that most of them are taken for, and the `share` of them that is; `runner_up`: the share of
    them that is taken for the class that was second for the sample itself. None where there are no such samples. Those
    with NaN logits are fooled, and taken for no class.
    """

    label: str
    right: int
    fooled: int
    lands_in: str | None
    share: float | None
    runner_up: float | None


@dataclass(frozen=True)
class Landing:
    """`confusion` [K, K]: how many samples of a true class, the row, are predicted as a class under attack, the column.
    `rows`: one for every class, and the last for all.
    """

    confusion: Tensor
    rows: list[LandingRow]

    def to_dataframe(self) -> "pandas.DataFrame":
        """The `rows`. Raises ImportError without pandas."""
        return frame_of_rows(self.rows)


@measuring()
def landing(model: Model, data: AnyData, attack: Attack, *, batch_size: int = 500, seed: int = 0) -> Landing:
    """Where `attack` moves the samples of `data`, away from their labels.

    Args:
        model: samples to logits; in eval mode, on the device it is on, and left as it was.
        data: the samples, as `evaluate` takes them; the attack runs within their bounds (see `Attack.within`).
        attack: untargeted.
        batch_size: samples at a time; it decides memory and speed only.
        seed: of random numbers, for an attack that has none of its own.

    Raises:
        ValueError: for a targeted attack, a model with a loss of its own or of another number of classes than `data`
            has, or what the attack finds wrong with model or data.
    """
    if own_loss(model):
        raise ValueError("landing shows between which classes samples move: with a loss of your own there are none")
    data = beside(model, data)
    attack = fitted(attack, data, seed)
    count, found = len(data.classes), []
    for x, y, ids in data.batches(batch_size):
        x_adv = attack.rows(model, x, y, ids).x_adv
        with isolated(model), torch.no_grad():
            clean = checked_logits(model, x)
            if clean.shape[1] != count:
                raise ValueError(
                    f"landing: {data.name} has {count} classes, but the model {clean.shape[1]}: give its own data"
                )
            second = clean.scatter(1, y.unsqueeze(1), -torch.inf).argmax(1)
            found.append(torch.stack((y, predicted(clean), second, classify(model, x_adv))))
    true, before, second, after = torch.cat(found, dim=1)
    seen = after >= 0  # what has NaN logits lands in no class
    confusion = (true * count + after)[seen].bincount(minlength=count**2).view(count, count)
    right = before == true
    fooled = right & (after != true)

    def row(label: str, own: Tensor) -> LandingRow:
        numbers = int((own & right).sum()), int((own & fooled).sum())
        gone = after[own & fooled & seen]
        if len(gone) == 0:
            return LandingRow(label, *numbers, None, None, None)
        counts = gone.bincount()
        runner_up = float((gone == second[own & fooled & seen]).double().mean())
        most = data.classes[int(counts.argmax())], float(counts.max() / len(gone))
        return LandingRow(label, *numbers, *most, runner_up)

    rows = [row(name, true == k) for k, name in enumerate(data.classes)]
    return Landing(confusion, [*rows, row("all", torch.ones_like(right))])


class WeightNorm(NamedTuple):
    """The Euclidean norm of the weights of the class `label` in the last linear layer."""

    label: str
    norm: float


def weight_norms(model: nn.Module, classes: Sequence[str]) -> list[WeightNorm]:
    """How large the weights of each of `classes` are in the last linear layer (Hou, 2022, Table 3.1).

    A head of cosines uses their directions only. Raises ValueError for a model whose last linear layer has not a row a
    class.
    """
    last = ([None] + [module for module in model.modules() if isinstance(module, nn.Linear)])[-1]
    if last is None or last.out_features != len(classes):
        raise ValueError(
            f"{type(model).__name__} does not end in a linear layer with a row for each of {len(classes)} classes: "
            "only of such a model can the norms be measured"
        )
    return [WeightNorm(*pair) for pair in zip(classes, last.weight.detach().norm(dim=1).tolist(), strict=True)]
