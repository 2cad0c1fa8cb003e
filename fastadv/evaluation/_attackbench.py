"""AttackBench (Cinà et al., AAAI 2025): attacks ranked by the perturbations they find within a budget of queries.

What differs from the authors' code (cb475a2), on purpose: curves are integrated as the step functions they are, not by
trapezoids; the sample that an attack returns is one more query; an attack stops when all of its samples have spent
their queries, which can change nothing any more.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .. import ops
from ..attacks import Model, checked_logits, isolated, predicted
from ._common import measuring

NORMS = {"linf": math.inf, "l2": 2.0, "l1": 1.0, "l0": 0.0}
"""The norms of perturbations; ``l0`` counts entries, so that an RGB pixel is three."""

_EQUAL = 1.001
"""How far apart two distances may be, as a ratio, that products of matrices in float32 cannot tell apart."""


class OutOfQueriesError(Exception):
    """Ends an attack whose samples have all spent their queries."""


class Queries(nn.Module):
    """`model` on the samples `x` [N, ...], counting what an attack asks it and keeping the best it is shown.

    A row that it is asked about belongs to the sample that is nearest in L2. A forward pass of a row is one query
    of its sample, a backward pass another. Rows beyond the `budget` of their sample get logits that say the label, and
    no gradient. Rows are clamped into `bounds`, outside of which gradients are 0.

    Args:
        model: samples to logits.
        x: the samples under attack.
        y: their labels, [N].
        norm: what perturbations are measured in, one of `NORMS`.
        budget: queries of every sample.
        bounds: the range of the inputs.

    `forwards`, `backwards` [N] int64: queries so far. `best` [N] float64: the size of the smallest adversarial
    perturbation so far, infinite for none; 0 for a sample that is misclassified as it is, which is looked up without
    counting. `x_adv` [N, ...]: where that is, or x.
    """

    def __init__(
        self, model: Model, x: Tensor, y: Tensor, norm: str, budget: int, bounds: tuple[float, float] = (0, 1)
    ):
        super().__init__()
        if norm not in NORMS:
            raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {norm!r}")
        if budget < 1:
            raise ValueError(f"budget must be at least 1 query, got {budget}")
        self.model, self.norm, self.budget, self.bounds = model, norm, budget, bounds
        self.x, self.y, self.x_adv = x, y, x.clone()
        self.forwards = torch.zeros_like(y)
        self.backwards = torch.zeros_like(y)
        self.tracking = 0.0  # seconds spent on counting
        with isolated(model), torch.no_grad():
            logits = checked_logits(model, x)
        self.classes = logits.shape[1]
        wrong = predicted(logits) != y
        self.best = torch.where(wrong, 0.0, math.inf).double()
        apart = torch.cdist(x.flatten(1), x.flatten(1)).fill_diagonal_(math.inf)
        self._surely = apart.amin(dim=1) / 2  # what is nearer to a sample than this is nearest to it
        self._last = torch.arange(len(x), device=x.device)
        self._attacked = torch.ones_like(y, dtype=torch.bool)

    @property
    def spent(self) -> Tensor:
        """Whose queries are spent, [N]."""
        return self.forwards + self.backwards >= self.budget

    @contextmanager
    def attacking(self, rows: Tensor) -> Iterator[None]:
        """Within it, an attack is over once the queries of these `rows` [N] bool are spent.

        Raises OutOfQueriesError where those of all samples are.
        """
        self._attacked = rows
        try:
            yield
        except OutOfQueriesError:
            if bool(self.spent.all()):
                raise
        finally:
            self._attacked = torch.ones_like(rows)

    def forward(self, x: Tensor) -> Tensor:
        started = time.perf_counter()
        with torch.no_grad():
            inside = x.detach().clamp(*self.bounds)
            owner = self._owners(inside)
            allowed = self._spend(self.forwards, owner)
        self.tracking += time.perf_counter() - started
        asked = _Asked.apply(x, inside, self, owner)
        if bool(allowed.all()):
            logits = checked_logits(self.model, asked)
        elif bool(self.spent[self._attacked].all()) and not bool(allowed.any()):
            raise OutOfQueriesError
        else:
            logits = asked.flatten(1)[:, :1] * 0 + self.classes * nn.functional.one_hot(self.y[owner], self.classes)
            some = allowed.nonzero().squeeze(1)
            if len(some):
                answers = checked_logits(self.model, asked[some])
                logits = logits.to(answers.dtype).index_copy(0, some, answers)
        started = time.perf_counter()
        self._track(inside, logits.detach(), owner, allowed)
        self.tracking += time.perf_counter() - started
        return logits

    def _owners(self, x: Tensor) -> Tensor:
        """Which sample each row is nearest to in L2, in which even large noise does not lead to another sample.

        The guess is that they come as they came last.
        """
        guess = self._last if len(self._last) == len(x) else torch.arange(len(x), device=x.device) % len(self.x)
        far = (distances(x, self.x[guess], "l2") >= self._surely[guess]).nonzero().squeeze(1)
        if len(far):
            guess = guess.clone()
            rows = x[far].flatten(1).to(self.x.dtype)  # a model in double precision may be shown others
            apart = torch.cdist(rows, self.x.flatten(1))
            least = apart.amin(dim=1) * _EQUAL
            as_guessed = apart.gather(1, guess[far].unsqueeze(1)).squeeze(1) <= least  # of equal samples
            guess[far] = torch.where(as_guessed, guess[far], apart.argmin(dim=1))
        self._last = guess
        return guess

    def _spend(self, counter: Tensor, owner: Tensor) -> Tensor:
        """Which rows may ask: of several of one sample the first, as long as it has queries left. Counts them."""
        order = owner.argsort(stable=True)
        sorted_owner = owner[order]
        first = torch.searchsorted(sorted_owner, sorted_owner)  # where its sample's rows begin
        place = torch.empty_like(owner)
        place[order] = torch.arange(len(owner), device=owner.device) - first
        allowed = (self.forwards + self.backwards)[owner] + place < self.budget
        counter.index_add_(0, owner, allowed.to(counter.dtype))
        return allowed

    def _track(self, x: Tensor, logits: Tensor, owner: Tensor, allowed: Tensor) -> None:
        whole = x.flatten(1).isfinite().all(dim=1)  # a row with NaN is no sample, whatever the model says to it
        fooled = (allowed & whole & (predicted(logits) != self.y[owner])).nonzero().squeeze(1)
        if not len(fooled):
            return
        owner, x = owner[fooled], x[fooled]
        sizes = distances(x, self.x[owner], self.norm)
        nearer = sizes < self.best[owner]
        self.best.scatter_reduce_(0, owner, sizes, "amin")
        nearer &= sizes == self.best[owner]
        self.x_adv[owner[nearer]] = x[nearer].to(self.x.dtype)


class _Asked(torch.autograd.Function):
    """Rows inside the bounds; its backward pass is a query of each."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, inside: Tensor, queries: Queries, owner: Tensor) -> Tensor:
        ctx.queries, ctx.owner = queries, owner
        ctx.save_for_backward(x == inside)
        return inside.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        allowed = ctx.queries._spend(ctx.queries.backwards, ctx.owner)
        (same,) = ctx.saved_tensors
        return torch.where(same & ops.as_rows(allowed, grad), grad, 0), None, None, None


def distances(x_adv: Tensor, x: Tensor, norm: str) -> Tensor:
    """The sizes of perturbations in one of `NORMS`, [B] float64."""
    delta = (x_adv - x).flatten(1)
    return torch.linalg.vector_norm(delta, NORMS[norm], dim=1, dtype=torch.float64)


# ---------------------------------------------------------------------------------------------------- what is measured


class Asking(NamedTuple):
    """An attack as the benchmark runs it: ``attack(model, x, y, ids)`` gives adversarial samples [B, ...]."""

    library: str
    attack: str
    norm: str
    run: Callable[[Queries, Tensor, Tensor, Tensor], Tensor]

    @property
    def name(self) -> str:
        return f"{self.library} {self.attack}"


@dataclass(frozen=True, eq=False)
class Found:
    """What an attack found on a model: all [N], on the CPU.

    `distances`: of the smallest adversarial perturbations, infinite for none. `forwards`, `backwards`: queries.
    `seconds`: of the attack, without counting.
    """

    distances: Tensor
    forwards: Tensor
    backwards: Tensor
    seconds: float


@measuring()
def ask(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    attack: Asking,
    budget: int,
    *,
    bounds: tuple[float, float] = (0.0, 1.0),
    batch_size: int = 200,
    on_step: Callable[[int, int | None], None] | None = None,
) -> Found:
    """Runs `attack` on `model` at `x` [N, ...] with `budget` queries a sample, forward and backward passes together."""
    parts, seconds = [], 0.0
    ids = torch.arange(len(x), device=x.device)
    starts = range(0, len(x), batch_size)
    for number, start in enumerate(starts, 1):
        part = slice(start, start + batch_size)
        with isolated(model):
            queries = Queries(model, x[part], y[part], attack.norm, budget, bounds).eval()
            started = time.perf_counter()
            try:
                made = attack.run(queries, x[part].clone(), y[part].clone(), ids[part])
                with torch.no_grad():
                    queries(made.to(x))
            except OutOfQueriesError:
                pass
            seconds += time.perf_counter() - started - queries.tracking
        parts.append((queries.best, queries.forwards, queries.backwards))
        if on_step:
            on_step(number, len(starts))
    best, forwards, backwards = (torch.cat(column).cpu() for column in zip(*parts, strict=True))
    return Found(best, forwards, backwards, seconds)


FIRST = {"linf": 1 / 255, "l2": 1.0, "l1": 10.0, "l0": 100.0}
"""The budgets of perturbations that a search begins with, for inputs in [0, 1]: AttackBench's."""


def searched(
    at: Callable[[nn.Module, Tensor, Tensor, Tensor, Tensor], Tensor],
    norm: str,
    *,
    width: float = 1.0,
    one_by_one: bool = False,
    rounds: int = 20,
) -> Callable[[Queries, Tensor, Tensor, Tensor], Tensor]:
    """An attack that looks for every sample's smallest budget, out of ``at(model, x, y, ids, eps)``, which has one.

    AttackBench's search: eps [B] doubles until the attack succeeds once, and then halves the interval between the
    largest that failed and the smallest that did not. What succeeds at a size below its eps ends the interval there.

    Args:
        at: the attack at budgets `eps` [B].
        norm: what they are measured in.
        width: the range of the inputs.
        one_by_one: `at` takes one budget for all, so that samples are grouped by theirs.
        rounds: how often `at` is called, the most.
    """

    def run(model: Queries, x: Tensor, y: Tensor, ids: Tensor) -> Tensor:
        low = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        high = torch.full_like(low, math.inf)
        eps = torch.full_like(low, FIRST[norm] if norm == "l0" else FIRST[norm] * width)
        most = width if norm == "linf" else math.inf
        best = x.clone()
        for _ in range(rounds):
            going = (high > 0) & ~model.spent  # nothing is nearer than x itself
            if not bool(going.any()):
                break
            groups = [going & (eps == value) for value in eps[going].unique()] if one_by_one else [going]
            made = x.clone()
            for rows in groups:
                with model.attacking(rows):
                    made[rows] = at(model, x[rows], y[rows], ids[rows], eps[rows].to(x.dtype)).detach().to(x)
            with torch.no_grad():
                won = predicted(model(made)) != y
            size = distances(made, x, norm)
            better = won & (size < high)
            best[better] = made[better]
            low = torch.where(won, low, torch.maximum(low, eps)).minimum(high)
            high = torch.where(better, size, high)
            eps = torch.where(high.isfinite(), (low + high) / 2, 2 * low).clamp(max=most)
        return best

    return run


# ----------------------------------------------------------------------------------------------------------- optimality


def robust_accuracy(distances: Tensor, eps: float) -> float:
    """The share of samples whose smallest perturbation is larger than `eps`."""
    return float((distances > eps).double().mean())


def area(distances: Tensor, most: float) -> float:
    """The integral of `robust_accuracy` over eps in [0, `most`], exactly: a sample adds where its curve is 1."""
    return float(distances.double().clamp(max=most).mean())


def optimality(distances: Tensor, best: Tensor) -> float:
    """AttackBench's local optimality of an attack's `distances` [N] beside the `best` of all attacks [N], at most 1.

    ``1 - (A - A*) / (c m - A*)`` with the areas A and A* of both curves up to m, the largest finite distance of the
    best, and the clean accuracy c: 1 is the pointwise best, 0 an attack that finds nothing. Where nothing is ever
    found, or everything at no distance, all are 1.
    """
    finite = best[best.isfinite()]
    most = float(finite.max()) if len(finite) else 0.0
    ideal = area(best, most)
    worst = robust_accuracy(best, 0.0) * most
    return 1.0 if worst <= ideal else 1 - (area(distances, most) - ideal) / (worst - ideal)


def pointwise_best(found: Sequence[Found]) -> Tensor:
    """The smallest distance that any of them found for each sample, [N]."""
    return torch.stack([each.distances for each in found]).amin(dim=0)


class Failure(NamedTuple):
    """An attack that raised an error on a model, and what it said."""

    model: str
    norm: str
    library: str
    attack: str
    reason: str


@dataclass(frozen=True, eq=False)
class Bench:
    """What attacks found on models with `queries` for each of the `samples` of `data`.

    `found`: by norm, by model, by (library, attack). `missing`: libraries that took no part, and why.
    """

    data: str
    samples: int
    queries: int
    found: Mapping[str, Mapping[str, Mapping[tuple[str, str], Found]]]
    missing: Mapping[str, str]
    failed: Sequence[Failure]

    def standings(self, norm: str) -> list["Standing"]:
        """The ranking in `norm`, best first."""
        return standings(self.found[norm])


class Standing(NamedTuple):
    """An attack in a ranking of one norm: `local` optimality on each model, by name, and the mean of these."""

    library: str
    attack: str
    local: dict[str, float]
    optimality: float


def standings(found: Mapping[str, Mapping[tuple[str, str], Found]]) -> list[Standing]:
    """The ranking of attacks in one norm, best first, from what each, (library, attack), `found` on each model.

    Global optimality is the mean over the models. Attacks that lack one of them are left out.
    """
    best = {model: pointwise_best(list(each.values())) for model, each in found.items() if each}
    complete = set.intersection(*(set(each) for each in found.values())) if found else set()
    ranked = []
    for library, attack in complete:
        local = {model: optimality(each[library, attack].distances, best[model]) for model, each in found.items()}
        ranked.append(Standing(library, attack, local, sum(local.values()) / len(local)))
    return sorted(ranked, key=lambda each: (-each.optimality, each.library, each.attack))
