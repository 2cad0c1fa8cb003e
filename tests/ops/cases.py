"""How tests of ops make arguments and compare results."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Args = dict[str, Any]

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
FLOATS = [torch.float32, torch.float64]
WIDE = {"lo": -math.inf, "hi": math.inf}
NOT_FINITE = (math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-40, -1e-40)
BUDGETS = (0.1, 2.0, 0.0, 1e-30, math.inf, 1e30)
LABELS = (1, 0, 0, 1, -1, 0, 2**40)  # some of no class


def strided(t: Tensor) -> Tensor:
    """`t` in every second element of a larger tensor."""
    return torch.stack((t, t), dim=-1)[..., 0]


def transposed(t: Tensor) -> Tensor:
    """`t` with the samples innermost."""
    return t.movedim(0, -1).contiguous().movedim(-1, 0)


def channels_last(t: Tensor) -> Tensor:
    return t.movedim(1, -1).contiguous().movedim(-1, 1) if t.dim() > 2 else t


def expanded(t: Tensor) -> Tensor:
    """The first sample of `t`, for all."""
    return t[:1].expand(t.shape)


# The layouts that the samples of a call take in turn; what is written to is contiguous instead of expanded.
LAYOUTS: dict[str, list[Callable[[Tensor], Tensor]]] = {
    "contiguous": [Tensor.contiguous],
    "channels_last": [channels_last],
    "strided": [strided],
    "transposed": [transposed],
    "channels_last and contiguous": [channels_last, Tensor.contiguous, strided],
    "expanded": [expanded, expanded, channels_last],
    "strided and transposed": [strided, transposed, expanded],
}


class Make:
    """Random arguments for one call; the same for the same options, on every device."""

    def __init__(self, shape=(3, 129), dtype=torch.float32, device="cpu", layout="contiguous", seed=0):
        self.shape, self.dtype, self.device, self.layouts = tuple(shape), dtype, device, LAYOUTS[layout]
        self.wide = torch.float64 if dtype == torch.float64 else torch.float32  # what ops compute in
        self.made = 0
        self.generator = torch.Generator().manual_seed(seed)

    def samples(
        self,
        low: float = 0,
        high: float = 1,
        salt: tuple[float, ...] = (),
        written: bool = False,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        values, layout = self.values(self.shape, low, high, salt, dtype or self.dtype), self.layout()
        return values if written and layout is expanded else layout(values)

    def logits(self, low: float, high: float, salt: tuple[float, ...] = (), classes: int = 0, least: int = 2) -> Tensor:
        """[samples, classes]: as samples, a class an element and `least` at least; with `classes`, beside samples."""
        shape = (self.shape[0], classes or max(least, math.prod(self.shape[1:])))
        return self.layout()(self.values(shape, low, high, salt, self.wide if classes else self.dtype))

    def gradients(self, classes: int, salt: tuple[float, ...] = ()) -> Tensor:
        """[samples, classes, ...]: `classes` tensors like a sample, one after the other, for each."""
        values, layout = self.values((self.shape[0], classes, *self.shape[1:]), -1, 1, salt, self.dtype), self.layout()
        return layout(values if layout is expanded else values.flatten(0, 1)).view_as(values)

    def column(self, *cycle: float, dtype: torch.dtype | None = None) -> Tensor:
        """One value a sample, in every second element; a budget where no type is given."""
        return strided(torch.tensor(cycle, dtype=dtype or self.wide)[self.turns(len(cycle))].to(self.device))

    def integers(self, *cycle: int) -> Tensor:
        return self.column(*cycle, dtype=torch.int64)

    def mask(self, *cycle: bool) -> Tensor:
        return self.column(*cycle or (True, True, False, True), dtype=torch.bool)

    def values(
        self, shape: tuple[int, ...], low: float, high: float, salt: tuple[float, ...], dtype: torch.dtype
    ) -> Tensor:
        values = low + (high - low) * torch.rand(shape, generator=self.generator, dtype=torch.float64)
        self.season(values.view(-1), torch.tensor(salt, dtype=torch.float64))
        return values.to(dtype).to(self.device)

    def season(self, values: Tensor, salt: Tensor) -> None:
        values[: len(salt)] = salt[: len(values)]

    def turns(self, count: int) -> Tensor:
        """Which of `count` values each sample takes."""
        return torch.arange(self.shape[0]) % count

    def layout(self) -> Callable[[Tensor], Tensor]:
        self.made += 1
        return self.layouts[(self.made - 1) % len(self.layouts)]


RTOL = {torch.float64: 5e-12, torch.float32: 2.4e-7, torch.float16: 2**-10, torch.bfloat16: 2**-7}
"""What rounding and the order of a sum may change in a result: neighbours, but in float64."""


@dataclass(frozen=True)
class Case:
    """How to make an op's arguments, the variants of a call, and changes of the first that are refused: how, and why.

    `fit` makes arguments go together.

    A compiled kernel gives the reference's bits if the call is `exact`. In others sums are taken in another order: it
    comes as close as RTOL says, and `atol` where terms cancel (by default what RTOL makes of 2).
    """

    args: Callable[[Make], Args]
    variants: tuple[Args, ...]
    refused: tuple[tuple[Args, type[Exception], str], ...]
    exact: Callable[[Args], bool] = lambda args: False
    atol: float | None = None
    fit: Callable[[Args], Args] = dict

    def arguments(self, variant: Args, **options) -> Args:
        return self.fit(self.args(Make(**options)) | variant)


def always(args: Args) -> bool:
    return True


def step_args(make: Make) -> Args:
    """What every step takes."""
    return {
        "x_adv": make.samples(-0.2, 1.2, written=True),
        "grad": make.samples(-1, 1, salt=NOT_FINITE),
        "x": make.samples(),
        "step_size": make.column(0.03, -0.03, 0.0, 1e-30, 5.0, 0.01, 0.2),
        "eps": make.column(*BUDGETS),
        "active": make.mask(),
        "nonfinite": make.mask(False, True, False),
    }


def randn(*shape: int, dtype: torch.dtype = torch.float64, device: str = "cpu", seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(device, dtype)


def norms(t: Tensor, order: float) -> Tensor:
    return torch.linalg.vector_norm(t.double().flatten(1), order, dim=1)


BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def same(a: Tensor, b: Tensor) -> bool:
    """Equal to the last bit, and like in shape, dtype and device; any NaN equals any other."""
    if (a.shape, a.dtype, a.device) != (b.shape, b.dtype, b.device):
        return False
    if not a.is_floating_point():
        return torch.equal(a, b)
    bits = BITS[a.element_size()]
    equal = a.contiguous().view(bits) == b.contiguous().view(bits)
    return bool((equal | (a.isnan() & b.isnan())).all())
