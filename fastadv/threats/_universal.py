"""One perturbation for all samples."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .. import ops
from ..attacks import Attack, Model, Rows, isolated
from ..attacks._ascend import STEPS
from ..attacks._attack import check_budgets, check_choice, check_count
from ..attacks._grid import rounded, to_levels
from ._batches import Batches, batches, bounds_of


@dataclass(frozen=True, eq=False)
class Universal(Attack):
    """One perturbation that is added to every sample (Moosavi-Dezfooli et al., 2017), and clipped; `fit` finds it.

    `save` and `load` keep it in files.

    Args:
        delta: the perturbation, [C, H, W] or what samples are.
        eps: its size in `norm` at the most; `at` another, `delta` scales with it.
        norm: ``linf``, ``l2`` or ``l1``.
    """

    delta: Tensor
    eps: float = 8 / 255
    norm: str = field(default="linf", kw_only=True)

    in_units = ("eps", "delta")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "norm", self.norm, tuple(STEPS))
        check_budgets(self, "eps")

    @classmethod
    def fit(
        cls,
        model: Model,
        data: Batches,
        eps: float = 8 / 255,
        *,
        alpha: float | None = None,
        epochs: int = 5,
        batch_size: int = 128,
        cap: float = 9.0,
        norm: str = "linf",
        target: int | None = None,
        bounds: tuple[float, float] | None = None,
        seed: int = 0,
        on_step: Callable[[int, float], None] | None = None,
    ) -> "Universal":
        """The perturbation that the mean loss of `model` rises most along: projected ascent on batches.

        A step goes along the batch's summed gradient of the cross-entropy, in the steepest direction of `norm`, and
        back into the ball (Shafahi et al., 2020, who clip the loss: samples whose loss is above `cap` count no more).

        Args:
            model: samples to logits, left as it is found.
            data: a `Dataset`, or batches (x, y) that can be gone through `epochs` times.
            eps: the size in `norm`, a share of the data's range as in evaluations; in the units of the inputs where
                `bounds` are given.
            alpha: the step size, likewise; by default a tenth of eps.
            target: a class that samples are led to, instead of away from their labels; `cap` has no part in it.
            bounds: of the inputs; by default those of the data set, or [0, 1].
            seed: of the order of a data set's samples.
            on_step: called with (number of the batch, mean loss in it before the step).
        """
        found = cls(torch.zeros(()), eps, norm=norm, bounds=bounds or (0.0, 1.0)).within(bounds_of(data, bounds))
        width = 1.0 if bounds else found.unit
        if alpha is not None and not 0 < alpha < math.inf:
            raise ValueError(f"Universal: alpha must be positive and finite, got {alpha}")
        check_count(found, "epochs", epochs, 1)
        check_count(found, "batch_size", batch_size, 1)
        if target is not None:
            check_count(found, "target", target, 0)
        delta, zero = None, None
        with isolated(model):
            for number, (x, y) in enumerate(batches(data, model, epochs, batch_size, seed), 1):
                if delta is None:
                    delta = torch.zeros_like(x[:1])
                    zero, step = delta.clone(), found.eps / 10 if alpha is None else alpha * width
                y = y if target is None else torch.full_like(y, target)
                x, y, ids, highest = found._checked(x, y, None)
                rows = Rows(model, x, y, ids, highest, targeted=target is not None)
                point = x + delta
                rows.x_adv = point.clamp(*found.bounds)
                grad, losses, _ = rows.ascent()
                counts = (point == rows.x_adv) & grad.isfinite()
                if target is None:
                    counts &= ops.as_rows(losses <= cap, grad)
                total = torch.where(counts, grad, 0).sum(dim=0, keepdim=True)
                STEPS[norm](delta, total, zero, step, found.eps, -math.inf, math.inf)
                if on_step is not None:
                    on_step(number, float(losses.mean()))
        return cls(delta[0], found.eps, norm=norm, bounds=found.bounds)

    @property
    def is_image(self) -> bool:
        """Whether it can be a PNG file: of 1 or 3 channels."""
        return self.delta.dim() == 3 and len(self.delta) in (1, 3)

    def check_file(self, path: str | Path) -> None:
        """Raises ValueError where `save` cannot write such a file, ImportError where that needs a missing package."""
        kind = Path(path).suffix
        if kind not in (".npz", ".safetensors", ".png"):
            raise ValueError(f"Universal: a perturbation is saved as .npz, .safetensors or .png, got {str(path)!r}")
        if kind == ".png" and not self.is_image:
            raise ValueError(f"Universal: only images of 1 or 3 channels are PNG, got {tuple(self.delta.shape)}")
        if kind == ".safetensors":
            _safetensors()

    def save(self, path: str | Path) -> None:
        """Writes the perturbation to a file, whose kind is that of its name.

        ``.npz`` and ``.safetensors`` hold it exactly, as float32, with its budget, norm and bounds; `load` reads them.
        ``.png`` is to be looked at or printed: grey is no change, and white and black are the largest one, up and down.

        Raises what `check_file` raises.
        """
        self.check_file(path)
        delta = self.delta.detach().to("cpu", torch.float32).contiguous()
        about = {"eps": self.eps, "norm": self.norm, "bounds": self.bounds}
        if Path(path).suffix == ".npz":
            np.savez_compressed(path, delta=delta.numpy(), about=json.dumps(about))
        elif Path(path).suffix == ".safetensors":
            _safetensors().numpy.save_file({"delta": delta.numpy()}, path, {"about": json.dumps(about)})
        else:
            most = float(delta.abs().max()) or 1.0
            levels = rounded(to_levels(delta, -most, 2 * most)).to(torch.uint8).numpy()
            Image.fromarray(levels[0] if len(levels) == 1 else levels.transpose(1, 2, 0)).save(path, "PNG")

    @classmethod
    def load(cls, path: str | Path) -> "Universal":
        """What `save` wrote to a ``.npz`` or ``.safetensors`` file. Raises ValueError for a file of something else."""
        path = Path(path)
        try:
            if path.suffix == ".safetensors":
                with _safetensors().safe_open(path, "numpy") as file:
                    delta, about = file.get_tensor("delta"), file.metadata()["about"]
            else:
                # Opened here, for np.load leaves a file open that is none of its own.
                with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                    delta, about = file["delta"], str(file["about"])
            about = json.loads(about)
            found = {"eps": about["eps"], "norm": about["norm"], "bounds": tuple(about["bounds"])}
        except FileNotFoundError:
            raise
        except Exception as error:  # readers raise whatever the bytes lead them to
            if isinstance(error, ImportError):
                raise
            raise ValueError(f"{path} holds no universal perturbation: {type(error).__name__}: {error}") from None
        return cls(torch.from_numpy(delta), **found)

    def at(self, eps: float) -> "Universal":
        if not self.eps > 0:
            raise ValueError("Universal.at scales delta with eps, which needs a positive eps to start from; got 0")
        return type(self)(self.delta * (eps / self.eps), eps, norm=self.norm, bounds=self.bounds, seed=self.seed)

    def of_rows(self, index: Tensor, x: Tensor) -> "Universal":
        return self

    def perturb(self, rows: Rows) -> None:
        x, delta = rows.x, self.delta.to(rows.x.device)
        if delta.shape != x.shape[1:]:
            raise ValueError(f"Universal: delta is for samples {tuple(delta.shape)}, got {tuple(x.shape[1:])}")
        moved = torch.where(delta == 0, x, x + delta.to(x.dtype)).clamp(*self.bounds)
        rows.x_adv = torch.empty_like(x).copy_(moved)


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError:
        raise ImportError("safetensors is missing. To fix: pip install safetensors, or save as .npz") from None
    return safetensors
