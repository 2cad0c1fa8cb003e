"""Where attacks land, as a table and as a picture."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from torch import Tensor

from ._plots import save
from ._text import write_csv


def write_confusion(confusion: Tensor, classes: Sequence[str], path: Path) -> Path:
    """Counts [K, K] as CSV at `path`, which is returned: a row a true class, a column a predicted one."""
    lines = ([name, *counts] for name, counts in zip(classes, confusion.tolist(), strict=True))
    return write_csv(path, [["true class", *classes], *lines])


def plot_confusion(confusion: Tensor, classes: Sequence[str], title: str, path: Path) -> Path:
    """Counts [K, K] as percentages of the true class, which is the row."""
    shares = 100 * confusion.double() / confusion.sum(1, keepdim=True).clamp_min(1)
    size = 2 + 0.45 * len(classes)
    figure = Figure(figsize=(size, size), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares.numpy(force=True), "Blues", vmin=0, vmax=100)
    for i, line in enumerate(shares.tolist()):
        for j, share in enumerate(line):
            axes.text(
                j, i, f"{share:.0f}", ha="center", va="center", fontsize=7, color="white" if share > 50 else "0.3"
            )
    places = range(len(classes))
    axes.set_xticks(places, classes, rotation=60, ha="right", fontsize="small")
    axes.set_yticks(places, classes, fontsize="small")
    axes.set(xlabel="predicted under attack, % of the row", ylabel="true class")
    axes.set_title(title, fontsize="medium", wrap=True)
    return save(figure, path)
