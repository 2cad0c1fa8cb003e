from collections.abc import Callable

from fastadv import ops

from ._case import Case, columns, samples


def usual(x_adv, x, norms, eps, rho, active):
    factor = rho * (eps / norms).clamp(max=1)
    x_adv.copy_(x + factor.view(-1, 1, 1, 1) * (x_adv - x))


def cutoff(mean: bool) -> Callable:
    def arguments(shape: tuple[int, ...]) -> tuple:
        x_adv, _, x = samples(shape)
        return x_adv, x, ops.row_norms(x_adv, "l2", x), None if mean else columns(shape, 2.0)[0], 0.9, None

    return arguments


CASES = [Case("cutoff_scale", cutoff(False), (2, 1), usual), Case("cutoff_scale mean", cutoff(True), (2, 1))]
