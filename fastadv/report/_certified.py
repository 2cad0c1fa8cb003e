"""Both sides of robust accuracy: what is certified below it, and what attacks leave above it."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from ..evaluation import Certificate, Evaluation, IntervalBounds, RandomizedSmoothing
from ._plots import legend_below, look, save

CLASSIFIERS = {kind.__name__: kind.subject for kind in (IntervalBounds, RandomizedSmoothing)}
"""What a certificate is about, by the class of its method."""


class CertifiedRow(NamedTuple):
    """An accuracy in [0, 1] that is certain at a budget, its 95% Wilson interval, and what attacks leave there.

    `classifier`: which one it is of. `attacked` is None where that is not the one that was attacked.
    """

    certificate: str
    classifier: str
    norm: str
    eps: float
    certified: float
    low: float
    high: float
    attacked: float | None
    median_radius: float


class Band(NamedTuple):
    """Per sample, the size below which nothing fools the network, and the smallest at which something did."""

    radii: np.ndarray
    attacked: np.ndarray


def certified_rows(evaluation: Evaluation, budgets: Iterable[float] = ()) -> list[CertifiedRow]:
    """A row for each certificate and each of its budgets: 0, those of attacks in its norm, and `budgets`."""
    rows = []
    for name, found in evaluation.certificates.items():
        attacks = [each for each in evaluation.results.values() if each.attack.norm == found.method.norm]
        own = {each.eps for each in attacks if each.attack.has_budget and isinstance(each.eps, int | float)}
        rows += [_row(name, found, eps) for eps in sorted({0.0, *own, *(budgets if own else ())})]
    return rows


def _row(name: str, found: Certificate, eps: float) -> CertifiedRow:
    attacked = None if found.attacked is None else found.upper(eps)
    about = name, found.method.subject, found.method.norm, float(eps)
    return CertifiedRow(*about, found.certified(eps), *found.interval(eps), attacked, float(found.radii.median()))


def plot_band(bands: Mapping[str, Band], norm: str, path: Path, *, among: Sequence[str] = ()) -> Path:
    """For each model, the band that its robust accuracy lies in at every size of perturbations, on a logarithmic axis.

    Both edges are exact: steps, where a sample is no longer certified, and where one is fooled.
    """
    figure = Figure(figsize=(5, 3.8), layout="constrained")
    axes = figure.subplots()
    for name, band in bands.items():
        sizes = np.concatenate([*band])
        sizes = np.unique(sizes[np.isfinite(sizes) & (sizes > 0)])
        if not len(sizes):
            continue
        sizes = np.array([sizes[0] / 2, *sizes, 2 * sizes[-1]])
        low, high = (100 * (each > sizes[:, None]).mean(1) for each in band)
        how = look(name, among or list(bands), f"{name}: certified to attacked")
        axes.fill_between(sizes, low, high, step="post", alpha=0.25, linewidth=0, color=how["color"])
        axes.step(sizes, high, where="post", **how)
        axes.step(sizes, low, where="post", color=how["color"], linestyle="--")
    axes.set(xscale="log", xlabel=f"size of perturbations ({norm})", ylabel="robust accuracy, %", ylim=(0, 100))
    axes.grid(alpha=0.3)
    legend_below(figure)
    return save(figure, path)


def plot_smoothed(radii: Mapping[str, np.ndarray], path: Path, *, among: Sequence[str] = ()) -> Path:
    """The certified accuracy of smoothed classifiers over the size of perturbations in L2."""
    figure = Figure(figsize=(5, 3.8), layout="constrained")
    axes = figure.subplots()
    for name, each in radii.items():
        sizes = np.array([0.0, *np.unique(each[each > 0])])
        how = look(name, among or list(radii), f"smoothed {name}")
        axes.step(sizes, 100 * (each > sizes[:, None]).mean(1), where="post", **how)
    axes.set(xlabel="size of perturbations (l2)", ylabel="certified accuracy of the smoothed classifier, %")
    axes.set(xlim=(0, None), ylim=(0, 100))
    axes.grid(alpha=0.3)
    legend_below(figure)
    return save(figure, path)
