"""Curriculum adversarial training (Cai et al., 2018)."""

import dataclasses
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .. import ops
from ..attacks import PGD, Attack
from ..attacks._attack import drawn_seed
from ._method import Batch, Row, Source, check_share
from ._parallel import own_part
from .madry import Madry


@dataclass
class CAT(Madry):
    """Curriculum AT: attacks get more steps as training succeeds.

    The loss is cross-entropy on samples attacked with up to `k` steps. With batch mixing: of k + 1 equal parts of a
    batch, one is natural and the others are attacked by 1, 2 ... k steps. The fewer the steps, the longer they are
    (`step_sizes`). k starts at 0 and rises by one when an epoch's accuracy on these samples is above `accuracy`. The
    paper's other rule, which asks a held-out part of the data, and its rounding of pixels to 16 levels are not here.

    Args:
        attack: PGD, or any with `eps`, `alpha` and `steps`. k is at most its `steps`. ``alpha * steps`` is the length
            of the way that fewer steps share.
        accuracy: training accuracy above which k rises.
    """

    attack: Attack = field(default_factory=lambda: PGD(eps=8 / 255, alpha=1.6 / 255, steps=10), kw_only=True)
    accuracy: float = 0.95

    repeatable = False  # there is an attack for every part of a batch
    at_budget = False

    whole_batch = "its samples get attacks of different strengths"
    k = 0
    kept = ("k",)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("accuracy", self.accuracy)
        missing = [name for name in ("eps", "alpha", "steps") if getattr(self.attack, name, None) is None]
        if missing:
            raise ValueError(
                f"CAT: the attack must have eps, alpha and steps, as PGD has; {self.attack!r} has no {missing[0]}"
            )

    def begin(self, train: Source, seed: int | None, epochs: int) -> None:
        super().begin(train, seed, epochs)
        self.k = 0

    def end_epoch(self, row: Row) -> None:
        if row["adversarial_accuracy"] > self.accuracy:
            self.k = min(self.k + 1, self.attack.steps)

    def step_sizes(self, steps: int, ids: Tensor) -> Tensor:
        """``alpha * attack.steps / steps``, times a factor between 1 and ``10 / steps`` of each sample, [B].

        No longer than across the ball, where more is no further.
        """
        zero = torch.zeros(len(ids), 1, device=ids.device)
        seed = drawn_seed() if self.attack.seed is None else self.attack.seed
        unit = ops.random_start(zero, ids, 0.5, seed, _DRAW, "uniform", -0.5, 0.5).squeeze(1) + 0.5
        sizes = self.attack.alpha * self.attack.steps / steps * (1 + unit * (10 / steps - 1))
        return sizes.clamp_max(2 * self.attack.eps)

    def examples(self, model: nn.Module, batch: Batch) -> Tensor:
        x_adv, gradients = batch.x.clone(), torch.zeros_like(batch.y)
        counts = own_part(torch.arange(batch.size) * (self.k + 1) // batch.size)  # of steps, of every sample
        for steps in sorted(set(counts.tolist()) - {0}):
            part = (counts == steps).nonzero().squeeze(1).to(x_adv.device)
            x, y, ids = batch.x[part], batch.y[part], batch.ids[part]
            pgd = dataclasses.replace(self.attack, steps=steps, alpha=self.step_sizes(steps, ids))
            rows = pgd.rows(model, x, y, ids)
            x_adv[part], gradients[part] = rows.x_adv, rows.grads
        batch.stats["gradients"] = gradients.float().mean()
        return x_adv


_DRAW = 1 << 20  # a number of its own among an attack's draws
