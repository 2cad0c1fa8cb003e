"""How long other ways take for an epoch that fastadv trains in 1: `python -m benchmarks.chart JSON ... OUT.png`."""

import json
import sys
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

NAMES = {
    "by hand": "a loop by hand",
    "torchattacks": "torchattacks",
    "foolbox": "foolbox",
    "adv-lib": "adv-lib",
    "as published": "the published code's way",
    "bfloat16": "fastadv in bfloat16",
}


def draw(infos: list[dict], path: Path) -> None:
    """A bar a network, in groups of ways to train, in groups of trainings."""
    networks = list(dict.fromkeys(info["network"] for info in infos))
    figure = Figure(layout="constrained")
    axes = figure.subplots()
    ticks: dict[float, str] = {}
    heads: dict[float, str] = {}
    place = 0.0
    for training in dict.fromkeys(info["training"] for info in infos):
        found = {info["network"]: info["sides"] for info in infos if info["training"] == training}
        heads[place] = training
        place += 1
        for side in (side for side in NAMES if any("seconds" in sides.get(side, {}) for sides in found.values())):
            among = [name for name in networks if "seconds" in found.get(name, {}).get(side, {})]
            ticks[place + (len(among) - 1) / 2] = NAMES[side]
            for network in among:
                sides = found[network]
                ratio = sides[side]["seconds"] / sides["fastadv"]["seconds"]
                colour = f"C{networks.index(network)}"
                axes.barh(place, ratio - 1, left=1, color=colour, height=0.8)
                axes.annotate(f"{ratio:.2g}", (max(ratio, 1), place), (3, 0), textcoords="offset points", va="center")
                place += 1
        place += 0.5
    axes.set_yticks(list(ticks), list(ticks.values()))
    for at, head in heads.items():
        axes.annotate(head, (1, at), (4, 0), textcoords="offset points", weight="bold", va="center")
    axes.set(xscale="log", xlim=(0.5, 100), ylim=(place, -1), xlabel="time of an epoch, as a multiple of fastadv's")
    axes.xaxis.set_major_locator(FixedLocator([0.5, 1, 2, 5, 10, 20, 50]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.axvline(1, color="black", linewidth=1)
    for i, network in enumerate(networks):
        axes.barh(0, 0, color=f"C{i}", label=network)
    axes.legend(loc="lower right")
    figure.set_size_inches(7, 1 + 0.24 * place)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    *files, out = map(Path, sys.argv[1:])
    runs = [json.loads(file.read_text()) for file in files]
    draw([one["extra_info"] for run in runs for one in run["benchmarks"] if "training" in one["extra_info"]], out)
