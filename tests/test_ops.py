"""fastadv.ops: every op against its reference over one table of cases, and what torch expects of an op.

The references, run on the CPU, define the bits of the elementwise ops on every device. A new op is one row in `CASES`.
"""

import inspect
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from fastadv import ops

pytestmark = pytest.mark.numerics
CSRC = Path(__file__).parents[1] / "csrc"
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
SHAPES = [(0,), (0, 3), (3, 0), (5,), (3, 129), (129, 3), (2, 3, 5, 4), (1, 3, 4, 4), (2, 2, 3, 2, 3)]
LARGE = (33, 3, 41, 43)  # 5 times what a thread takes at least
LONG = (2, 3, 151, 149)  # more than a CUDA block can hold of a row
Args = dict[str, Any]
compiled_only = pytest.mark.skipif(bool(ops.MISSING["cpu"]), reason=f"no compiled kernels: {ops.MISSING['cpu']}")


# -------------------------------------------------------------------------------------------------------- the table


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

    def logits(self, low: float, high: float, salt: tuple[float, ...] = (), classes: int = 0) -> Tensor:
        """[samples, classes]: as samples, with a class an element and two at least; with `classes`, beside samples."""
        shape = (self.shape[0], classes or max(2, math.prod(self.shape[1:])))
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
    """How to make an op's arguments, and the variants of a call.

    A compiled kernel gives the reference's bits if the call is `exact`. In others sums are taken in another order: it
    comes as close as RTOL says, and `atol` where terms cancel (by default what RTOL makes of 2).
    """

    args: Callable[[Make], Args]
    variants: tuple[Args, ...]
    exact: Callable[[Args], bool] = lambda args: False
    atol: float | None = None


def always(args: Args) -> bool:
    return True


NOT_FINITE = (math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-40, -1e-40)
SEGMENT = ("inner", "outer", "middle")
BUDGETS = (0.1, 2.0, 0.0, 1e-30, math.inf, 1e30)
LABELS = (1, 0, 0, 1, -1, 0, 2**40)  # some of no class


def step(make: Make) -> Args:
    return {
        "x_adv": make.samples(-0.2, 1.2, written=True),
        "grad": make.samples(-1, 1, salt=NOT_FINITE),
        "x": make.samples(),
        "step_size": make.column(0.03, -0.03, 0.0, 1e-30, 5.0, 0.01, 0.2),
        "eps": make.column(*BUDGETS),
        "active": make.mask(),
    }


CASES: dict[str, Case] = {
    "linf_step": Case(
        lambda make: step(make) | {"momentum": make.samples(-2, 2, salt=(0.0, math.nan, math.inf), written=True)},
        variants=(
            {"momentum": None},
            {"momentum": None, "active": None},
            {"momentum": None, "lo": -0.5, "hi": 0.7},
            {},
            {"decay": 0.5, "active": None},
        ),
        exact=lambda args: args.get("momentum") is None,
    ),
    "l2_step": Case(step, variants=({}, {"active": None}, {"lo": -0.5, "hi": 0.7})),
    "l1_step": Case(step, variants=({}, {"active": None}, {"lo": -0.5, "hi": 0.7})),
    "topp_step": Case(
        lambda make: step(make) | {"p": 0.3},
        variants=(
            {},
            {"active": None, "p": 1 / 3, "normalise": "kept"},
            {"projection": "simplex"},
            {"p": 1.0, "lo": -0.5, "hi": 0.7},
        ),
    ),
    "row_norms": Case(
        lambda make: {"x": make.samples(-1, 1, salt=(0.0, 1e-40)), "origin": make.samples()},
        variants=tuple({"norm": norm, **more} for norm in ops.NORMS for more in ({}, {"origin": None})),
        atol=0,
    ),
    "cutoff_scale": Case(
        lambda make: {
            "x_adv": make.samples(-0.2, 1.2, salt=(0.3, 1e-40), written=True),
            "x": make.samples(),
            "norms": make.column(0.3, 0.1, math.nan, 0.0, math.inf, 1e-40, 0.7),
            "eps": make.column(*BUDGETS),
            "active": make.mask(),
        },
        variants=(
            {},
            {"active": None, "rho": 0.3},
            {"rho": 0.0},
            {"rho": 1.7},
            {"eps": None},
            {"eps": None, "active": None, "rho": 0.3},
        ),
        exact=lambda args: args["eps"] is not None,
    ),
    "early_stop": Case(
        lambda make: {
            "logits": make.logits(-1, 1, salt=NOT_FINITE),
            "labels": make.integers(*LABELS),
            "tau": make.integers(2, 0, 1, 0, -3),
            "active": make.mask(),
        },
        variants=({}, {"active": None}),
        exact=always,
    ),
    "deepfool_step": Case(
        lambda make: {
            "x_adv": make.samples(-0.2, 1.2, written=True),
            "delta": make.samples(-0.1, 0.1, written=True, dtype=make.wide),
            "x": make.samples(),
            "logits": make.logits(-1, 1, classes=3),
            "grads": make.gradients(3, salt=NOT_FINITE),
            "labels": make.integers(*LABELS),
            "active": make.mask(),
        },
        variants=(
            {},
            {"active": None, "overshoot": 0.02, "beyond": 0.1, "norm": "linf"},
            {"beyond": 0.1, "lo": -0.5, "hi": 0.7},
        ),
    ),
    "bisect_step": Case(
        lambda make: {
            **{name: make.samples(-1, 1, salt=NOT_FINITE[i:], written=True) for i, name in enumerate(SEGMENT)},
            "inside": make.mask(True, False, False),
            "active": make.mask(),
        },
        variants=({}, {"active": None}),
        exact=always,
    ),
    "random_start": Case(
        lambda make: {
            "x": make.samples(-0.2, 1.2),
            "ids": make.integers(7, -1, 2**40 + 1, 2**32, 0),
            "eps": make.column(*BUDGETS),
            "seed": -(2**62) + 12345,
            "active": make.mask(),
        },
        variants=(
            {},
            {"law": "sign"},
            {"active": None, "restart": 2**32 + 3, "lo": -0.5, "hi": 0.7},
            {"law": "gaussian"},
            {"law": "l2"},
            {"law": "l1", "active": None},
        ),
        exact=lambda args: args.get("law", "uniform") in ("uniform", "sign"),
        atol=4e-6,  # the logarithm and the roots are the kernels' own, good to 2e-6 of what is here at most 2
    ),
    "adversarial_labels": Case(
        lambda make: {"logits": make.logits(-3, 3), "labels": make.integers(1, 0, 0, 1, 0)},
        variants=(
            {},
            {"variant": "sup"},
            {"variant": "sup", "top_k": 9, "beta": 11.0},
            {"top_k": 1, "gamma": 0.0},
            {"top_k": 2, "gamma": 0.3},
        ),
    ),
    "wrong_class_target": Case(
        lambda make: {"logits": make.logits(-1, 1, salt=NOT_FINITE), "labels": make.integers(*LABELS)},
        variants=({}, {"which": "least_likely"}),
        exact=always,
    ),
    "hyperplane_projection": Case(
        lambda make: {
            "x": make.samples(),
            "normal": make.samples(-1, 1, salt=NOT_FINITE),
            "offset": make.column(0.0, 1.0, -1.5, 0.3, 1e30, -math.inf, -0.0),
        },
        variants=({"norm": "linf"}, {"norm": "l2"}, {"norm": "l1"}, {"norm": "l1", "lo": -0.5, "hi": 0.7}),
    ),
}
NUMBERED = [(i, op, variant) for op, case in CASES.items() for i, variant in enumerate(case.variants)]
CALLS = [pytest.param(op, variant, id=f"{op}{i or ''}") for i, op, variant in NUMBERED]
# The first variant of each op in every place and type, the others in a share of them: together again in all.
PLACES = [(layout, shape) for layout in LAYOUTS for shape in SHAPES if "channels_last" not in layout or len(shape) > 2]
# `make test` takes float32 everywhere and each other type in a quarter of the places.
TABLE = [
    pytest.param(
        *(op, variant, layout, shape, dtype),
        id=f"{op}{i or ''}-{layout}-{shape}-{dtype}",
        marks=[pytest.mark.thorough] if k and (n + k) % 4 else [],
    )
    for i, op, variant in NUMBERED
    for n, (layout, shape) in enumerate(PLACES[i::5] if i else PLACES)
    for k, dtype in enumerate(DTYPES)
]
LARGE_CALLS = [
    pytest.param(
        *(op, variant, dtype, layout),
        id=f"{op}{i or ''}-{dtype}-{layout}",
        marks=[] if layout == "contiguous" and (i or dtype == torch.float32) else [pytest.mark.thorough],
    )
    for i, op, variant in NUMBERED
    for dtype in (DTYPES[i % 4 :][:1] if i else DTYPES)
    for layout in ("contiguous", "channels_last and contiguous")
]


def bare(op: str) -> Callable:
    return getattr(torch.ops.fastadv, op).default


def parameters(op: str) -> list[str]:
    return list(inspect.signature(ops.OPS[op].reference).parameters)


def written(op: str) -> list[str]:
    return [a.name for a in bare(op)._schema.arguments if a.alias_info is not None and a.alias_info.is_write]


def arguments(op: str, variant: Args, **options) -> Args:
    return CASES[op].args(Make(**options)) | variant


def call(function: Callable, op: str, args: Args) -> dict[str, Tensor]:
    """What `function` writes and returns; everything else that it was given keeps its bits."""
    before = {name: value.clone() for name, value in args.items() if isinstance(value, Tensor)}
    results = outcome(op, args, function(**args))
    assert {name for name, value in before.items() if not same(args[name], value)} <= set(written(op))
    return results


def outcome(op: str, args: Args, returned: Tensor | tuple[Tensor, ...] | None) -> dict[str, Tensor]:
    values = returned if isinstance(returned, tuple) else () if returned is None else (returned,)
    assert len(values) == len(bare(op)._schema.returns)
    results = {name: args[name] for name in written(op) if args.get(name) is not None}
    return results | {f"returned {i}": value for i, value in enumerate(values)}


def same(a: Tensor, b: Tensor) -> bool:
    """Equal to the last bit, and like in shape, dtype and device; any NaN equals any other."""
    if (a.shape, a.dtype, a.device) != (b.shape, b.dtype, b.device):
        return False
    if not a.is_floating_point():
        return torch.equal(a, b)
    bits = BITS[a.element_size()]
    equal = a.contiguous().view(bits) == b.contiguous().view(bits)
    return bool((equal | (a.isnan() & b.isnan())).all())


def assert_agree(op: str, args: Args, found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    case = CASES[op]
    for name, want in expected.items():
        got = found[name].cpu()
        if case.exact(args) or not want.is_floating_point():
            assert same(got, want), name
            continue
        atol = 2 * RTOL[Make(dtype=want.dtype).wide] if case.atol is None else case.atol
        torch.testing.assert_close(
            got, want, rtol=RTOL[want.dtype], atol=atol, equal_nan=True, msg=lambda text, name=name: f"{name}: {text}"
        )


def assert_equals_reference(op: str, variant: Args, **options) -> None:
    args = arguments(op, variant, **options)
    found = call(getattr(ops, op), op, args)
    expected = call(ops.OPS[op].reference, op, arguments(op, variant, **(options | {"device": "cpu"})))
    assert_agree(op, args, found, expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("op", "variant", "layout", "shape", "dtype"), TABLE)
def test_op_equals_its_reference(op, variant, device, dtype, layout, shape):
    assert_equals_reference(op, variant, device=device, dtype=dtype, layout=layout, shape=shape)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("op", "variant", "dtype", "layout"), LARGE_CALLS)
def test_large_calls_equal_the_reference_on_any_number_of_threads_every_time(
    op, variant, device, dtype, layout, threads
):
    options = {"device": device, "dtype": dtype, "layout": layout, "shape": LARGE}
    assert_equals_reference(op, variant, **options)
    results = []
    for count in (1, 2, 2):
        torch.set_num_threads(count)
        results.append(call(getattr(ops, op), op, arguments(op, variant, **options)))
    for name, first in results[0].items():
        assert same(results[1][name], first)
        assert same(results[2][name], first)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("op", "number"), [(op, number) for op in CASES for number in (0, -1)])
def test_long_samples_equal_the_reference(op, number, device):
    assert_equals_reference(op, CASES[op].variants[number], device=device, shape=LONG)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("op", [op for op in CASES if "active" in parameters(op)])
def test_inactive_samples_keep_their_bits(op, device, dtype):
    names = written(op) or ["x"]  # a new tensor is a copy there

    def run(*active: bool) -> tuple[list[Tensor], list[Tensor]]:
        args = arguments(op, {"active": torch.tensor(active, device=device)}, device=device, dtype=dtype)
        for tensor in (args[name] for name in names if args[name].is_floating_point()):
            tensor[0, :3] = torch.tensor([math.nan, -0.0, 1e30], dtype=torch.float64).to(tensor)
        before = [args[name].clone() for name in names]
        results = call(getattr(ops, op), op, args)
        return before, [results[name] for name in written(op)] or [*results.values()]

    (before, none), (_, all_), (_, middle) = run(False, False, False), run(True, True, True), run(False, True, False)
    for i, kept in enumerate(before):
        assert same(none[i], kept)
        assert same(middle[i][[0, 2]], kept[[0, 2]])
        assert same(middle[i][1], all_[i][1])
    assert any(not same(all_[i][0], kept[0]) for i, kept in enumerate(before))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("op", [op for op in CASES if op != "early_stop"])  # whose order is about the batch
def test_a_sample_is_the_same_wherever_it_stands(op, device, dtype):
    options = {"device": device, "dtype": dtype, "shape": (5, 147)}  # rows begin at other multiples of 16 bytes each
    args = arguments(op, CASES[op].variants[0], **options)
    alone = [{name: v[i : i + 1].clone() if isinstance(v, Tensor) else v for name, v in args.items()} for i in range(5)]
    together = call(getattr(ops, op), op, args)
    for i in range(5):
        for name, value in call(getattr(ops, op), op, alone[i]).items():
            assert same(value, together[name][i : i + 1]), name


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("op", [op for op in CASES if written(op)])
def test_writing_through_a_view_leaves_the_gaps(op, device):
    args = arguments(op, {"active": None}, device=device)
    bases = {name: torch.stack((args[name], torch.full_like(args[name], 7)), dim=-1) for name in written(op)}
    getattr(ops, op)(**args | {name: base[..., 0] for name, base in bases.items()})
    getattr(ops, op)(**args)
    for name, base in bases.items():
        assert same(base[..., 0], args[name])
        assert (base[..., 1] == 7).all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_every_16_bit_value(dtype, device):
    """Each in every place, through arithmetic that rounds, overflows and goes subnormal, and through comparisons."""
    every = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype).view(64, 1024)
    other, third = (every.flatten().roll(count).view_as(every) for count in (12345, 23456))
    column = torch.tensor([0.0, 1e-7, 1e-4, 0.3, 3.0, 1e4, 1e30, math.inf]).repeat(8)
    labels = torch.arange(64)
    wide = {"lo": -1e30, "hi": 1e30}
    for op, args in {
        "linf_step": {"x_adv": other, "grad": third, "x": every, "step_size": column.flip(0), "eps": column, **wide},
        "cutoff_scale": {"x_adv": other, "x": every, "norms": torch.full((64,), 3.0), "eps": column, "rho": 1 / 3},
        "bisect_step": {"inner": every, "outer": other, "middle": third, "inside": labels % 3 == 0},
        "random_start": {"x": every, "ids": labels, "eps": column, "seed": 1, **wide},
        "early_stop": {"logits": other, "labels": labels, "tau": labels % 2},
        "wrong_class_target": {"logits": other, "labels": labels, "which": "least_likely"},
    }.items():

        def on(device: str, args: Args = args) -> Args:
            return {k: v.to(device, copy=True) if isinstance(v, Tensor) else v for k, v in args.items()}

        expected = call(ops.OPS[op].reference, op, on("cpu"))
        assert_agree(op, args, call(getattr(ops, op), op, on(device)), expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("op", "budget"),
    [(op, name) for op in CASES for name in parameters(op) if name in ("step_size", "eps", "norms", "offset")],
)
def test_a_nan_budget_means_what_the_reference_says(op, budget, device):
    for variant in CASES[op].variants:
        if variant.get(budget, 0) is None:
            continue
        nan = torch.full((3,), math.nan)
        args = arguments(op, variant | {budget: nan.to(device)}, device=device)
        found = call(getattr(ops, op), op, args)
        assert_agree(op, args, found, call(ops.OPS[op].reference, op, arguments(op, variant | {budget: nan})))


# ------------------------------------------------------------------------------------------------- what torch expects


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("op", CASES)
def test_opcheck(op, device):
    for shape, layout in (((3, 5), "contiguous"), ((2, 3, 4, 4), "channels_last and contiguous")):
        torch.library.opcheck(
            bare(op), (), arguments(op, CASES[op].variants[0], device=device, shape=shape, layout=layout)
        )


@pytest.mark.parametrize(
    ("layout", "dtype"),
    [
        pytest.param(layout, dtype, marks=[pytest.mark.thorough] if (n + k) % 4 else [])
        for n, layout in enumerate(LAYOUTS)
        for k, dtype in enumerate(DTYPES)
    ],
)
@pytest.mark.parametrize("op", CASES)
def test_fakes_foretell_shape_dtype_and_strides(op, dtype, layout):
    def on(place: Callable[[Tensor], Tensor]) -> list[Tensor]:
        placed = {k: place(v) if isinstance(v, Tensor) else v for k, v in args.items()}
        return [*outcome(op, placed, getattr(ops, op)(**placed)).values()]

    first, *others = CASES[op].variants
    places = [((0, 3), first), ((5,), first), *(((2, 3, 4, 4), variant) for variant in (first, *others))]
    for shape, variant in places:
        args = arguments(op, variant, shape=shape, dtype=dtype, layout=layout)
        with FakeTensorMode() as mode:
            fakes = on(mode.from_tensor)
        for real, meta, fake in zip(on(lambda t: t), on(lambda t: t.to("meta")), fakes, strict=True):
            assert (meta.shape, meta.dtype, meta.device.type) == (real.shape, real.dtype, "meta")
            assert (fake.shape, fake.dtype, fake.device) == (real.shape, real.dtype, real.device)
            assert fake.stride() == real.stride() or not real.numel()


@pytest.mark.thorough
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("op", CASES)
def test_compile_keeps_the_call_whole_and_the_mutation(op, device):
    torch.compiler.reset()
    function = getattr(ops, op)
    compiled = torch.compile(lambda args: function(**args), fullgraph=True, backend="aot_eager")
    for shape in ((3, 129), (4, 17)):
        options = {"device": device, "shape": shape}
        found = call(lambda **args: compiled(args), op, arguments(op, CASES[op].variants[0], **options))
        expected = call(function, op, arguments(op, CASES[op].variants[0], **options))
        assert found.keys() == expected.keys()
        assert all(same(found[name], value) for name, value in expected.items())


class Ascent(torch.nn.Module):
    """Ops in a row: an attack's whole loop body."""

    def forward(self, x: Tensor, grad: Tensor, ids: Tensor) -> tuple[Tensor, ...]:
        x_adv = ops.random_start(x, ids, 0.1, seed=3)
        momentum = torch.zeros_like(x)
        ops.linf_step(x_adv, grad, x, 0.05, torch.full_like(x[:, 0], 0.2), momentum=momentum)
        ops.l2_step(x_adv, -grad, x, 0.1, 0.5, active=ids != 2)
        ops.cutoff_scale(x_adv, x, ops.row_norms(x_adv, "l2", x))
        tau = torch.ones_like(ids)
        predictions, active, order, _ = ops.early_stop(x_adv, ids, tau)
        return x_adv, momentum, tau, predictions, active, order, ops.row_norms(x_adv, "l2", x)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("how", ["compile", "export"])
def test_ops_in_a_row_are_one_graph(how, device):
    args = (torch.rand(5, 7, device=device), torch.randn(5, 7, device=device), torch.arange(5, device=device))
    expected = Ascent()(*args)
    if how == "compile":
        graph = torch.compile(Ascent(), fullgraph=True, backend="aot_eager")
    else:
        program = torch.export.export(Ascent(), args)
        called = [node.target for node in program.graph.nodes if "fastadv" in str(node.target)]
        assert len(called) == 7
        graph = program.module()
    assert all(same(a, b) for a, b in zip(graph(*args), expected, strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: no graphs to capture")
@pytest.mark.parametrize(("op", "variant"), CALLS)
def test_a_captured_call_replays_on_new_values(op, variant):
    def fresh(seed: int) -> Args:
        return arguments(op, variant, device="cuda", seed=seed)

    function, args, graph = getattr(ops, op), fresh(0), torch.cuda.CUDAGraph()
    function(**fresh(0))  # loads the kernel
    with torch.cuda.graph(graph):
        returned = function(**args)
    for seed in (1, 2):
        for name, value in fresh(seed).items():
            if isinstance(value, Tensor):
                args[name].copy_(value)
        graph.replay()
        expected = call(function, op, fresh(seed))
        assert all(same(value, expected[name]) for name, value in outcome(op, args, returned).items())


@pytest.mark.parametrize(("op", "name"), [(op, name) for op in CASES for name in written(op)])
def test_autograd_notices_a_tensor_overwritten_before_backward(op, name):
    args = arguments(op, {})
    loss = (torch.ones(args[name].shape, requires_grad=True) * args[name]).sum()
    with torch.no_grad():
        getattr(ops, op)(**args)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


# -------------------------------------------------------------------------------------------------- table and sources


def test_every_op_has_a_case_that_gives_it_every_argument():
    assert set(CASES) == set(ops.OPS)
    for op, case in CASES.items():
        assert {name for variant in case.variants for name in arguments(op, variant)} == set(parameters(op))


@pytest.mark.parametrize("op", ops.OPS)
def test_no_op_runs_the_reference_in_silence(op):
    for device, reason in ops.MISSING.items():
        assert ops.backend(op, device) == ("compiled" if reason is None else f"reference: {reason}")


@pytest.mark.parametrize("name", ops.PASSES)
def test_no_pass_is_pytorchs_in_silence(name):
    reason = ops.MISSING["cpu"]
    assert ops.backend(name) == ("compiled" if reason is None else f"PyTorch: {reason}")
    assert ops.backend(name, "cuda") == "PyTorch: there are CPU kernels only"


def test_backend_knows_what_it_is_asked():
    for question in (("nope", "cpu"), ("linf_step", "tpu")):
        with pytest.raises(KeyError):
            ops.backend(*question)


def test_sources_and_schemas_name_the_same_ops():
    registered = re.findall(r'm\.impl\("(\w+)"', (CSRC / "glue.h").read_text())
    headers = [path.stem for path in (CSRC / "ops").glob("*.h") if path.stem not in ("all", "rows", "values")]
    included = re.findall(r'#include "(\w+)\.h"', (CSRC / "ops" / "all.h").read_text())
    for names in (registered, headers, included):
        assert sorted(names) == sorted(ops.OPS)


# ---------------------------------------------------------------------------------------------------------- arguments


REFUSED = [
    ("linf_step", {"x_adv": torch.ones(3, 4, dtype=torch.int64)}, TypeError, r"x_adv .*torch\.int64"),
    ("linf_step", {"x_adv": torch.tensor(1.0)}, ValueError, "x_adv .*scalar"),
    ("linf_step", {"grad": torch.ones(3, 5)}, ValueError, r"grad .*\(3, 4\).*\(3, 5\)"),
    ("linf_step", {"x": torch.ones(3, 4, dtype=torch.float64)}, ValueError, r"x must .*torch\.float64"),
    ("linf_step", {"grad": torch.ones(3, 4, device="meta")}, ValueError, "grad .*cpu.*meta"),
    ("linf_step", {"eps": torch.ones(2)}, ValueError, r"eps .*\(3,\).*\(2,\)"),
    ("linf_step", {"step_size": torch.ones(3, 1)}, ValueError, r"step_size .*\(3, 1\)"),
    ("linf_step", {"active": torch.ones(3)}, ValueError, r"active .*torch\.bool.*torch\.float32"),
    ("linf_step", {"active": torch.ones(2, dtype=torch.bool)}, ValueError, r"active .*\(3,\).*\(2,\)"),
    ("linf_step", {"active": torch.ones(3, dtype=torch.bool, device="meta")}, ValueError, "active .*cpu.*meta"),
    ("linf_step", {"x_adv": torch.ones(3, 4, requires_grad=True)}, RuntimeError, "no gradient.*x_adv"),
    ("linf_step", {"grad": torch.ones(3, 4, requires_grad=True)}, RuntimeError, "no gradient.*grad"),
    ("linf_step", {"momentum": torch.ones(3, 5)}, ValueError, r"momentum .*\(3, 4\).*\(3, 5\)"),
    ("l2_step", {"grad": torch.ones(4, 4)}, ValueError, r"grad .*\(3, 4\).*\(4, 4\)"),
    ("l1_step", {"eps": torch.ones(4)}, ValueError, r"eps .*\(3,\).*\(4,\)"),
    *(("topp_step", {"p": p}, ValueError, f"p must .*{p}") for p in (0.0, -0.5, 1.5, math.nan)),
    ("topp_step", {"normalise": "none"}, ValueError, "normalise .*all, kept.*'none'"),
    ("topp_step", {"projection": "l1"}, ValueError, "projection .*radial, simplex.*'l1'"),
    ("row_norms", {"norm": "l3"}, ValueError, "norm .*l1, l2, linf, rms.*'l3'"),
    ("row_norms", {"origin": torch.ones(4)}, ValueError, r"origin .*\(4,\)"),
    ("cutoff_scale", {"x": torch.ones(3, 4, dtype=torch.float16)}, ValueError, r"x must .*torch\.float16"),
    ("cutoff_scale", {"norms": torch.ones(4)}, ValueError, r"norms .*\(4,\)"),
    ("early_stop", {"logits": torch.ones(3)}, ValueError, r"logits .*1 class,.*\(3,\)"),
    ("early_stop", {"logits": torch.ones(3, 0)}, ValueError, r"logits .*1 class,.*\(3, 0\)"),
    ("early_stop", {"labels": torch.zeros(3)}, ValueError, r"labels .*torch\.int64.*torch\.float32"),
    ("early_stop", {"tau": torch.zeros(3, dtype=torch.int32)}, ValueError, r"tau .*torch\.int64.*torch\.int32"),
    ("deepfool_step", {"delta": torch.ones(3, 4, dtype=torch.float64)}, ValueError, r"delta .*torch\.float64"),
    ("deepfool_step", {"delta": torch.ones(3, 4, requires_grad=True)}, RuntimeError, "no gradient.*delta"),
    ("deepfool_step", {"logits": torch.ones(3, 3, requires_grad=True)}, RuntimeError, "no gradient.*logits"),
    ("deepfool_step", {"logits": torch.ones(3)}, ValueError, r"logits .*\[3, classes\].*\(3,\)"),
    ("deepfool_step", {"logits": torch.ones(3, 1)}, ValueError, r"logits .*\(3, 1\)"),
    ("deepfool_step", {"logits": torch.ones(2, 3)}, ValueError, r"logits .*\(2, 3\)"),
    ("deepfool_step", {"grads": torch.ones(3, 2, 4)}, ValueError, r"grads .*\(3, 3, 4\).*\(3, 2, 4\)"),
    ("deepfool_step", {"norm": "l1"}, ValueError, "norm .*l2, linf.*'l1'"),
    ("bisect_step", {"outer": torch.ones(3, 5)}, ValueError, r"outer .*\(3, 5\)"),
    ("bisect_step", {"inside": torch.ones(3)}, ValueError, r"inside .*torch\.bool.*torch\.float32"),
    ("random_start", {"law": "normal"}, ValueError, "law .*uniform, sign.*'normal'"),
    ("random_start", {"ids": torch.ones(3, dtype=torch.int32)}, ValueError, r"ids .*torch\.int64.*torch\.int32"),
    ("random_start", {"ids": torch.arange(4)}, ValueError, r"ids .*\(3,\).*\(4,\)"),
    ("random_start", {"ids": torch.arange(3, device="meta")}, ValueError, "ids .*cpu.*meta"),
    ("adversarial_labels", {"logits": torch.ones(3, 1)}, ValueError, r"logits .*2 classes.*\(3, 1\)"),
    ("adversarial_labels", {"variant": "code"}, ValueError, "variant .*main, sup.*'code'"),
    *(("adversarial_labels", {"beta": beta}, ValueError, "beta .*positive") for beta in (0.0, math.inf, math.nan)),
    *(("adversarial_labels", {"gamma": gamma}, ValueError, "gamma .*at least 0") for gamma in (-0.1, math.nan)),
    ("adversarial_labels", {"top_k": -1}, ValueError, "top_k .*at least 0"),
    ("wrong_class_target", {"logits": torch.ones(3, 4, 2)}, ValueError, r"logits .*2 classes.*\(3, 4, 2\)"),
    ("wrong_class_target", {"labels": torch.zeros(4, dtype=torch.int64)}, ValueError, r"labels .*\(3,\).*\(4,\)"),
    ("wrong_class_target", {"which": "random"}, ValueError, "which .*most_confusing, least_likely.*'random'"),
    ("hyperplane_projection", {"normal": torch.ones(3, 5)}, ValueError, r"normal .*\(3, 5\)"),
    ("hyperplane_projection", {"offset": torch.ones(3, 1)}, ValueError, r"offset .*\(3, 1\)"),
    ("hyperplane_projection", {"norm": "rms"}, ValueError, "norm .*linf, l2, l1.*'rms'"),
]


@pytest.mark.parametrize(("op", "change", "error", "message"), REFUSED)
def test_ops_refuse_and_say_why(op, change, error, message):
    args = arguments(op, CASES[op].variants[0], shape=(3, 4))
    with pytest.raises(error, match=f"^{op}.*{message}"):
        getattr(ops, op)(**args | change)


def by_position(op: str) -> list[Any]:
    defaults = inspect.signature(ops.OPS[op].reference).parameters
    args = arguments(op, CASES[op].variants[0])
    return [args.get(name, parameter.default) for name, parameter in defaults.items()]


@pytest.mark.parametrize("op", CASES)
def test_arguments_by_position_are_those_by_name(op):
    args = by_position(op)
    found = outcome(op, dict(zip(parameters(op), args, strict=True)), getattr(ops, op)(*args))
    expected = call(getattr(ops, op), op, arguments(op, CASES[op].variants[0]))
    assert all(same(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize(
    "misuse",
    [
        pytest.param(lambda op, args: op(*args, None), id="surplus"),
        pytest.param(lambda op, args: op(), id="none"),
        pytest.param(lambda op, args: op(args[0]), id="missing"),
        pytest.param(lambda op, args: op(*args, **{parameters(op.name)[-1]: args[-1]}), id="twice"),
        pytest.param(lambda op, args: op(*args[:-1], nope=1), id="unknown"),
    ],
)
@pytest.mark.parametrize("op", CASES)
def test_misfit_arguments_are_errors(op, misuse):
    with pytest.raises(TypeError, match=op):
        misuse(ops.OPS[op], by_position(op))


def test_tensors_with_a_gradient_pass_where_grad_mode_is_off():
    x = torch.rand(3, 4, requires_grad=True)
    with torch.no_grad():
        ops.linf_step(x, torch.ones(3, 4), x.detach(), 0.1, 0.1)
        assert not ops.row_norms(x, "l2").requires_grad


UNLIKE = [torch.ones(3, 5), torch.ones(3), torch.ones(1, 4), torch.tensor(1.0), torch.ones(3, 4, dtype=torch.float64)]
NOT_ONE_EACH = [torch.ones(2), torch.ones(3, 1), torch.tensor(1.0), torch.ones(3, dtype=torch.float64)]
ONE_INTEGER_EACH = [torch.arange(2), torch.ones(3, 1, dtype=torch.int64), torch.ones(3, dtype=torch.int32)]
ONE_BOOL_EACH = [torch.ones(2, dtype=torch.bool), torch.ones(3, dtype=torch.uint8)]
NO_TABLE = [torch.ones(3), torch.ones(2, 3), torch.ones(3, 4), torch.ones(3, 3, dtype=torch.float64)]
NO_STACK = [torch.ones(3, 4), torch.ones(2, 3, 4), torch.ones(3, 2, 4), torch.ones(3, 3, 5)]
WRONG = {
    **dict.fromkeys(("grad", "x", "origin", "momentum", "delta", "outer", "middle", "normal"), UNLIKE),
    **dict.fromkeys(("step_size", "eps", "norms", "offset"), NOT_ONE_EACH),
    **dict.fromkeys(("ids", "labels", "tau"), ONE_INTEGER_EACH),
    **dict.fromkeys(("active", "inside"), ONE_BOOL_EACH),
    **dict.fromkeys(("law", "norm", "normalise", "projection", "variant", "which"), ("l3",)),
    "logits": NO_TABLE,
    "grads": [*NO_STACK, torch.ones(3, 3, 4, dtype=torch.float64)],
    "p": [0.0, 1.5, math.nan],
}


@compiled_only
@pytest.mark.parametrize("op", CASES)
def test_bare_ops_refuse_what_they_would_misread(op):
    first, *others = parameters(op)
    wrong = [(name, value) for name in others for value in WRONG.get(name, ())]
    wrong += [(first, torch.tensor(1.0)), (first, torch.ones(3, 4, dtype=torch.int32))]
    if first == "logits":
        wrong += [(first, torch.ones(3)), (first, torch.ones(3, 0)), (first, torch.ones(3, 4, 2))]
    for name, value in wrong:
        args = arguments(op, CASES[op].variants[0], shape=(3, 4)) | {name: value}
        with pytest.raises(RuntimeError, match=f"{op}: "):
            bare(op)(**args)


@pytest.mark.parametrize("device", DEVICES)
def test_budgets_are_numbers_or_tensors_of_any_type(device):
    def step(eps: float | Tensor) -> Tensor:
        x_adv, grad, x = (
            value.to(device) for value in (torch.full((3, 4), 0.5), torch.ones(3, 4), torch.full((3, 4), 0.5))
        )
        ops.linf_step(x_adv, grad, x, 1.0, eps)
        return x_adv

    expected = step(0.25)
    assert (expected == 0.75).all()
    for eps in (torch.tensor(0.25), torch.tensor([0.25]), torch.full((3,), 0.25, dtype=torch.float64)):
        assert same(step(eps), expected)
    assert step(torch.tensor([0, 1, 1]))[:, 0].tolist() == [0.5, 1, 1]
