"""Adversarial training and robustness evaluation on fused C++ and CUDA kernels.

>>> import fastadv
>>> train, test = fastadv.load("fashion-mnist-mini", "train"), fastadv.load("fashion-mnist-mini", "test")
>>> model = fastadv.models.LeNet5()
>>> fastadv.fit(model, fastadv.trainers.Blind(), train, epochs=10)  # doctest: +SKIP
>>> x_adv = fastadv.attacks.PGD(eps=0.1, alpha=0.01, steps=20)(model, test.x, test.y)  # doctest: +SKIP
>>> fastadv.evaluate(model, test).results["deepfool"].curve.average(0.08)  # doctest: +SKIP
"""

from . import attacks, data, evaluation, functional, hub, losses, models, ops, threats, trainers
from ._version import __version__ as __version__
from .data import Dataset, load
from .evaluation import evaluate
from .memory import keep_freed_memory
from .models import Normalize, adapt
from .ops import backend
from .trainers import fit

__all__ = [
    "Dataset",
    "Normalize",
    "adapt",
    "attacks",
    "backend",
    "data",
    "evaluate",
    "evaluation",
    "fit",
    "functional",
    "hub",
    "keep_freed_memory",
    "load",
    "losses",
    "models",
    "ops",
    "threats",
    "trainers",
]
