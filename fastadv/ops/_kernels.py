"""The compiled kernels: where they come from, and why they are missing where they are."""

import importlib.util
import os
import sys
import warnings
from pathlib import Path

import torch

from ._op import OPS

PASSES = ("max_pool", "stem_backward")
"""What compiled CPU kernels do in place of PyTorch's own functions where attacks pass through networks."""


def build_info() -> dict[str, str] | str:
    """How the compiled modules were made (csrc/info.cpp), or why that is unknown."""
    try:
        from .. import _info
    except ImportError as error:
        return str(error)
    return dict(_info.build())


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
    if spec is None or spec.origin is None:
        build = build_info()
        if module == "_cuda" and isinstance(build, dict) and build["cuda_obstacle"]:
            return f"fastadv was built without them, against torch {build['torch']}: {build['cuda_obstacle']}"
        return f"fastadv/{module} is not installed"
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
