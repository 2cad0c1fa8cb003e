"""Accuracy under common corruptions, as a table and as bars."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from rich.table import Table

from ..evaluation import CorruptionAccuracy
from ._plots import save
from ._text import text_table, write_csv


def _lines(found: CorruptionAccuracy, means: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Head, a line a corruption, and a line for each of `means`: accuracies in percent, by severity and on average."""
    severities = list(next(iter(found.accuracy.values())))
    lines = [["corruption", *(f"severity {severity}" for severity in severities), "mean"]]
    for name, accuracy in found.accuracy.items():
        lines.append([name, *(f"{100 * accuracy[severity]:.2f}" for severity in severities)])
        lines[-1].append(f"{100 * found.mean(name):.2f}")
    blank = [""] * len(severities)
    if found.clean is not None:
        lines.append(["clean", *blank, f"{100 * found.clean:.2f}"])
    return lines + [[title, *blank, f"{100 * found.mean(*names):.2f}"] for title, names in means.items()]


def corruptions_table(found: CorruptionAccuracy, means: Mapping[str, Sequence[str]], title: str) -> Table:
    """Accuracies in percent for a terminal: a line a corruption, a column a severity, and their mean.

    Below them stand the clean accuracy and a line for each of `means`, which hold names of corruptions by title.
    """
    head, *lines = _lines(found, means)
    return text_table(head, lines, left=head[:1], title=title)


def write_corruptions(found: CorruptionAccuracy, means: Mapping[str, Sequence[str]], path: Path) -> Path:
    """The table of `corruptions_table` as CSV at `path`, which is returned."""
    return write_csv(path, _lines(found, means))


def plot_corruptions(found: CorruptionAccuracy, title: str, path: Path) -> Path:
    """A bar a corruption, as high as the mean over severities; a dot a severity, the darker the more severe."""
    figure = Figure(figsize=(max(4.0, 1 + 0.45 * len(found.accuracy)), 4))
    axes = figure.subplots()
    places = range(len(found.accuracy))
    axes.bar(places, [100 * found.mean(name) for name in found.accuracy], color="C0", alpha=0.5)
    dots = [(i, s, 100 * value) for i, each in enumerate(found.accuracy.values()) for s, value in each.items()]
    across, severities, heights = zip(*dots, strict=True)
    axes.scatter(across, heights, c=severities, cmap="Greys", vmin=-2, vmax=6, s=12, zorder=2)
    if found.clean is not None:
        axes.axhline(100 * found.clean, color="0.5", linestyle="--", linewidth=1, label="clean")
        axes.legend(fontsize="small")
    axes.set_xticks(places, found.accuracy, rotation=60, ha="right", fontsize="small")
    axes.set(ylabel="accuracy, %", ylim=(0, 100))
    axes.set_title(title, fontsize="medium", wrap=True)
    axes.grid(axis="y", alpha=0.3)
    return save(figure, path)
