"""One step of sigma-zero."""

import torch
from torch import Tensor

from ._op import op
from ._reference import as_rows, cleaned, compute, norm_of, note, write
from .adam_step import check_moments


@op(
    "(Tensor(a!) x_adv, Tensor(b!) mean, Tensor(c!) square, Tensor grad, Tensor x, Tensor threshold, Tensor rate, "
    "int count, float sigma=0.001, float unit=1., float mean_decay=0.9, float square_decay=0.999, float tiny=1e-8, "
    "float lo=0., float hi=1., Tensor? active=None, Tensor(d!)? nonfinite=None) -> ()",
    samples=("x_adv", "grad", "x"),
    budgets=("threshold", "rate"),
    check=check_moments,
)
def l0_adam_step(
    x_adv: Tensor,
    mean: Tensor,
    square: Tensor,
    grad: Tensor,
    x: Tensor,
    threshold: float | Tensor,
    rate: float | Tensor,
    count: int,
    sigma: float = 0.001,
    unit: float = 1.0,
    mean_decay: float = 0.9,
    square_decay: float = 0.999,
    tiny: float = 1e-8,
    lo: float = 0.0,
    hi: float = 1.0,
    active: Tensor | None = None,
    nonfinite: Tensor | None = None,
) -> None:
    """Step number `count` of sigma-zero (Cina et al., 2025, Algorithm 1), in place on `x_adv` [B, ...].

    With ``delta = (x_adv - x) / unit``, Adam goes down the gradient of ``mean(delta^2 / (delta^2 + sigma))`` less
    ``unit * grad``, divided by its largest entry, with steps of `rate` [B]. The result is clipped to [lo, hi], and
    entries that are nearer to `x` than `threshold` [B] become those of `x`. `mean` and `square` [B, ...], float32
    (float64 for float64 samples), are Adam's two moments, updated in place. NaN and infinite entries of `grad` count
    as 0.
    """
    note(grad, active, nonfinite)
    origin, entries = compute(x), max(1, x[0].numel() if len(x) else 1)
    delta = (compute(x_adv) - origin) / unit
    half = delta * delta + sigma
    down = 2 * sigma / entries * delta / (half * half) - unit * cleaned(grad)
    down = down / as_rows(norm_of(down, torch.inf).to(down.dtype).clamp(min=1e-12), down)
    write(mean, mean + (1 - mean_decay) * (down - mean), active)
    write(square, square_decay * square + (1 - square_decay) * down * down, active)
    pace = as_rows(rate / (1 - mean_decay**count), x_adv)
    scale = (square / (1 - square_decay**count)).sqrt() + tiny
    moved = compute((compute(x_adv) - pace * mean / scale).clamp(lo, hi).to(x_adv.dtype))
    write(x_adv, torch.where((moved - origin).abs() < as_rows(threshold, x), origin, moved), active)
