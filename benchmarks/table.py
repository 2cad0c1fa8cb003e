"""The tables of ratios of a run of the benchmarks: `python -m benchmarks.table benchmark.json`."""

import json
import math
import sys
from pathlib import Path

SIDES = ("eager", "compile", "usual", "copy")
PEERS = (
    "bound",
    "tuned",
    "tuned, bf16",
    "graphs",
    "as published",
    "torchattacks",
    "foolbox",
    "adv-lib",
    "ART",
    "auto-attack",
)


def of_run(run: dict) -> str:
    """Markdown: where it was measured, and a table for ops and one for attacks if the run has any."""
    machine = run["machine_info"]
    place = machine.get("gpu") or f"{machine['cpu']['brand_raw']}, {machine['threads']} thread(s)"
    first = f"{place}; torch {machine['torch']}, fastadv {machine['fastadv']}, {run['datetime'][:10]}"
    infos = [one["extra_info"] for one in run["benchmarks"]]
    tables = [of_ops(run)] if any("case" in info for info in infos) else []
    tables += [of_attacks(run)] if any("attack" in info for info in infos) else []
    tables += [of_training(run)] if any("training" in info for info in infos) else []
    return "\n\n".join([first, *tables])


def of_ops(run: dict) -> str:
    """How many times as long as the fused op each other side takes, by the medians."""
    lines = [
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


def of_attacks(run: dict) -> str:
    """How many times as long as fastadv's attack each other side takes; and what each did and found."""
    infos = [one["extra_info"] for one in run["benchmarks"] if "attack" in one["extra_info"]]
    columns = [peer for peer in PEERS if any("seconds" in info["sides"].get(peer, {}) for info in infos)]
    lines = [
        "fastadv in ms, the others as multiples of it. In brackets: passes forward + backward, a sample; accuracy left",
        "of 100%; median norm of the perturbations that succeed; the most memory that tensors took, in MB. Images of",
        f"{infos[0]['data']}.",
        "",
        f"| attack | network | samples | fastadv, ms | {' | '.join(columns)} |",
        f"| --- | --- | --: | --: {'| --: ' * len(columns)}|",
    ]
    for info in infos:
        sides = info["sides"]
        cells = [f"{sides['fastadv']['seconds'] * 1e3:.0f} {_found(sides['fastadv'])}"]
        for side in (sides.get(peer, {}) for peer in columns):
            ratio = side["seconds"] / sides["fastadv"]["seconds"] if "seconds" in side else math.nan
            cells.append(f"{ratio:.2f} {_found(side)}" if "seconds" in side else "")
        lines.append(f"| {info['attack']} | {info['network']} | {info['samples']} | {' | '.join(cells)} |")
    skipped = {
        f"{peer}: {side['skipped']}" for info in infos for peer, side in info["sides"].items() if "skipped" in side
    }
    return "\n".join([*lines, *(f"\nskipped: {reason}" for reason in sorted(skipped))])


def _found(side: dict) -> str:
    found = [f"{side['accuracy']:.1%}", f"{side['norm']:.3f}"] if "norm" in side else []
    passes = f"{side['forwards']:.0f}+{side['gradients']:.0f}"
    return f"({'; '.join([passes, *found, *_peak(side)])})"


def _peak(side: dict) -> list[str]:
    return [f"{side['peak']:.0f}"] if "peak" in side else []


def of_training(run: dict) -> str:
    """How many times as long as fastadv's epoch each other side's takes."""
    infos = [one["extra_info"] for one in run["benchmarks"] if "training" in one["extra_info"]]
    columns = list(dict.fromkeys(side for info in infos for side in info["sides"] if side != "fastadv"))
    lines = [
        "fastadv in images a second, the others' times as multiples of its. In brackets: passes forward + backward of",
        f"an image; the most memory that tensors took, in MB. Images of {infos[0]['data']}.",
        "",
        f"| training | network | images | fastadv | {' | '.join(columns)} |",
        f"| --- | --- | --: | --: {'| --: ' * len(columns)}|",
    ]
    for info in infos:
        sides = info["sides"]
        own = sides["fastadv"]["seconds"]
        cells = [f"{info['images'] / own:.0f} ({_passes(sides['fastadv'])})"]
        for side in (sides.get(column, {}) for column in columns):
            cells.append(f"{side['seconds'] / own:.2f} ({_passes(side)})" if "seconds" in side else "")
        lines.append(f"| {info['training']} | {info['network']} | {info['images']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _passes(side: dict) -> str:
    return "; ".join([f"{side['forwards']:.1f}+{side['gradients']:.1f}", *_peak(side)])


if __name__ == "__main__":
    print(of_run(json.loads(Path(sys.argv[1]).read_text())))
