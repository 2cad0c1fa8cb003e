"""One step of Adam, of Carlini and Wagner's attacks."""

from torch import Tensor

from ._op import Op, op
from ._reference import as_rows, cleaned, compute, note, wide_type, write


def check_moments(op: Op, given: dict) -> None:
    """Adam's two moments are of the samples' shape, and its steps are counted from 1."""
    x = given["x_adv"]
    for name in ("mean", "square"):
        op.like(name, given[name], x.shape, wide_type(x), x)
    if given["count"] < 1:
        raise ValueError(f"{op.name}: count must be at least 1, got {given['count']}")


@op(
    "(Tensor(a!) x_adv, Tensor(b!) mean, Tensor(c!) square, Tensor grad, Tensor slope, Tensor weight, Tensor rate, "
    "int count, float mean_decay=0.9, float square_decay=0.999, float tiny=1e-8, float lo=0., float hi=1., "
    "Tensor? active=None, Tensor(d!)? nonfinite=None) -> ()",
    samples=("x_adv", "grad", "slope"),
    budgets=("weight", "rate"),
    check=check_moments,
)
def adam_step(
    x_adv: Tensor,
    mean: Tensor,
    square: Tensor,
    grad: Tensor,
    slope: Tensor,
    weight: float | Tensor,
    rate: float | Tensor,
    count: int,
    mean_decay: float = 0.9,
    square_decay: float = 0.999,
    tiny: float = 1e-8,
    lo: float = 0.0,
    hi: float = 1.0,
    active: Tensor | None = None,
    nonfinite: Tensor | None = None,
) -> None:
    """Step number `count` of Adam (Kingma and Ba, 2015) down ``slope + weight * grad``, in place on `x_adv` [B, ...].

    `mean` and `square` [B, ...], float32 (float64 for float64 samples), are Adam's two moments, updated in place;
    `weight` and the step size `rate` are numbers of a sample. The result is clipped to [lo, hi]. NaN and infinite
    entries of `grad` count as 0.
    """
    note(grad, active, nonfinite)
    weighted = (as_rows(weight, grad) * cleaned(grad)).to(grad.dtype)
    direction = compute((compute(slope) + compute(weighted)).to(grad.dtype))
    write(mean, mean + (1 - mean_decay) * (direction - mean), active)
    write(square, square_decay * square + (1 - square_decay) * direction * direction, active)
    pace = as_rows(rate / (1 - mean_decay**count), x_adv)
    scale = (square / (1 - square_decay**count)).sqrt() + tiny
    write(x_adv, (compute(x_adv) - pace * mean / scale).clamp(lo, hi), active)
