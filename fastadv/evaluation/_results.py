"""What an evaluation gives: every sample's outcome, and the figures that follow from them."""

import math
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .._frames import frame
from ..attacks import Attack
from ._curve import AACurve

if TYPE_CHECKING:
    import pandas

    from ._certify import Certificate


def wilson(count: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The Wilson score interval, (low, high), of a share of which `count` of `n` were seen (Wilson, 1927).

    It covers chance in drawing the test samples, and nothing else.
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = count / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(frozen=True, eq=False, repr=False)
class Outcome:
    """Which samples are classified correctly: `right` [N] bool, on the CPU."""

    right: Tensor

    @property
    def accuracy(self) -> float:
        """The share of samples that are classified correctly, in [0, 1]."""
        return float(self.right.double().mean())

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% Wilson interval of the accuracy."""
        return wilson(int(self.right.sum()), len(self.right))

    @property
    def _said(self) -> str:
        """The accuracy and its interval, in percent."""
        low, high = self.interval
        return f"{100 * self.accuracy:.1f} % ({100 * low:.1f}-{100 * high:.1f})"

    @property
    def _strength(self) -> str:
        """What an attack was given, or how far it had to go."""
        return ""

    def __repr__(self) -> str:
        return f"Outcome(accuracy {self._said}, {len(self.right)} samples)"

    def to_dataframe(self) -> "pandas.DataFrame":
        """A row a sample: ``right``. Raises ImportError without pandas."""
        return frame({"right": self.right.tolist()})


@dataclass(frozen=True, eq=False, repr=False)
class Result(Outcome):
    """A model under one attack.

    `attack`: as it was run, within the bounds of the data. `sizes` [N]: of the perturbations, RMS, as shares of the
    inputs' range. `grads` [N] int64: gradients that the attack took. `seconds`: of all batches together. `curve`:
    AA(eps) of an attack that looks for the smallest perturbation, whose `accuracy` is that at full strength; eps in the
    same unit.
    """

    attack: Attack
    sizes: Tensor
    grads: Tensor
    seconds: float
    curve: AACurve | None = None

    @property
    def eps(self) -> float | Tensor:
        """The attack's budget as a share of the inputs' range. Raises AttributeError for an attack that has none."""
        return self.attack.eps / self.attack.unit

    @property
    def norm(self) -> float:
        """The mean size of the perturbations, RMS."""
        return float(self.sizes.double().mean())

    @property
    def median_norm(self) -> float:
        """The median size of the perturbations, RMS."""
        return float(self.sizes.double().quantile(0.5))

    @property
    def _strength(self) -> str:
        if not self.attack.has_budget:
            return f", median RMS {self.median_norm:.4g}"
        return "" if isinstance(self.eps, Tensor) else f", eps {self.eps:.4g}"

    def __repr__(self) -> str:
        cost = f"{self.grads.double().mean():.4g} gradients a sample, {self.seconds:.3g} s"
        return (
            f"Result({type(self.attack).__name__}{self._strength}, accuracy {self._said}, {len(self.right)} samples, "
            f"mean RMS {self.norm:.4g}, {cost})"
        )

    def to_dataframe(self) -> "pandas.DataFrame":
        """A row a sample: ``right``, ``size`` (RMS, a share of the inputs' range), ``gradients``.

        Raises ImportError without pandas.
        """
        columns = {"right": self.right, "size": self.sizes, "gradients": self.grads}
        return frame({name: values.tolist() for name, values in columns.items()})


@dataclass(frozen=True)
class Finding:
    """A reason to distrust an evaluation: the `check` that found it, and what it means and what to do as `text`."""

    check: str
    text: str


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation:
    """What `evaluate` found on `data`: the `natural` outcome, a `Result` for each attack, and the `findings` of checks.

    `label`: what the attacks moved away from. `memory_format`: how images lay in memory, see `evaluate`. `test_sha256`:
    of all samples, then all labels; empty where they were neither checked nor kept. `certificates`: what was proven,
    by name.
    """

    data: str
    label: str
    natural: Outcome
    results: dict[str, Result]
    findings: tuple[Finding, ...] = ()
    memory_format: str = "preserve"
    test_sha256: str = ""
    certificates: "dict[str, Certificate]" = field(default_factory=dict)

    @property
    def samples(self) -> int:
        """How many samples were evaluated."""
        return len(self.natural.right)

    @property
    def clean(self) -> float:
        """The accuracy without any attack."""
        return self.natural.accuracy

    @property
    def worst(self) -> Outcome | None:
        """Samples that are right clean and under every attack with a budget; None where those are fewer than two."""
        budgeted = [result.right for result in self.results.values() if result.attack.has_budget]
        return Outcome(torch.stack([self.natural.right, *budgeted]).all(0)) if len(budgeted) > 1 else None

    @property
    def outcomes(self) -> dict[str, Outcome]:
        """By name: ``clean``, under each attack, and, of several with a budget, in the ``worst`` case."""
        worst = {"worst": self.worst} if self.worst else {}
        return {"clean": self.natural, **self.results, **worst}

    def __repr__(self) -> str:
        outcomes = self.outcomes
        width = max(map(len, outcomes))
        head = f"Evaluation of {self.samples} samples of {self.data}, attacked label: {self.label}"
        lines = [f"  {name:{width}}  {outcome._said}{outcome._strength}" for name, outcome in outcomes.items()]
        lines += [f"  {name}: {certificate._said}" for name, certificate in self.certificates.items()]
        found = [f"  {finding.check}: {finding.text}" for finding in self.findings]
        return "\n".join([head, *lines, *(["  findings:"] if found else []), *(f"  {line}" for line in found)])

    def to_dataframe(self) -> "pandas.DataFrame":
        """A row an attack, ``clean`` first and the ``worst`` case last; what a row has not is None.

        Columns: ``attack``; ``accuracy`` in [0, 1] and the ends ``low`` and ``high`` of its 95% Wilson interval;
        ``eps``; ``mean_rms`` and ``median_rms`` of the perturbations, as shares of the inputs' range; ``gradients`` a
        sample; ``seconds`` of all. Raises ImportError without pandas.
        """
        rows = []
        for name, outcome in self.outcomes.items():
            low, high = outcome.interval
            eps = mean = median = gradients = seconds = None
            if isinstance(outcome, Result):
                eps = outcome.eps if outcome.attack.has_budget else None
                mean, median, seconds = outcome.norm, outcome.median_norm, outcome.seconds
                gradients = float(outcome.grads.double().mean())
            rows.append((name, outcome.accuracy, low, high, eps, mean, median, gradients, seconds))
        names = ("attack", "accuracy", "low", "high", "eps", "mean_rms", "median_rms", "gradients", "seconds")
        return frame(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)))
