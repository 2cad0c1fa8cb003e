"""Which kernels run: those of the build that was loaded from the Hub, for one kind of device."""

import torch

from ._namespace import NAMESPACE
from ._op import OPS
from .linf_step import linf_step

PASSES = ()


def backend(op: str, device: str = "cpu") -> str:
    """What runs `op` on `device` ("cpu" or "cuda"): "compiled", or "reference: " and the reason.

    Raises KeyError for an unknown op or device.
    """
    OPS[op]
    key = {"cpu": "CPU", "cuda": "CUDA"}[device]
    found = torch._C._dispatch_has_kernel_for_dispatch_key(f"{NAMESPACE}::{op}", key)
    return "compiled" if found else "reference: this build is for another kind of device"


def _missing(device: str) -> str | None:
    found = backend(linf_step.name, device)
    return None if found == "compiled" else found.removeprefix("reference: ")


MISSING: dict[str, str | None] = {"cpu": _missing("cpu"), "cuda": _missing("cuda")}
"""Why the compiled kernels of a device are missing, or None where they are there."""


def build_info() -> str:
    """How this build was made."""
    return "by kernel-builder, which keeps its metadata beside this file"


def repair(cuda: bool = False) -> str:
    """What brings missing kernels."""
    return "kernels.get_kernel takes the build for this PyTorch and device from the Hub"
