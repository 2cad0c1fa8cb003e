"""What an H200 should make of the CUDA kernels, predicted without one: ``python -m benchmarks.roofline [OUT.json]``.

Compiles csrc/cuda/kernels.cu for sm_90 and reads the machine code. A call takes the longest of four times:

- memory: the bytes that it has to move, at the bandwidth of a large copy;
- issue: the instructions of its warps, at 4 a clock and processor;
- pipes: those of them that a processor does less often, such as float to double;
- latency: a block's memory accesses, barriers and instructions one after the other, in as many waves of blocks as
  registers, shared memory and threads allow.

The instructions are those of the longest way through the kernel on which accesses have 16 bytes, nothing is NaN, and
loops run as often as `Loops` says. Caches, other kernels and a warm device's clock are left out: these are
**predictions**, to be replaced by measurements.
"""

import json
import re
import shutil
import subprocess
import sys
import sysconfig
from collections import Counter
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory

SOURCE = Path(__file__).parent.parent / "csrc" / "cuda" / "kernels.cu"
FLAGS = ["-O3", "-std=c++17", "-fmad=false", "--expt-relaxed-constexpr"]  # as in setup.py
DTYPES = {"f": "float32", "d": "float64", "6__half": "float16", "13__nv_bfloat16": "bfloat16"}
LAWS = ("uniform", "sign", "gaussian", "l2", "l1")
NAME = re.compile(r"_ZN7fastadv\d+(\w+?)_kernelI(\w+?)NS_\d+([A-Za-z0-9]+?)I(?:f|d|S1_)(?:LNS_3LawE(\d)E)?E")

Blocks = dict[str, list[str]]


@dataclass
class Kernel:
    """One kernel as ptxas made it."""

    kind: str  # segments, rows, long_rows or partition
    body: str  # with the law, where it has one
    dtype: str
    registers: int
    stack: int  # bytes: arrays in memory, and spilled registers
    spilled: int  # bytes written
    shared: int  # bytes of static shared memory
    code: Blocks | None = None  # instructions, by label; None without nvdisasm

    @cached_property
    def instructions(self) -> list[str]:
        return [one for block in (self.code or {}).values() for one in block]


def nvdisasm() -> str | None:
    """The program, on PATH, or of the package nvidia-cuda-nvdisasm."""
    packages = Path(sysconfig.get_path("purelib"), "nvidia").glob("*/bin/nvdisasm")
    return shutil.which("nvdisasm") or next(map(str, packages), None)


def compiled(nvcc: str, arch: str, folder: Path, *options: str) -> list[Kernel]:
    """The kernels for `arch`, such as sm_90."""
    cubin = folder / f"{arch}.cubin"
    command = [nvcc, "-cubin", f"-arch={arch}", *FLAGS, *options, "-Xptxas", "-v", SOURCE, "-o", cubin]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    code = disassembled(cubin)
    kernels = []
    for report in re.split(r"Compiling entry function '", done.stderr)[1:]:
        name = report.partition("'")[0]
        kind, dtype, body, law = NAME.match(name).groups()
        used = {
            what: int(n)
            for n, what in re.findall(r"(\d+) (bytes stack|bytes spill stores|registers|bytes smem)", report)
        }
        sizes = (used["registers"], used["bytes stack"], used["bytes spill stores"], used.get("bytes smem", 0))
        body += f" {LAWS[int(law)]}" if law else ""
        kernels.append(Kernel(kind, body, DTYPES[dtype], *sizes, code and code[name]))
    return kernels


def disassembled(cubin: Path) -> dict[str, Blocks] | None:
    if nvdisasm() is None:
        return None
    text = subprocess.run([nvdisasm(), "-c", cubin], capture_output=True, text=True, check=True).stdout
    kernels = {}
    for section in re.split(r"\n\s*\.section\s+\.text\.", text)[1:]:
        name, _, body = section.partition(",")
        blocks: Blocks = {"": []}
        for line in body.splitlines():
            if label := re.match(r"(\.L_x_\d+):", line):
                blocks[label[1]] = []
            elif instruction := re.search(r"/\*[0-9a-f]{4,6}\*/\s+(.*?)\s*;", line):
                blocks[next(reversed(blocks))].append(instruction[1])
        kernels[name] = blocks
    return kernels


# -------------------------------------------------------------------------------------------------- the way through


@dataclass(frozen=True)
class Loops:
    """How often loops run: those that count bins, and the others."""

    bins: int = 1
    others: int = 1


def operation(instruction: str) -> str:
    return re.sub(r"^@!?U?P\d+ ", "", instruction).split()[0]


def off_the_way(piece: list[str], flags: bool) -> bool:
    """Accesses element by element, or a flag for NaN, unless `flags` are on the way."""
    narrow = [one for one in map(operation, piece) if re.match(r"(LDG|STG)\.E(?!\.128)", one)]
    loads = sum(one.startswith("LDG") for one in narrow)
    flagged = any(one.startswith("STG.E.U8") for one in narrow)
    return loads >= 4 or len(narrow) - loads >= 2 or (flagged and not flags)


def pieces_of(blocks: Blocks, flags: bool) -> tuple[list[list[str]], list[list[int]]]:
    """Straight pieces of code, and which may follow each; warps do not diverge, and leave the way nowhere."""
    pieces: list[list[str]] = []
    places: dict[str, int] = {}
    for label, instructions in blocks.items():
        places[label] = len(pieces)
        pieces.append([])
        for one in instructions:
            pieces[-1].append(one)
            if re.match(r"BRA(?!\.DIV)|EXIT|RET", operation(one)):
                pieces.append([])
    follow: list[list[int]] = []
    for n, piece in enumerate(pieces):
        last = piece[-1] if piece else ""
        target = re.search(r"BRA .*`\((\.L_x_\d+)\)", last)
        falls = not re.match(r"(BRA|EXIT|RET)(?!\.DIV)", last) and n + 1 < len(pieces)
        after = ([places[target[1]]] if target else []) + ([n + 1] if falls else [])
        follow.append([m for m in after if not off_the_way(pieces[m], flags)])
    return pieces, follow


def loops_of(follow: list[list[int]]) -> tuple[dict[int, set[int]], list[int]]:
    """The pieces of each loop, by its first, and all in an order in which only the ends of loops look back."""
    order: list[int] = []
    ends: dict[int, set[int]] = {}
    state: dict[int, bool] = {}  # False: on the way to here
    stack = [(0, iter(follow[0]))]
    state[0] = False
    while stack:
        n, after = stack[-1]
        m = next(after, None)
        if m is None:
            state[n] = True
            order.append(n)
            stack.pop()
        elif m not in state:
            state[m] = False
            stack.append((m, iter(follow[m])))
        elif not state[m]:
            ends.setdefault(m, set()).add(n)
    before: dict[int, set[int]] = {}
    for n in order:
        for m in follow[n]:
            before.setdefault(m, set()).add(n)
    loops = {}
    for first, last in ends.items():
        inside, reached = {first} | last, list(last - {first})
        while reached:
            more = before.get(reached.pop(), set()) - inside
            inside |= more
            reached += more
        loops[first] = inside
    return loops, order


def longest_way(kernel: Kernel, loops: Loops, pieces_of_a_row: int = 1) -> Counter[str]:
    """How often a warp does each operation. Where rows are long, the innermost loops run over their pieces."""
    counts = way_with(kernel, loops, pieces_of_a_row, flags=False)
    return counts if counts["LDG.E.128"] else way_with(kernel, loops, pieces_of_a_row, flags=True)


def way_with(kernel: Kernel, loops: Loops, pieces_of_a_row: int, flags: bool) -> Counter[str]:
    pieces, follow = pieces_of(kernel.code or {}, flags)
    found, order = loops_of(follow)
    times = [1.0] * len(pieces)
    for first, inside in found.items():
        counts = any("ATOMS" in one for n in inside for one in pieces[n])
        innermost = not any(other in inside for other in found if other != first)
        often = loops.bins if counts else loops.others
        for n in inside:
            times[n] *= pieces_of_a_row if kernel.kind == "long_rows" and innermost else often
    position = {n: i for i, n in enumerate(order)}
    ways: dict[int, tuple[float, Counter[str]]] = {}
    for n in order:  # what follows comes first
        after = [ways[m] for m in follow[n] if position[m] < position[n] and m in ways]
        if not after and not (pieces[n] and operation(pieces[n][-1]) == "EXIT"):
            continue
        length, counts = max(after, key=lambda way: way[0]) if after else (0.0, Counter())
        own = Counter({one: count * times[n] for one, count in Counter(map(operation, pieces[n])).items()})
        ways[n] = length + own.total(), counts + own
    return ways[0][1]


# ------------------------------------------------------------------------------------------------------- the device


@dataclass(frozen=True)
class Device:
    """What NVIDIA's pages and tuning guide say of an H200, and two guesses: a copy's bandwidth, and latencies."""

    processors: int = 132
    clock: float = 1.755e9  # Hz, sustained
    copy: float = 4.2e12  # bytes/s, read and written together: 0.88 of 4.8 TB/s
    registers: int = 65536  # of a processor
    shared: int = 228 * 1024
    threads: int = 2048
    blocks: int = 32
    access: float = 0.8e-6  # s, from issuing a load under load to its arrival
    barrier: float = 0.04e-6
    cluster_barrier: float = 0.4e-6
    launch: float = 2.5e-6


# How many lanes a processor serves a clock, where it is not all 128.
PIPES = {
    "convert": (r"F2F|I2F\.F64|F2I\.F64|MUFU", 16),
    "double": (r"D(ADD|MUL|FMA|SETP)", 64),
    "shared": (r"(LDS|STS|ATOMS|SHFL|LDSM)", 32),
    "integer": (r"IMAD\.(WIDE|HI)", 64),
}


@dataclass(frozen=True)
class Case:
    """A call: its kernel's body, the samples' bytes read and written, held rows, and how often loops run."""

    op: str
    body: str
    moves: float
    elementwise: bool = False
    slots: int = 0
    loops: Loops = Loops(others=0)
    target: float = 0.85


DIGITS = Loops(bins=3, others=0)  # after which two of a few thousand floats are still alike
CASES = [
    Case("linf_step", "LinfStep", 4, elementwise=True),
    Case("linf_step momentum", "MomentumStep", 6, slots=1),
    Case("l2_step", "L2Step", 4, slots=1),
    Case("l1_step", "L1Step", 4, slots=1, loops=Loops(others=5)),
    Case("l0_step", "L0Step", 4, slots=1, loops=DIGITS, target=0.5),
    Case("sparse_l1_step", "SparseL1Step", 4, slots=1, loops=Loops(bins=3, others=8), target=0.4),
    Case("topp_step", "ToppStep", 4, slots=1, loops=DIGITS, target=0.5),
    Case("topp_step simplex", "ToppStep", 4, slots=1, loops=Loops(bins=3, others=5), target=0.5),
    Case("row_norms", "RowNorms", 2),
    Case("cutoff_scale", "CutoffScale", 3, elementwise=True),
    Case("bisect_step", "BisectStep", 4, elementwise=True),
    Case("deepfool_step", "DeepfoolStep", 14, slots=1, loops=Loops(others=9), target=0.5),
    Case("random_start", "RandomStart uniform", 2),
    Case("random_start gaussian", "RandomStart gaussian", 2),
    Case("random_start l2", "RandomStart l2", 2, slots=1),
    Case("hyperplane_projection", "HyperplaneProjection", 3, slots=1, loops=Loops(others=6)),
    Case("apgd_step", "ApgdStep", 5, elementwise=True),
    Case("apgd_step l2", "ApgdL2Step", 5, slots=2),
    Case("adam_step", "AdamStep", 8, elementwise=True),
    Case("l0_adam_step", "L0AdamStep", 8, slots=1),
    Case("fab_step", "FabStep", 4, slots=1, loops=Loops(others=6)),
    Case("keep_nearest", "KeepNearest", 3),
]
SHAPES = ((24576, 3072), (128, 3072), (64, 3 * 224 * 224), (8, 1 << 20))
WIDTH, DEEP, BLOCK, WARP, BOARD = 16, 64, 256, 32, 2816 + 2048  # csrc/cuda/row.h
HELD, CLUSTER = 64 * 1024, 16


def resident(device: Device, registers: int, threads: int, shared: int) -> int:
    """The blocks that a processor runs at once."""
    warps = threads // WARP
    by_registers = device.registers // (ceil(registers / 8) * 8 * WARP) // warps
    return min(by_registers, device.shared // (shared + 1024), device.threads // threads, device.blocks)


def predicted(device: Device, case: Case, kernels: dict[tuple[str, str], Kernel], rows: int, cols: int) -> dict:
    """Seconds of a call with float32, by what takes them, and the share of a copy's bandwidth that it reaches."""
    near = DEEP // 4 * BLOCK
    kind = "segments" if case.elementwise else "rows" if cols <= near else "long_rows"
    kernel = kernels[kind, case.body]
    cluster, pieces, held = 1, 1, 1.0
    if kind == "segments":
        threads, blocks, shared = min(BLOCK, ceil(cols / (DEEP // 4 * WARP)) * WARP), rows * ceil(cols / near), 0
    elif kind == "rows":
        threads, blocks, shared = ceil(cols / (DEEP // 4 * WARP)) * WARP, rows, BOARD
    else:
        while cluster < CLUSTER and cols * 4 * max(case.slots, 1) > cluster * HELD:
            cluster *= 2
        threads, blocks, pieces = BLOCK, rows * cluster, ceil(cols / (BLOCK * WIDTH // 4 * cluster))
        most = (device.shared - 1024 - BOARD) // (BLOCK * WIDTH) // max(case.slots, 1)
        held = min(1.0, most / pieces)
        shared = BOARD + case.slots * min(pieces, most) * BLOCK * WIDTH
    counts = longest_way(kernel, case.loops, pieces)
    warps = blocks * threads / WARP
    cycles = device.processors * device.clock
    issue = warps * counts.total() / (4 * cycles)
    pipes = max(
        warps * WARP * sum(n for one, n in counts.items() if re.match(pattern, one)) / (lanes * cycles)
        for pattern, lanes in PIPES.values()
    )
    barriers = sum(n for one, n in counts.items() if one.startswith("BAR")) * device.barrier
    barriers += sum(n for one, n in counts.items() if one.startswith("UCGABAR_WAIT")) * device.cluster_barrier
    together = resident(device, kernel.registers, threads, shared)
    # Loads are waited for once, those of long rows piece by piece, with two under way, and those of each class.
    waits = (
        1 + (0 if kind != "long_rows" else (pieces - 1) / 2) + (case.loops.others if case.body == "DeepfoolStep" else 0)
    )
    alone = waits * device.access + barriers + counts.total() * threads / WARP / (4 * device.clock)
    waves = blocks / (together * device.processors)
    latency = alone * (ceil(waves) if waves < 4 else waves + 0.5)
    moved = case.moves * rows * cols * 4
    again = (1 - held) * rows * cols * 4 * max(1, case.loops.others, case.loops.bins)  # recomputed
    times = {"memory": (moved + again) / device.copy, "issue": issue, "pipes": pipes, "latency": latency}
    copy = moved / device.copy
    copied = max(copy, 2 * device.access) + device.launch
    share = copied / (max(times.values()) + device.launch)
    return {
        "op": case.op,
        "shape": f"{rows}x{cols}",
        "kernel": kind,
        "registers": kernel.registers,
        "threads": threads,
        "cluster": cluster,
        "resident threads": together * threads,
        "instructions an element": round(counts.total() * warps * WARP / (rows * cols), 1),
        "bytes an element": case.moves * 4,
        "bound": max(times, key=times.get),
        "predicted us": round(1e6 * (max(times.values()) + device.launch), 1),
        "predicted share of copy": round(min(1.0, share), 2),
        "target": case.target,
    }


def table(results: list[dict]) -> str:
    columns = (
        "op",
        "shape",
        "registers",
        "instructions an element",
        "bound",
        "predicted us",
        "predicted share of copy",
    )
    lines = ["| " + " | ".join(columns) + " |", "| --- | --- | --: | --: | --- | --: | --: |"]
    for one in results:
        missed = " (misses)" if one["predicted share of copy"] < one["target"] else ""
        lines.append("| " + " | ".join(str(one[column]) for column in columns) + missed + " |")
    return "\n".join(lines)


def main(out: str | None) -> None:
    nvcc = shutil.which("nvcc")
    if nvcc is None or nvdisasm() is None:
        sys.exit("needs nvcc, and nvdisasm (pip install nvidia-cuda-nvdisasm)")
    with TemporaryDirectory() as folder:
        kernels = compiled(nvcc, "sm_90", Path(folder))
    named = {(one.kind, one.body): one for one in kernels if one.dtype == "float32"}
    results = [predicted(Device(), case, named, *shape) for shape in SHAPES for case in CASES]
    print(table(results))
    if out:
        content = {"predicted, not measured": str(date.today()), "device": vars(Device()), "results": results}
        Path(out).write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:2] or [None])
