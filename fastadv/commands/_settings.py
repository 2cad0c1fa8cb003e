"""What flags and YAML files say: data, training, testing."""

import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import yaml

from .. import models
from ..attacks import ATTACKS, Attack, MultiAttack
from ..data import AUGMENTATIONS, Dataset, load
from ..evaluation import PROTOCOL
from ..trainers import Settings
from ._loggers import LOGGERS
from ._parser import unknown


@dataclass
class Data:
    """Which data.

    Args:
        data: cifar10, cifar100, fashion-mnist, fashion-mnist-mini (inside the package), mnist, svhn, two-circles, the
            path of an .npz file with x_train, y_train, x_test, y_test, or of a folder with images in train/CLASS and
            test/CLASS.
        folder: where the files of the data set are; by default the usual places are searched.
        download: fetch missing files of the data set, checksummed.
        device: cpu, cuda, cuda:1 ...; auto takes a GPU where there is one.
    """

    data: str = "fashion-mnist-mini"
    folder: str | None = None
    download: bool = False
    device: str = "auto"

    def named(self, known: str | None, model: str) -> "Data":
        """These, or the data called `known` where no others are named. Raises ValueError for neither."""
        if not (self.data or known):
            raise ValueError(f"what data {model} is for is not known: name it with --data")
        return dataclasses.replace(self, data=self.data or known)

    def load(self, split: Literal["train", "test"]) -> Dataset:
        found = load(self.data, split, folder=self.folder, download=self.download)
        return found.to(self.pick_device())

    def pick_device(self) -> torch.device:
        if self.device == "auto":
            return (
                torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
            )
        try:
            return torch.empty(0, device=self.device).device
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"device {self.device!r} cannot be used here: {str(error).splitlines()[0]}") from None


@dataclass
class Training(Data, Settings):
    """How to train.

    Args:
        model: the network, a name from fastadv.models.
        mean: what is subtracted from every pixel before the network sees it.
        std: what the difference is divided by; 0.5 and 0.5 show images in [0, 1] to the network as [-1, 1].
        cosine: the scale of a head of cosines in place of the last linear layer, 5 for spat; 0 leaves that as it is.
        weights: a run, whose network training starts from.
        augment: random changes of the images; none, crop-flip (4 pixels of 0), crop-flip-grey (of 0.5),
            crop-flip-reflect, crop-flip-edge or shift-flip.
        per_class: how many training samples of each class, from the first on; 0 takes all.
        held_out: so many training samples, the last ones, are set aside; avg-AA(1) is measured on them every epoch, and
            watched.
        out: the run folder, which must not exist; by default one under runs/, named after the run.
        resume: true or auto; go on from the last checkpoint of the run in --out, where there is one.
        save_every: steps between checkpoints within an epoch; 0 saves after epochs only.
        keep_every: epochs between checkpoints that are kept for good; 0 keeps the last two and the best.
        log: metrics also to tensorboard, to wandb, or, with a comma between, to both.
        eps: the L-infinity budget, in training, where the method's attack has one, and in the test; step sizes scale
            with it. By default the method's own.
        estimate: only say how long training would take here, from a few steps that are timed.
    """

    model: str = "lenet5"
    mean: float = 0.0
    std: float = 1.0
    cosine: float = 0.0
    weights: str | None = None
    augment: str = "none"
    per_class: int = 0
    held_out: int = 0
    out: str | None = None
    resume: bool | Literal["auto"] = False
    save_every: int = 0
    keep_every: int = 0
    log: str = ""
    eps: float | None = None
    estimate: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        models.find(self.model)  # before the data are read
        if self.augment not in AUGMENTATIONS:
            raise ValueError(f"augment must be one of {', '.join(AUGMENTATIONS)}, got {self.augment!r}")
        for name in ("per_class", "held_out", "save_every", "keep_every"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in listed(self.log):
            if name not in LOGGERS:
                raise ValueError(f"log must be of {', '.join(LOGGERS)}, got {name!r}")
        if (self.patience or self.collapse) and not self.held_out:
            raise ValueError("patience and collapse need samples to measure on: set held_out, or leave them 0")
        if self.resume and not self.out:
            raise ValueError("resume needs --out, the folder of the run to go on with")

    def training_data(self) -> Dataset:
        found = self.load("train")
        return found.per_class(self.per_class) if self.per_class else found

    def network(self) -> dict[str, Any]:
        """What `build_network` takes of these."""
        return {name: getattr(self, name) for name in ("model", "mean", "std", "cosine")}

    def fit_settings(self) -> dict[str, Any]:
        """What `fit` takes of these."""
        names = [field.name for field in dataclasses.fields(Settings)]
        return {name: getattr(self, name) for name in names} | {"augment": AUGMENTATIONS[self.augment]}

    def run_folder(self, what: str) -> Path:
        name = f"{what}-{Path(self.data).stem}-{self.model}-{time.strftime('%Y%m%d-%H%M%S')}"
        return Path(self.out or Path("runs", name))


@dataclass
class Testing:
    """How to evaluate.

    Args:
        attacks: which attacks, with commas between: deepfool, fgsm, noise and pgd (20 steps of eps/10 from a start
            within eps/2) as in the Blind AT paper; autoattack, square or any other with its usual settings.
        eps: budget of the attacks that have one; by default the one that the network was trained at, or, where it was
            trained at none, the data set's usual one (see `fastadv.data.usual_eps`).
        theta: average adversarial accuracy is taken over budgets from 0 to theta, RMS norm.
        limit: how many test samples, from the first on; 0 takes all.
        label: attacks move away from the true label, or from the model's own prediction (as in the Blind AT paper).
        at_once: test samples attacked at a time, fewer where they do not fit into memory; it decides memory and speed
            only. auto begins with all of them on a GPU, and takes 500 on a CPU.
    """

    attacks: str = ",".join(PROTOCOL)
    eps: float | None = None
    theta: float = 0.08
    limit: int = 1000
    label: Literal["true", "pred"] = "true"
    at_once: int | Literal["auto"] = 500

    def __post_init__(self) -> None:
        for name, value in (("eps", self.eps), ("theta", self.theta), ("at_once", self.at_once)):
            if value not in (None, "auto") and not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        if self.limit < 0:
            raise ValueError(f"limit must be a number of samples, or 0 for all, got {self.limit}")
        self.chosen()

    def chosen(self) -> dict[str, Attack]:
        """The attacks by name, at budgets of their own."""
        known = {name: kind() for name, kind in ATTACKS.items() if kind is not MultiAttack} | PROTOCOL
        names = listed(self.attacks)
        for name in names:
            if name not in known:
                raise ValueError(unknown("attack", name, sorted(known)))
        return {name: known[name] for name in names}

    def samples(self, source: Data) -> Dataset:
        test = source.load("test")
        return test.take(self.limit) if self.limit else test


def check_samples(limit: int, at_once: int) -> None:
    """Raises ValueError unless both can be numbers of samples; a `limit` of 0 is none."""
    if limit < 0 or at_once < 1:
        raise ValueError(f"limit and at_once must be numbers of samples, got {limit} and {at_once}")


def first(*budgets: float | None) -> float | None:
    """The first of these that is given."""
    return next((budget for budget in budgets if budget is not None), None)


def listed(names: str) -> list[str]:
    """The names in a flag that takes several, with commas between."""
    return [name.strip() for name in names.split(",") if name.strip()]


_OF_THE_CALL = ("out", "resume", "estimate")


def as_yaml(*settings: Any, **more: Any) -> str:
    """Settings as the YAML that --config takes; not what another run must not share."""
    values = {}
    for each in settings:
        values |= {key: _plain(each, key) for key in dataclasses.asdict(each) if key not in _OF_THE_CALL}
    return yaml.safe_dump(json.loads(json.dumps(values | more)), sort_keys=False)


def _plain(settings: Any, key: str) -> Any:
    value = getattr(settings, key)
    if isinstance(value, Attack):
        return {"class_path": type(value).__name__, "init_args": dataclasses.asdict(value)}
    return f"{value.__module__}.{value.__qualname__}" if callable(value) else value
