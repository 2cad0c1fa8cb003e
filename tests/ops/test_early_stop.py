"""early_stop: its case, and what it means."""

import pytest
import torch

from fastadv import ops

from .cases import DEVICES, DTYPES, LABELS, NOT_FINITE, Case, always, randn

pytestmark = pytest.mark.numerics

CASE = Case(
    lambda make: {
        "logits": make.logits(-1, 1, salt=NOT_FINITE),
        "labels": make.integers(*LABELS),
        "tau": make.integers(2, 0, 1, 0, -3),
        "active": make.mask(),
    },
    variants=({}, {"active": None}),
    refused=(
        ({"logits": torch.ones(3)}, ValueError, r"logits .*1 class,.*\(3,\)"),
        ({"logits": torch.ones(3, 0)}, ValueError, r"logits .*1 class,.*\(3, 0\)"),
        ({"labels": torch.zeros(3)}, ValueError, r"labels .*torch\.int64.*torch\.float32"),
        ({"tau": torch.zeros(3, dtype=torch.int32)}, ValueError, r"tau .*torch\.int64.*torch\.int32"),
    ),
    exact=always,
)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("samples", "steps", "dtype"),
    [(37, 10, dtype) for dtype in DTYPES]
    # In the CUDA kernel: one row; more than a warp's lanes, and than one round of the block's 16 warps.
    + [(count, 2, torch.float32) for count in (1, 513, 512 * 32 + 37)],
)
def test_early_stop_keeps_the_books_of_pgd_k_tau(samples, steps, dtype, device):
    """FAT's Algorithm 1, sample by sample."""
    generator = torch.Generator().manual_seed(samples)
    labels, tau = (torch.randint(high, (samples,), generator=generator) for high in (3, steps + 1))
    found_tau, active = tau.to(device), None
    left, live = tau.tolist(), [True] * samples
    for step in range(steps):
        logits = randn(samples, 3, dtype=dtype, device=device, seed=step)
        found, active, order, count = ops.early_stop(logits, labels.to(device), found_tau, active)
        predictions = logits.cpu().argmax(1).tolist()  # where the first of equal ones wins
        for i in range(samples):
            if live[i] and predictions[i] != labels[i]:
                live[i] = left[i] > 0
                left[i] -= live[i]
        assert (found.tolist(), found_tau.tolist(), active.tolist()) == (predictions, left, live)
        going, stopped = ([i for i in range(samples) if live[i] == wanted] for wanted in (True, False))
        assert order.tolist() == going + stopped[::-1]
        assert count.tolist() == [len(going)]


@pytest.mark.parametrize("device", DEVICES)
def test_early_stop_is_pgd_k_where_tau_is_k_and_stops_at_once_where_it_is_0(device):
    logits = randn(50, 4, device=device)
    wrong = (logits.argmax(1) + 1) % 4
    for tau, goes_on in ((3, True), (0, False), (-1, False)):
        left, active = torch.full((50,), tau, device=device), None
        for _ in range(3):
            _, active, _, count = ops.early_stop(logits, wrong, left, active)
            assert (active == goes_on).all()
            assert count.item() == 50 * goes_on
        assert left.tolist() == [0 if goes_on else tau] * 50
    tau = torch.zeros(50, dtype=torch.int64, device=device)
    _, active, order, _ = ops.early_stop(logits, logits.argmax(1), tau)  # none is wrong
    assert active.all()
    assert order.tolist() == list(range(50))
