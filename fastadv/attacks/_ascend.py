"""What every attack stands on: the isolated model, the rows under attack, and the one loop."""

import copy
import math
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import accumulate
from typing import Any, Literal, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from .. import ops
from ..models.adapted import as_input, as_logits, expected, own_loss
from ._graphs import Graphs, graphs_of
from ._kept import keeping, kept
from ._passes import faster_passes
from ._state import State

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

    RNNs are in train mode without dropout, which computes the same: cuDNN refuses a backward pass in eval mode.

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
        with torch.inference_mode(False), torch.enable_grad(), keeping():
            yield
    finally:
        with _lock:
            for owner, name in reversed(held):
                _release(owner, name)


_FORWARDS_OF_RNNS = (nn.RNN.forward, nn.LSTM.forward, nn.GRU.forward)


def _settings(model: nn.Module) -> Iterator[tuple[object, str, Any]]:
    """What an attack sets of `model`: the object, the attribute and its value."""
    for module in model.modules():
        rnn = isinstance(module, nn.RNNBase) and type(module).forward in _FORWARDS_OF_RNNS
        if not isinstance(getattr(type(module), "training", None), property):  # a compiled one's is the original's
            yield module, "training", rnn
        if rnn:
            yield module, "dropout", 0.0
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


class _Eagerly:
    """Within it, `torch.compile` runs nothing: in all threads, until the last of those within it has left.

    For passes that are followed by several backward ones: those of inductor overwrite what another needs.
    """

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


def checked_logits(model: Model, x: Tensor, highest_label: int = -1, y: Tensor | None = None) -> Tensor:
    """The model's logits [B, K] at `x`, whatever it returns; see `fastadv.adapt`.

    `y` [B, ...] is what a loss of the user's own compares outputs with. Raises ValueError for an output without logits,
    a label beyond K, or such a loss without `y`.

    A model that changes its input in place is given a copy. Whether it does shows at its first call. A change through
    ``x.data`` shows if that is without gradients.
    """
    owner = getattr(model, "__self__", model)
    try:
        met = _met.get(owner)
    except TypeError:  # it can be no key of such a dictionary
        met = _Met(changes=True, size=len(x))
    inputs = _input(owner, x)
    changes = None if met is None else met.changes
    # A leaf of autograd cannot be changed in place: such a model raises an error, and is called again.
    given = inputs if changes is False or (changes is None and inputs.requires_grad) else inputs.clone()
    version = None if given.is_inference() else given._version  # counts changes in place
    try:
        with faster_passes(given, model):
            output = model(given)
    except RuntimeError as error:
        if changes is None and given is x and "leaf Variable that requires grad" in str(error):
            _met[owner] = _Met(changes=True, size=len(x))
            return checked_logits(model, x, highest_label, y)
        if met is not None and met.size != len(x) and type(error) is RuntimeError:
            raise RuntimeError(
                f"{error}\nThe model takes {met.size} samples and fails with {len(x)}. Attacks need batches of any "
                "size: if it keeps something of the size of a batch, such as the hidden state of an RNN, make it anew "
                "in each forward; if it was traced or exported, do that for batches of any size"
            ) from error
        raise
    changed = version is not None and given._version != version
    if changes is None and given is not inputs:
        changed = changed or not torch.equal(given, inputs)  # through x.data, which counts no change
    if changes is None and version is not None:
        _met[owner] = _Met(changed, len(x))
    elif changes is False and changed:
        raise ValueError(
            "the model changes its input in place, which it did not do when it was first called: begin its forward "
            "with x = x.clone()"
        )
    if own_loss(model):
        if y is None:
            raise ValueError(
                "the model has a loss of its own, which needs labels: give y. Attacks, fit, evaluate, transfer, "
                "corruption_accuracy and features take such a model"
            )
        output = model.judged(output, y)
    logits = as_logits(output, x)
    if highest_label >= logits.shape[1]:
        raise ValueError(
            f"label {highest_label} is out of range: the model has {logits.shape[1]} classes, numbered from 0"
        )
    return logits


class _Met(NamedTuple):
    """A model that has been called: whether it changes its input in place, and a number of samples that it took."""

    changes: bool
    size: int


_met: WeakKeyDictionary[object, _Met] = WeakKeyDictionary()


def _input(model: object, x: Tensor) -> Tensor:
    """`as_input`, which looks at the parameters of a model once an attack."""
    memory, key = kept(), ("computes as", id(model), x.dtype)
    if memory is not None and key in memory:
        return x
    inputs = as_input(model, x)
    if memory is not None and inputs is x:
        memory[key] = model
    return inputs


def predicted(logits: Tensor) -> Tensor:
    """The class of the highest logit, [B], and -1 where one of the logits [B, K] is NaN: that is never right.

    Of equal logits, infinite ones too, it is the first.
    """
    return ops.predictions(logits.detach())


def classify(model: Model, x: Tensor, highest_label: int = -1, y: Tensor | None = None) -> Tensor:
    """The class that an isolated `model` predicts at `x`, [B]; see `checked_logits`, whose errors it raises, and
    `predicted`.
    """
    with isolated(model), torch.no_grad():
        return predicted(checked_logits(model, x, highest_label, y))


_FEW = 3
"""Up to this many samples, one pass with a copy for every class is faster than a backward pass for each.

On small networks it is so of more samples; but on large ones copies take memory, and save no time.
"""


_PASS = 256
"""Where samples have many points to ask the model for, a pass has so many rows, or one for each sample."""


_NO_GRADIENT = (
    "the model's output has no gradient with respect to its input: take torch.no_grad, detach and x.data out of its "
    "forward, or choose an attack without gradients, such as Square"
)


class Rows:
    """Samples under attack. Every tensor attribute has one row a sample, so rows can leave and come back.

    `x`, `y`, `ids`: what was given (`own_labels`: y is the model's own prediction; `targeted`: y is where to go, not
    what to leave); `truth`: what a loss of the user's own compares with, while y is 0, for right; `x_adv`: where the
    attack stands; `eps`, `alpha`: its budget and step size; `state`: what it remembers besides; `active`: who takes
    part in a step, None for all; `steps`, `queries`, `grads`: steps made, forward passes and gradients, a sample, up to
    date outside of `ascend` after `settle`; `low`, `high`: what a threat model lets `x_adv` be, [B, ...], held at x
    where they are equal; None: anything; `nonfinite`: whether a gradient was NaN or infinite, or `predictions` met a
    NaN logit.
    """

    GIVEN = ("x", "y", "truth", "ids", "eps", "alpha", "active", "low", "high")
    """What rows that leave do not bring back."""

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
        self.truth = y if own_loss(model) else None
        self.eps: Tensor | None = None
        self.alpha: Tensor | None = None
        self.state: State | None = None
        self.active: Tensor | None = None
        self.low: Tensor | None = None
        self.high: Tensor | None = None
        self._bound: dict[tuple[str, torch.dtype], tuple[Callable, Tensor]] = {}
        self.made, self.asked, self.computed = 0, 0, 0  # of all rows, and not in the tensors yet
        self.log: list[tuple[int, int]] = []  # forward passes and gradients of each step of `ascend`
        self.steps = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        self.queries, self.grads = torch.zeros_like(self.steps), torch.zeros_like(self.steps)
        self.nonfinite = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self.y = self.predictions() if y is None else expected(model, y)
        self.asked = 0

    def logits(self, x: Tensor) -> Tensor:
        """The model's logits [B, K] at `x`; see `checked_logits`."""
        self.asked += 1
        return checked_logits(self.model, x, self.highest_label, self.truth)

    def differentiable(self, x: Tensor, again: bool = False) -> tuple[Tensor, Tensor]:
        """`x` as a leaf of autograd and the logits there; `again`: for more than one backward pass."""
        x = self._allowed(x).detach().requires_grad_()
        with _eagerly if again else nullcontext():
            logits = self.logits(x)
        if not logits.requires_grad:
            raise ValueError(_NO_GRADIENT)
        return x, logits

    def ascent(
        self, loss: str = "ce", at: Tensor | None = None, moved: bool = False, **options: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The gradient [B, ...] of what the attack maximises at `x_adv`, what that is [B], and who is fooled there [B].

        Or `at` other points [B, ...]; `moved`: their entries are not where those of x are. It is `loss` of the label y,
        or minus that of a targeted attack; `options` are those of `ops.loss_gradient`.
        """
        x, logits = self.differentiable(self.x_adv if at is None else at)
        slope, losses, fooled = self.loss_gradient(logits, loss, **options)
        return self.back(logits, x, slope, moved=moved), losses, fooled

    def loss_gradient(
        self, logits: Tensor, loss: str = "ce", labels: Tensor | None = None, **options: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`ops.loss_gradient` of the logits [B, K] of a pass; without `labels` of the own.

        Of a loss of the user's own the soft margin is that loss itself, which takes the place of those on logits.
        """
        if self.truth is not None:
            if loss in ("kl", "spat"):
                raise ValueError(f"loss {loss} compares predictions of classes: with a loss of your own, leave it out")
            loss = "margin" if loss == "margin" else "slm"
        logits, key = logits.detach(), (loss, logits.dtype)
        if key not in self._bound:
            one = ops.per_sample("Rows", "sign", -1.0 if self.targeted else 1.0, logits[:1])
            self._bound[key] = ops.loss_gradient.in_loop(), one
        op, sign = self._bound[key]
        if options.get("natural") is not None:
            options["natural"] = options["natural"].to(logits.dtype)
        labels = self.y if labels is None else labels
        return op(logits, labels, sign.expand(len(logits)), loss, nonfinite=self.nonfinite, **options)

    def back(self, logits: Tensor, x: Tensor, slope: Tensor, again: bool = False, moved: bool = False) -> Tensor:
        """The gradient at `x` where that of the logits is `slope`; `again`: more will be asked of the same pass.

        It is 0 where a threat model holds x, unless `x` is `moved`: its entries are others than those of `self.x`.
        """
        self.computed += 1
        grad = torch.autograd.grad(logits, x, slope, retain_graph=again, allow_unused=True)[0]
        if grad is None:  # the logits are of a copy
            raise ValueError(_NO_GRADIENT)
        return grad if moved else self.free(grad)

    def free(self, delta: Tensor) -> Tensor:
        """`delta` [B, ...], and 0 where a threat model holds x."""
        return delta if self.low is None else delta.masked_fill(self.low == self.high, 0)

    def _allowed(self, x: Tensor) -> Tensor:
        """`x`; if that is `x_adv` itself, after a threat model has brought it back to where it may be."""
        if self.low is None or x is not self.x_adv:
            return x
        self.x_adv = x.clamp(self.low, self.high)
        return self.x_adv

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
        leads = self.leads(logits.detach(), rivals)
        count, inner = 1 + rivals.shape[1], x.shape[1:]
        strides = (count * inner.numel(), inner.numel(), *x.stride()[1:])  # every gradient laid out like x
        grads = torch.empty_strided((len(x), count, *inner), strides, dtype=x.dtype, device=x.device)
        grads[:, 0] = 0
        slopes = torch.zeros(rivals.shape[1], *logits.shape, dtype=logits.dtype, device=logits.device)
        slopes.scatter_(2, rivals.T.unsqueeze(2), 1)
        slopes.scatter_(2, self.y.expand(len(slopes), -1).unsqueeze(2), -1)
        passes = self._side_by_side(x, slopes) if len(x) <= _FEW else self._in_turn(x, logits, slopes)
        for k, grad in enumerate(passes, 1):
            grads[:, k] = grad
        return torch.nn.functional.pad(leads, (1, 0)), grads

    def _in_turn(self, x: Tensor, logits: Tensor, slopes: Tensor) -> Iterator[Tensor]:
        for k, slope in enumerate(slopes, 1):
            yield self.back(logits, x, slope, again=k < len(slopes))

    def _side_by_side(self, x: Tensor, slopes: Tensor) -> Iterator[Tensor]:
        count, strides = len(slopes), (x[0].numel(), *x.stride()[1:])
        copies = torch.empty_strided((len(x) * count, *x.shape[1:]), strides, dtype=x.dtype, device=x.device)
        copies, logits = self.differentiable(copies.copy_(x.detach().repeat_interleave(count, dim=0)), again=True)
        grad = self.back(logits, copies, slopes.transpose(0, 1).flatten(0, 1), moved=True)
        self.asked, self.computed = self.asked - 1, self.computed + count - 1  # as in turn: counts know no batch
        yield from map(self.free, grad.unflatten(0, (len(x), count)).unbind(dim=1))

    @torch.no_grad()
    def scores(self) -> Tensor:
        """The logits at `x_adv`, [B, K], without history."""
        return self.logits(self._allowed(self.x_adv))

    def point(self, values: Tensor, bounds: tuple[float, float]) -> Tensor:
        """`values` [B, ...] as samples: within `bounds`, of the type of x and laid out as that is.

        And where a threat model lets them be.
        """
        point = torch.empty_like(self.x).copy_(values.clamp(*bounds))
        return point if self.low is None else point.clamp(self.low, self.high)

    @torch.no_grad()
    def fooled_at(self, x: Tensor) -> Tensor:
        """Whether the class predicted at `x` [B, ...] is what the attack wants, [B]."""
        return self.fooled(predicted(self.logits(x)))

    @torch.no_grad()
    def logits_at_each(self, points: Tensor) -> Tensor:
        """The logits [N, B, K] at N points of every sample, [N, B, ...]."""
        self.asked += len(points)
        truth = None if self.truth is None else torch.cat([self.truth] * len(points))
        logits = checked_logits(self.model, points.flatten(0, 1), self.highest_label, truth)
        return logits.unflatten(0, points.shape[:2])

    def in_passes(self, count: int) -> Iterator[range]:
        """The numbers below `count` of points of every sample, as many at a time as a pass takes."""
        width = max(1, _PASS // max(1, len(self.x)))
        for first in range(0, count, width):
            yield range(first, min(first + width, count))

    def predictions(self) -> Tensor:
        """The predicted class at `x_adv`, [B], -1 where a logit is NaN, which it notes; see `predicted`."""
        classes = predicted(self.scores())
        self.nonfinite |= classes < 0
        return classes

    def fooled(self, predictions: Tensor) -> Tensor:
        """Whether a prediction is what the attack wants, [B]: the label if it is targeted, any other if not."""
        return predictions == self.y if self.targeted else predictions != self.y

    def unwon(self) -> Tensor | None:
        """Where x is not yet what the attack wants, [B]; None, everywhere, if y is what the model predicts there."""
        if not self.own_labels:
            return ~self.fooled(self.predictions())
        self.asked += 1  # the pass that found y: counts are the same as with y given
        return None

    def unfooled(self) -> tuple["Rows", Tensor]:
        """The rows that are not fooled at `x_adv`, and where they stand here; `put` brings them back."""
        index = (~self.fooled(self.predictions())).nonzero().squeeze(1)
        return self.take(index), index

    def rounds(self, runs: Iterable[Any]) -> Iterator[tuple[Any, "Rows", Tensor]]:
        """For each of `runs`, the rows that none before has fooled, and where they stand here, to which they return."""
        part, where = self, torch.arange(len(self.x), device=self.x.device)
        for run in runs:
            rest, kept = part.unfooled()
            if part is not self:
                self.put(where, part)
            part, where = rest, where[kept]
            if len(where) == 0:
                return
            yield run, part, where
        self.put(where, part)

    def settle(self) -> None:
        """Brings `steps`, `queries` and `grads` up to date."""
        for name, count in (("steps", self.made), ("queries", self.asked), ("grads", self.computed)):
            if count:
                setattr(self, name, getattr(self, name) + count)
        self.made, self.asked, self.computed = 0, 0, 0

    def columns(self) -> dict[tuple[int, str], Tensor]:
        """All tensors with a row a sample: its own, under (0, name), and those of `state`, under (1, name)."""
        owners = enumerate((self, self.state))
        return {(k, n): t for k, owner in owners if owner for n, t in vars(owner).items() if isinstance(t, Tensor)}

    def change(self, columns: dict[tuple[int, str], Tensor]) -> None:
        """Sets tensors by the names that `columns` gives them."""
        for (owner, name), value in columns.items():
            setattr(self.state if owner else self, name, value)

    def with_columns(self, of: Callable[[Tensor], Tensor]) -> "Rows":
        """Rows whose tensors are `of` these."""
        rows = copy.copy(self)
        rows.state = copy.copy(self.state)
        rows.change({key: of(value) for key, value in self.columns().items()})
        return rows

    def twin(self) -> "Rows":
        """The same rows in memory of their own."""
        twin = self.with_columns(Tensor.clone)
        twin.log = []
        return twin

    def take(self, index: Tensor) -> "Rows":
        self.settle()
        return self.with_columns(lambda column: column[index])

    def put(self, index: Tensor, part: "Rows") -> None:
        self.settle()
        part.settle()
        columns = part.columns()
        for (owner, name), value in self.columns().items():
            if owner or name not in self.GIVEN:
                value[index] = columns[owner, name]


class Departure(NamedTuple):
    """Who stays, as `ops.early_stop` tells it: indices [B], theirs first and in order, and how many they are [1].

    The count is on its way to the host while the device works on the rest of the step.
    """

    order: Tensor
    count: Tensor
    arrived: torch.cuda.Event | None

    @classmethod
    def of(cls, order: Tensor, count: Tensor) -> "Departure":
        if not count.is_cuda or torch.cuda.is_current_stream_capturing():
            return cls(order, count, None)
        count = count.to("cpu", non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record()
        return cls(order, count, arrived)

    def staying(self) -> Tensor:
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.order[: int(self.count)]


Step = Callable[[Rows, int], Tensor | tuple[Tensor, Departure] | None]

_EVERY = {"cpu": 1, "cuda": 3}
"""After how many steps rows that have ended leave the batch, by kind of device: the host has to wait for it."""


def ascend(attack: Any, rows: Rows, steps: int, step: Step, active: Tensor | None = None) -> None:
    """The one loop: up to `steps` times, ``step(live, number)`` moves the `x_adv` of the rows it is given.

    A step of an attack that `ends_early` returns a mask [B], which ends the attack of the rows where it is false, or
    that and how they depart. They take no part in the steps that follow, of which ``live.active`` tells, and leave the
    batch within a few. A step may itself set ``live.active``, to say that it is made by those alone. `active` is such a
    mask to begin with. Results stand in `rows`, in order.

    On a model with `graphs`, several steps are one CUDA graph: all, or as many as are made before rows leave.
    """
    graphs = graphs_of(rows.model, rows.x) if attack.repeats else None
    rows.settle()
    whole = rows
    if graphs is not None and (size := graphs.size(len(rows.x))) > len(rows.x):
        rows, active = _filled_up(rows, size, active, attack.ends_early)
    before, where = None if active is None and not attack.ends_early else rows.steps.clone(), None
    live, rows.active, rows.log, done = rows, active, [], 0
    width = _EVERY.get(rows.x.device.type, 1) if attack.ends_early else steps
    if active is not None:
        live, where = _depart(rows, rows, None, None, graphs)
    while done < steps and len(live.x):
        numbers = range(done + 1, min(done + width, steps) + 1)
        if graphs is None:
            departure = _segment(live, step, numbers)
        else:
            departure = graphs.run(attack, live, numbers, lambda part, n=numbers: _segment(part, step, n))
        done = numbers[-1]
        if live.active is not None and done < steps:
            live, where = _depart(rows, live, where, departure, graphs)
    live.settle()
    if where is not None:
        rows.put(where, live)
    rows.active, costs = None, [*zip(*rows.log, strict=True)] or [(), ()]
    if before is None:
        rows.asked, rows.computed = map(sum, costs)
        rows.settle()
    else:
        made = rows.steps - before
        rows.queries, rows.grads = (
            n + _spent(cost, made) for n, cost in zip((rows.queries, rows.grads), costs, strict=True)
        )
    if rows is not whole:
        own = torch.arange(len(whole.x), device=whole.x.device)
        whole.put(own, rows.take(own))


def _spent(costs: tuple[int, ...], made: Tensor) -> Tensor:
    """What the first `made` [B] of steps that cost so much have cost."""
    if len(set(costs)) <= 1:
        return costs[0] * made if costs and costs[0] != 1 else made
    return torch.tensor([0, *accumulate(costs)], device=made.device)[made]


def _filled_up(rows: Rows, size: int, active: Tensor | None, masked: bool) -> tuple[Rows, Tensor | None]:
    """The rows and copies of the last of them, `size` in all, and who of these is active."""
    index = torch.arange(size, device=rows.x.device)
    given, index = index < len(rows.x), index.clamp(max=len(rows.x) - 1)
    if masked:
        active = given if active is None else given & active[index]
    return rows.take(index), active


def _segment(live: Rows, step: Step, numbers: range) -> Departure | None:
    """The steps of these `numbers`, of all rows of `live`."""
    departure = None
    for number in numbers:
        before = live.active
        going = step(live, number)
        live.log.append((live.asked, live.computed))
        live.asked = live.computed = 0
        going, departure = going if isinstance(going, tuple) else (going, None)
        if live.active is None:
            live.made += 1
        else:
            live.steps = live.steps + live.active
        if going is not None:
            live.active = going if before is None or departure is not None else going & before
    return departure


def _depart(
    rows: Rows, live: Rows, where: Tensor | None, departure: Departure | None, graphs: Graphs | None
) -> tuple[Rows, Tensor | None]:
    """`live` without the rows that are not active, and where in `rows` its rows stand; None: it is `rows` itself.

    Where there are graphs, which are for few sizes of a batch, rows that are not active fill it up.
    """
    going = live.active
    stay = going.nonzero().squeeze(1) if departure is None else departure.staying()  # the host waits for the device
    size = len(stay) if graphs is None else graphs.size(len(stay))
    if size >= len(live.x):
        live.active = None if graphs is None else going
        return live, where
    if size > len(stay):
        stay = torch.cat([stay, (~going).nonzero().squeeze(1)])[:size]
    live.settle()
    if where is not None:
        rows.put(where, live)
    where = stay if where is None else where[stay]
    part = rows.take(where)
    part.active = None if graphs is None else going[stay]
    return part, where


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


def distances(leads: Tensor, grads: Tensor, norm: str) -> Tensor:
    """How far linearised boundaries of rivals are in `norm`, [B, R], by what `Rows.class_gradients` gives of them."""
    sizes = ops.row_norms(grads.flatten(0, 1), DUALS[norm]).view_as(leads)
    return (leads.abs() / sizes)[:, 1:].nan_to_num(torch.inf)


def numbers(ids: Tensor, shape: tuple[int, ...], seed: int, draw: int) -> Tensor:
    """Uniform in (0, 1), those of a sample its own: [B, *shape], float64."""
    middle = torch.full((len(ids), *shape), 0.5, dtype=torch.float64, device=ids.device)
    return ops.random_start(middle, ids, 0.5, seed, draw)


def budgets(attack: object, rows: Rows, alpha: Budget | None) -> None:
    """Sets the budget of every sample, `attack.eps`, and its step size; None: as large."""
    name = type(attack).__name__
    rows.eps = ops.per_sample(name, "eps", attack.eps, rows.x)
    rows.alpha = rows.eps if alpha is None else ops.per_sample(name, "alpha", alpha, rows.x)


def ball_ascent(attack: object, rows: Rows, alpha: Budget, loss: str = "ce", samples: int = 1, **options: Any) -> Step:
    """A step of size `alpha` up the gradient of `loss`, or down it where the attack is targeted; see `Rows.ascent`.

    Within `attack.eps` of x, in `attack.norm`, and `attack.bounds`. The gradient is the sum of `samples` passes.
    `options` that are names of a tensor of the rows' state stand for that.
    """
    budgets(attack, rows, alpha)
    move = STEPS[attack.norm].in_loop()

    def step(live: Rows, number: int) -> None:
        given = {key: getattr(live.state, value) if isinstance(value, str) else value for key, value in options.items()}
        grad, _, _ = live.ascent(loss, **given)
        for _ in range(samples - 1):
            grad += live.ascent(loss, **given)[0]
        move(live.x_adv, grad, live.x, live.alpha, live.eps, *attack.bounds, None, live.nonfinite)

    return step
