"""What every attack stands on: the isolated model, the rows under attack, and the one loop."""

import copy
import math
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from .. import ops
from ..losses import Loss
from ._casts import keeping_casts
from ._passes import faster_passes

Model = Callable[[Tensor], Tensor]
Budget = float | Tensor
"""One number for all samples, or a tensor with one a sample, [B]."""
Start = float | Literal["gaussian", "gaussian-unclipped"]
"""A share of the budget, or normal noise; see `start`."""


_lock = threading.RLock()
_held: dict[tuple[int, str], tuple[int, Any]] = {}
"""What attacks have set of models, by object and attribute: how many of them hold it, and what it was before."""


@contextmanager
def isolated(model: Model) -> Iterator[None]:
    """The model as attacks need it: every submodule in eval mode, parameters frozen, grad mode on.

    Everything is put back on leaving, also when the model raises: each submodule's own mode (a frozen BN stays
    frozen), each parameter's `requires_grad`, grad and inference mode. Nothing else of the model is touched. Where
    several attacks are within it at once, in one another or in several threads, the last to leave puts back what the
    first found. A method of a module counts as the module. What lies behind another callable cannot be seen: it stays
    in its own mode. DistributedDataParallel passes samples through to its module, without a word to the other
    processes.
    """
    module = model if isinstance(model, nn.Module) else getattr(model, "__self__", None)
    held: list[tuple[object, str]] = []
    try:
        with _lock:
            for owner, name, value in _settings(module) if isinstance(module, nn.Module) else ():
                _hold(owner, name, value)
                held.append((owner, name))
        with torch.inference_mode(False), torch.enable_grad(), keeping_casts():
            yield
    finally:
        with _lock:
            for owner, name in reversed(held):
                _release(owner, name)


def _settings(model: nn.Module) -> Iterator[tuple[object, str, Any]]:
    """What an attack sets of `model`: the object, the attribute and its value."""
    for module in model.modules():
        if not isinstance(getattr(type(module), "training", None), property):  # a compiled one's is the original's
            yield module, "training", False
        for parameter in module.parameters(recurse=False):
            yield parameter, "requires_grad", False
        # Its own forward waits for gradients of the parameters and sends buffers round.
        if isinstance(module, nn.parallel.DistributedDataParallel):
            yield module, "forward", module.module.__call__


def _hold(owner: object, name: str, value: Any) -> None:
    count, before = _held.get((id(owner), name), (0, getattr(owner, name)))
    if getattr(owner, name) != value:
        setattr(owner, name, value)
    _held[id(owner), name] = count + 1, before


def _release(owner: object, name: str) -> None:
    count, before = _held.pop((id(owner), name))
    if count > 1:
        _held[id(owner), name] = count - 1, before
    elif name == "forward":
        delattr(owner, name)  # back to the one of its class
    elif getattr(owner, name) != before:
        setattr(owner, name, before)


passes_again: ContextVar[bool] = ContextVar("passes_again", default=False)
"""Whether the pass forward that is made now is for several backward passes."""


class _Eagerly:
    """Within it, `torch.compile` runs nothing: in all threads, until the last of those within it has left."""

    def __init__(self) -> None:
        self.count, self.stance = 0, nullcontext()

    def __enter__(self) -> None:
        with _lock:
            if self.count == 0:
                loaded = "torch._dynamo" in sys.modules
                self.stance = torch.compiler.set_stance("force_eager") if loaded else nullcontext()
                self.stance.__enter__()
            self.count += 1

    def __exit__(self, *_: object) -> None:
        with _lock:
            self.count -= 1
            if self.count == 0:
                self.stance.__exit__(None, None, None)


_eagerly = _Eagerly()


@contextmanager
def _for_several() -> Iterator[None]:
    """Models run as they are written: backward passes of inductor and of CUDA graphs overwrite what another needs."""
    token = passes_again.set(True)
    try:
        with _eagerly:
            yield
    finally:
        passes_again.reset(token)


def checked_logits(model: Model, x: Tensor, highest_label: int = -1) -> Tensor:
    """The model's logits [B, K] at `x`. Raises ValueError for any other output, or a label beyond K.

    A model that changes its input in place is given a copy. Whether it does shows at its first call.
    """
    owner = getattr(model, "__self__", model)
    try:
        changes = _changes_input.get(owner)
    except TypeError:  # it can be no key of such a dictionary
        changes = True
    # A leaf of autograd cannot be changed in place: such a model raises an error, and is called again.
    given = x if changes is False or (changes is None and x.requires_grad) else x.clone()
    version = None if given.is_inference() else given._version  # counts changes in place
    try:
        with faster_passes(given, model):
            logits = model(given)
    except RuntimeError as error:
        if changes is None and given is x and "leaf Variable that requires grad" in str(error):
            _changes_input[owner] = True
            return checked_logits(model, x, highest_label)
        raise
    changed = version is not None and given._version != version
    if changes is None and version is not None:
        _changes_input[owner] = changed
    elif changes is False and changed:
        raise ValueError(
            "the model changes its input in place, which it did not do when it was first called: begin its forward "
            "with x = x.clone()"
        )
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(x) or logits.shape[1] < 2:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"the model must return logits [{len(x)}, classes] with at least 2 classes, got {got}")
    if highest_label >= logits.shape[1]:
        raise ValueError(f"label {highest_label} is out of range: the model has {logits.shape[1]} classes")
    return logits


_changes_input: WeakKeyDictionary[object, bool] = WeakKeyDictionary()
"""Models that have been called, and whether they change their input in place."""


def predicted(logits: Tensor) -> Tensor:
    """The class of the highest logit, [B], and -1 where one of the logits [B, K] is NaN: that is never right.

    Equal logits, infinite ones too, are a tie that goes to one of their classes.
    """
    highest, classes = logits.detach().max(dim=1)  # NaN, if there is one
    return classes.masked_fill_(highest.isnan(), -1)


def classify(model: Model, x: Tensor, highest_label: int = -1) -> Tensor:
    """The class that an isolated `model` predicts at `x`, [B]; see `checked_logits`, whose errors it raises, and
    `predicted`.
    """
    with isolated(model), torch.no_grad():
        return predicted(checked_logits(model, x, highest_label))


_FEW = 3
"""Up to this many samples, one pass with a copy for every class is faster than a backward pass for each.

On LeNet-5, up to eight; but on ResNet-18 so many copies take three times the memory, and no less time.
"""


class Rows:
    """Samples under attack. Every tensor attribute has one row a sample, so rows can leave and come back.

    `x`, `y`, `ids`: what was given (`own_labels`: y is the model's own prediction; `targeted`: y is where to go, not
    what to leave); `x_adv`: where the attack stands;
    `steps`, `grads`: steps made and gradients computed, a sample; `nonfinite`: whether a gradient was NaN or infinite,
    or `predictions` met a NaN logit.
    Attacks add tensors of their own.
    """

    _GIVEN = ("x", "y", "ids", "eps", "alpha", "enough")

    def __init__(
        self,
        model: Model,
        x: Tensor,
        y: Tensor | None,
        ids: Tensor,
        highest_label: int = -1,
        targeted: bool = False,
    ):
        self.model = model
        self.targeted = targeted
        self.highest_label = highest_label
        self.x, self.ids = x, ids
        self.x_adv = x.clone()
        self.own_labels = y is None
        self.steps = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        self.grads = torch.zeros_like(self.steps)
        self.nonfinite = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self.y = self.predictions() if y is None else y

    def logits(self, x: Tensor) -> Tensor:
        """The model's logits [B, K] at `x`; see `checked_logits`."""
        return checked_logits(self.model, x, self.highest_label)

    def differentiable(self, x: Tensor, again: bool = False) -> tuple[Tensor, Tensor]:
        """`x` as a leaf of autograd and the logits there; `again`: for more than one backward pass."""
        x = x.detach().requires_grad_()
        with _for_several() if again else nullcontext():
            logits = self.logits(x)
        if not logits.requires_grad:
            raise ValueError("the model's output has no gradient with respect to its input (torch.no_grad inside it?)")
        return x, logits

    def gradient(self, loss: Loss, against: str = "y") -> Tensor:
        """The gradient of each sample's ``loss(logits, against)`` at `x_adv`; `against` names a tensor here."""
        x_adv, logits = self.differentiable(self.x_adv)
        (grad,) = torch.autograd.grad(loss(logits, getattr(self, against)).sum(), x_adv)
        return self.counted(grad)

    def ranked(self, logits: Tensor) -> Tensor:
        """The classes other than y, likeliest first, [B, K - 1]."""
        return logits.detach().scatter(1, self.y.unsqueeze(1), -torch.inf).argsort(dim=1, descending=True)[:, :-1]

    def leads(self, logits: Tensor, rivals: Tensor) -> Tensor:
        """How far the classes `rivals` [B, R] are ahead of y, in logits, [B, R]."""
        return logits.gather(1, rivals) - logits.gather(1, self.y.unsqueeze(1))

    def class_gradients(self, x: Tensor, logits: Tensor, rivals: Tensor) -> tuple[Tensor, Tensor]:
        """The leads of `rivals` [B, R] and their gradients, [B, 1 + R] and [B, 1 + R, ...]; y comes first, with zeros.

        `x` and `logits` are what ``differentiable(again=True)`` gave. Each rival is a backward pass through their one
        graph. Where samples are so few that a pass costs what it costs to start one, it is a copy of them instead, and
        all share a pass.
        """
        leads = self.leads(logits, rivals)
        count, inner = 1 + rivals.shape[1], x.shape[1:]
        strides = (count * inner.numel(), inner.numel(), *x.stride()[1:])  # every gradient laid out like x
        grads = torch.empty_strided((len(x), count, *inner), strides, dtype=x.dtype, device=x.device)
        grads[:, 0] = 0
        passes = self._side_by_side(x, rivals) if len(x) <= _FEW else self._in_turn(x, leads)
        for k, grad in enumerate(passes, 1):
            grads[:, k] = self.counted(grad)
        return torch.nn.functional.pad(leads.detach(), (1, 0)), grads

    def _in_turn(self, x: Tensor, leads: Tensor) -> Iterator[Tensor]:
        count = leads.shape[1]
        for k in range(count):
            yield torch.autograd.grad(leads[:, k].sum(), x, retain_graph=k + 1 < count)[0]

    def _side_by_side(self, x: Tensor, rivals: Tensor) -> Iterator[Tensor]:
        count, strides = rivals.shape[1], (x[0].numel(), *x.stride()[1:])
        copies = torch.empty_strided((len(x) * count, *x.shape[1:]), strides, dtype=x.dtype, device=x.device)
        copies, logits = self.differentiable(copies.copy_(x.detach().repeat_interleave(count, dim=0)), again=True)
        own = logits.gather(1, self.y.repeat_interleave(count).unsqueeze(1))
        (grad,) = torch.autograd.grad((logits.gather(1, rivals.reshape(-1, 1)) - own).sum(), copies)
        yield from grad.unflatten(0, (len(x), count)).unbind(dim=1)

    def counted(self, grad: Tensor) -> Tensor:
        """`grad`, after noting that every row computed it and whether it is finite."""
        self.grads += 1
        self.nonfinite |= ~ops.row_norms(grad, "linf").isfinite()
        return grad

    @torch.no_grad()
    def scores(self) -> Tensor:
        """The logits at `x_adv`, [B, K], without history."""
        return self.logits(self.x_adv)

    def predictions(self) -> Tensor:
        """The predicted class at `x_adv`, [B], -1 where a logit is NaN, which it notes; see `predicted`."""
        classes = predicted(self.scores())
        self.nonfinite |= classes < 0
        return classes

    def fooled(self, predictions: Tensor) -> Tensor:
        """Whether a prediction is what the attack wants, [B]: the label if it is targeted, any other if not."""
        return predictions == self.y if self.targeted else predictions != self.y

    def keep_nearest(self, fooled: Tensor, norm: str) -> None:
        """`best` is `x_adv` where that is `fooled` and nearer to x than `size`, which follows it."""
        size = ops.row_norms(self.x_adv, norm, self.x)
        nearer = fooled & (size < self.size)
        self.size = torch.where(nearer, size, self.size)
        self.best = torch.where(ops.as_rows(nearer, self.best), self.x_adv, self.best)

    def unfooled(self) -> tuple["Rows", Tensor]:
        """The rows that are not fooled at `x_adv`, and where they stand here; `put` brings them back."""
        index = (~self.fooled(self.predictions())).nonzero().squeeze(1)
        return self.take(index), index

    def take(self, index: Tensor) -> "Rows":
        part = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(part, name, value[index])
        return part

    def put(self, index: Tensor, part: "Rows") -> None:
        for name, value in vars(self).items():
            if isinstance(value, Tensor) and name not in self._GIVEN:
                value[index] = getattr(part, name)


Step = Callable[[Rows], Tensor | None]


def ascend(rows: Rows, steps: int, step: Step, active: Tensor | None = None) -> None:
    """The one loop: up to `steps` times, `step` moves the `x_adv` of the rows it is given.

    A step that returns a mask [B] ends the attack of the rows where it is false: they leave the batch, cost nothing
    more, and the rest goes on as if they were there. `active` is such a mask to begin with. Results stand in `rows`,
    in order.
    """
    live, where = _drop(rows, rows, None, active)
    for _ in range(steps):
        if len(live.x) == 0:
            break
        keep = step(live)
        live.steps += 1
        live, where = _drop(rows, live, where, keep)
    if where is not None:
        rows.put(where, live)


def _drop(rows: Rows, live: Rows, where: Tensor | None, keep: Tensor | None) -> tuple[Rows, Tensor | None]:
    """`live` without the rows that `keep` leaves out, and where in `rows` its rows stand; None: it is `rows` itself."""
    if keep is None:
        return live, where
    stay = keep.nonzero().squeeze(1)  # the one synchronisation of a step
    if len(stay) == len(keep):
        return live, where
    if where is not None:
        rows.put(where, live)
        stay = where[stay]
    return rows.take(stay), stay


STEPS = {"linf": ops.linf_step, "l2": ops.l2_step, "l1": ops.l1_step}
"""The steepest step within each norm's ball."""
DUALS = {"linf": "l1", "l2": "l2", "l1": "linf"}
"""The norm of a gradient that tells how far, in each norm, a boundary is."""
STARTS = {"linf": "uniform", "l2": "l2", "l1": "l1"}
"""The law of `ops.random_start` that is uniform in each norm's ball."""


def start(attack: object, rows: Rows, restart: int = 0) -> Tensor:
    """Where the attack of `rows` starts, [B, ...], within `attack.bounds`.

    Uniform in the ball of radius ``attack.random_start * rows.eps`` in `attack.norm`, which is x for 0; or, for
    ``gaussian``, x with normal noise of standard deviation 0.001 of the inputs' range on every entry, which for
    ``gaussian-unclipped`` may lead out of the bounds.
    """
    if attack.random_start == 0:
        return rows.x.clone()
    law, size, bounds = "gaussian", 0.001 * attack.unit, attack.bounds
    if attack.random_start == "gaussian-unclipped":
        bounds = (-math.inf, math.inf)
    elif attack.random_start != "gaussian":
        law, size = STARTS[attack.norm], attack.random_start * rows.eps
    return ops.random_start(rows.x, rows.ids, size, attack.seed, restart, law, *bounds)


def ball_ascent(attack: object, rows: Rows, loss: Loss, alpha: Budget, against: str = "y") -> Step:
    """A step of size `alpha` up the gradient of `loss`, or down it where the attack is targeted.

    Within `attack.eps` of x, in `attack.norm`, and `attack.bounds`.
    """
    name = type(attack).__name__
    rows.eps = ops.per_sample(name, "eps", attack.eps, rows.x)
    rows.alpha = ops.per_sample(name, "alpha", alpha, rows.x) * (-1 if attack.targeted else 1)
    move = STEPS[attack.norm]

    def step(live: Rows) -> None:
        grad = live.gradient(loss, against)
        move(live.x_adv, grad, live.x, live.alpha, live.eps, *attack.bounds)

    return step
