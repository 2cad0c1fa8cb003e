"""auto-attack's evaluation of a whole data set on fastadv's attacks, which an interrupted run resumes where it was.

``AutoAttack(model, norm="Linf", eps=8 / 255).run_standard_evaluation(x, y, bs=250)``, as with auto-attack. What
differs, on purpose:

- Results depend neither on `bs` nor on the clock: `seed` None is 0. Random numbers are keyed by a sample's place.
- ``state_path`` works: a resumed run returns what an uninterrupted one returns, adversarial samples included, and a
  state of other data, another model or other settings is refused. It holds tensors and plain values only.
- Lines go to ``logging.getLogger("fastadv.autoattack")``, level INFO, and to `log_path`; nothing is printed.
- The model stays where it is, and batches go there; `device` says where that is if it cannot be seen.
- There are no ``.apgd``, ``.fab`` and so on to set options at: `attacks` holds fastadv's attacks by name, to replace.
  TensorFlow models (``is_tf_model``) are not supported.
"""

import hashlib
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import __version__, attacks
from ..attacks import PGD, Attack, Model
from ..runs import replace_file
from ._models import of_model

logger = logging.getLogger("fastadv.autoattack")

_CLEAN = PGD(steps=0, random_start=0.0)
"""The attack that does nothing: the samples it fools are misclassified as they are."""


class AutoAttack:
    """The worst case over several attacks, for every sample of a data set.

    Args:
        model: images in [0, 1] to logits.
        norm: ``Linf`` or ``L2``.
        eps: budget.
        seed: of all random numbers; None is 0.
        verbose: whether anything is logged.
        attacks_to_run: for version ``custom``: names out of ``apgd-ce``, ``apgd-dlr``, ``apgd-t``, ``fab``, ``fab-t``,
            ``square``.
        version: ``standard``, ``plus``, ``rand`` or ``custom``.
        device: where the batches go; by default where the model's parameters are.
        log_path: a file to which lines are added.

    `attacks` are the attacks in their order, by name; they may be replaced before a run. An attack without a budget
    has found something where its perturbation is within `eps`.
    """

    def __init__(
        self,
        model: Model,
        norm: str = "Linf",
        eps: float = 0.3,
        seed: int | None = None,
        verbose: bool = True,
        attacks_to_run: Sequence[str] = (),
        version: str = "standard",
        *,
        device: torch.device | str | None = None,
        log_path: str | Path | None = None,
    ):
        self.model, self.norm, self.eps, self.version, self.verbose = model, norm, eps, version, verbose
        self.seed = seed or 0
        self.attacks: dict[str, Attack] = {}
        if version != "custom" or attacks_to_run:
            self.attacks = self._suite(version, attacks_to_run)
        parameter = of_model(model)
        self.device = parameter.device if device is None and parameter is not None else device
        self.log_path = log_path

    def _suite(self, version: str, names: Sequence[str]) -> dict[str, Attack]:
        return attacks.AutoAttack(self.eps, version, tuple(names), norm=self.norm.lower(), seed=self.seed).attacks

    @property
    def attacks_to_run(self) -> list[str]:
        """The names of `attacks`. Setting them leaves those attacks alone, and adds others as in ``standard``."""
        return list(self.attacks)

    @attacks_to_run.setter
    def attacks_to_run(self, names: Sequence[str]) -> None:
        kept = {name: attack for name, attack in self.attacks.items() if name in names}
        self.attacks = self._suite("custom", names) | kept

    def run_standard_evaluation(
        self,
        x_orig: Tensor,
        y_orig: Tensor,
        bs: int = 250,
        return_labels: bool = False,
        state_path: str | Path | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """The adversarial samples of `x_orig` [N, ...], in order, on its device; where all attacks fail, the sample.

        With `return_labels` also the classes predicted there. With `state_path` the state is written to that file
        after every batch of every attack, and a run that finds the file goes on from there. Raises ValueError where
        the file is damaged, or of another evaluation.
        """
        path = None if state_path is None else Path(state_path)
        return self._evaluate(self.attacks, x_orig, y_orig, bs, return_labels, path)

    def run_standard_evaluation_individual(
        self, x_orig: Tensor, y_orig: Tensor, bs: int = 250, return_labels: bool = False
    ) -> dict[str, Any]:
        """The same for every attack by itself, by name: each attacks all samples that are classified correctly."""
        return {
            name: self._evaluate({name: attack}, x_orig, y_orig, bs, return_labels, None)
            for name, attack in self.attacks.items()
        }

    def clean_accuracy(self, x_orig: Tensor, y_orig: Tensor, bs: int = 250) -> float:
        """The share of samples that are classified correctly."""
        state = _State.begun(x_orig, y_orig)
        for _ in self._round(state, 1, _CLEAN, x_orig, y_orig, bs):
            pass
        self._log(f"clean accuracy: {state.accuracy:.2%}")
        return state.accuracy

    def _evaluate(
        self, suite: dict[str, Attack], x: Tensor, y: Tensor, bs: int, return_labels: bool, path: Path | None
    ) -> Tensor | tuple[Tensor, Tensor]:
        if len(x) == 0 or bs < 1:
            raise ValueError(f"AutoAttack needs samples and a positive bs, got {len(x)} samples and bs {bs}")
        if not suite:
            raise ValueError("AutoAttack of version custom has no attacks: name them in attacks_to_run")
        suite = {name: attack.seeded(self.seed) for name, attack in suite.items()}
        state = _State.begun(x, y)
        self._log(f"using {self.version} version including {', '.join(suite)}.")
        if path is not None:
            evaluation = self._evaluation(suite, x, y)
            if path.exists():
                state.restore(path, evaluation)
                self._log(f"restored state from {path}")
            state.save(path, evaluation)
        for number, (name, attack) in enumerate({"clean": _CLEAN, **suite}.items(), 1):
            for line in self._round(state, number, attack, x, y, bs):
                if path is not None:
                    state.save(path, evaluation)
                self._log(f"{name} - {line} successfully perturbed")
            after = "initial accuracy" if number == 1 else f"robust accuracy after {name.upper()}"
            self._log(f"{after}: {state.accuracy:.2%} (total time {state.seconds:.1f} s)")
        x_adv, order = state.x_adv, float(self.norm.lower().removeprefix("l"))
        sizes = torch.linalg.vector_norm((x_adv - x).flatten(1).double(), order, dim=1)
        self._log(
            f"max {self.norm} perturbation: {sizes.max():.5f}, nan in tensor: {int(x_adv.isnan().sum())}, "
            f"max: {x_adv.max():.5f}, min: {x_adv.min():.5f}"
        )
        self._log(f"robust accuracy: {state.accuracy:.2%}")
        return (x_adv, state.y_adv) if return_labels else x_adv

    def _round(self, state: "_State", number: int, attack: Attack, x: Tensor, y: Tensor, bs: int) -> Iterator[str]:
        """`attack` on the samples that are left and have not met it yet; says after every batch what came of it."""
        parts = (state.robust & (state.rounds < number)).nonzero().squeeze(1).split(bs)
        for part, index in enumerate(parts if len(parts[0]) else (), 1):
            started = time.perf_counter()
            device = self.device or x.device
            found = attack.outcome(self.model, x[index].to(device), y[index].to(device), index.to(device))
            won = (found.success if attack.has_budget else found.success & (found.norm <= self.eps)).cpu()
            state.rounds[index], state.robust[index] = number, ~won
            state.x_adv[index[won]] = found.x_adv.to(x.device)[won]
            state.y_adv[index[won]] = found.target.to(y)[won]
            state.seconds += time.perf_counter() - started
            yield f"{part}/{len(parts)} - {int(won.sum())} out of {len(index)}"

    def _evaluation(self, suite: dict[str, Attack], x: Tensor, y: Tensor) -> dict[str, str]:
        """What a state belongs to: all that its numbers depend on, as far as it can be seen."""
        weights = self.model.state_dict().values() if isinstance(self.model, nn.Module) else ()
        return {
            "version of fastadv": __version__,
            "attacks": repr(suite),
            "norm": self.norm,
            "eps": repr(self.eps),
            "images": _digest([x]),
            "labels": _digest([y]),
            "model": _digest(weights),
        }

    def _log(self, line: str) -> None:
        if self.verbose:
            logger.info(line)
            if self.log_path is not None:
                with Path(self.log_path).open("a") as file:
                    file.write(line + "\n")


@dataclass
class _State:
    """How far an evaluation has come, a row a sample.

    `rounds`: how many attacks a sample has met, the clean pass being the first. `robust`: whether all of them failed.
    """

    x_adv: Tensor
    y_adv: Tensor
    rounds: Tensor
    robust: Tensor
    seconds: float = 0.0

    @classmethod
    def begun(cls, x: Tensor, y: Tensor) -> "_State":
        return cls(x.detach().clone(), y.clone(), torch.zeros(len(x), dtype=torch.int64), torch.ones(len(x)).bool())

    @property
    def accuracy(self) -> float:
        return self.robust.double().mean().item()

    @property
    def moved(self) -> Tensor:
        """Where `x_adv` is not the sample itself."""
        return (~self.robust & (self.rounds > 1)).nonzero().squeeze(1)

    def save(self, path: Path, evaluation: dict[str, str]) -> None:
        columns = {"rounds": self.rounds, "robust": self.robust, "y_adv": self.y_adv, "x_adv": self.x_adv[self.moved]}
        columns = {name: column.cpu() for name, column in columns.items()}
        plain = {"evaluation": evaluation, "seconds": self.seconds, "digest": _digest(columns.values())}
        replace_file(path, lambda file: torch.save({**columns, **plain}, file))

    def restore(self, path: Path, evaluation: dict[str, str]) -> None:
        """Raises ValueError where the file is damaged, or the state of anything but `evaluation`."""
        try:
            stored = torch.load(path, map_location="cpu", weights_only=True)
            whole = stored["digest"] == _digest(stored[name] for name in ("rounds", "robust", "y_adv", "x_adv"))
            other = [name for name, value in evaluation.items() if stored["evaluation"][name] != value]
        except Exception as error:  # torch raises whatever the bytes lead it to
            raise ValueError(f"{path} is damaged, or no state of an evaluation ({type(error).__name__})") from None
        if other:
            raise ValueError(
                f"{path} is the state of another evaluation: not the same {', '.join(other)}. Give another state_path, "
                "or remove the file to begin anew"
            )
        if not whole:
            raise ValueError(f"{path} is damaged: its contents do not match their digest")
        self.rounds, self.robust, self.seconds = stored["rounds"], stored["robust"], stored["seconds"]
        self.y_adv = stored["y_adv"].to(self.y_adv.device)
        self.x_adv[self.moved] = stored["x_adv"].to(self.x_adv.device)


def _digest(tensors: Iterable[Tensor]) -> str:
    """Of types, shapes and bits."""
    found = hashlib.sha256()
    for t in tensors:
        if isinstance(t, Tensor):
            found.update(f"{t.dtype} {tuple(t.shape)}".encode())
            found.update(t.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()
