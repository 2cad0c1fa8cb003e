"""The perturbation sizes that are usual for a data set."""

from .dataset import Dataset

_USUAL = {"mnist": 0.3, "mnist-10k": 0.3, "fashion-mnist": 0.1, "fashion-mnist-mini": 0.1, "two-circles": 0.05}


def usual_eps(name: str, data: Dataset) -> float:
    """The L-infinity budget at which robustness on the data set called `name` is usually measured.

    It is a share of the range of the data, as all budgets of commands are: 0.3 for MNIST, whole or in part, and 0.1 for
    Fashion-MNIST; for other `data` 8/255 where they are images with several channels, and 0.1 where they are not.
    """
    colour = len(data.sample_shape) == 3 and data.sample_shape[0] > 1
    return _USUAL.get(name, 8 / 255 if colour else 0.1)
