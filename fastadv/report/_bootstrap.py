"""Whether two models differ by more than the choice of the test samples explains."""

import numpy as np
from numpy.typing import ArrayLike


def paired_bootstrap(
    first: ArrayLike, second: ArrayLike, *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """The confidence interval of the mean of ``first - second``, by resampling the samples with replacement.

    Args:
        first: a number for every sample, such as whether a model is right.
        second: the same of another model on the same samples, in the same order.
        confidence: the share of the resampled means that lies inside; as many lie below as above.
        resamples: how many times all samples are drawn.
        seed: of the draws.

    Raises ValueError unless both are rows of equal length. The percentile interval of Efron and Tibshirani, *An
    Introduction to the Bootstrap* (1993), chapter 13.
    """
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if a.ndim != 1 or a.shape != b.shape or not len(a):
        raise ValueError(f"first and second must have a number for each of the same samples, got {a.shape}, {b.shape}")
    # How often each value is drawn is multinomial, and of right and wrong there are only three differences.
    values, counts = np.unique(a - b, return_counts=True)
    draw = np.random.default_rng(seed).multinomial
    means = [draw(len(a), counts / len(a)) @ values / len(a) for _ in range(resamples)]
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
