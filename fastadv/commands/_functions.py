"""Functions of the user's, named ``package.module:function``: what returns a model or data."""

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from ..data import Dataset, Framing, Placed, Stream, samples_of
from ._terminal import first_line
from ._trust import require_trust


def is_function(given: str) -> bool:
    """Whether `given` names a function, and no file."""
    module, colon, _ = given.partition(":")
    return bool(colon) and module != "hf" and not Path(given).exists()


def call_function(given: str, *arguments: Any) -> Any:
    """What the function returns; the working directory is searched, too. Take code from people you trust: it is run.

    Raises ValueError where it cannot be imported, or fails, or may not run.
    """
    require_trust(given, "a function")
    module, _, function = given.partition(":")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module), function)
    except AttributeError:
        raise ValueError(f"{module} has no {function!r}, which {given} asks for") from None
    except Exception as error:  # whatever the module does when it is imported
        raise ValueError(
            f"cannot import {module!r} for {given}: {first_line(error)}. Give a run folder, a file, or "
            "package.module:function, from the folder that has the package"
        ) from error
    try:
        return found(*arguments)
    except Exception as error:  # whatever the function does
        taken = f"with {arguments[0]!r}" if arguments else "without arguments"
        raise ValueError(f"{given}() failed: {first_line(error)}. It is called {taken}") from error


def samples_from(given: str, split: str, framing: Framing) -> Placed | Stream:
    """The data that the function `given` returns for `split`.

    Raises ValueError where they do not name their classes.
    """
    data = call_function(given, split)
    name = given.rpartition(":")[2]
    if isinstance(data, tuple) and len(data) == 2 and all(isinstance(part, Tensor) for part in data):
        return Dataset(*data, classes=_numbers(int(data[1].max())), name=name)
    if isinstance(data, Iterator):  # which can be walked over once
        data = Stream(lambda: call_function(given, split), name=name)
    found = samples_of(data, framing, name)
    if found.classes:
        return found
    if isinstance(found, Placed):
        return found.named(_numbers(int(found.y.max())))
    raise ValueError(
        f"{given}({split!r}) does not name the classes of its data: let it return "
        "fastadv.data.Stream(loader, classes=('cat', 'dog'))"
    )


def _numbers(last: int) -> tuple[str, ...]:
    return tuple(map(str, range(last + 1)))
