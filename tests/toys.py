"""Small models and samples that several test files share."""

import copy
import math
import pickle
import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fastadv.__main__ import main
from fastadv.attacks import FGSM
from fastadv.commands._jobs import Job
from fastadv.data import Dataset
from fastadv.runs import Run
from fastadv.trainers import Batch, Madry, Source


def quick(values: Iterable, *some: object) -> list:
    """Parameters for `pytest.mark.parametrize`: `make test` runs `some` of them, `make test-thorough` the others."""
    return [value if value in some else pytest.param(value, marks=pytest.mark.thorough) for value in values]


def samples(
    n: int, *shape: int, low: float = 0.0, high: float = 1.0, dtype: torch.dtype = torch.float32, seed: int = 0
) -> Tensor:
    """`n` samples of `shape`, uniform in [low, high]."""
    unit = torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (low + (high - low) * unit).to(dtype)


def labels(n: int, classes: int, seed: int = 0) -> Tensor:
    return torch.randint(classes, (n,), generator=torch.Generator().manual_seed(seed))


def linear(features: int, classes: int, dtype: torch.dtype = torch.float32, seed: int = 1) -> nn.Sequential:
    """Normal weights, and biases that put the middle of [0, 1] near every boundary: ``model[1]`` is the layer."""
    layer = nn.Linear(features, classes)
    weight = torch.randn(classes, features, generator=torch.Generator().manual_seed(seed))
    layer.load_state_dict({"weight": weight, "bias": -weight.sum(1) / 2})
    return nn.Sequential(nn.Flatten(), layer).to(dtype)


class Wavy(nn.Module):
    """Logits ``v_k.t^2 + w_k.t`` with ``t = 8x^2 - 8x + 1``: polynomials of degree 4 that go up and down in [0, 1].

    Each sample alone, in double precision, without a matrix product: the same bits in whatever batch.
    """

    def __init__(self, features: int, classes: int, seed: int = 2):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        v, w = torch.randn(2, classes, features, generator=generator, dtype=torch.float64)
        self.v, self.w = nn.Parameter(v), nn.Parameter(w)

    def forward(self, x: Tensor) -> Tensor:
        x = x.double().flatten(1)
        t = 8 * x * (x - 1) + 1
        return torch.stack([((v * t + w) * t).sum(1) for v, w in zip(self.v, self.w, strict=True)], dim=1)


class InDouble(nn.Module):
    """`network` in double precision, on float32 samples.

    Batch and processor still change the last bits, but not the sign of a gradient or a prediction.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x.double())


class BatchNormNet(nn.Sequential):
    """Convolution, two batch norms, dropout: a model with much to disturb. For samples of (3, 6, 6).

    `forwards` counts calls; the model raises at the `fails_at` th.
    """

    def __init__(self, classes: int = 5, fails_at: int | None = None):
        with torch.random.fork_rng():
            torch.manual_seed(3)
            super().__init__(
                nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(),
                nn.Flatten(), nn.Dropout(0.5), nn.Linear(32, classes),
            )  # fmt: skip
        self.forwards, self.fails_at = 0, fails_at

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += 1
        if self.forwards == self.fails_at:
            raise RuntimeError("out of memory")
        return super().forward(x)


def partly_frozen(model: BatchNormNet) -> BatchNormNet:
    """`model` in train mode with a batch norm in eval mode, a frozen layer, and gradients on some parameters."""
    model.train()
    model[1].eval()
    model[0].requires_grad_(False)
    model[8].weight.grad = torch.full_like(model[8].weight, math.pi)
    return model


def traces(model: nn.Module, *inputs: Tensor) -> list[object]:
    """All that an attack could disturb, as values to compare."""

    def bits(tensors: Iterable[Tensor | None]) -> list[object]:
        return [None if t is None else t.detach().contiguous().flatten().view(torch.uint8).tolist() for t in tensors]

    return [
        [module.training for module in model.modules()],
        [parameter.requires_grad for parameter in model.parameters()],
        bits(parameter.grad for parameter in model.parameters()),
        bits(model.state_dict().values()),
        bits(inputs),
        [(t.requires_grad, t.grad, t.stride(), t.data_ptr()) for t in inputs],
        (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        (torch.get_rng_state().tolist(), random.getstate(), pickle.dumps(np.random.get_state())),
    ]


@contextmanager
def stop_at_a_checkpoint() -> Iterator[None]:
    """Whoever runs the command line presses Ctrl-C as soon as a run has saved its first epoch."""
    save = Run.save

    def save_and_stop(self: Run, checkpoint: dict, *also: str) -> None:
        save(self, checkpoint, *also)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "save", save_and_stop)
        yield


class Slope(nn.Module):
    """Logits ``(-w t, w t)`` with ``t = x_0 - 1/2``, right about which half x_0 is in where the weight is positive."""

    def __init__(self, weight: float = 1 + 1 / 64):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))

    def forward(self, x: Tensor) -> Tensor:
        t = self.weight * (x.flatten(1)[:, :1] - 0.5)
        return torch.cat((-t, t), dim=1)


def halves(n: int) -> Dataset:
    """Samples [n, 2] at 1/4 and 3/4 by turns, of two classes."""
    y = torch.arange(n) % 2
    return Dataset((y / 2 + 0.25).float().unsqueeze(1).expand(n, 2).contiguous(), y, ("0", "1"))


@dataclass
class Cliff(Madry):
    """Draws the weight of `Slope` down, and finds that all is well; up, once it is made steadier."""

    attack: FGSM = field(default_factory=lambda: FGSM(0.1), kw_only=True)
    way: int = 1

    kept = ("steps",)

    def begin(self, train: Source, seed: int | None, epochs: int) -> None:
        super().begin(train, seed, epochs)
        self.steps = 0

    def steadier(self) -> "Cliff":
        other = copy.copy(self)
        other.way = -1
        return other

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        self.steps += 1
        batch.stats["adversarial_accuracy"] = torch.ones(())
        return self.way * (model(batch.x)[:, 1] / (batch.x[:, 0] - 0.5)).mean()


@contextmanager
def runs_in_this_process() -> Iterator[None]:
    """The runs of ``fastadv compare`` one after the other, and in no processes: a small one takes less than imports."""

    def run_all(jobs: Sequence[Job], *_: object) -> list[Job]:
        failed = []
        for job in jobs:
            with job.log.open("a") as log, redirect_stdout(log):
                if main(job.command[3:]):  # what follows python -c and its code
                    failed.append(job)
        return failed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastadv.commands._compare.run_all", run_all)
        yield
