"""fastadv.keep_freed_memory."""

import platform
import subprocess
import sys

import pytest

from fastadv import __main__ as command_line
from fastadv import memory

FAULTS = """
import resource, sys, torch, fastadv
if "keep" in sys.argv:
    assert fastadv.keep_freed_memory()
torch.ones(1 << 24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(1 << 24)  # 64 MB
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.thorough
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_pages_are_made_once() -> None:
    def faults(*flags: str) -> int:
        return int(subprocess.run([sys.executable, "-c", FAULTS, *flags], check=True, capture_output=True).stdout)

    assert faults("keep") < faults() / 10


def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: pytest.fail("asked for"))
    assert not memory.keep_freed_memory()


def test_every_command_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(command_line, "keep_freed_memory", lambda: asked.append(True))
    assert command_line.main(["info"]) == 0
    assert asked == [True]
