"""The table of ops: the `CASE` of every test_<op>.py, and a call beside its reference."""

import inspect
from collections.abc import Callable
from importlib import import_module

import torch
from torch import Tensor

from fastadv import ops

from .cases import RTOL, Args, Case, Make, same

CASES: dict[str, Case] = {op: import_module(f".test_{op}", __package__).CASE for op in ops.OPS}


def bare(op: str) -> Callable:
    return getattr(torch.ops.fastadv, op).default


def parameters(op: str) -> list[str]:
    return list(inspect.signature(ops.OPS[op].reference).parameters)


def written(op: str) -> list[str]:
    return [a.name for a in bare(op)._schema.arguments if a.alias_info is not None and a.alias_info.is_write]


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
    args = CASES[op].arguments(variant, **options)
    found = call(getattr(ops, op), op, args)
    expected = call(ops.OPS[op].reference, op, CASES[op].arguments(variant, **(options | {"device": "cpu"})))
    assert_agree(op, args, found, expected)
