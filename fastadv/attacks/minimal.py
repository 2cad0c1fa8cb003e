"""The smallest budget at which an attack succeeds."""

from dataclasses import dataclass, field, replace

import torch

from .. import ops
from ._ascend import STEPS, Rows
from ._attack import Attack, check_counts
from ._nearest import MinimumNorm
from .apgd import APGD


@dataclass(frozen=True)
class Minimal(MinimumNorm):
    """The smallest perturbation that an attack with a budget finds, by a search for the budget of every sample.

    The first budget is that of `attack`. It doubles until the attack succeeds; then the next is in the middle between
    the largest that failed and the size of the smallest perturbation found, which is what is returned. Step sizes scale
    with the budget. Samples that are adversarial at x are returned as they are; so are those that are never fooled.

    Args:
        attack: any attack whose `eps` is a number and a radius in its norm; it runs `within` the `bounds` of this one,
            and its `seed`, given or drawn, is added to its own.
        searches: how many budgets are tried.
    """

    attack: Attack = field(default_factory=APGD)
    searches: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        attack = self.attack
        if not (isinstance(attack, Attack) and attack.has_budget and attack.ball):
            raise TypeError(f"Minimal: attack must have an eps that is a radius, such as PGD or APGD; got {attack!r}")
        if not isinstance(attack.eps, float | int) or not attack.eps > 0:
            raise ValueError(f"Minimal: the attack's eps must be one positive number to start from, got {attack.eps}")
        if attack.norm not in STEPS:
            raise ValueError(f"Minimal: the attack's norm must be one of {', '.join(STEPS)}, got {attack.norm}")
        check_counts(self, searches=1)

    @property
    def norm(self) -> str:
        return self.attack.norm

    @property
    def targeted(self) -> bool:
        return self.attack.targeted

    @property
    def is_random(self) -> bool:
        return self.attack.is_random and self.attack.seed is None

    def perturb(self, rows: Rows) -> None:
        attack = replace(self.attack.within(self.bounds), seed=(self.seed or 0) + (self.attack.seed or 0))
        state, (lo, hi) = self.begin(rows), self.bounds
        unwon = rows.unwon()
        where = torch.arange(len(rows.x), device=rows.x.device) if unwon is None else unwon.nonzero().squeeze(1)
        near, eps = torch.zeros_like(state.size), torch.full_like(state.size, attack.eps)
        most = ops.row_norms(torch.full_like(rows.x, hi - lo), self.norm)
        for _ in range(self.searches if len(where) else 0):
            part, nearest = rows.take(where), state
            part.x_adv, part.state = part.x.clone(), None
            attack.at(eps[where]).perturb(part)
            fooled = part.fooled(part.predictions())
            part.state = type(nearest)(nearest.best[where], nearest.size[where])
            self.keep(part, fooled)
            rows.put(where, part)
            near[where] = torch.where(fooled, near[where], torch.maximum(near, eps)[where])
            eps = torch.where(state.size.isinf(), torch.minimum(2 * eps, most), (near + state.size) / 2)
        rows.x_adv = state.best
