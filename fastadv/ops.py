"""The fused operations: schema, pure-torch reference and fake of each, and which backend runs it.

Every op is declared once, by the decorated function below that carries its name: the function is the documentation,
the reference that tests compare with, and the kernel of any device without a compiled one. The compiled kernels
(``csrc/``) take its place by dispatch key when their module loads; no caller asks whether they exist.

Calling an op here (``ops.linf_step(...)``) checks the arguments and turns plain numbers into per-sample tensors; the
bare op (``torch.ops.fastadv.linf_step``) takes tensors only. ``op.reference`` is the pure-torch function.

A *sample* is one row of the leading dimension. Budgets are one number a sample. ``active`` is a mask over samples:
where it is false the sample keeps its bits. float32, float64, float16 and bfloat16 samples; arithmetic and budgets are
float32 (float64 for float64 samples). The ops have no gradients.
"""

import functools
import importlib.util
import inspect
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

__all__ = [
    "LAWS",
    "NORMS",
    "OPS",
    "Op",
    "as_rows",
    "backend",
    "cutoff_scale",
    "linf_step",
    "per_sample",
    "random_start",
    "row_norms",
]

_LIBRARY = torch.library.Library("fastadv", "DEF")
_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)

NORMS = ("l1", "l2", "linf", "rms")
LAWS = ("uniform", "sign")
OPS: dict[str, "Op"] = {}


class Op:
    """A callable op: checked arguments in, ``torch.ops.fastadv.<name>`` out."""

    def __init__(self, reference: Callable, schema: str, samples: tuple[str, ...], budgets: tuple[str, ...]):
        self.name = reference.__name__
        self.reference = reference
        self._samples = samples
        self._budgets = budgets
        signature = inspect.signature(reference).parameters.values()
        self._parameters = tuple(p.name for p in signature)
        self._required = {p.name for p in signature if p.default is p.empty}
        self._mutates = "(a!)" in schema
        self._choices = {"norm": NORMS, "law": LAWS}
        functools.update_wrapper(self, reference)
        _LIBRARY.define(f"{self.name}{schema}")
        _LIBRARY.impl(self.name, reference, "CompositeExplicitAutograd")
        # Not differentiable: skip autograd, so that outputs never pretend to have a history.
        _LIBRARY.impl(self.name, torch.library.fallthrough_kernel, "Autograd")
        self._run = getattr(torch.ops.fastadv, self.name)

    def __call__(self, *args, **kwargs):
        given = dict(zip(self._parameters, args, strict=False)) | kwargs
        fits = all(name in given for name in self._required) and all(name in self._parameters for name in given)
        if len(given) != len(args) + len(kwargs) or not fits:
            raise TypeError(
                f"{self.name} takes ({', '.join(self._parameters)}), of which {', '.join(sorted(self._required))} are "
                f"required; got {len(args)} by position and {', '.join(kwargs) or 'none'} by name"
            )
        x = given[self._samples[0]]
        if x.dtype not in _FLOATS:
            raise TypeError(f"{self.name}: {self._samples[0]} must be a floating-point tensor, got {x.dtype}")
        if x.dim() == 0:
            raise ValueError(f"{self.name}: {self._samples[0]} needs a batch dimension, got a scalar")
        for name in self._samples:
            other = given.get(name)
            if other is None:
                continue
            if other.shape != x.shape or other.dtype != x.dtype or other.device != x.device:
                raise ValueError(
                    f"{self.name}: {name} must be like {self._samples[0]} ({tuple(x.shape)}, {x.dtype}, {x.device}), "
                    f"got ({tuple(other.shape)}, {other.dtype}, {other.device})"
                )
            if torch.is_grad_enabled() and other.requires_grad:
                raise RuntimeError(f"{self.name} has no gradient: call it under torch.no_grad() or detach {name}")
        for name in self._budgets:
            given[name] = per_sample(self.name, name, given[name], x)
        for name, type_ in (("active", torch.bool), ("ids", torch.int64)):
            column = given.get(name)
            if column is None:
                continue
            if column.shape != x.shape[:1] or column.dtype != type_ or column.device != x.device:
                raise ValueError(
                    f"{self.name}: {name} must be a {type_} tensor of shape ({x.shape[0]},) on {x.device}, "
                    f"got {column.dtype} of shape {tuple(column.shape)} on {column.device}"
                )
        for name, choices in self._choices.items():
            if name in given and given[name] not in choices:
                raise ValueError(f"{self.name}: {name} must be one of {', '.join(choices)}, got {given[name]!r}")
        if self._mutates and not torch.compiler.is_compiling():
            # Compiled kernels write behind autograd's back; it must notice if it has saved this tensor.
            torch.autograd.graph.increment_version(x)
        return self._run(**given)


def per_sample(op: str, name: str, value: float | Tensor, x: Tensor) -> Tensor:
    """`value` as one number a sample of `x`, ``[B]``, in the type that ops compute in; a number is not copied B times.

    Raises ValueError where a tensor does not hold one value, or one a sample.
    """
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    if not isinstance(value, Tensor):
        return torch.full((1,), value, dtype=dtype, device=x.device).expand(x.shape[0])
    if value.numel() != 1 and value.shape != x.shape[:1]:
        raise ValueError(
            f"{op}: {name} must be a number or one value a sample, ({x.shape[0]},); got {tuple(value.shape)}"
        )
    return value.detach().to(x.device, dtype).reshape(-1).expand(x.shape[0])


def _op(schema: str, *, samples: tuple[str, ...], budgets: tuple[str, ...] = ()) -> Callable[[Callable], Op]:
    def declare(reference: Callable) -> Op:
        op = OPS[reference.__name__] = Op(reference, schema, samples, budgets)
        return op

    return declare


def _compute(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def as_rows(values: Tensor, x: Tensor) -> Tensor:
    """One value a sample, [B], shaped to broadcast over the samples of `x`."""
    return values.view(-1, *[1] * (x.dim() - 1))


def _write(x: Tensor, value: Tensor, active: Tensor | None) -> None:
    value = value.to(x.dtype)
    x.copy_(value if active is None else torch.where(as_rows(active, x), value, x))


@_op(
    "(Tensor(a!) x_adv, Tensor grad, Tensor x, Tensor step_size, Tensor eps, "
    "float lo=0., float hi=1., Tensor? active=None) -> ()",
    samples=("x_adv", "grad", "x"),
    budgets=("step_size", "eps"),
)
def linf_step(
    x_adv: Tensor,
    grad: Tensor,
    x: Tensor,
    step_size: float | Tensor,
    eps: float | Tensor,
    lo: float = 0.0,
    hi: float = 1.0,
    active: Tensor | None = None,
) -> None:
    """One L-infinity ascent step, in place on `x_adv` [B, ...].

    ``x_adv <- clip(x + clip(x_adv + step_size * sign(grad) - x, -eps, eps), lo, hi)``; NaN and infinite gradients move
    nothing. `step_size` and `eps` are in the units of the pixels; a negative step descends (targeted attacks).
    """
    grad = _compute(grad)
    sign = grad.sign().masked_fill(~grad.isfinite(), 0)
    origin, step_size, eps = _compute(x), as_rows(step_size, x), as_rows(eps, x)
    delta = torch.minimum(torch.maximum(_compute(x_adv) + step_size * sign - origin, -eps), eps)
    _write(x_adv, (origin + delta).clamp(lo, hi), active)


@_op("(Tensor x, str norm, Tensor? origin=None) -> Tensor", samples=("x", "origin"))
def row_norms(x: Tensor, norm: str, origin: Tensor | None = None) -> Tensor:
    """The norm of every sample of `x` [B, ...], or of ``x - origin``: [B], float32 (float64 for float64 samples).

    `norm`: ``l1``, ``l2``, ``linf``, or ``rms``, the L2 norm over the square root of the number of elements.
    """
    x = _compute(x) if origin is None else _compute(x) - _compute(origin)
    rows = x.flatten(1) if x.dim() > 1 else x.unsqueeze(1)
    if rows.shape[1] == 0:
        return x.new_zeros(x.shape[0])
    order = {"l1": 1, "l2": 2, "rms": 2, "linf": torch.inf}[norm]
    norms = torch.linalg.vector_norm(rows.double(), order, dim=1)
    return (norms / rows.shape[1] ** 0.5 if norm == "rms" else norms).to(x.dtype)


@_op(
    "(Tensor(a!) x_adv, Tensor x, Tensor norms, Tensor eps, float rho=1., Tensor? active=None) -> ()",
    samples=("x_adv", "x"),
    budgets=("norms", "eps"),
)
def cutoff_scale(
    x_adv: Tensor,
    x: Tensor,
    norms: Tensor,
    eps: float | Tensor,
    rho: float = 1.0,
    active: Tensor | None = None,
) -> None:
    """Blind AT's cutoff and scale (Xie et al., Algorithm 1), in place on `x_adv` [B, ...].

    ``x_adv <- x + rho * min(1, eps / norm) * (x_adv - x)`` with `norms` [B] of ``x_adv - x`` in whatever norm `eps` is
    measured in. A sample within its budget keeps its bits when rho is 1; one whose norm is NaN or infinite returns to
    x.
    """
    factor = torch.where(norms <= eps, torch.ones_like(norms), eps / norms) * torch.as_tensor(rho, dtype=norms.dtype)
    factor = torch.where(norms.isfinite(), factor, torch.zeros_like(norms))
    here, origin, factor = _compute(x_adv), _compute(x), as_rows(factor, x)
    moved = torch.where(factor == 0, origin, origin + factor * (here - origin))
    _write(x_adv, torch.where(factor == 1, here, moved), active)


@_op(
    "(Tensor x, Tensor ids, Tensor eps, int seed, int restart=0, str law='uniform', "
    "float lo=0., float hi=1., Tensor? active=None) -> Tensor",
    samples=("x",),
    budgets=("eps",),
)
def random_start(
    x: Tensor,
    ids: Tensor,
    eps: float | Tensor,
    seed: int,
    restart: int = 0,
    law: str = "uniform",
    lo: float = 0.0,
    hi: float = 1.0,
    active: Tensor | None = None,
) -> Tensor:
    """`x` [B, ...] plus noise in the L-infinity ball of radius `eps`, clipped to [lo, hi]; a new tensor.

    `law`: ``uniform`` in the ball, or ``sign``, its corners with equal chance. The noise of a sample is a function of
    (`seed`, `ids`, `restart`) and of nothing else: neither batch, order, device, dtype nor memory format. `ids` is
    int64 [B]. Generator: Philox4x32-10 (Salmon et al., SC 2011), 24 bits an element.
    """
    cols = x[0].numel() if x.shape[0] else 0
    bits = _philox(ids, seed, restart, -(-cols // 4)).flatten(1)[:, :cols].reshape(x.shape)
    odd = 2 * (bits >> 8) + 1 - (1 << 24)
    here = _compute(x)
    unit = odd.sign().to(here.dtype) if law == "sign" else odd.to(here.dtype) * 2.0**-24
    noisy = (here + as_rows(eps, x) * unit).clamp(lo, hi).to(x.dtype)
    out = torch.empty_like(x)
    return out.copy_(noisy if active is None else torch.where(as_rows(active, x), noisy, x))


def _philox(ids: Tensor, seed: int, restart: int, blocks: int) -> Tensor:
    """Philox4x32-10 at counters (block, restart, id): [B, blocks, 4] of 32 random bits in int64."""
    low = 0xFFFFFFFF
    shape = (ids.shape[0], blocks)
    c0 = torch.arange(blocks, device=ids.device).expand(shape)
    c1 = torch.full((), restart & low, device=ids.device).expand(shape)
    c2, c3 = (ids & low).unsqueeze(1).expand(shape), ((ids >> 32) & low).unsqueeze(1).expand(shape)
    k0, k1 = seed & low, (seed >> 32) & low
    for _ in range(10):
        # Products of two 32-bit numbers wrap in int64, but keep all 64 bits.
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = ((p1 >> 32) & low) ^ c1 ^ k0, p1 & low, ((p0 >> 32) & low) ^ c3 ^ k1, p0 & low
        k0, k1 = (k0 + 0x9E3779B9) & low, (k1 + 0xBB67AE85) & low
    return torch.stack((c0, c1, c2, c3), dim=-1)


@torch.library.register_fake("fastadv::linf_step", lib=_LIBRARY)
def _(x_adv, grad, x, step_size, eps, lo=0.0, hi=1.0, active=None):
    return None


@torch.library.register_fake("fastadv::row_norms", lib=_LIBRARY)
def _(x, norm, origin=None):
    return x.new_empty(x.shape[:1], dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)


@torch.library.register_fake("fastadv::cutoff_scale", lib=_LIBRARY)
def _(x_adv, x, norms, eps, rho=1.0, active=None):
    return None


@torch.library.register_fake("fastadv::random_start", lib=_LIBRARY)
def _(x, ids, eps, seed, restart=0, law="uniform", lo=0.0, hi=1.0, active=None):
    return torch.empty_like(x)


def build_info() -> dict[str, str] | str:
    """How the compiled modules were made (csrc/info.cpp), or why that is unknown."""
    try:
        from . import _info
    except ImportError as error:
        return str(error)
    return dict(_info.build())


def repair(cuda: bool = False) -> str:
    """The command that compiles the modules again, for this interpreter; in place where fastadv is a checkout."""
    root = Path(__file__).parent.parent
    if (root / "setup.py").is_file():
        command = f"{sys.executable} setup.py build_ext --inplace"
        return f"cd {root} && {'FASTADV_CUDA=1 ' if cuda else ''}{command}"
    command = f"{sys.executable} -m pip install --force-reinstall --no-deps --no-build-isolation CHECKOUT_OF_FASTADV"
    return f"FASTADV_CUDA=1 {command}" if cuda else command


def _load(module: str) -> str | None:
    """Loads fastadv._cpu or fastadv._cuda, which register their kernels; says why where that fails."""
    if os.environ.get("FASTADV_NO_EXT") == "1":
        return "switched off by FASTADV_NO_EXT=1"
    spec = importlib.util.find_spec(f"fastadv.{module}")
    if spec is None or spec.origin is None:
        build = build_info()
        obstacle = build["cuda_obstacle"] if module == "_cuda" and isinstance(build, dict) else ""
        return obstacle or f"fastadv/{module} is not installed"
    try:
        torch.ops.load_library(spec.origin)
    except OSError as error:
        return f"{Path(spec.origin).name} does not load: {error.__cause__ or error}"
    return None


MISSING: dict[str, str | None] = {"cpu": _load("_cpu"), "cuda": _load("_cuda")}
"""Why the compiled kernels of a device are missing, or None where they are there."""

if os.environ.get("FASTADV_NO_EXT") != "1":
    for _device in ("cpu", "cuda"):
        if MISSING[_device] and (_device == "cpu" or torch.cuda.is_available()):
            warnings.warn(
                f"fastadv runs without its compiled {_device} kernels, in slower plain PyTorch: {MISSING[_device]}. "
                f"To compile them: {repair(_device == 'cuda')}",
                RuntimeWarning,
                stacklevel=2,
            )


def backend(op: str, device: str = "cpu") -> str:
    """What runs `op` on `device` ("cpu" or "cuda"): "compiled", or "reference: " and the reason.

    Raises KeyError for an unknown op or device.
    """
    OPS[op]
    if torch._C._dispatch_has_kernel_for_dispatch_key(f"fastadv::{op}", {"cpu": "CPU", "cuda": "CUDA"}[device]):
        return "compiled"
    return f"reference: {MISSING[device] or 'this build of fastadv lacks it'}"
