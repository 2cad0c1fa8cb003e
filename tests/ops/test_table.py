"""fastadv.ops: every op against its reference over one table of cases, and what torch expects of an op.

The references, run on the CPU, define the bits of the elementwise ops on every device.
"""

import inspect
import itertools
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from fastadv import ops

from .cases import DEVICES, DTYPES, LAYOUTS, Args, same
from .table import CASES, assert_agree, assert_equals_reference, bare, call, outcome, parameters, written

pytestmark = pytest.mark.numerics
CSRC = Path(__file__).parents[2] / "csrc"
SHAPES = [(0,), (0, 3), (3, 0), (5,), (3, 129), (129, 3), (2, 3, 5, 4), (1, 3, 4, 4), (2, 2, 3, 2, 3)]
LARGE = (33, 3, 41, 43)  # 5 times what a thread takes at least
LONG = (2, 3, 151, 149)  # more than a CUDA block can hold of a row
compiled_only = pytest.mark.skipif(bool(ops.MISSING["cpu"]), reason=f"no compiled kernels: {ops.MISSING['cpu']}")


# -------------------------------------------------------------------------------------------------------- the table


NUMBERED = [(i, op, variant) for op, case in CASES.items() for i, variant in enumerate(case.variants)]
CALLS = [pytest.param(op, variant, id=f"{op}{i or ''}") for i, op, variant in NUMBERED]
# The first variant of each op in every place and type, the others in a share of them: together again in all.
PLACES = [(layout, shape) for layout in LAYOUTS for shape in SHAPES if "channels_last" not in layout or len(shape) > 2]
# `make test` takes float32 everywhere and each other type in a quarter of the places.
TABLE = [
    pytest.param(op, variant, dtype, places, id=f"{op}{i or ''}-{dtype}-{len(places)}", marks=marks)
    for i, op, variant in NUMBERED
    for k, dtype in enumerate(DTYPES)
    for quick, marks in ((True, []), (False, [pytest.mark.thorough]))
    if (places := [p for n, p in enumerate(PLACES[i::5] if i else PLACES) if (not k or (n + k) % 4 == 0) == quick])
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


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("op", "variant", "dtype", "places"), TABLE)
def test_op_equals_its_reference(op, variant, device, dtype, places):
    for layout, shape in places:  # not a test each: that would take longer than the calls
        try:
            assert_equals_reference(op, variant, device=device, dtype=dtype, layout=layout, shape=shape)
        except Exception as error:
            raise AssertionError(f"{layout}, {shape}: {error}") from error


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
        results.append(call(getattr(ops, op), op, CASES[op].arguments(variant, **options)))
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
    kept = {"previous": "x_adv"} if op == "apgd_step" else {}  # which trade places

    def run(*active: bool) -> tuple[list[Tensor], list[Tensor]]:
        args = CASES[op].arguments({"active": torch.tensor(active, device=device)}, device=device, dtype=dtype)
        before = [args[kept.get(name, name)] for name in names]
        for tensor in before:
            if tensor.is_floating_point() and tensor.dim() > 1:
                tensor[0, :3] = torch.tensor([math.nan, -0.0, 1e30], dtype=torch.float64).to(tensor)
        before = [tensor.clone() for tensor in before]
        results = call(getattr(ops, op), op, args)
        return before, [results[name] for name in written(op)] or [*results.values()]

    (before, none), (_, all_), (_, middle) = run(False, False, False), run(True, True, True), run(False, True, False)
    for i, expected in enumerate(before):
        assert same(none[i], expected)
        assert same(middle[i][[0, 2]], expected[[0, 2]])
        assert same(middle[i][1], all_[i][1])
    assert any(not same(all_[i][0], expected[0]) for i, expected in enumerate(before))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("op", [op for op in CASES if op != "early_stop"])  # whose order is about the batch
def test_a_sample_is_the_same_wherever_it_stands(op, device, dtype):
    options = {"device": device, "dtype": dtype, "shape": (5, 147)}  # rows begin at other multiples of 16 bytes each
    args = CASES[op].arguments(CASES[op].variants[0], **options)
    alone = [{name: v[i : i + 1].clone() if isinstance(v, Tensor) else v for name, v in args.items()} for i in range(5)]
    together = call(getattr(ops, op), op, args)
    for i in range(5):
        for name, value in call(getattr(ops, op), op, alone[i]).items():
            assert same(value, together[name][i : i + 1]), name


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("op", [op for op in CASES if written(op)])
def test_writing_through_a_view_leaves_the_gaps(op, device):
    args = CASES[op].arguments({"active": None}, device=device)
    gaps = {name: torch.full_like(args[name], 7) for name in written(op)}
    bases = {name: torch.stack((args[name], gap), dim=-1) for name, gap in gaps.items()}
    getattr(ops, op)(**args | {name: base[..., 0] for name, base in bases.items()})
    getattr(ops, op)(**args)
    for name, base in bases.items():
        assert same(base[..., 0], args[name])
        assert same(base[..., 1], gaps[name])


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
        "predictions": {"logits": other},
        "apgd_step": {
            "previous": other,
            "x_adv": every.roll(7),
            "grad": third,
            "x": every,
            "step_size": column.flip(0),
            "eps": column,
            **wide,
        },
    }.items():

        def on(device: str, args: Args = args) -> Args:
            return {k: v.to(device, copy=True) if isinstance(v, Tensor) else v for k, v in args.items()}

        expected = call(ops.OPS[op].reference, op, on("cpu"))
        assert_agree(op, args, call(getattr(ops, op), op, on(device)), expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("op", "variant"),
    [call for call in CALLS if call.values[0] in ("early_stop", "loss_gradient", "predictions", "wrong_class_target")],
)
def test_any_logits(op, variant, device):
    rows = torch.tensor([*itertools.product([-math.inf, -1.0, 0.0, 2.0, math.inf, math.nan], repeat=4)])

    def args(device: str) -> Args:
        made = CASES[op].arguments(variant, shape=rows.shape, device=device) | {"logits": rows.to(device)}
        return made | ({"natural": rows.roll(77, 0).to(device)} if isinstance(made.get("natural"), Tensor) else {})

    here = args(device)
    assert_agree(op, here, call(getattr(ops, op), op, here), call(ops.OPS[op].reference, op, args("cpu")))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("op", "budget"),
    [(op, name) for op in CASES for name in ops.OPS[op]._budgets],
)
def test_a_nan_budget_means_what_the_reference_says(op, budget, device):
    for variant in CASES[op].variants:
        if variant.get(budget, 0) is None:
            continue
        nan = torch.full((3,), math.nan)
        args = CASES[op].arguments(variant | {budget: nan.to(device)}, device=device)
        found = call(getattr(ops, op), op, args)
        assert_agree(op, args, found, call(ops.OPS[op].reference, op, CASES[op].arguments(variant | {budget: nan})))


# ------------------------------------------------------------------------------------------------- what torch expects


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("op", CASES)
def test_opcheck(op, device):
    for shape, layout in (((3, 5), "contiguous"), ((2, 3, 4, 4), "channels_last and contiguous")):
        torch.library.opcheck(
            bare(op), (), CASES[op].arguments(CASES[op].variants[0], device=device, shape=shape, layout=layout)
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
        args = CASES[op].arguments(variant, shape=shape, dtype=dtype, layout=layout)
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
        found = call(lambda **args: compiled(args), op, CASES[op].arguments(CASES[op].variants[0], **options))
        expected = call(function, op, CASES[op].arguments(CASES[op].variants[0], **options))
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
        return CASES[op].arguments(variant, device="cuda", seed=seed)

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
    args = CASES[op].arguments({})
    loss = (torch.ones(args[name].shape, requires_grad=True) * args[name]).sum()
    with torch.no_grad():
        getattr(ops, op)(**args)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


# -------------------------------------------------------------------------------------------------- table and sources


def test_every_case_gives_its_op_every_argument():
    for op, case in CASES.items():
        assert {name for variant in case.variants for name in CASES[op].arguments(variant)} == set(parameters(op))


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
    included = re.findall(r'#include "(\w+)\.h"', (CSRC / "ops" / "all.h").read_text())
    assert sorted(registered) == sorted(included) == sorted(ops.OPS)


SIGNATURES = Path(__file__).parents[1] / "signatures.txt"
"""Of every op: its arguments in order, with their defaults, as callers rely on them. A line changes with a version."""


def signature(op: str) -> str:
    parameters = inspect.signature(ops.OPS[op].reference).parameters.values()
    told = (p.name if p.default is p.empty else f"{p.name}={p.default!r}" for p in parameters)
    return f"{op}({', '.join(told)})"


def test_callers_of_ops_find_what_they_know():
    """Names, order and defaults stay; new arguments come last and have defaults. Add a line for a new op."""
    known = dict(line.rstrip(")").split("(", 1) for line in SIGNATURES.read_text().splitlines())
    assert known.keys() == ops.OPS.keys()
    for op, arguments in known.items():
        now = signature(op).rstrip(")").split("(", 1)[1]
        assert now.startswith(arguments), op
        assert all("=" in new for new in filter(None, now.removeprefix(arguments).split(", "))), op


# ---------------------------------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("op", "change", "error", "message"), [(op, *refused) for op, case in CASES.items() for refused in case.refused]
)
def test_ops_refuse_and_say_why(op, change, error, message):
    args = CASES[op].arguments(CASES[op].variants[0], shape=(3, 4))
    with pytest.raises(error, match=f"^{op}.*{message}"):
        getattr(ops, op)(**args | change)


def by_position(op: str) -> list[Any]:
    defaults = inspect.signature(ops.OPS[op].reference).parameters
    args = CASES[op].arguments(CASES[op].variants[0])
    return [args.get(name, parameter.default) for name, parameter in defaults.items()]


@pytest.mark.parametrize("op", CASES)
def test_arguments_by_position_are_those_by_name(op):
    args = by_position(op)
    found = outcome(op, dict(zip(parameters(op), args, strict=True)), getattr(ops, op)(*args))
    expected = call(getattr(ops, op), op, CASES[op].arguments(CASES[op].variants[0]))
    assert all(same(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize(
    "misuse",
    [
        pytest.param(lambda op, args: op(*args, None), id="surplus"),
        pytest.param(lambda op, args: op(), id="none"),
        pytest.param(lambda op, args: op(*args[: len(op._required) - 1]), id="missing"),
        pytest.param(lambda op, args: op(*args, **{parameters(op.name)[-1]: args[-1]}), id="twice"),
        pytest.param(lambda op, args: op(*args[:-1], nope=1), id="unknown"),
    ],
)
@pytest.mark.parametrize("op", CASES)
def test_misfit_arguments_are_errors(op, misuse):
    with pytest.raises(TypeError, match=op):
        misuse(ops.OPS[op], by_position(op))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("op", CASES)
def test_in_a_loop_the_first_call_is_checked_and_all_do_the_same(op, device, monkeypatch):
    checked, check = [], ops.Op.__call__
    monkeypatch.setattr(ops.Op, "__call__", lambda self, *a, **k: checked.append(self.name) or check(self, *a, **k))
    by_name, by_place = ops.OPS[op].in_loop(), ops.OPS[op].in_loop()
    defaults = {name: p.default for name, p in inspect.signature(ops.OPS[op].reference).parameters.items()}
    for seed in range(3):
        results = []
        for function in (bare(op), by_name, lambda **args: by_place(*(defaults | args).values())):
            results.append(call(function, op, CASES[op].arguments(CASES[op].variants[0], seed=seed, device=device)))
        expected, *found = results
        assert all(same(one[name], value) for one in found for name, value in expected.items())
    assert checked == [op, op]


def test_in_a_loop_the_first_call_that_passes_the_checks_is_the_last_that_is_checked():
    x, grad = torch.full((3, 4), 0.5), torch.ones(3, 4)
    x_adv, step, size = x.clone(), ops.linf_step.in_loop(), torch.full((3,), 0.125)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"linf_step: eps .*\(2,\)"):
            step(x_adv, grad, x, 0.125, torch.ones(2))
    step(x_adv, grad, x, 0.125, eps=0.5)
    assert (x_adv == 0.625).all()
    with pytest.raises(RuntimeError, match="Expected a value of type 'Tensor' for argument 'eps'"):
        step(x_adv, grad, x, size, eps=0.5)
    step(x_adv, grad, x, size, eps=4 * size)
    assert (x_adv == 0.75).all()


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
    **dict.fromkeys(("x_adv", "mean", "square", "slope", "natural"), UNLIKE),
    **dict.fromkeys(("step_size", "eps", "norms", "offset", "sign", "weight", "rate", "lead", "size"), NOT_ONE_EACH),
    **dict.fromkeys(("ids", "labels", "tau", "goal"), ONE_INTEGER_EACH),
    **dict.fromkeys(("active", "inside", "nonfinite", "fooled"), ONE_BOOL_EACH),
    **dict.fromkeys(("law", "norm", "normalise", "projection", "variant", "which"), ("l3",)),
    "loss": (*NOT_ONE_EACH, "l3"),
    "count": [0, -1],
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
        args = CASES[op].arguments(CASES[op].variants[0], shape=(3, 4))
        if {type(args.get(name)), type(value)} == {Tensor, str}:
            continue  # one op's tensor is another's string
        args[name] = value
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
