"""What an attack finds out once: kept from one pass to the next, forgotten when the attack ends."""

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_kept: ContextVar[dict[Hashable, Any] | None] = ContextVar("kept", default=None)


@contextmanager
def keeping(anew: bool = False) -> Iterator[None]:
    """Within it, `kept` is one dictionary; `anew`: not that of the attack around."""
    if _kept.get() is not None and not anew:  # an attack within an attack
        yield
        return
    token = _kept.set({})
    try:
        yield
    finally:
        _kept.reset(token)


def kept() -> dict[Hashable, Any] | None:
    """What has been kept, by keys that hold the identity of a model, and so with the model; None outside attacks."""
    return _kept.get()
