"""Whose code runs: that of models and data which are named, and of classes that settings name. SECURITY.md lists it."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jsonargparse
from jsonargparse._actions import NonParsingAction
from jsonargparse._common import parsing_settings

_GIVEN = "FASTADV_TRUSTED"  # in the environment, where the processes that a command starts find it


class Trusted(NonParsingAction):
    """``--trusted``: `trusting` reads it, before anything is imported. No YAML file can give it."""

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs | {"choices": ["true", "false"], "default": jsonargparse.SUPPRESS})

    def __call__(self, *_: Any) -> None:
        pass


@contextmanager
def trusting(args: Sequence[str]) -> Iterator[None]:
    """Within it, code runs as the ``--trusted`` among the arguments of a command says.

    ``false`` runs none that comes from elsewhere. ``true`` runs all of it. Without the flag, models and data that are
    named run theirs; classes and functions that settings name must be fastadv's.
    """
    given = re.findall(r"^--trusted[\n=](.*)$", "\n".join(args), re.MULTILINE)
    before, policy = os.environ.get(_GIVEN), dict(parsing_settings)
    if given:
        os.environ[_GIVEN] = given[-1]
    if os.environ.get(_GIVEN) != "true":
        jsonargparse.set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=["fastadv"])
    try:
        yield
    finally:
        parsing_settings.update(policy)
        os.environ.pop(_GIVEN, None)
        if before is not None:
            os.environ[_GIVEN] = before


def require_trust(given: str, what: str) -> None:
    """Raises ValueError where ``--trusted false`` forbids to run the code of `given`, which is `what`."""
    if os.environ.get(_GIVEN) == "false":
        raise ValueError(f"{given} is {what} and runs code, which --trusted false forbids")
