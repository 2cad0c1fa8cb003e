"""The one-pixel attack, by differential evolution."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from .. import ops
from ..losses import soft_margin
from ._ascend import Rows, ascend, numbers, predicted
from ._attack import Attack, check_choice, check_counts, check_finite_bounds, check_images
from ._state import State

_FACTOR = 0.5
"""How much of the difference of two members a child gets."""


@dataclass
class _Population(State):
    """The members [B, P, pixels, 2 + C], and how good each is, [B, P]."""

    members: Tensor
    fitness: Tensor


@dataclass(frozen=True)
class OnePixel(Attack):
    """Gives a few pixels of an image another colour, found by differential evolution (Su et al., 2019).

    A member of a sample's population is `pixels` places with colours. To begin with, places are uniform and colours
    normal, around the middle of the inputs' range with a deviation of half of it. In a step every member has a child,
    ``a + (b - c) / 2`` of three others, which takes its place if it lowers the probability of the label, or raises it
    where the attack is targeted. Places beyond a border come in again at the opposite one; colours are clipped. The
    attack ends with the first success; otherwise the best member is returned. It uses no gradients, and ``population *
    (steps + 1)`` forward passes, after the first.

    Args:
        pixels: how many pixels may change.
        steps: generations.
        population: members, at least 4.
        base: the member a of a child: ``random``, as published, or the ``best``, which needs fewer members.
        targeted: towards the labels instead of away from them.

    Samples that are no images are a ValueError.
    """

    pixels: int = 1
    steps: int = 100
    population: int = 400
    base: str = field(default="random", kw_only=True)
    targeted: bool = field(default=False, kw_only=True)

    norm: ClassVar[str] = "l0"
    is_random: ClassVar[bool] = True
    repeats: ClassVar[bool] = False
    has_budget: ClassVar[bool] = False
    ends_early: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, pixels=1, steps=0, population=4)
        check_choice(self, "base", self.base, ("random", "best"))

    def perturb(self, rows: Rows) -> None:
        check_images(self, rows.x)
        check_finite_bounds(self)
        part, where = rows.unfooled()
        shape = (self.population, self.pixels, 2 + rows.x.shape[1])
        members = numbers(part.ids, shape, self.seed, 0)
        middle = torch.full_like(members, 0.5)
        colours = ops.random_start(middle, part.ids, 0.5, self.seed, 1, "gaussian", 0.0, 1.0)
        members[..., 2:] = colours[..., 2:]
        part.state = _Population(members, self._judged(part, members))
        ascend(self, part, self.steps, self._step, self._chosen(part))
        rows.put(where, part)

    def _step(self, live: Rows, number: int) -> Tensor:
        children = self._children(live, numbers(live.ids, (self.population, 3), self.seed, number + 1))
        fitness = self._judged(live, children)
        better = fitness > live.state.fitness
        if live.active is not None:
            better &= live.active.unsqueeze(1)
        live.state.fitness = torch.where(better, fitness, live.state.fitness)
        live.state.members = torch.where(better[..., None, None], children, live.state.members)
        return self._chosen(live)

    def _children(self, live: Rows, draws: Tensor) -> Tensor:
        """A child of every member, [B, P, pixels, 2 + C]; its parents are chosen by numbers `draws` [B, P, 3]."""
        a, b, c = self._parents(draws)
        if self.base == "best":
            a = live.state.fitness.argmax(dim=1, keepdim=True).expand_as(b)
        sample = torch.arange(len(draws), device=draws.device).unsqueeze(1)
        members = live.state.members
        children = members[sample, a] + _FACTOR * (members[sample, b] - members[sample, c])
        return torch.cat((children[..., :2] % 1, children[..., 2:].clamp(0, 1)), dim=-1)

    def _parents(self, draws: Tensor) -> list[Tensor]:
        """Three others for every member, no two the same, [B, P] each."""
        own = torch.arange(self.population, device=draws.device)
        offsets = [1 + (draws[..., k] * (self.population - 1 - k)).long() for k in range(3)]
        for k in (1, 2):  # each passes over those that are taken
            for taken in torch.stack(offsets[:k]).sort(dim=0).values:
                offsets[k] += offsets[k] >= taken
        return [(own + offset) % self.population for offset in offsets]

    def _judged(self, live: Rows, members: Tensor) -> Tensor:
        """How good each of the `members` is, [B, P]: infinite where the attack succeeds.

        Else it is by the label's log-odds, which order as its probability does but do not saturate.
        """
        fitness = [live.x.new_zeros(len(live.x), 0, dtype=torch.promote_types(live.x.dtype, torch.float32))]
        for some in live.in_passes(self.population):
            images = self._painted(live.x, members[:, some.start : some.stop])
            images = images if live.low is None else images.clamp(live.low, live.high)
            logits = live.logits_at_each(images).flatten(0, 1)
            labels = live.y.repeat(len(some))
            loss = soft_margin(logits, labels)
            loss = (-loss if self.targeted else loss).nan_to_num(-torch.inf)
            won = predicted(logits) == labels if self.targeted else predicted(logits) != labels
            fitness.append(torch.where(won, torch.inf, loss).view(len(some), -1).T)
        return torch.cat([part.to(fitness[0].dtype) for part in fitness], dim=1)

    def _painted(self, x: Tensor, members: Tensor) -> Tensor:
        """The images `x` [B, C, H, W] with the pixels of `members` [B, N, pixels, 2 + C]: [N, B, C, H, W]."""
        (height, width), (lo, hi) = x.shape[2:], self.bounds
        images = x.expand(members.shape[1], *x.shape).clone()
        each, sample = (torch.arange(n, device=x.device) for n in images.shape[:2])
        for pixel in members.transpose(0, 1).unbind(dim=2):
            row, column = ((pixel[..., k] * size).long().clamp(max=size - 1) for k, size in enumerate((height, width)))
            images[each.unsqueeze(1), sample, :, row, column] = (
                (lo + pixel[..., 2:] * (hi - lo)).clamp(lo, hi).to(x.dtype)
            )
        return images

    def _chosen(self, live: Rows) -> Tensor:
        """Puts the best member into `x_adv`; gives who has not succeeded yet."""
        fitness, best = live.state.fitness.max(dim=1)
        sample = torch.arange(len(best), device=best.device)
        live.x_adv = live.point(self._painted(live.x, live.state.members[sample, best].unsqueeze(1))[0], self.bounds)
        return fitness < torch.inf
