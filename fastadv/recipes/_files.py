"""Files of experiments with programs of their own: each is written whole or not at all."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ..runs import replace_file, write_text


def write_rows(rows: Sequence[Any], path: Path) -> None:
    """Named tuples as CSV."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows([rows[0]._fields, *rows])
    write_text(path, text.getvalue())


def save_figure(figure: Figure, path: Path) -> None:
    """A figure as PNG."""
    replace_file(path, lambda file: figure.savefig(file, format="png", dpi=110))
