"""The CUDA kernels without a GPU: csrc/cuda/kernels.cu as it is, compiled by g++ against tests/simt, run on the CPU.

Linked with the CPU's glue, they answer to the ops on CPU tensors, and the table of tests/test_ops.py runs against them
in a process of its own. Linked with tests/simt/driver.cpp, they run without torch: in several orders of threads, beside
the CPU's kernels, and under sanitizers. Planted bugs show that each of these ways finds what it is there for.
"""

import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch

from fastadv import ops

ROOT = Path(__file__).parent.parent
CSRC, SIMT = ROOT / "csrc", ROOT / "tests" / "simt"
TORCH = Path(torch.__file__).parent
FLAGS = ["-std=c++17", "-O1", "-g1", "-fPIC", "-fno-strict-aliasing", "-ffp-contract=off", "-Wall", "-Werror"]
CUDA = ["-DFASTADV_CUDA=", f"-I{SIMT}", f"-I{CSRC}"]
CPU = ["-DTORCH_TARGET_VERSION=0x020a000000000000", "-DTORCH_STABLE_ONLY", f"-isystem{TORCH}/include", f"-I{CSRC}"]
LINK_TORCH = [f"-L{TORCH}/lib", f"-Wl,-rpath,{TORCH}/lib", "-ltorch", "-ltorch_cpu", "-lc10"]
BUILDS = {
    "plain": [],
    "asan": ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "tsan": ["-fsanitize=thread"],
    "cpu": ["-fopenmp-simd", "-Wno-unknown-pragmas"],
}


def gist(report: str) -> str:
    """The first lines of a sanitizer's report, without the middle of long names."""
    lines = (line if len(line) < 200 else f"{line[:100]} ... {line[-80:]}" for line in report.splitlines())
    return "\n".join(list(lines)[:60])


def cxx(*arguments: str | Path) -> None:
    done = subprocess.run(["c++", *FLAGS, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


def has_float16() -> bool:
    """Whether c++ knows _Float16 (g++ 12 on x86-64), which stands for CUDA's half."""
    if shutil.which("c++") is None:
        return False
    macros = subprocess.run(["c++", "-dM", "-E", "-x", "c++", os.devnull], capture_output=True, text=True, check=True)
    return "__FLT16_MANT_DIG__" in macros.stdout


pytestmark = [
    pytest.mark.thorough,
    pytest.mark.skipif(not has_float16(), reason="no c++ with _Float16 (g++ 12 or later): no SIMT run"),
]


@cache
def launcher(build: str) -> list[str] | None:
    """What to put before a program of that build for it to run here; None where none does."""
    with TemporaryDirectory() as folder:
        source, program = Path(folder, "empty.cpp"), Path(folder, "empty")
        source.write_text("int main() {}")
        made = subprocess.run(["c++", *BUILDS[build], source, "-o", program], capture_output=True, check=False)
        # Without address randomisation, of which ThreadSanitizer stands only so much.
        for prefix in (["setarch", "-R"], []):
            runnable = made.returncode == 0 and shutil.which((prefix or [program])[0])
            if runnable and subprocess.run([*prefix, program], capture_output=True, check=False).returncode == 0:
                return prefix
    return None


def need(build: str) -> None:
    if launcher(build) is None:
        pytest.skip(
            f"{' '.join(BUILDS[build])}: no such program compiles and runs here (are libasan and libtsan there?)"
        )


@dataclass(frozen=True)
class Run:
    """A way to run the driver."""

    build: str
    order: str = "fair"
    shared: str = str(227 * 1024)  # bytes that a block can have; 0: no row is held

    def __str__(self) -> str:
        return f"{self.build}-{self.order}" + ("-nothing held" if self.shared == "0" else "")

    def __call__(self, driver: Path, *arguments: str) -> subprocess.CompletedProcess:
        env = os.environ | {"SIMT_ORDER": self.order, "SIMT_SHARED": self.shared}
        env |= {"ASAN_OPTIONS": "detect_leaks=0", "TSAN_OPTIONS": "halt_on_error=1"}
        command = [*launcher(self.build), driver, *arguments]
        return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


RIGHT, *OTHERS = [
    *(Run("plain", order) for order in ("fair", "reverse", "1", "2")),
    *(Run("plain", shared="0"), Run("cpu")),
    *(Run("asan", "reverse"), Run("asan", "3", shared="0")),
    *(Run("tsan", "reverse"), Run("tsan", "4", shared="0")),
]
Hashes = dict[str, tuple[str, str]]


def hashes(run: Run, driver: Path, op: str = "") -> Hashes:
    """What the driver prints, by call: the hash of the bits, and that of the values as float32."""
    done = run(driver, *filter(None, [op]))
    assert (done.returncode, done.stderr) == (0, ""), done.stdout[-200:] + gist(done.stderr)
    lines = (line.rsplit(maxsplit=2) for line in done.stdout.splitlines())
    return {call: (bits, floats) for call, bits, floats in lines}


class Workshop:
    """Builds and runs of the driver, each made once, two at a time, ahead of the tests that wait for them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.simulator = folder / "simt.o"
        cxx("-c", SIMT / "simt.cpp", "-o", self.simulator)
        self.pool = ThreadPoolExecutor(2)
        builds = [build for build in BUILDS if launcher(build) is not None]
        self.drivers = {build: self.pool.submit(self.build_driver, build) for build in builds}
        self.library = self.pool.submit(self.build_library)
        self.runs: dict[Run, Future[Hashes]] = {
            run: self.pool.submit(lambda run=run: hashes(run, self.drivers[run.build].result()))
            for run in (RIGHT, *OTHERS)
            if run.build in builds
        }

    def build_driver(self, build: str) -> Path:
        folder = self.folder / build
        folder.mkdir()
        kernels = CSRC / "cpu" / "kernels.cpp" if build == "cpu" else CSRC / "cuda" / "kernels.cu"
        device = CPU if build == "cpu" else CUDA
        for source, out in ((SIMT / "driver.cpp", "driver.o"), (kernels, "kernels.o")):
            cxx(*BUILDS[build], *device, "-x", "c++", "-c", source, "-o", folder / out)
        return self.link_driver(build, folder / "kernels.o")

    def link_driver(self, build: str, kernels: Path) -> Path:
        rest = LINK_TORCH if build == "cpu" else [self.simulator]
        driver = kernels.with_name("driver")
        cxx(*BUILDS[build], self.folder / build / "driver.o", kernels, *rest, "-o", driver)
        return driver

    def build_library(self) -> Path:
        kernels, library = self.drivers["plain"].result().with_name("kernels.o"), self.folder / "simt.so"
        cxx(*CPU, "-shared", CSRC / "cpu" / "glue.cpp", kernels, self.simulator, *LINK_TORCH, "-o", library)
        return library


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    workshop = Workshop(tmp_path_factory.mktemp("simt"))
    yield workshop
    workshop.pool.shutdown(cancel_futures=True)


# ----------------------------------------------------------------------------------------------- the ops, through torch


def run_table(workshop: Workshop, *options: str, **environment: str) -> None:
    env = os.environ | {"FASTADV_NO_EXT": "1", "FASTADV_SIMT": str(workshop.library.result())} | environment
    tables = [ROOT / "tests" / name for name in ("test_ops.py", "test_ops_definitions.py")]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tables, *options]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


def test_the_table_of_ops_in_a_random_order_of_threads(workshop: Workshop) -> None:
    run_table(workshop, SIMT_ORDER="7")


@pytest.mark.parametrize("order", ["fair", "reverse"])
def test_reductions_in_other_orders(workshop: Workshop, order: str) -> None:
    run_table(workshop, "-k", "row_norms", SIMT_ORDER=order)


def test_rows_that_do_not_fit_into_shared_memory(workshop: Workshop) -> None:
    holding = sorted(
        path.stem for path in (CSRC / "ops").glob("*.h") if re.search(r"for_rows<\w+, \d", path.read_text())
    )
    assert "l2_step" in holding
    run_table(workshop, "-k", f"equals_its_reference and ({' or '.join(holding)})", SIMT_ORDER="7", SIMT_SHARED="0")


# -------------------------------------------------------------------------------------------- the kernels, on their own


@pytest.mark.parametrize("run", OTHERS, ids=str)
def test_every_run_gives_the_same_values(workshop: Workshop, run: Run) -> None:
    need(run.build)
    expected, found = workshop.runs[RIGHT].result(), workshop.runs[run].result()
    # Where a row is not held, or on the CPU, sums of doubles are taken in another order.
    exact = run.build != "cpu" and run.shared == RIGHT.shared
    assert len(found) == len(expected) > 1000
    for call, (bits, floats) in expected.items():
        assert found[call][1] == floats, call
        assert found[call][0] == bits or not exact, call


def test_the_driver_calls_every_op(workshop: Workshop) -> None:
    assert {call.split()[0] for call in workshop.runs[RIGHT].result()} == set(ops.OPS)


def test_the_cpus_passes_stay_within_their_memory(tmp_path: Path) -> None:
    need("asan")
    program = tmp_path / "passes"
    cxx(*BUILDS["asan"], *BUILDS["cpu"], *CPU, SIMT / "passes.cpp", *LINK_TORCH, "-o", program)
    done = Run("asan")(program)
    assert (done.returncode, done.stderr) == (0, ""), gist(done.stderr)
    assert int(done.stdout) == 4 * 2 * 3 * 3 * 3 * 4


def test_alignment_changes_no_value(workshop: Workshop) -> None:
    by_alignment = defaultdict(set)
    for call, (_, floats) in workshop.runs[RIGHT].result().items():
        by_alignment[call.split("+")[0]].add(floats)
    assert {call for call, found in by_alignment.items() if len(found) > 1} == set()


# -------------------------------------------------------------------------------------------------------- planted bugs


@dataclass(frozen=True)
class Bug:
    """A piece of a source that is replaced by a wrong one."""

    name: str
    op: str
    file: str
    right: str
    wrong: str
    found: dict[Run, str]  # what a run says; OTHER_BITS where it only shows in the results


ROW = "cuda/row.h"
RACE = "ThreadSanitizer: data race"
OVERRUN = "AddressSanitizer: heap-buffer-overflow"
OTHER_BITS = "other bits"
TSAN, ASAN = Run("tsan"), Run("asan")

BUGS = [
    Bug(
        "no barrier before the warps' parts are read",
        *("row_norms", ROW, "    __syncthreads();\n    V result", "    V result"),
        {Run("plain"): OTHER_BITS, TSAN: RACE},
    ),
    Bug(
        "no barrier after the warps' parts are read",
        *("topp_step", ROW, "    __syncthreads();  // before the next reduction", "    // before the next reduction"),
        {Run("plain", "reverse"): "simt: .* ended", Run("plain", "1"): "simt: .* ended", TSAN: RACE},
    ),
    Bug(
        "a thread that passes by a barrier",
        *("row_norms", ROW, "    __syncthreads();\n    V result", "    if (thread) __syncthreads();\n    V result"),
        {Run("plain"): "simt: .* ended"},
    ),
    Bug(
        "no barrier after a row is held",
        *("hyperplane_projection", ROW, "      sync();  // the next walk may", "      // the next walk may"),
        {TSAN: RACE},
    ),
    Bug(
        "momentum that is not waited for",
        *("linf_step", "ops/linf_step.h", "    row.sync();\n", ""),
        {TSAN: RACE},
    ),
    Bug(
        "a perturbation that is not waited for",
        *("deepfool_step", "ops/deepfool_step.h", "    row.sync();\n", ""),
        {TSAN: RACE},
    ),
    Bug(
        "a middle that is not waited for",
        *("bisect_step", "ops/bisect_step.h", "    row.sync();\n", ""),
        {TSAN: RACE},
    ),
    Bug(
        "a tau written before all have read it",
        *("early_stop", "ops/early_stop.h", "    row.sync();", "    //"),
        {TSAN: RACE},
    ),
    Bug(
        "counts written again before all have read them",
        *("early_stop", ROW, "    __syncthreads();  // before `kept`", "    // before `kept`"),
        {Run("plain", "reverse"): OTHER_BITS, TSAN: RACE},
    ),
    Bug(
        "held rows that overlap",
        *("l2_step", ROW, "(shared) + group * held", "(shared) + group * (held - 8)"),
        {TSAN: RACE},
    ),
    Bug(
        "an index that runs over by one",
        *("linf_step", ROW, "i = whole + thread; i < count;", "i = whole + thread; i <= count;"),
        {ASAN: OVERRUN},
    ),
    Bug(
        "too little dynamic shared memory",
        *("l2_step", ROW, "static_cast<size_t>(shared)", "static_cast<size_t>(shared ? shared - 4 : 0)"),
        {ASAN: OVERRUN},
    ),
    Bug(
        "too little static shared memory",
        *("early_stop", ROW, "int kept[kMaxThreads / kWarp]", "int kept[kMaxThreads / kWarp - 1]"),
        {ASAN: "index 15 out of bounds"},
    ),
    Bug(
        "shared memory that nobody wrote",
        *("row_norms", ROW, "w < threads / kWarp", "w < kMaxThreads / kWarp"),
        {Run("plain"): OTHER_BITS},
    ),
    Bug(
        "wide reads of rows that are not aligned",
        *("l2_step", ROW, "values || (aligned(sources) && ...)", "true"),
        {Run("asan", shared="0"): "misaligned address"},
    ),
    Bug(
        "shared memory that was not asked for",
        *("hyperplane_projection", ROW, "bytes + kStatic <= kWithoutAsking", "bytes <= kWithoutAsking"),
        {Run("plain"): "simt: launch with 49152 bytes of dynamic shared memory"},
    ),
]


@pytest.mark.parametrize(
    ("bug", "run"), [pytest.param(bug, run, id=f"{bug.name}: {run}") for bug in BUGS for run in bug.found]
)
def test_planted_bug_is_found(workshop: Workshop, bug: Bug, run: Run, tmp_path: Path) -> None:
    need(run.build)
    expected, objects = workshop.runs[RIGHT], workshop.drivers[run.build]
    sources, kernels = tmp_path / "csrc", tmp_path / "op.o"
    shutil.copytree(CSRC, sources)
    source = (sources / bug.file).read_text()
    assert source.count(bug.right) == 1
    (sources / bug.file).write_text(source.replace(bug.right, bug.wrong))
    op = ["-include", sources / "ops" / f"{bug.op}.h", "-x", "c++", "-c", os.devnull]
    cxx(*BUILDS[run.build], *CUDA, *op, "-o", kernels)
    objects.result()
    driver = workshop.link_driver(run.build, kernels)
    if bug.found[run] == OTHER_BITS:
        found = hashes(run, driver, bug.op)
        assert found.keys() == {call for call in expected.result() if call.startswith(bug.op + " ")}
        assert any(found[call] != expected.result()[call] for call in found)
    else:
        done = run(driver, bug.op)
        assert done.returncode != 0
        assert re.search(bug.found[run], done.stderr), gist(done.stderr)


# ------------------------------------------------------------------------------------------------------- the simulator


FAULTS = {
    "a thread skips a barrier": "a thread ended while others wait in __syncthreads",
    "a thread of a warp ends": "a thread ended while others of its warp wait in __syncwarp",
    "a warp vote without some": "a thread ended while others of its warp wait in __ballot_sync",
    "another mask": "__shfl_xor_sync of a part of a warp",
    "an incomplete warp": "__syncwarp of a part of a warp",
    "different operations": "__syncwarp while others of the warp wait in __shfl_xor_sync",
    "a deadlock": "deadlock: 32 threads wait in __syncthreads, the others for their warps",
    "many threads": "launch of 1025 threads a block",
    "no blocks": "launch of 0 blocks",
    "much shared memory": "launch with 49152 bytes of dynamic shared memory",
}


@pytest.fixture(scope="module")
def faults(workshop: Workshop) -> Path:
    program = workshop.folder / "faults"
    cxx(f"-I{SIMT}", SIMT / "faults.cpp", workshop.simulator, "-o", program)
    return program


@pytest.mark.parametrize("fault", FAULTS)
def test_the_simulator_aborts_and_says_why(faults: Path, fault: str) -> None:
    done = Run("plain")(faults, fault)
    assert done.returncode < 0
    assert f"simt: {FAULTS[fault]}" in done.stderr


@pytest.mark.parametrize("order", ["fair", "reverse", "1"])
def test_the_simulator_does_what_cuda_does(faults: Path, order: str) -> None:
    done = Run("plain", order)(faults)
    failed_in_first_block, failed_in_second, threads, lanes = 0, 0, 2 * 64, 2 * 16
    assert done.stdout.split() == [str(n) for n in (failed_in_first_block, failed_in_second, threads, lanes)]
