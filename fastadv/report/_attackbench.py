"""AttackBench's rankings, as JSON and as a page in Markdown."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .._version import __version__
from ..evaluation import Bench, Found, optimality, pointwise_best
from ..runs import write_text

NORM_NAMES = {"linf": "L-infinity", "l2": "L2", "l1": "L1", "l0": "L0"}


def write_bench(bench: Bench, environment: Mapping[str, Any], path: Path) -> Path:
    """All that was measured, every sample's distance included, as JSON at `path`, which is returned.

    A distance that is null was not found.
    """
    whole = {
        "fastadv": __version__,
        "environment": dict(environment),
        "data": bench.data,
        "samples": bench.samples,
        "queries": bench.queries,
        "missing": dict(bench.missing),
        "failed": [each._asdict() for each in bench.failed],
        "norms": {
            norm: {
                "global": [
                    {"library": each.library, "attack": each.attack, "optimality": each.optimality}
                    for each in bench.standings(norm)
                ],
                "models": {model: _model(found) for model, found in models.items()},
            }
            for norm, models in bench.found.items()
        },
    }
    write_text(path, json.dumps(whole, indent=1) + "\n")
    return path


def _model(found: Mapping[tuple[str, str], Found]) -> list[dict[str, Any]]:
    best = pointwise_best(list(found.values())) if found else None
    return [
        {
            "library": library,
            "attack": attack,
            "optimality": optimality(each.distances, best),
            "found": float(each.distances.isfinite().double().mean()),
            "forwards": float(each.forwards.double().mean()),
            "backwards": float(each.backwards.double().mean()),
            "seconds": each.seconds,
            "distances": [value if math.isfinite(value) else None for value in each.distances.tolist()],
        }
        for (library, attack), each in found.items()
    ]


def bench_page(bench: Bench, environment: Mapping[str, Any], command: str) -> str:
    """The rankings as a page in Markdown; `command` is what measures them again."""
    return "\n".join(_lines(bench, environment, command)) + "\n"


def _lines(bench: Bench, environment: Mapping[str, Any], command: str) -> Iterator[str]:
    yield "# Attacks ranked by AttackBench's protocol"
    yield ""
    yield (
        f"{bench.samples} samples of {bench.data}, {bench.queries} queries a sample, forward and backward passes "
        "together. Optimality compares the curve of robust accuracy over the size of perturbations with the pointwise "
        "best of all attacks listed: 1 is that, 0 an attack that finds nothing. Curves are integrated exactly."
    )
    yield ""
    versions = f"fastadv {environment['fastadv']} and PyTorch {environment['torch']}"
    yield f"Measured with {versions} on {environment['devices'][-1]} by"
    yield ""
    yield "```bash"
    yield command
    yield "```"
    for norm, models in bench.found.items():
        yield ""
        yield f"## {NORM_NAMES[norm]}"
        yield ""
        names = list(models)
        ranked = bench.standings(norm)
        if not ranked:
            yield "No attack ran on all models."
            continue
        heads = ["library", "attack", "global", *names, "found, %", "queries", "s"]
        yield "| " + " | ".join(heads) + " |"
        yield "|" + " --- |" * 2 + " ---: |" * (len(heads) - 2)
        for each in ranked:
            parts = [models[name][each.library, each.attack] for name in names]
            share = sum(float(part.distances.isfinite().double().mean()) for part in parts) / len(parts)
            queries = sum(float((part.forwards + part.backwards).double().mean()) for part in parts) / len(parts)
            seconds = sum(part.seconds for part in parts)
            cells = [each.library, f"`{each.attack}`", f"{each.optimality:.3f}"]
            cells += [f"{each.local[name]:.3f}" for name in names]
            cells += [f"{100 * share:.0f}", f"{queries:,.0f}", f"{seconds:,.0f}"]
            yield "| " + " | ".join(cells) + " |"
    if bench.missing or bench.failed:
        yield ""
        yield "## Not measured"
        yield ""
        for name, reason in bench.missing.items():
            yield f"- {name}: {reason}"
        for each in bench.failed:
            yield f"- {each.library} `{each.attack}`, {NORM_NAMES[each.norm]}, on {each.model}: {each.reason}"
