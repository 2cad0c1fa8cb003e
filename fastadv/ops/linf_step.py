"""One L-infinity ascent step, with or without momentum."""

import torch
from torch import Tensor

from ._op import op
from ._reference import STEP, as_rows, cleaned, compute, flat, norm_of, note, pace, write


@op(
    STEP.format(", Tensor(b!)? momentum=None, float decay=1."),
    samples=("x_adv", "grad", "x", "momentum"),
    budgets=("step_size", "eps"),
)
def linf_step(
    x_adv: Tensor,
    grad: Tensor,
    x: Tensor,
    step_size: float | Tensor,
    eps: float | Tensor,
    lo: float = 0.0,
    hi: float = 1.0,
    active: Tensor | None = None,
    nonfinite: Tensor | None = None,
    momentum: Tensor | None = None,
    decay: float = 1.0,
) -> None:
    """One L-infinity ascent step, in place on `x_adv` [B, ...].

    ``x_adv <- clip(x + clip(x_adv + step_size * sign(grad) - x, -eps, eps), lo, hi)``; NaN and infinite gradients move
    nothing. `step_size` and `eps` are in the units of the pixels; a negative step descends (targeted attacks).

    With `momentum` [B, ...], updated in place, the sign is that of ``momentum <- decay * momentum + grad / mean
    |grad|`` (MIM, Dong et al. 2018), the mean over the sample.
    """
    note(grad, active, nonfinite)
    direction = compute(grad)
    if momentum is not None:
        clean = cleaned(grad)
        count = torch.full((len(x),), flat(x).shape[1], dtype=clean.dtype, device=x.device)
        scale = as_rows(pace(count, norm_of(clean, 1)), x)
        write(momentum, decay * compute(momentum) + scale * clean, active)
        direction = compute(momentum)
    sign = direction.sign().masked_fill(~direction.isfinite(), 0)
    origin, step_size, eps = compute(x), as_rows(step_size, x), as_rows(eps, x)
    delta = torch.minimum(torch.maximum(compute(x_adv) + step_size * sign - origin, -eps), eps)
    write(x_adv, (origin + delta).clamp(lo, hi), active)
