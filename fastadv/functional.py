"""Every attack as a function: ``x_adv = fastadv.functional.pgd(model, x, y, eps=0.1)``, named as in ``ATTACKS``.

Options are the fields of the attack's class, by name; ``help(fastadv.functional.pgd)`` lists them.
"""

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor

from .attacks import ATTACKS, Attack, Model

__all__ = [*ATTACKS]


def _twin(name: str, kind: type[Attack]) -> Callable[..., Tensor]:
    known = inspect.signature(kind).parameters

    def twin(model: Model, x: Tensor, y: Tensor | None = None, *, ids: Tensor | None = None, **options: Any) -> Tensor:
        if unknown := [option for option in options if option not in known]:
            raise TypeError(f"{name} has no option {', '.join(unknown)}; it has {', '.join(known)}")
        return kind(**options)(model, x, y, ids)

    own = [p for p in inspect.signature(twin).parameters.values() if p.kind is not p.VAR_KEYWORD]
    options = [option.replace(kind=option.KEYWORD_ONLY) for option in known.values()]
    twin.__name__ = twin.__qualname__ = name
    twin.__doc__ = f"``attacks.{kind.__name__}(**options)(model, x, y, ids)``: {inspect.getdoc(kind)}"
    twin.__signature__ = inspect.Signature([*own, *options], return_annotation=Tensor)
    return twin


globals().update({name: _twin(name, kind) for name, kind in ATTACKS.items()})


def __getattr__(name: str) -> Callable[..., Tensor]:
    raise AttributeError(f"fastadv.functional has no attack {name!r}: choose one of {', '.join(ATTACKS)}")
