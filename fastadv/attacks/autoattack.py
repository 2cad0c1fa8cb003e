"""Several attacks in turn: the pointwise worst case, and AutoAttack, which is one."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from .. import ops
from ..models.adapted import own_loss
from ._ascend import STEPS, Model, Rows, isolated
from ._attack import Attack, AttackResult, Budget, check_budgets, check_choice, drawn_seed
from ._tuned import Tuned
from .apgd import APGD, APGDT, APGDRounds
from .fab import FAB, FABT
from .pgd import PGD
from .square import Square


@dataclass(frozen=True)
class MultiAttack(Attack):
    """Attacks in turn, each on the samples that none before has fooled: the pointwise worst case.

    A sample is robust if no attack fools it, and is then returned as it is; so are samples misclassified to begin with.

    Args:
        attacks: the attacks; they run `within` the `bounds` of this one, and its `seed`, given or drawn, is added to
            theirs.
        norm: what `AttackResult.norm` is measured in.
    """

    attacks: tuple[Attack, ...]
    norm: str = field(default="linf", kw_only=True)

    has_budget: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.attacks or not all(isinstance(attack, Attack) for attack in self.attacks):
            raise ValueError(f"MultiAttack: attacks must be a tuple of attacks, at least one, got {self.attacks!r}")
        if any(attack.targeted for attack in self.attacks):
            raise ValueError("MultiAttack: attacks must not be targeted: their labels would mean two things")
        check_choice(self, "norm", self.norm, tuple(STEPS))

    @property
    def is_random(self) -> bool:
        return any(each.is_random and each.seed is None for each in self.attacks)

    def perturb(self, rows: Rows) -> None:
        seed = self.seed or 0
        attacks = (replace(each.within(self.bounds), seed=seed + (each.seed or 0)) for each in self.attacks)
        for _ in worst_case(rows, attacks):
            pass


@dataclass(frozen=True)
class AutoAttack(Attack):
    """AutoAttack (Croce and Hein, 2020): the worst case over attacks that need no tuning, at one budget.

    ``standard`` is APGD on the cross-entropy, APGD-T, FAB-T and Square; ``plus`` adds APGD on the DLR loss and FAB,
    with five restarts; ``rand``, for models that are random, is APGD on both losses with 20 gradients a step;
    ``custom`` runs `attacks_to_run`, each as in ``standard``. FAB counts where its perturbation is within the budget.
    In L1, APGD of ``standard`` has five restarts and APGD-T five targets, both with `large_eps` (Croce and Hein, 2021).

    ``fast`` takes less than a fifth of the gradients of ``standard`` for a robust sample of ten classes, and a fifth of
    the queries of Square: one step and then APGD on the probability margin (PMA), `APGDRounds`, and a shorter Square.
    Those that fool most samples a gradient come first.

    Args:
        eps: budget in `norm`, in the units of the inputs; a number or one a sample.
        version: ``standard``, ``plus``, ``rand``, ``fast`` or ``custom``.
        attacks_to_run: of ``custom``: names of `attacks`, in their order.
        bf16: of ``fast``: compute gradients in bfloat16, where a sample counts as fooled only if the model in its own
            precision says so.
        norm: ``linf``, ``l2`` or ``l1``, which ``fast`` is not for.
    """

    eps: Budget = 8 / 255
    version: str = "standard"
    attacks_to_run: tuple[str, ...] = ()
    bf16: bool = field(default=False, kw_only=True)
    norm: str = field(default="linf", kw_only=True)

    is_random: ClassVar[bool] = True

    VERSIONS: ClassVar[dict[str, tuple[str, ...]]] = {
        "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
        "plus": ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"),
        "rand": ("apgd-ce", "apgd-dlr"),
        "fast": ("step-pm", "apgd-pm", "apgd-rounds", "square-1000"),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "norm", self.norm, tuple(STEPS))
        check_budgets(self, "eps")
        check_choice(self, "version", self.version, (*self.VERSIONS, "custom"))
        if (self.version == "custom") != bool(self.attacks_to_run):
            raise ValueError(
                f"AutoAttack: attacks_to_run are for version custom, which needs some; "
                f"got {self.attacks_to_run!r} with {self.version}"
            )
        if self.norm == "l1" and self.version == "fast":
            raise ValueError("AutoAttack: version fast is for norms linf and l2: choose standard, or another norm")
        if self.bf16 and self.version != "fast":
            raise ValueError(f"AutoAttack: bf16 is for version fast, got {self.version}")
        for name in self.attacks_to_run:
            check_choice(self, "attacks_to_run", name, (*self.VERSIONS["plus"], *self.VERSIONS["fast"]))
        if self.norm == "l1" and "apgd-rounds" in self.attacks_to_run:
            raise ValueError("AutoAttack: apgd-rounds is for norms linf and l2: leave it out, or choose another norm")

    @property
    def attacks(self) -> dict[str, Attack]:
        """The attacks that are run, by their usual names, in order; each has a seed of its own if there is a seed."""
        sparse = self.norm == "l1" and self.version in ("standard", "custom")
        restarts, targets = 5 if self.version == "plus" else 1, 5 if sparse else 9
        climb = {"restarts": 5 if sparse else restarts, "eot": 20 if self.version == "rand" else 1, "large_eps": sparse}
        how = {"norm": self.norm, "bounds": self.bounds}
        every = {
            "apgd-ce": APGD(self.eps, **climb, **how),
            "apgd-dlr": APGD(self.eps, loss="dlr", **climb, **how),
            "fab": FAB(enough=self.eps, restarts=restarts, **how),
            "square": Square(self.eps, **how),
            "apgd-t": APGDT(self.eps, targets=targets, large_eps=sparse, **how),
            "fab-t": FABT(enough=self.eps, **how),
            "step-pm": PGD(self.eps, self.eps, 1, random_start=0.0, loss="pm", **how),
            "apgd-pm": APGD(self.eps, 30, loss="pm", **how),
            "square-1000": Square(self.eps, queries=1000, **how),
        }
        if self.norm != "l1":
            every["apgd-rounds"] = APGDRounds(self.eps, **how)
        names = self.attacks_to_run or self.VERSIONS[self.version]
        seeds = [None if self.seed is None else self.seed + place for place in range(len(names))]
        return {name: replace(every[name], seed=seed) for name, seed in zip(names, seeds, strict=True)}

    def perturb(self, rows: Rows) -> None:
        for _ in self._falling(rows):
            pass

    def anytime(
        self, model: Model, x: Tensor, y: Tensor | None = None, ids: Tensor | None = None
    ) -> Iterator[tuple[str, AttackResult]]:
        """After each of `attacks` its name and what is known by then, at first of no attack, ``clean``; see `run`.

        Every result is a whole one: the samples that count as fooled are, and their share is a lower bound of the last
        one's. So you may stop at any time. The last is what `run` gives.
        """
        attack = self if self.seed is not None else self.seeded(drawn_seed())
        with isolated(model):
            rows = Rows(model, *attack._checked(x, y, ids, own_loss(model)))
            names, falling = iter(("clean", *attack.attacks)), attack._falling(rows)
        while True:
            yield next(names), attack._tried(rows.twin(), model)
            with isolated(model):
                if next(falling, None) is None:
                    return

    def _falling(self, rows: Rows) -> Iterator[Attack]:
        """The attacks that have run, each when `rows` are what they are after it."""
        eps, model = ops.per_sample("AutoAttack", "eps", self.eps, rows.x), rows.model
        if self.bf16 and rows.truth is not None:
            raise ValueError("AutoAttack: bf16 is for models without a loss of their own: leave it out")
        if self.bf16:
            rows.model = Tuned(model, dtype=torch.bfloat16)
            rows.model.training = False
        yield from worst_case(rows, self.attacks.values(), eps)
        rows.model = model


def worst_case(rows: Rows, attacks: Iterable[Attack], eps: Tensor | None = None) -> Iterator[Attack]:
    """Leaves in `x_adv` the first adversarial sample that one of `attacks` finds, or x; the attacks as they are done.

    What an attack without a budget finds must be within `eps` [B], if given, in the attack's norm.
    """
    part, where = rows.unfooled()
    for attack in attacks:
        if len(where) == 0:
            break
        attack.of_rows(where, part.x).perturb(part)
        won = part.fooled(part.predictions())
        if eps is not None and not attack.has_budget:
            won &= ops.row_norms(part.x_adv, attack.norm, part.x) <= eps[where]
        part.x_adv = torch.where(ops.as_rows(won, part.x), part.x_adv, part.x)
        rows.put(where, part)
        where = where[~won]
        part = rows.take(where)
        yield attack
