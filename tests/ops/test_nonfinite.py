"""The flag `nonfinite` of the steps: where it is set, and that nobody clears it."""

import itertools
import math

import pytest
import torch

from fastadv import ops

from .cases import DEVICES, DTYPES, same
from .table import CASES, call, parameters

pytestmark = pytest.mark.numerics

GRADIENTS = {"deepfool_step": "grads", "fab_step": "normal"}
STEPS = [op for op in CASES if "nonfinite" in parameters(op) and op != "loss_gradient"]
CALLS = [pytest.param(op, variant, id=f"{op}{i or ''}") for op in STEPS for i, variant in enumerate(CASES[op].variants)]
LENGTH = 4099  # more than a CUDA block takes of a row, and more than a thread


def test_every_step_has_the_flag():
    assert set(STEPS) == {op for op in ops.OPS if op.endswith("_step")} - {"bisect_step"}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("op", "variant"), CALLS)
def test_the_flag_is_set_exactly_where_an_active_gradient_is_not_finite(op, variant, dtype, device):
    name = GRADIENTS.get(op, "grad")
    masked = {} if variant.get("active", True) is None else {"active": torch.arange(8, device=device) != 2}
    broken_by = ((math.nan, 0), (math.inf, LENGTH // 2), (-math.inf, -1))
    for function, (value, place) in itertools.product((getattr(ops, op), ops.OPS[op].reference), broken_by):
        args = CASES[op].arguments(variant | masked, shape=(8, LENGTH), dtype=dtype, device=device)
        args[name] = args[name].nan_to_num(0.5, 0.5, 0.5).contiguous()
        args[name][5] = args[name][5].sign() * torch.finfo(dtype).max  # finite, though no norm of it is
        args["nonfinite"] = torch.arange(8, device=device) > 5
        if op == "fab_step":
            args["lead"] = args["lead"].nan_to_num(0.5)
        expected, broken = args["nonfinite"].tolist(), args[name].flatten(1)
        broken[1, place] = broken[2, place] = broken[6, place] = value
        expected[1], expected[2] = True, not masked
        call(function, op, args)
        assert args["nonfinite"].tolist() == expected, (function, value, place)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("op", "variant"), CALLS)
def test_what_a_step_does_is_the_same_without_the_flag(op, variant, device):
    def results(**changes):
        args = CASES[op].arguments(variant | changes, shape=(7, 131), device=device)
        return call(getattr(ops, op), op, args)

    without, flagged = results(nonfinite=None), results(nonfinite=torch.zeros(7, dtype=torch.bool, device=device))
    assert "nonfinite" not in without
    assert flagged.pop("nonfinite").any()
    assert all(same(value, without[name]) for name, value in flagged.items())
