"""deepfool_step: its case, and what it means."""

import math

import pytest
import torch
from torch import Tensor

from fastadv import ops

from .cases import DEVICES, FLOATS, LABELS, NOT_FINITE, WIDE, Case, Make, channels_last, norms, randn, same

pytestmark = pytest.mark.numerics

CASE = Case(
    lambda make: {
        "x_adv": make.samples(-0.2, 1.2, written=True),
        "delta": make.samples(-0.1, 0.1, written=True, dtype=make.wide),
        "x": make.samples(),
        "logits": make.logits(-1, 1, classes=3),
        "grads": make.gradients(3, salt=NOT_FINITE),
        "labels": make.integers(*LABELS),
        "active": make.mask(),
        "nonfinite": make.mask(False, True, False),
    },
    variants=(
        {},
        {"active": None, "nonfinite": None, "overshoot": 0.02, "beyond": 0.1, "norm": "linf"},
        {"beyond": 0.1, "lo": -0.5, "hi": 0.7},
    ),
    refused=(
        ({"delta": torch.ones(3, 4, dtype=torch.float64)}, ValueError, r"delta .*torch\.float64"),
        ({"delta": torch.ones(3, 4, requires_grad=True)}, RuntimeError, "no gradient.*delta"),
        ({"logits": torch.ones(3, 3, requires_grad=True)}, RuntimeError, "no gradient.*logits"),
        ({"logits": torch.ones(3)}, ValueError, r"logits .*\[3, classes\].*\(3,\)"),
        ({"logits": torch.ones(3, 1)}, ValueError, r"logits .*\(3, 1\)"),
        ({"logits": torch.ones(2, 3)}, ValueError, r"logits .*\(2, 3\)"),
        ({"grads": torch.ones(3, 2, 4)}, ValueError, r"grads .*\(3, 3, 4\).*\(3, 2, 4\)"),
        ({"norm": "l1"}, ValueError, "norm .*l2, linf.*'l1'"),
    ),
)


def linear(dtype: torch.dtype, device: str, samples: int = 30, classes: int = 6) -> dict[str, Tensor]:
    """deepfool_step's arguments at random points of a linear model."""
    weight, x = randn(classes, 3, 4, 5, dtype=dtype, device=device), Make((samples, 3, 4, 5), dtype, device).samples()
    logits = (x.double().flatten(1) @ weight.double().flatten(1).T).to(dtype)
    return {
        "x_adv": x.clone(),
        "delta": torch.zeros_like(x),
        "x": x,
        "logits": logits,
        "grads": weight.expand(samples, *weight.shape),
        "labels": logits.argmax(1),
    }


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(("norm", "order", "dual"), [("l2", 2, 2), ("linf", math.inf, 1)])
def test_deepfool_step_of_a_linear_model_goes_straight_to_the_nearest_boundary(norm, order, dual, dtype, device):
    args = linear(dtype, device)
    target, distance = ops.deepfool_step(**args, norm=norm, overshoot=0.02, **WIDE)
    weight, logits, labels, rows = args["grads"].double(), args["logits"].double(), args["labels"], torch.arange(30)
    w = weight - weight[rows, labels].unsqueeze(1)
    gap = logits[rows, labels].unsqueeze(1) - logits
    away = (gap + 1e-5) / torch.linalg.vector_norm(w.flatten(2), dual, dim=2)
    away[rows, labels] = math.inf
    assert torch.equal(target, away.argmin(1))
    torch.testing.assert_close(distance.double(), away.amin(1), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(norms(args["delta"], order), distance.double(), rtol=1e-5, atol=0)
    after = logits + torch.einsum("bchw,bkchw->bk", args["delta"].double(), weight)
    won = after[rows, target] - after[rows, labels]
    torch.testing.assert_close(won, torch.full_like(won, 1e-5), rtol=0, atol=100 * torch.finfo(dtype).eps)
    torch.testing.assert_close(args["x_adv"], args["x"] + 1.02 * args["delta"], rtol=0, atol=4 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_deepfool_steps_add_up_and_stay_in_the_box(norm, device):
    args = linear(torch.float64, device)
    ops.deepfool_step(**args, norm=norm, overshoot=0.5)
    first, box = args["delta"].clone(), args["x_adv"].clone()
    torch.testing.assert_close(box, (args["x"] + 1.5 * first).clamp(0, 1))
    assert ((args["x"] + 1.5 * first - box) != 0).any()
    ops.deepfool_step(**args, norm=norm, overshoot=0.5)
    torch.testing.assert_close(args["delta"], 2 * first)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_deepfool_step_goes_beyond_the_boundary(norm, device):
    args = linear(torch.float64, device)
    _, distance = ops.deepfool_step(**args, norm=norm, beyond=0.25)
    torch.testing.assert_close(norms(args["delta"], 2 if norm == "l2" else math.inf), distance + 0.25)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_deepfool_step_skips_classes_without_a_boundary(norm, device):
    args = linear(torch.float32, device, samples=4, classes=4)
    grads, logits = args["grads"].clone(), args["logits"]
    args["labels"] = torch.zeros(4, dtype=torch.int64, device=device)
    grads[0] = 0  # no class can be told from the label's
    grads[0, 1, 0, 0, 0] = 1e-9
    grads[1, 1], logits[1, 1] = grads[1, 0], logits[1, 0]  # as near as can be, and no boundary to go to
    grads[2, 2:, 0, 0, 0] = torch.tensor([math.nan, math.inf])  # one left
    grads[3, 0, 0, 0, 0] = math.nan  # the label's own: none left
    before = args["delta"].clone()
    target, distance = ops.deepfool_step(**args | {"grads": grads}, norm=norm)
    assert target[0] == 0
    assert target[1] in (2, 3)
    assert target[2] == 1
    assert target[3] == 0
    assert [value > 0 for value in distance.tolist()] == [False, True, True, False]
    moved = (args["delta"] != before).flatten(1).any(1)
    assert moved.tolist() == [False, True, True, False]
    assert args["delta"].isfinite().all()


@pytest.mark.parametrize("device", DEVICES)
def test_deepfool_step_leaves_unknown_labels_and_inactive_samples_where_they_are(device):
    args = linear(torch.float64, device, samples=7, classes=3)
    args["labels"] = torch.tensor([-1, 3, 2**40, -(2**40), 2, 1, 0], device=device)
    args["delta"] += 0.0625
    active = torch.tensor([True] * 5 + [False] * 2, device=device)
    before, start = args["delta"].clone(), args["x_adv"].clone()
    target, distance = ops.deepfool_step(**args, active=active)
    still = torch.tensor([True] * 4 + [False] + [True] * 2, device=device)
    assert same(args["delta"][still], before[still])
    assert (args["delta"][4] != before[4]).any()
    assert torch.equal(target[still], args["labels"][still])
    assert (distance[still] == 0).all()
    assert torch.equal(args["x_adv"][:4], (args["x"] + before).clamp(0, 1)[:4])
    assert same(args["x_adv"][5:], start[5:])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("samples", [1, 4])
def test_deepfool_step_reads_gradients_wherever_they_lie(samples, device):
    args = linear(torch.float32, device, samples=samples, classes=3)
    start = args["delta"].clone()
    places = [
        torch.Tensor.contiguous,
        lambda t: t.repeat_interleave(2, dim=1)[:, ::2],
        lambda t: t.transpose(0, 1).contiguous().transpose(0, 1),  # stacked class by class
        lambda t: t.movedim(2, -1).contiguous().movedim(-1, 2),
    ]
    for place in places:
        for x_place in (torch.Tensor.contiguous, channels_last):
            found = args | {"delta": x_place(start.clone()), "x_adv": x_place(args["x"].clone())}
            ops.deepfool_step(**found | {"grads": place(args["grads"])})
            if place is x_place is torch.Tensor.contiguous:
                expected = found["delta"]
                assert (expected != start).flatten(1).any(1).all()
            torch.testing.assert_close(found["delta"], expected, rtol=1e-6, atol=0)
