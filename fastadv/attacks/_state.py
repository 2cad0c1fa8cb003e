"""What attacks remember of each sample."""

from dataclasses import dataclass

from torch import Tensor


@dataclass
class State:
    """What an attack remembers: each field is a tensor with a row a sample. Rows that leave take theirs along."""


@dataclass
class Goal(State):
    """A class to reach, [B]."""

    goal: Tensor


@dataclass
class Natural(State):
    """The logits at x, [B, K], of attacks that climb the divergence from them."""

    natural: Tensor | None = None


@dataclass
class Nearest(State):
    """The nearest adversarial point so far, `best` [B, ...], and how far it is, `size` [B].

    Before there is one, it is x, and infinitely far.
    """

    best: Tensor
    size: Tensor
