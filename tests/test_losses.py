"""fastadv.losses: each against its formula, its gradients, and logits in half precision."""

import pytest
import torch
from torch import Tensor

from fastadv.losses import LOSSES, cross_entropy, dlr, kl, margin

pytestmark = pytest.mark.numerics


def logits_and_labels(n: int = 64, classes: int = 10, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 5 * torch.randn(n, classes, generator=generator, dtype=torch.float64)
    return logits.to(dtype), torch.randint(classes, (n,), generator=generator)


def best_rival(logits: Tensor, y: Tensor) -> Tensor:
    rivals = [max(z for j, z in enumerate(row) if j != k) for row, k in zip(logits.tolist(), y, strict=True)]
    return torch.tensor(rivals, dtype=logits.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cross_entropy_is_minus_log_softmax(dtype):
    logits, y = logits_and_labels(dtype=dtype)
    z = logits.double()
    expected = z.exp().sum(1).log() - z[torch.arange(64), y]
    torch.testing.assert_close(cross_entropy(logits, y), expected.to(dtype))


@pytest.mark.parametrize("kappa", [0.0, 3.0, 50.0])
def test_margin_is_carlini_and_wagners(kappa):
    logits, y = logits_and_labels()
    gap = logits[torch.arange(64), y] - best_rival(logits, y)
    expected = -torch.maximum(gap + kappa, torch.zeros_like(gap))
    torch.testing.assert_close(margin(logits, y, kappa), expected)
    if kappa == 50:
        assert torch.equal(margin(logits, y), margin(logits, y, kappa))


def test_margin_pushes_the_true_class_down_and_its_best_rival_up_until_kappa():
    logits = torch.tensor([[4.0, 1.0, 2.0], [0.0, 9.0, 1.0], [0.0, 9.0, 1.0]], requires_grad=True)
    y = torch.tensor([0, 0, 2])
    margin(logits, y, kappa=8.5).sum().backward()
    assert logits.grad.tolist() == [[-1, 0, 1], [0, 0, 0], [0, 1, -1]]  # the second is wrong by more than 8.5


def test_margin_never_takes_the_true_class_for_a_rival():
    y = torch.tensor([0])
    for logits in ([-1.0, -7.0, -9.0], [-1e6, -3e6, -2e6], [5.0, -7.0, -9.0]):
        others = max(logits[1:])
        assert margin(torch.tensor([logits]), y, kappa=1e7).item() == -(logits[0] - others + 1e7)


def test_margin_of_two_classes_is_their_difference():
    logits, y = logits_and_labels(classes=2)
    true, other = logits[torch.arange(64), y], logits[torch.arange(64), 1 - y]
    torch.testing.assert_close(margin(logits, y), -(true - other + 50))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_compared_in_float32(loss, dtype):
    """With kappa 50, bfloat16 would know a margin to 0.25 only."""
    logits, y = logits_and_labels(dtype=dtype)
    logits.requires_grad_()
    values = LOSSES[loss](logits, y)
    assert values.dtype == torch.float32
    torch.testing.assert_close(values, LOSSES[loss](logits.float(), y))
    values.sum().backward()
    assert logits.grad.dtype == dtype


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_are_one_number_a_sample_and_know_no_other(loss):
    logits, y = logits_and_labels()
    values = LOSSES[loss](logits, y)
    assert values.shape == (64,)
    torch.testing.assert_close(values[10:13], LOSSES[loss](logits[10:13], y[10:13]), rtol=0, atol=0)
    assert LOSSES[loss](logits[:0], y[:0]).shape == (0,)


def test_dlr_is_a_ratio_of_differences():
    logits = torch.tensor([[5.0, 1.0, 3.0, 2.0], [5.0, 1.0, 3.0, 2.0], [1.0, 1.0, 1.0, 1.0]])
    y = torch.tensor([0, 1, 2])
    torch.testing.assert_close(dlr(logits, y), torch.tensor([-(5 - 3) / (5 - 2), -(1 - 5) / (5 - 2), 0.0]))
    torch.testing.assert_close(
        dlr(7 * logits[:2] - 3, y[:2]), dlr(logits[:2], y[:2])
    )  # neither scale nor shift matters
    with pytest.raises(ValueError, match="at least 3 classes, the model has 2"):
        dlr(logits[:, :2], y.clamp(max=1))


def test_kl_is_the_divergence_from_the_natural_prediction():
    generator = torch.Generator().manual_seed(0)
    natural, logits = (3 * torch.randn(16, 10, generator=generator, dtype=torch.float64) for _ in range(2))
    p, q = natural.softmax(1), logits.softmax(1)
    torch.testing.assert_close(kl(logits, natural), (p * (p / q).log()).sum(1))
    assert kl(natural, natural).abs().max() < 1e-12
    extreme = torch.tensor([[1e4, -1e4, 0.0]])
    assert kl(extreme, -extreme).isfinite().all()
    assert kl(extreme.half(), extreme.half()).dtype == torch.float32
