"""Two circles: the two-dimensional problem whose most robust decision boundary is known."""

import math

import torch

from .dataset import Dataset

RADII = (0.3, 0.7)


def load_two_circles(split: str) -> Dataset:
    """Points on two concentric circles of radius 0.3 ("inner", label 0) and 0.7 ("outer", label 1), without noise.

    x [5000, 2] for train and [1000, 2] for test, bounds (-1, 1); half the points on each circle, alternating, angles
    uniform. Always the same points; the global random state is neither read nor changed. The best possible margin is
    0.2, half the gap. Source: the two-circles classification of the Blind Adversarial Training paper.
    """
    count, seed = {"train": (5000, 0), "test": (1000, 1)}[split]
    generator = torch.Generator().manual_seed(seed)
    angle = 2 * math.pi * torch.rand(count, generator=generator, dtype=torch.float64)
    y = torch.arange(count) % 2
    x = torch.tensor(RADII, dtype=torch.float64)[y, None] * torch.stack([angle.cos(), angle.sin()], dim=1)
    return Dataset(x, y, classes=("inner", "outer"), bounds=(-1.0, 1.0), name="two-circles")
