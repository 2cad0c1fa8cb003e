"""What the commands say and show."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

console = Console(width=None if sys.stdout.isatty() else 130)


@contextmanager
def progress(title: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A bar with rate and remaining time, advanced by calls of (done, in all); nothing where output is no terminal."""
    rate = TextColumn(f"{{task.fields[rate]:.1f}} {unit}/s")
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), rate]
    bar = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True)
    started = time.monotonic()
    with bar if console.is_terminal else nullcontext():
        task = bar.add_task(title, total=None, rate=0.0)

        def step(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, rate=done / (time.monotonic() - started))

        yield step


def say(line: str) -> None:
    console.print(line, highlight=False, soft_wrap=True)
