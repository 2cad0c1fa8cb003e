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
- Attacks run in eval mode: `set_model_training_mode` refuses anything else. Changes of mode are not printed.
- `verbose`, PGDL2's `eps_for_division`, AutoAttack's `n_classes` and Square's `resc_schedule` (the schedule is the
  published one, as in auto-attack) are accepted and mean nothing.
- `save` as integers rounds, and what it writes stays within `eps`. Accuracy and predictions are those of what is saved.
- A sample whose logits are NaN is misclassified, and its prediction is -1.
- FAB, Square, APGD and DeepFool cannot be targeted (`set_mode_targeted_*` raises ValueError).
"""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from .. import attacks as ours
from .. import ops
from ..attacks import Model, predicted
from ..attacks.onestep import random_target
from ..runs import replace_file
from ._models import drawn, logits_at, normalised, of_model, seeded
from ._names import only

__all__ = [
    "APGD",
    "APGDT",
    "BIM",
    "CW",
    "FAB",
    "FFGSM",
    "FGSM",
    "MIFGSM",
    "PGD",
    "PGDL2",
    "RFGSM",
    "Attack",
    "AutoAttack",
    "DeepFool",
    "MultiAttack",
    "Square",
]

__getattr__, __dir__ = only(__name__, __all__)

Budget = float | Tensor


@dataclass(eq=False)
class Attack(ABC):
    """An attack on `model`: ``atk(images, labels)`` gives the adversarial images, on the model's device."""

    model: Model = field(repr=False)

    seed = None
    supported_mode: ClassVar[tuple[str, ...]] = ("default", "targeted")

    def __post_init__(self) -> None:
        self.set_model(self.model)
        self.normalization_used: dict[str, Tensor] | None = None
        self.set_mode_default()
        self.build()

    @abstractmethod
    def build(self) -> ours.Attack:
        """fastadv's attack with these options."""

    def _as(self, kind: type[ours.Attack], **options: Any) -> ours.Attack:
        """`kind` with `options`, and with the options of this object that have the same name there."""
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        own |= {"seed": self.seed, "targeted": self.targeted}
        known = {f.name for f in fields(kind)}
        return kind(**{**{name: value for name, value in own.items() if name in known}, **options})

    def __call__(self, inputs: Tensor, labels: Tensor | None = None, *, ids: Tensor | None = None) -> Tensor:
        """Attacks `inputs` [B, C, H, W]; away from their `labels`, or from the model's predictions without them.

        `ids` [B] name the samples for random numbers, 0, 1, ... by default.
        """
        x = inputs.detach().to(self.device)
        y = None if labels is None else labels.to(x.device)
        ids = (torch.arange(len(x)) if ids is None else ids).to(x.device)
        if self.normalization_used is None:
            return self._attack(self.model, x, y, ids)
        model = normalised(self.model, **self.normalization_used)
        return self.normalize(self._attack(model, self._pixels(x), y, ids))

    def _pixels(self, inputs: Tensor) -> Tensor:
        """`inputs` in [0, 1], as the attack sees them."""
        if self.normalization_used is None:
            return inputs
        pixels = self.inverse_normalize(inputs)
        boxed = pixels.clamp(0, 1)
        return torch.where((pixels - boxed).abs() < 1e-4, boxed, pixels)  # what normalising has rounded

    def forward_return_target_labels(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The adversarial images, and the classes predicted there."""
        x_adv = self(images, labels)
        return x_adv, predicted(self.get_logits(x_adv))

    def _attack(self, model: Model, x: Tensor, y: Tensor | None, ids: Tensor) -> Tensor:
        attack = seeded(self.build())
        found = attack.run(model, x, self._goal(model, x, y, ids) if self.targeted else y, ids)
        if attack.has_budget or not hasattr(self, "eps"):
            return found.x_adv
        return torch.where(ops.as_rows(found.norm <= self.eps, x), found.x_adv, x)  # FAB knows no budget

    def get_logits(self, inputs: Tensor) -> Tensor:
        """The model's logits at `inputs`, as they would be given to the attack."""
        return logits_at(self.model, inputs.to(self.device))

    def set_model(self, model: Model) -> None:
        parameter = of_model(model)
        self.model, self.device = model, None if parameter is None else parameter.device

    def set_device(self, device: torch.device | str) -> None:
        self.device = device

    # ------------------------------------------------------------------------------------------------- normalisation

    def set_normalization_used(self, mean: Iterable[float], std: Iterable[float]) -> None:
        """Images come normalised, and go back normalised; the attack, its budget and its box are in pixels."""
        self.normalization_used = {"mean": torch.tensor([*mean]), "std": torch.tensor([*std])}

    def normalize(self, inputs: Tensor) -> Tensor:
        mean, std = (self.normalization_used[name].to(inputs).view(-1, 1, 1) for name in ("mean", "std"))
        return (inputs - mean) / std

    def inverse_normalize(self, inputs: Tensor) -> Tensor:
        mean, std = (self.normalization_used[name].to(inputs).view(-1, 1, 1) for name in ("mean", "std"))
        return inputs * std + mean

    def set_model_training_mode(
        self, model_training: bool = False, batchnorm_training: bool = False, dropout_training: bool = False
    ) -> None:
        """Raises ValueError unless all are false: attacks run in eval mode, so that a sample's result is its own."""
        if model_training or batchnorm_training or dropout_training:
            raise ValueError(f"{type(self).__name__}: attacks run in eval mode; in train mode samples depend on others")

    # --------------------------------------------------------------------------------------------------------- modes

    def get_mode(self) -> str:
        return self.attack_mode

    def set_mode_default(self) -> None:
        """Away from the labels."""
        self.attack_mode, self.targeted = "default", False

    def set_mode_targeted_by_label(self, quiet: bool = False) -> None:
        """Towards the labels given."""
        self._target("targeted(label)", lambda model, x, y, ids: y)

    def set_mode_targeted_by_function(
        self, target_map_function: Callable[[Tensor, Tensor], Tensor], quiet: bool = False
    ) -> None:
        """Towards ``target_map_function(images, labels)``."""
        self._target("targeted(custom)", lambda model, x, y, ids: target_map_function(x, y))

    def set_mode_targeted_random(self, quiet: bool = False) -> None:
        """Towards any other class, with equal chance."""

        def goal(model: Model, x: Tensor, y: Tensor | None, ids: Tensor) -> Tensor:
            logits = logits_at(model, x)
            return random_target(logits.argmax(dim=1) if y is None else y, ids, logits.shape[1], drawn(self.seed))

        self._target("targeted(random)", goal)

    def set_mode_targeted_least_likely(self, kth_min: int = 1, quiet: bool = False) -> None:
        """Towards the other class with the `kth_min` lowest logit."""

        def goal(model: Model, x: Tensor, y: Tensor | None, ids: Tensor) -> Tensor:
            logits = logits_at(model, x)
            if not 1 <= kth_min < logits.shape[1]:
                raise ValueError(f"kth_min must be between 1 and {logits.shape[1] - 1}, got {kth_min}")
            own = logits.argmax(dim=1) if y is None else y
            return logits.scatter(1, own.unsqueeze(1), torch.inf).argsort(dim=1, stable=True)[:, kth_min - 1]

        self._target("targeted(least-likely)", goal)

    def _target(self, mode: str, goal: Callable[[Model, Tensor, Tensor | None, Tensor], Tensor]) -> None:
        if "targeted" not in self.supported_mode:
            raise ValueError(f"{type(self).__name__} has no targeted mode")
        self.attack_mode, self.targeted, self._goal = mode, True, goal

    # --------------------------------------------------------------------------------------------------------- files

    def save(
        self,
        data_loader: Iterable[tuple[Tensor, Tensor]],
        save_path: str | Path | None = None,
        verbose: bool = True,
        return_verbose: bool = False,
        save_predictions: bool = False,
        save_clean_inputs: bool = False,
        save_type: str = "float",
    ) -> tuple[float, float, float] | None:
        """Attacks all of `data_loader`; writes tensors to `save_path`, in pixels, in one go, for `load`.

        With `return_verbose`: robust accuracy in %, mean L2 norm of the successful perturbations, seconds. `save_type`:
        ``float``, or ``int`` for uint8, which is rounded so that perturbations of 8-bit images stay within `eps`.
        Samples have their places in `data_loader` as ids.
        """
        if save_type not in ("float", "int"):
            raise ValueError(f"save_type must be float or int, got {save_type!r}")
        budget = self._budget() if save_type == "int" else None
        started, columns, place = time.perf_counter(), [], 0
        for inputs, labels in data_loader:
            x_adv = self(inputs, labels, ids=torch.arange(place, place := place + len(inputs)))
            if budget is not None:
                x_adv = self._quantised(x_adv, inputs.to(x_adv), *budget)
            predictions = predicted(self.get_logits(x_adv))
            sizes = (x_adv - inputs.to(x_adv)).flatten(1).norm(dim=1)
            columns.append([t.cpu() for t in (x_adv, labels, predictions, inputs, sizes)])
        x_adv, y, predictions, x, sizes = (torch.cat(column) for column in zip(*columns, strict=True))
        if save_path is not None:
            pixels = (lambda t: t) if self.normalization_used is None else self.inverse_normalize
            stored = {"adv_inputs": pixels(x_adv), "labels": y, "save_type": save_type}
            stored |= {"preds": predictions} if save_predictions else {}
            stored |= {"clean_inputs": pixels(x)} if save_clean_inputs else {}
            if save_type == "int":
                stored |= {name: (stored[name] * 255).round().byte() for name in stored if name.endswith("inputs")}
            replace_file(Path(save_path), lambda file: torch.save(stored, file))
        fooled = predictions != y
        report = (100 * (1 - fooled.double().mean().item()), sizes[fooled].mean().item(), time.perf_counter() - started)
        return report if return_verbose else None

    def _quantised(self, x_adv: Tensor, x: Tensor, norm: str, eps: Budget) -> Tensor:
        """`x_adv` in 8 bits; see `_in_8_bits`."""
        pixels = _in_8_bits(self._pixels(x_adv), self._pixels(x), norm, eps)
        return pixels if self.normalization_used is None else self.normalize(pixels)

    def _budget(self) -> tuple[str, Budget]:
        """The norm of the perturbations and the largest that is allowed."""
        return self.build().norm, getattr(self, "eps", math.inf)

    @staticmethod
    def load(
        load_path: str | Path,
        batch_size: int = 128,
        shuffle: bool = False,
        normalize: dict[str, Iterable[float]] | None = None,
        load_predictions: bool = False,
        load_clean_inputs: bool = False,
    ) -> DataLoader:
        """A loader of what `save` wrote: adversarial inputs, labels, and predictions and clean inputs if asked for."""
        stored = torch.load(load_path, map_location="cpu", weights_only=True)
        names = ["adv_inputs", "labels", *["preds"] * load_predictions, *["clean_inputs"] * load_clean_inputs]
        if missing := [name for name in names if name not in stored]:
            raise ValueError(f"{load_path} holds no {' and no '.join(missing)}: it was saved without")
        for name in ("adv_inputs", "clean_inputs"):
            if name in names and stored["save_type"] == "int":
                stored[name] = stored[name].float() / 255
            if name in names and normalize is not None:
                mean, std = (torch.tensor([*normalize[part]]).view(-1, 1, 1) for part in ("mean", "std"))
                stored[name] = (stored[name] - mean) / std
        return DataLoader(TensorDataset(*[stored[name] for name in names]), batch_size=batch_size, shuffle=shuffle)


def _in_8_bits(x_adv: Tensor, x: Tensor, norm: str, eps: Budget) -> Tensor:
    """`x_adv` [B, ...] in [0, 1], rounded to multiples of 1/255.

    Where that takes a perturbation beyond `eps`, values are rounded towards `x` instead: for ``linf`` those that are
    too far, for ``l1`` and ``l2`` the nearest to the middle between two multiples, as few as it takes. Images `x` of 8
    bits, and those perturbed within `eps`, so remain within `eps`.
    """
    levels, clean = 255 * x_adv.double(), 255 * x.double()
    near, budget = levels.round(), 255 * ops.per_sample("save", "eps", eps, x).double()
    towards_x = torch.where(near > clean, levels.floor(), levels.ceil())
    if norm == "linf":
        beyond = (near - clean).abs() > ops.as_rows(budget, x) + 1e-3  # of a level, for what rounding has left
        return (torch.where(beyond, towards_x, near) / 255).to(x_adv.dtype)
    power = {"l1": 1, "l2": 2}[norm]
    gain = ((near - clean).abs() ** power - (towards_x - clean).abs() ** power).clamp_min(0).flatten(1)
    excess = (near - clean).abs().flatten(1).pow(power).sum(dim=1) - budget**power
    order = torch.where(gain > 0, (near - levels).abs().flatten(1), -1).argsort(dim=1, descending=True, stable=True)
    gained = gain.gather(1, order)
    needed = gained.cumsum(dim=1) - gained < excess.unsqueeze(1)
    turned = torch.zeros_like(needed).scatter(1, order, needed & (gained > 0)).view_as(near)
    return (torch.where(turned, towards_x, near) / 255).to(x_adv.dtype)


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
        how = {"restarts": self.n_restarts, "enough": self.eps, "norm": self.norm.lower()}
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
            raise ValueError("MultiAttack needs two attacks or more, all on the same model")
        super().__init__(self.attacks[0].model)
        self.normalization_used = self.attacks[0].normalization_used

    def build(self) -> None:
        """There is no one attack of fastadv behind this one."""

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
