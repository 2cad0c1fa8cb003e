"""Read by pytest before any test imports torch."""

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # idle threads sleep: the tests may share their cores
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # there is a worker for each core

if library := os.environ.get("FASTADV_SIMT"):  # test_simt.py: the CUDA kernels, run on the CPU, in place of the CPU's
    import torch

    from fastadv import ops

    torch.ops.load_library(library)
    ops.MISSING["cpu"] = None


def pytest_configure() -> None:
    """Autograd counts the devices that there are at its first backward pass: the stand-in for a GPU comes before."""
    import devices

    if devices.NAME == "far":
        devices.register()


@pytest.hookimpl(hookwrapper=True)
def pytest_collection() -> Iterator[None]:
    """What is imported and collected stays: the garbage collector looks through none of it, then or later."""
    gc.disable()
    yield
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what compiles the CUDA sources, on two workers of `make test-thorough`: the simulator, and nvcc."""
    items.sort(key=lambda item: ("test_simt" not in item.nodeid, "test_build" not in item.nodeid))


@pytest.fixture
def seed_zero(monkeypatch):
    """Attacks without a seed draw 0 every time, from no generator."""
    monkeypatch.setattr("fastadv.attacks._attack.drawn_seed", lambda: 0)


@pytest.fixture(scope="session", autouse=True)
def no_choice_by_the_clock() -> Iterator[None]:
    """Memory formats are what they are given, however long a test's run is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastadv.attacks._tuned._WORTH", float("inf"))
        yield


@pytest.fixture(scope="session", autouse=True)
def savefig() -> Iterator[Callable]:
    """Files of figures have a first line only: to render one takes longer than a small run. Yields what renders them.

    Commands go on without a figure that cannot be rendered, so tests that look at one ask for `rendered`.
    """
    from matplotlib.figure import Figure

    begin = {"png": b"\x89PNG\r\n", "svg": b"<svg>\n"}
    render = Figure.savefig
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", lambda _, file, *, format, **how: file.write(begin[format]))
        yield render


@pytest.fixture
def rendered(savefig: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are rendered."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", savefig)


@pytest.fixture(scope="session", autouse=True)
def no_data_of_this_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Hide the data sets that are installed or cached here: every machine runs the same tests."""
    from fastadv.data import files

    nowhere = tmp_path_factory.mktemp("nowhere")
    with pytest.MonkeyPatch.context() as patch:
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        patch.setenv("MPLCONFIGDIR", os.environ.get("MPLCONFIGDIR") or str(Path(cache, "matplotlib")))  # keep its fonts
        patch.setenv("XDG_CACHE_HOME", str(nowhere))
        patch.delenv("FASTADV_DATA", raising=False)
        patch.setattr(files, "SYSTEM", nowhere)
        yield
