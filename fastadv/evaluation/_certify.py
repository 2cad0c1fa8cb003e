"""Lower bounds beside attacks: sizes of perturbations up to which a classifier is proven right, sample by sample."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from .. import ops
from .._frames import frame
from ..attacks import Model, checked_logits, classify, isolated
from ..data import Batch
from ..models.adapted import expected, input_dtype
from ._common import leeway
from ._intervals import DUALS, Interval, enclosed, margins
from ._results import wilson

if TYPE_CHECKING:
    import pandas

_BINARY_ORDERS, _HALVINGS = 24, 14
"""Radii are looked for down to 2^-24 of the largest possible, to 24 / 2^14 of their binary logarithm."""
_SPARE, _ROUNDING = 2.0, 16.0
"""Certificates hold within so many times the leeway that sizes of perturbations are given, and where logits are off by
so many times what they are off by at the sample.
"""


@dataclass(frozen=True)
class Certifier(ABC):
    """A way to prove predictions. `norm`: of the perturbations; `subject`: the classifier that it is about."""

    norm: str
    subject: ClassVar[str]

    def seeded(self, seed: int) -> "Certifier":
        """The same, with `seed` if it draws random numbers and has none of its own."""
        return self

    @abstractmethod
    def check(self, model: Model, x: Tensor, bounds: tuple[float, float]) -> None:
        """Raises ValueError where a `model` of samples like `x` cannot be certified, ImportError for lack of scipy."""

    @abstractmethod
    def measure(
        self, model: Model, batch: Batch, bounds: tuple[float, float], highest_label: int = -1
    ) -> tuple[Tensor, Tensor]:
        """The class predicted of every sample of `batch` [B], -1 for none, and the radius within which it is proven to
        be the label [B], float64, as a share of the range of the inputs; 0 where it is not.
        """


@dataclass(frozen=True)
class IntervalBounds(Certifier):
    """Interval bound propagation (Gowal et al., 2018): the network is right at all points of the ball and the bounds.

    The radius is the largest at which the lower bound of the label's logit is above all others, found to a thousandth
    by bisection; bounds were computed at that very radius. In L2 and L1, the first linear or convolutional layer has
    the bound of the dual norm, and all others have intervals. Networks that were not trained for such bounds have small
    radii.

    Rounding: what computing the bounds rounds is bounded, too, and so is the rounding of perturbed samples: all that
    `verify` takes for within eps count. What the network itself rounds is measured and not proven: the label has to be
    ahead by 16 times what the logits at the sample differ from exact ones.

    Args:
        norm: linf, l2 or l1.

    Layers: linear, convolutional (one and two dimensions), batch norm, pooling, dropout, padding, flattening, ReLU,
    leaky ReLU, hardtanh, sums of these, and constants added and multiplied. Raises ValueError for another norm.
    """

    norm: str = "linf"
    subject: ClassVar[str] = "the network"

    def __post_init__(self) -> None:
        if self.norm not in DUALS:
            raise ValueError(f"IntervalBounds: norm must be one of {', '.join(DUALS)}, got {self.norm!r}")

    def check(self, model: Model, x: Tensor, bounds: tuple[float, float]) -> None:
        if not math.isfinite(bounds[1] - bounds[0]):
            raise ValueError(f"IntervalBounds: the bounds of the data must be finite, got {bounds}")
        self._logits(model, x, x.new_zeros(len(x), dtype=torch.float64), bounds)

    def measure(
        self, model: Model, batch: Batch, bounds: tuple[float, float], highest_label: int = -1
    ) -> tuple[Tensor, Tensor]:
        x, y, _ = batch
        predicted = classify(model, x, highest_label, y)
        rows = (predicted == y).nonzero().squeeze(1)
        count, width = x[0].numel(), bounds[1] - bounds[0]
        most = {"l2": math.sqrt(count), "l1": count}.get(self.norm, 1)
        low = torch.full((len(rows),), -_BINARY_ORDERS, dtype=torch.float64, device=x.device)
        high = torch.zeros_like(low)  # of the logarithm of the share of what is possible
        proven = torch.zeros_like(low)
        guard = self._rounding(model, x[rows])
        for _ in range(_HALVINGS if len(rows) else 0):
            middle = (low + high) / 2
            radius = most * torch.exp2(middle)
            held = (margins(self._logits(model, x[rows], width * radius, bounds), y[rows]) > guard).all(1)
            low, high = torch.where(held, middle, low), torch.where(held, high, middle)
            proven = torch.where(held, radius, proven)
        return predicted, torch.zeros(len(x), dtype=torch.float64, device=x.device).index_copy(0, rows, proven)

    def _rounding(self, model: Model, x: Tensor) -> Tensor:
        """What differences of the logits at `x` may be off by in the precision of the network, [B, 1]."""
        exact = enclosed(model, x, x, x, torch.zeros(len(x), dtype=torch.float64, device=x.device))
        low, high = (end.view(len(x), -1) for end in (exact.low, exact.high))
        with isolated(model), torch.no_grad():
            logits = checked_logits(model, x).double()[:, -low.shape[1] :]  # one logit is that of class 1
        unit = torch.finfo(input_dtype(model) or x.dtype).eps
        off = (logits - low).abs() + (high - low) + unit * logits.abs()
        return _ROUNDING * off.amax(1, keepdim=True)

    def _logits(self, model: Model, x: Tensor, eps: Tensor, bounds: tuple[float, float]) -> Interval:
        size = eps + _SPARE * leeway(self.norm, eps, bounds, x[0].numel())
        box = ops.as_rows(size, x)
        lowest, highest = x.new_tensor(bounds).double()
        low, high = (x.double() - box).clamp_min(lowest), (x.double() + box).clamp_max(highest)
        return enclosed(model, x, low, high, size, self.norm)


@dataclass(frozen=True)
class RandomizedSmoothing(Certifier):
    """CERTIFY of Cohen, Rosenfeld and Kolter (2019, section 3.2): **of the smoothed classifier, not of the network**.

    The smoothed classifier gives the class that the network predicts most often under Gaussian noise. `n0` draws choose
    the class, `n` others bound the chance pA of that class from below (Clopper and Pearson, 1934), and where that is
    above 1/2, no perturbation with an L2 norm below ``sigma * Phi^-1(pA)`` changes the class. Otherwise it abstains.
    Attacks on the network bound another classifier: the two figures are not two sides of one.

    Each certificate holds with probability ``1 - alpha`` at least. Noise is keyed by `seed` and sample, is not clipped,
    and has 24 random bits an element. So results do not depend on batches, but for how the network rounds in them.

    Args:
        sigma: standard deviation of the noise, as a share of the range of the inputs.
        n0: draws that choose the class.
        n: draws that bound its chance. The paper takes 100,000.
        alpha: chance that a certificate does not hold.
        seed: of the noise.

    Raises ValueError for a value that makes no sense, and ImportError without scipy when it is used.
    """

    norm: str = field(default="l2", init=False)
    sigma: float = 0.25
    n0: int = 100
    n: int = 1000
    alpha: float = 0.001
    seed: int | None = None
    subject: ClassVar[str] = "smoothed"

    def __post_init__(self) -> None:
        if not 0 < self.sigma < math.inf:
            raise ValueError(f"RandomizedSmoothing: sigma must be positive, got {self.sigma}")
        for name in ("n0", "n"):
            if getattr(self, name) < 1:
                raise ValueError(f"RandomizedSmoothing: {name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.alpha < 1:
            raise ValueError(f"RandomizedSmoothing: alpha must be between 0 and 1, got {self.alpha}")

    def seeded(self, seed: int) -> "RandomizedSmoothing":
        return replace(self, seed=seed) if self.seed is None else self

    def check(self, model: Model, x: Tensor, bounds: tuple[float, float]) -> None:
        lower_bound(torch.ones(1), 1, self.alpha)

    def measure(
        self, model: Model, batch: Batch, bounds: tuple[float, float], highest_label: int = -1
    ) -> tuple[Tensor, Tensor]:
        sigma = self.sigma * (bounds[1] - bounds[0])

        def draw(number: int) -> Tensor:
            how = {"restart": number, "law": "gaussian", "lo": -math.inf, "hi": math.inf}
            noisy = ops.random_start(batch.x, batch.ids, sigma, self.seed or 0, **how)
            return classify(model, noisy, highest_label, batch.y)

        top = torch.stack([draw(number) for number in range(self.n0)]).mode(0).values
        hits = torch.zeros_like(top)
        for number in range(self.n0, self.n0 + self.n):
            hits += draw(number) == top
        chance = lower_bound(hits, self.n, self.alpha)
        sure = (chance > 0.5) & (top >= 0)
        radii = torch.where(sure & (top == expected(model, batch.y)), self.sigma * torch.special.ndtri(chance), 0.0)
        return torch.where(sure, top, -1), radii


def lower_bound(hits: Tensor, n: int, alpha: float) -> Tensor:
    """The lower end of the one-sided interval of Clopper and Pearson, float64: `hits` [B] of `n`, level 1 - `alpha`.

    Raises ImportError without scipy.
    """
    try:
        from scipy.special import betaincinv
    except ImportError:
        raise ImportError("randomised smoothing needs scipy. To fix: pip install scipy") from None
    counts = hits.double().cpu().numpy()
    found = torch.from_numpy(betaincinv(counts.clip(min=1), n - counts.clip(min=1) + 1, alpha)).to(hits.device)
    return torch.where(hits > 0, found, 0.0)


@dataclass(frozen=True, eq=False, repr=False)
class Certificate:
    """What `method` proved: every perturbation of sample i smaller than ``radii[i]`` leaves the classifier right.

    The classifier is ``method.subject``: the network, or the smoothed one. `predicted` [N] int64: its classes, -1 where
    it abstains or there is none. `radii` [N] float64: in ``method.norm``, as shares of the range of the inputs, 0 where
    nothing is proven. `attacked` [N] float64, of bounds of the network: the size of the smallest perturbation by which
    an attack of the same evaluation fooled it, infinite for none, and 0 where it is wrong without one; None otherwise.
    """

    method: Certifier
    predicted: Tensor
    radii: Tensor
    attacked: Tensor | None = None

    def certified(self, eps: float) -> float:
        """The accuracy in [0, 1] that is certain against all perturbations of size `eps`: a lower bound."""
        return float((self.radii > eps).double().mean())

    def upper(self, eps: float) -> float:
        """The accuracy in [0, 1] that attacks leave at size `eps`: an upper bound. Raises ValueError without one."""
        if self.attacked is None:
            raise ValueError("no attack was tried on the classifier that this certificate is about")
        return float((self.attacked > eps).double().mean())

    @property
    def broken(self) -> int:
        """How many samples an attack fooled within their certified radius, which must be none."""
        return 0 if self.attacked is None else int(((self.radii > 0) & (self.attacked <= self.radii)).sum())

    @property
    def _said(self) -> str:
        of = "" if self.method.subject == "the network" else ", of the smoothed classifier, not the network"
        return (
            f"{self.method.norm}{of}: {100 * self.certified(0.0):.1f} % certified at some size, "
            f"median radius {float(self.radii.median()):.4g}"
        )

    def __repr__(self) -> str:
        return f"Certificate({type(self.method).__name__}, {self._said}, {len(self.radii)} samples)"

    def interval(self, eps: float) -> tuple[float, float]:
        """The 95% Wilson interval of `certified`."""
        return wilson(int((self.radii > eps).sum()), len(self.radii))

    def to_dataframe(self) -> "pandas.DataFrame":
        """A row a sample: ``predicted``, ``radius`` and, where there are attacks, ``attacked``.

        Raises ImportError without pandas.
        """
        columns = {"predicted": self.predicted, "radius": self.radii, "attacked": self.attacked}
        return frame({name: values.tolist() for name, values in columns.items() if values is not None})
