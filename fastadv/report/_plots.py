"""Figures, written as PNG or SVG files."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from matplotlib import colormaps, rc_context
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import LogFormatter
from torch import Tensor

from .. import ops
from ..attacks import Attack, Model, classify
from ..data import Batch, Placed, Samples
from ..evaluation import AACurve
from ..runs import replace_file

History = Sequence[Mapping[str, float]]


def save(figure: Figure, path: Path) -> Path:
    """Writes a figure as PNG or SVG, all of it or nothing, the same bytes for the same figure.

    Names in it are text: a dollar sign begins no formula. Raises OSError where the file cannot be written.
    """
    for text in figure.findobj(Text):
        text.set_parse_math(False)
        text.set_wrap(text.get_wrap() and "$" not in text.get_text())  # to wrap it, matplotlib would parse it still
    for axes in figure.axes:
        if axes.get_xscale() == "log":
            axes.xaxis.set_major_formatter("{x:g}")  # the usual ones write powers as formulas
            axes.xaxis.set_minor_formatter(LogFormatter())
    metadata = {"Date": None} if path.suffix == ".svg" else None
    how = {"format": path.suffix[1:], "dpi": 150, "bbox_inches": "tight", "metadata": metadata}
    with rc_context({"svg.hashsalt": "fastadv", "text.parse_math": False}):  # the latter for ticks that are yet to come
        replace_file(path, lambda file: figure.savefig(file, **how))
    return path


def in_legend(name: str) -> str:
    """A name as legends show it: matplotlib leaves out those that begin with an underscore."""
    return f"\u200b{name}" if name.startswith("_") else name


def plot_lines(
    lines: Mapping[str, Mapping[float, float]],
    xlabel: str,
    ylabel: str,
    path: Path,
    *,
    percent: bool = False,
    among: Sequence[str] = (),
    notes: Mapping[str, str] | None = None,
) -> Path:
    """A line an entry, y by x; `percent` for y from 0 to 100. `notes` stand behind the names in the legend.

    `among`, here and below: all names that several figures show, so that each has the same colour in all of them.
    """
    figure = Figure(figsize=(5, 3.8), layout="constrained")
    axes = figure.subplots()
    for label, points in lines.items():
        x = sorted(points)
        shown = f"{label}: {notes[label]}" if notes else label
        axes.plot(x, [points[value] for value in x], marker=".", **look(label, among or list(lines), shown))
    axes.ticklabel_format(useOffset=False)
    axes.set(xlabel=xlabel, ylabel=ylabel, **({"ylim": (0, 100)} if percent else {}))
    if xlabel == "epoch":
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    axes.grid(alpha=0.3)
    legend_below(figure)
    return save(figure, path)


def _style(i: int) -> str:
    """Of the line at place `i`: there are ten colours."""
    return ("-", ":", "--", "-.")[i // 10 % 4]


def look(name: str, among: Sequence[str], label: str = "") -> dict[str, str]:
    place = list(among).index(name)
    return {"color": f"C{place}", "linestyle": _style(place), "label": in_legend(label or name)}


def legend_below(figure: Figure) -> None:
    """A legend for which the figure grows, if there are many names."""
    handles, names = figure.axes[0].get_legend_handles_labels()
    columns = max(1, min(4, len(names), 50 // max(map(len, names))))
    figure.set_figheight(figure.get_figheight() + 0.22 * max(0, -(-len(names) // columns) - 4))
    figure.legend(handles, names, loc="outside lower center", ncols=columns, fontsize="medium")


def plot_distances(
    curves: Mapping[str, AACurve], limit: float, attack: str, path: Path, *, among: Sequence[str] = ()
) -> Path:
    """How many of the samples that are classified correctly first change their class at which perturbation size.

    What takes more than `limit` is counted in the last of 40 bins.
    """
    figure = Figure(figsize=(5, 3.8), layout="constrained")
    axes = figure.subplots()
    edges = torch.linspace(0, limit, 41)
    for name, curve in curves.items():
        nearest = curve.flips[curve.correct].amin(1).clamp(max=limit)
        counts = torch.histogram(nearest.cpu().float(), edges)[0]
        label = f"{name}: {int(curve.correct.sum())} correct"
        axes.stairs(counts.tolist(), edges.tolist(), **look(name, among or list(curves), label))
    axes.set(xlabel=f"margin: size of the smallest perturbation ({attack}, RMS norm)", ylabel="test samples")
    axes.set(xlim=(0, limit), ylim=(0, None))
    axes.grid(alpha=0.3)
    legend_below(figure)
    return save(figure, path)


def plot_heat_map(values: Mapping[str, Mapping[str, float]], path: Path) -> Path:
    """Percentages by row and column, each written into its square; what is missing is left white."""
    columns = list(dict.fromkeys(column for row in values.values() for column in row))
    figure = Figure(figsize=(max(5, 3 + 0.5 * len(columns)), 2 + 0.25 * len(values)), layout="constrained")
    axes = figure.subplots()
    grid = [[row.get(column, math.nan) for column in columns] for row in values.values()]
    axes.imshow(grid, cmap="viridis", vmin=0, vmax=100, aspect="auto")
    for i, j in ((i, j) for i in range(len(grid)) for j in range(len(columns)) if not math.isnan(grid[i][j])):
        colour = "w" if grid[i][j] < 60 else "k"
        axes.text(j, i, f"{grid[i][j]:.1f}", ha="center", va="center", color=colour, fontsize=8)
    axes.set_xticks(range(len(columns)), columns, rotation=60, ha="right", fontsize="small")
    axes.set_yticks(range(len(values)), list(values), fontsize="small")
    return save(figure, path)


def plot_bars(values: Mapping[str, Mapping[str, float]], xlabel: str, path: Path, *, among: Sequence[str] = ()) -> Path:
    """Percentages: a group of bars for each inner name, one above the other, in it a bar an entry."""
    names = list(dict.fromkeys(name for bars in values.values() for name in bars))
    height = 0.8 / len(values)
    figure = Figure(figsize=(5, 1.5 + len(names) * max(0.22, 0.12 * len(values))), layout="constrained")
    axes = figure.subplots()
    for i, (label, bars) in enumerate(values.items()):
        places = [names.index(name) + (i + 0.5) * height - 0.4 for name in bars]
        colour = look(label, among or list(values))["color"]
        axes.barh(places, list(bars.values()), height, color=colour, label=in_legend(label))
    axes.set_yticks(range(len(names)), names, fontsize="small")
    axes.set(xlabel=xlabel, xlim=(0, 100), ylim=(len(names) - 0.5, -0.5))
    axes.grid(axis="x", alpha=0.3)
    legend_below(figure)
    return save(figure, path)


def draw_panels(
    panels: Mapping[str, Mapping[str, Mapping[float | None, float]]], xlabel: str, ylabel: str, title: str = ""
) -> Figure:
    """A panel an entry, and in it a line an entry, y by x; a y at None is a dashed line across. One legend for all."""
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(3.5 * columns + 3, 3 * rows + 1), layout="constrained")
    for place, (name, lines) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(rows, columns, place)
        for i, (label, points) in enumerate(lines.items()):
            x = sorted(value for value in points if value is not None)
            axes.plot(x, [points[value] for value in x], _style(i), color=f"C{i}", marker=".", label=in_legend(label))
            if None in points:
                axes.axhline(points[None], color=f"C{i}", linestyle="--", linewidth=1)
        axes.set_title(name, fontsize="medium")
        axes.grid(alpha=0.3)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right center", fontsize="small")
    figure.supxlabel(xlabel, fontsize="medium")
    figure.supylabel(ylabel, fontsize="medium")
    figure.suptitle(title, fontsize="medium", wrap=True)
    return figure


def plot_aa_curves(
    curves: Mapping[str, AACurve], theta: float, attack: str, path: Path, *, among: Sequence[str] = ()
) -> Path:
    """AA(eps) of several models under one attack, to twice `theta`, which bounds the average that the legend gives."""
    figure = Figure(figsize=(5, 3.8), layout="constrained")
    axes = figure.subplots()
    budgets = [2 * theta * i / 200 for i in range(201)]
    for name, curve in curves.items():
        label = f"{name}: avg-AA({theta:g}) = {100 * curve.average(theta):.1f}"
        axes.plot(budgets, [100 * curve(eps) for eps in budgets], **look(name, among or list(curves), label))
    axes.axvline(theta, color="0.7", linewidth=1, linestyle="--")
    axes.set(xlabel=f"budget eps ({attack}, RMS norm)", ylabel="adversarial accuracy AA(eps), %")
    axes.set(xlim=(0, 2 * theta), ylim=(0, 100))
    axes.grid(alpha=0.3)
    legend_below(figure)
    return save(figure, path)


def plot_history(histories: Mapping[str, History], path: Path) -> Path:
    """Training accuracies over the epochs: clean solid, on the method's own adversarial samples dashed.

    Dotted where a method reports one for both kinds.
    """
    figure = Figure(figsize=(6, 4))
    axes = figure.subplots()
    for i, (name, history) in enumerate(histories.items()):
        for key, style in (("clean_accuracy", "-"), ("adversarial_accuracy", "--"), ("accuracy", ":")):
            if key in history[0]:
                label = in_legend(f"{name}, {key.split('_')[0]}")
                values = [100 * row[key] for row in history]
                axes.plot([row["epoch"] for row in history], values, style, color=f"C{i}", marker=".", label=label)
    axes.set(xlabel="epoch", ylabel="accuracy on training data, %", ylim=(0, 100))
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return save(figure, path)


def draw_gradients(panels: Mapping[str, Mapping[str, History]], title: str, path: Path) -> Path:
    """Gradients that training took for a sample, over the epochs: a panel an entry, and in it a line a history."""
    lines = {
        panel: {name: {row["epoch"]: row["gradients"] for row in history} for name, history in histories.items()}
        for panel, histories in panels.items()
    }
    figure = draw_panels(lines, "epoch", "gradients a sample", title)
    for axes in figure.axes:
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axes.set_ylim(bottom=0)
    return save(figure, path)


def plot_gradients(histories: Mapping[str, History], path: Path) -> Path:
    """Gradients that the attack of each method took for a sample, over the epochs; of methods that count them."""
    return draw_gradients({"": histories}, "", path)


def plot_margins(histograms: Mapping[str, Tensor], path: Path) -> Path:
    """How many samples [epochs, levels] have a margin of how many grey levels, at the end of up to six epochs.

    A panel for each of `histograms`, by title.
    """
    figure = Figure(figsize=(6 * len(histograms), 4), layout="constrained")
    panels = figure.subplots(1, len(histograms), sharex=True, sharey=True, squeeze=False)[0]
    largest = max(int(counts.sum(0).nonzero().max()) if bool(counts.any()) else 1 for counts in histograms.values())
    for axes, (title, histogram) in zip(panels, histograms.items(), strict=True):
        epochs = len(histogram)
        shown = sorted({round(1 + i * (epochs - 1) / 5) for i in range(6)})
        colours = colormaps["viridis"].resampled(len(shown))
        for i, epoch in enumerate(shown):
            counts = histogram[epoch - 1].tolist()
            axes.step(range(len(counts)), counts, where="mid", color=colours(i), label=f"epoch {epoch}")
        axes.set(title=title, xlabel="margin, grey levels", xlim=(-0.5, largest + 0.5), ylim=(0, None))
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("training samples")
    panels[0].legend(fontsize="small")
    return save(figure, path)


def plot_examples(models: Mapping[str, Model], data: Samples, attack: Attack, path: Path, count: int = 6) -> Path:
    """What `attack` makes of the same images on several models; see `draw_examples`."""
    cases = {name: (model, attack) for name, model in models.items()}
    return save(draw_examples(cases, data, _in_words(attack), count), path)


def plot_noise(model: Model, data: Samples, attacks: Mapping[str, Attack], path: Path, count: int = 6) -> Path:
    """What several attacks make of the same images on one model; see `draw_examples`."""
    cases = {name: (model, attack) for name, attack in attacks.items()}
    return save(draw_examples(cases, data, ", ".join(map(_in_words, attacks.values())), count), path)


def _in_words(attack: Attack) -> str:
    return type(attack).__name__ + (f" at eps {attack.eps / attack.unit:.4g}" if attack.has_budget else "")


def _first_of_each(data: Samples, count: int) -> Batch:
    """The first sample of each of `count` classes: the first classes, or, of data without places, those met first."""
    if isinstance(data, Placed):
        places = [int((data.y == k).nonzero()[0]) for k in range(len(data.classes)) if bool((data.y == k).any())]
        return data.at(torch.tensor(places[:count], device=data.device))
    found: dict[int, Batch] = {}
    for batch in data.batches(64):
        for each in batch.split(1):
            found.setdefault(int(each.y), each)
        if len(found) >= min(count, len(data.classes)):
            break
    return Batch(*map(torch.cat, zip(*(found[k] for k in sorted(found)[:count]), strict=True)))


def _class(prediction: int, classes: Sequence[str]) -> str:
    """The name of a predicted class; the number of one that only the model has."""
    if prediction < 0:
        return "NaN"
    return classes[prediction] if prediction < len(classes) else str(prediction)


def draw_examples(cases: Mapping[str, tuple[Model, Attack]], data: Samples, title: str, count: int) -> Figure:
    """A grid for the first sample of each of `count` classes: clean images, perturbations and adversarial images.

    A pair of rows for each of `cases`. The perturbation is stretched so that its largest entry is black or white; above
    it stand that entry, the mean of all and its RMS, as shares of the inputs' range. Above the adversarial image stands
    what the model predicts for the clean one and for this one, in red where the latter is wrong. Of images with other
    than one or three bands, the first three are drawn, of two the first, and the title says so. Raises ValueError for
    data that are not images.
    """
    if len(data.sample_shape) != 3:
        raise ValueError(f"examples can be drawn of images only, not of samples of shape {data.sample_shape}")
    (x, y, ids), (lo, hi) = _first_of_each(data, count), data.bounds
    bands = len(x[0])

    rows = 1 + 2 * len(cases)
    figure = Figure(figsize=(1.5 * len(x), 1.75 * rows), layout="constrained")
    grid = figure.subplots(rows, len(x), squeeze=False)

    def draw(row: int, label: str, pictures: Tensor, titles: list[str], wrong: Tensor | None = None) -> None:
        for i, axes in enumerate(grid[row]):
            image = ((pictures[i] - lo) / (hi - lo)).permute(1, 2, 0).numpy(force=True)
            axes.imshow(image[:, :, :3] if bands >= 3 else image[:, :, 0], "gray", vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[])
            axes.set_title(titles[i], fontsize=8, color="tab:red" if wrong is not None and wrong[i] else "black")
        grid[row, 0].set_ylabel(label, fontsize=8)

    draw(0, "clean", x, [data.classes[k] for k in y])
    for m, (name, (model, attack)) in enumerate(cases.items()):
        x_adv = attack.within(data.bounds).seeded(0).rows(model, x, y, ids).x_adv
        before, after = classify(model, x), classify(model, x_adv)
        delta = x_adv - x
        largest, mean = (size / (hi - lo) for size in (delta.flatten(1).abs().amax(1), delta.flatten(1).abs().mean(1)))
        stretched = delta / ops.as_rows(largest.clamp_min(1e-12), x) / 2 + (lo + hi) / 2
        rms = ops.row_norms(x_adv, "rms", x) / (hi - lo)
        sizes = [f"max {a:.3f}, RMS {b:.3f}\nmean {c:.3f}" for a, b, c in zip(largest, rms, mean, strict=True)]
        draw(2 * m + 1, f"{name}\nperturbation", stretched, sizes)
        both = zip(before.tolist(), after.tolist(), strict=True)
        classes = [f"clean: {_class(a, data.classes)}\nhere: {_class(b, data.classes)}" for a, b in both]
        draw(2 * m + 2, f"{name}\nadversarial", x_adv, classes, after != y)
    drawn = "" if bands in (1, 3) else f"; drawn: {'bands 1 to 3' if bands > 3 else 'band 1'} of {bands}"
    figure.suptitle(f"{title}: predicted classes, red where wrong in the end{drawn}", fontsize=9)
    return figure
