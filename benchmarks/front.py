"""The figure and the tables of speed on the front pages, from measured files: `python -m benchmarks.front`."""

import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

RESULTS = Path(__file__).parent / "results"
FIGURE = RESULTS / "front.png"
LIBRARIES = ("torchattacks", "foolbox", "adv-lib", "ART", "auto-attack")
NETWORKS = {"lenet5": "LeNet-5", "lenet5, robust": "LeNet-5, robust", "small-cnn": "small CNN", "resnet18": "ResNet-18"}

ATTACKS = {
    "PGD-10": "PGD, 10 steps",
    "DeepFool-10": "DeepFool, 10 steps",
    "C&W 5x100": "C&W L2, 5 x 100 steps",
    "AutoAttack": "AutoAttack",
    "PGD-10, bf16": "PGD, 10 steps, bfloat16",
    "PGD-10-0": "PGD-K-tau of FAT",
    "EPGD-20-10": "EPGD of SMD",
    "APGD-CE": "APGD-CE",
    "APGD-T": "APGD-T",
    "Square": "Square",
}
PASSES, EARLIER, FIRST = "2026-11-22-attacks-passes", "2026-11-22-attacks", "2026-11-21-attacks"
MEASURED = [
    ("PGD-10", "lenet5", PASSES),
    ("PGD-10", "small-cnn", PASSES),
    ("PGD-10", "resnet18", EARLIER),
    ("DeepFool-10", "lenet5", PASSES),
    ("DeepFool-10", "small-cnn", PASSES),
    ("DeepFool-10", "resnet18", EARLIER),
    ("C&W 5x100", "lenet5", FIRST),
    ("C&W 5x100", "small-cnn", FIRST),
    ("AutoAttack", "lenet5, robust", "2026-11-30-attacks-autoattack"),
]
"""Attack, network and the newest file that has both."""
OWN = [
    *(("PGD-10, bf16", network, PASSES) for network in ("lenet5", "small-cnn")),
    ("PGD-10, bf16", "resnet18", EARLIER),
    *(("PGD-10-0", network, PASSES) for network in ("lenet5", "small-cnn")),
    ("PGD-10-0", "resnet18", EARLIER),
    *(("EPGD-20-10", network, PASSES) for network in ("lenet5", "small-cnn")),
    ("EPGD-20-10", "resnet18", EARLIER),
    *(("APGD-CE", network, "2026-11-21-attacks-again") for network in ("lenet5", "lenet5, robust", "small-cnn")),
    ("APGD-T", "lenet5, robust", "2026-11-21-attacks-again"),
    ("Square", "lenet5, robust", FIRST),
]
"""The same, of attacks that are shown on the page of speed only."""

CURVES = {"standard": "nt", "fgsm": "fgsm", "pgd": "pgd", "blind": "bat"}
LABELS = {"standard": "normal training"} | {name: f"trained by {name}" for name in ("fgsm", "pgd", "blind")}
BUDGETS = ("0.05", "0.1", "0.2")
RUN = "2026-11-30-blind-fashion-mnist-70-autoattack"


def seconds(attack: str, network: str, file: str, results: Path) -> dict[str, float]:
    """Those of every side that was timed."""
    for one in json.loads((results / f"{file}.json").read_text())["benchmarks"]:
        info = one["extra_info"]
        if (info.get("attack"), info.get("network")) == (attack, network):
            return {side: told["seconds"] for side, told in info["sides"].items() if "seconds" in told}
    raise LookupError(f"{file}: no {attack} on {network}")


def speed_block(
    results: Path, columns: Sequence[str] = LIBRARIES, rows: Sequence[tuple[str, str, str]] = MEASURED
) -> list[str]:
    """How many times as long as fastadv's tuned attack the others take; all but fastadv's own in float32."""
    lines = [f"| attack | network | {' | '.join(columns)} |", f"| --- | --- |{' --: |' * len(columns)}"]
    for attack, network, file in rows:
        name, _, kind = attack.partition(", ")
        found = seconds(name, network, file, results)
        own = found[f"tuned, {kind}" if kind else "tuned"]
        cells = [_times(found[side] / own) if side in found else "" for side in columns]
        lines.append(f"| {ATTACKS[attack]} | {NETWORKS[network]} | {' | '.join(cells)} |")
    return lines


def training_block(results: Path) -> list[str]:
    """How many times as long as fastadv's epoch the others take."""
    columns = ("by hand", "torchattacks", "foolbox", "adv-lib", "as published", "bfloat16")
    heads = [{"by hand": "plain loop", "bfloat16": "fastadv, bfloat16"}.get(column, column) for column in columns]
    lines = [f"| training | network | {' | '.join(heads)} |", f"| --- | --- |{' --: |' * len(columns)}"]
    for network in ("lenet5", "small-cnn", "resnet18"):
        for one in json.loads((results / f"2026-11-22-training-{network}.json").read_text())["benchmarks"]:
            info = one["extra_info"]
            sides = {side: told["seconds"] for side, told in info["sides"].items() if "seconds" in told}
            if {*columns} & {*sides}:
                cells = [_times(sides[side] / sides["fastadv"]) if side in sides else "" for side in columns]
                lines.append(f"| {info['training']} | {NETWORKS[info['network']]} | {' | '.join(cells)} |")
    return lines


def _times(ratio: float) -> str:
    return f"{ratio:.1f} x" if ratio < 9.95 else f"{ratio:.0f} x"


def shown(results: Path) -> dict[str, Any]:
    """What the figure shows: accuracies over budgets, AutoAttack's, and ratios of time."""
    curves, strongest = {}, {}
    for name, row in CURVES.items():
        figures = _figures(results / "reproduce" / RUN / f"blind-fashion-mnist-{row}" / "figures.csv")
        curves[name] = [figures["clean"], *(figures[f"pgd-true {budget}"] for budget in BUDGETS)]
        strongest[name] = figures["autoattack 0.1"]
    times = {}
    for attack in ("PGD-10", "DeepFool-10"):
        found = seconds(attack, "lenet5", PASSES, results)
        times[attack] = {side: found[side] / found["tuned"] for side in LIBRARIES if side in found}
    return {"accuracy": curves, "autoattack": strongest, "time": times}


def _figures(path: Path) -> dict[str, float]:
    with path.open(newline="") as file:
        return {row["figure"]: round(float(row["measured"]), 3) for row in csv.DictReader(file)}


def draw(results: Path, path: Path) -> None:
    """The figure, with what it shows as JSON in the file's description."""
    data = shown(results)
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.1])
    budgets = [0.0, *map(float, BUDGETS)]
    for i, (name, accuracies) in enumerate(data["accuracy"].items()):
        left.plot(budgets, accuracies, "o-", color=f"C{i}", label=LABELS[name])
        aside = 0.1 + 0.007  # the dots of PGD stay visible
        left.plot(aside, data["autoattack"][name], "x", color=f"C{i}", markersize=9, markeredgewidth=2)
    left.plot([], [], "x", color="gray", markersize=9, markeredgewidth=2, label="under AutoAttack at 0.1")
    left.set(xticks=budgets, xlabel="largest change of a pixel (PGD, 20 steps)", ylabel="accuracy, %", ylim=(-3, 100))
    left.set_title("Accuracy under attack, four ways to train", loc="left", fontsize=11)
    left.legend(fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2)

    place, ticks = 0.0, {}
    for i, (attack, times) in enumerate(data["time"].items()):
        right.annotate(ATTACKS[attack], (1, place), (4, 0), textcoords="offset points", weight="bold", va="center")
        for side, ratio in times.items():
            place += 1
            ticks[place] = side
            right.barh(place, ratio - 1, left=1, color=f"C{i}", height=0.8)
            right.annotate(_times(ratio), (ratio, place), (3, 0), textcoords="offset points", va="center")
        place += 1.5
    right.set_yticks(list(ticks), list(ticks))
    right.set_yticklabels(list(ticks.values()))
    right.set(xscale="log", xlim=(1, 400), ylim=(place - 0.7, -0.8), xlabel="time, fastadv = 1 (log scale)")
    right.xaxis.set_major_locator(FixedLocator([1, 2, 5, 10, 20, 50, 100]))
    right.xaxis.set_minor_locator(NullLocator())
    right.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    right.set_title("Attack time of other libraries, as a multiple of fastadv's", loc="left", fontsize=11)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110, metadata={"Description": json.dumps(data), "Software": None})


if __name__ == "__main__":
    draw(RESULTS, FIGURE)
    sys.stdout.write(f"written: {FIGURE}\n")
