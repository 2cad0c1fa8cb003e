"""Whose code runs: that of models and data which are named, and of classes that settings name. SECURITY.md lists it."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jsonargparse
from jsonargparse._actions import NonParsingAction
from jsonargparse._common import parsing_settings

_GIVEN, _TYPED = "FASTADV_TRUSTED", "FASTADV_TYPED"
"""In the environment, where the processes that a command starts find them: the flag, and what was typed, by lines."""


class Trusted(NonParsingAction):
    """``--trusted``: `trusting` reads it, before anything is imported. No YAML file can give it."""

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs | {"choices": ["true", "false"], "default": jsonargparse.SUPPRESS})

    def __call__(self, *_: Any) -> None:
        pass


@contextmanager
def trusting(args: Sequence[str]) -> Iterator[None]:
    """Within it, code runs as the ``--trusted`` among the arguments of a command says.

    ``false`` runs none that comes from elsewhere. ``true`` runs all of it but what runs commands, such as ``os``.
    Without the flag, models and data run theirs if the command line names them, and not if a file does; classes and
    functions that settings name must be fastadv's.
    """
    given = re.findall(r"^--trusted[\n=](.*)$", "\n".join(args), re.MULTILINE)
    before, policy = {name: os.environ.get(name) for name in (_GIVEN, _TYPED)}, dict(parsing_settings)
    if given:
        os.environ[_GIVEN] = given[-1]
    typed = {_plain(each) for arg in args for each in (arg, arg.partition("=")[2]) if each and "\n" not in each}
    os.environ[_TYPED] = "\n".join(sorted(typed | set((before[_TYPED] or "").splitlines())))
    if os.environ.get(_GIVEN) == "true":
        jsonargparse.set_parsing_settings(import_path_denylist=[])  # and its own: commands, and its own settings
    else:
        jsonargparse.set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=["fastadv"])
    try:
        yield
    finally:
        parsing_settings.update(policy)
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def trust() -> dict[str, str]:
    """The environment of a process, here or elsewhere, that is to trust what this one does."""
    return {name: os.environ[name] for name in (_GIVEN, _TYPED) if name in os.environ}


def require_trust(given: str, what: str) -> None:
    """Raises ValueError where the code of `given`, which is `what`, may not run.

    ``--trusted false`` forbids all; without the flag, a command runs what was typed, and not what a checkpoint or a
    settings file names. Outside of commands everything may run.
    """
    said, typed = os.environ.get(_GIVEN), os.environ.get(_TYPED)
    if said not in (None, "true", "false"):
        raise ValueError(f"{_GIVEN} must be true or false, got {said!r}")
    if said == "false":
        raise ValueError(f"{given} is {what} and runs code, which --trusted false forbids")
    if said is None and typed is not None and _plain(given) not in typed.splitlines():
        raise ValueError(
            f"{given} is {what} and would run code, and a file names it: to allow that, name it on the command line "
            "(data with --data), or give --trusted true"
        )


def _plain(given: str) -> str:
    return str(Path(given))
