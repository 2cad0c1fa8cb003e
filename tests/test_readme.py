"""Every Python block of the README runs as printed."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


@pytest.mark.parametrize("code", BLOCKS, ids=range(len(BLOCKS)))
def test_block(code: str) -> None:
    exec(compile(code, str(README), "exec"), {})


def test_there_are_blocks() -> None:
    assert len(BLOCKS) == 7
