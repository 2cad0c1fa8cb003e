"""The public names of an adapter."""

from collections.abc import Callable, Sequence
from typing import Any


def only(module: str, names: Sequence[str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a `module` whose public names are `names`.

    Any name that the module lacks raises an AttributeError that lists them.
    """

    def missing(name: str) -> Any:
        raise AttributeError(f"{module} has no {name}. It has {', '.join(names)}")

    return missing, lambda: sorted(names)
