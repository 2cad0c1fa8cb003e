"""What the commands say and show."""

import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from .._progress import bar, figures

__all__ = ["asked_to_stop", "console", "drawn", "figures", "first_line", "progress", "said_aloud", "say", "stopped_by"]

_heard = [signal.SIGINT]  # the signal that stopped the command last
console = Console(width=None if sys.stdout.isatty() else 130)


def progress(title: str, unit: str, epochs: int = 0) -> AbstractContextManager[Callable[..., None]]:
    """A bar below what is said; see `bar`."""
    return bar(title, unit, epochs, console)


@contextmanager
def asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Within it, SIGINT and SIGTERM make what this yields true; a second SIGINT interrupts at once."""
    asked: list[int] = []

    def ask(number: int, _: object) -> None:
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.append(number)
        _heard[0] = number

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    _heard[0] = signal.SIGINT
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stopped_by() -> int:
    """The signal that this process last heard where it was asked to stop; SIGINT where another process did."""
    return _heard[0]


def drawn(plot: Callable[..., Path], *of: Any) -> list[Path]:
    """The figure that ``plot(*of)`` writes; nothing, after a line of warning, where it cannot be drawn.

    Raises OSError where it cannot be written.
    """
    try:
        return [plot(*of)]
    except OSError:  # a full disk: what is drawn when there is room again is not done yet
        raise
    except Exception as error:  # figures are the last step: none may cost what was measured
        say(f"{Path(of[-1]).name} was not drawn: {first_line(error)}", "yellow")
        return []


def first_line(error: Exception) -> str:
    """An error's kind and the first line of what it says."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


@contextmanager
def said_aloud() -> Iterator[None]:
    """Within it, what goes to the log ``fastadv`` is said; not what `fit` and `evaluate` tell, which commands show."""
    handler, log = logging.Handler(), logging.getLogger("fastadv")
    handler.emit = lambda record: say(record.getMessage())
    handler.addFilter(lambda record: record.name == log.name)
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


def say(line: str, style: str = "") -> None:
    """Prints a line as it is, without markup: names may have brackets in them."""
    console.print(Text(line, style), soft_wrap=True)
