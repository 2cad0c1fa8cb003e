"""loss_gradient: its case, and what it means."""

import decimal
import itertools
import math
from collections.abc import Callable
from decimal import Decimal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fastadv import losses, ops

from .cases import DEVICES, DTYPES, LABELS, RTOL, Args, Case, randn, same

pytestmark = pytest.mark.numerics


SPECIAL = (-math.inf, 20.0, 20.0, 0.0, -0.0, 1e-40)


def fit(args: Args) -> Args:
    """Natural logits go with a loss that compares, which needs them, and goals with dlr."""
    compares, targets = args["loss"] in ("kl", "spat"), args["loss"] == "dlr"
    loss = "ce" if compares and args["natural"] is None else args["loss"]
    return args | {
        "loss": loss,
        "natural": args["natural"] if compares else None,
        "goal": args["goal"] if targets else None,
    }


CASE = Case(
    lambda make: {
        "logits": make.logits(-3, 3, salt=SPECIAL, least=4),
        "labels": make.integers(*LABELS),
        "sign": make.column(1.0, -1.0, 1.0, 0.0, -0.5),
        "loss": "ce",
        "natural": make.logits(-3, 3, salt=SPECIAL[::-1], least=4),
        "goal": make.integers(2, 3, 0, 1, -1, 2**40),
        "nonfinite": make.mask(False, True, False),
    },
    variants=(
        {},
        {"smoothing": 0.1, "nonfinite": None},
        {"loss": "margin"},
        {"loss": "margin", "kappa": 0.5},
        {"loss": "slm"},
        {"loss": "dlr"},
        {"loss": "dlr", "goal": None},
        {"loss": "pm"},
        {"loss": "kl"},
        {"loss": "spat", "kl_weight": 0.5},
    ),
    refused=(
        ({"logits": torch.ones(3)}, ValueError, r"logits .*2 classes.*\(3,\)"),
        ({"logits": torch.ones(3, 1)}, ValueError, r"logits .*2 classes.*\(3, 1\)"),
        ({"labels": torch.zeros(3)}, ValueError, r"labels .*torch\.int64.*torch\.float32"),
        ({"sign": torch.ones(2)}, ValueError, r"sign .*\(3,\).*\(2,\)"),
        ({"loss": "hinge"}, ValueError, "loss .*ce, margin, slm, dlr, pm, kl, spat.*'hinge'"),
        ({"natural": torch.ones(3, 4)}, ValueError, "kl and spat, and no other loss, .*natural logits; loss is ce"),
        ({"loss": "kl"}, ValueError, "kl and spat, .*natural logits; loss is kl"),
        ({"loss": "kl", "natural": torch.ones(3, 5)}, ValueError, r"natural .*\(3, 4\).*\(3, 5\)"),
        ({"goal": torch.arange(3)}, ValueError, "goal is for dlr; loss is ce"),
        ({"loss": "dlr", "goal": torch.ones(3)}, ValueError, r"goal .*torch\.int64.*torch\.float32"),
        *(({"smoothing": s}, ValueError, f"smoothing .*{s}") for s in (1.0, -0.1, math.nan)),
        ({"nonfinite": torch.zeros(3)}, ValueError, r"nonfinite .*torch\.bool.*torch\.float32"),
    ),
    atol=1e-13,
    fit=fit,
)


# What of ops.loss_gradient is what of fastadv.losses: (options, loss(logits, labels, natural, goal)).
Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
LOSSES: dict[str, tuple[Args, Loss]] = {
    "ce": ({}, lambda z, y, natural, goal: losses.cross_entropy(z, y)),
    "ce smoothed": (
        {"smoothing": 0.3},
        lambda z, y, natural, goal: F.cross_entropy(z, y, reduction="none", label_smoothing=0.3),
    ),
    "margin": ({}, lambda z, y, natural, goal: losses.margin(z, y)),
    "margin 2": ({"kappa": 2.0}, lambda z, y, natural, goal: losses.margin(z, y, 2.0)),
    "margin 0": ({"kappa": 0.0}, lambda z, y, natural, goal: losses.margin(z, y, 0.0)),
    "slm": ({}, lambda z, y, natural, goal: losses.soft_margin(z, y)),
    "dlr": ({}, lambda z, y, natural, goal: losses.dlr(z, y)),
    "pm": ({}, lambda z, y, natural, goal: losses.probability_margin(z, y)),
    "dlr targeted": ({}, lambda z, y, natural, goal: losses.dlr_targeted(z, y, goal)),
    "kl": ({}, lambda z, y, natural, goal: losses.kl(z, natural)),
    "spat": ({}, lambda z, y, natural, goal: losses.self_paced_consistency(z, natural)),
    "spat 1.5": ({"kl_weight": 1.5}, lambda z, y, natural, goal: losses.self_paced_consistency(z, natural, 1.5)),
}


def found(name: str, z: Tensor, y: Tensor, sign: float | Tensor, natural: Tensor, goal: Tensor, **more):
    kind = name.split()[0]
    more |= {"natural": natural} if kind in ("kl", "spat") else {}
    more |= {"goal": goal} if name == "dlr targeted" else {}
    return ops.loss_gradient(z, y, sign, kind, **more, **LOSSES[name][0])


def by_autograd(name: str, z: Tensor, y: Tensor, sign: Tensor, natural: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient and the loss."""
    options, loss = LOSSES[name]
    z = z.double().requires_grad_()
    values = sign * loss(z, y, natural.double(), goal)
    if "margin" in name:
        short = options.get("kappa", 50.0) - losses.lead(z, y)
        values = torch.where(sign < 0, -torch.where(short < 0, 0.0, short), values)
    return torch.autograd.grad(values.sum(), z)[0], values.detach()


def some(samples: int = 240, classes: int = 12, device: str = "cpu", scale: float = 3) -> tuple[Tensor, ...]:
    """Logits, labels (now the first, now the second of the best, ...), signs, natural logits and goals."""
    z, natural = (scale * randn(samples, classes, device=device, seed=seed) for seed in (0, 1))
    row = torch.arange(samples, device=device)
    order = z.argsort(1, descending=True)
    y, goal = order[row, row % classes], order[row, (row % classes + 1 + row // classes % (classes - 1)) % classes]
    assert (y != goal).all()
    return z, y, torch.where(row % 7 < 3, -1.0, 1.0).double(), natural, goal


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("classes", "scale"), [(4, 1), (12, 3), (600, 3), (12, 30)])
@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_gradient_are_those_of_autograd(name, classes, scale, device):
    z, y, sign, *others = some(480, classes, device, scale)
    gradient, loss, _ = found(name, z, y, sign, *others)
    expected_gradient, expected = by_autograd(name, z, y, sign, *others)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-12, atol=1e-13)
    moves = (gradient != 0).any(1)
    assert moves.all() or name in ("margin 0", "margin 2") or (name, scale) == ("margin", 30)  # which saturate
    assert moves.any()
    if name == "margin 0":
        assert (moves == ((sign > 0) == (z.argmax(1) == y))).all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", [name for name in LOSSES if "dlr" not in name])
def test_ties_are_shared_as_by_autograd(name, device):
    z, y, sign, natural, goal = some(480, 5, device, 1)
    others = (sign, natural.round(), goal)
    z = z.round()
    gradient, loss, _ = found(name, z, y, *others)
    expected_gradient, expected = by_autograd(name, z, y, *others)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["dlr", "dlr targeted"])
def test_of_equal_logits_dlr_takes_the_first(name, device):
    z, y, *others = some(480, 5, device, 1)
    z = z.round()
    ordered = z - 1e-9 * torch.arange(5, device=device)
    gradient, loss, _ = found(name, z, y, *others)
    assert (z.sort(1).values.diff(dim=1) == 0).any(1).float().mean() > 0.3
    expected_gradient, expected = by_autograd(name, ordered, y, *others)
    best = z.topk(3).values
    spread = best[:, 0] > best[:, 2]  # what the loss is divided by is not 0
    assert spread.float().mean() > 0.8
    torch.testing.assert_close(loss[spread], expected[spread], rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(gradient[spread], expected_gradient[spread], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kappa", [0.0, 1.0, 50.0])
def test_a_margin_beyond_kappa_is_flat(kappa, device):
    lead = torch.tensor([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 60.0, -60.0], dtype=torch.float64, device=device)
    z = torch.stack((lead, torch.zeros_like(lead), torch.full_like(lead, -100)), dim=1)
    y = torch.zeros(9, dtype=torch.int64, device=device)
    for sign in (1.0, -1.0):
        gradient, loss, _ = ops.loss_gradient(z, y, sign, "margin", kappa=kappa)
        assert loss.tolist() == [-max(sign * d + kappa, 0) for d in lead.tolist()]
        slope = [sign * (sign * d + kappa >= 0) for d in lead.tolist()]
        assert gradient.tolist() == [[-s, s, 0] for s in slope]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", LOSSES)
def test_classes_that_cannot_be_change_nothing(name, device):
    """Logits of -inf, of classes that are not the label: as if the classes were not there."""
    z, y, *others, natural, goal = some(200, 7, device)
    _, expected, _ = found(name, z, y, *others, natural, goal)
    places = torch.tensor([0, 2, 3, 5, 6, 7, 9], device=device)  # of 10

    def spaced(values: Tensor) -> Tensor:
        return torch.full((200, 10), -math.inf, dtype=values.dtype, device=device).index_copy(1, places, values)

    gradient, loss, fooled = found(name, spaced(z), places[y], *others, spaced(natural), places[goal])
    short, _, expected_fooled = found(name, z, y, *others, natural, goal)
    assert torch.equal(fooled, expected_fooled)
    if name == "ce smoothed":  # whose loss takes the mean over all classes
        assert (loss.abs() == math.inf).all()
        assert gradient.isfinite().all()
        return
    torch.testing.assert_close(loss, expected, rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(gradient, spaced(short).nan_to_num(neginf=0), rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", LOSSES)
def test_broken_rows_are_flagged_and_the_others_what_they_are(name, dtype, device):
    z, y, sign, natural, goal = some(12, 5, device)
    z, natural, sign = (
        z.to(dtype),
        natural.to(dtype),
        sign.to(torch.float64 if dtype == torch.float64 else torch.float32),
    )
    expected = found(name, z, y, sign, natural, goal)
    broken, labels, flags = z.clone(), y.clone(), torch.tensor([False] * 11 + [True], device=device)
    broken[1, 0] = broken[4, 4] = broken[5] = math.nan
    labels[[2, 6, 7]] = torch.tensor([-1, 5, 2**40], device=device)
    results = found(name, broken, labels, sign, natural, goal, nonfinite=flags)
    bad = torch.tensor([i in (1, 2, 4, 5, 6, 7) for i in range(12)], device=device)
    assert flags.tolist() == [i in (1, 2, 4, 5, 6, 7, 11) for i in range(12)]
    assert results[0][bad].isnan().all()
    assert results[1][bad].isnan().all()
    assert all(same(a[~bad], b[~bad]) for a, b in zip(results, expected, strict=True))
    assert results[2][bad].tolist() == (sign[bad] > 0).tolist()  # no prediction, or another than the label
    if name == "dlr targeted":
        goal[[0, 3, 8]] = torch.tensor([-1, 5, -(2**40)], device=device)
        results = found(name, z, y, sign, natural, goal, nonfinite=flags)
        assert [i for i in range(12) if results[1][i].isnan()] == [0, 3, 8]
        assert results[0][[0, 3, 8]].isnan().all()
        assert flags[[0, 3, 8]].all()
        assert same(results[2], expected[2])


def exactly(z: list[float], label: int, smoothing: float) -> tuple[list[Decimal], Decimal]:
    """The gradient of the smoothed cross-entropy, and its value."""
    e = [Decimal(v).exp() for v in z]
    total, share = sum(e), [Decimal(smoothing) / len(z)] * len(z)
    share[label] += 1 - Decimal(smoothing)
    loss = sum(s * (total.ln() - Decimal(v)) for s, v in zip(share, z, strict=True))
    return [v / total - s for v, s in zip(e, share, strict=True)], loss


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("shift", [0.0, -30.0, 700.0])
def test_a_class_that_is_all_but_certain_has_a_small_gradient_and_an_exact_loss(shift, smoothing, device):
    z = [shift + v for v in (0.0, -40.0, -41.5, -100.0, -600.0)]
    with decimal.localcontext(prec=320):
        for label in range(5):
            gradient, loss, _ = ops.loss_gradient(
                torch.tensor([z], dtype=torch.float64, device=device),
                torch.tensor([label], device=device),
                1.0,
                smoothing=smoothing,
            )
            expected_gradient, expected = exactly(z, label, smoothing)
            values = [*zip(gradient[0].tolist(), expected_gradient, strict=True), (loss.item(), expected)]
            assert all(value != 0 for value, _ in values)
            assert all(abs(Decimal(value) / want - 1) < 1e-12 for value, want in values), label


@pytest.mark.parametrize("device", DEVICES)
def test_a_label_that_is_all_but_certain_has_a_direction_in_float32(device):
    z = torch.tensor([[30.0, 0.0, -1.0, -60.0]], device=device)
    label = torch.zeros(1, dtype=torch.int64, device=device)
    gradient, loss, _ = ops.loss_gradient(z, label, 1.0)
    by_hand = torch.tensor([-1 - math.exp(-1), 1, math.exp(-1), math.exp(-60)], device=device) * math.exp(-30)
    torch.testing.assert_close(gradient[0], by_hand, rtol=1e-6, atol=0)
    torch.testing.assert_close(loss, -by_hand[:1], rtol=1e-6, atol=0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", LOSSES)
def test_a_shift_of_all_logits_changes_nothing_and_the_gradient_sums_to_0(name, device):
    z, y, sign, natural, goal = some(device=device)
    z, natural = (z * 8).round() / 8, (natural * 8).round() / 8  # sums are exact
    gradient, loss, fooled = found(name, z, y, sign, natural, goal)
    shifted = found(name, z + 1024, y, sign, natural - 512, goal)
    assert torch.equal(shifted[2], fooled)
    torch.testing.assert_close(shifted[1], loss, rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(shifted[0], gradient, rtol=1e-13, atol=1e-15)
    assert (gradient.sum(1).abs() < 1e-13 * (1 + gradient.abs().amax(1))).all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", LOSSES)
def test_other_types_are_computed_in_double_and_rounded_once(name, dtype, device):
    z, y, sign, natural, goal = some(device=device)
    z, natural = z.to(dtype), natural.to(dtype)
    gradient, loss, fooled = found(name, z, y, sign, natural, goal)
    assert (gradient.dtype, loss.dtype) == (dtype, torch.float32)
    exact_gradient, exact_loss, exact_fooled = found(name, z.double(), y, sign, natural.double(), goal)
    torch.testing.assert_close(gradient, exact_gradient.to(dtype), rtol=RTOL[dtype], atol=0)
    assert (gradient == exact_gradient.to(dtype)).float().mean() > 0.999
    torch.testing.assert_close(loss, exact_loss.float(), rtol=RTOL[torch.float32], atol=0)
    assert torch.equal(fooled, exact_fooled)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_fooled_is_the_prediction_that_is_not_the_label_or_is_the_goal(sign, device):
    numbers = [-1.0, 0.0, 2.0, math.inf, math.nan]
    rows = [*itertools.product(numbers, repeat=3)]
    z = torch.tensor(rows, device=device)
    for label in (0, 1, 2, -2, 3):
        _, _, fooled = ops.loss_gradient(z, torch.full((len(rows),), label, device=device), sign)
        for row, hit in zip(rows, fooled.tolist(), strict=True):
            predicted = None if any(map(math.isnan, row)) else row.index(max(row))
            assert hit == ((predicted != label) if sign > 0 else (predicted == label))


def test_a_sign_is_one_of_two_whatever_its_size():
    z, y, sign, natural, goal = some(60)
    for name in LOSSES:
        expected, results = (found(name, z, y, s, natural, goal) for s in (sign, 0.25 * sign))
        assert all(same(a, b) for a, b in zip(results, expected, strict=True))


@pytest.mark.parametrize(("goal", "least"), [(None, 3), (torch.zeros(2, dtype=torch.int64), 4)])
def test_dlr_needs_classes(goal, least):
    y = torch.zeros(2, dtype=torch.int64)
    ops.loss_gradient(torch.ones(2, least), y, 1.0, "dlr", goal=goal)
    with pytest.raises(ValueError, match=f"DLR loss needs at least {least} classes, the model has {least - 1}; use ce"):
        ops.loss_gradient(torch.ones(2, least - 1), y, 1.0, "dlr", goal=goal)
