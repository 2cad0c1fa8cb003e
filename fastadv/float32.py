"""How GPUs compute float32: as float32, or rounded to TensorFloat32, with 10 bits after the point instead of 23."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

import torch

_PLACES = {
    "matrix products": torch.backends.cuda.matmul,
    "convolutions": torch.backends.cudnn.conv,
    "RNNs": torch.backends.cudnn.rnn,
}


def float32_precision() -> dict[str, str]:
    """What PyTorch is set to compute float32 in on GPUs, ``ieee`` or ``tf32``."""
    found = {name: place.fp32_precision for name, place in _PLACES.items()}
    return {name: "ieee" if precision == "none" else precision for name, precision in found.items()}


class _Exactly:
    """The settings are the whole process's: whoever enters first changes them, and the last to leave puts them back."""

    def __init__(self) -> None:
        self.lock, self.count = threading.Lock(), 0
        self.put_back: Callable[[], None] = lambda: None

    def __enter__(self) -> None:
        with self.lock:
            if self.count == 0:
                self.put_back = _set_exactly()
            self.count += 1

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.count -= 1
            if self.count == 0:
                self.put_back()


_exactly = _Exactly()


@contextmanager
def exact_float32() -> Iterator[None]:
    """Within it, no thread has float32 rounded to TensorFloat32; afterwards PyTorch is set as it was before."""
    with _exactly:
        yield


def _set_exactly() -> Callable[[], None]:
    """Allows no TensorFloat32; returns what puts back what was set.

    PyTorch has an older and a newer way to set it, and raises an error where the older one is read while the two
    contradict each other: they are kept together, unless they contradict each other already.
    """
    places = (*_PLACES.values(), torch.backends.mkldnn.matmul)
    precisions = [place.fp32_precision for place in places]
    older: list[Callable[[], None]] = []
    with suppress(RuntimeError):
        older.append(partial(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision()))
        torch.set_float32_matmul_precision("highest")
    with suppress(RuntimeError):
        older.append(partial(setattr, torch.backends.cudnn, "allow_tf32", torch.backends.cudnn.allow_tf32))
        torch.backends.cudnn.allow_tf32 = False
    for place in _PLACES.values():
        place.fp32_precision = "ieee"

    def put_back() -> None:
        for put in older:
            put()
        for place, precision in zip(places, precisions, strict=True):
            place.fp32_precision = precision

    return put_back
