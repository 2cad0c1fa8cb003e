"""What flags and YAML files say: data, training, testing."""

import dataclasses
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import yaml

from .. import models
from ..attacks import ATTACKS, Attack, AutoAttack, MultiAttack
from ..data import AUGMENTATIONS, Dataset, Framing, Placed, Samples, Stream, load_extra, open_samples
from ..evaluation import PROTOCOL
from ..memory import give_freed_memory_back
from ..trainers import Settings
from ._functions import is_function, samples_from
from ._loggers import LOGGERS
from ._parser import unknown


@dataclass
class Data:
    """Which data.

    Args:
        data: data set, file, folder or function. Data sets: cifar10, cifar100, fashion-mnist,
            fashion-mnist-mini (in the package), mnist, mnist-10k (8,000 and 2,000 of its images), svhn, two-circles,
            or hf:NAME from Hugging Face. An .npz file holds x_train, y_train, x_test and y_test. A folder holds images
            in train/CLASS and test/CLASS. A function is package.module:function, which is called with train or test
            and returns a data set or a DataLoader; its code is run.
        folder: where the files of the data set are. By default the usual places are searched.
        download: download missing files of the data set. Their checksums are verified.
        resize: scale images of a folder or of hf:NAME so that the shorter side has this many pixels. 0 leaves them.
        crop: cut the middle of this many pixels on both sides out of such images, after --resize. 0 leaves them.
        device: where to compute: cpu, cuda, cuda:1 ... or auto. ``auto`` takes a GPU where there is one.
    """

    data: str = "fashion-mnist-mini"
    folder: str | None = None
    download: bool = False
    resize: int = 0
    crop: int = 0
    device: str = "auto"

    def named(self, trained: Mapping[str, Any], model: str) -> "Data":
        """These, or those that a network was `trained` on where no others are named. Raises ValueError for neither."""
        if not (self.data or trained.get("data")):
            raise ValueError(f"{model} does not say what data it is for: name them with --data")
        if self.data:
            return self
        how = {name: getattr(self, name) or trained.get(name, 0) for name in ("resize", "crop")}
        return dataclasses.replace(self, data=trained["data"], **how)

    def load(self, split: Literal["train", "test"]) -> Placed | Stream:
        framing = Framing(self.resize, self.crop)
        if is_function(self.data):
            found = samples_from(self.data, split, framing)
        else:
            found = open_samples(self.data, split, folder=self.folder, download=self.download, framing=framing)
        if not isinstance(found, Dataset):
            give_freed_memory_back()
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
        model: network, a name from fastadv.models.
        mean: mean of pixels, subtracted before the network sees them. One number, or one a channel such as
            0.49,0.48,0.45.
        std: standard deviation, by which they are then divided, likewise. A mean and std of 0.5 show images in [0, 1]
            to the network as [-1, 1].
        cosine: scale of a head of cosines as the last layer, 0 for none. It replaces the last linear layer; spat takes
            5.
        weights: run whose network training starts from.
        extra: file of further training samples, such as generated ones: .npz or .safetensors with image and label.
            --extra-share says how many of each batch are of these.
        augment: random changes of the images. One of none, crop-flip (padded with 4 pixels of 0), crop-flip-grey (of
            0.5), crop-flip-reflect, crop-flip-edge, crop-flip-cutout, crop-flip-cutmix and shift-flip.
        classes: train and test on samples of these classes only, numbers or names with commas between. The network has
            outputs for all classes.
        per_class: training samples of each class, 0 for all. The first ones are taken.
        held_out: training samples set aside for validation. They are the last ones. avg-AA(1) is measured on them after
            every epoch, away from the label that the test's attacks move away from; `patience` and `collapse` watch it.
        out: new folder of the run. By default it is made under runs/, and named after the run.
        resume: continue from the last checkpoint in --out. ``auto`` starts anew where there is none.
        save_every: steps between checkpoints within an epoch. 0 saves after epochs only.
        keep_every: epochs between checkpoints that are never deleted. 0 keeps the last two and the best.
        log: send metrics to tensorboard, wandb or both.
        eps: L-infinity budget in training and test, such as 8/255. It is a share of the data's range; step sizes scale
            with it. In training it applies to methods whose attack has a budget. By default it is the method's own.
        estimate: only estimate how long training would take. A few steps are timed for that.
    """

    model: str = "lenet5"
    mean: float | list[float] = 0.0
    std: float | list[float] = 1.0
    cosine: float = 0.0
    weights: str | None = None
    extra: str | None = None
    augment: str = "none"
    classes: str = ""
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
        if bool(self.extra) != bool(self.extra_share):
            raise ValueError("extra and extra_share go together: give both, or leave both out")
        for name in ("per_class", "held_out", "save_every", "keep_every"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in listed(self.log):
            if name not in LOGGERS:
                raise ValueError(f"log must be of {', '.join(LOGGERS)}, got {name!r}")
        if (self.patience or self.collapse) and not self.held_out:
            raise ValueError("patience and collapse need samples to measure on: set held_out, or leave them 0")
        if self.resume and not self.out:
            raise ValueError("resume needs --out, the folder of the run to continue")

    def load(self, split: Literal["train", "test"]) -> Placed | Stream:
        return of_classes(super().load(split), self.classes)

    def training_data(self) -> Placed:
        found = self.load("train")
        if not isinstance(found, Placed):
            raise ValueError(
                f"{self.data}: training reads samples in an order of its own, which {found.name} does not allow: "
                "return the data set instead of a loader or an iterable"
            )
        return found.per_class(self.per_class) if self.per_class else found

    def extra_data(self, like: Placed) -> Placed | None:
        """The further samples, of the kind of `like`; None without any."""
        return of_classes(load_extra(self.extra, like), self.classes) if self.extra else None

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
        attacks: attacks, such as pgd,square. deepfool, fgsm, noise and pgd (20 steps of eps/10 from a start
            within eps/2) are those of the Blind AT paper; autoattack, autoattack-fast, square and all others have their
            usual settings.
        eps: budget of the attacks, such as 8/255. It is a share of the data's range. By default it is the one of
            training, or the data set's usual one where the network was trained at none (see `fastadv.data.usual_eps`).
        theta: average adversarial accuracy is over budgets up to this one. Budgets are RMS norms, as shares of the
            data's range.
        limit: test samples, 0 for all. The first ones are taken.
        label: attack away from the true label or the prediction. ``pred`` is the model's own prediction, as in the
            Blind AT paper.
        at_once: test samples attacked at a time. Take fewer if memory runs out. It changes memory and speed only.
            ``auto`` begins with all samples on a GPU and with 500 on a CPU.
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
        known["autoattack-fast"] = AutoAttack(version="fast")
        names = listed(self.attacks)
        for name in names:
            if name not in known:
                raise ValueError(unknown("attack", name, sorted(known)))
        return {name: known[name] for name in names}

    def samples(self, source: Data) -> Placed | Stream:
        test = source.load("test")
        return test.take(self.limit) if self.limit else test


def of_classes(data: Placed | Stream, classes: str) -> Placed | Stream:
    """The samples of `classes`, numbers or names with commas between; of none, all. Raises ValueError for others."""
    if not classes:
        return data
    return data.only(class_numbers(data, classes))


def class_numbers(data: Samples, classes: str) -> list[int]:
    """The numbers of `classes`, numbers or names with commas between. Raises ValueError for others than `data` has."""
    known = {name: k for k, name in enumerate(data.classes)}
    numbers = {str(k): k for k in known.values()} | known  # a digit's name is its number
    for name in listed(classes):
        if name not in numbers:
            raise ValueError(f"unknown class {name!r}: choose among {', '.join(known)}, or their numbers from 0")
    return [numbers[name] for name in listed(classes)]


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


def defaults(*settings: Any) -> dict[str, Any]:
    """What ``config.yaml`` has of `settings` where none are given; attacks stay of their kinds."""
    return yaml.safe_load(as_yaml(*map(_not_given, settings)))


def _not_given(settings: Any) -> Any:
    plain = type(settings)()
    values = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    attacks = {name: type(value) for name, value in values.items() if isinstance(value, Attack)}
    others = {name: kind() for name, kind in attacks.items() if type(getattr(plain, name)) is not kind}
    return dataclasses.replace(plain, **others) if others else plain


def _plain(settings: Any, key: str) -> Any:
    value = getattr(settings, key)
    if isinstance(value, Attack):
        kind = type(value)
        name = kind.__name__ if kind in ATTACKS.values() else f"{kind.__module__}.{kind.__qualname__}"
        return {"class_path": name, "init_args": dataclasses.asdict(value)}
    return f"{value.__module__}.{value.__qualname__}" if callable(value) else value
