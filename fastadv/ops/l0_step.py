"""One step to the sparsest perturbations."""

import torch
from torch import Tensor

from ._op import op
from ._reference import STEP, as_rows, cleaned, compute, flat, norm_of, note, pace, write


@op(STEP.format(""), samples=("x_adv", "grad", "x"), budgets=("step_size", "eps"))
def l0_step(
    x_adv: Tensor,
    grad: Tensor,
    x: Tensor,
    step_size: float | Tensor,
    eps: float | Tensor,
    lo: float = 0.0,
    hi: float = 1.0,
    active: Tensor | None = None,
    nonfinite: Tensor | None = None,
) -> None:
    """One ascent step with few changed entries, in place on `x_adv` [B, ...] (Pintor et al., 2021, L0).

    ``delta = x_adv + step_size * grad / |grad|_2 - x``, of which only the `eps` entries largest in magnitude are left,
    equal ones by lowest index; ``x_adv <- clip(x + delta, lo, hi)``. `step_size` is an L2 norm; `eps` is a number of
    entries, of which a fraction does not count. NaN and infinite gradient entries count as 0.
    """
    note(grad, active, nonfinite)
    grad, origin = cleaned(grad), compute(x)
    scale = as_rows(pace(step_size, norm_of(grad, 2)), x)
    delta = flat(compute(x_adv) + scale * grad - origin)
    place = delta.abs().sort(dim=1, descending=True, stable=True).indices
    rank = torch.empty_like(place).scatter_(1, place, torch.arange(delta.shape[1], device=x.device).expand_as(place))
    kept = torch.where((rank < eps.floor().unsqueeze(1)) | delta.isnan(), delta, 0).reshape(x.shape)
    write(x_adv, (origin + kept).clamp(lo, hi), active)
