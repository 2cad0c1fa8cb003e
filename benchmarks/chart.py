"""How long other ways take for an epoch that fastadv trains in 1: `python -m benchmarks.chart JSON ... OUT.png`."""

import json
import sys
from pathlib import Path

from matplotlib.figure import Figure

NAMES = {
    "by hand": "loop by hand",
    "torchattacks": "torchattacks in a loop",
    "as published": "published code's way",
    "foolbox": "foolbox in a loop",
    "adv-lib": "adv-lib in a loop",
    "bfloat16": "fastadv, bfloat16",
    "passes alone": "passes alone",
}


def draw(infos: list[dict], path: Path) -> None:
    """A panel a training, in it a group of bars a network."""
    trainings = list(dict.fromkeys(info["training"] for info in infos))
    figure = Figure(
        figsize=(11, 1.2 + 0.26 * max(_bars(infos, training) for training in trainings)), layout="constrained"
    )
    for axes, training in zip(figure.subplots(1, len(trainings), squeeze=False)[0], trainings, strict=True):
        labels, values, colours = [], [], []
        for info in (info for info in infos if info["training"] == training):
            own = info["sides"]["fastadv"]["seconds"]
            for side, found in info["sides"].items():
                if side in NAMES and "seconds" in found:
                    labels.append(f"{info['network']}: {NAMES[side]}")
                    values.append(found["seconds"] / own)
                    colours.append("C0" if side in ("bfloat16", "passes alone") else "C1")
        axes.barh(labels, values, color=colours)
        axes.invert_yaxis()
        axes.set_xscale("log" if max(values) > 10 else "linear")
        axes.axvline(1, color="black", linewidth=1)
        axes.bar_label(axes.containers[0], fmt="%.2g", padding=2, fontsize="x-small")
        axes.tick_params(axis="y", labelsize="x-small")
        axes.set_title(training, fontsize="small")
        axes.margins(x=0.15)
    figure.supxlabel("time of an epoch as a multiple of fastadv's", fontsize="small")
    figure.savefig(path, dpi=120)


def _bars(infos: list[dict], training: str) -> int:
    return sum(side in NAMES for info in infos if info["training"] == training for side in info["sides"])


if __name__ == "__main__":
    *files, out = map(Path, sys.argv[1:])
    runs = [json.loads(file.read_text()) for file in files]
    draw([one["extra_info"] for run in runs for one in run["benchmarks"] if "training" in one["extra_info"]], out)
