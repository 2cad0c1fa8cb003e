"""l0_step: its case, and which entries it leaves."""

import math

import pytest
import torch
from torch import Tensor

from fastadv import ops

from .cases import DEVICES, DTYPES, FLOATS, Case, Make, channels_last, randn, step_args, strided, transposed

pytestmark = pytest.mark.numerics

CASE = Case(
    lambda make: step_args(make) | {"eps": make.column(3.0, 1.5, 0.0, 40.0, math.inf, 1.0)},
    variants=({}, {"active": None, "nonfinite": None}, {"lo": -0.5, "hi": 0.7}),
    refused=(({"eps": torch.ones(4)}, ValueError, r"eps .*\(3,\).*\(4,\)"),),
)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_as_many_of_the_largest_entries_are_left(dtype, device):
    make = Make((7, 3, 5, 6), dtype, device)
    x, x_adv, grad = make.samples(0.4, 0.6), make.samples(0.4, 0.6), make.samples(-1, 1)
    counts = torch.tensor([0.0, 1.0, 2.0, 2.9, 50.0, 90.0, math.inf], dtype=dtype, device=device)
    size = 0.1 / grad.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    delta = (x_adv + size * grad - x).flatten(1)
    ops.l0_step(x_adv, grad, x, 0.1, counts)
    found = (x_adv - x).flatten(1)
    for row, whole, count in zip(found, delta, (0, 1, 2, 2, 50, 90, 90), strict=True):
        largest = whole.abs().sort(descending=True).indices[:count]
        expected = torch.zeros_like(whole).index_copy_(0, largest, whole[largest])
        torch.testing.assert_close(row, expected, rtol=0, atol=4 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equal_entries_are_taken_by_index_in_any_memory_format(dtype, device):
    x = torch.full((5, 3, 4, 8), 0.5, dtype=dtype, device=device)
    x_adv = x + randn(*x.shape, dtype=dtype, device=device).round().clamp(-2, 2) / 8  # few different values
    none = torch.zeros_like(x)

    def left(layout) -> Tensor:
        found = layout(x_adv.clone())
        ops.l0_step(found, layout(none), layout(x), 0.0, 20.0)
        return found

    contiguous = left(Tensor.contiguous)
    assert [int(n) for n in ops.row_norms(contiguous, "l0", x)] == [20] * 5
    for layout in (channels_last, strided, transposed):
        assert torch.equal(left(layout), contiguous)
    for row, whole in zip((contiguous != x).flatten(1).tolist(), (x_adv - x).flatten(1).tolist(), strict=True):
        chosen = sorted(range(96), key=lambda i, whole=whole: (-abs(whole[i]), i))[:20]
        assert {i for i in range(96) if row[i]} == set(chosen)
