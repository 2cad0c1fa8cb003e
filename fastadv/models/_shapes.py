"""What networks say of samples that they cannot take."""

from collections.abc import Sequence

from torch import nn

IMAGES = "(channels, height, width)"


def not_of(network: nn.Module, takes: str, shape: Sequence[int]) -> ValueError:
    """The error of a `network` for samples of another `shape` than it `takes`."""
    name = type(network).__name__
    fix = "resize the samples, or choose another network"
    return ValueError(f"{name} takes samples of {takes}, got {tuple(shape)}: {fix}")
