"""Tests of fastadv.ops: test_<op>.py has an op's case and what it means, test_table.py runs over the cases of all."""

import pytest

pytest.register_assert_rewrite(f"{__name__}.cases", f"{__name__}.table")
