"""What becomes of memory that was freed."""

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4  # of mallopt(3)


def keep_freed_memory() -> bool:
    """Asks the C library to keep freed memory for the next tensors, until the process ends; whether it does.

    glibc gives large blocks back to the system at once, and the next step has every page of them made anew, which took
    an eleventh to a quarter more time in PGD on ResNet-18. Results are the same bits. What the process has used once,
    others do not get back before it ends: so every command of ``fastadv`` asks for this, and importing the package
    does not. False, and nothing is changed, where the C library is another.
    """
    return _set({_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: 2**31 - 1})


def give_freed_memory_back() -> bool:
    """Asks the C library to give large blocks back to the system again; whether it does.

    Of an evaluation, a few numbers stay for every batch. Where they lie in what a batch left, the next one does not fit
    there any more: the memory of a process that keeps all grew by 11 MB with every batch of 64 images of 3x224x224.
    Commands ask for this where they read data that do not fit into memory.
    """
    return _set({_M_MMAP_MAX: 65536, _M_MMAP_THRESHOLD: 2**22, _M_TRIM_THRESHOLD: 2**22})


def _set(options: dict[int, int]) -> bool:
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(bool(mallopt(*option)) for option in options.items())
