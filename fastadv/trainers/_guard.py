"""A guard against catastrophic overfitting, which goes back to where there was none and makes the method steadier."""

import logging
from collections.abc import Mapping

import torch

from .._processes import rank
from ..attacks import PGD
from ._method import Method, Row, Source, Stats
from ._parallel import own_part, total
from ._source import Part
from ._state import Run, State

_log = logging.getLogger("fastadv.fit")

CHECKS = 8  # in an epoch
SAMPLES = 256  # of a check
WIDENED = 0.2  # see `Guard`
NOTHING = 0.01  # PGD accuracy that is told


class Guard:
    """Looks for catastrophic overfitting at every eighth of an epoch.

    A check is the accuracy of the network under PGD-10, at the method's budget, on the samples that were trained on
    last, at most 256 of each batch, until about 256 are measured, each measured after the last step on its batch; small
    batches may not have as many since the last check. It has overfitted catastrophically where that accuracy is below
    half of its best, and the accuracy on the method's own samples has since gained 0.2 on it. By as much Wong et al.
    (2020) let PGD accuracy fall, in their code, before they stop and keep the network of before. That both move apart
    is what Andriushchenko and Flammarion (2020) call overfitting to FGSM. Where both fall, as after a large learning
    rate, or where the method's samples are as hard as PGD's, nothing moves apart. Of 256 samples, 0.2 is four standard
    errors at least.

    Then weights, optimiser and what the method keeps are again those of the last check at which less than half of 0.2
    was gained, and `Method.steadier` replaces the method. The learning rate and the order of the data go on. A method
    that has nothing to steady stays as it is; that is told with the first such rollback.
    """

    def __init__(self, run: Run, train: Source):
        self.run = run
        eps = run.method.budget
        self.attack = PGD(eps, eps / 4, 10, seed=run.how.seed).within(train.bounds)
        self.counts = [0.0, 0.0, 0.0]  # right under PGD, right on the method's samples, of how many
        self.best: tuple[float, float] | None = None  # PGD accuracy, and that on the method's samples at that time
        self.good: State = {}  # where to go back to, with its PGD accuracy
        self.now = 0.0  # PGD accuracy
        self.rollbacks = self.before = 0  # in all, and before this epoch
        self.helpless = False  # whether the method had nothing left to steady

    @staticmethod
    def check(method: Method) -> None:
        """Raises ValueError where there is no budget to measure at, or a curriculum that begins without attacks."""
        if method.budget is None:
            raise ValueError(
                f"guard measures PGD at the method's L-infinity budget, and {type(method).__name__} has none: leave it "
                "out"
            )
        if not method.at_budget:
            raise ValueError(
                f"guard cannot tell the curriculum of {type(method).__name__}, which begins without attacks, from "
                "catastrophic overfitting: leave it out"
            )

    def look(self, part: Part, size: int, batches: int, stats: Stats) -> None:
        """Measures after a step on this process's `part` of a batch of so many samples, which reported `stats`."""
        replays = self.run.method.replays
        if self.run.step % replays:
            return
        left = _left(self.run.step // replays, batches // replays)
        if left * size < SAMPLES:
            self.measure(part, size, stats)
        if left == 0 and self.counts[2] >= min(SAMPLES, self.run.samples):
            self.conclude()

    def measure(self, part: Part, size: int, stats: Stats) -> None:
        x, y, index = part
        first = own_part(torch.arange(size, device=index.device)) < SAMPLES
        ids = index + len(self.run.history) * self.run.samples
        found = self.attack.outcome(self.run.network, x[first], y[first], ids[first])
        count = first.sum()
        own = stats.get("adversarial_accuracy", torch.zeros(()))
        counts = torch.stack([each.to(index.device).double() for each in ((~found.success).sum(), own * count, count)])
        self.counts = [a + b for a, b in zip(self.counts, total(counts).tolist(), strict=True)]

    def conclude(self) -> None:
        right, own, count = self.counts
        self.counts = [0.0, 0.0, 0.0]
        self.now, own = right / count, own / count
        self.run.agree()
        if self.best is None or self.now >= self.best[0]:
            self.best = self.now, own
        fell, gained = self.now < self.best[0] / 2, (own - self.now) - (self.best[1] - self.best[0])
        if fell and gained > WIDENED:
            self.go_back(own)
        elif not fell and gained <= WIDENED / 2:
            self.good = {**self.run.learned(), "pgd_accuracy": self.now}

    def go_back(self, own: float) -> None:
        run, fallen = self.run, self.now
        self.rollbacks += 1
        steadier = run.method.steadier()
        run.method = steadier or run.method
        run.learn(self.good)
        self.now = self.good["pgd_accuracy"]
        if rank() == 0:
            _log.warning(
                f"catastrophic overfitting in epoch {len(run.history) + 1}, step {run.step}: PGD-10 accuracy was "
                f"{self.best[0]:.3g} and is {fallen:.3g}, that on the method's own samples {own:.3g}; the weights "
                f"of before are back, with {self.now:.3g}, and the method is {run.method}"
                + ("" if steadier else ", as before")
            )
            if steadier is None and not self.helpless:
                _log.warning(
                    f"the guard cannot make {type(run.method).__name__} steadier: it overfits again where the same "
                    "leads to it, and each time what was learnt since is lost. To fix: take a smaller budget or "
                    "learning rate, or a method that it can, such as NFGSM"
                )
        self.helpless = self.helpless or steadier is None

    def end_epoch(self) -> Row:
        """The figures of the epoch that ends: PGD accuracy at its last check, and how often the run went back."""
        row = {"pgd_accuracy": self.now, "rollbacks": float(self.rollbacks - self.before)}
        self.before = self.rollbacks
        if self.best is not None and self.now < NOTHING and rank() == 0:
            _log.warning(
                f"nothing is robust at the end of epoch {len(self.run.history) + 1}: PGD-10 accuracy is {self.now:.3g} "
                "at the method's budget; where that stays so, take a smaller one, warm it up, or take more steps"
            )
        return row

    def state(self) -> State:
        """What the guard's later decisions depend on."""
        names = ("counts", "best", "good", "now", "rollbacks", "before", "helpless")
        return {"guard": {name: getattr(self, name) for name in names}}

    def load(self, state: Mapping[str, State]) -> None:
        """Goes back to where `state` was made; the method becomes what it was by then, but for what it keeps."""
        if "guard" not in state:
            raise ValueError("cannot resume from this state, which is of a run without guard: leave guard out")
        for name, value in state["guard"].items():
            setattr(self, name, value)
        for _ in range(self.rollbacks):
            self.run.method = self.run.method.steadier() or self.run.method


def _left(step: int, batches: int) -> int:
    """How many steps after `step`, from 1, of so many in an epoch the next check is."""
    check = CHECKS * (step - 1) // batches + 1
    return -(-check * batches // CHECKS) - step
