"""The device that tests run on beside the CPU: a GPU, or, where there is none, ``far``.

``far`` keeps its tensors in the CPU's memory and computes there. What a GPU refuses, it refuses: one operation on
tensors of two devices. What makes a program wait for a GPU can be refused, too: values that the host reads, shapes that
depend on values, copies between the devices. So tests written for CUDA run everywhere, all but CUDA's own kernels.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

aten = torch.ops.aten
NAME = "cuda" if torch.cuda.is_available() else "far"


RNNS = tuple(getattr(torch._VF, name) for name in ("lstm", "gru", "rnn_tanh", "rnn_relu"))
WAITS = (
    aten._local_scalar_dense,
    aten._unique2,
    aten.bincount,
    aten.equal,
    aten.masked_select,
    aten.nonzero,
)
"""What gives the host a value, or has a shape that depends on values."""
_waiting_is_refused = False  # also in the threads of backward passes


@contextmanager
def device() -> Iterator[torch.device]:
    """The device, which can be used within it."""
    if NAME == "cuda":
        yield torch.device("cuda", torch.cuda.current_device())
    else:
        register()
        with _FarMode(), _Whole():
            yield torch.device("far", 0)


@cache
def register() -> None:
    class Hook(torch._C._acc.PrivateUse1Hooks):
        is_available = _Module.is_available

        def has_primary_context(self, device: int) -> bool:
            return True

        def is_built(self) -> bool:
            return True

    backend_registration._setup_privateuseone_for_python_backend("far", _Module(), Hook())


class _Module:
    """What PyTorch asks of ``torch.far``: outside `device` there is none. Its generator is the CPU's."""

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return _FarMode.entered > 0

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return self.is_available()

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        pass

    def get_rng_state(self, device: object = None) -> Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: Tensor, device: object = None) -> None:
        torch.set_rng_state(state)


@contextmanager
def waiting_refused() -> Iterator[None]:
    """Within it, a RuntimeError is raised by what waits for the device."""
    global _waiting_is_refused
    try:
        if NAME == "cuda":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # PyTorch does not see all that waits, it says
                torch.cuda.set_sync_debug_mode("error")
        _waiting_is_refused = True
        yield
    finally:
        _waiting_is_refused = False
        if NAME == "cuda":
            torch.cuda.set_sync_debug_mode("default")


class Far(Tensor):
    """A tensor on ``far``. Its values are those of `near`, on the CPU."""

    near: Tensor

    @staticmethod
    def __new__(cls, near: Tensor) -> "Far":
        how = {"dtype": near.dtype, "strides": near.stride(), "storage_offset": near.storage_offset()}
        far = Tensor._make_wrapper_subclass(cls, near.shape, **how, device="far:0")
        far.near = near
        return far

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        copied = Far(self.near.clone()).requires_grad_(self.requires_grad)
        memo[id(self)] = copied
        return torch.nn.Parameter(copied, self.requires_grad) if isinstance(self, torch.nn.Parameter) else copied

    def __format__(self, spec: str) -> str:
        return format(self.near, spec)

    def __repr__(self) -> str:
        return f"far {self.near}"

    def data_ptr(self) -> int:
        return self.near.data_ptr()

    def numpy(self, *, force: bool = False) -> Any:
        if not force:
            raise TypeError("can't convert a tensor on far to numpy: use Tensor.cpu() first")
        _wait("numpy")
        return self.near.numpy(force=True)

    def tolist(self) -> Any:
        _wait("tolist")
        return self.near.tolist()


class _FarMode(TorchDispatchMode):
    """Within it, tensors can be made on ``far``."""

    entered = 0

    def __enter__(self) -> "_FarMode":
        _FarMode.entered += 1
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        _FarMode.entered -= 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Whole(TorchFunctionMode):
    """Functions that come to no operation of their own, or to none that the CPU has.

    Tensors of Python's numbers are made on the CPU and copied. Data that are replaced keep their values on the CPU.
    RNNs are computed on copies; as in cuDNN, one that is not in train mode has no gradient.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor) and _is_far(kwargs.get("device")):
            return func(*args, **kwargs | {"device": "cpu"}).to(kwargs["device"])
        if func is Tensor.new_tensor and isinstance(args[0], Far):
            how = {"dtype": args[0].dtype, **kwargs, "device": "cpu"}
            return torch.tensor(*args[1:], **how).to(kwargs.get("device", args[0].device))
        if func == Tensor.data.__set__ and isinstance(args[0], Far):
            args[0].near = args[1].near
        if func in RNNS and isinstance(args[0], Far):
            *_, training, _, _ = args
            if args[0].requires_grad and not training:
                raise RuntimeError("cudnn RNN backward can only be called in training mode")
            near = tree_map(lambda each: each.cpu() if isinstance(each, Far) else each, args)
            return tree_map(lambda each: each.to(args[0].device), func(*near))
        return func(*args, **kwargs)


def _is_far(where: Any) -> bool:
    return where is not None and torch.device(where).type == "far"


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """`func` on the CPU, of tensors on ``far`` or for new ones there."""
    given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
    far, near = ([each for each in given if isinstance(each, Far) == is_far] for is_far in (True, False))
    to = kwargs.get("device")
    if not far and not _is_far(to):
        return func(*args, **kwargs)
    copies = func.overloadpacket is aten.copy_
    if far and not copies and any(each.dim() for each in near):
        raise RuntimeError(f"{func}: expected all tensors to be on the same device, but found far:0 and cpu")
    moves = (func.overloadpacket is aten._to_copy and to is not None and _is_far(to) != bool(far)) or (copies and near)
    if moves or func.overloadpacket in WAITS or _asks_for_places(func.overloadpacket, args):
        _wait(str(func))
    if _is_far(to):
        kwargs = kwargs | {"device": torch.device("cpu")}
    found = func(*tree_map(_near, args), **tree_map(_near, kwargs))
    if to is not None and not _is_far(to):
        return found
    own = {id(each.near): each for each in far}  # what is written to comes back itself
    return tree_map(lambda value: own[id(value)] if id(value) in own else _far(value), found)


def _far(value: Any) -> Any:
    return Far(value) if isinstance(value, Tensor) else value


def _near(value: Any) -> Any:
    return value.near if isinstance(value, Far) else value


def _asks_for_places(packet: Any, args: Any) -> bool:
    """Whether an index is a mask, whose places are looked for first; a single number is filled in without that."""
    if packet not in (aten.index, aten.index_put, aten.index_put_):
        return False
    masks = any(index is not None and index.dtype == torch.bool for index in args[1])
    return masks and (packet is aten.index or args[2].numel() > 1)


def _wait(what: str) -> None:
    if _waiting_is_refused:
        raise RuntimeError(f"{what} waits for the device")
