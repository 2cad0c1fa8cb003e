"""The benchmarks of ops: the `CASES` of every op's file, which benchmarks/test_ops.py runs."""

from importlib import import_module

from fastadv.ops import OPS

from ._case import Case

CASES: list[Case] = [case for op in OPS for case in import_module(f".{op}", __name__).CASES]
