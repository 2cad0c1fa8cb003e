"""The table of ratios of a run of benchmarks/test_ops.py: `python -m benchmarks.table benchmark.json`."""

import json
import sys
from pathlib import Path

SIDES = ("eager", "compile", "usual", "copy")


def of_ops(run: dict) -> str:
    """Markdown: how many times as long as the fused op each other side takes, by the medians."""
    machine = run["machine_info"]
    place = machine.get("gpu") or f"{machine['cpu']['brand_raw']}, {machine['threads']} thread(s)"
    lines = [
        f"{place}; torch {machine['torch']}, fastadv {machine['fastadv']}, {run['datetime'][:10]}",
        "",
        "| op | samples | fused, us | eager | torch.compile | usual form | copy of the bytes |",
        "| --- | --- | --: | --: | --: | --: | --: |",
    ]
    medians: dict[tuple[str, str], dict[str, float]] = {}
    for one in run["benchmarks"]:
        info = one["extra_info"]
        if "case" not in info:
            continue
        key = info["case"], "x".join(map(str, info["shape"]))
        medians.setdefault(key, {})[info["side"]] = one["stats"]["median"] / info.get("calls", 1)
    for (case, shape), times in medians.items():
        if "fused" in times:
            ratios = [f"{times[side] / times['fused']:.2f}" if side in times else "" for side in SIDES]
            lines.append(f"| `{case}` | {shape} | {times['fused'] * 1e6:.0f} | {' | '.join(ratios)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(of_ops(json.loads(Path(sys.argv[1]).read_text())))
