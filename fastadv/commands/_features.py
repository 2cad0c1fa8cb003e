"""``fastadv features``."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from .. import report
from ..attacks import PGD, Attack, FriendlyPGD
from ..data import Dataset, usual_eps
from ..evaluation import features, last_layers, reducer
from ..info import environment
from ..runs import Run, load_checkpoint
from ._networks import load_network
from ._settings import Data, as_yaml, check_samples, first, listed
from ._terminal import console, drawn, progress, say


@dataclass
class Diagnosis:
    """Which layers to look at, on which samples.

    Args:
        layers: names of modules, with commas between; by default the last three that have parameters.
        classes: test samples of these classes only, their numbers or names, with commas between; by default of all.
        eps: L-infinity budget of PGD and of its friendly form (PGD-K-tau), which both start at the natural sample; by
            default the one of training, or the data set's usual one.
        alpha: their step size; by default eps/10.
        steps: their steps at the most.
        tau: steps of the friendly form after a sample is first misclassified.
        limit: how many test samples of these classes, from the first on; 0 takes all.
        reduction: to two dimensions by pca, by tsne (half a minute a layer for 1000 samples), or by both.
        at_once: test samples attacked at a time; it decides memory and speed only.
    """

    layers: str = ""
    classes: str = ""
    eps: float | None = None
    alpha: float | None = None
    steps: int = 20
    tau: int = 0
    limit: int = 1000
    reduction: Literal["pca", "tsne", "both"] = "both"
    at_once: int = 500

    def __post_init__(self) -> None:
        check_samples(self.limit, self.at_once)
        for method in self.reductions():
            reducer(method)  # raises where scikit-learn is missing

    def reductions(self) -> list[str]:
        return ["pca", "tsne"] if self.reduction == "both" else [self.reduction]

    def attacks(self, eps: float) -> dict[str, Attack]:
        settings = (eps, eps / 10 if self.alpha is None else self.alpha, self.steps)
        return {"PGD": PGD(*settings, random_start=0), "friendly": FriendlyPGD(*settings, self.tau, random_start=0)}

    def chosen_layers(self, model: nn.Module) -> list[str]:
        return listed(self.layers) or last_layers(model)

    def samples(self, source: Data) -> Dataset:
        test = source.load("test")
        if self.classes:
            known = {name: k for k, name in enumerate(test.classes)}
            numbers = {str(k): k for k in known.values()} | known  # a digit's name is its number
            for name in listed(self.classes):
                if name not in numbers:
                    raise ValueError(
                        f"unknown class {name!r}: choose among {', '.join(known)}, or their numbers from 0"
                    )
            chosen = torch.tensor([numbers[name] for name in listed(self.classes)], device=test.y.device)
            test = test.subset(torch.isin(test.y, chosen))
        return test.take(self.limit) if self.limit else test


def diagnose(checkpoint: str, source: Data, options: Diagnosis, out: str) -> None:
    """``fastadv features CHECKPOINT``: what layers give for natural, PGD's and friendly samples."""
    trained = load_checkpoint(checkpoint)
    source = source.named(trained.get("data"), checkpoint)
    test = options.samples(source)
    options = dataclasses.replace(options, eps=first(options.eps, trained.get("eps"), usual_eps(source.data, test)))
    attacks = options.attacks(options.eps)
    model, _ = load_network(checkpoint, test)
    layers = options.chosen_layers(model)
    features(model, test, {}, layers)  # what is wrong with layers or samples shows before a folder is made
    run = Run(out, as_yaml(source, options), environment())
    folder = run.folder
    with progress("attacking", "kinds of samples") as step:
        found = features(model, test, attacks, layers, batch_size=options.at_once, on_step=step)
    console.print(report.records_table(found.rows, f"{len(test)} test samples of {test.name}, eps {options.eps:g}"))
    written = [report.write_records(found.rows, folder / "mixing.csv")]
    for method in options.reductions():
        written += drawn(report.plot_features, found, test.classes, method, folder / f"features_{method}.png")
    say("written: " + ", ".join(str(path) for path in written))
