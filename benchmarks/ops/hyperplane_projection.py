from collections.abc import Callable

from ._case import Case, samples


def towards(norm: str) -> Callable:
    def arguments(shape: tuple[int, ...]) -> tuple:
        _, normal, x = samples(shape)
        return x, normal, (x * normal).flatten(1).sum(dim=1) + 0.01, norm, 0.0, 1.0

    return arguments


CASES = [Case(f"hyperplane_projection {norm}", towards(norm), (2, 1)) for norm in ("linf", "l2", "l1")]
