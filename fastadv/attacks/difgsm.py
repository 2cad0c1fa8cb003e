"""Gradients of images that are resized and padded at random, and gradients that are smoothed."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .. import ops
from ._ascend import Rows, numbers, start
from ._attack import check_choice, check_counts, check_images, check_ranges, check_start
from .mifgsm import MIFGSM, Momentum


@dataclass
class _Viewed(Momentum):
    """And how the images are seen at each step; see `DIFGSM._views`."""

    views: list[tuple[Tensor, Tensor] | None]


@dataclass(frozen=True)
class DIFGSM(MIFGSM):
    """Iterated FGSM on images resized and padded at random, with or without momentum (Xie et al., 2019).

    Before a gradient, with `probability`, images [B, C, H, W] are resized to a random share of their sides, bilinearly,
    and padded with the lowest value of `bounds`, 0 where there is none. The share is between `resize` and 1, of images
    that keep their size; or between 1 and a `resize` above 1, padded to that, for models that take larger ones. What is
    drawn is a step's, the same for all samples. Options that `MIFGSM` has as well mean the same.

    Args:
        decay: 0 for DI2-FGSM, above for M-DI2-FGSM.
        resize: the most extreme share, positive.
        probability: of a step's images being changed.
        random_start: the start is uniform in the ball of radius ``random_start * eps``, x itself for 0; ``gaussian`` as
            in `PGD`.

    Samples that are no images are a ValueError.
    """

    decay: float = 0.0
    resize: float = 0.9
    probability: float = 0.5
    random_start: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_start(self, self.random_start)
        check_ranges(self, resize="(0, 2]", probability="[0, 1]")

    @property
    def is_random(self) -> bool:
        return super().is_random or self.probability > 0

    @property
    def repeats(self) -> bool:
        return self.probability == 0

    def perturb(self, rows: Rows) -> None:
        check_images(self, rows.x)
        rows.eps = ops.per_sample(type(self).__name__, "eps", self.eps, rows.x)
        rows.x_adv = start(self, rows)
        super().perturb(rows)

    def memory(self, x: Tensor) -> Momentum:
        return _Viewed(torch.zeros_like(x), self._views(x))

    def gradient(self, live: Rows, number: int) -> Tensor:
        view = live.state.views[number - 1]
        if view is None:
            return live.ascent()[0]
        down, across = view
        moved = down @ (live.x_adv - self.dark) @ across + self.dark
        grad = down.T @ live.ascent(at=moved, moved=True)[0] @ across.T
        return torch.empty_like(live.x).copy_(grad)

    def _views(self, x: Tensor) -> list[tuple[Tensor, Tensor] | None]:
        """For every step what resizes and pads the images, from the left and from the right; None leaves them alone."""
        if self.probability == 0:
            return [None] * self.steps
        # The host asks for none of what the device draws: the first of these numbers it draws itself.
        (changed, *_), (_, scale, *places) = (
            numbers(torch.arange(1, self.steps + 1, device=device), (4,), self.seed, 1).T
            for device in ("cpu", x.device)
        )
        down, across = (
            _resized(size, self.resize, scale, place).to(x.dtype)
            for size, place in zip(x.shape[2:], places, strict=True)
        )
        views = zip((changed < self.probability).tolist(), down, across.mT, strict=True)
        return [view if change else None for change, *view in views]


def _resized(size: int, share: float, scale: Tensor, place: Tensor) -> Tensor:
    """What resizes and pads one side, [steps, canvas, size]: rows of a bilinear interpolation, and zeros beside them.

    `scale` and `place` [steps] in (0, 1) say which of the sizes and places that there are.
    """
    least, canvas = sorted((size, max(1, int(size * share))))
    length = least + (scale * (canvas - least)).floor().view(-1, 1, 1)
    first = (place.view(-1, 1, 1) * (canvas - length + 1)).floor()
    row = torch.arange(canvas, device=place.device).view(-1, 1) - first
    source = ((row + 0.5) * size / length - 0.5).clamp(0, size - 1)
    weight = (1 - (source - torch.arange(size, device=place.device)).abs()).clamp(min=0)
    return weight * ((row >= 0) & (row < length))


@dataclass(frozen=True)
class TIFGSM(DIFGSM):
    """FGSM up gradients that a kernel has smoothed, as those of shifted images are (Dong et al., 2019).

    Every channel of a gradient is convolved with a kernel of weights that sum to 1, with zeros beyond the border. With
    a `probability`, images are changed as in `DIFGSM` as well (TI-DIM), whose options mean the same.

    Args:
        kernel: ``gaussian``, ``linear`` (which falls to 0 just beyond its last entry) or ``uniform``.
        length: entries of its sides, odd.
        reach: the border of the ``gaussian`` is at so many standard deviations.
    """

    kernel: str = "gaussian"
    length: int = 15
    reach: float = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "kernel", self.kernel, ("gaussian", "linear", "uniform"))
        check_counts(self, length=1)
        check_ranges(self, reach="[0, 100)")
        if self.length % 2 == 0:
            raise ValueError(f"TIFGSM: length must be odd, got {self.length}: the kernel has a middle")

    def gradient(self, live: Rows, number: int) -> Tensor:
        grad = super().gradient(live, number)
        flat, side = grad.reshape(-1, 1, *grad.shape[2:]), self.weights(grad.device).to(grad.dtype)
        smooth = torch.nn.functional.conv2d(flat, side.view(1, 1, -1, 1), padding="same")
        smooth = torch.nn.functional.conv2d(smooth, side.view(1, 1, 1, -1), padding="same")
        return torch.empty_like(live.x).copy_(smooth.view(grad.shape))

    def weights(self, device: torch.device | str = "cpu") -> Tensor:
        """The kernel, which is the outer product of this with itself, [length], float64."""
        half = self.length // 2
        place = torch.arange(-half, half + 1, dtype=torch.float64, device=device) / (
            half + (self.kernel == "linear") or 1
        )
        if self.kernel == "gaussian":
            kernel = (-0.5 * (self.reach * place).square()).exp()
        else:
            kernel = 1 - place.abs() if self.kernel == "linear" else torch.ones_like(place)
        return kernel / kernel.sum()
