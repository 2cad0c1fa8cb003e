"""Read by pytest before any test imports torch."""

import os

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # idle threads sleep: the tests may share their cores
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # there is a worker for each core

if library := os.environ.get("FASTADV_SIMT"):  # test_simt.py: the CUDA kernels, run on the CPU, in place of the CPU's
    import torch

    from fastadv import ops

    torch.ops.load_library(library)
    ops.MISSING["cpu"] = None


@pytest.fixture
def seed_zero(monkeypatch):
    """Attacks without a seed draw 0 every time, from no generator."""
    monkeypatch.setattr("fastadv.attacks._attack.drawn_seed", lambda: 0)
