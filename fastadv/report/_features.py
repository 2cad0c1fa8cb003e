"""The outputs of layers, drawn in two dimensions."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..evaluation import Features, project
from ._plots import save


def plot_features(features: Features, classes: Sequence[str], method: str, path: Path) -> Path:
    """A row a layer, a column a kind of samples: outputs reduced by `method`, ``pca`` or ``tsne``, in the true classes'
    colours, which repeat after ten. All panels of a row have one projection and one scale. Raises `project`'s errors.
    """
    scores = {(row.layer, row.kind): row for row in features.rows}
    kinds = list(dict.fromkeys(row.kind for row in features.rows))
    present, colour = features.y.unique(return_inverse=True)
    colours = [f"C{i}" for i in colour.tolist()]
    figure = Figure(figsize=(2.8 * len(kinds), 2.8 * len(features.outputs) + 0.4), layout="constrained")
    grid = figure.subplots(len(features.outputs), len(kinds), sharex="row", sharey="row", squeeze=False)
    for line, (layer, outputs) in zip(grid, features.outputs.items(), strict=True):
        for axes, (kind, points) in zip(line, project(outputs, method).items(), strict=True):
            row = scores[layer, kind]
            axes.scatter(*points.numpy().T, s=7, c=colours, alpha=0.6, linewidths=0)
            axes.set_title(f"{kind}: mixing {row.mixing:.2f}, cross-over {row.cross_over:.2f}", fontsize=8)
            axes.set(xticks=[], yticks=[])
        line[0].set_ylabel(layer, fontsize=9)
    names = [classes[k] for k in present.tolist()]
    dots = [Line2D([], [], linestyle="", marker="o", markersize=5, color=f"C{i}") for i in range(len(names))]
    figure.legend(dots, names, loc="outside lower center", ncols=min(5, len(names)), fontsize=8)
    name = {"pca": "PCA", "tsne": "t-SNE"}[method]
    figure.suptitle(f"{name} of the outputs of layers; the scores are of the outputs themselves", fontsize=9)
    return save(figure, path)
