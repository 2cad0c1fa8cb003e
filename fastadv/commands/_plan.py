"""What a command is about to do: everything is gathered and checked here, before anything is written."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from ..attacks import Attack, DeepFool
from ..data import AUGMENTATIONS, Mixed, Placed, Stream, check_halves, usual_eps
from ..evaluation import Evaluation, Finding, evaluate
from ..trainers import Method, processes
from ._networks import build_network, load_weights
from ._settings import Data, Testing, Training, first
from ._terminal import progress


@dataclass(frozen=True)
class TrainingPlan:
    """A training run: `method` on `train`, with `extra`, as `options` say; `held_out` is measured every epoch, `label`
    is what attacks on it move away from. See `plan_training`.
    """

    name: str
    method: Method
    options: Training
    train: Placed
    held_out: Placed | None
    label: str = "true"
    extra: Placed | None = None

    def build(self) -> nn.Module:
        """The network as training starts, on the device of the data: new, or with the `weights` of another run."""
        torch.manual_seed(self.options.seed)
        network = self.options.network()
        model = build_network(self.train.sample_shape, len(self.train.classes), **network)
        if self.options.weights:
            load_weights(model, self.options.model, self.options.weights)
        return model.to(self.train.device)

    @property
    def watch(self) -> Callable[[nn.Module], dict[str, float]] | None:
        """What measures a network on the held-out samples; None without any."""
        return watch(self.held_out, self.label) if self.held_out else None


def watch(held_out: Placed, label: str) -> Callable[[nn.Module], dict[str, float]]:
    """What measures a network on `held_out`, attacked away from `label`; in several processes, each has a part."""

    def avg_aa(model: nn.Module) -> dict[str, float]:
        how = {"batch_size": min(500, -(-len(held_out) // processes())), "processes": processes() > 1}
        # What training goes by must not depend on a clock.
        how |= {"label": label, "checks": 0, "memory_format": "preserve"}
        found = evaluate(model, held_out, {"deepfool": DeepFool(steps=10)}, **how)
        return {"avg_aa": found.results["deepfool"].curve.average(1.0), "held_out_accuracy": found.clean}

    return avg_aa


def plan_training(
    name: str, method: Method, options: Training, data: Placed | None = None, label: str = "true"
) -> TrainingPlan:
    """The run of `method`, called `name`, at the budget of `options`, on `data` or on what `options` name.

    `label`: what the attack on held-out samples moves away from, as in the evaluation.

    Raises ValueError where network, weights, augmentation or split cannot take the data, or the attack the budget.
    """
    data = options.training_data() if data is None else data
    if options.eps is not None:
        method = method.at(options.eps)
    train, held_out = split(data, options.held_out)
    if augment := AUGMENTATIONS[options.augment]:
        tried = augment(train.first(1).x, torch.zeros(1, dtype=torch.int64, device=train.device), options.seed)
    plan = TrainingPlan(name, method, options, train, held_out, label, options.extra_data(train))
    model = plan.build()
    if augment and isinstance(tried, Mixed):
        method.check_mixed(model)
    return plan


def split(data: Placed, held_out: int) -> tuple[Placed, Placed | None]:
    """What is trained on, and the last `held_out` samples; None for 0. Raises ValueError where one lacks classes."""
    if not held_out:
        return data, None
    if held_out >= len(data):
        raise ValueError(f"held_out must leave samples to train on: {held_out} of {len(data)} were asked for")
    parts = data.take(len(data) - held_out), data.subset(slice(-held_out, None))
    for part, what in zip(parts, ("the others", f"the last {held_out} samples"), strict=True):
        lacking = [name for k, name in enumerate(data.classes) if k in data.y and k not in part.y]
        if lacking and len(part) >= 10 * len(data.classes):
            raise ValueError(
                f"held_out: {what} hold none of class {', '.join(lacking)}: the training samples are sorted by "
                "class; save them in random order"
            )
    return parts


@dataclass(frozen=True)
class EvaluationPlan:
    """A measurement: `attacks` at the budget `eps`, a share of the data's range, on `test`. See `plan_evaluation`.

    `trained`: the budget that the network was trained at; None where it was trained at none, or that is not known.
    """

    test: Placed | Stream
    attacks: Mapping[str, Attack]
    eps: float
    trained: float | None
    testing: Testing

    @property
    def batch_size(self) -> int:
        """How many samples are attacked at a time, the most."""
        if self.testing.at_once != "auto":
            return self.testing.at_once
        return self.test.count or 500 if self.test.device.type == "cuda" else 500

    @property
    def samples(self) -> str:
        """The test samples in words."""
        return samples_in_words(self.test)

    @property
    def budgets(self) -> str:
        """The budgets of the test and, as far as there is one, of training, in words."""
        if self.trained is None:
            return f"eps {self.eps:.4g} in the test"
        if self.trained != self.eps:
            return f"trained at eps {self.trained:.4g}, but tested at eps {self.eps:.4g}"
        return f"eps {self.eps:.4g} in training and in the test"

    @property
    def differ(self) -> bool:
        """Whether an attack is given another budget than training had."""
        return self.trained not in (None, self.eps) and any(attack.has_budget for attack in self.attacks.values())

    def measure(self, model: nn.Module, name: str, **more: object) -> Evaluation:
        """The evaluation of `model`, called `name`; all processes share the work. `more` goes to `evaluate`."""
        how = {"label": self.testing.label, "batch_size": self.batch_size, "processes": processes() > 1, **more}
        with progress(f"evaluating {name}", "batches") as step:
            return self.judged(evaluate(model, self.test, self.attacks, **how, on_step=step))

    def judged(self, found: Evaluation) -> Evaluation:
        """`found`, which says so where training had another budget than the test."""
        if not self.differ:
            return found
        return dataclasses.replace(found, findings=(Finding("budget", self.budgets), *found.findings))


def plan_evaluation(
    testing: Testing,
    source: Data,
    trained: float | None,
    *,
    given: float | None = None,
    train: Placed | None = None,
) -> EvaluationPlan:
    """The measurement of a network trained at the budget `trained`, on the test half of `source`.

    The attacks' budget is that of `testing`, else the one `given` for training and test, else `trained`, else what is
    usual for the data. `train` is the half that the network is trained on. Raises ValueError where the halves differ in
    kind, or an attack cannot have the budget.
    """
    test = testing.samples(source)
    if train:
        check_halves(train, test)
    eps = first(testing.eps, given, trained, usual_eps(source.data, test))
    attacks = {name: attack.at(eps) if attack.has_budget else attack for name, attack in testing.chosen().items()}
    return EvaluationPlan(test, attacks, eps, trained, dataclasses.replace(testing, eps=eps))


def samples_in_words(test: Placed | Stream) -> str:
    """How many of which data are tested on."""
    return f"{'the' if test.count is None else test.count} test samples of {test.name}"
