"""The CUDA kernels without a GPU: csrc/cuda/kernels.cu as it is, compiled by g++ against tests/simt, run on the CPU.

It is linked with the CPU's glue, so that the kernels answer to the ops on CPU tensors, and the whole table of
tests/test_ops.py runs against them in a process of its own.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
TORCH = Path(torch.__file__).parent
FLAGS = [
    *("-std=c++17", "-O1", "-g1", "-fPIC", "-shared", "-fno-strict-aliasing", "-ffp-contract=off"),
    *("-Wall", "-Werror"),
    *("-DTORCH_TARGET_VERSION=0x020a000000000000", "-DTORCH_STABLE_ONLY"),
]


def has_float16() -> bool:
    """Whether c++ knows _Float16 (g++ 12 on x86-64), which stands for CUDA's half."""
    if shutil.which("c++") is None:
        return False
    macros = subprocess.run(["c++", "-dM", "-E", "-x", "c++", os.devnull], capture_output=True, text=True, check=True)
    return "__FLT16_MANT_DIG__" in macros.stdout


pytestmark = pytest.mark.skipif(not has_float16(), reason="no c++ with _Float16 (g++ 12 or later): no SIMT run")


def build(csrc: Path, folder: Path) -> Path:
    library = folder / "simt.so"
    simulator = ROOT / "tests" / "simt" / "simt.cpp"
    sources = ["-x", "c++", csrc / "cuda" / "kernels.cu", csrc / "cpu" / "glue.cpp", simulator]
    paths = [f"-I{ROOT / 'tests' / 'simt'}", "-isystem", TORCH / "include", f"-L{TORCH / 'lib'}"]
    subprocess.run(["c++", *FLAGS, *paths, *sources, "-o", library, "-ltorch", "-ltorch_cpu", "-lc10"], check=True)
    return library


def run_table(library: Path, order: str, *options: str) -> subprocess.CompletedProcess:
    env = os.environ | {"FASTADV_NO_EXT": "1", "FASTADV_SIMT": str(library), "SIMT_ORDER": order}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", ROOT / "tests" / "test_ops.py", *options]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def simt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT / "csrc", tmp_path_factory.mktemp("simt"))


def test_the_table_of_ops_in_a_random_order_of_threads(simt: Path) -> None:
    done = run_table(simt, "7")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


@pytest.mark.parametrize("order", ["fair", "reverse"])
def test_reductions_in_other_orders(simt: Path, order: str) -> None:
    done = run_table(simt, order, "-k", "row_norms")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


def with_bug(right: str, wrong: str, folder: Path) -> Path:
    """The library built from a copy of the sources in which a piece of csrc/cuda/row.h is wrong."""
    shutil.copytree(ROOT / "csrc", folder / "csrc")
    row = folder / "csrc" / "cuda" / "row.h"
    source = row.read_text()
    assert source.count(right) == 1
    row.write_text(source.replace(right, wrong))
    return build(folder / "csrc", folder)


BARRIER = "    __syncthreads();\n    V result"


def test_a_missing_barrier_is_found(tmp_path: Path) -> None:
    library = with_bug(BARRIER, "    V result", tmp_path)
    done = run_table(library, "fair", "-k", "row_norms and large", "-x")
    assert "1 failed" in done.stdout, done.stdout[-2000:] + done.stderr[-2000:]


def test_divergence_at_a_barrier_is_found(tmp_path: Path) -> None:
    library = with_bug(BARRIER, "    if (threadIdx.x) __syncthreads();\n    V result", tmp_path)
    done = run_table(library, "fair", "-k", "row_norms and large", "-x", "-s")
    assert "simt: __syncthreads after threads of the block have ended" in done.stderr
