"""The norm of every sample."""

import torch
from torch import Tensor

from ._op import op
from ._reference import column, compute, flat, norm_of

NORMS = ("l1", "l2", "linf", "rms", "l0")


@op(
    "(Tensor x, str norm, Tensor? origin=None) -> Tensor",
    samples=("x", "origin"),
    choices={"norm": NORMS},
    fake=lambda x, norm, origin=None: column(x),
)
def row_norms(x: Tensor, norm: str, origin: Tensor | None = None) -> Tensor:
    """The norm of every sample of `x` [B, ...], or of ``x - origin``: [B], float32 (float64 for float64 samples).

    `norm`: ``l1``, ``l2``, ``linf``; ``rms``, the L2 norm over the square root of the number of elements; or ``l0``,
    how many elements are not 0, which is NaN where one is.
    """
    x = compute(x) if origin is None else compute(x) - compute(origin)
    norms = norm_of(x, {"l0": 0, "l1": 1, "l2": 2, "rms": 2, "linf": torch.inf}[norm])
    return (norms / max(1, flat(x).shape[1]) ** 0.5 if norm == "rms" else norms).to(x.dtype)
