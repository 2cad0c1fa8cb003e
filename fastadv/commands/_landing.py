"""``fastadv landing``."""

import dataclasses
from dataclasses import dataclass

from .. import report
from ..attacks import DRA, PGD, Attack
from ..data import usual_eps
from ..evaluation import gradient_norms, landing, weight_norms
from ..info import environment
from ..runs import Run, load_checkpoint
from ._networks import load_network
from ._plan import samples_in_words
from ._settings import Data, as_yaml, check_samples, first
from ._terminal import console, drawn, say


@dataclass
class LandingTest(Data):
    """Which attack on which samples.

    Args:
        data: other data than those of training.
        eps: L-infinity budget of PGD. PGD starts at random. By default it is the one of training, or the data set's
            usual one. DRA, drawn beside it, has a mean change of eps/2.55, as strong on a network trained normally
            where it was published.
        alpha: step size of PGD. By default eps/10.
        steps: steps of PGD.
        limit: test samples, 0 for all. The first ones are taken.
        at_once: test samples attacked at a time. It changes memory and speed only.
    """

    data: str | None = None
    eps: float | None = None
    alpha: float | None = None
    steps: int = 20
    limit: int = 1000
    at_once: int = 500

    def __post_init__(self) -> None:
        check_samples(self.limit, self.at_once)

    def attacks(self, eps: float) -> dict[str, Attack]:
        pgd = PGD(eps, eps / 10 if self.alpha is None else self.alpha, self.steps)
        return {"PGD": pgd, "DRA": DRA(eps / 2.55)}


def land(checkpoint: str, options: LandingTest, out: str) -> None:
    """``fastadv landing CHECKPOINT``: where PGD moves samples; norms of weights and gradients; noise of PGD and DRA."""
    trained = load_checkpoint(checkpoint)
    options = options.named(trained, checkpoint)
    test = options.load("test")
    test = test.take(options.limit) if options.limit else test
    options = dataclasses.replace(options, eps=first(options.eps, trained.get("eps"), usual_eps(options.data, test)))
    attacks = options.attacks(options.eps)
    model, _ = load_network(checkpoint, test)
    norms = weight_norms(model, test.classes)
    run = Run(out, as_yaml(options), environment())
    folder = run.folder
    found = landing(model, test, attacks["PGD"], batch_size=options.at_once)
    title = f"PGD-{options.steps} at eps {options.eps:g} on {samples_in_words(test)}"
    console.print(report.records_table(found.rows, title))
    console.print(report.records_table(norms, "norms of the weights in the last layer"))
    gradients = gradient_norms(model, test, batch_size=options.at_once).rows
    about = "squared L2 norms of the loss gradient at the samples, and the root of their mean"
    console.print(report.records_table(gradients, about))
    written = [
        report.write_records(found.rows, folder / "landing.csv"),
        report.write_confusion(found.confusion, test.classes, folder / "confusion.csv"),
        report.write_records(norms, folder / "weight_norms.csv"),
        report.write_records(gradients, folder / "gradient_norms.csv"),
    ]
    written += drawn(report.plot_confusion, found.confusion, test.classes, title, folder / "confusion.png")
    if len(test.sample_shape) == 3:
        written += drawn(report.plot_noise, model, test, attacks, folder / "noise.png")
    say("written: " + ", ".join(str(path) for path in written))
