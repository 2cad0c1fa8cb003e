"""What `crosscheck` found, as JSON and as rows of a table."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .._version import __version__
from ..evaluation import Crosscheck
from ..runs import write_text


class CrossRow(NamedTuple):
    """A `Difference` as it is printed: shares in percent, and in the last column whether it is more than chance."""

    attack: str
    library: str
    fooled: str
    theirs: str
    median: float | None
    their_median: float | None
    better: int
    worse: int
    left_budget: int
    p: float
    verdict: str


def crosscheck_rows(found: Crosscheck) -> list[CrossRow]:
    """A row for every comparison."""
    return [
        CrossRow(
            each.setting,
            each.library,
            f"{100 * each.fooled:.1f}",
            f"{100 * each.theirs_fooled:.1f}",
            each.median,
            each.theirs_median,
            each.better,
            each.worse,
            each.left,
            each.p,
            "differs" if each.differs else "",
        )
        for each in found.differences
    ]


def write_crosscheck(found: Crosscheck, environment: Mapping[str, Any], path: Path) -> Path:
    """All that was measured, every sample's distance included, as JSON at `path`, which is returned.

    A distance that is null: the attack did not succeed.
    """
    whole = {
        "fastadv": __version__,
        "environment": dict(environment),
        "data": found.data,
        "samples": found.samples,
        "missing": dict(found.missing),
        "failed": [dict(zip(("attack", "library", "reason"), each, strict=True)) for each in found.failed],
        "differences": [each._asdict() for each in found.differences],
        "sides": [
            {
                "attack": side.setting,
                "library": side.library,
                "norm": side.norm,
                "eps": side.eps,
                "forwards": float(side.forwards.double().mean()),
                "backwards": float(side.backwards.double().mean()),
                "outside": side.outside.nonzero().squeeze(1).tolist(),
                "distances": [value if math.isfinite(value) else None for value in side.distances.tolist()],
            }
            for side in found.sides
        ],
    }
    write_text(path, json.dumps(whole, indent=1) + "\n")
    return path
