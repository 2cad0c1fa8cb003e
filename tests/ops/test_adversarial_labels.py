"""adversarial_labels: its case, and what it means."""

import math

import pytest
import torch

from fastadv import ops

from .cases import DEVICES, DTYPES, Case, randn, same

pytestmark = pytest.mark.numerics

CASE = Case(
    lambda make: {"logits": make.logits(-3, 3), "labels": make.integers(1, 0, 0, 1, 0)},
    variants=(
        {},
        {"variant": "sup"},
        {"variant": "sup", "top_k": 9, "beta": 11.0},
        {"top_k": 1, "gamma": 0.0},
        {"top_k": 2, "gamma": 0.3},
    ),
    refused=(
        ({"logits": torch.ones(3, 1)}, ValueError, r"logits .*2 classes.*\(3, 1\)"),
        ({"variant": "code"}, ValueError, "variant .*main, sup.*'code'"),
        *(({"beta": beta}, ValueError, "beta .*positive") for beta in (0.0, math.inf, math.nan)),
        *(({"gamma": gamma}, ValueError, "gamma .*at least 0") for gamma in (-0.1, math.nan)),
        ({"top_k": -1}, ValueError, "top_k .*at least 0"),
    ),
)


def by_hand(logits: list[float], label: int, beta: float, gamma: float, variant: str, top_k: int) -> list[float]:
    """Bilateral's equations (14) and (18), or (26) and (28), as they are printed."""
    total = sum(map(math.exp, logits))
    v = [-math.log(math.exp(z) / total) for z in logits]
    wrong = sorted((k for k in range(len(v)) if k != label), key=lambda k: (-v[k], k))[: top_k or None]
    least, most = min(v[k] for k in wrong), max(v[k] for k in wrong)
    soft = [0.0] * len(v)
    if variant == "main":
        denominator = sum(v[k] for k in wrong) - len(wrong) * (least - gamma)
        eps_y = 1 / (1 + beta * (most - least + gamma) / denominator)
        for k in wrong:
            soft[k] = eps_y * (v[k] - least + gamma) / denominator
    else:
        denominator = sum(v[k] for k in wrong)
        eps_y = 1 / (1 + beta * most / denominator)
        for k in wrong:
            soft[k] = eps_y * v[k] / denominator
    soft[label] = 1 - eps_y
    return soft


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("variant", ["main", "sup"])
@pytest.mark.parametrize("top_k", [0, 1, 9, 18])
def test_adversarial_labels_are_those_of_the_paper(top_k, variant, dtype, device):
    logits, labels = 3 * randn(20, 20, dtype=dtype, device=device), torch.arange(20, device=device)
    for beta, gamma in ((9.0, 0.01), (11.0, 0.5)):
        soft = ops.adversarial_labels(logits, labels, beta, gamma, variant, top_k)
        rows = zip(logits.tolist(), labels.tolist(), strict=True)
        expected = torch.tensor([by_hand(z, label, beta, gamma, variant, top_k) for z, label in rows])
        torch.testing.assert_close(soft.cpu(), expected.to(soft.dtype), rtol=2e-5, atol=1e-7)
        own = soft[labels, labels]
        wrong = soft.scatter(1, labels[:, None], 0)
        count = top_k or 19
        assert ((soft >= 0) & (soft <= 1)).all()
        assert ((wrong > 0).sum(1) == count).all()
        torch.testing.assert_close(soft.sum(1), torch.ones_like(own))
        torch.testing.assert_close(own, beta * wrong.amax(1))  # (16), with equality
        assert ((1 - own > 1 / (1 + beta)) & (1 - own <= 1 / (1 + beta / count) + 1e-6) | (count == 1)).all()  # (21)
        if top_k:  # the support is the least likely of the wrong classes
            order = logits.double().scatter(1, labels[:, None], math.inf).argsort(1)
            assert (wrong.gather(1, order[:, :count]) > 0).all()
        elif variant == "main":  # (31): the likeliest wrong class keeps gamma's share
            v = -logits.double().log_softmax(1)
            u = v - v.scatter(1, labels[:, None], math.inf).amin(1, keepdim=True) + gamma
            least = (1 - own) * gamma / u.scatter(1, labels[:, None], 0).sum(1)
            smallest = soft.scatter(1, labels[:, None], 1).amin(1)
            torch.testing.assert_close(smallest.double(), least.double(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("variant", ["main", "sup"])
@pytest.mark.parametrize(("beta", "eps_y"), [(81.0, 0.1), (9.0, 0.5), (1.0, 0.9)])
def test_adversarial_labels_of_equal_wrong_classes_are_smoothed_ones(beta, eps_y, variant, device):
    labels = torch.arange(10, device=device)
    for logits in (torch.zeros(10, 10, device=device), 5 * torch.eye(10, device=device)):
        soft = ops.adversarial_labels(logits, labels, beta, variant=variant)
        smooth = torch.full((10, 10), eps_y / 9, device=device).fill_diagonal_(1 - eps_y)
        torch.testing.assert_close(soft, smooth)
        if beta == 9:  # of the equally unlikely, the first
            some = ops.adversarial_labels(logits, labels, beta, variant=variant, top_k=3)
            support = [[k for k in range(10) if k != label][:3] for label in range(10)]
            assert [[k for k in range(10) if some[i, k] > 0 and k != i] for i in range(10)] == support


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("variant", ["main", "sup"])
def test_adversarial_labels_depend_on_differences_of_logits_alone(variant, device):
    logits = (randn(50, 10, dtype=torch.float32, device=device) * 8).round() / 8  # sums are exact
    labels = torch.arange(50, device=device) % 10
    soft = ops.adversarial_labels(logits, labels, variant=variant)
    for offset in (-300, 4096):
        shifted = ops.adversarial_labels(logits + offset, labels, variant=variant)
        torch.testing.assert_close(shifted, soft, rtol=1e-6, atol=0)


@pytest.mark.parametrize("device", DEVICES)
def test_adversarial_labels_at_the_edges(device):
    two, labels = randn(8, 2, dtype=torch.float32, device=device), torch.tensor([0, 1] * 4, device=device)
    for variant, gamma in (
        ("main", 0.01),
        ("main", 1e-44),
        ("main", 0.0),
        ("sup", 0.0),
    ):  # one wrong class has all of eps_y
        soft = ops.adversarial_labels(two, labels, 9.0, gamma, variant)
        torch.testing.assert_close(soft[torch.arange(8), labels], torch.full((8,), 0.9, device=device))
    # (20): a dominating wrong class, all others' v equal.
    logits = torch.tensor([[0.0, 30.0, 0.0, 0.0]], device=device)
    soft = ops.adversarial_labels(logits, torch.zeros(1, dtype=torch.int64, device=device), 9.0, 0.01)
    eps_y = 1 / (1 + 9 * 30.01 / (2 * 30.01 + 0.01))
    torch.testing.assert_close(soft[0, 0].item(), 1 - eps_y, rtol=1e-5, atol=0)
    assert soft[0, 1] < 1e-3 * soft[0, 2]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("variant", ["main", "sup"])
def test_adversarial_labels_of_broken_logits_are_nan(variant, device):
    logits = randn(4, 10, dtype=torch.float32, device=device)
    whole = ops.adversarial_labels(logits, torch.arange(4, device=device), variant=variant)
    for value in (math.nan, math.inf, -math.inf):
        for place in (1, 7):  # the label's, and another
            broken = logits.clone()
            broken[1, place] = value
            soft = ops.adversarial_labels(broken, torch.arange(4, device=device), variant=variant)
            assert soft[1].isnan().all()
            assert same(soft[[0, 2, 3]], whole[[0, 2, 3]])
