"""``fastadv features``."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from torch import nn

from .. import report
from ..attacks import PGD, Attack, FriendlyPGD
from ..data import Placed, Stream, usual_eps
from ..evaluation import check_mixable, features, last_layers, layer_outputs, reducer
from ..info import environment
from ..runs import Run, load_checkpoint
from ._networks import load_network
from ._plan import samples_in_words
from ._settings import Data, as_yaml, check_samples, first, listed, of_classes
from ._terminal import console, drawn, progress, say


@dataclass
class Diagnosis:
    """Which layers to look at, on which samples.

    Args:
        layers: names of modules, with commas between. By default the last three that have parameters.
        classes: numbers or names of classes, with commas between. By default all.
        eps: L-infinity budget of PGD and friendly PGD. Both start at the natural sample. By default it is the one of
            training, or the data set's usual one.
        alpha: step size of both attacks. By default eps/10.
        steps: largest number of attack steps.
        tau: steps of friendly PGD after the first misclassification.
        limit: test samples of these classes, 0 for all. The first ones are taken.
        reduction: how outputs become two dimensions: pca, tsne or both. tsne takes half a minute a layer for 1000
            samples.
        at_once: test samples attacked at a time. It changes memory and speed only.
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

    def samples(self, source: Data) -> Placed | Stream:
        test = of_classes(source.load("test"), self.classes)
        return test.take(self.limit) if self.limit else test


def diagnose(checkpoint: str, source: Data, options: Diagnosis, out: str) -> None:
    """``fastadv features CHECKPOINT``: what layers give for natural, PGD's and friendly samples."""
    trained = load_checkpoint(checkpoint)
    source = source.named(trained, checkpoint)
    test = options.samples(source)
    options = dataclasses.replace(options, eps=first(options.eps, trained.get("eps"), usual_eps(source.data, test)))
    attacks = options.attacks(options.eps)
    model, _ = load_network(checkpoint, test)
    layers = options.chosen_layers(model)
    layer_outputs(model, test.first(2).x, layers)  # what is wrong with layers or samples shows before a folder is made
    if isinstance(test, Placed):
        check_mixable(test.y)
    run = Run(out, as_yaml(source, options), environment())
    folder = run.folder
    with progress("attacking", "batches") as step:
        found = features(model, test, attacks, layers, batch_size=options.at_once, on_step=step)
    console.print(report.records_table(found.rows, f"{samples_in_words(test)}, eps {options.eps:g}"))
    written = [report.write_records(found.rows, folder / "mixing.csv")]
    for method in options.reductions():
        written += drawn(report.plot_features, found, test.classes, method, folder / f"features_{method}.png")
    say("written: " + ", ".join(str(path) for path in written))
