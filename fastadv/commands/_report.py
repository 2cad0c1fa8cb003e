"""``fastadv report``."""

from collections.abc import Sequence

from .. import report
from ..info import environment
from ..runs import Run
from ._settings import as_yaml
from ._terminal import say


def report_runs(folders: Sequence[str], out: str) -> None:
    """``fastadv report RUN ...``: one page of one or many run folders, and its figures."""
    if not folders:
        raise ValueError("give a run folder, or several: the --out of train, compare, evaluate or reproduce")
    runs = [report.read_run(folder) for folder in folders]
    run = Run(out, as_yaml(runs=list(folders)), environment())
    folder = run.folder
    path = report.write_report(runs, folder)
    say(f"written: {path}, and {len(list(folder.glob('*.svg')))} figures beside it, as PNG and SVG")
