"""Names and figures as they are: in tables of a terminal and in CSV files."""

import csv
import io
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from ..runs import write_text


def text_table(
    heads: Sequence[str],
    lines: Iterable[Sequence[str | Text]],
    *,
    left: Collection[str] = (),
    title: str = "",
    caption: str = "",
) -> Table:
    """A table for a terminal, in which brackets are no markup. Columns are right-justified but for those in `left`."""
    shown = Table(title_justify="left", caption_justify="left")
    shown.title = Text(title, "table.title") if title else None
    shown.caption = Text(caption, "table.caption") if caption else None
    for head in heads:
        shown.add_column(Text(head), justify="left" if head in left else "right")
    for line in lines:
        shown.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in line))
    return shown


def write_csv(path: Path, lines: Iterable[Iterable[Any]]) -> Path:
    """Writes a whole CSV file or nothing. Raises OSError where it cannot be written."""
    file = io.StringIO(newline="")
    csv.writer(file).writerows(lines)
    write_text(path, file.getvalue())
    return path
