"""The CUDA kernels without a GPU: csrc/cuda/kernels.cu as it is, compiled by g++ against tests/simt, run on the CPU.

Linked with the CPU's glue, they answer to the ops on CPU tensors, and the tests of tests/ops run against them
in a process of its own. Linked with tests/simt/driver.cpp, they run without torch: in several orders of threads, beside
the CPU's kernels, and under sanitizers. Planted bugs show that each of these ways finds what it is there for.
"""

import os
import re
import shutil
import signal
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
CSRC, SIMT, OPS = ROOT / "csrc", ROOT / "tests" / "simt", ROOT / "tests" / "ops"
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


SANITIZES = bool(os.environ.get("FASTADV_SANITIZERS"))
UNASKED = "sanitizers and planted bugs take ten minutes and more: make test-sanitizers"


@cache
def launcher(build: str) -> list[str] | None:
    """What to put before a program of that build for it to run here; None where none does."""
    if build in ("asan", "tsan") and not SANITIZES:
        return None
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
    if not SANITIZES and build in ("asan", "tsan"):
        pytest.skip(UNASKED)
    if launcher(build) is None:
        pytest.skip(
            f"{' '.join(BUILDS[build])}: no such program compiles and runs here (are libasan and libtsan there?)"
        )


@dataclass(frozen=True)
class Run:
    """A way to run the driver."""

    build: str
    order: str = "fair"
    device: str = "sm_90"
    rows: str = ""  # "far" or "long", as the driver knows them

    def __str__(self) -> str:
        device = "" if self.device == "sm_90" else self.device
        return "-".join(filter(None, (self.build, self.order, device, self.rows)))

    def __call__(self, driver: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        env = os.environ | {"SIMT_ORDER": self.order, "SIMT_DEVICE": self.device} | environment
        if self.rows == "far":
            env |= {"SIMT_LAST": "20"}  # of millions of blocks
        env |= {"ASAN_OPTIONS": "detect_leaks=0", "TSAN_OPTIONS": "halt_on_error=1"}
        command = [*launcher(self.build), driver, *arguments, *filter(None, [self.rows])]
        return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


RIGHT, *OTHERS = [
    *(Run("plain", order) for order in ("fair", "reverse", "1", "2")),
    *(Run("plain", device="tiny"), Run("cpu")),
    *(Run("asan", "reverse"), Run("asan", "3", "tiny")),
    *(Run("tsan", "reverse"), Run("tsan", "4", "tiny")),
]
FAR = Run("plain", rows="far")
Hashes = dict[str, tuple[str, str]]


def hashes(run: Run, driver: Path, *ops: str) -> Hashes:
    """What the driver prints, by call: the hash of the bits, and that of the values as float32."""
    done = run(driver, *ops)
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

    def floats(self, run: Run, op: str) -> dict[str, str]:
        """What a run of the driver gives as float32, by call."""
        return {call: floats for call, (_, floats) in hashes(run, self.drivers[run.build].result(), op).items()}

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

    def build_faults(self, build: str) -> Path:
        program = self.folder / f"faults-{build}"
        cxx(*BUILDS[build], f"-I{SIMT}", SIMT / "faults.cpp", self.simulator, "-o", program)
        return program

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
    tests = [OPS, "--ignore", OPS / "test_properties.py"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, *options]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


def test_the_table_of_ops_in_a_random_order_of_threads(workshop: Workshop) -> None:
    # But for what is about torch, and about the CPU's threads; the driver below has all types.
    run_table(workshop, "-k", "not (opcheck or fakes or compile or large_calls)", "-m", "not thorough", SIMT_ORDER="7")


@pytest.mark.parametrize("order", ["fair", "reverse"])
def test_reductions_in_other_orders(workshop: Workshop, order: str) -> None:
    run_table(workshop, "-k", "row_norms", SIMT_ORDER=order)


def test_rows_that_do_not_fit_into_shared_memory(workshop: Workshop) -> None:
    holding = sorted(
        path.stem for path in (CSRC / "ops").glob("*.h") if re.search(r"for_rows<\w+, \d", path.read_text())
    )
    assert "l2_step" in holding
    run_table(workshop, "-k", f"equals_its_reference and ({' or '.join(holding)})", SIMT_ORDER="7", SIMT_DEVICE="tiny")


# -------------------------------------------------------------------------------------------- the kernels, on their own


@pytest.mark.parametrize("run", OTHERS, ids=str)
def test_every_run_gives_the_same_values(workshop: Workshop, run: Run) -> None:
    need(run.build)
    expected, found = workshop.runs[RIGHT].result(), workshop.runs[run].result()
    # Where a row is not held, or on the CPU, sums of doubles are taken in another order.
    exact = run.build != "cpu" and run.device == RIGHT.device
    assert len(found) == len(expected) > 1000
    for call, (bits, floats) in expected.items():
        assert found[call][1] == floats, call
        assert found[call][0] == bits or not exact, call


def test_the_driver_calls_every_op(workshop: Workshop) -> None:
    assert {call.split()[0] for call in workshop.runs[RIGHT].result()} == set(ops.OPS)


def test_rows_beyond_the_2_31st_element_are_the_same(workshop: Workshop) -> None:
    expected, found = workshop.runs[RIGHT].result(), hashes(FAR, workshop.drivers["plain"].result())
    assert {call.split()[0] for call in found} == set(ops.OPS) - {"early_stop"}  # one block, which sees all rows
    assert found == {call: expected[call] for call in found}


@pytest.mark.parametrize("device", ["sm_90", "sm_80", "tiny"])
def test_rows_that_no_block_and_no_cluster_can_hold(workshop: Workshop, device: str) -> None:
    """All types of `for_rows` with held rows: sums, a selection, and rows that are recomputed from no memory."""
    on_cpu, simulated = Run("cpu", rows="long"), Run("plain", device=device, rows="long")
    for op in ("l2_step", "topp_step", "random_start"):
        expected = workshop.floats(on_cpu, op)
        assert len(expected) >= 4
        assert workshop.floats(simulated, op) == expected


def test_a_launch_that_fails_is_an_error_of_the_op(workshop: Workshop) -> None:
    done = RIGHT(workshop.drivers["plain"].result(), SIMT_FAIL="1")
    assert (done.returncode, done.stderr) == (0, "")
    for op, _, _, shape, *result in map(str.split, done.stdout.splitlines()):
        assert result == ["error", "719"] or "0" in shape.split("+")[0].split("x"), op


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
        *("row_norms", ROW, "    __syncthreads();\n    part = joined", "    part = joined"),
        {Run("plain"): OTHER_BITS, TSAN: RACE},
    ),
    Bug(
        "parts written where others may still read the last",
        *("l2_step", ROW, "    turn ^= 1;\n    return part;", "    return part;"),
        {TSAN: RACE},
    ),
    Bug(
        "a thread that passes by a barrier",
        *("row_norms", ROW, "    __syncthreads();\n    part =", "    if (thread) __syncthreads();\n    part ="),
        {Run("plain"): "simt: (deadlock|.* ended)"},
    ),
    Bug(
        "no barrier before the blocks' parts are read",
        *("row_norms", ROW, "        wait_for_cluster();\n        part = joined", "        part = joined"),
        {TSAN: RACE},
    ),
    Bug(
        "blocks that do not wait until all run",
        *("row_norms", ROW, "  if (blocks > 1) wait_for_cluster();", "  //"),
        {Run("plain"): "simt: another block's shared memory before all blocks of the cluster run"},
    ),
    Bug(
        "the bins of one block, not of all",
        *("topp_step", ROW, "in_block(bins, block)[threadIdx.x]", "bins[threadIdx.x]"),
        {Run("plain"): "simt: .* ended"},  # blocks that count otherwise go separate ways
    ),
    Bug(
        "bins that are counted before all are clear",
        *("topp_step", ROW, "bins[bin] = 0;\n    sync();", "bins[bin] = 0;"),
        {TSAN: RACE},
    ),
    Bug(
        "bins that are read before all have counted",
        *(
            "topp_step",
            ROW,
            "    sync();\n    if constexpr (kind == Kind::far) {\n      Count",
            "    if constexpr (kind == Kind::far) {\n      Count",
        ),
        {Run("plain"): "simt: .* ended", TSAN: RACE},
    ),
    Bug(
        "warps that share their bins",
        *("topp_step", ROW, "reinterpret_cast<Board*>(shared) + group", "reinterpret_cast<Board*>(shared) + group / 2"),
        {TSAN: RACE},
    ),
    Bug(
        "elements that two threads take",
        *("linf_step", ROW, "threads + thread) * N; }", "threads + thread / 2 * 2) * N; }"),
        {Run("plain"): OTHER_BITS, TSAN: RACE},
    ),
    Bug(
        "a tau written before all have read it",
        *("early_stop", "ops/early_stop.h", "    row.sync();", "    //"),
        {TSAN: RACE},
    ),
    Bug(
        "a size written before all have read it",
        *("keep_nearest", "ops/keep_nearest.h", "    row.sync();  // everyone has read the size\n", ""),
        {TSAN: RACE},
    ),
    Bug(
        "counts written again before all have read them",
        *("early_stop", ROW, "    __syncthreads();  // before `kept`", "    // before `kept`"),
        {Run("plain", "reverse"): OTHER_BITS, TSAN: RACE},
    ),
    Bug(
        "held rows that overlap",
        *("apgd_step", ROW, "scratch + Slot * slot", "scratch + Slot * (slot - N)"),
        {Run("plain"): OTHER_BITS},
    ),
    Bug(
        "an index that runs over by one",
        *("linf_step", ROW, "          if (first + k < size) to[", "          if (first + k <= size) to["),
        {ASAN: OVERRUN},
    ),
    Bug(
        "too little dynamic shared memory",
        *("l2_step", ROW, "kFixed + Slots * held * pack * kValue,", "kFixed + Slots * held * pack * kValue - kFixed,"),
        {ASAN: OVERRUN},
    ),
    Bug(
        "too little static shared memory",
        *("early_stop", ROW, "int kept[kThreads / kWarp]", "int kept[kThreads / kWarp - 1]"),
        {ASAN: "index 7 out of bounds"},
    ),
    Bug(
        "shared memory that nobody wrote",
        *("row_norms", ROW, "lane < count ? values[lane] : none", "values[lane]"),
        {Run("plain"): OTHER_BITS},
    ),
    Bug(
        "wide reads of rows that are not aligned",
        *("l2_step", ROW, "aligned16(from) && size", "size"),
        {ASAN: "misaligned address"},
    ),
    Bug(
        "a row's offset of 32 bits",
        *("l2_step", ROW, "const from = source + index * cols", "const from = source + static_cast<int>(index * cols)"),
        {FAR: "Segmentation fault"},
    ),
    Bug(
        "a segment's offset of 32 bits",
        *("linf_step", ROW, "int64_t(blockIdx.x % segments) * kSegment<T>", "int(blockIdx.x % segments * kSegment<T>)"),
        {FAR: "Segmentation fault"},
    ),
    Bug(
        "a launch on the default stream",
        *("l2_step", ROW, "static_cast<cudaStream_t>(launch.stream)", "nullptr"),
        {Run("plain"): "simt: launch on another stream"},
    ),
    Bug(
        "more threads than the kernel is compiled for",
        *(
            "row_norms",
            ROW,
            "__launch_bounds__(kThreads, 2) rows_kernel",
            "__launch_bounds__(kThreads / 2) rows_kernel",
        ),
        {Run("plain"): "simt: launch of 256 threads a block, beyond the launch bounds of 128"},
    ),
    Bug(
        "a launch whose failure nobody asks for",
        *("l2_step", ROW, "return cudaGetLastError();", "return kOk;"),
        {Run("plain"): "simt: a launch before cudaGetLastError was asked about the last"},
    ),
    Bug(
        "shared memory that was not asked for",
        *("l2_step", ROW, "grid.shared <= kWithoutAsking ||", "grid.shared <= 2 * kWithoutAsking ||"),
        {Run("plain", device="sm_80"): "simt: launch with .* bytes of dynamic shared memory"},
    ),
]


@pytest.mark.parametrize(
    ("bug", "run"), [pytest.param(bug, run, id=f"{bug.name}: {run}") for bug in BUGS for run in bug.found]
)
@pytest.mark.skipif(not SANITIZES, reason=UNASKED)
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
        assert found.keys() <= {call for call in expected.result() if call.startswith(bug.op + " ")}
        assert any(found[call] != expected.result()[call] for call in found)
    else:
        done = run(driver, bug.op)
        assert done.returncode != 0
        assert re.search(bug.found[run], done.stderr or signal.strsignal(-done.returncode)), gist(done.stderr)


# ------------------------------------------------------------------------------------------------------- the simulator


FAULTS = {
    "a thread skips a barrier": "a thread ended while others wait in __syncthreads",
    "a thread of a warp ends": "a thread ended while others of its warp wait in __syncwarp",
    "a warp vote without some": "a thread ended while others of its warp wait in __ballot_sync",
    "another mask": "__shfl_sync of a part of a warp",
    "an incomplete warp": "__syncwarp of a part of a warp",
    "different operations": "__syncwarp while others of the warp wait in __shfl_sync",
    "a deadlock": "deadlock: 32 threads wait in __syncthreads, the others for their warps",
    "many threads": "launch of 1025 threads a block",
    "more threads than the bounds": "launch of 160 threads a block, beyond the launch bounds of 128",
    "no blocks": "launch of 0 blocks",
    "much shared memory": "launch with 49152 bytes of dynamic shared memory",
    "another stream": "launch on another stream",
    "a launch not asked about": "a launch before cudaGetLastError was asked about the last",
    "a last launch not asked about": "the program ended before cudaGetLastError was asked",
    "a large cluster": "launch of clusters of 16 blocks",
    "half a cluster": "launch of 3 blocks in clusters of 2",
    "a block that may not run yet": "another block's shared memory before all blocks of the cluster run",
    "a block that may have ended": "another block's shared memory after that has ended",
    "a block skips a barrier of the cluster": "a thread ended while others of its cluster wait for it",
    "a static array in a cluster": "a __shared__ array in a cluster",
}


@pytest.fixture(scope="module")
def faults(workshop: Workshop) -> Path:
    return workshop.build_faults("plain")


def test_a_race_between_blocks_is_found(workshop: Workshop) -> None:
    need("tsan")
    assert RACE in TSAN(workshop.build_faults("tsan"), "a race between blocks").stderr


@pytest.mark.parametrize("fault", FAULTS)
def test_the_simulator_aborts_and_says_why(faults: Path, fault: str) -> None:
    done = Run("plain")(faults, fault)
    assert done.returncode < 0
    assert f"simt: {FAULTS[fault]}" in done.stderr


@pytest.mark.parametrize("order", ["fair", "reverse", "1"])
def test_the_simulator_does_what_cuda_does(faults: Path, order: str) -> None:
    done = Run("plain", order)(faults)
    failed_in_first_block, failed_in_second, threads, lanes = 0, 0, 2 * 64, 2 * 16
    seen_in_clusters = 3 * sum(range(10, 16))
    numbers = (failed_in_first_block, failed_in_second, threads, lanes, seen_in_clusters)
    assert done.stdout.split() == [str(n) for n in numbers]
