"""Any attack under what else an adversary may and may not do."""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .. import ops
from ..attacks import Attack, Model, Rows, checked_logits
from ..attacks._grid import LEVELS, from_levels, rounded, to_levels
from ._features import PerFeature, over_features, over_samples

_TRIED = {True: (1.0, 0.97, 0.93, 0.85), False: (1.0, 1.05, 1.1, 1.25, 1.5, 2.0)}
"""By what perturbations are multiplied before they are rounded, in turn: with a budget, and without one."""


@dataclass(frozen=True)
class ThreatModel(Attack):
    """`attack`, held to where and how much an adversary may change, and shown a random model's mean.

    It is an attack itself: call it, or give it to `evaluate`. Each option is applied once, around the attack, whose own
    options keep their meaning.

    Args:
        attack: any attack; its `bounds` are those of the inputs, unless there are `ranges`.
        mask: True, or 1, where x may change: [H, W] for all channels, or [C, H, W] for all samples, or one a sample,
            [B, C, H, W] or [B, 1, H, W]. The number of dimensions says which. All else stays bit for bit what it is.
        ranges: the least and the greatest value of the inputs, each a number, one a channel [C], or a tensor with the
            dimensions of a sample. The attack runs in the unit box that they are mapped to. Its sizes and
            `AttackResult.norm` are shares of the ranges: an eps of 8/255 is 8 grey levels of images that a mean and a
            standard deviation a channel have normalised.
        shares: what each channel or feature has of the attack's eps and steps, likewise. ``PGD(8 / 255)`` with shares
            ``(1, 0.5, 0.25)`` changes red by 8, green by 4 and blue by 2 grey levels. Norms are of the perturbation
            over its shares. Only for attacks with a budget.
        quantise: whether results are whole multiples of 1/255 of the range, as x must be. A perturbation is rounded so
            that it stays within the budget and fools the model still, if that is found by a few tries; whether it does
            is asked of the model at the rounded sample. Without a budget, samples that no try fools are returned as
            they are.
        samples: how many forward passes the logits are averaged over (expectation over transformation), for models that
            are random. What the result is judged by remains one pass. Each counts as a gradient.

    Raises ValueError for a mask, ranges or shares that do not fit x, and for x off the grid that is asked for.
    """

    attack: Attack
    mask: Tensor | None = field(default=None, kw_only=True)
    ranges: tuple[PerFeature, PerFeature] | None = field(default=None, kw_only=True)
    shares: PerFeature | None = field(default=None, kw_only=True)
    quantise: bool = field(default=False, kw_only=True)
    samples: int = field(default=1, kw_only=True)
    bounds: tuple[float, float] = field(init=False, repr=False)

    ball = False

    def __post_init__(self) -> None:
        if not isinstance(self.attack, Attack) or isinstance(self.attack, ThreatModel):
            raise TypeError(f"ThreatModel: attack must be a plain attack, such as PGD(), got {self.attack!r}")
        bounds = self.attack.bounds
        if self.ranges is not None:
            if len(self.ranges) != 2:
                raise ValueError(f"ThreatModel: ranges must be (lowest, highest), got {len(self.ranges)} values")
            lowest, highest = (torch.as_tensor(end, dtype=torch.float64) for end in self.ranges)
            if not bool(((lowest < highest) & (lowest > -math.inf) & (highest < math.inf)).all()):
                raise ValueError(f"ThreatModel: ranges must be finite, the lowest first, got {self.ranges}")
            bounds = float(lowest.min()), float(highest.max())
        object.__setattr__(self, "bounds", bounds)
        super().__post_init__()
        if self.shares is not None:
            shares = torch.as_tensor(self.shares, dtype=torch.float64)
            if not bool(((shares > 0) & (shares < math.inf)).all()):
                raise ValueError(
                    f"ThreatModel: shares must be positive and finite, got {self.shares}; use a mask for 0"
                )
            if not self.attack.has_budget:
                raise ValueError(
                    f"ThreatModel: {type(self.attack).__name__} has no budget to share out. Give shares to an attack "
                    "with an eps, such as PGD or AutoAttack, or to each attack of a MultiAttack"
                )
        if self.quantise and not math.isfinite(bounds[1] - bounds[0]):
            raise ValueError(f"ThreatModel: quantise needs finite bounds, got {bounds}")
        if not isinstance(self.samples, int) or self.samples < 1:
            raise ValueError(f"ThreatModel: samples must be a whole number of at least 1, got {self.samples}")

    @property
    def norm(self) -> str:
        return self.attack.norm

    @property
    def targeted(self) -> bool:
        return self.attack.targeted

    @property
    def has_budget(self) -> bool:
        return self.attack.has_budget

    @property
    def is_random(self) -> bool:
        return self.attack.is_random and self.attack.seed is None

    @property
    def eps(self) -> float | Tensor:
        """The attack's budget, in units of the range of `bounds`."""
        return self.attack.eps if self.ranges is None else self.attack.eps / self.attack.unit * self.unit

    def at(self, eps: float) -> "ThreatModel":
        eps = eps if self.ranges is None else eps / self.unit * self.attack.unit
        return dataclasses.replace(self, attack=self.attack.at(eps))

    def within(self, bounds: tuple[float, float]) -> "ThreatModel":
        """The same attack on inputs in `bounds`. With `ranges` it is left as it is: these are the inputs' own."""
        return self if self.ranges is not None else dataclasses.replace(self, attack=self.attack.within(bounds))

    def of_rows(self, index: Tensor, x: Tensor) -> "ThreatModel":
        own = self.mask is not None and self.mask.dim() == x.dim()
        mask = self.mask[index.to(self.mask.device)] if own else self.mask
        return dataclasses.replace(self, attack=self.attack.of_rows(index, x), mask=mask)

    def sizes(self, x_adv: Tensor, x: Tensor) -> Tensor:
        space = self._space(x)
        return super().sizes(*((x_adv, x) if space is None else (space.into(x_adv), space.into(x))))

    def perturb(self, rows: Rows) -> None:
        x, space = rows.x, self._space(rows.x)
        mask = None if self.mask is None else over_samples(self.mask, x)
        levels = self._levels(x) if self.quantise else None
        inner, attack = rows.twin(), self.attack if self.seed is None else self.attack.seeded(self.seed)
        if space is not None:
            attack = attack.within((0.0, 1.0))
            if self.shares is not None:  # the box is another for each of them: `low` and `high` are
                attack = dataclasses.replace(attack, bounds=(-math.inf, math.inf))
            inner.x = space.into(x)
            inner.x_adv = inner.x.clone()
        if space is not None or self.samples > 1:
            inner.model = _Seen(rows.model, space, self.samples)
        if mask is not None or self.shares is not None:
            inner.low, inner.high = (self._limit(inner.x, space, mask, end) for end in (0, 1))
        attack.perturb(inner)
        x_adv = inner.x_adv if inner.low is None else inner.x_adv.clamp(inner.low, inner.high)
        changed = x_adv != inner.x
        if mask is not None:
            changed &= mask
        rows.x_adv = torch.where(changed, x_adv if space is None else space.out_of(x_adv), x)
        rows.steps, rows.nonfinite = inner.steps, inner.nonfinite
        rows.grads = rows.grads + self.samples * (inner.grads - rows.grads)
        if levels is not None:
            self._round(rows, levels)

    # ------------------------------------------------------------------------------------------------ features

    def _space(self, x: Tensor) -> "_Space | None":
        """The map into the units that the attack runs in; None: those of x."""
        if self.ranges is None and self.shares is None:
            return None
        (lowest, width), shares = self._range(x), self._shares(x)
        ends = (0.0, 1.0) if math.isfinite(self.bounds[1] - self.bounds[0]) else (-math.inf, math.inf)
        return _Space(lowest, width * shares, *(end / shares for end in ends))

    def _shares(self, x: Tensor) -> Tensor:
        return over_features("shares", 1.0 if self.shares is None else self.shares, x)

    def _range(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The least value of each feature and how far the greatest is from it; 0 and 1 where they have none."""
        lo, hi = self.bounds if self.ranges is None else self.ranges
        if self.ranges is None and not math.isfinite(hi - lo):
            lo, hi = 0.0, 1.0
        lowest, highest = over_features("ranges", lo, x), over_features("ranges", hi, x)
        return lowest, highest - lowest

    def _limit(self, x: Tensor, space: "_Space | None", mask: Tensor | None, end: int) -> Tensor:
        """The least (`end` 0) or greatest values that the attack may give to `x`, [B, ...], laid out like it."""
        limit = torch.full_like(x, math.inf if end else -math.inf)
        if self.shares is not None:
            limit.copy_((space.high if end else space.low).expand_as(x))
        return limit if mask is None else limit.copy_(torch.where(mask, limit, x))

    def _checked(
        self, x: Tensor, y: Tensor | None, ids: Tensor | None, own_loss: bool = False
    ) -> tuple[Tensor, Tensor | None, Tensor, int]:
        given = super()._checked(x, y, ids, own_loss)
        if self.ranges is not None:
            lowest, width = self._range(x)
            below, above = (x < lowest.to(x.dtype)).sum(), (x > (lowest + width).to(x.dtype)).sum()
            if int(below + above):
                raise ValueError(f"ThreatModel: {int(below + above)} values of x lie outside their ranges")
        return given

    # ---------------------------------------------------------------------------------------------------- grid

    def _levels(self, x: Tensor) -> Tensor:
        """Which multiple of 1/255 of the range the values of `x` are, float64. ValueError where they are none."""
        exact = to_levels(x, *self._range(x))
        whole = rounded(exact)
        off = int(((exact - whole).abs() > 0.02).sum())
        if off:
            raise ValueError(
                f"ThreatModel: quantise needs x on the grid, multiples of 1/{LEVELS} of the range, but {off} of "
                f"{x.numel()} values are not: round them first, (x * {LEVELS}).round() / {LEVELS}"
            )
        return whole

    def _round(self, rows: Rows, levels: Tensor) -> None:
        """Rounds `rows.x_adv` to the grid, in the first of a few ways that fools the model within the budget."""
        shares = self._shares(rows.x)
        far = to_levels(rows.x_adv, *self._range(rows.x)) - levels
        far = torch.where((far - far.round()).abs() < 1e-3, far.round(), far)
        inward = far.trunc()
        tried = [rounded(share * far) for share in _TRIED[self.has_budget]]
        if self.has_budget:
            size = ops.row_norms(far / shares, self.norm)
            if self.norm == "linf":
                tried = [rounded(far, torch.zeros_like(far), "linf", ops.as_rows(size, far) * shares)]
            tried.append(inward)
        else:
            tried.append(far.sign() * far.abs().ceil())
        last = inward if self.has_budget else torch.zeros_like(far)
        pending = far.flatten(1).any(dim=1).nonzero().squeeze(1)
        rows.x_adv = self._on_grid(rows.x, levels, last)
        for step in tried:
            part = rows.take(pending)
            step = step[pending].clamp(-levels[pending], LEVELS - levels[pending])
            part.x_adv = self._on_grid(part.x, levels[pending], step)
            won = part.fooled(part.predictions())
            if self.has_budget:
                won &= ops.row_norms(step / shares, self.norm) <= size[pending] + 1e-5
            rows.x_adv[pending[won]] = part.x_adv[won]
            pending = pending[~won]
            if len(pending) == 0:
                break

    def _on_grid(self, x: Tensor, levels: Tensor, step: Tensor) -> Tensor:
        return torch.where(step == 0, x, from_levels(levels + step, *self._range(x)).to(x.dtype))


class _Space(NamedTuple):
    """An affine map of the features, from ``lowest + scale * z`` to z, which lies in [low, high]; all [1, ...]."""

    lowest: Tensor
    scale: Tensor
    low: Tensor
    high: Tensor

    def into(self, x: Tensor) -> Tensor:
        z = (x.double() - self.lowest) / self.scale
        return torch.empty_like(x).copy_(z.clamp(self.low, self.high))

    def out_of(self, z: Tensor) -> Tensor:
        return torch.empty_like(z).copy_(z.double() * self.scale + self.lowest)


class _Seen(nn.Module):
    """What an attack sees of `model`: its logits at what `space` maps to, the mean of `samples` passes."""

    def __init__(self, model: Model, space: _Space | None, samples: int):
        super().__init__()
        object.__setattr__(self, "model", model)  # no submodule: modes and parameters are not this one's to set
        self.space, self.samples = space, samples

    def forward(self, z: Tensor) -> Tensor:
        logits = [checked_logits(self.model, self._inputs(z)) for _ in range(self.samples)]
        return sum(logits) / self.samples if self.samples > 1 else logits[0]

    def _inputs(self, z: Tensor) -> Tensor:
        return z if self.space is None else z * self.space.scale.to(z.dtype) + self.space.lowest.to(z.dtype)
