"""What fastadv's attacks are compared with: other libraries, and algorithms in the form they were published in.

Every function here gives ``prepare(model)``, which gives ``attack(x, y)``, which gives the adversarial samples.
Libraries are imported when an attack is prepared, so that one that is missing costs its column only.
"""

import functools
import importlib
import logging
import sys
import types
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastadv.attacks import isolated

Attack = Callable[[Tensor, Tensor], Tensor]
Prepare = Callable[[nn.Module], Attack]


def torchattacks(name: str, **options) -> Prepare:
    def prepare(model: nn.Module) -> Attack:
        return getattr(importlib.import_module("torchattacks"), name)(model, **options)

    return prepare


def foolbox(name: str, eps: float | None = None, **options) -> Prepare:
    def prepare(model: nn.Module) -> Attack:
        foolbox = importlib.import_module("foolbox")
        attack = getattr(foolbox.attacks, name)(**options)
        wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=next(model.parameters()).device)
        return lambda x, y: attack(wrapped, x, y, epsilons=eps)[1]

    return prepare


def art(name: str, **options) -> Prepare:
    def prepare(model: nn.Module) -> Attack:
        evasion = importlib.import_module("art.attacks.evasion")
        estimator = importlib.import_module("art.estimators.classification").PyTorchClassifier

        def attack(x: Tensor, y: Tensor) -> Tensor:
            device = "gpu" if x.is_cuda else "cpu"
            shape = {"input_shape": tuple(x.shape[1:]), "nb_classes": 10}
            wrapped = estimator(model, nn.CrossEntropyLoss(), clip_values=(0.0, 1.0), device_type=device, **shape)
            made = getattr(evasion, name)(wrapped, batch_size=len(x), verbose=False, **options)
            return torch.from_numpy(made.generate(x.cpu().numpy(), y.cpu().numpy())).to(x.device)

        return attack

    return prepare


def adv_lib(name: str, **options) -> Prepare:
    return lambda model: functools.partial(getattr(_adv_lib_attacks(), name), model, **options)


@functools.cache
def _adv_lib_attacks() -> types.ModuleType:
    # It imports torchvision (for LPIPS) and visdom (for plots) on the way to attacks that use neither. Where they are
    # missing, or made for another torch, empty modules stand in for them while it is imported.
    empty = []
    for name in ("torchvision", "visdom"):
        try:
            importlib.import_module(name)
        except Exception:
            sys.modules[name] = types.ModuleType(name)
            sys.modules[name].models = None
            empty.append(name)
    try:
        return importlib.import_module("adv_lib.attacks")
    finally:
        for name in empty:
            del sys.modules[name]


def auto_attack(eps: float, *parts: str, queries: int = 5000, steps: int = 100) -> Prepare:
    """The standard version, or some of its parts; `pyautoattack`, as auto-attack itself is not on PyPI."""

    def prepare(model: nn.Module) -> Attack:
        library = importlib.import_module("pyautoattack")
        logging.getLogger("auto-attack").setLevel(logging.ERROR)
        attack = library.AutoAttack(model, eps=eps, seed=0, device=next(model.parameters()).device)
        attack.attacks_to_run = list(parts) or attack.attacks_to_run
        attack.square.n_queries = queries
        attack.apgd.n_iter = attack.apgd_targeted.n_iter = attack.fab.n_iter = steps
        return lambda x, y: attack.run_standard_evaluation(x, y, batch_size=len(x))[0]

    return prepare


def passes(count: int) -> Prepare:
    """`count` forward and backward passes to the input and nothing else: no attack of so many steps can do without."""

    def prepare(model: nn.Module) -> Attack:
        def attack(x: Tensor, y: Tensor) -> Tensor:
            with isolated(model):
                leaf = x.clone().requires_grad_()
                for _ in range(count):
                    torch.autograd.grad(F.cross_entropy(model(leaf), y, reduction="sum"), leaf)
            return x

        return attack

    return prepare


def early_stop_as_published(eps: float, alpha: float, steps: int) -> Prepare:
    """PGD-K-tau with tau 0 in the manner of the published FAT code.

    Predictions are looked at one by one, on the host; samples that leave are gathered apart, after a last backward pass
    with all the others; gradients reach the parameters, and the graph is kept.
    """

    def prepare(model: nn.Module) -> Attack:
        def attack(x: Tensor, y: Tensor) -> Tensor:
            point, origin, label, place = x, x, y, torch.arange(len(x), device=x.device)
            points, places = [], []
            for _ in range(steps):
                point = point.detach().requires_grad_()
                logits = model(point)
                predicted = logits.argmax(dim=1)
                stays, leaves = [], []
                for row in range(len(point)):
                    (stays if predicted[row] == label[row] else leaves).append(row)
                points.append(point[leaves].detach())
                places.append(place[leaves])
                model.zero_grad()
                F.cross_entropy(logits, label).backward(retain_graph=True)
                grad = point.grad[stays]
                point, origin, label, place = point[stays].detach(), origin[stays], label[stays], place[stays]
                if not stays:
                    break
                point = point + alpha * grad.sign()
                point = torch.min(torch.max(point, origin - eps), origin + eps).clamp(0, 1)
            made = torch.cat([*points, point])
            return torch.empty_like(made).index_copy_(0, torch.cat([*places, place]), made)

        return attack

    return prepare


def epgd_as_printed(eps: float, alpha: float, steps: int, bisections: int) -> Prepare:
    """EPGD as SMD's Algorithm 2 reads, with a bisection that bisects.

    Every step looks at the new point's label with a pass of its own, and all samples are bisected.
    """

    def prepare(model: nn.Module) -> Attack:
        def attack(x: Tensor, y: Tensor) -> Tensor:
            point, crossed = x, torch.zeros_like(y, dtype=torch.bool)
            for _ in range(steps):
                point = point.detach().requires_grad_()
                (grad,) = torch.autograd.grad(F.cross_entropy(model(point), y), point)
                point = torch.min(torch.max(point + alpha * grad.sign(), x - eps), x + eps).clamp(0, 1).detach()
                with torch.no_grad():
                    crossed |= model(point).argmax(dim=1) != y
            inner, outer = x, point
            for _ in range(bisections):
                middle = (inner + outer) / 2
                with torch.no_grad():
                    right = (model(middle).argmax(dim=1) == y).view(-1, *[1] * (x.dim() - 1))
                inner, outer = torch.where(right, middle, inner), torch.where(right, outer, middle)
            return inner

        return attack

    return prepare
