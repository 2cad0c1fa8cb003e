from collections.abc import Callable

from ._case import BOX, Case, columns, samples


def towards(norm: str) -> Callable:
    """A boundary close by: every call moves on to the next, and none may leave the box."""

    def arguments(shape: tuple[int, ...]) -> tuple:
        x_adv, normal, x = samples(shape)
        return x_adv, x, normal, *columns(shape, -1e-5), norm, 0.1, 1.0, *BOX

    return arguments


CASES = [Case(f"fab_step {norm}", towards(norm), (3, 1)) for norm in ("linf", "l2", "l1")]
