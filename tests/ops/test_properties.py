"""fastadv.ops: any call that hypothesis thinks of against the reference, over the cases of all."""

import inspect
import math
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastadv import ops

from .cases import DEVICES, DTYPES, LAYOUTS, Args, Make
from .table import CASES, assert_agree, call, parameters

TAILS = [(), (0,), (1,), (2,), (3,), (129,), (513,), (3, 5), (3, 5, 4), (1, 4, 4), (2, 3, 2, 3), (3, 41, 43), (20_011,)]
NUMBERS: dict[str, st.SearchStrategy] = {
    "lo": st.floats(-1, 0.4),
    "hi": st.floats(0.6, 2),
    "decay": st.floats(0, 1),
    "p": st.floats(0, 1, exclude_min=True) | st.builds(lambda k, n: min(k, n) / n, *[st.integers(1, 129)] * 2),
    "rho": st.floats(0, 2),
    "overshoot": st.floats(0, 0.5),
    "seed": st.integers(-(2**63), 2**63 - 1),
    "restart": st.integers(0, 2**32 - 1),
    "beta": st.floats(0.1, 100),
    "gamma": st.floats(0, 1),
    "top_k": st.integers(0, 140),
    "kappa": st.floats(0, 50),
    "kl_weight": st.floats(0, 2),
    "smoothing": st.floats(0, 1, exclude_max=True),
    "share": st.floats(0, 1),
    "count": st.integers(1, 1000),
    "mean_decay": st.floats(0, 0.999),
    "square_decay": st.floats(0, 0.999),
    "tiny": st.floats(1e-8, 1e-3),
    "alpha_max": st.floats(0, 1),
    "eta": st.floats(1, 1.5),
}
MASKS = ["all", "none", "some"]


class Drawn(Make):
    """Every sample takes its budgets and its mask by chance, and odd values lie anywhere."""

    def turns(self, count: int) -> Tensor:
        return torch.randint(count, self.shape[:1], generator=self.generator)

    def season(self, values: Tensor, salt: Tensor) -> None:
        if len(values) and len(salt):
            places = torch.randint(len(values), (len(values) // 20 + 2,), generator=self.generator)
            values[places] = salt[torch.randint(len(salt), places.shape, generator=self.generator)]


def optional(op: str) -> list[str]:
    """Arguments that may be left out."""
    return [name for name, p in inspect.signature(ops.OPS[op].reference).parameters.items() if p.default is None]


@st.composite
def calls(draw: st.DrawFn, op: str) -> tuple[dict[str, Any], Args, str]:
    """How to make the arguments, what to change in them, and who is active."""
    samples = draw(st.sampled_from([0, 1, 2, 3, 17, 129]))
    tails = [tail for tail in TAILS if samples * math.prod(tail) <= 50_000]
    options = {
        "shape": (samples, *draw(st.sampled_from(tails))),
        "dtype": draw(st.sampled_from(DTYPES)),
        "layout": draw(st.sampled_from(list(LAYOUTS))),
        "seed": draw(st.integers(0, 2**32)),
    }
    changes = {name: draw(NUMBERS[name]) for name in parameters(op) if name in NUMBERS}
    changes |= {name: draw(st.sampled_from(names)) for name, names in ops.OPS[op]._choices.items()}
    changes |= {name: None for name in optional(op) if draw(st.booleans())}
    return options, changes, draw(st.sampled_from(MASKS))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("op", CASES)
@settings(max_examples=200, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_call_equals_the_reference(op, device, data):
    options, changes, mask = data.draw(calls(op))

    def args(device: str) -> Args:
        made = CASES[op].args(Drawn(device=device, **options)) | changes
        if mask != "some" and made.get("active") is not None:
            made["active"] = torch.full_like(made["active"], mask == "all")
        return CASES[op].fit(made)

    here = args(device)
    assert_agree(op, here, call(getattr(ops, op), op, here), call(ops.OPS[op].reference, op, args("cpu")))
