"""``torchattacks.attack``: what its attacks share, and what a class of your own derives from."""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from ... import attacks as ours
from ... import ops
from ...attacks import Model, checked_logits, isolated, predicted
from ...attacks._grid import LEVELS, from_levels, rounded, to_levels
from ...attacks.onestep import random_target
from ...runs import replace_file
from .._models import drawn, logits_at, normalised, of_model, seeded
from .._names import only

__all__ = ["Attack"]

__getattr__, __dir__ = only(__name__, __all__)

Budget = float | Tensor


@dataclass(eq=False, init=False)
class Attack:
    """An attack on `model`: ``atk(images, labels)`` gives the adversarial images, on the model's device.

    A class of your own calls ``super().__init__(name, model)`` and has a `forward`, which gets images in [0, 1] and
    asks `get_logits`; where it runs, the model is in eval mode, and its parameters need no gradients.
    """

    model: Model = field(repr=False)

    seed = None
    supported_mode = ("default", "targeted")
    _forward_on: ClassVar[Model | None] = None  # the model for images in [0, 1], while `forward` runs

    def __init__(self, name: str, model: Model):
        self.attack, self.supported_mode = name, ("default",)
        self._begin(model)

    def __post_init__(self) -> None:
        self.attack = type(self).__name__
        self._begin(self.model)
        self.build()

    def _begin(self, model: Model) -> None:
        self.set_model(model)
        self.normalization_used: dict[str, Tensor] | None = None
        self.set_mode_default()

    def build(self) -> ours.Attack:
        """fastadv's attack with these options, unless `forward` is one's own."""
        raise NotImplementedError(f"{type(self).__name__} needs a forward(self, images, labels)")

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
        x_adv = self._attack(self._seen(), self._pixels(x), y, ids)
        return x_adv if self.normalization_used is None else self.normalize(x_adv)

    def _seen(self) -> Model:
        """The model, for images in [0, 1]."""
        return self.model if self.normalization_used is None else normalised(self.model, **self.normalization_used)

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

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """What a call does to `images` in [0, 1]; a class may define its own."""
        return self._run(self._forward_on or self._seen(), images, labels, torch.arange(len(images)).to(images.device))

    def _attack(self, model: Model, x: Tensor, y: Tensor | None, ids: Tensor) -> Tensor:
        if type(self).forward is Attack.forward:
            return self._run(model, x, y, ids)
        self._forward_on = model
        try:
            with isolated(model):
                return self.forward(x, y).detach()
        finally:
            self._forward_on = None

    def _run(self, model: Model, x: Tensor, y: Tensor | None, ids: Tensor) -> Tensor:
        attack = seeded(self.build())
        found = attack.run(model, x, self._goal(model, x, y, ids) if self.targeted else y, ids)
        if attack.has_budget or not hasattr(self, "eps"):
            return found.x_adv
        return torch.where(ops.as_rows(found.norm <= self.eps, x), found.x_adv, x)  # FAB knows no budget

    def get_logits(self, inputs: Tensor, labels: Tensor | None = None) -> Tensor:
        """The model's logits at `inputs`, as they would be given to the attack; within `forward`, in [0, 1].

        They have a gradient where `inputs` do.
        """
        model, wanted = self._forward_on or self.model, torch.is_grad_enabled()
        with isolated(model), torch.set_grad_enabled(wanted and inputs.requires_grad):
            return checked_logits(model, inputs.to(self.device))

    def get_target_label(self, inputs: Tensor, labels: Tensor | None = None) -> Tensor:
        """The classes that the attack goes towards, for a `forward` of your own. ValueError where it is untargeted."""
        if not self.targeted:
            raise ValueError(f"{type(self).__name__} is not targeted: call set_mode_targeted_... first")
        ids = torch.arange(len(inputs), device=inputs.device)
        return self._goal(self._forward_on or self._seen(), inputs.detach(), labels, ids)

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
        """`x_adv` in 8 bits, within the budget where `x` has them and is perturbed within it."""
        exact, clean = (to_levels(self._pixels(each)) for each in (x_adv, x))
        budget = LEVELS * ops.as_rows(ops.per_sample("save", "eps", eps, x).double(), x)
        pixels = from_levels(rounded(exact, clean, norm, budget)).to(x_adv.dtype)
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
