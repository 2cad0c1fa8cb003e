"""torchattacks' classes on fastadv's attacks: ``from fastadv.compat import torchattacks`` runs code written for it.

Names, order of arguments and defaults are those of torchattacks 3.5; options are attributes, which may be changed
between calls. What differs, on purpose:

- Nothing is left behind: no gradients on parameters, no thawed batch norms, no model in eval mode after an error, no
  global seed. Results are detached. Images outside [0, 1] are an error.
- Noise follows ``torch.manual_seed``, and successive calls differ: each takes numbers from PyTorch's generator.
  Where the attribute `seed` is an integer, as in APGD, FAB and Square by default, noise depends on that and on
  ``ids=``, which number the samples of a call by default, and the generator is left alone.
- What happens to a sample does not depend on the others of its batch: CW stops each by itself. It moves the image, not
  its inverse tanh, with which black and white pixels do not move.
- `PGDL2` starts uniformly in the ball. `DeepFool` linearises at points without the overshoot. APGD and AutoAttack leave
  samples that are misclassified to begin with as they are.
- What `DIFGSM` and `TIFGSM` draw is a step's; images are resized and placed by numbers of the same law but for the last
  place, which is drawn, too. Gradients that are 0 do not become NaN.
- Attacks run in eval mode: `set_model_training_mode` refuses anything else. Changes of mode are not printed.
- `verbose`, PGDL2's `eps_for_division`, SPSA's `max_batch_size`, OnePixel's `inf_batch`, AutoAttack's `n_classes` and
  Square's `resc_schedule` (the schedule is the published one, as in auto-attack) are accepted and mean nothing.
- A class of your own derives from `Attack`, or from an attack here, and defines `forward`. That runs with the model in
  eval mode and its parameters frozen, and what it returns is detached.
- `JSMA` changes the share `gamma` of the entries at the most, each again and again where `theta` is below 1. `OnePixel`
  has `popsize` members, or five for each pixel if that is more. `Pixle` places patches where they fit, and never keeps
  one that raises the probability of the label.
- `EADL1` and `EADEN` begin every const at the image, as the paper's algorithm does; theirs go on from where they were.
- `save` as integers rounds, and what it writes stays within `eps`. Accuracy and predictions are those of what is saved.
- A sample whose logits are NaN is misclassified, and its prediction is -1.
- FAB, Square, APGD and DeepFool cannot be targeted (`set_mode_targeted_*` raises ValueError).
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ... import attacks as ours
from ...attacks import Model, predicted
from .._models import logits_at
from .._names import only
from .attack import Attack, Budget

__all__ = [
    "APGD",
    "APGDT",
    "BIM",
    "CW",
    "DIFGSM",
    "EADEN",
    "EADL1",
    "EOTPGD",
    "FAB",
    "FFGSM",
    "FGSM",
    "JSMA",
    "MIFGSM",
    "NIFGSM",
    "PGD",
    "PGDL2",
    "RFGSM",
    "SINIFGSM",
    "SPSA",
    "TIFGSM",
    "TPGD",
    "VMIFGSM",
    "VNIFGSM",
    "Attack",
    "AutoAttack",
    "DeepFool",
    "MultiAttack",
    "OnePixel",
    "Pixle",
    "Square",
    "attack",
]

__getattr__, __dir__ = only(__name__, __all__)

# --------------------------------------------------------------------------------------------------------- the attacks


@dataclass(eq=False)
class FGSM(Attack):
    eps: Budget = 8 / 255

    def build(self) -> ours.Attack:
        return self._as(ours.FGSM)


@dataclass(eq=False)
class FFGSM(Attack):
    eps: Budget = 8 / 255
    alpha: Budget = 10 / 255

    def build(self) -> ours.Attack:
        return self._as(ours.PGD, steps=1)


@dataclass(eq=False)
class RFGSM(Attack):
    eps: Budget = 8 / 255
    alpha: Budget = 2 / 255
    steps: int = 10

    def build(self) -> ours.Attack:
        return self._as(ours.RFGSM)


@dataclass(eq=False)
class BIM(Attack):
    eps: Budget = 8 / 255
    alpha: Budget = 2 / 255
    steps: int = 10

    def __post_init__(self) -> None:
        if self.steps == 0:
            self.steps = int(min(self.eps * 255 + 4, 1.25 * self.eps * 255))
        super().__post_init__()

    def build(self) -> ours.Attack:
        return self._as(ours.PGD, random_start=0.0)


@dataclass(eq=False)
class PGD(Attack):
    eps: Budget = 8 / 255
    alpha: Budget = 2 / 255
    steps: int = 10
    random_start: bool = True

    def build(self) -> ours.Attack:
        return self._as(ours.PGD, random_start=float(self.random_start))


@dataclass(eq=False)
class PGDL2(Attack):
    eps: Budget = 1.0
    alpha: Budget = 0.2
    steps: int = 10
    random_start: bool = True
    eps_for_division: float = 1e-10

    def build(self) -> ours.Attack:
        return self._as(ours.PGD, norm="l2", random_start=float(self.random_start))


@dataclass(eq=False)
class MIFGSM(Attack):
    eps: Budget = 8 / 255
    alpha: Budget = 2 / 255
    steps: int = 10
    decay: float = 1.0

    def build(self) -> ours.Attack:
        return self._as(ours.MIFGSM)


@dataclass(eq=False)
class TPGD(Attack):
    eps: Budget = 8 / 255
    alpha: Budget = 2 / 255
    steps: int = 10

    supported_mode = ("default",)

    def build(self) -> ours.Attack:
        return self._as(ours.TPGD)


@dataclass(eq=False)
class EOTPGD(Attack):
    eps: Budget = 8 / 255
    alpha: Budget = 2 / 255
    steps: int = 10
    eot_iter: int = 2
    random_start: bool = True

    def build(self) -> ours.Attack:
        return self._as(ours.EOTPGD, samples=self.eot_iter, random_start=float(self.random_start))


@dataclass(eq=False)
class NIFGSM(Attack):
    eps: Budget = 8 / 255
    alpha: Budget = 2 / 255
    steps: int = 10
    decay: float = 1.0

    def build(self) -> ours.Attack:
        return self._as(ours.NIFGSM)


@dataclass(eq=False)
class SINIFGSM(Attack):
    eps: Budget = 8 / 255
    alpha: Budget = 2 / 255
    steps: int = 10
    decay: float = 1.0
    m: int = 5

    def build(self) -> ours.Attack:
        return self._as(ours.SINIFGSM, scales=self.m)


@dataclass(eq=False)
class VMIFGSM(Attack):
    eps: Budget = 8 / 255
    alpha: Budget = 2 / 255
    steps: int = 10
    decay: float = 1.0
    N: int = 5
    beta: float = 3 / 2

    def build(self) -> ours.Attack:
        return self._as(ours.VMIFGSM, neighbours=self.N)


@dataclass(eq=False)
class VNIFGSM(Attack):
    eps: Budget = 8 / 255
    alpha: Budget = 2 / 255
    steps: int = 10
    decay: float = 1.0
    N: int = 5
    beta: float = 3 / 2

    def build(self) -> ours.Attack:
        return self._as(ours.VNIFGSM, neighbours=self.N)


@dataclass(eq=False)
class DIFGSM(Attack):
    eps: Budget = 8 / 255
    alpha: Budget = 2 / 255
    steps: int = 10
    decay: float = 0.0
    resize_rate: float = 0.9
    diversity_prob: float = 0.5
    random_start: bool = False

    def build(self) -> ours.Attack:
        how = {"resize": self.resize_rate, "probability": self.diversity_prob}
        return self._as(ours.DIFGSM, random_start=float(self.random_start), **how)


@dataclass(eq=False)
class TIFGSM(Attack):
    """TI-FGSM; `len_kernel` must be odd."""

    eps: Budget = 8 / 255
    alpha: Budget = 2 / 255
    steps: int = 10
    decay: float = 0.0
    kernel_name: str = "gaussian"
    len_kernel: int = 15
    nsig: float = 3
    resize_rate: float = 0.9
    diversity_prob: float = 0.5
    random_start: bool = False

    def build(self) -> ours.Attack:
        how = {"resize": self.resize_rate, "probability": self.diversity_prob, "kernel": self.kernel_name}
        how |= {"length": self.len_kernel, "reach": self.nsig}
        return self._as(ours.TIFGSM, random_start=float(self.random_start), **how)


@dataclass(eq=False)
class DeepFool(Attack):
    steps: int = 50
    overshoot: float = 0.02

    supported_mode = ("default",)

    def build(self) -> ours.Attack:
        return self._as(ours.DeepFool, candidates=2**31)  # all classes


@dataclass(eq=False)
class CW(Attack):
    c: float = 1
    kappa: float = 0
    steps: int = 50
    lr: float = 0.01

    def build(self) -> ours.Attack:
        return self._as(ours.CW, initial_const=self.c, binary_search_steps=1)


@dataclass(eq=False)
class EADL1(Attack):
    kappa: float = 0
    lr: float = 0.01
    binary_search_steps: int = 9
    max_iterations: int = 100
    abort_early: bool = True
    initial_const: float = 0.001
    beta: float = 0.001

    def build(self) -> ours.Attack:
        return self._as(ours.EAD, steps=self.max_iterations)


@dataclass(eq=False)
class EADEN(EADL1):
    def build(self) -> ours.Attack:
        return self._as(ours.EAD, steps=self.max_iterations, decision="en")


@dataclass(eq=False)
class FAB(Attack):
    """FAB, or FAB-T if `multi_targeted`; perturbations beyond `eps` are not returned, those within not shrunk."""

    norm: str = "Linf"
    eps: Budget | None = 8 / 255
    steps: int = 10
    n_restarts: int = 1
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9
    verbose: bool = False
    seed: int | None = 0
    multi_targeted: bool = False
    n_classes: int = 10

    supported_mode = ("default",)

    def build(self) -> ours.Attack:
        if self.eps is None:
            self.eps = {"linf": 0.3, "l2": 1.0, "l1": 5.0}[self.norm.lower()]
        how = {"restarts": self.n_restarts, "enough": self.eps, "early": False, "norm": self.norm.lower()}
        if self.multi_targeted:
            return self._as(ours.FABT, targets=self.n_classes - 1, **how)
        return self._as(ours.FAB, **how)


@dataclass(eq=False)
class APGD(Attack):
    norm: str = "Linf"
    eps: Budget = 8 / 255
    steps: int = 10
    n_restarts: int = 1
    seed: int | None = 0
    loss: str = "ce"
    eot_iter: int = 1
    rho: float = 0.75
    verbose: bool = False

    supported_mode = ("default",)

    def build(self) -> ours.Attack:
        return self._as(ours.APGD, norm=self.norm.lower(), restarts=self.n_restarts, eot=self.eot_iter)


@dataclass(eq=False)
class APGDT(Attack):
    norm: str = "Linf"
    eps: Budget = 8 / 255
    steps: int = 10
    n_restarts: int = 1
    seed: int | None = 0
    eot_iter: int = 1
    rho: float = 0.75
    verbose: bool = False
    n_classes: int = 10

    supported_mode = ("default",)

    def build(self) -> ours.Attack:
        how = {"restarts": self.n_restarts, "eot": self.eot_iter, "targets": self.n_classes - 1}
        return self._as(ours.APGDT, norm=self.norm.lower(), **how)


@dataclass(eq=False)
class Square(Attack):
    norm: str = "Linf"
    eps: Budget = 8 / 255
    n_queries: int = 5000
    n_restarts: int = 1
    p_init: float = 0.8
    loss: str = "margin"
    resc_schedule: bool = True
    seed: int | None = 0
    verbose: bool = False

    supported_mode = ("default",)

    def build(self) -> ours.Attack:
        if self.loss != "margin":
            raise ValueError(f"Square knows the margin loss only here, got loss={self.loss!r}")
        how = {"queries": self.n_queries, "restarts": self.n_restarts, "p": self.p_init}
        return self._as(ours.Square, norm=self.norm.lower(), **how)


@dataclass(eq=False)
class SPSA(Attack):
    eps: Budget = 0.3
    delta: float = 0.01
    lr: float = 0.01
    nb_iter: int = 1
    nb_sample: int = 128
    max_batch_size: int = 64

    def build(self) -> ours.Attack:
        return self._as(ours.SPSA, steps=self.nb_iter, samples=self.nb_sample)


@dataclass(eq=False)
class JSMA(Attack):
    theta: float = 1.0
    gamma: float = 0.1

    def set_mode_default(self) -> None:
        """Towards the class after the label; after the last comes the first."""

        def goal(model: Model, x: Tensor, y: Tensor | None, ids: Tensor) -> Tensor:
            logits = logits_at(model, x)
            return ((predicted(logits) if y is None else y) + 1) % logits.shape[1]

        self._target("default", goal)

    def build(self) -> ours.Attack:
        return self._as(ours.JSMA)


@dataclass(eq=False)
class OnePixel(Attack):
    pixels: int = 1
    steps: int = 10
    popsize: int = 10
    inf_batch: int = 128

    def build(self) -> ours.Attack:
        return self._as(ours.OnePixel, population=max(4, self.popsize, 5 * self.pixels), base="best")


Side = float | tuple[float, float]


@dataclass(eq=False)
class Pixle(Attack):
    x_dimensions: Side = (2, 10)
    y_dimensions: Side = (2, 10)
    pixel_mapping: str = "random"
    restarts: int = 20
    max_iterations: int = 10
    update_each_iteration: bool = False

    def build(self) -> ours.Attack:
        wide, tall = (
            (side, side) if isinstance(side, int | float) else tuple(side)
            for side in (self.x_dimensions, self.y_dimensions)
        )
        rounds = (self.max_iterations, 1) if self.update_each_iteration else (self.restarts, self.max_iterations)
        how = {"restarts": rounds[0], "steps": rounds[1], "mapping": self.pixel_mapping.lower()}
        return self._as(ours.Pixle, tall=tall, wide=wide, **how)


@dataclass(eq=False)
class AutoAttack(Attack):
    norm: str = "Linf"
    eps: Budget = 8 / 255
    version: str = "standard"
    n_classes: int = 10
    seed: int | None = None
    verbose: bool = False

    supported_mode = ("default",)

    def build(self) -> ours.Attack:
        return self._as(ours.AutoAttack, norm=self.norm.lower())


class MultiAttack(Attack):
    """`attacks` in turn, each on the samples that none before has fooled; where all fail, the images as they were.

    Raises ValueError for fewer than two attacks, or attacks on different models.
    """

    supported_mode = ("default",)

    def __init__(self, attacks: Iterable[Attack], verbose: bool = False):
        self.attacks, self.verbose = [*attacks], verbose
        if len(self.attacks) < 2 or any(attack.model is not self.attacks[0].model for attack in self.attacks):
            raise ValueError(f"MultiAttack needs two attacks or more, all on the same model; got {len(self.attacks)}")
        super().__init__("MultiAttack", self.attacks[0].model)
        self.normalization_used = self.attacks[0].normalization_used

    def _budget(self) -> tuple[str, Budget]:
        """The largest of its attacks; ValueError where their norms differ."""
        norms, budgets = zip(*(attack._budget() for attack in self.attacks), strict=True)
        if len({*norms}) > 1:
            raise ValueError(f"MultiAttack: attacks in {', '.join(norms)} have no common budget: save them as float")
        return norms[0], max(budgets)

    def _attack(self, model: Model, x: Tensor, y: Tensor | None, ids: Tensor) -> Tensor:
        x_adv, left = x.clone(), torch.arange(len(x), device=x.device)
        y = logits_at(model, x).argmax(dim=1) if y is None else y
        for attack in self.attacks:
            found = attack._attack(model, x[left], y[left], ids[left])
            fooled = predicted(logits_at(model, found)) != y[left]
            x_adv[left[fooled]] = found[fooled]
            left = left[~fooled]
            if len(left) == 0:
                break
        return x_adv
