"""Adversarial patches: something to print and put anywhere in the scene."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .. import ops
from ..attacks import Attack, Model, Rows, checked_logits, isolated
from ..attacks._attack import check_choice, check_count
from ..losses import cross_entropy
from ._batches import Batches, batches, bounds_of


@dataclass(frozen=True, eq=False)
class Patch(Attack):
    """A patch that is pasted into every image at random: its place, size and angle (Brown et al., 2017).

    `fit` trains one, `save` writes it as it is to be printed. As an attack it pastes the patch once into each image,
    where the image's id and the seed say; pixels beside it stay bit for bit what they are.

    Args:
        image: the patch, [C, n, n], within the bounds.
        scale: least and greatest side of the patch, as shares of the images' shorter side.
        angle: how far it is turned at the most, in degrees, either way.
        shape: ``circle`` or ``square``.
    """

    image: Tensor
    scale: tuple[float, float] = (0.3, 0.5)
    angle: float = 20.0
    shape: str = field(default="circle", kw_only=True)

    has_budget: ClassVar[bool] = False
    is_random: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.image, Tensor) or self.image.dim() != 3 or self.image.shape[1] != self.image.shape[2]:
            got = tuple(self.image.shape) if isinstance(self.image, Tensor) else type(self.image).__name__
            raise ValueError(f"Patch: image must be a tensor [C, n, n], got {got}")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"Patch: scale must be (least, greatest), shares in (0, 1], got {self.scale}")
        if not 0 <= self.angle <= 180:
            raise ValueError(f"Patch: angle must be between 0 and 180 degrees, got {self.angle}")
        check_choice(self, "shape", self.shape, ("circle", "square"))

    @classmethod
    def fit(
        cls,
        model: Model,
        data: Batches,
        target: int | None = None,
        *,
        size: int | None = None,
        epochs: int = 5,
        batch_size: int = 128,
        lr: float = 0.05,
        scale: tuple[float, float] = (0.3, 0.5),
        angle: float = 20.0,
        shape: str = "circle",
        bounds: tuple[float, float] | None = None,
        seed: int = 0,
        on_step: Callable[[int, float], None] | None = None,
    ) -> "Patch":
        """A patch that leads `model` to the class `target`, or away from the labels, wherever it is pasted.

        Adam minimises the cross-entropy with the target, or maximises that with the labels, over batches of images that
        the patch is pasted into anew each time; after each step it is clipped to the bounds.

        Args:
            model: images [B, C, H, W] to logits, left as it is found.
            data: a `Dataset`, or batches (x, y) that can be gone through `epochs` times.
            size: pixels of the patch's side; by default the images' shorter side.
            lr: Adam's step size, as a share of the inputs' range.
            bounds: of the inputs; by default those of the data set, or [0, 1].
            seed: of the places, and of the order of a data set's samples.
            on_step: called with (number of the batch, mean loss in it before the step).
        """
        bounds, image, seen = bounds_of(data, bounds), None, 0
        with isolated(model):
            for number, (x, y) in enumerate(batches(data, model, epochs, batch_size, seed), 1):
                if image is None:
                    if x.dim() != 4:
                        raise ValueError(f"Patch: samples must be images [B, C, H, W], got shape {tuple(x.shape)}")
                    side = min(x.shape[2:]) if size is None else size
                    image = torch.full((x.shape[1], side, side), sum(bounds) / 2, dtype=x.dtype, device=x.device)
                    patch = cls(image.requires_grad_(), scale, angle, shape=shape, bounds=bounds, seed=seed)
                    check_count(patch, "size", side, 1)
                    adam = torch.optim.Adam([image], lr=lr * patch.unit)
                if target is not None:
                    y = torch.full_like(y, target)
                x, y, ids, highest = patch._checked(x, y, None)
                logits = checked_logits(model, patch.pasted(x, ids + seen), highest)
                seen += len(x)
                loss = cross_entropy(logits, y).mean()
                (slope,) = torch.autograd.grad(loss if target is not None else -loss, image)
                image.grad = slope.nan_to_num(0, 0, 0)
                adam.step()
                with torch.no_grad():
                    image.clamp_(*bounds)
                if on_step is not None:
                    on_step(number, float(loss.detach()))
        return cls(image.detach(), scale, angle, shape=shape, bounds=bounds)

    def of_rows(self, index: Tensor, x: Tensor) -> "Patch":
        return self

    def within(self, bounds: tuple[float, float]) -> "Patch":
        """The same patch on images in `bounds`, with its colours."""
        share = (self.image - self.bounds[0]) / self.unit
        image = share * (bounds[1] - bounds[0]) + bounds[0] if bounds != self.bounds else self.image
        return type(self)(image, self.scale, self.angle, shape=self.shape, bounds=bounds, seed=self.seed)

    def perturb(self, rows: Rows) -> None:
        rows.x_adv = self.pasted(rows.x, rows.ids)

    def pasted(self, x: Tensor, ids: Tensor) -> Tensor:
        """`x` [B, C, H, W] with the patch in every image, where `seed` and `ids` [B] say; autograd goes through it."""
        if x.dim() != 4 or x.shape[1] != len(self.image):
            raise ValueError(f"Patch: images must be [B, {len(self.image)}, H, W], got {tuple(x.shape)}")
        image = self.image.to(x.device, x.dtype)
        where, inside = self._places(x, ids)
        there = F.grid_sample(
            image.expand(len(x), -1, -1, -1), where, mode="bilinear", padding_mode="border", align_corners=False
        )
        return torch.empty_like(x).copy_(torch.where(inside.unsqueeze(1), there.clamp(*self.bounds), x))

    def _places(self, x: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """What point of the patch, in [-1, 1], each pixel shows, [B, H, W, 2], and whether it shows any, [B, H, W]."""
        height, width = x.shape[2:]
        middle = torch.full((len(x), 4), 0.5, dtype=torch.float64, device=x.device)
        share, turn, down, across = ops.random_start(middle, ids, 0.5, self.seed, 0).view(-1, 4, 1, 1).unbind(1)
        half = (self.scale[0] + share * (self.scale[1] - self.scale[0])) * min(height, width) / 2
        turn = torch.deg2rad((2 * turn - 1) * self.angle)
        # A turned square reaches further than an upright one; it stays in the image as far as that has room.
        reach = half * (turn.cos().abs() + turn.sin().abs() if self.shape == "square" else 1)
        rows = torch.arange(height, dtype=torch.float64, device=x.device).view(1, -1, 1) + 0.5
        columns = torch.arange(width, dtype=torch.float64, device=x.device).view(1, 1, -1) + 0.5
        v = rows - _centre(height, reach, down)
        u = columns - _centre(width, reach, across)
        u, v = (u * turn.cos() + v * turn.sin()) / half, (v * turn.cos() - u * turn.sin()) / half
        inside = u.square() + v.square() <= 1 if self.shape == "circle" else torch.maximum(u.abs(), v.abs()) <= 1
        return torch.stack([u, v], dim=-1).to(x.dtype), inside

    def save(self, path: str | Path, *, mm: float = 50.0, dpi: int = 300) -> None:
        """Writes the patch as a PNG file of `mm` millimetres a side when printed at `dpi` dots an inch, as it says.

        What is not part of a round patch is transparent. Raises ValueError for images of other than 1 or 3 channels.
        """
        if len(self.image) not in (1, 3):
            raise ValueError(f"Patch: only images of 1 or 3 channels can be printed, got {len(self.image)}")
        side = round(mm / 25.4 * dpi) if mm > 0 and dpi > 0 else 0
        if side < 1:
            raise ValueError(f"Patch: mm and dpi must make at least one dot, got {mm:g} mm at {dpi} dots an inch")
        share = ((self.image.detach().cpu().double() - self.bounds[0]) / self.unit).clamp(0, 1)
        large = F.interpolate(share[None], size=(side, side), mode="bilinear", align_corners=False)[0].clamp(0, 1)
        place = (torch.arange(side, dtype=torch.float64) + 0.5) / side * 2 - 1
        inside = place.square() + place.square().unsqueeze(1) <= 1 if self.shape == "circle" else torch.ones(side, side)
        dots = torch.cat([large.expand(3, -1, -1), inside.double()[None]]).permute(1, 2, 0)
        Image.fromarray((dots * 255).round().to(torch.uint8).numpy(), "RGBA").save(path, "PNG", dpi=(dpi, dpi))


def _centre(length: int, reach: Tensor, place: Tensor) -> Tensor:
    """Where along a side of `length` pixels the middle of the patch is, `place` in (0, 1) saying where it has room."""
    room = (length - 2 * reach).clamp(min=0)
    return (length - room) / 2 + place * room
