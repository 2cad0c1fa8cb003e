"""Figures, written as PNG files."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import torch
from matplotlib.figure import Figure

from ..attacks import Attack
from ..attacks._ascend import Model, isolated
from ..data import Dataset
from ..evaluation import AACurve

matplotlib.use("Agg")


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path, dpi=150, bbox_inches="tight")
    return path


def plot_aa_curves(curves: Mapping[str, AACurve], theta: float, attack: str, path: Path) -> Path:
    """AA(eps) of several models under one attack, to twice `theta`, which bounds the average that the legend gives."""
    figure = Figure(figsize=(6, 4))
    axes = figure.subplots()
    budgets = [2 * theta * i / 200 for i in range(201)]
    for name, curve in curves.items():
        label = f"{name}: avg-AA({theta:g}) = {100 * curve.average(theta):.1f}"
        axes.plot(budgets, [100 * curve(eps) for eps in budgets], label=label)
    axes.axvline(theta, color="0.7", linewidth=1, linestyle="--")
    axes.set(xlabel=f"budget eps ({attack}, RMS norm)", ylabel="adversarial accuracy AA(eps), %")
    axes.set(xlim=(0, 2 * theta), ylim=(0, 100))
    axes.grid(alpha=0.3)
    axes.legend()
    return _save(figure, path)


def plot_history(histories: Mapping[str, Sequence[Mapping[str, float]]], path: Path) -> Path:
    """Training accuracies over the epochs: clean solid, on the method's own adversarial samples dashed."""
    figure = Figure(figsize=(6, 4))
    axes = figure.subplots()
    for i, (name, history) in enumerate(histories.items()):
        for key, style in (("clean_accuracy", "-"), ("adversarial_accuracy", "--")):
            if key in history[0]:
                label = f"{name}, {key.split('_')[0]}"
                values = [100 * row[key] for row in history]
                axes.plot([row["epoch"] for row in history], values, style, color=f"C{i}", marker=".", label=label)
    axes.set(xlabel="epoch", ylabel="accuracy on training data, %", ylim=(0, 100))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return _save(figure, path)


def plot_examples(models: Mapping[str, Model], data: Dataset, attack: Attack, path: Path, count: int = 6) -> Path:
    """A grid for the first sample of each of `count` classes: clean image, then perturbation and adversarial image.

    A pair of rows a model; above each image what the model predicts, red where that is wrong. The perturbation is
    stretched so that its largest entry is black or white, and its size is given as the largest entry and as RMS.
    Raises ValueError for data that are not images.
    """
    if len(data.sample_shape) != 3:
        raise ValueError(f"examples can be drawn of images only, not of samples of shape {data.sample_shape}")
    places = [int((data.y == k).nonzero()[0]) for k in range(len(data.classes)) if bool((data.y == k).any())][:count]
    chosen = data.subset(torch.tensor(places, device=data.y.device))
    x, y, lo, hi = chosen.x, chosen.y, *data.bounds
    figure = Figure(figsize=(1.45 * len(x), 1.75 * 3 * len(models)))
    grid = figure.subplots(3 * len(models), len(x), squeeze=False)
    for m, (name, model) in enumerate(models.items()):
        x_adv = attack(model, x, y, torch.tensor(places, device=x.device))
        with isolated(model), torch.no_grad():
            predictions = [model(x).argmax(1), None, model(x_adv).argmax(1)]
        delta = x_adv - x
        scale = delta.flatten(1).abs().amax(1).clamp_min(1e-12).view(-1, 1, 1, 1)
        pictures = [x, delta / scale / 2 * (hi - lo) + (lo + hi) / 2, x_adv]
        for r, (title, picture, predicted) in enumerate(
            zip(("clean", "perturbation", "adversarial"), pictures, predictions, strict=True)
        ):
            for i, axes in enumerate(grid[3 * m + r]):
                image = picture[i].permute(1, 2, 0).numpy(force=True)
                axes.imshow(
                    image.squeeze(2) if image.shape[2] == 1 else (image - lo) / (hi - lo), "gray", vmin=lo, vmax=hi
                )
                axes.set(xticks=[], yticks=[])
                if predicted is None:
                    sizes = f"max {delta[i].abs().max():.3f}\nRMS {delta[i].square().mean().sqrt():.3f}"
                    axes.set_title(sizes, fontsize=8)
                else:
                    wrong = bool(predicted[i] != y[i])
                    axes.set_title(data.classes[predicted[i]], fontsize=8, color="tab:red" if wrong else "black")
                if i == 0:
                    axes.set_ylabel(f"{name}\n{title}", fontsize=8)
    budget = f" at eps {attack.eps:g}" if hasattr(attack, "eps") else ""
    figure.suptitle(f"{type(attack).__name__}{budget}; predicted class, red where wrong", y=0.93, fontsize=9)
    figure.subplots_adjust(hspace=0.45)
    return _save(figure, path)
