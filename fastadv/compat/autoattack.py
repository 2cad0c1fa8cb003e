"""auto-attack's evaluation of a whole data set on fastadv's attacks, which an interrupted run resumes where it was.

``AutoAttack(model, norm="Linf", eps=8 / 255).run_standard_evaluation(x, y, bs=250)``, as with auto-attack. What
differs, on purpose:

- Results do not depend on `bs`: random numbers are keyed by a sample's place. They follow ``torch.manual_seed``, not
  the clock: with `seed` None, an evaluation takes one number from PyTorch's generator, and successive ones differ.
- ``state_path`` works: a resumed run returns what an uninterrupted one returns, adversarial samples included, and a
  state of other data, another model or other settings is refused. It holds tensors and plain values only.
- Lines go to ``logging.getLogger("fastadv.autoattack")``, level INFO, and to `log_path`; nothing is printed.
- The model stays where it is, and batches go there; `device` says where that is if it cannot be seen.
- `apgd`, `apgd_targeted`, `fab` and `square` hold the published options, and refuse any other; model, norm, budget and
  seed are the evaluation's. `attacks` takes attacks of fastadv. TensorFlow models (``is_tf_model``) are not supported.
- Where a logit is NaN, a sample is misclassified, its label is -1, and a warning says so.
"""

import hashlib
import logging
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from .. import attacks as ours
from .._version import __version__
from ..attacks import Attack, AttackResult, Model
from ..ops import as_rows
from ..runs import replace_file
from ._models import drawn, of_model
from ._names import only

__all__ = ["APGDAttack", "AutoAttack", "FABAttack", "SquareAttack", "TargetedAPGDAttack"]

__getattr__, __dir__ = only(__name__, __all__)

logger = logging.getLogger("fastadv.autoattack")

_CLEAN = ours.PGD(steps=0, random_start=0.0, seed=0)
"""The attack that does nothing: the samples it fools are misclassified as they are."""


@dataclass(slots=True)
class _Live(ABC):
    """An attack of `evaluation`, whose model, norm, budget and seed it has at each call."""

    evaluation: "AutoAttack" = field(repr=False, compare=False)

    @abstractmethod
    def build(self) -> Attack:
        """fastadv's attack with these options."""

    def perturb(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The adversarial samples of `x` [N, ...], on its device: away from `y` or the model's predictions.

        A sample is returned as it is where the attack fails, or its perturbation is larger than the budget.
        """
        attack = self.build()
        attack = attack if self.evaluation.seed is None else attack.seeded(self.evaluation.seed)
        found, won = self.evaluation._outcome(attack, x, y, torch.arange(len(x)))
        return torch.where(as_rows(won, found.x_adv), found.x_adv, x.detach().to(found.x_adv)).to(x.device)

    @property
    def _common(self) -> dict[str, Any]:
        return {"norm": self.evaluation.norm.lower()}


@dataclass(slots=True)
class APGDAttack(_Live):
    """``adversary.apgd``: ``apgd-ce`` and ``apgd-dlr``; by itself, with its `loss`, ``ce`` or ``dlr``."""

    n_restarts: int = 5
    n_iter: int = 100
    eot_iter: int = 1
    rho: float = 0.75
    loss: str = "ce"
    use_largereps: bool = False

    def build(self) -> Attack:
        how = {"restarts": self.n_restarts, "rho": self.rho, "eot": self.eot_iter, "large_eps": self.use_largereps}
        return ours.APGD(self.evaluation.eps, self.n_iter, loss=self.loss, **how, **self._common)


@dataclass(slots=True)
class TargetedAPGDAttack(_Live):
    """``adversary.apgd_targeted``: ``apgd-t``."""

    n_restarts: int = 1
    n_iter: int = 100
    eot_iter: int = 1
    rho: float = 0.75
    n_target_classes: int = 9
    use_largereps: bool = False

    def build(self) -> Attack:
        how = {"restarts": self.n_restarts, "rho": self.rho, "eot": self.eot_iter, "large_eps": self.use_largereps}
        return ours.APGDT(self.evaluation.eps, self.n_iter, targets=self.n_target_classes, **how, **self._common)


@dataclass(slots=True)
class FABAttack(_Live):
    """``adversary.fab``: ``fab``, and ``fab-t``, which always has one restart; by itself, as `targeted` says."""

    n_restarts: int = 5
    n_iter: int = 100
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9
    n_target_classes: int = 9
    targeted: bool = False

    def build(self) -> Attack:
        how = {"steps": self.n_iter, "alpha_max": self.alpha_max, "eta": self.eta, "beta": self.beta}
        how |= {"restarts": self.n_restarts, "enough": self.evaluation.eps, "early": False, **self._common}
        return ours.FABT(targets=self.n_target_classes, **how) if self.targeted else ours.FAB(**how)


@dataclass(slots=True)
class SquareAttack(_Live):
    """``adversary.square``: ``square``."""

    n_restarts: int = 1
    n_queries: int = 5000
    p_init: float = 0.8

    def build(self) -> Attack:
        how = {"p": self.p_init, "restarts": self.n_restarts, **self._common}
        return ours.Square(self.evaluation.eps, self.n_queries, **how)


class AutoAttack:
    """The worst case over several attacks, for every sample of a data set.

    Args:
        model: images in [0, 1] to logits.
        norm: ``Linf``, ``L2`` or ``L1``.
        eps: budget.
        seed: of all random numbers; None takes one from PyTorch's generator for each evaluation.
        verbose: whether anything is logged.
        attacks_to_run: for version ``custom``: names out of ``apgd-ce``, ``apgd-dlr``, ``apgd-t``, ``fab``, ``fab-t``,
            ``square``.
        version: ``standard``, ``plus``, ``rand`` or ``custom``, where APGD and FAB have five restarts.
        device: where the batches go; by default where the model's parameters are.
        log_path: a file to which lines are added.

    All of these are attributes, and so are the attacks, `apgd`, `apgd_targeted`, `fab` and `square`, with their
    options. An evaluation looks at them when it begins; ``adversary.apgd.perturb(x, y)`` is one attack by itself. An
    attack without a budget has found something where its perturbation is within `eps`.
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
        is_tf_model: bool = False,
        device: torch.device | str | None = None,
        log_path: str | Path | None = None,
    ):
        if norm not in ("Linf", "L2", "L1"):
            raise ValueError(f"AutoAttack: norm must be one of Linf, L2, L1, got {norm!r}")
        if is_tf_model:
            raise ValueError("AutoAttack: is_tf_model must be False: models of TensorFlow are not supported")
        self.model, self.norm, self.eps, self.seed, self.verbose = model, norm, eps, seed, verbose
        self.apgd, self.apgd_targeted = APGDAttack(self), TargetedAPGDAttack(self)
        self.fab, self.square = FABAttack(self), SquareAttack(self)
        self.attacks_to_run = list(attacks_to_run)
        self._own: dict[str, Attack] = {}
        if attacks_to_run and version != "custom":
            raise ValueError(
                f"AutoAttack: attacks_to_run are for version custom, got {attacks_to_run!r} with {version}"
            )
        self.set_version(version)
        self._suite(self.seed)  # raises here what is wrong
        parameter = of_model(model)
        self.device = parameter.device if device is None and parameter is not None else device
        self.log_path = log_path

    def set_version(self, version: str = "standard") -> None:
        """The attacks and options of ``standard``, ``plus`` or ``rand``; ``custom`` leaves them as they are."""
        known = (*(name for name in ours.AutoAttack.VERSIONS if name != "fast"), "custom")  # which is fastadv's own
        if version not in known:
            raise ValueError(f"AutoAttack: version must be one of {', '.join(known)}, got {version!r}")
        self.version = version
        if version == "custom":
            return
        self.attacks_to_run = list(ours.AutoAttack.VERSIONS[version])
        sparse = self.norm == "L1" and version == "standard"
        self.apgd.use_largereps = self.apgd_targeted.use_largereps = sparse
        self.apgd.n_restarts = 5 if version == "plus" or sparse else 1
        self.apgd_targeted.n_target_classes = 5 if sparse else 9
        self.fab.n_restarts = 5 if version == "plus" else 1
        self.apgd.eot_iter = 20 if version == "rand" else 1

    @property
    def attacks(self) -> Mapping[str, Attack]:
        """fastadv's attacks by the names in `attacks_to_run`, in that order, as the next evaluation will run them.

        Set them to evaluate attacks of your own, which then are what `attacks_to_run` names. Without a seed of their
        own they have the evaluation's. Raises ValueError where a name is unknown or there twice.
        """
        return MappingProxyType(self._suite(self.seed))

    @attacks.setter
    def attacks(self, attacks: Mapping[str, Attack]) -> None:
        self._own, self.attacks_to_run = dict(attacks), list(attacks)

    def _suite(self, seed: int | None) -> dict[str, Attack]:
        """`attacks`, with `seed` where they have none of their own."""
        known = self._published() | {name: lambda attack=attack: attack for name, attack in self._own.items()}
        for name in self.attacks_to_run:
            if name not in known or self.attacks_to_run.count(name) > 1:
                wrong = f"{name!r} twice" if name in known else f"{name!r}, which is none of {', '.join(known)}"
                raise ValueError(f"AutoAttack: attacks_to_run has {wrong}")
        suite = {name: known[name]() for name in self.attacks_to_run}
        for place, (name, attack) in enumerate(suite.items()):
            if attack.seed is None and seed is not None:
                suite[name] = replace(attack, seed=seed + place)
        return suite

    def _published(self) -> dict[str, Callable[[], Attack]]:
        fab, fab_t = replace(self.fab, targeted=False), replace(self.fab, targeted=True, n_restarts=1)
        return {
            "apgd-ce": replace(self.apgd, loss="ce").build,
            "apgd-dlr": replace(self.apgd, loss="dlr").build,
            "fab": fab.build,
            "square": self.square.build,
            "apgd-t": self.apgd_targeted.build,
            "fab-t": fab_t.build,
        }

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
        return self._evaluate(self.attacks_to_run, drawn(self.seed), x_orig, y_orig, bs, return_labels, path)

    def run_standard_evaluation_individual(
        self, x_orig: Tensor, y_orig: Tensor, bs: int = 250, return_labels: bool = False
    ) -> dict[str, Any]:
        """The same for every attack by itself, by name: each attacks all samples that are classified correctly."""
        seed = drawn(self.seed)
        return {
            name: self._evaluate([name], seed, x_orig, y_orig, bs, return_labels, None) for name in self.attacks_to_run
        }

    def clean_accuracy(self, x_orig: Tensor, y_orig: Tensor, bs: int = 250) -> float:
        """The share of samples that are classified correctly."""
        state = _State.begun(x_orig, y_orig)
        for _ in self._round(state, 1, _CLEAN, x_orig, y_orig, bs):
            pass
        self._log(f"clean accuracy: {state.accuracy:.2%}")
        self._warn(state)
        return state.accuracy

    def _evaluate(
        self, names: list[str], seed: int, x: Tensor, y: Tensor, bs: int, return_labels: bool, path: Path | None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """`seed` is the evaluation's, unless its state holds another."""
        if len(x) == 0 or bs < 1:
            raise ValueError(f"AutoAttack needs samples and a positive bs, got {len(x)} samples and bs {bs}")
        if not names:
            raise ValueError(f"AutoAttack of version {self.version} has no attacks: name them in attacks_to_run")
        state, evaluation = _State.begun(x, y, seed), self._evaluation(x, y)
        self._log(f"using {self.version} version including {', '.join(names)}.")
        if path is not None:
            if path.exists():
                state.restore(path, evaluation)
                self._log(f"restored state from {path}")
            state.save(path, evaluation)
        suite = self._suite(state.seed)
        for number, (name, attack) in enumerate({"clean": _CLEAN, **{name: suite[name] for name in names}}.items(), 1):
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
        self._warn(state)
        return (x_adv, state.y_adv.to(y)) if return_labels else x_adv

    def _outcome(self, attack: Attack, x: Tensor, y: Tensor | None, ids: Tensor) -> tuple[AttackResult, Tensor]:
        """What `attack` makes of a batch `x` [B, ...], and where it succeeds within the budget, [B]."""
        device = self.device or x.device
        found = attack.outcome(self.model, x.to(device), None if y is None else y.to(device), ids.to(device))
        won = found.success if attack.has_budget else found.success & (found.norm <= self.eps)
        return found, won

    def _round(self, state: "_State", number: int, attack: Attack, x: Tensor, y: Tensor, bs: int) -> Iterator[str]:
        """`attack` on the samples that are left and have not met it yet; says after every batch what came of it."""
        parts = (state.robust & (state.rounds < number)).nonzero().squeeze(1).split(bs)
        for part, index in enumerate(parts if len(parts[0]) else (), 1):
            started = time.perf_counter()
            with warnings.catch_warnings():
                if attack is _CLEAN:  # the state tells of NaN, for all samples at once
                    warnings.simplefilter("ignore", RuntimeWarning)
                found, won = self._outcome(attack, x[index], y[index], index)
            won = won.cpu()
            state.rounds[index], state.robust[index] = number, ~won
            state.x_adv[index[won]] = found.x_adv.to(x.device)[won]
            state.y_adv[index[won]] = found.target.to(state.y_adv)[won]
            state.seconds += time.perf_counter() - started
            yield f"{part}/{len(parts)} - {int(won.sum())} out of {len(index)}"

    def _evaluation(self, x: Tensor, y: Tensor) -> dict[str, str]:
        """What a state belongs to: all that its numbers depend on, as far as it can be seen, except a seed drawn."""
        weights = self.model.state_dict().values() if isinstance(self.model, nn.Module) else ()
        return {
            "version of fastadv": __version__,
            "attacks": repr(self._suite(self.seed)),
            "norm": self.norm,
            "eps": repr(self.eps),
            "images": _digest([x]),
            "labels": _digest([y]),
            "model": _digest(weights),
        }

    def _warn(self, state: "_State") -> None:
        if nan := int((state.y_adv < 0).sum()):
            line = f"the model's logits are NaN for {nan} of {len(state.y_adv)} samples, which count as misclassified"
            self._log(line)
            warnings.warn(f"AutoAttack: {line}", RuntimeWarning, stacklevel=3)

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
    seed: int
    seconds: float = 0.0

    @classmethod
    def begun(cls, x: Tensor, y: Tensor, seed: int = 0) -> "_State":
        rounds, robust = torch.zeros(len(x), dtype=torch.int64), torch.ones(len(x)).bool()
        return cls(x.detach().clone(), y.to(torch.int64, copy=True), rounds, robust, seed)

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
        plain = {
            "evaluation": evaluation,
            "seed": self.seed,
            "seconds": self.seconds,
            "digest": _digest(columns.values()),
        }
        replace_file(path, lambda file: torch.save({**columns, **plain}, file))

    def restore(self, path: Path, evaluation: dict[str, str]) -> None:
        """Raises ValueError where the file is damaged, or the state of anything but `evaluation`."""
        try:
            stored = torch.load(path, map_location="cpu", weights_only=True)
            whole = stored["digest"] == _digest(stored[name] for name in ("rounds", "robust", "y_adv", "x_adv"))
            seed, seconds = int(stored["seed"]), float(stored["seconds"])
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
        self.rounds, self.robust, self.seed, self.seconds = stored["rounds"], stored["robust"], seed, seconds
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
