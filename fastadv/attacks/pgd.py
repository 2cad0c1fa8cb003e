"""Projected gradient descent in the L-infinity, L2 or L1 ball; with the divergence; of models that are random."""

from dataclasses import dataclass, field
from typing import Any

from ..losses import LOSSES
from ._ascend import STEPS, Rows, Start, ascend, ball_ascent, start
from ._attack import Attack, Budget, check_budgets, check_choice, check_counts, check_start
from ._state import Natural

_PAIRS = ("kl", "spat")
"""The losses that compare logits with those at x."""


@dataclass(frozen=True)
class PGD(Attack):
    """Projected gradient ascent (Madry et al., 2018); the last iterate is the result.

    Steps follow the sign of the gradient (``linf``) or the normalised gradient (``l2``, ``l1``). A restart takes only
    the samples that none before has fooled.

    Args:
        eps: budget in `norm`, in the units of the inputs; a number or one a sample.
        alpha: step size, likewise.
        steps: number of gradient steps.
        random_start: the start is uniform in the ball of radius ``random_start * eps``, x itself for 0; ``gaussian``
            for x with normal noise of standard deviation 0.001 of the inputs' range; ``gaussian-unclipped`` for the
            same with no regard to the bounds, to which the first step leads back, as in TRADES.
        loss: what is maximised, ``ce`` (cross-entropy), ``margin`` (Carlini and Wagner's), ``slm`` (MMA's soft margin),
            ``dlr``, ``pm`` (PMA's probability margin), ``kl`` (the divergence from the prediction at x, TRADES' loss)
            or ``spat`` (SPAT's, of the same two).
        kl_weight: the weight of the divergence in ``spat``.
        kappa: the confidence beyond which ``margin`` asks for no more.
        restarts: how many random starts are tried.
        samples: how many gradients, of a forward pass each, are averaged for a step, for models that are random.
        norm: ``linf``, ``l2`` or ``l1``.
        targeted: towards the labels instead of away from them.
    """

    eps: Budget = 8 / 255
    alpha: Budget = 2 / 255
    steps: int = 10
    random_start: Start = 1.0
    loss: str = "ce"
    kappa: float = 50.0
    restarts: int = 1
    kl_weight: float = field(default=0.2, kw_only=True)
    samples: int = field(default=1, kw_only=True)
    norm: str = field(default="linf", kw_only=True)
    targeted: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        name = type(self).__name__
        check_choice(self, "norm", self.norm, tuple(STEPS))
        check_budgets(self, "eps", "alpha")
        check_counts(self, steps=0, restarts=1, samples=1)
        check_choice(self, "loss", self.loss, (*LOSSES, *_PAIRS))
        check_start(self, self.random_start, self.loss, laws=("gaussian", "gaussian-unclipped"))
        if self.random_start == "gaussian-unclipped" and not self.steps:
            raise ValueError(
                f"{name}: only a step leads from an unclipped start into the bounds: set steps to 1 or more"
            )
        if self.restarts > 1 and not self.random_start:
            raise ValueError(
                f"{name}: restarts need a random start, else all are alike: set random_start, or restarts 1"
            )
        if self.targeted and self.loss in ("dlr", *_PAIRS):
            raise ValueError(f"{name}: loss {self.loss} knows no target; use ce or margin")

    def perturb(self, rows: Rows) -> None:
        options: dict[str, Any] = {}
        if self.loss in _PAIRS:
            rows.state = Natural(rows.scores())
            options = {"natural": "natural", "kl_weight": self.kl_weight}
        step = ball_ascent(self, rows, self.alpha, self.loss, self.samples, kappa=self.kappa, **options)
        for restart in range(self.restarts):
            part, where = (rows, None) if restart == 0 else rows.unfooled()
            part.x_adv = start(self, part, restart)
            ascend(self, part, self.steps, step)
            if where is not None:
                rows.put(where, part)


@dataclass(frozen=True)
class TPGD(PGD):
    """PGD on the divergence from the prediction at x, which needs no label (Zhang et al., 2019, Algorithm 1).

    The start is x with normal noise, at which the divergence has a gradient. All options are those of `PGD`; only two
    defaults differ. It is untargeted.
    """

    random_start: Start = "gaussian"
    loss: str = "kl"


@dataclass(frozen=True)
class EOTPGD(PGD):
    """PGD on a model that is random, up the mean of several gradients of it (Zimmermann, 2019; Athalye et al., 2018).

    The model draws its own random numbers, a new draw for each forward pass. All options are those of `PGD`; `samples`,
    the number of gradients, is 2 here.
    """

    samples: int = field(default=2, kw_only=True)
