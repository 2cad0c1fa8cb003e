"""The compiled kernels: where they come from, and why they are missing where they are."""

import importlib.util
import json
import os
import re
import sys
import warnings
from pathlib import Path

import torch

from ._op import OPS

PASSES = ("max_pool", "stem_backward", "stem_weight_backward")
"""What compiled CPU kernels do in place of PyTorch's own functions where attacks and trainers pass through networks."""

RECORDED = Path(__file__).parents[1] / "_build.json"


def build_info() -> dict[str, str] | str:
    """How the compiled modules were made, or why that is unknown.

    ``_info`` says so (csrc/info.cpp), which knows one Python. A wheel for every Python has its words in a file.
    """
    try:
        from .. import _info
    except ImportError as error:
        if not RECORDED.is_file():
            return str(error)
        return json.loads(RECORDED.read_text()) | {"cpu_selected": _selected(Path("/proc/cpuinfo").read_text())}
    return dict(_info.build())


def _selected(cpuinfo: str) -> str:
    """Which of the instruction sets that kernels are compiled for a processor takes, as the loader decides it."""
    listed = re.search(r"^flags\s*:(.*)$", cpuinfo, re.MULTILINE)
    found = set(listed[1].split()) if listed else set()
    level3 = {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe"} <= found
    level4 = level3 and {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"} <= found
    return "AVX-512" if level4 else "AVX2" if level3 else "x86-64"


def repair(cuda: bool = False) -> str:
    """The command that compiles the modules again, for this interpreter; in place where fastadv is a checkout."""
    root = Path(__file__).parents[2]
    if (root / "setup.py").is_file():
        command = f"{sys.executable} setup.py build_ext --inplace"
        return f"cd {root} && {'FASTADV_CUDA=1 ' if cuda else ''}{command}"
    command = f"{sys.executable} -m pip install --force-reinstall --no-deps --no-build-isolation CHECKOUT_OF_FASTADV"
    return f"FASTADV_CUDA=1 {command}" if cuda else command


def load(module: str) -> str | None:
    """Loads fastadv._cpu or fastadv._cuda, which register their kernels; says why where that fails."""
    if os.environ.get("FASTADV_NO_EXT") == "1":
        return "switched off by FASTADV_NO_EXT=1"
    spec = importlib.util.find_spec(f"fastadv.{module}")
    found = build_info() if module == "_cuda" else ""
    build = found if isinstance(found, dict) else {}
    if spec is None or spec.origin is None:
        if build.get("cuda_obstacle"):
            return f"fastadv was built without them, against torch {build['torch']}: {build['cuda_obstacle']}"
        return f"fastadv/{module} is not installed"
    built_for, here = (version.split(".")[0] for version in (build.get("cuda", ""), torch.version.cuda or ""))
    if built_for and here and built_for != here:  # it may load all the same, where the system has libcudart, too
        return (
            f"{Path(spec.origin).name} is for PyTorch with CUDA {built_for}, and PyTorch {torch.__version__} has CUDA "
            f"{here}"
        )
    try:
        torch.ops.load_library(spec.origin)
    except OSError as error:
        return f"{Path(spec.origin).name} does not load: {error.__cause__ or error}"
    return None


MISSING: dict[str, str | None] = {"cpu": load("_cpu"), "cuda": load("_cuda")}
"""Why the compiled kernels of a device are missing, or None where they are there."""

if os.environ.get("FASTADV_NO_EXT") != "1":
    for _device in ("cpu", "cuda"):
        if MISSING[_device] and (_device == "cpu" or torch.cuda.is_available()):
            warnings.warn(
                f"fastadv runs without its compiled {_device} kernels, in slower plain PyTorch: {MISSING[_device]}. "
                f"To compile them: {repair(_device == 'cuda')}",
                RuntimeWarning,
                stacklevel=3,
            )


def backend(op: str, device: str = "cpu") -> str:
    """What runs `op` on `device` ("cpu" or "cuda"): "compiled", or "reference: " and the reason.

    For one of `PASSES` it is "compiled", or "PyTorch: " and the reason. Raises KeyError for an unknown op or device.
    """
    if op in PASSES:
        reason = {"cpu": MISSING["cpu"], "cuda": "there are CPU kernels only"}[device]
        return f"PyTorch: {reason}" if reason else "compiled"
    OPS[op]
    if torch._C._dispatch_has_kernel_for_dispatch_key(f"fastadv::{op}", {"cpu": "CPU", "cuda": "CUDA"}[device]):
        return "compiled"
    return f"reference: {MISSING[device] or 'this build of fastadv lacks it'}"
