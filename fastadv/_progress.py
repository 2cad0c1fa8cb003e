"""A bar for long work, which fits 80 columns, and figures in words."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

Step = Callable[..., None]

_NOT_BELOW = ("epoch", "images_per_second")  # figures that stand on the line of the bar


@contextmanager
def bar(title: str, unit: str, epochs: int = 0, console: "Console | None" = None) -> Iterator[Step]:
    """A bar with rate and remaining time, and figures on a line below; nothing where output is no terminal.

    It yields what to call with (done, in all). A third argument, figures on any device, is shown twice a second at the
    most: of these, ``epoch`` is told beside `epochs`, and ``images_per_second`` is the rate; without it, `unit` is what
    is counted.
    """
    from rich.console import Console

    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield lambda *_: None
        return

    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Bar(Progress):
        said = ""

        def get_renderables(self) -> Iterable[Any]:
            yield self.make_tasks_table(self.tasks)
            if self.said:
                yield Text(f"  {self.said}", "dim", no_wrap=True, overflow="ellipsis")

    columns = [
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[rate]}", markup=False),
        TimeRemainingColumn(),
    ]
    started, looked = time.monotonic(), 0.0
    with Bar(*columns, console=console, transient=True, expand=console.width < 100) as shown:
        task = shown.add_task(title, total=None, rate="")

        def step(done: int, total: int, stats: Mapping[str, Any] | None = None) -> None:
            nonlocal looked
            now = time.monotonic()
            about: dict[str, Any] = {"rate": f"{done / max(now - started, 1e-9):,.1f} {unit}/s"}
            if stats and now - looked > 0.5:
                looked = now
                shown.said = figures({name: value for name, value in stats.items() if name not in _NOT_BELOW})
            if stats and "epoch" in stats:
                about["description"] = f"{title}: epoch {stats['epoch']}{f'/{epochs}' if epochs else ''}"
            if stats and "images_per_second" in stats:
                about["rate"] = f"{stats['images_per_second']:,.0f} images/s"
            shown.update(task, completed=done, total=total, **about)

        yield step


def figures(row: Mapping[str, Any]) -> str:
    """Names and figures, with commas between."""
    return ", ".join(f"{name.replace('_', ' ')} {float(value):.4g}" for name, value in row.items())
