"""One L1 ascent step."""

from torch import Tensor

from ._op import op
from ._reference import STEP, as_rows, cleaned, compute, norm_of, note, pace, simplex, write


@op(STEP.format(""), samples=("x_adv", "grad", "x"), budgets=("step_size", "eps"))
def l1_step(
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
    """One L1 ascent step, in place on `x_adv` [B, ...].

    ``delta = x_adv + step_size * grad / |grad|_1 - x``, replaced by the nearest point of the L1 ball of radius `eps`
    (Duchi et al., 2008); ``x_adv <- clip(x + delta, lo, hi)``. `step_size` and `eps` are L1 norms. NaN and infinite
    gradient entries count as 0.
    """
    note(grad, active, nonfinite)
    grad, origin = cleaned(grad), compute(x)
    scale = as_rows(pace(step_size, norm_of(grad, 1)), x)
    delta = compute(x_adv) + scale * grad - origin
    write(x_adv, (origin + simplex(delta, norm_of(delta, 1), eps)).clamp(lo, hi), active)
