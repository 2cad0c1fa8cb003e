"""The doctor: what is installed, which backend every op uses, and how to repair what is missing."""

import os
import platform
import sys
from pathlib import Path
from typing import Any

import numpy
import torch

from . import ops
from ._version import __version__
from .float32 import float32_precision


def environment() -> dict[str, Any]:
    """Versions, devices, build and backends, as plain values."""
    devices = [f"cpu, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"]
    devices += [f"cuda:{i}, {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    return {
        "fastadv": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "platform": platform.platform(),
        "devices": devices,
        "float32 on GPUs": float32_precision(),
        "build": ops.build_info(),
        "backends": {
            name: {device: ops.backend(name, device) for device in ("cpu", "cuda")} for name in (*ops.OPS, *ops.PASSES)
        },
    }


def doctor() -> str:
    """The report of ``fastadv info``."""
    found = environment()
    build = found["build"]
    lines = [
        f"fastadv {found['fastadv']}  {Path(__file__).parent}",
        f"python  {found['python']}  {sys.executable}",
        f"torch   {found['torch']}   numpy {found['numpy']}   {found['platform']}",
        *(f"device  {device}" for device in found["devices"]),
        "",
    ]
    if isinstance(build, str):
        lines += [f"build   unknown: {build}"]
    else:
        cuda = f"CUDA {build['cuda']} for {build['cuda_architectures']}" if build["cuda"] else "none"
        lines += [
            f"build   against torch {build['torch']} by {build['compiler']}{_runs_with(build['torch'])}",
            f"        CPU kernels for {build['cpu_targets']}; this machine runs {build['cpu_selected']}",
            f"        CUDA kernels: {cuda}",
        ]
    width = max(len(name) for name in found["backends"])
    lines += ["", f"{'op':{width}} {'cpu':10} cuda"]
    for name, backends in found["backends"].items():
        cpu, cuda = (backends[device].split(":")[0] for device in ("cpu", "cuda"))
        lines.append(f"{name:{width}} {cpu:10} {cuda}")
    lines += [f"No compiled {device} kernels: {reason}" for device, reason in ops.MISSING.items() if reason]
    return "\n".join([*lines, "", *_repairs()])


def _runs_with(built: str) -> str:
    return "" if built == torch.__version__ else f"; it runs with {torch.__version__}, as any torch from 2.10 on"


def _repairs() -> list[str]:
    if os.environ.get("FASTADV_NO_EXT") == "1":
        return ["The kernels are switched off: unset FASTADV_NO_EXT to use them."]
    if ops.MISSING["cpu"]:
        return [f"Plain PyTorch runs in place of the CPU kernels: correct, but slower. To compile them: {ops.repair()}"]
    if ops.MISSING["cuda"] and torch.version.cuda:
        major = torch.version.cuda.split(".")[0]
        return [
            "On a GPU, plain PyTorch runs in place of the CUDA kernels: correct, but slower.",
            f"To compile them, with the nvcc of a CUDA {major} toolkit on PATH: {ops.repair(cuda=True)}",
            *([] if torch.cuda.is_available() else ["No GPU is visible here: without one there is nothing to do."]),
        ]
    if ops.MISSING["cuda"]:
        return ["Everything that this PyTorch can run is in place: it is a CPU build."]
    return ["Everything that can run here is in place."]
