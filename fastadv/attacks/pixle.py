"""Pixle, which rearranges pixels."""

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from .. import ops
from ._ascend import Rows, ascend, numbers
from ._attack import Attack, check_choice, check_counts, check_images
from ._state import State

MAPPINGS = ("random", "similarity", "similarity_random", "distance", "distance_random")


@dataclass
class _Restart(State):
    """The lowest loss so far [B], and the images that the restart began with, [B, ...]."""

    lowest: Tensor
    base: Tensor


@dataclass(frozen=True)
class Pixle(Attack):
    """Copies the pixels of a random patch of the image to other places of it (Pomponi et al., 2022).

    Each of `restarts` rounds tries `steps` patches on the best image of the rounds before, and the best image is that
    of the lowest probability of the label, or of the highest where the attack is targeted. A sample is finished with
    its first success. It uses no gradients, and ``restarts * steps`` forward passes, after the first.

    Args:
        restarts: rounds.
        steps: patches a round; with 1, every one that helps is kept at once.
        tall: the least and the most rows of a patch: a count, or a share of the image's if it is a float.
        wide: its columns, likewise.
        mapping: where the pixels go: to ``random`` places; to the pixel of most ``similarity`` or ``distance`` in
            colour, itself excepted; or, with ``_random``, to one drawn with the softmax of these for its chance.
        targeted: towards the labels instead of away from them.

    Samples that are no images are a ValueError.
    """

    restarts: int = 20
    steps: int = 10
    tall: tuple[float, float] = (2, 10)
    wide: tuple[float, float] = (2, 10)
    mapping: str = field(default="random", kw_only=True)
    targeted: bool = field(default=False, kw_only=True)

    norm: ClassVar[str] = "l0"
    is_random: ClassVar[bool] = True
    repeats: ClassVar[bool] = False
    has_budget: ClassVar[bool] = False
    ends_early: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, restarts=0, steps=1)
        check_choice(self, "mapping", self.mapping, MAPPINGS)
        for name in ("tall", "wide"):
            least, most = getattr(self, name)
            fits = [0 <= side <= 1 if isinstance(side, float) else side >= 1 for side in (least, most)]
            if not all(fits) or (type(least) is type(most) and least > most):
                raise ValueError(
                    f"Pixle: {name} must be (least, most), each a whole number of pixels or a share of the image's, "
                    f"0.0 to 1.0; got {(least, most)}"
                )

    def perturb(self, rows: Rows) -> None:
        check_images(self, rows.x)
        _, losses, fooled = rows.loss_gradient(rows.scores(), "slm")  # orders as probabilities do
        lowest = losses.to(torch.promote_types(rows.x.dtype, torch.float32), copy=True)
        rows.state = _Restart(lowest, rows.x_adv.clone())
        ascend(self, rows, self.restarts * self.steps, self._step, ~fooled)

    def _step(self, live: Rows, number: int) -> Tensor:
        own: _Restart = live.state
        if (number - 1) % self.steps == 0:
            own.base = live.x_adv
        here, live.x_adv = live.x_adv, self._rearranged(live, number)
        _, losses, fooled = live.loss_gradient(live.scores(), "slm")
        better, going = ops.accept(own.lowest, losses.to(own.lowest.dtype), fooled, live.active)
        live.x_adv = torch.where(ops.as_rows(better, here), live.x_adv, here)
        return going

    def _rearranged(self, live: Rows, number: int) -> Tensor:
        """The base with the pixels of a patch of x, each at the place that the mapping gives it, [B, C, H, W]."""
        height, width = live.x.shape[2:]
        (low, high), (narrow, broad) = _sides(self.tall, height), _sides(self.wide, width)
        draws = numbers(live.ids, (4 + high * broad,), self.seed, number)
        tall, wide = (
            least + (draws[:, k] * (most - least + 1)).long()
            for k, (least, most) in enumerate(((low, high), (narrow, broad)))
        )
        top, left = (draws[:, 2] * (height - tall + 1)).long(), (draws[:, 3] * (width - wide + 1)).long()
        down, across = (t.flatten() for t in torch.meshgrid(torch.arange(high), torch.arange(broad), indexing="ij"))
        down, across = down.to(live.x.device), across.to(live.x.device)
        within = (down < tall.unsqueeze(1)) & (across < wide.unsqueeze(1))
        source = (top.unsqueeze(1) + down) * width + left.unsqueeze(1) + across
        source = torch.where(within, source, 0)
        x, base = live.x.flatten(2), live.state.base.flatten(2)
        goal = self._mapped(x, base, source, draws[:, 4:])
        # Where several pixels go to one place, the last of them is there in the end.
        last = torch.where(within, torch.arange(goal.shape[1], device=goal.device), -1)
        last = torch.full_like(x[:, 0], -1, dtype=torch.int64).scatter_reduce_(1, goal, last, "amax")
        moved = x.gather(2, source.gather(1, last.clamp(min=0)).unsqueeze(1).expand_as(x))
        return live.point(torch.where((last >= 0).unsqueeze(1), moved, base).view(live.x.shape), self.bounds)

    def _mapped(self, x: Tensor, base: Tensor, source: Tensor, draws: Tensor) -> Tensor:
        """Where the pixels of `x` [B, C, HW] at `source` [B, N] go in `base`, by numbers `draws` [B, N]: [B, N]."""
        if self.mapping == "random":
            return (draws * x.shape[2]).long()
        goals = []
        for place, draw in zip(source.split(1, dim=1), draws.split(1, dim=1), strict=True):
            colour = x.gather(2, place.unsqueeze(1).expand(-1, x.shape[1], -1))
            score = (base - colour).abs().double().mean(dim=1) / self.unit
            if self.mapping.startswith("similarity"):
                score = torch.where(score == 0, 0, 1 / (1 + score))  # to move to the same colour changes nothing
            score = score.scatter(1, place, -math.inf)
            if self.mapping.endswith("_random"):
                chance = score.softmax(dim=1).cumsum(dim=1)
                goals.append((chance < draw * chance[:, -1:]).sum(dim=1).clamp(max=x.shape[2] - 1))
            else:
                goals.append(score.argmax(dim=1))
        return torch.stack(goals, dim=1)


def _sides(sides: tuple[float, float], size: int) -> tuple[int, int]:
    """The least and the most entries of a side of a patch, of an image with `size`."""
    least, most = (max(1, round(side * size) if isinstance(side, float) else side) for side in sides)
    return min(least, size), min(max(least, most), size)
