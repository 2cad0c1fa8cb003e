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
import math
import os
import re
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
    "PASSES",
    "Op",
    "adversarial_labels",
    "as_rows",
    "backend",
    "bisect_step",
    "cutoff_scale",
    "deepfool_step",
    "early_stop",
    "hyperplane_projection",
    "l1_step",
    "l2_step",
    "linf_step",
    "per_sample",
    "random_start",
    "row_norms",
    "topp_step",
    "wrong_class_target",
]

_LIBRARY = torch.library.Library("fastadv", "DEF")
_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)

NORMS = ("l1", "l2", "linf", "rms")
LAWS = ("uniform", "sign", "gaussian", "l2", "l1")
OPS: dict[str, "Op"] = {}
PASSES = ("max_pool", "stem_backward")
"""What compiled CPU kernels do in place of PyTorch's own functions where attacks pass through networks."""


_COLUMNS = {
    "active": torch.bool,
    "ids": torch.int64,
    "inside": torch.bool,
    "labels": torch.int64,
    "tau": torch.int64,
}
"""Arguments with one value a sample, and their type."""


class Op:
    """A callable op: checked arguments in, ``torch.ops.fastadv.<name>`` out."""

    def __init__(
        self,
        reference: Callable,
        schema: str,
        samples: tuple[str, ...],
        budgets: tuple[str, ...],
        choices: dict[str, tuple[str, ...]],
        classes: int,
        check: Callable | None,
        fake: Callable,
    ):
        self.name = reference.__name__
        self.reference = reference
        self._samples = samples
        self._budgets = budgets
        self._choices = choices
        self._classes = classes
        self._check = check
        signature = inspect.signature(reference).parameters.values()
        self._parameters = tuple(p.name for p in signature)
        self._known = frozenset(self._parameters)
        self._required = frozenset(p.name for p in signature if p.default is p.empty)
        self._columns = {name: type_ for name, type_ in _COLUMNS.items() if name in self._known}
        self._mutates = tuple(re.findall(r"\(\w!\)\??\s+(\w+)", schema))
        functools.update_wrapper(self, reference)
        _LIBRARY.define(f"{self.name}{schema}")
        _LIBRARY.impl(self.name, reference, "CompositeExplicitAutograd")
        torch.library.register_fake(f"fastadv::{self.name}", fake, lib=_LIBRARY)
        # Not differentiable: skip autograd, so that outputs never pretend to have a history.
        _LIBRARY.impl(self.name, torch.library.fallthrough_kernel, "Autograd")
        self._run = getattr(torch.ops.fastadv, self.name)

    def __call__(self, *args, **kwargs):
        given = self._bound(args, kwargs)
        x = given[self._samples[0]]
        if x.dtype not in _FLOATS:
            raise TypeError(f"{self.name}: {self._samples[0]} must be a floating-point tensor, got {x.dtype}")
        if x.dim() == 0:
            raise ValueError(f"{self.name}: {self._samples[0]} needs a batch dimension, got a scalar")
        if self._classes and (x.dim() != 2 or x.shape[1] < self._classes):
            raise ValueError(
                f"{self.name}: {self._samples[0]} must be [samples, classes] with at least {self._classes} "
                f"{'class' if self._classes == 1 else 'classes'}, got {tuple(x.shape)}"
            )
        shape, dtype, device = x.shape, x.dtype, x.device
        for name in self._samples:
            other = given.get(name)
            if other is not None:
                self._like(name, other, shape, dtype, x)
        for name in self._budgets:
            if given.get(name) is not None:
                given[name] = per_sample(self.name, name, given[name], x)
        for name, type_ in self._columns.items():
            column = given.get(name)
            if column is None:
                continue
            if column.shape != shape[:1] or column.dtype != type_ or column.device != device:
                raise ValueError(
                    f"{self.name}: {name} must be a {type_} tensor of shape ({shape[0]},) on {device}, "
                    f"got {column.dtype} of shape {tuple(column.shape)} on {column.device}"
                )
        for name, choices in self._choices.items():
            if name in given and given[name] not in choices:
                raise ValueError(f"{self.name}: {name} must be one of {', '.join(choices)}, got {given[name]!r}")
        if self._check:
            self._check(self, given)
        if self._mutates and not torch.compiler.is_compiling():
            # Compiled kernels write behind autograd's back; it must notice if it has saved these tensors.
            torch.autograd.graph.increment_version([given[name] for name in self._mutates if name in given])
        return self._run(**given)

    def _bound(self, args: tuple, kwargs: dict) -> dict:
        """The arguments by name, without those that are None."""
        named = dict(zip(self._parameters, args, strict=False)) | kwargs
        given = {name: value for name, value in named.items() if value is not None}
        if len(named) < len(args) + len(kwargs) or not self._required <= given.keys() <= self._known:
            raise TypeError(
                f"{self.name} takes ({', '.join(self._parameters)}), of which {', '.join(sorted(self._required))} are "
                f"required; got {len(args)} by position and {', '.join(kwargs) or 'none'} by name"
            )
        return given

    def _like(self, name: str, t: Tensor, shape: tuple[int, ...], dtype: torch.dtype, x: Tensor) -> None:
        if t.shape != shape or t.dtype != dtype or t.device != x.device:
            raise ValueError(
                f"{self.name}: {name} must be ({tuple(shape)}, {dtype}, {x.device}) to go with {self._samples[0]} "
                f"({tuple(x.shape)}, {x.dtype}), got ({tuple(t.shape)}, {t.dtype}, {t.device})"
            )
        if t.requires_grad and torch.is_grad_enabled():
            raise RuntimeError(f"{self.name} has no gradient: call it under torch.no_grad() or detach {name}")


def per_sample(op: str, name: str, value: float | Tensor, x: Tensor) -> Tensor:
    """`value` as one number a sample of `x`, ``[B]``, in the type that ops compute in; a number is not copied B times.

    Raises ValueError where a tensor does not hold one value, or one a sample.
    """
    dtype = _wide(x)
    if not isinstance(value, Tensor):
        return torch.full((1,), value, dtype=dtype, device=x.device).expand(x.shape[0])
    if value.shape == x.shape[:1] and value.dtype == dtype and value.device == x.device:
        return value.detach()
    if value.numel() != 1 and value.shape != x.shape[:1]:
        raise ValueError(
            f"{op}: {name} must be a number or one value a sample, ({x.shape[0]},); got {tuple(value.shape)}"
        )
    return value.detach().to(x.device, dtype).reshape(-1).expand(x.shape[0])


def _op(
    schema: str,
    *,
    samples: tuple[str, ...],
    budgets: tuple[str, ...] = (),
    choices: dict[str, tuple[str, ...]] | None = None,
    classes: int = 0,
    check: Callable[[Op, dict], None] | None = None,
    fake: Callable = lambda *args, **kwargs: None,
) -> Callable[[Callable], Op]:
    """Declares an op. `samples`: tensors like the first of them; `budgets`: one number a sample, or one for all;
    `choices`: what a string may be; `classes`: the samples are logits of that many classes at least; `check`: the rest;
    `fake`: empty tensors like those that it returns, for torch.compile.
    """

    def declare(reference: Callable) -> Op:
        op = Op(reference, schema, samples, budgets, choices or {}, classes, check, fake)
        OPS[op.name] = op
        return op

    return declare


def _wide(x: Tensor) -> torch.dtype:
    """The type that ops compute in."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _compute(x: Tensor) -> Tensor:
    return x.to(_wide(x))


def as_rows(values: Tensor, x: Tensor) -> Tensor:
    """One value a sample, [B], shaped to broadcast over the samples of `x`."""
    return values.view(-1, *[1] * (x.dim() - 1))


def _column(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """An empty tensor with one value a sample, in the compute type or another."""
    return x.new_empty(x.shape[:1], dtype=dtype or _wide(x))


def _flat(x: Tensor) -> Tensor:
    return x.flatten(1) if x.dim() > 1 else x.unsqueeze(1)


def _norm(x: Tensor, order: float) -> Tensor:
    """The norm of every sample in double precision, [B]."""
    rows = _flat(x).double()
    return torch.linalg.vector_norm(rows, order, dim=1) if rows.shape[1] else rows.new_zeros(rows.shape[0])


def _finite(grad: Tensor) -> Tensor:
    grad = _compute(grad)
    return grad.masked_fill(~grad.isfinite(), 0)


def _pace(step_size: Tensor, norm: Tensor) -> Tensor:
    """What a gradient is multiplied with to make a step of the given length; 0 where there is no direction.

    Bounded, so that a gradient that has all but vanished makes a shorter step and not NaN.
    """
    most = torch.finfo(step_size.dtype).max
    return torch.where(norm > 0, (step_size / norm).clamp(-most, most), 0).to(step_size.dtype)


def _write(x: Tensor, value: Tensor, active: Tensor | None) -> None:
    value = value.to(x.dtype)
    x.copy_(value if active is None else torch.where(as_rows(active, x), value, x))


_STEP = (
    "(Tensor(a!) x_adv, Tensor grad, Tensor x, Tensor step_size, Tensor eps, float lo=0., float hi=1., "
    "Tensor? active=None{}) -> ()"
)


@_op(
    _STEP.format(", Tensor(b!)? momentum=None, float decay=1."),
    samples=("x_adv", "grad", "x", "momentum"),
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
    momentum: Tensor | None = None,
    decay: float = 1.0,
) -> None:
    """One L-infinity ascent step, in place on `x_adv` [B, ...].

    ``x_adv <- clip(x + clip(x_adv + step_size * sign(grad) - x, -eps, eps), lo, hi)``; NaN and infinite gradients move
    nothing. `step_size` and `eps` are in the units of the pixels; a negative step descends (targeted attacks).

    With `momentum` [B, ...], updated in place, the sign is that of ``momentum <- decay * momentum + grad / mean
    |grad|`` (MIM, Dong et al. 2018), the mean over the sample.
    """
    direction = _compute(grad)
    if momentum is not None:
        clean = _finite(grad)
        count = torch.full((len(x),), _flat(x).shape[1], dtype=clean.dtype, device=x.device)
        scale = as_rows(_pace(count, _norm(clean, 1)), x)
        _write(momentum, decay * _compute(momentum) + scale * clean, active)
        direction = _compute(momentum)
    sign = direction.sign().masked_fill(~direction.isfinite(), 0)
    origin, step_size, eps = _compute(x), as_rows(step_size, x), as_rows(eps, x)
    delta = torch.minimum(torch.maximum(_compute(x_adv) + step_size * sign - origin, -eps), eps)
    _write(x_adv, (origin + delta).clamp(lo, hi), active)


def _radial(delta: Tensor, norm: Tensor, eps: Tensor) -> Tensor:
    """`delta` shrunk to the ball in which it has the given norm."""
    norm = norm.to(eps.dtype)
    return as_rows(torch.where(norm <= eps, torch.ones_like(eps), eps / norm), delta) * delta


def _simplex(delta: Tensor, norm: Tensor, eps: Tensor) -> Tensor:
    """The nearest point of the L1 ball, by sorting (Duchi et al., 2008)."""
    if delta.numel() == 0:
        return delta
    sizes = _flat(delta).abs().double().sort(dim=1, descending=True).values
    count = torch.arange(1, sizes.shape[1] + 1, device=sizes.device)
    theta = (sizes.cumsum(1) - eps.double().unsqueeze(1)) / count
    last = (sizes > theta).sum(dim=1, keepdim=True).clamp(min=1) - 1
    theta = theta.gather(1, last).squeeze(1).to(eps.dtype)
    theta = as_rows(torch.where(norm.to(eps.dtype) <= eps, torch.zeros_like(eps), theta), delta)
    return delta - torch.minimum(torch.maximum(delta, -theta), theta)


@_op(_STEP.format(""), samples=("x_adv", "grad", "x"), budgets=("step_size", "eps"))
def l2_step(
    x_adv: Tensor,
    grad: Tensor,
    x: Tensor,
    step_size: float | Tensor,
    eps: float | Tensor,
    lo: float = 0.0,
    hi: float = 1.0,
    active: Tensor | None = None,
) -> None:
    """One L2 ascent step, in place on `x_adv` [B, ...].

    ``delta = x_adv + step_size * grad / |grad| - x``, shrunk to the L2 ball of radius `eps`; ``x_adv <- clip(x + delta,
    lo, hi)``. `step_size` and `eps` are L2 norms. NaN and infinite gradient entries count as 0; without a gradient,
    nothing moves.
    """
    grad, origin = _finite(grad), _compute(x)
    scale = as_rows(_pace(step_size, _norm(grad, 2)), x)
    delta = _compute(x_adv) + scale * grad - origin
    _write(x_adv, (origin + _radial(delta, _norm(delta, 2), eps)).clamp(lo, hi), active)


@_op(_STEP.format(""), samples=("x_adv", "grad", "x"), budgets=("step_size", "eps"))
def l1_step(
    x_adv: Tensor,
    grad: Tensor,
    x: Tensor,
    step_size: float | Tensor,
    eps: float | Tensor,
    lo: float = 0.0,
    hi: float = 1.0,
    active: Tensor | None = None,
) -> None:
    """One L1 ascent step, in place on `x_adv` [B, ...].

    ``delta = x_adv + step_size * grad / |grad|_1 - x``, replaced by the nearest point of the L1 ball of radius `eps`
    (Duchi et al., 2008); ``x_adv <- clip(x + delta, lo, hi)``. `step_size` and `eps` are L1 norms. NaN and infinite
    gradient entries count as 0.
    """
    grad, origin = _finite(grad), _compute(x)
    scale = as_rows(_pace(step_size, _norm(grad, 1)), x)
    delta = _compute(x_adv) + scale * grad - origin
    _write(x_adv, (origin + _simplex(delta, _norm(delta, 1), eps)).clamp(lo, hi), active)


def _check_topp(op: Op, given: dict) -> None:
    if not 0 < given["p"] <= 1:
        raise ValueError(f"{op.name}: p must be a share of the entries, in (0, 1], got {given['p']}")


@_op(
    "(Tensor(a!) x_adv, Tensor grad, Tensor x, Tensor step_size, Tensor eps, float p, str normalise='all', "
    "str projection='radial', float lo=0., float hi=1., Tensor? active=None) -> ()",
    samples=("x_adv", "grad", "x"),
    budgets=("step_size", "eps"),
    choices={"normalise": ("all", "kept"), "projection": ("radial", "simplex")},
    check=_check_topp,
)
def topp_step(
    x_adv: Tensor,
    grad: Tensor,
    x: Tensor,
    step_size: float | Tensor,
    eps: float | Tensor,
    p: float,
    normalise: str = "all",
    projection: str = "radial",
    lo: float = 0.0,
    hi: float = 1.0,
    active: Tensor | None = None,
) -> None:
    """One step of DRA (Hou, 2022, thesis, chapter 4), in place on `x_adv` [B, ...].

    Only the ``ceil(p * N)`` entries of the gradient that are largest in magnitude move, equal ones by lowest index:
    ``delta = x_adv + step_size * kept / |grad|_1 - x``, or over ``|kept|_1`` with ``normalise="kept"``. `delta` is then
    bounded to the L1 norm `eps`, shrunk as a whole (``radial``) or to the nearest point of the ball (``simplex``), and
    ``x_adv <- clip(x + delta, lo, hi)``. `step_size` and `eps` are L1 norms: N times DRA's mean per pixel. NaN and
    infinite gradient entries count as 0.
    """
    grad, origin = _finite(grad), _compute(x)
    rows = _flat(grad)
    keep = math.ceil(p * (1 - 2.0**-40) * rows.shape[1])  # a hair less than p: its rounding must not keep one more
    best = rows.abs().sort(dim=1, descending=True, stable=True).indices[:, :keep]
    kept = torch.zeros_like(rows).scatter(1, best, rows.gather(1, best)).reshape(grad.shape)
    scale = as_rows(_pace(step_size, _norm(grad if normalise == "all" else kept, 1)), x)
    delta = _compute(x_adv) + scale * kept - origin
    bound = _radial if projection == "radial" else _simplex
    _write(x_adv, (origin + bound(delta, _norm(delta, 1), eps)).clamp(lo, hi), active)


@_op(
    "(Tensor x, str norm, Tensor? origin=None) -> Tensor",
    samples=("x", "origin"),
    choices={"norm": NORMS},
    fake=lambda x, norm, origin=None: _column(x),
)
def row_norms(x: Tensor, norm: str, origin: Tensor | None = None) -> Tensor:
    """The norm of every sample of `x` [B, ...], or of ``x - origin``: [B], float32 (float64 for float64 samples).

    `norm`: ``l1``, ``l2``, ``linf``, or ``rms``, the L2 norm over the square root of the number of elements.
    """
    x = _compute(x) if origin is None else _compute(x) - _compute(origin)
    norms = _norm(x, {"l1": 1, "l2": 2, "rms": 2, "linf": torch.inf}[norm])
    return (norms / max(1, _flat(x).shape[1]) ** 0.5 if norm == "rms" else norms).to(x.dtype)


@_op(
    "(Tensor(a!) x_adv, Tensor x, Tensor norms, Tensor? eps=None, float rho=1., Tensor? active=None) -> ()",
    samples=("x_adv", "x"),
    budgets=("norms", "eps"),
)
def cutoff_scale(
    x_adv: Tensor,
    x: Tensor,
    norms: Tensor,
    eps: float | Tensor | None = None,
    rho: float = 1.0,
    active: Tensor | None = None,
) -> None:
    """Blind AT's cutoff and scale (Xie et al., Algorithm 1), in place on `x_adv` [B, ...].

    ``x_adv <- x + rho * min(1, eps / norm) * (x_adv - x)`` with `norms` [B] of ``x_adv - x`` in whatever norm `eps` is
    measured in; by default their mean, in which norms that are not finite count as 0. (Distributed: average the mean
    over the processes, and give it.) A sample within its budget keeps its bits when rho is 1; one whose norm is NaN or
    infinite returns to x.
    """
    if eps is None:
        eps = torch.where(norms.isfinite(), norms, 0).double().mean().to(norms.dtype).expand(norms.shape)
    factor = torch.where(norms <= eps, torch.ones_like(norms), eps / norms) * torch.as_tensor(rho, dtype=norms.dtype)
    factor = torch.where(norms.isfinite(), factor, torch.zeros_like(norms))
    here, origin, factor = _compute(x_adv), _compute(x), as_rows(factor, x)
    moved = torch.where(factor == 0, origin, origin + factor * (here - origin))
    _write(x_adv, torch.where(factor == 1, here, moved), active)


@_op(
    "(Tensor logits, Tensor labels, Tensor(a!) tau, Tensor? active=None) -> (Tensor, Tensor, Tensor, Tensor)",
    samples=("logits",),
    classes=1,
    fake=lambda logits, labels, tau, active=None: (
        _column(logits, torch.int64),
        _column(logits, torch.bool),
        _column(logits, torch.int64),
        logits.new_empty(1, dtype=torch.int64),
    ),
)
def early_stop(
    logits: Tensor, labels: Tensor, tau: Tensor, active: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """PGD-K-tau's bookkeeping before a step (FAT, Zhang et al. 2020, Algorithm 1), in place on `tau` [B] int64.

    A sample of `logits` [B, K] that is misclassified stops if its `tau` is 0, and otherwise goes on with one less.
    Samples that are not `active` stay stopped and keep their `tau`. Nothing waits for the device.

    Returns ``(predictions, active, order, count)``: the predicted classes [B]; who goes on [B]; their indices in order,
    followed by the others' from the last to the first [B]; and how many go on [1], which may be read asynchronously.
    """
    predictions = logits.argmax(dim=1)
    wrong = predictions != labels
    goes_on = ~(wrong & (tau <= 0))
    if active is not None:
        goes_on = goes_on & active
    tau.sub_((goes_on & wrong).to(tau.dtype))
    index = torch.arange(len(labels), device=logits.device)
    order = torch.where(goes_on, index, 2 * len(labels) - index).argsort()
    return predictions, goes_on, order, goes_on.sum().reshape(1)


def _check_deepfool(op: Op, given: dict) -> None:
    x = given["x_adv"]
    wide = _wide(x)
    op._like("delta", given["delta"], x.shape, wide, x)
    logits = given["logits"]
    if logits.dim() != 2 or logits.shape[0] != x.shape[0] or logits.shape[1] < 2:
        raise ValueError(f"{op.name}: logits must be [{x.shape[0]}, classes], got {tuple(logits.shape)}")
    given["logits"] = logits.to(wide)
    op._like("logits", given["logits"], logits.shape, wide, x)
    op._like("grads", given["grads"], (*logits.shape, *x.shape[1:]), x.dtype, x)


@_op(
    "(Tensor(a!) x_adv, Tensor(b!) delta, Tensor x, Tensor logits, Tensor grads, Tensor labels, float overshoot=0., "
    "float beyond=0., str norm='l2', float lo=0., float hi=1., Tensor? active=None) -> (Tensor, Tensor)",
    samples=("x_adv", "x"),
    choices={"norm": ("l2", "linf")},
    check=_check_deepfool,
    fake=lambda x_adv, *args, **kwargs: (_column(x_adv, torch.int64), _column(x_adv)),
)
def deepfool_step(
    x_adv: Tensor,
    delta: Tensor,
    x: Tensor,
    logits: Tensor,
    grads: Tensor,
    labels: Tensor,
    overshoot: float = 0.0,
    beyond: float = 0.0,
    norm: str = "l2",
    lo: float = 0.0,
    hi: float = 1.0,
    active: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One step of DeepFool (Moosavi-Dezfooli et al., 2016), in place on `delta` and `x_adv` [B, ...].

    From the `logits` [B, K] of K classes and their gradients `grads` [B, K, ...] at the current point, with the label's
    place among them in `labels` [B]: the boundary to class k is ``(|z_k - z_y| + 1e-5) / |w_k|`` away, where ``w_k =
    grads_k - grads_y`` and the norm is dual to `norm` (``l2`` or ``linf``). `delta`, float32 (float64 for float64
    samples), moves to the nearest one and `beyond` further, and ``x_adv <- clip(x + (1 + overshoot) * delta, lo, hi)``.
    A class whose gradient is the label's, or not finite, is no candidate; without one, and for a label out of range,
    `delta` stays.

    Returns ``(target, distance)``, [B] each: the class and how far it was; the label and 0 where nothing moved.
    """
    classes = torch.arange(logits.shape[1], device=x.device)
    known = (labels >= 0) & (labels < len(classes))
    place = torch.where(known, labels, 0)
    w = _compute(grads) - _compute(grads[torch.arange(len(x), device=x.device), place]).unsqueeze(1)
    rows = w.flatten(0, 1)
    size = _norm(rows, 2 if norm == "l2" else 1).to(w.dtype).view(logits.shape)
    gap = (logits - logits.gather(1, place.unsqueeze(1))).abs()
    distance = (gap + 1e-5) / size
    candidate = (size > 1e-8) & size.isfinite() & distance.isfinite() & known.unsqueeze(1)
    candidate = candidate & (classes != labels.unsqueeze(1))
    moves = candidate.any(dim=1)
    if active is not None:
        moves = moves & active
    distance, nearest = distance.masked_fill(~candidate, torch.inf).min(dim=1)
    chosen = torch.arange(len(x), device=x.device) * logits.shape[1] + nearest
    w, size = rows[chosen], as_rows(size.flatten()[chosen], x)
    direction = w / size if norm == "l2" else w.sign().masked_fill(~w.isfinite(), 0)
    _write(delta, delta + as_rows(distance + beyond, x) * direction, moves)
    _write(x_adv, (_compute(x) + (1 + overshoot) * delta).clamp(lo, hi), active)
    return torch.where(moves, nearest, labels), torch.where(moves, distance, 0)


@_op(
    "(Tensor(a!) inner, Tensor(b!) outer, Tensor(c!) middle, Tensor inside, Tensor? active=None) -> ()",
    samples=("inner", "outer", "middle"),
)
def bisect_step(inner: Tensor, outer: Tensor, middle: Tensor, inside: Tensor, active: Tensor | None = None) -> None:
    """One bisection of the segments from `inner` to `outer` [B, ...], in place on all three (SMD, Ma and Liang).

    Where `inside` [B] says that the `middle` is still on the inner side, it becomes `inner`, elsewhere `outer`; the
    next `middle` is half-way between the two. Begin with ``middle = (inner + outer) / 2``.
    """
    replaced = as_rows(inside, middle)
    kept = torch.where(replaced, outer, inner)
    after = (_compute(middle) + _compute(kept)) * 0.5
    _write(inner, torch.where(replaced, middle, inner), active)
    _write(outer, torch.where(replaced, outer, middle), active)
    _write(middle, after, active)


@_op(
    "(Tensor x, Tensor ids, Tensor eps, int seed, int restart=0, str law='uniform', "
    "float lo=0., float hi=1., Tensor? active=None) -> Tensor",
    samples=("x",),
    budgets=("eps",),
    choices={"law": LAWS},
    fake=lambda x, *args, **kwargs: torch.empty_like(x),
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
    """`x` [B, ...] plus noise of size `eps`, clipped to [lo, hi]; a new tensor.

    `law`: ``uniform`` in the L-infinity ball of radius `eps`, or ``sign``, its corners with equal chance; ``gaussian``
    of standard deviation `eps`; ``l2`` or ``l1``, uniform in that ball. The noise of a sample is a function of (`seed`,
    `ids`, `restart`) and of nothing else: neither batch, order, device, dtype nor memory format. `ids` is int64 [B].
    Generator: Philox4x32-10 (Salmon et al., SC 2011), 24 bits an element.
    """
    cols = x[0].numel() if x.shape[0] else 0
    bits = _philox(ids, seed, restart, range(-(-cols // 4))).flatten(1)[:, :cols].reshape(x.shape)
    here = _compute(x)
    unit = _uniform(bits)  # in (-1, 1)
    if law == "uniform":
        noise = unit
    elif law == "sign":
        noise = unit.sign()
    elif law == "gaussian":
        noise = _normal(unit)
    else:
        noise = _normal(unit) if law == "l2" else -unit.sign() * unit.abs().log()
        radius = _philox(ids, seed, restart, range(0xFFFFFFFF, 0x100000000))[:, 0, 0]  # beyond any sample's elements
        radius = (0.5 + 0.5 * _uniform(radius)) ** (1 / max(1, cols))
        noise = as_rows(radius / _norm(noise, 2 if law == "l2" else 1), noise) * noise
    noisy = (here + as_rows(eps, x) * noise.to(here.dtype)).clamp(lo, hi).to(x.dtype)
    out = torch.empty_like(x)
    return out.copy_(noisy if active is None else torch.where(as_rows(active, x), noisy, x))


def _uniform(bits: Tensor) -> Tensor:
    """24 of 32 bits as an odd multiple of 2^-24 in (-1, 1), float64."""
    return (2 * (bits >> 8) + 1 - (1 << 24)).double() * 2.0**-24


def _normal(unit: Tensor) -> Tensor:
    return torch.erfinv(unit) * 2**0.5


def _philox(ids: Tensor, seed: int, restart: int, blocks: range) -> Tensor:
    """Philox4x32-10 at counters (block, restart, id): [B, blocks, 4] of 32 random bits in int64."""
    low = 0xFFFFFFFF
    shape = (ids.shape[0], len(blocks))
    c0 = torch.arange(blocks.start, blocks.stop, device=ids.device).expand(shape)
    c1 = torch.full((), restart & low, device=ids.device).expand(shape)
    c2, c3 = (ids & low).unsqueeze(1).expand(shape), ((ids >> 32) & low).unsqueeze(1).expand(shape)
    k0, k1 = seed & low, (seed >> 32) & low
    for _ in range(10):
        # Products of two 32-bit numbers wrap in int64, but keep all 64 bits.
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = ((p1 >> 32) & low) ^ c1 ^ k0, p1 & low, ((p0 >> 32) & low) ^ c3 ^ k1, p0 & low
        k0, k1 = (k0 + 0x9E3779B9) & low, (k1 + 0xBB67AE85) & low
    return torch.stack((c0, c1, c2, c3), dim=-1)


def _check_adversarial_labels(op: Op, given: dict) -> None:
    for name, positive in (("beta", True), ("gamma", False), ("top_k", False)):
        value = given.get(name, 1)
        if not (0 < value < math.inf if positive else 0 <= value < math.inf):
            raise ValueError(f"{op.name}: {name} must be {'positive' if positive else 'at least 0'}, got {value}")


@_op(
    "(Tensor logits, Tensor labels, float beta=9., float gamma=0.01, str variant='main', int top_k=0) -> Tensor",
    samples=("logits",),
    choices={"variant": ("main", "sup")},
    classes=2,
    check=_check_adversarial_labels,
    fake=lambda logits, *args, **kwargs: logits.new_empty(logits.shape, dtype=_wide(logits)),
)
def adversarial_labels(
    logits: Tensor, labels: Tensor, beta: float = 9.0, gamma: float = 0.01, variant: str = "main", top_k: int = 0
) -> Tensor:
    """Bilateral's adversarial labels (Wang and Zhang, ICCV 2019), from the `logits` [B, K] of the natural samples.

    A soft label [B, K], float32 (float64 for float64 logits), that gives ``eps_y`` to the wrong classes in proportion
    to u, and the rest to the true one: ``u_k = v_k - min v + gamma`` (``main``, equations 14 and 18) or ``u_k = v_k``
    (``sup``, equations 26 and 28), with ``v = -log p`` and ``eps_y = 1 / (1 + beta * max u / sum u)``, so that the true
    class keeps `beta` times the largest wrong share. `top_k`: only that many of the least likely wrong classes take
    part (LA9 is ``sup`` with 9), equally unlikely ones by lowest index; 0: all. Where every u is 0, the shares are
    equal. A NaN or infinite logit makes the sample's label NaN.
    """
    z = logits.double()
    own = torch.arange(z.shape[1], device=z.device) == labels.unsqueeze(1)
    v = -z.log_softmax(dim=1)
    chosen = ~own
    if 0 < top_k < z.shape[1] - 1:
        order = v.masked_fill(own, -torch.inf).sort(dim=1, descending=True, stable=True).indices[:, :top_k]
        chosen = torch.zeros_like(own).scatter(1, order, True)
    u = v if variant == "sup" else v - v.masked_fill(~chosen, torch.inf).amin(1, keepdim=True) + gamma
    u = torch.where(chosen, u, 0)
    u = torch.where(u.sum(dim=1, keepdim=True) == 0, chosen.to(u.dtype), u)
    total = u.sum(dim=1, keepdim=True)
    eps_y = 1 / (1 + beta * (u.amax(dim=1, keepdim=True) / total))
    soft = torch.where(own, 1 - eps_y, eps_y * (u / total)).to(_compute(logits).dtype)
    return soft.masked_fill(~z.isfinite().all(dim=1, keepdim=True), torch.nan)


@_op(
    "(Tensor logits, Tensor labels, str which='most_confusing') -> Tensor",
    samples=("logits",),
    choices={"which": ("most_confusing", "least_likely")},
    classes=2,
    fake=lambda logits, *args, **kwargs: _column(logits, torch.int64),
)
def wrong_class_target(logits: Tensor, labels: Tensor, which: str = "most_confusing") -> Tensor:
    """The wrong class with the highest of `logits` [B, K] (``most_confusing``) or the lowest (``least_likely``): [B].

    int64; of equal ones the first; NaN comes before all (Bilateral's MC and LL targets, section 3.3).
    """
    scores = logits if which == "most_confusing" else -logits
    scores = scores.clamp(min=torch.finfo(logits.dtype).min)  # minus infinity is for the label alone
    own = torch.arange(logits.shape[1], device=logits.device) == labels.unsqueeze(1)
    return scores.masked_fill(own, -torch.inf).argmax(dim=1)


@_op(
    "(Tensor x, Tensor normal, Tensor offset, str norm, float lo=0., float hi=1.) -> Tensor",
    samples=("x", "normal"),
    budgets=("offset",),
    choices={"norm": ("linf", "l2", "l1")},
    fake=lambda x, *args, **kwargs: torch.empty_like(x),
)
def hyperplane_projection(
    x: Tensor, normal: Tensor, offset: float | Tensor, norm: str, lo: float = 0.0, hi: float = 1.0
) -> Tensor:
    """The shortest way, in `norm`, from `x` [B, ...] to the hyperplane ``normal . z = offset`` that stays in the box.

    A new tensor like `x`, to be added to it (FAB, Croce and Hein 2020). `offset` is one number a sample. Where the
    hyperplane does not meet the box, everything moves towards it as far as the box allows. In L1, entries of equal
    weight share alike. NaN and infinite entries of `normal` count as 0; a NaN offset shows as NaN.
    """
    if x.numel() == 0:
        return torch.empty_like(x)
    w, here = _flat(_finite(normal)).double(), _flat(_compute(x))
    gap = offset.double() - (w * here.double()).sum(dim=1)
    w = torch.where(gap < 0, -1.0, 1.0).unsqueeze(1) * w
    distance = gap.abs().unsqueeze(1)
    room = torch.where(w > 0, hi - here, here - lo).clamp(min=0).double()
    weight = w.abs()
    if norm == "l1":
        move = _heaviest_first(weight, room, distance)
    else:
        # In the order in which the coordinates reach their limits: up to each, all before it have.
        slope, limit = (weight.square(), room / weight) if norm == "l2" else (weight, room)
        limit, order = limit.nan_to_num(torch.inf, posinf=torch.inf).sort(dim=1)
        gain, slope = (weight * room).gather(1, order), slope.gather(1, order)
        root = (distance - (gain.cumsum(1) - gain)) / slope.flip(1).cumsum(1).flip(1)
        root = root.gather(1, (root <= limit).int().argmax(dim=1, keepdim=True))
        move = torch.minimum(root * weight if norm == "l2" else root, room)
    reach = (weight * room).sum(dim=1, keepdim=True)
    delta = w.sign() * torch.where(reach <= distance, room, move)
    delta = torch.where(gap.isnan().unsqueeze(1), torch.nan, delta)
    return torch.empty_like(x).copy_(delta.reshape(x.shape).to(here.dtype))


def _heaviest_first(weight: Tensor, room: Tensor, distance: Tensor) -> Tensor:
    """How far each coordinate moves if the heaviest move first and equal ones share, until `distance` is covered."""
    ordered, order = weight.sort(dim=1)
    gain = torch.nn.functional.pad((weight * room).gather(1, order).cumsum(1), (1, 0))
    up_to = gain.gather(1, torch.searchsorted(ordered, weight, right=True))
    equal = up_to - gain.gather(1, torch.searchsorted(ordered, weight))
    share = (distance - (gain[:, -1:] - up_to)) / equal
    return torch.where(equal > 0, share.clamp(0, 1), 0) * room


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
        if module == "_cuda" and isinstance(build, dict) and build["cuda_obstacle"]:
            return f"fastadv was built without them, against torch {build['torch']}: {build['cuda_obstacle']}"
        return f"fastadv/{module} is not installed"
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

    For one of `PASSES` it is "compiled", or "PyTorch: " and the reason. Raises KeyError for an unknown op or device.
    """
    if op in PASSES:
        reason = {"cpu": MISSING["cpu"], "cuda": "there are CPU kernels only"}[device]
        return f"PyTorch: {reason}" if reason else "compiled"
    OPS[op]
    if torch._C._dispatch_has_kernel_for_dispatch_key(f"fastadv::{op}", {"cpu": "CPU", "cuda": "CUDA"}[device]):
        return "compiled"
    return f"reference: {MISSING[device] or 'this build of fastadv lacks it'}"
