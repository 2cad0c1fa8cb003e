"""What an op is: a schema, a reference, a fake, and checked arguments."""

import functools
import inspect
import re
from collections.abc import Callable

import torch
from torch import Tensor

from ._namespace import NAMESPACE
from ._reference import wide_type

_LIBRARY = torch.library.Library(NAMESPACE, "DEF")
_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)

OPS: dict[str, "Op"] = {}

_COLUMNS = {
    "active": torch.bool,
    "fooled": torch.bool,
    "goal": torch.int64,
    "ids": torch.int64,
    "inside": torch.bool,
    "nonfinite": torch.bool,
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
        torch.library.register_fake(f"{NAMESPACE}::{self.name}", fake, lib=_LIBRARY)
        # Not differentiable: skip autograd, so that outputs never pretend to have a history.
        _LIBRARY.impl(self.name, torch.library.fallthrough_kernel, "Autograd")
        self._run = getattr(getattr(torch.ops, NAMESPACE), self.name)
        self._bare = self._run.default

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
                self.like(name, other, shape, dtype, x)
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

    def in_loop(self) -> Callable:
        """The op for the steps of a loop: it checks the first call, and takes those after it as they are.

        Budgets are tensors [B] in the compute type. Autograd does not notice what the later calls write.
        """
        way: Callable = self

        def call(*args, **kwargs):
            nonlocal way
            result = way(*args, **kwargs)
            way = self._bare
            return result

        return call

    def _bound(self, args: tuple, kwargs: dict) -> dict:
        """The arguments by name, without those that are None."""
        named = dict(zip(self._parameters, args, strict=False)) | kwargs
        given = {name: value for name, value in named.items() if value is not None}
        # By names, not by <=, which torch.compile of PyTorch 2.10 does not know of such sets.
        fits = self._required.issubset(given) and self._known.issuperset(given)
        if len(named) < len(args) + len(kwargs) or not fits:
            raise TypeError(
                f"{self.name} takes ({', '.join(self._parameters)}), of which {', '.join(sorted(self._required))} are "
                f"required; got {len(args)} by position and {', '.join(kwargs) or 'none'} by name"
            )
        return given

    def column(self, name: str, t: Tensor, x: Tensor) -> None:
        """Raises ValueError unless `t`, which is written to, is one value a sample of `x` in the compute type."""
        if t.shape != x.shape[:1] or t.dtype != wide_type(x) or t.device != x.device:
            raise ValueError(
                f"{self.name}: {name} must be a {wide_type(x)} tensor of shape ({x.shape[0]},) on {x.device}, "
                f"got {t.dtype} of shape {tuple(t.shape)} on {t.device}"
            )

    def like(self, name: str, t: Tensor, shape: tuple[int, ...], dtype: torch.dtype, x: Tensor) -> None:
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
    dtype = wide_type(x)
    if not isinstance(value, Tensor):
        return torch.full((1,), value, dtype=dtype, device=x.device).expand(x.shape[0])
    if value.shape == x.shape[:1] and value.dtype == dtype and value.device == x.device:
        return value.detach()
    if value.numel() != 1 and value.shape != x.shape[:1]:
        raise ValueError(
            f"{op}: {name} must be a number or one value a sample, ({x.shape[0]},); got {tuple(value.shape)}. One a "
            "channel or feature is for fastadv.threats.ThreatModel(shares=...)"
        )
    return value.detach().to(x.device, dtype).reshape(-1).expand(x.shape[0])


def op(
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
