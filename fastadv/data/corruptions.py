"""The common corruptions of Hendrycks and Dietterich (2019), at the severities of CIFAR-10-C, for batches of images.

``corrupt(x, name, severity)`` changes a batch, ``corrupted`` a data set. ``CORRUPTIONS`` holds all 19 by name, in the
official order: the 15 that the published means are taken over, then the four of ``EXTRA``. The results are "-C style":
the constants are those that CIFAR-10-C was made with, the random numbers and the programs are not.

What differs from the published files: frost is drawn, not photographed. In drops of water (spatter) distances are
measured from the outlines, not from the edges that OpenCV finds. Values are not cut to 8 bits, except for JPEG. Images
of other sizes than 32x32 take the same constants in pixels; elastic_transform takes shares of the shorter side. Grey
images take the luminance of the colours of frost, water and mud; saturate, which would redden them, leaves them alone.

A corruption is a function of images x [B, C, H, W] in [0, 1] (float64), of random numbers and of the constants of the
severity; what it returns is clipped to [0, 1]. A new one is one function here under ``@_severities``.
"""

import difflib
import io
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .. import ops
from .dataset import Dataset
from .lazy import Stream
from .samples import Batch, Samples


class Corruption(NamedTuple):
    """A function ``change(x, draws, *constants)`` and its `constants` at the severities 1 to 5."""

    change: Callable[..., Tensor]
    constants: tuple[tuple[float, ...], ...]


CORRUPTIONS: dict[str, Corruption] = {}
EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")


def corrupt(x: Tensor, name: str, severity: int, seed: int = 0, ids: Tensor | None = None) -> Tensor:
    """Images `x` [B, C, H, W] in [0, 1] after the corruption `name`, new and laid out as they were.

    Args:
        x: of 1 or 3 channels, at least 8 pixels high and wide, of any floating-point type.
        name: a key of ``CORRUPTIONS``.
        severity: 1 to 5.
        seed: of the random numbers. What happens to an image is a function of (`seed`, its id), not of the batch.
        ids: int64 [B], the names of the images to random numbers; by default 0..B-1.

    Raises:
        ValueError: for anything else.
    """
    if name not in CORRUPTIONS:
        near = difflib.get_close_matches(name, CORRUPTIONS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown corruption {name!r}: choose among {', '.join(CORRUPTIONS)}{hint}")
    if not isinstance(severity, int) or not 1 <= severity <= 5:
        raise ValueError(f"{name}: severity must be 1, 2, 3, 4 or 5, got {severity!r}")
    if not x.is_floating_point() or x.dim() != 4 or x.shape[1] not in (1, 3) or min(x.shape[2:]) < 8:
        raise ValueError(
            f"{name}: x must be floating-point images [B, C, H, W] of 1 or 3 channels and at least 8 x 8 pixels, "
            f"got {x.dtype} {[*x.shape]}"
        )
    ids = torch.arange(len(x), device=x.device) if ids is None else ids
    if ids.shape != x.shape[:1] or ids.dtype != torch.int64:
        raise ValueError(f"{name}: ids must be int64 [{len(x)}], got {ids.dtype} {[*ids.shape]}")
    if len(x) == 0:
        return x.clone()
    if not (x.min() >= 0 and x.max() <= 1):  # nor NaN
        raise ValueError(f"{name}: x must lie in [0, 1], got [{x.min():g}, {x.max():g}]: divide 0..255 pixels by 255")
    change, constants = CORRUPTIONS[name]
    # float64: no rounding that depends on the batch is left in the result.
    found = change(x.double(), Draws(ids, seed), *constants[severity - 1])
    return torch.empty_like(x).copy_(found.clamp(0, 1))


def corrupted(data: Samples, name: str, severity: int, seed: int = 0, batch_size: int = 500) -> Samples:
    """`data` with all its images after the corruption `name` at `severity`, 1 to 5; see `corrupt`.

    A `Dataset` is corrupted at once, other data batch by batch in every walk. `batch_size` images at a time: it changes
    memory and speed only. Raises `corrupt`'s errors.
    """

    def changed() -> Iterator[Batch]:
        for x, y, ids in data.batches(batch_size):
            yield Batch(corrupt(x, name, severity, seed, ids), y, ids)

    title = f"{data.name}, {name} {severity}"
    if isinstance(data, Dataset):
        return replace(data, x=torch.cat([batch.x for batch in changed()]), name=title)
    return Stream(changed, data.classes, data.bounds, title, count=data.count)


@dataclass
class Draws:
    """Random numbers for the images `ids` [B]: each a function of (`seed`, id, how many were drawn before it)."""

    ids: Tensor
    seed: int
    stream: int = -1  # augmentations have this one, attacks count from 0

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """[B, *shape] in (low, high)."""
        return self._next(shape, (low + high) / 2, (high - low) / 2, "uniform")

    def normal(self, *shape: int, mean: float = 0.0, std: float = 1.0) -> Tensor:
        """[B, *shape]."""
        return self._next(shape, mean, std, "gaussian")

    def poisson(self, rate: Tensor) -> Tensor:
        """As `rate` [B, ...]."""
        keys = np.array([(self.seed, place) for place in self.ids.tolist()], dtype=np.int64).astype(np.uint64)
        streams = (np.random.Generator(np.random.Philox(key=key)) for key in keys)
        counts = [stream.poisson(rates) for stream, rates in zip(streams, rate.cpu().numpy(), strict=True)]
        return torch.from_numpy(np.stack(counts)).to(rate)

    def _next(self, shape: Sequence[int], middle: float, size: float, law: str) -> Tensor:
        self.stream -= 1
        x = torch.full((len(self.ids), *shape), middle, dtype=torch.float64, device=self.ids.device)
        return ops.random_start(x, self.ids, size, self.seed, self.stream, law, -math.inf, math.inf)


def _severities(*constants: float | tuple[float, ...]) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Registers a corruption with its constants at the severities 1 to 5."""

    def register(change: Callable[..., Tensor]) -> Callable[..., Tensor]:
        each = tuple(values if isinstance(values, tuple) else (values,) for values in constants)
        CORRUPTIONS[change.__name__] = Corruption(change, each)
        return change

    return register


# -------------------------------------------------------------------------------------------------------------- noise


@_severities(0.04, 0.06, 0.08, 0.09, 0.10)
def gaussian_noise(x: Tensor, draws: Draws, std: float) -> Tensor:
    return x + draws.normal(*x.shape[1:], std=std)


@_severities(500, 250, 100, 75, 50)
def shot_noise(x: Tensor, draws: Draws, photons: float) -> Tensor:
    """Counts of photons, of which a white pixel expects so many."""
    return draws.poisson(x * photons) / photons


@_severities(0.01, 0.02, 0.03, 0.05, 0.07)
def impulse_noise(x: Tensor, draws: Draws, share: float) -> Tensor:
    """Salt and pepper, in each channel by itself."""
    lot = draws.uniform(*x.shape[1:])
    return torch.where(lot < share, (lot < share / 2).to(x), x)


# -------------------------------------------------------------------------------------------------------------- blurs


@_severities((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))
def defocus_blur(x: Tensor, draws: Draws, radius: float, smoothing: float) -> Tensor:
    return _filtered(x, _disk(radius, smoothing).to(x.device))


@_severities((0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2))
def glass_blur(x: Tensor, draws: Draws, sigma: float, times: int) -> Tensor:
    """Between two blurs, pixels take the values of neighbours above and to the left.

    The published program means to swap the two pixels, but swaps views of one array, and so copies one into the other.
    """
    x = _blurred(x, sigma)
    height, width = x.shape[2:]
    may_move = F.pad(torch.ones(height - 2, width - 2, device=x.device), (2, 0, 2, 0)).bool()
    rows, columns = _grid(x)
    for _ in range(times):
        up, left = ((draws.uniform(2, height, width) < 0.5) & may_move).long().unbind(1)
        x = _picked(x, rows - up, columns - left)
    return _blurred(x, sigma)


@_severities((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))
def motion_blur(x: Tensor, draws: Draws, radius: int, sigma: float) -> Tensor:
    return _moved(x, radius, sigma, draws.uniform(low=-45, high=45))


@_severities(7, 12, 16, 21, 26)
def zoom_blur(x: Tensor, draws: Draws, zooms: int) -> Tensor:
    """The mean of the image and of so many enlargements, by 1, 1.01, 1.02 ..."""
    return (x + sum(_zoomed(x, 1 + k / 100) for k in range(zooms))) / (zooms + 1)


# ------------------------------------------------------------------------------------------------------------ weather


@_severities(
    (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
    (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
    (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
    (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
    (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
)
def snow(
    x: Tensor,
    draws: Draws,
    mean: float,
    std: float,
    zoom: float,
    threshold: float,
    radius: int,
    sigma: float,
    kept: float,
) -> Tensor:
    """Flakes in motion, twice, the second time turned upside down, over an image that is whitened."""
    flakes = _zoomed(draws.normal(1, *x.shape[2:], mean=mean, std=std), zoom)
    flakes = torch.where(flakes < threshold, 0, flakes).clamp(0, 1)
    flakes = _moved(flakes, radius, sigma, draws.uniform(low=-135, high=-45))
    whitened = kept * x + (1 - kept) * torch.maximum(x, 1.5 * _grey(x) + 0.5)
    return whitened + flakes + flakes.rot90(2, (2, 3))


@_severities((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))
def frost(x: Tensor, draws: Draws, kept: float, ice: float) -> Tensor:
    """Published with photographs of ice; here it is ridges of fractal noise, from dark blue to white."""
    height, width = x.shape[2:]
    ridges = x.new_zeros(len(x), 1, height, width)
    for octave in range(4):
        lattice = draws.normal(1, 4 << octave, 4 << octave)
        noise = F.interpolate(lattice, (height, width), mode="bicubic", align_corners=True)
        ridges += 0.6**octave * (-3 * noise.abs()).exp()
    crystals = ridges / ridges.amax((2, 3), keepdim=True)
    return kept * x + ice * torch.lerp(_tint(x, 0.2, 0.3, 0.4), _tint(x, 1, 1, 1), crystals)


@_severities((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))
def fog(x: Tensor, draws: Draws, thickness: float, roughness: float) -> Tensor:
    brightest = x.amax((1, 2, 3), keepdim=True)
    clouds = _plasma(draws, max(x.shape[2:]), roughness)[..., : x.shape[2], : x.shape[3]]
    return (x + thickness * clouds) * brightest / (brightest + thickness)


@_severities(0.05, 0.1, 0.15, 0.2, 0.3)
def brightness(x: Tensor, draws: Draws, more: float) -> Tensor:
    """More of V in HSV: the channels keep their ratios."""
    value = x.amax(1, keepdim=True)
    brighter = (value + more).clamp(max=1)
    return torch.where(value > 0, x * brighter / value, brighter)


# ------------------------------------------------------------------------------------------------------------ digital


@_severities(0.75, 0.5, 0.4, 0.3, 0.15)
def contrast(x: Tensor, draws: Draws, share: float) -> Tensor:
    mean = x.mean((2, 3), keepdim=True)
    return mean + share * (x - mean)


@_severities((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03))
def elastic_transform(x: Tensor, draws: Draws, stretch: float, smoothness: float, tilt: float) -> Tensor:
    """An affine map that moves three points by up to `tilt`, then smooth shifts; all in shares of the shorter side."""
    height, width = x.shape[2:]
    side = min(height, width)
    centre, far = torch.tensor([width // 2, height // 2]), side // 3
    points = (centre + far * torch.tensor([[1, 1], [1, -1], [-1, -1]])).to(x)
    moved = points + draws.uniform(3, 2, low=-tilt * side, high=tilt * side)
    back = torch.linalg.solve(F.pad(moved, (0, 1), value=1), points.expand_as(moved))  # [B, 3, 2]
    rows, columns = _grid(x)
    across, down = (torch.stack([columns, rows, torch.ones_like(rows)], 2).to(x) @ back.unsqueeze(1)).unbind(3)
    x = _interpolated(x, down, across, corners=True)
    shifts = draws.uniform(2, height, width, low=-1, high=1)
    across, down = (stretch * side * _blurred(shifts, smoothness * side, truncate=3, mirrored=True)).unbind(1)
    return _interpolated(x, rows + down, columns + across, corners=False)


@_severities(0.95, 0.9, 0.85, 0.75, 0.65)
def pixelate(x: Tensor, draws: Draws, share: float) -> Tensor:
    """The means of blocks, so many a side as `share` of the pixels."""
    height, width = (_blocks(n, int(n * share)).to(x) for n in x.shape[2:])
    return height @ x @ width.T


@_severities(80, 65, 58, 50, 40)
def jpeg_compression(x: Tensor, draws: Draws, quality: int) -> Tensor:
    pixels = (255 * x).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    decoded = []
    for image in pixels.squeeze(3) if x.shape[1] == 1 else pixels:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality)
        decoded.append(np.asarray(Image.open(file)))
    return torch.from_numpy(np.stack(decoded).reshape(pixels.shape)).to(x).permute(0, 3, 1, 2) / 255


# -------------------------------------------------------------------------------------------------------------- extra


@_severities(0.06, 0.1, 0.12, 0.16, 0.2)
def speckle_noise(x: Tensor, draws: Draws, std: float) -> Tensor:
    return x + x * draws.normal(*x.shape[1:], std=std)


@_severities(0.4, 0.6, 0.7, 0.8, 1)
def gaussian_blur(x: Tensor, draws: Draws, sigma: float) -> Tensor:
    return _blurred(x, sigma)


@_severities(
    (0.62, 0.1, 0.7, 0.7, 0.5, False),
    (0.65, 0.1, 0.8, 0.7, 0.5, False),
    (0.65, 0.3, 1, 0.69, 0.5, False),
    (0.65, 0.1, 0.7, 0.69, 0.6, True),
    (0.65, 0.1, 0.5, 0.68, 0.6, True),
)
def spatter(
    x: Tensor, draws: Draws, mean: float, std: float, sigma: float, threshold: float, strength: float, mud: bool
) -> Tensor:
    """Drops of water, lit from one side, or of mud."""
    liquid = _blurred(draws.normal(1, *x.shape[2:], mean=mean, std=std), sigma)
    if mud:
        cover = _blurred((liquid > threshold).to(x), strength)
        cover = torch.where(cover < 0.8, 0, cover)
        return torch.lerp(x, _tint(x, 63 / 255, 42 / 255, 20 / 255), cover)
    liquid = torch.where(liquid < threshold, 0, liquid)
    light = liquid * _relief(liquid > 0)
    light = strength * light / light.amax((2, 3), keepdim=True).clamp_min(1e-9)
    return x + light * _tint(x, 175 / 255, 238 / 255, 238 / 255)


@_severities((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2))
def saturate(x: Tensor, draws: Draws, factor: float, more: float) -> Tensor:
    """Another S in HSV. A grey pixel among colours is taken for a red one, as in HSV; grey images stay as they are."""
    if x.shape[1] == 1:
        return x
    value, least = x.amax(1, keepdim=True), x.amin(1, keepdim=True)
    spread = value - least
    hue = torch.where(spread > 0, (value - x) / spread, x.new_tensor([0.0, 1, 1]).reshape(3, 1, 1))
    saturation = torch.where(value > 0, spread / value, 0)
    return value * (1 - (factor * saturation + more).clamp(0, 1) * hue)


# -------------------------------------------------------------------------------------------------------------- tools


def _grey(x: Tensor) -> Tensor:
    """Luminance (ITU-R BT.601), [B, 1, H, W]."""
    return x if x.shape[1] == 1 else (x * x.new_tensor([0.299, 0.587, 0.114]).reshape(3, 1, 1)).sum(1, keepdim=True)


def _tint(x: Tensor, *rgb: float) -> Tensor:
    """A colour as the channels of x have it, [1, C, 1, 1]."""
    colour = x.new_tensor(rgb).reshape(1, 3, 1, 1)
    return _grey(colour) if x.shape[1] == 1 else colour


def _grid(x: Tensor) -> tuple[Tensor, Tensor]:
    """The row and the column of every pixel, int64 [H, W]."""
    return torch.meshgrid(*(torch.arange(n, device=x.device) for n in x.shape[2:]), indexing="ij")


def _picked(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The pixels at `rows` and `columns` [B, H, W] (or what broadcasts to it); beyond the edges the nearest."""
    sample = torch.arange(len(x), device=x.device).reshape(-1, 1, 1)
    rows, columns = rows.clamp(0, x.shape[2] - 1), columns.clamp(0, x.shape[3] - 1)
    return x.permute(0, 2, 3, 1)[sample, rows, columns].permute(0, 3, 1, 2)


def _interpolated(x: Tensor, rows: Tensor, columns: Tensor, corners: bool) -> Tensor:
    """x at any places [B, H, W], in pixels, bilinearly; mirrored at the middles of edge pixels, or at their rims."""
    places = []
    for place, n in ((columns, x.shape[3]), (rows, x.shape[2])):
        places.append(2 * place / (n - 1) - 1 if corners else (2 * place + 1) / n - 1)
    return F.grid_sample(x, torch.stack(places, 3), padding_mode="reflection", align_corners=corners)


def _filtered(x: Tensor, kernel: Tensor) -> Tensor:
    """x correlated with a small odd kernel, mirrored at the middles of edge pixels."""
    padded = F.pad(x, [k // 2 for k in kernel.shape[::-1] for _ in range(2)], mode="reflect")
    return F.conv2d(padded.flatten(0, 1).unsqueeze(1), kernel[None, None]).reshape(x.shape)


def _disk(radius: float, smoothing: float) -> Tensor:
    """A disk of pixels, smoothed by a Gaussian of 3 x 3; sums to 1. [5, 5], for radii up to 2."""
    squares = torch.arange(-2, 3, dtype=torch.float64).square()
    disk = (squares + squares.unsqueeze(1) <= radius**2).double()
    taps = torch.exp(-squares[1:4] / (2 * smoothing**2))
    disk = F.conv2d(disk[None, None], torch.outer(taps, taps)[None, None], padding=1)[0, 0]
    return disk / disk.sum()


def _blurred(x: Tensor, sigma: float, truncate: float = 4, mirrored: bool = False) -> Tensor:
    """x under a Gaussian cut off at `truncate` sigmas; beyond the edges it is mirrored, or the edge goes on."""
    height, width = (_gaussian(n, sigma, truncate, mirrored).to(x) for n in x.shape[2:])
    return height @ x @ width.T


def _gaussian(n: int, sigma: float, truncate: float, mirrored: bool) -> Tensor:
    """The matrix [n, n] that blurs a column of n pixels; its rows sum to 1."""
    radius = int(truncate * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1)
    weights = torch.exp(-0.5 * (offsets / max(sigma, 1e-9)).double() ** 2)
    places = torch.arange(n).unsqueeze(1) + offsets
    if mirrored:
        places = places % (2 * n)
        places = torch.where(places < n, places, 2 * n - 1 - places)
    weights = (weights / weights.sum()).expand(places.shape)
    return torch.zeros(n, n, dtype=torch.float64).scatter_add_(1, places.clamp(0, n - 1), weights)


def _blocks(n: int, blocks: int) -> Tensor:
    """The matrix [n, n] that replaces n pixels by the means of so many blocks: a pixel is where its middle is."""
    block = (2 * torch.arange(n) + 1) * blocks // (2 * n)
    same = (block == block.unsqueeze(1)).double()
    return same / same.sum(1, keepdim=True)


def _moved(x: Tensor, radius: int, sigma: float, degrees: Tensor) -> Tensor:
    """Motion blur as ImageMagick's: half a Gaussian on the pixels along a ray, at an angle [B] for every image."""
    taps = torch.arange(2 * radius + 1, dtype=torch.float64, device=x.device)
    weights = torch.exp(-(taps**2) / (2 * sigma**2))
    ray = torch.deg2rad(degrees).reshape(-1, 1, 1)
    rows, columns = _grid(x)
    found = torch.zeros_like(x)
    for tap, weight in zip(taps, weights / weights.sum(), strict=True):
        down, across = ((tap * part - 0.5).ceil().long() for part in (ray.sin(), ray.cos()))
        found += weight * _picked(x, rows + down, columns + across)
    return found


def _zoomed(x: Tensor, factor: float) -> Tensor:
    """The middle of x, enlarged to the size of x, bilinearly."""
    for dim in (2, 3):
        n = x.shape[dim]
        kept = math.ceil(n / factor)
        x = x.narrow(dim, (n - kept) // 2, kept)
        size = [*x.shape[2:]]
        size[dim - 2] = round(kept * factor)
        x = F.interpolate(x, size, mode="bilinear", align_corners=True)
        x = x.narrow(dim, (x.shape[dim] - n) // 2, n)
    return x


def _plasma(draws: Draws, size: int, roughness: float) -> Tensor:
    """Clouds in [0, 1] by the diamond-square algorithm on a torus, [B, 1, n, n], n the power of 2 from `size` on.

    With every halving of the grid, the amplitude of the noise is divided by ``roughness**2``.
    """
    n = 1 << (size - 1).bit_length()
    clouds = torch.zeros(len(draws.ids), n, n, dtype=torch.float64, device=draws.ids.device)
    step, amplitude = n, 1.0
    while step >= 2:
        half, cells = step // 2, n // step
        wobbles = draws.uniform(3, cells, cells, low=-amplitude, high=amplitude)
        corners = clouds[:, ::step, ::step]
        beside = corners + corners.roll(-1, 2)
        below = corners + corners.roll(-1, 1)
        clouds[:, half::step, half::step] = (beside + beside.roll(-1, 1)) / 4 + wobbles[:, 0]
        middles = clouds[:, half::step, half::step]
        clouds[:, ::step, half::step] = (beside + middles + middles.roll(1, 1)) / 4 + wobbles[:, 1]
        clouds[:, half::step, ::step] = (below + middles + middles.roll(1, 2)) / 4 + wobbles[:, 2]
        step, amplitude = half, amplitude / roughness**2
    clouds -= clouds.amin((1, 2), keepdim=True)
    return (clouds / clouds.amax((1, 2), keepdim=True)).unsqueeze(1)


def _relief(drops: Tensor) -> Tensor:
    """How bright the drops, bool [B, 1, H, W], are made by a light from above left: 0 to 255.

    Height is the rank of the distance to the nearest outline, at most 20 pixels, among those of the image.
    """
    inside = -F.max_pool2d(-drops.double(), 3, 1, 1)
    distance = torch.where(drops & (inside == 0), 0.0, 20.0).double()
    for _ in range(20):
        # Of the three by three nearest, those at the corners are further away.
        beside = [(F.max_pool2d(-distance, (1, 3), 1, (0, 1)), 1), (F.max_pool2d(-distance, (3, 1), 1, (1, 0)), 1)]
        beside += [(F.max_pool2d(-distance, 3, 1, 1), math.sqrt(2))]
        distance = torch.stack([distance, *(length - nearest for nearest, length in beside)]).amin(0)
    box = distance.new_full((3, 3), 1 / 9)
    # Means are often whole numbers, to rounding, which must not decide.
    distance = (_filtered(distance, box) + 1e-6).floor().long().flatten(1)
    counts = F.one_hot(distance, 21).sum(1).double()
    first = counts.gather(1, distance.amin(1, keepdim=True))
    ranks = (counts.cumsum(1) - first) / (distance.shape[1] - first).clamp_min(1)
    height = (255 * ranks).round().gather(1, distance).reshape(drops.shape)
    lit = _filtered(height, height.new_tensor([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])).clamp(0, 255)
    return _filtered(lit, box)
