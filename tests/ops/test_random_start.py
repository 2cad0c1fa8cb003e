"""random_start: its case, and what it means."""

import math
from collections.abc import Sequence
from statistics import NormalDist

import pytest
import torch
from torch import Tensor

from fastadv import ops

from .cases import BUDGETS, DEVICES, DTYPES, WIDE, Case, Make, channels_last, norms, same, strided, transposed

pytestmark = pytest.mark.numerics

CASE = Case(
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
    refused=(
        ({"law": "normal"}, ValueError, "law .*uniform, sign.*'normal'"),
        ({"ids": torch.ones(3, dtype=torch.int32)}, ValueError, r"ids .*torch\.int64.*torch\.int32"),
        ({"ids": torch.arange(4)}, ValueError, r"ids .*\(3,\).*\(4,\)"),
        ({"ids": torch.arange(3, device="meta")}, ValueError, "ids .*cpu.*meta"),
    ),
    exact=lambda args: args.get("law", "uniform") in ("uniform", "sign"),
    atol=4e-6,  # the logarithm and the roots are the kernels' own, good to 2e-6 of what is here at most 2
)


def philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x32-10, from the paper: Salmon et al., SC 2011, section 3.3."""
    (left, other_left, right, other_right), (k0, k1) = counter, key
    for _ in range(10):
        p, q = left * 0xD2511F53, right * 0xCD9E8D57
        left, other_left = (q >> 32) ^ other_left ^ k0, q % 2**32
        right, other_right = (p >> 32) ^ other_right ^ k1, p % 2**32
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return [left, other_left, right, other_right]


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ("0 0 0 0", "0 0", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff " * 4, "ffffffff " * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            "243f6a88 85a308d3 13198a2e 03707344",
            "a4093822 299f31d0",
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_gives_the_known_answers(counter, key, answer):
    assert philox(words(counter), words(key)) == words(answer)


def noise(
    ids: Sequence[int], seed: int = 0, restart: int = 0, cols: int = 10, device: str = "cpu", **options
) -> Tensor:
    """The noise of size 1 around 0."""
    x = torch.zeros(len(ids), cols, dtype=options.pop("dtype", torch.float64), device=device)
    return ops.random_start(x, torch.tensor(ids, device=device), 1.0, seed, restart, **WIDE, **options)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("seed", [0, 1, -1, -(2**63), 2**63 - 1, 2**32])
@pytest.mark.parametrize("restart", [0, 5, 2**32 - 1])
def test_random_start_is_philox_by_seed_id_and_restart(seed, restart, device):
    ids = [0, 1, 2**32 - 1, 2**32, 2**32 + 1, 2**62, -1]
    found = noise(ids, seed, restart, device=device).cpu()
    drawn = ((found * 2**24 + 2**24 - 1) / 2).long()
    signs = noise(ids, seed, restart, device=device, law="sign").cpu()
    for row, sample in enumerate(ids):
        random = [
            word >> 8
            for block in range(3)
            for word in philox(
                [block, restart, sample % 2**32, (sample >> 32) % 2**32], [seed % 2**32, (seed >> 32) % 2**32]
            )
        ]
        assert drawn[row].tolist() == random[:10]
        assert signs[row].tolist() == [1.0 if word >= 2**23 else -1.0 for word in random[:10]]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("law", ops.LAWS)
def test_random_start_depends_on_nothing_else(law, device):
    ids = list(range(50))
    alone = torch.cat([noise([i], device=device, law=law) for i in ids])
    together = noise(ids, device=device, law=law)
    assert same(together, alone)
    assert same(noise(ids[::-1], device=device, law=law), together.flip(0))
    for dtype in DTYPES:
        found = noise(ids, dtype=dtype, device=device, law=law)
        if law in ("l2", "l1"):  # scaled in the type that the sample is computed in
            torch.testing.assert_close(found, together.to(dtype), rtol=torch.finfo(dtype).eps, atol=1e-7)
        else:
            assert same(found, together.to(dtype))
            assert same(noise(ids, cols=7, device=device, law=law), together[:, :7])
    x = Make((5, 3, 4, 6), device=device).samples()
    args = (torch.arange(5, device=device), 0.1, 7)
    start = ops.random_start(x, *args, law=law)
    for layout in (channels_last, strided, transposed):
        assert same(ops.random_start(layout(x), *args, law=law), start)
    assert ops.random_start(channels_last(x), *args, law=law).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("law", ops.LAWS)
def test_random_starts_differ_by_seed_id_and_restart(law):
    draws = [
        noise([i], seed, restart, cols=64, law=law) for i in (0, 1, 2**32) for seed in (0, 1, -1) for restart in (0, 1)
    ]
    assert len({tuple(draw.flatten().tolist()) for draw in draws}) == len(draws)
    correlation = torch.corrcoef(torch.cat([noise([i], cols=4096, law=law) for i in range(8)])).fill_diagonal_(0)
    assert correlation.abs().max() < 5 / 4096**0.5


def test_uniform_starts_are_uniform():
    sample = noise(range(100), seed=11, cols=1001).flatten()
    n = sample.numel()
    assert sample.abs().max() < 1
    assert abs(sample.mean()) < 5 * (1 / 3 / n) ** 0.5
    assert abs(sample.var() - 1 / 3) < 5 * (4 / 45 / n) ** 0.5
    observed = torch.histc(sample, 256, -1, 1)
    chi_square = ((observed - n / 256) ** 2 / (n / 256)).sum()
    assert abs(chi_square - 255) < 5 * (2 * 255) ** 0.5


def assert_uniform(probabilities: Tensor) -> None:
    """Kolmogorov and Smirnov's test; one sample in 10 million is further from the uniform law."""
    sample, n = probabilities.double().flatten().sort().values, probabilities.numel()
    steps = torch.arange(n + 1) / n
    distance = max(float((steps[1:] - sample).max()), float((sample - steps[:-1]).max()))
    assert distance * n**0.5 < 2.9


def test_gaussian_starts_are_gaussian():
    sample = noise(range(100), seed=11, cols=1001, law="gaussian").flatten()
    n = sample.numel()
    assert_uniform(torch.special.ndtr(sample))
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((sample**power).mean() - moment) < 5 * (variance / n) ** 0.5
    for beyond in (3.0, 3.5, 4.0):
        expected = 2 * n * NormalDist().cdf(-beyond)
        assert abs((sample.abs() > beyond).sum() - expected) < 5 * expected**0.5


@pytest.mark.parametrize("device", DEVICES)
def test_gaussian_starts_are_quantiles_of_the_uniform_ones(device):
    unit, found = (noise(range(200), cols=5000, device=device, law=law) for law in ("uniform", "gaussian"))
    torch.testing.assert_close(found, torch.erfinv(unit) * 2**0.5, rtol=2e-6, atol=0)
    assert unit.abs().max() > 1 - 1e-5  # far into the tails


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("law", "order"), [("l2", 2), ("l1", 1)])
@pytest.mark.parametrize("cols", [1, 2, 3, 8, 129])
def test_starts_in_a_ball_are_uniform_in_it(law, order, cols, device):
    sample = noise(range(4000), seed=5, cols=cols, device=device, law=law).cpu()
    n, radius = len(sample), norms(sample, order)
    assert radius.max() <= 1 + 1e-6
    assert_uniform(radius**cols)
    direction = sample / radius[:, None]
    share = direction.abs() ** order  # of squares or sizes, all of which sum to 1: a beta distribution
    a, b = (0.5, (cols - 1) / 2) if order == 2 else (1, cols - 1)
    assert abs(direction.mean()) < 5 * (cols * n) ** -0.5
    assert ((direction.sign().mean(0)).abs() < 5 * n**-0.5).all()
    variance = a * b / (a + b) ** 2 / (a + b + 1)
    assert ((share.mean(0) - 1 / cols).abs() <= 5 * (variance / n) ** 0.5 + 1e-6).all()
    assert abs(share.var(0).mean() - variance) <= 0.1 * variance
    if cols == 3:  # Archimedes: a coordinate on the sphere; and the share of one of three sizes
        assert_uniform((direction[:, 0] + 1) / 2 if order == 2 else 1 - (1 - share[:, 0]) ** 2)
    assert abs(torch.corrcoef(torch.stack((radius, share[:, 0])))[0, 1]) < 5 * n**-0.5 or cols == 1


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_random_starts_lie_in_ball_and_box(dtype, device):
    make = Make((64, 33), dtype, device)
    x, eps = make.samples(), make.column(0.0, 0.125, 0.5, 2.0)
    for law, order in {"uniform": math.inf, "sign": math.inf, "gaussian": None, "l2": 2, "l1": 1}.items():
        start = ops.random_start(x, torch.arange(64, device=device), eps, 0, law=law)
        assert ((start >= 0) & (start <= 1)).all()
        assert same(start[::4], x[::4])
        if order is not None:
            size = torch.linalg.vector_norm(start.double() - x.double(), order, dim=1)
            rounding = 33 ** (1 / order) * torch.finfo(dtype).eps / 4 + 2e-6
            assert (size <= eps.double() + rounding).all()
    x, eps = torch.full_like(x, 0.5), 0.125
    corner = ops.random_start(x, torch.arange(64, device=device), eps, 0, law="sign")
    assert ((corner == x - eps) | (corner == x + eps)).all()
    assert abs((corner > x).double().mean() - 0.5) < 5 * 0.5 / x.numel() ** 0.5
