"""What the commands say and show."""

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

console = Console(width=None if sys.stdout.isatty() else 130)


@contextmanager
def progress(title: str, unit: str) -> Iterator[Callable[..., None]]:
    """A bar with rate and remaining time, advanced by calls of (done, in all); nothing where output is no terminal.

    A third argument, figures on any device, is shown twice a second at the most.
    """
    description, rate, said = (
        TextColumn(text, markup=False)
        for text in ("{task.description}", f"{{task.fields[rate]:.1f}} {unit}/s", "{task.fields[said]}")
    )
    columns = [description, BarColumn(), MofNCompleteColumn(), rate, said]
    bar = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True)
    started = time.monotonic()
    with bar if console.is_terminal else nullcontext():
        task = bar.add_task(title, total=None, rate=0.0, said="")
        looked = 0.0

        def step(done: int, total: int, stats: Mapping[str, Any] | None = None) -> None:
            nonlocal looked
            now = time.monotonic()
            if stats and console.is_terminal and now - looked > 0.5:
                looked = now
                bar.update(task, said=figures(stats))
            bar.update(task, completed=done, total=total, rate=done / (now - started))

        yield step


def figures(row: Mapping[str, Any]) -> str:
    """Names and figures, with commas between."""
    return ", ".join(f"{name.replace('_', ' ')} {float(value):.4g}" for name, value in row.items())


@contextmanager
def asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Within it, SIGINT and SIGTERM make what this yields true; a second SIGINT interrupts at once."""
    asked: list[int] = []

    def ask(number: int, _: object) -> None:
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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


def say(line: str, style: str = "") -> None:
    """Prints a line as it is, without markup: names may have brackets in them."""
    console.print(Text(line, style), soft_wrap=True)
