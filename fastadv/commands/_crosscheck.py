"""``fastadv crosscheck``."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from .. import report
from ..data import usual_eps
from ..evaluation import SETTINGS, Crosscheck, plan_crosscheck
from ..info import environment
from ..runs import Run
from ._attackbench import libraries_named
from ._networks import load_model, trained_on
from ._settings import Data, as_yaml, check_samples, first, listed
from ._terminal import console, progress, say

WHOLE = "crosscheck.json"


@dataclass
class CrossTest(Data):
    """Which attacks on which samples.

    Args:
        data: other data than those of training.
        attacks: attacks, of fgsm, pgd, pgd-l2, apgd-ce, apgd-ce-l2, apgd-t, square, deepfool, cw, cw-fixed, ddn, fmn,
            fmn-l2, fab, fab-l2, ead, alma, pdgd, pdpgd and sigma-zero. By default all.
        libraries: other libraries, of adv-lib, foolbox, torchattacks, art and auto-attack. By default all that are
            installed.
        eps: L-infinity budget, such as 8/255. By default it is the one of training, or the data set's usual one.
        eps_l2: L2 budget. By default half of eps times the root of the number of elements of a sample.
        limit: test samples, 0 for all. The first ones are taken; those that are misclassified are not attacked.
        at_once: test samples attacked at a time.
        seed: of random numbers.
    """

    data: str | None = None
    attacks: str = ""
    libraries: str = "all"
    eps: float | None = None
    eps_l2: float | None = None
    limit: int = 100
    at_once: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        check_samples(self.limit, self.at_once)
        for name in ("eps", "eps_l2"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive, got {value}")


def run_crosscheck(given: str, options: CrossTest, out: str) -> None:
    """``fastadv crosscheck MODEL``: the same attacks in several libraries, and where these differ beyond chance."""
    trained = trained_on(given)
    source = options.named(trained, given)
    test = source.load("test")
    test = test.take(options.limit) if options.limit else test
    model, name = load_model(given, test)
    eps = first(options.eps, trained.get("eps"), usual_eps(source.data, test))
    eps_l2 = first(options.eps_l2, eps * math.sqrt(math.prod(test.sample_shape)) / 2)
    names = libraries_named(options.libraries)
    how = {"settings": listed(options.attacks) or list(SETTINGS), "libraries": names}
    plan = plan_crosscheck(model, test, eps, eps_l2, **how, batch_size=options.at_once, seed=options.seed)
    if plan.missing and options.libraries != "all":
        raise ValueError("; ".join(plan.missing.values()))
    run = Run(out, as_yaml(options, checkpoint=given), environment())
    for each, reason in plan.missing.items():
        say(f"{each} takes no part: {reason}", "yellow")
    say(f"{name}: eps {eps:.4g} in L-infinity, {eps_l2:.4g} in L2; beside {', '.join(plan.modules)}")
    with progress("attacking", "attacks") as step:
        found = plan.run(step)
    if rows := report.crosscheck_rows(found):
        title = f"fastadv beside other libraries on {found.samples} samples of {found.data}, fooled in %"
        console.print(report.records_table(rows, title))
    for attack, library, reason in found.failed:
        say(f"{attack} of {library} failed: {reason}", "yellow")
    for line in in_words(found):
        say(line)
    say(f"written: {report.write_crosscheck(found, environment(), run.folder / WHOLE)}")


def in_words(found: Crosscheck) -> Iterator[str]:
    """Where figures differ by more than chance, and in whose favour."""
    differing = [each for each in found.differences if each.differs]
    if not differing:
        yield "no figures differ by more than chance"
    for each in differing:
        side, other = ("fastadv", each.library) if each.better > each.worse else (each.library, "fastadv")
        more, fewer = sorted((each.better, each.worse), reverse=True)
        yield f"{each.setting}: {side} is stronger than {other}, on {more} samples against {fewer} (p = {each.p:.2g})"
